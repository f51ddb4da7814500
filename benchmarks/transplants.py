#!/usr/bin/env python
"""Are lesions that were put into real slices of use to a segmenter? Few patients, and growing numbers of such images.

For each number of patients and each seed: so many patients are drawn; the starter models are adapted to them, unless
--adapt 0; lesions are put into slices of these patients that have none, and whole images are made. The same segmenter
is trained from the real slices alone (mirrored, shifted, brightened at random, as in all arms), and with the first 25,
100 ... made images as half of every batch, in the same number of steps. All are tested on all slices of all patients
that were not drawn. Models, images and segmenters are kept in --runs and found again.

  python benchmarks/transplants.py --runs DIR --out benchmarks/results/transplants-simulated
  python benchmarks/transplants.py --data-dir DIR --adapt 400 --runs DIR --out benchmarks/results/transplants-NAME"""

import argparse
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.lesions import label_lesions
from medgen.data.simulate import cohort_dir
from medgen.data.slices import MASK
from medgen.data.store import open_store
from medgen.data.synthetic import open_dataset
from medgen.diffusion.model import load_model
from medgen.diffusion.run import run_training
from medgen.evaluation.utility import LabelledSets, utility
from medgen.generation.generate import find_checkpoint, generate
from medgen.generation.transplant import open_patients
from medgen.metrics.intervals import mean_interval
from medgen.metrics.masks import EDGES
from medgen.metrics.segmenter import Labelled

SMALL = EDGES.index(10) + 1  # strata below 10 mm
KINDS = 'transplants', 'synthetic'
TRAINING = dict(strategy='rflow', model='demo', training='demo', compile='never', val_slices=64, sample_slices=8)


def some_patients(data: Path, n: int, seed: int, folder: Path) -> Path:
    "A data folder with n training patients, drawn by the seed."
    place = folder / f'patients-{n}-{seed}'
    names = sorted(p.name for p in (data / 'train').iterdir() if p.is_dir())
    for name in np.random.default_rng(seed).choice(names, n, replace=False):
        (place / 'train').mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (place / 'train' / name).symlink_to((data / 'train' / name).resolve())
    return place


def real_slices(store, images, without=()) -> Labelled:
    "All slices that show head, of all patients but some."
    rows = np.concatenate([store.select(split, 'nonempty') for split in store.summary().index])
    rows = rows[~np.isin(store.index.patient[rows].to_numpy().astype(str), list(without))]
    batch = store.get(rows, [*images, MASK])
    index = store.index.iloc[rows]
    x = np.concatenate([batch[name].numpy() for name in images], 1).astype(np.float16)
    mm = store.pixel_mm[index.patient].to_numpy()
    return Labelled(x, batch[MASK][:, 0].numpy().astype(np.uint8), index.patient.to_numpy(), mm)


def models_of(place: Path, seed: int, a) -> dict:
    "The models of masks and of images for some patients: the starters, or starters that were adapted to them."
    if not a.adapt:
        return dict(seg_model='starter-seg', image_model='starter-dual')
    found = {}
    for name, mode in (('seg_model', 'seg'), ('image_model', 'dual')):
        places = dict(data_dir=str(place), output_dir=str(a.runs / f'{place.name}-{mode}'), resume='auto')
        cfg = compose_config(**TRAINING, **places, mode=mode, seed=seed, init=f'starter-{mode}', epochs=8)
        store = open_store(cfg, progress=False)
        slices = len(store.select('train', 'tumour' if mode == 'seg' else 'nonempty'))
        cfg.training.epochs = max(2, round(a.adapt * cfg.training.batch_size / slices))
        cfg.training.val_interval = cfg.training.epochs
        found[name] = str(run_training(cfg, store).run_dir)
    return found


def made(folder: Path, models: dict, n: int, seed: int, **given) -> Labelled:
    "Generated images with their masks."
    places = dict(num_images=n, seed=seed, checkpoint='latest', output_dir=str(folder))
    generate(compose_config(job='generate', **models, **places, **given), progress=False)
    data = open_dataset(folder)
    x = data.load()
    groups = np.array([f'made {i}' for i in range(len(x))])
    return Labelled(x[:, :-1].astype(np.float16), x[:, -1].astype(np.uint8), groups, data.facts['pixel_mm'])


def numbers(u, arm: str, added: int) -> dict:
    "What an arm's segmenter finds; by size where lists."
    c = u.arms[arm].counts
    found, lesions = c.found.sum((0, 1)), c.lesions.sum(0)
    false = float(c.false.sum() / c.slices.sum())
    return dict(added=added, dice=u.number(arm).value, found=found.tolist(), lesions=lesions.tolist(), false=false)


def one(n: int, seed: int, data: Path, a) -> dict:
    "All arms for one draw of patients."
    place, cache = some_patients(data, n, seed, a.runs), compose_config().paths.cache_dir
    models = models_of(place, seed, a)
    model = load_model(find_checkpoint(models['image_model'], 'latest')[0])
    about, images = model.about, model.mode.images
    real = real_slices(open_patients(about, str(place), cache), images)
    held = real_slices(open_patients(about, str(data), cache), images, set(real.groups))
    given = dict(transplants=dict(transplant_into=str(place), transplant_split='all'), synthetic={})
    fakes = {k: made(a.runs / f'{k}-{n}-{seed}', models, max(a.doses), seed, **given[k]) for k in KINDS}
    found = {}
    for kind, fake in fakes.items():
        for dose in a.doses:
            some = fake.take(slice(0, dose))
            arms = ('1:1',) if found else ('real', '1:1')
            sets = LabelledSets(real, some, held, tuple(images))
            u = utility(sets, arms, [seed], a.steps, folder=a.runs / 'segmenters', progress=False)
            if 'real' in arms:
                found['real'] = numbers(u, 'real', 0)
            lesions = int(sum(label_lesions(mask).max() for mask in some.masks))
            found[f'{kind}, {dose}'] = numbers(u, '1:1', lesions)
    return found


def share(found: dict, strata=slice(None)) -> float:
    "Lesions found of some sizes."
    return sum(found['found'][strata]) / sum(found['lesions'][strata])


def table(results: dict) -> str:
    "A line for each number of patients and arm; changes against the real arm with intervals over the draws."
    rows, small = [], slice(0, SMALL)
    measures = dict(dice=lambda d: d['dice'], small=lambda d: share(d, small), found=share, false=lambda d: d['false'])
    for n in dict.fromkeys(n for n, _ in results):
        draws = [found for (m, _), found in results.items() if m == n]
        for arm in draws[0]:
            row = [n, arm, round(np.mean([d[arm]['added'] for d in draws]))]
            for measure in measures.values():
                values = np.array([measure(d[arm]) for d in draws])
                text = f'{values.mean():.3f}'
                if arm != 'real' and len(draws) > 1:
                    change = mean_interval(values - [measure(d['real']) for d in draws])
                    text += f' ({change.low:+.3f} to {change.high:+.3f})'
                row.append(text)
            rows.append(row)
    head = ['patients', 'images added', 'lesions added', 'Dice per patient', 'lesions below 10 mm found']
    return markdown_table([*head, 'all lesions found', 'false positives per slice'], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, help='folder of patients; without it a simulated cohort')
    parser.add_argument('--adapt', type=int, default=0, help='steps of adapting each starter model (%(default)s)')
    parser.add_argument('--patients', type=int, nargs='+', default=[5], help='(%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5], help='(%(default)s)')
    parser.add_argument('--doses', type=int, nargs='+', default=[25, 100, 200], help='images added (%(default)s)')
    parser.add_argument('--steps', type=int, default=600, help='of each segmenter (%(default)s)')
    parser.add_argument('--runs', type=Path, required=True, help='where models, images and segmenters are kept')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the numbers')
    a = parser.parse_args()
    data = a.data_dir or Path(
        cohort_dir(compose_config().paths.cache_dir, seed=11, n_train=20, n_val=1, n_test=24, progress=False)
    )
    results = {}
    for n in a.patients:
        for seed in a.seeds:
            results[n, seed] = one(n, seed, data, a)
            print(n, seed, results[n, seed], flush=True)
    print(text := table(results))
    if a.out:
        facts = dict(adapt=a.adapt, doses=a.doses, steps=a.steps, edges_mm=EDGES, cores=os.cpu_count())
        facts['versions'] = versions()
        facts['results'] = [dict(patients=n, seed=seed, arms=found) for (n, seed), found in results.items()]
        a.out.with_suffix('.md').write_text(text + '\n')
        a.out.with_suffix('.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    main()
