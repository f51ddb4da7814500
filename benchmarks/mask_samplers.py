#!/usr/bin/env python
"""Which sampler draws masks that are like patients'? Distances of number, size, shape and place of the lesions.

The model that comes with medgen draws masks with every sampler from several seeds; with --data-dir, models adapted to
those patients do, one training for each seed. They are held against the masks of held-out patients.

  python benchmarks/mask_samplers.py --runs DIR --out benchmarks/results/mask-samplers-simulated
  python benchmarks/mask_samplers.py --data-dir DIR --runs DIR --out benchmarks/results/mask-samplers-NAME"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.simulate import cohort_dir
from medgen.data.slices import MASK
from medgen.data.store import open_store
from medgen.data.synthetic import open_dataset
from medgen.diffusion.run import run_training
from medgen.generation.generate import generate
from medgen.metrics.intervals import mean_interval
from medgen.metrics.masks import MASK_MEASURES, describe_masks, mask_distance

SAMPLERS = {
    'dpm_solver, 25': ('dpm_solver', 25),
    'ancestral, 25': ('ancestral', 25),
    'ancestral, 50': ('ancestral', 50),
}
TRAINING = dict(mode='seg', strategy='rflow', model='demo', training='demo', compile='never', init='starter-seg')
MEASURES = [name for name in MASK_MEASURES if name != 'empty']  # empty masks are drawn again


def model_of(seed: int, store, a) -> str:
    "The starter, or a training that began with it."
    if not a.data_dir:
        return 'starter-seg'
    places = dict(data_dir=str(a.data_dir), output_dir=str(a.runs / f'seg-{seed}'), resume='auto')
    cfg = compose_config(**TRAINING, **places, seed=seed, epochs=8)
    cfg.training.epochs = max(1, round(a.steps * cfg.training.batch_size / len(store.select('train', 'tumour'))))
    cfg.training.val_interval = cfg.training.epochs
    return str(run_training(cfg, store).run_dir)


def drawn(model: str, sampler: str, seed: int, a):
    "Masks by a model."
    name, steps = SAMPLERS[sampler]
    folder = a.runs / f'masks-{name}-{steps}-{seed}'
    given = dict(seg_model=model, checkpoint='latest', sampler=name, num_steps=steps, seed=seed)
    generate(compose_config(job='generate', num_images=a.masks, output_dir=str(folder), **given), progress=False)
    data = open_dataset(folder)
    return describe_masks(data.load()[:, 0].astype(np.uint8), data.facts['pixel_mm'])


def table(found: dict, seeds: list[int], floor: dict) -> str:
    "Distances by sampler; changes against the first one with intervals over the seeds."
    rows, first = [], next(iter(SAMPLERS))
    for sampler in SAMPLERS:
        row = [sampler]
        for name in MEASURES:
            values, before = [np.array([found[s, seed][name] for seed in seeds]) for s in (sampler, first)]
            text = f'{values.mean():.3g}'
            if sampler != first and len(seeds) > 1:
                change = mean_interval(values - before)
                text += f' ({change.low:+.2g} to {change.high:+.2g})'
            row.append(text)
        rows.append(row)
    rows.append(['other patients', *[f'{floor[name]:.3g}' for name in MEASURES]])
    return markdown_table(['distance in', *MEASURES], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, help='folder with train/ and val/; without it the simulated cohort')
    parser.add_argument('--steps', type=int, default=800, help='of each training (%(default)s)')
    parser.add_argument('--masks', type=int, default=200, help='of each seed and sampler (%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='(%(default)s)')
    parser.add_argument('--runs', type=Path, required=True, help='where models and masks are kept')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the numbers')
    a = parser.parse_args()
    data = a.data_dir or cohort_dir(compose_config().paths.cache_dir, 1, 520, 40, 60, progress=False)
    store = open_store(compose_config(mode='seg', model='demo', data_dir=str(data)), progress=False)
    real, other = [store.select(split, 'tumour') for split in ('val', 'train')]
    if not a.data_dir:
        real = np.concatenate([real, store.select('test', 'tumour')])
    other = other[np.linspace(0, len(other) - 1, a.masks).astype(int)]
    mm = float(store.pixel_mm.median())
    held, others = [
        describe_masks(store.get(rows, (MASK,))[MASK][:, 0].numpy().astype(np.uint8), mm) for rows in (real, other)
    ]
    floor, found = {name: mask_distance(name, held, others) for name in MEASURES}, {}
    for seed in a.seeds:
        model = model_of(seed, store, a)
        for sampler in SAMPLERS:
            fake = drawn(model, sampler, seed, a)
            found[sampler, seed] = {name: mask_distance(name, held, fake) for name in MEASURES}
            shown = {name: round(value, 4) for name, value in found[sampler, seed].items()}
            print(sampler, seed, shown, f'{len(fake.lesions) / a.masks:.2f} lesions a mask', flush=True)
    print(text := table(found, a.seeds, floor))
    if a.out:
        facts = dict(steps=a.steps, masks=a.masks, real=len(real), cores=os.cpu_count(), versions=versions())
        facts |= dict(floor=floor, found=[dict(sampler=s, seed=k, **f) for (s, k), f in found.items()])
        a.out.with_suffix('.md').write_text(text + '\n')
        a.out.with_suffix('.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    main()
