#!/usr/bin/env python
"""What beginning with a simulated model is worth on real MRI: from scratch against adapted, few patients and many.

For each number of patients and each seed two trainings, alike but for `init`; held-out loss is taken several times on
the way. How many of the steps from scratch the adapted one needs for the loss that scratch ends with is one result;
the others are how many images of the last weights, for masks of the held-out patients, lie outside the central 95 % of
these patients' slices, and how many are copies of the few that the model learnt from. Runs are kept and found again.

  python benchmarks/adapt.py --data-dir DIR --patients 10 56 --steps 400 --runs runs/adapt --out benchmarks/results"""

import argparse
import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.files import write_atomic
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.run import run_training
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.sides import open_sets
from medgen.generation.generate import generate
from medgen.metrics.intervals import mean_interval

ARMS = {'from scratch': None, 'adapted': 'starter-dual'}
TRAINING = dict(mode='dual', strategy='rflow', model='demo', training='demo', compile='never')
VALIDATION = dict(val_slices=256, sample_slices=16, sample_steps=8)  # the loss is what is read here


def first_patients(data_dir: Path, n: int, folder: Path) -> Path:
    "A data folder with the first n training patients, and all that are held out."
    place = folder / f'data-{n}'
    for split, most in (('train', n), ('val', None)):
        (place / split).mkdir(parents=True, exist_ok=True)
        for patient in sorted((data_dir / split).iterdir())[:most]:
            link = place / split / patient.name
            with suppress(FileExistsError):
                link.symlink_to(patient.resolve())
    return place


def curve(data_dir: Path, steps: int, seed: int, init: str | None, runs: Path) -> tuple[list, Path]:
    "Held-out loss by step of one run, and its folder; it is resumed or read where it exists."
    places = dict(data_dir=str(data_dir), output_dir=str(runs), resume='auto')
    cfg = compose_config(**TRAINING, **VALIDATION, **places, seed=seed, init=init, epochs=8)
    store = open_store(cfg, progress=False)
    per_epoch = len(store.select('train', 'nonempty')) // cfg.training.batch_size
    cfg.training.epochs = max(8, round(steps / per_epoch))
    cfg.training.val_interval = max(1, cfg.training.epochs // 8)
    trainer = run_training(cfg, store)
    return [(r['step'], r['val_mse']) for r in trainer.history if 'val_mse' in r], trainer.run_dir


MEASURED = 'implausible images', 'copies of training images'


def quality(run: Path, data_dir: Path, n: int, folder: Path) -> list[float]:
    "How many per cent of the images are implausible, and are copies; kept beside them."
    kept = folder / 'shares.json'
    if kept.exists():
        return json.loads(kept.read_text())
    masks = dict(mask_dir=str(data_dir), mask_split='val')
    models = dict(image_model=str(run), checkpoint='latest', output_dir=str(folder / 'set'))
    generate(compose_config(job='generate', num_images=n, **masks, **models), progress=False)
    sides = dict(synthetic_dir=str(folder / 'set'), real_dir=str(data_dir), output_dir=str(folder / 'evaluation'))
    cfg = compose_config(job='evaluate', metrics=['plausibility', 'memorization'], power=False, **sides)
    rows = {r.measure: r for r in evaluate(cfg, open_sets(cfg, progress=False), progress=False).rows}
    shares = [rows[measure].synthetic.value for measure in MEASURED]
    write_atomic(kept, json.dumps(shares))
    return shares


def steps_needed(points: list[tuple[int, float]], loss: float) -> float:
    "The first step at which a curve is at a loss, between its points; infinity where it never is."
    for (s, a), (t, b) in zip([(0, np.inf), *points], points):
        if b <= loss:
            return t if not np.isfinite(a) else s + (t - s) * (a - loss) / (a - b)
    return np.inf


def row(n: int, curves: dict, shares: dict, seeds: list[int]) -> list:
    "A line of the table: last losses, the share of the steps, and what the images are."
    last = {arm: np.array([curves[n, arm, seed][-1][1] for seed in seeds]) for arm in ARMS}
    needed = []
    for seed in seeds:
        steps, loss = curves[n, 'from scratch', seed][-1]
        needed.append(steps_needed(curves[n, 'adapted', seed], loss) / steps)
    change = mean_interval(last['adapted'] - last['from scratch'])
    means = [f'{values.mean():.4f}' for values in last.values()]
    interval = f'{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]'
    steps = curves[n, 'from scratch', seeds[0]][-1][0]
    by_seed = [
        ', '.join(f'{shares[n, arm, seed][k]:.0f}' for seed in seeds) for k in range(len(MEASURED)) for arm in ARMS
    ]
    return [n, steps, *means, interval, ', '.join(f'{100 * share:.0f} %' for share in needed), *by_seed]


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, required=True, help='folder with train/ and val/')
    parser.add_argument('--patients', type=int, nargs='+', default=[5, 10, 20, 56], help='(%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='(%(default)s)')
    parser.add_argument('--steps', type=int, default=400, help='of each training, about (%(default)s)')
    parser.add_argument('--images', type=int, default=64, help='of each trained model (%(default)s)')
    parser.add_argument('--runs', type=Path, default=Path('runs/adapt'), help='where run folders are kept')
    parser.add_argument('--name', default='adapt', help='of the results (%(default)s)')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'), help='(%(default)s)')
    a = parser.parse_args()
    curves, shares = {}, {}
    for seed in a.seeds:
        for n in a.patients:
            data = first_patients(a.data_dir, n, a.runs)
            for arm, init in ARMS.items():
                place = a.runs / f'{n}-{arm}-{seed}'
                curves[n, arm, seed], run = curve(data, a.steps, seed, init, place)
                shares[n, arm, seed] = quality(run, data, a.images, a.runs / f'{n}-{arm}-{seed}-images')
                last = curves[n, arm, seed][-1]
                print(f'{n} patients, {arm}, seed {seed}:', last, shares[n, arm, seed], flush=True)
    titles = ['patients', 'steps', *(f'held-out loss {arm}' for arm in ARMS), 'difference']
    titles += ['steps needed for the loss of scratch, by seed']
    titles += [f'{measure} {arm}, %, by seed' for measure in MEASURED for arm in ARMS]
    table = markdown_table(titles, [row(n, curves, shares, a.seeds) for n in a.patients])
    print(table)
    facts = dict(versions=versions(), seeds=a.seeds, arms=ARMS, training=TRAINING, validation=VALIDATION)
    facts |= dict(images=a.images, measured=MEASURED)
    facts['curves'] = {f'{n}, {arm}, {seed}': points for (n, arm, seed), points in curves.items()}
    facts['shares'] = {f'{n}, {arm}, {seed}': found for (n, arm, seed), found in shares.items()}
    a.out.mkdir(parents=True, exist_ok=True)
    write_atomic(a.out / f'{a.name}.json', json.dumps(facts, indent=1))
    write_atomic(a.out / f'{a.name}.md', table + '\n')


if __name__ == '__main__':
    main()
