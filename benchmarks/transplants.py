#!/usr/bin/env python
"""Are lesions that were put into real slices of use to a segmenter? Few patients, with and without transplants.

For each number of patients and each seed: so many training patients are drawn, lesions are put into their own slices
that have none, and the same segmenter is trained from the real slices alone (mirrored, shifted, brightened at random,
as all are) and with transplants, or with wholly synthetic images, as half of every batch; with the same number of
steps. All are tested on all slices of the same held-out patients. Images are kept in --runs and found again.

  python benchmarks/transplants.py --runs DIR --out benchmarks/results/transplants-simulated
  python benchmarks/transplants.py --data-dir DIR --split val --models SEG DUAL --runs DIR --out NAME"""

import argparse
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.simulate import cohort_dir
from medgen.data.slices import MASK
from medgen.data.synthetic import open_dataset
from medgen.diffusion.model import load_model
from medgen.evaluation.utility import LabelledSets, utility
from medgen.generation.generate import find_checkpoint, generate
from medgen.generation.transplant import open_patients
from medgen.metrics.intervals import mean_interval
from medgen.metrics.masks import EDGES
from medgen.metrics.segmenter import Labelled

SMALL = EDGES.index(10) + 1  # strata below 10 mm
ARMS = 'real', 'real + transplants', 'real + synthetic'


def some_patients(data: Path, n: int, seed: int, folder: Path) -> Path:
    "A data folder with n training patients, drawn by the seed."
    place = folder / f'patients-{n}-{seed}'
    names = sorted(p.name for p in (data / 'train').iterdir() if p.is_dir())
    for name in np.random.default_rng(seed).choice(names, n, replace=False):
        (place / 'train').mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (place / 'train' / name).symlink_to((data / 'train' / name).resolve())
    return place


def real_slices(store, splits, images) -> Labelled:
    "All slices that show head."
    rows = np.concatenate([store.select(split, 'nonempty') for split in splits])
    batch = store.get(rows, [*images, MASK])
    index = store.index.iloc[rows]
    x = np.concatenate([batch[name].numpy() for name in images], 1).astype(np.float16)
    mm = store.pixel_mm[index.patient].to_numpy()
    return Labelled(x, batch[MASK][:, 0].numpy().astype(np.uint8), index.patient.to_numpy(), mm)


def made(folder: Path, n: int, seed: int, a, **given) -> Labelled:
    "Generated images with their masks."
    models = dict(seg_model=a.models[0], image_model=a.models[1])
    generate(
        compose_config(job='generate', num_images=n, seed=seed, output_dir=str(folder), **models, **given),
        progress=False,
    )
    data = open_dataset(folder)
    x = data.load()
    groups = np.array([f'made {i}' for i in range(len(x))])
    return Labelled(x[:, :-1].astype(np.float16), x[:, -1].astype(np.uint8), groups, data.facts['pixel_mm'])


def numbers(u, arm: str) -> dict:
    "What an arm's segmenter finds."
    c = u.arms[arm].counts
    small = slice(0, SMALL)
    return dict(
        dice=u.number(arm).value,
        found=float(c.found.sum() / c.lesions.sum()),
        small=float(c.found[..., small].sum() / c.lesions[..., small].sum()),
        false=float(c.false.sum() / c.slices.sum()),
    )


def one(n: int, seed: int, held: Labelled, synthetic: Labelled, about, images, data: Path, a) -> dict:
    "All arms for one draw of patients."
    place = some_patients(data, n, seed, a.runs)
    store = open_patients(about, str(place), compose_config().paths.cache_dir)
    real = real_slices(store, ('train', 'val'), images)
    given = dict(transplant_into=str(place), transplant_split='all')
    transplants = made(a.runs / f'transplants-{n}-{seed}', a.images, seed, a, **given)
    found = {}
    for arm, fake in (('real + transplants', transplants), ('real + synthetic', synthetic)):
        arms = ('real', '1:1') if not found else ('1:1',)
        u = utility(LabelledSets(real, fake, held, tuple(images)), arms, [seed], a.steps, progress=False)
        if 'real' in arms:
            found['real'] = numbers(u, 'real')
        found[arm] = numbers(u, '1:1')
    return found


def table(results: dict) -> str:
    "A line for each number of patients and arm; changes against the real arm with intervals over the draws."
    rows = []
    for n in dict.fromkeys(n for n, _ in results):
        draws = [found for (m, _), found in results.items() if m == n]
        for arm in ARMS:
            row = [n, arm]
            for key in ('dice', 'small', 'found', 'false'):
                values = np.array([d[arm][key] for d in draws])
                text = f'{values.mean():.3f}'
                if arm != 'real' and len(draws) > 1:
                    change = mean_interval(values - [d['real'][key] for d in draws])
                    text += f' ({change.low:+.3f} to {change.high:+.3f})'
                row.append(text)
            rows.append(row)
    head = ['patients', 'trained on', 'Dice per patient', 'lesions below 10 mm found', 'all lesions found']
    return markdown_table([*head, 'false positives per slice'], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, help='folder of patients; without it a simulated cohort')
    parser.add_argument('--split', default='test', help='of the held-out patients (%(default)s)')
    parser.add_argument('--models', nargs=2, default=['starter-seg', 'starter-dual'], help='of masks and of images')
    parser.add_argument('--patients', type=int, nargs='+', default=[5, 10], help='(%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5], help='(%(default)s)')
    parser.add_argument('--images', type=int, default=200, help='transplants of a draw, synthetic images (%(default)s)')
    parser.add_argument('--steps', type=int, default=600, help='of each segmenter (%(default)s)')
    parser.add_argument('--runs', type=Path, required=True, help='where images are kept')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the numbers')
    a = parser.parse_args()
    data = a.data_dir or Path(
        cohort_dir(compose_config().paths.cache_dir, seed=11, n_train=20, n_val=1, n_test=24, progress=False)
    )
    model = load_model(find_checkpoint(a.models[1])[0])
    about, images = model.about, model.mode.images
    held = real_slices(open_patients(about, str(data), compose_config().paths.cache_dir), [a.split], images)
    synthetic, results = made(a.runs / 'synthetic', a.images, 0, a), {}
    for n in a.patients:
        for seed in a.seeds:
            results[n, seed] = one(n, seed, held, synthetic, about, images, data, a)
            print(n, seed, results[n, seed], flush=True)
    print(text := table(results))
    if a.out:
        facts = dict(images=a.images, steps=a.steps, held_out=repr(held), cores=os.cpu_count(), versions=versions())
        facts['results'] = [dict(patients=n, seed=seed, arms=found) for (n, seed), found in results.items()]
        a.out.with_suffix('.md').write_text(text + '\n')
        a.out.with_suffix('.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    main()
