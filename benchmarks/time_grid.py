#!/usr/bin/env python
"""Where along the diffusion should the evaluations of the network lie? Grids of times at equal numbers of evaluations.

The last evaluation returns the mean of all images that a little noise may hide: what is finer than that noise is lost.
Grids that are denser near the image lose less there, and spend less on the layout. Images for held-out masks by trained
models, several seeds; a classifier (medgen.metrics.two_sample) and the deviation from real slices judge them.

  python benchmarks/time_grid.py --data-dir DIR --models 'flow=runs/A/best:runs/B/best' 'DDPM=runs/C/best' --out NAME"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.model import load_model
from medgen.diffusion.sampling import image_noise, sample
from medgen.metrics.intervals import mean_interval
from medgen.metrics.plausibility import Plausibility, anatomies, typical
from medgen.metrics.two_sample import telling_features, two_sample

BENDS = 1, 2, 3  # times are T (i / n) ** bend; 1 is even


class Judge:
    "Real slices of held-out patients, and what they say of images for their masks."

    def __init__(self, overrides: list[str], mode, n: int):
        store = open_store(compose_config(overrides), progress=False)
        rows, train = [store.select(split, 'tumour') for split in ('val', 'train')]
        rows, train = _even(rows, n), _even(train, 512)
        self.batch = store.get(rows, [*mode.images, *mode.condition])
        self.condition = mode.prepare(self.batch, 'cpu').condition
        self.patients, self.positions = store.index.patient.to_numpy()[rows], store.positions[rows]
        self.real = _images(self.batch, mode)
        known = _images(store.get(train, mode.images), mode)
        self.judge = Plausibility(anatomies(known), store.positions[train])

    def numbers(self, images: np.ndarray) -> dict:
        "Told apart by a classifier, deviation and share implausible."
        deviation = self.judge.deviation(anatomies(images), self.positions)
        found = two_sample(telling_features(self.real), telling_features(images), self.patients, self.patients)
        share = 100 * float((deviation > self.judge.limit).mean())
        return dict(auc=found.auc.value, deviation=typical(deviation), implausible=share)


def _even(rows, n):
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]


def _images(batch, mode):
    return np.concatenate([batch[name].numpy() for name in mode.images], 1)


@torch.no_grad()
def judged(folder: str, a, bend: float, steps: int, seed: int, judges: dict) -> dict:
    "Numbers of the images of a model, drawn along one grid."
    model = load_model(folder)
    size = model.about['image_shape'][-1]
    if size not in judges:
        judges[size] = Judge([*a.overrides, f'image_size={size}'], model.mode, a.images)
    judge = judges[size]
    model.strategy.bend = bend
    noise = image_noise(range(len(judge.condition)), tuple(model.about['image_shape']), seed)
    how = dict(num_steps=steps, batch_size=20, sampler='dpm_solver', mean_image=model.about['mean_image'])
    x = sample(model.network, model.strategy, model.mode, noise, judge.condition, **how)
    return judge.numbers(model.mode.to_images(x).numpy())


def table(found: dict, models: list[str]) -> str:
    "A line for each model, number of evaluations and grid; changes against the even grid with intervals over runs."
    rows = []
    for (name, steps, bend), runs in found.items():
        row = [name, steps, bend]
        for key in runs[0]:
            values = np.array([r[key] for r in runs])
            text = f'{values.mean():.3g}'
            if bend != BENDS[0] and len(values) > 1:
                change = mean_interval(values - [r[key] for r in found[name, steps, BENDS[0]]])
                text += f' ({change.low:+.2g} to {change.high:+.2g})'
            row.append(text)
        rows.append(row)
    return markdown_table(['model', 'evaluations', 'bend', 'told apart, AUC', 'deviation', 'implausible, %'], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help='parameters of medgen-train that say which data')
    parser.add_argument('--models', nargs='+', required=True, help='NAME=CHECKPOINT:CHECKPOINT:... of one kind each')
    parser.add_argument('--steps', type=int, nargs='+', default=[15, 25], help='evaluations (%(default)s)')
    parser.add_argument('--images', type=int, default=100, help='for as many held-out masks (%(default)s)')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the table and its numbers')
    a = parser.parse_args()
    models = {name: folders.split(':') for name, _, folders in (m.partition('=') for m in a.models)}
    found, judges = {}, {}
    for name, folders in models.items():
        for steps in a.steps:
            for bend in BENDS:
                runs = [judged(f, a, bend, steps, seed, judges) for seed, f in enumerate(folders)]
                found[name, steps, bend] = runs
                print(name, steps, bend, runs, flush=True)
    print(text := table(found, list(models)))
    if a.out:
        a.out.with_suffix('.md').write_text(text + '\n')
        numbers = [dict(model=m, evaluations=s, bend=b, runs=runs) for (m, s, b), runs in found.items()]
        report = dict(images=a.images, versions=versions(), results=numbers)
        a.out.with_suffix('.json').write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
