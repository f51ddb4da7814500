#!/usr/bin/env python
"""One evaluation of many images, from end to end: seconds of each step, and the most memory that it took.

Slices of one simulated cohort stand for the synthetic set (a perfect generator), those of another are the real
ones, and training patients of this. Time and memory are what is measured; what is called worse is told, too.

  python benchmarks/large.py --images 15000 --out benchmarks/results --name evaluation-15000"""

import argparse
import json
import os
import resource
import tempfile
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.show import ProgressBar, clock, markdown_table
from medgen.data.images import real_set
from medgen.data.simulate import cohort_dir
from medgen.data.slices import Recipe
from medgen.data.store import SliceStore
from medgen.data.synthetic import Grid, nifti_bytes
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.sides import open_sets

NAMES = ['t1_pre', 't1_gd', 'seg']


def cohort(train: int, test: int, seed: int) -> str:
    "A simulated cohort."
    return str(cohort_dir(compose_config().paths.cache_dir, seed=seed, n_train=train, n_val=1, n_test=test))


def write_slices(data: str, n: int, size: int, folder: Path):
    "Slices of patients as the numbered files of some other program."
    store = SliceStore.open(data, Recipe(image_size=size), tuple(NAMES), compose_config().paths.cache_dir)
    images = real_set(store, 'train', False, 'synthetic', n)
    grid = Grid(size, images.pixel_mm)
    for i in ProgressBar(range(len(images)), 'slices as files'):
        channels = np.concatenate([images.load(name, [i])[0] for name in NAMES])
        (folder / f'{i:05d}.nii.gz').write_bytes(nifti_bytes(channels, grid, {}))


def run(a, folder: Path) -> dict:
    "What the evaluation took, and what it says."
    (folder / 'set').mkdir()
    write_slices(cohort(a.patients, 1, 31), a.images, a.image_size, folder / 'set')
    sides = dict(synthetic_dir=str(folder / 'set'), real_dir=cohort(100, a.patients, 32))
    more = dict(split='test', positive_only=False, features=a.features, max_images=a.images)
    places = dict(names=NAMES, output_dir=str(folder / 'evaluation'), seed=1)
    cfg = compose_config(job='evaluate', **sides, **more, **places)
    e = evaluate(cfg, open_sets(cfg))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    worse = [f'{r.measure}, {r.images}' for r in e.rows if r.reading.startswith('worse')]
    return dict(counts=e.sets.counts(), times=e.times, gib=most, rows=len(e.rows), worse=worse, notes=e.sets.notes)


def table(found: dict, a) -> str:
    "The steps, the longest first."
    steps = sorted(found['times'].items(), key=lambda step: -step[1])
    total = sum(found['times'].values())
    rows = [[step, clock(t), f'{100 * t / total:.0f} %'] for step, t in steps if t >= total / 200]
    about = (
        f'{found["counts"]}; {a.image_size} x {a.image_size} pixels, {len(NAMES) - 1} sequences and masks; features: '
        f'{", ".join(a.features)}. {clock(total)} in all on {os.cpu_count()} cores '
        f'(OMP_NUM_THREADS={os.environ.get("OMP_NUM_THREADS", "not set")}), at most {found["gib"]:.1f} GiB of memory. '
        f'{found["rows"]} numbers; called worse: {"; ".join(found["worse"]) or "none"}.{a.beside}'
    )
    return f'{about}\n\n{markdown_table(["step", "time", "share"], rows)}'


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=15_000, help='on each side (%(default)s)')
    parser.add_argument('--patients', type=int, default=450, help='that they are from, on each side (%(default)s)')
    parser.add_argument('--image-size', type=int, default=64, help='(%(default)s)')
    parser.add_argument('--features', nargs='+', default=['radiomics', 'alexnet'], help='(%(default)s)')
    parser.add_argument('--out', type=Path, help='OUT/NAME.md and OUT/NAME.json get the numbers')
    parser.add_argument('--beside', default='', help='what else the machine was doing, for the table')
    parser.add_argument('--name', default='evaluation-15000', help='(%(default)s)')
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as d:
        found = run(a, Path(d))
    print(text := table(found, a))
    if a.out:
        (a.out / f'{a.name}.md').write_text(text + '\n')
        (a.out / f'{a.name}.json').write_text(json.dumps(found | dict(versions=versions()), indent=1) + '\n')


if __name__ == '__main__':
    main()
