#!/usr/bin/env python
"""What makes images obey their masks: a loss that listens to lesions, or guidance by a mask that was sometimes hidden?

Runs of the training that differ in one of these alone, several seeds each. Samples for held-out masks are judged by
their coupling (medgen.metrics.coupling) and by how far they lie from real slices of their level.

  python benchmarks/obey_masks.py --seeds 1 2 3 mode=dual strategy=rflow model=demo training=demo epochs=4"""

import argparse
import json
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.modes import from_network
from medgen.diffusion.sampling import image_noise, predict, sample
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.coupling import coupling
from medgen.metrics.intervals import mean_interval
from medgen.metrics.plausibility import Plausibility, anatomies, typical

VARIANTS = {  # weight of the lesion's pixels in the loss, share of masks that are hidden
    'as it is': (1, 0),
    'lesion x 5': (5, 0),
    'lesion x 20': (20, 0),
    'hidden in 15 %': (1, 0.15),
}
GUIDANCE = {'hidden in 15 %': (1, 1.5, 2, 3)}


class Trainer(DiffusionTrainer):
    "A trainer whose loss counts pixels of the lesion more."

    weight = 1

    def training_loss(self, batch):
        images, condition = self.mode.prepare(self.on_device(batch), self.device)
        by_pixel = 1 + (self.weight - 1) * (condition[:, :1] > 0).float()
        condition = self.hide_some(condition)
        times, noise = self.draw_times_and_noise(images.shape)
        t, weights = self.times_and_weights(times)
        x_t = self.strategy.add_noise(images, noise, t)
        prediction = predict(self.network, self.strategy, self.mode, x_t, condition, t)
        error = (prediction - self.strategy.target(images, noise, t)).square()
        losses = error.mean((1, 2, 3))
        objective = (weights * (by_pixel * error).mean((1, 2, 3)) / by_pixel.mean()).mean()
        return objective, dict(mse=losses.detach(), perceptual=None), times


class Judge:
    "Real slices, and what they say of samples for the held-out masks."

    def __init__(self, trainer, store, n):
        mode, names = trainer.mode, [*trainer.mode.images, 'seg']
        train = store.select('train', 'tumour')
        known = store.get(train[np.linspace(0, len(train) - 1, min(512, len(train))).astype(int)], names)
        rows = store.select('val', 'tumour')
        self.batch = store.get(rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)], names)
        self.prepared = mode.prepare(self.batch, 'cpu')
        self.judge = Plausibility(anatomies(_together(known, mode.images)), known['position'].numpy())
        self.real = self.numbers(_together(self.batch, mode.images))

    def numbers(self, images):
        masks = self.batch['seg'][:, 0].numpy()
        found = {name: float(np.nanmean(x)) for name, x in coupling(images, masks).items()}
        deviation = self.judge.deviation(anatomies(images), self.batch['position'].numpy())
        return found | dict(
            deviation=typical(deviation), implausible=100 * float((deviation > self.judge.limit).mean())
        )


def _together(batch, names):
    return np.concatenate([batch[name].numpy() for name in names], 1)


def judged(trainer, judge, scale, steps) -> dict:
    "Numbers of the samples of a trained network."
    images, condition = judge.prepared
    noise = image_noise(range(len(images)), tuple(images.shape[1:]), 7)
    how = dict(num_steps=steps, batch_size=16, sampler='dpm_solver', guidance=scale)
    x = sample(trainer.eval_network.eval(), trainer.strategy, trainer.mode, noise, condition, **how)
    return judge.numbers(from_network(x).numpy())


def table(found: dict, real: dict) -> str:
    "A line per variant, with the change against the first and its interval over seeds."
    names, rows = list(real), [['held-out slices', *(f'{x:.3f}' for x in real.values())]]
    first = next(iter(found.values()))
    for variant, by_seed in found.items():
        row = [variant]
        for name in names:
            values = np.array([d[name] for d in by_seed.values()])
            text = f'{values.mean():.3f}'
            if by_seed is not first and len(values) > 1:
                change = mean_interval(values - [first[s][name] for s in by_seed])
                text += f' ({change.low:+.3f} to {change.high:+.3f})'
            row.append(text)
        rows.append(row)
    return markdown_table(['', *(name.replace('_', ' ') for name in names)], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help='parameters of medgen-train')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='(%(default)s)')
    parser.add_argument('--images', type=int, default=64, help='held-out masks that images are made for (%(default)s)')
    parser.add_argument('--steps', type=int, default=15, help='network evaluations per image (%(default)s)')
    parser.add_argument('--runs', type=Path, required=True, help='folder of the runs')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the table and its numbers')
    a = parser.parse_args()
    found, real = {}, {}
    for seed in a.seeds:
        for name, (weight, hidden) in VARIANTS.items():
            cfg = compose_config([*a.overrides, f'seed={seed}', f'condition_dropout={hidden}'])
            store = open_store(cfg, progress=False)
            folder = a.runs / f'{name.replace(" ", "_").replace("%", "percent")}-{seed}'
            trainer = Trainer.from_config(cfg, store, folder)
            trainer.weight = weight
            if (folder / 'latest').exists():
                trainer.resume(folder)
            trainer.fit()
            judge = Judge(trainer, store, a.images)
            real = judge.real
            for scale in GUIDANCE.get(name, (1,)):
                label = f'{name}, guidance {scale:g}' if name in GUIDANCE else name
                found.setdefault(label, {})[seed] = judged(trainer, judge, scale, a.steps)
        print(text := table(found, real), flush=True)
        if a.out:
            a.out.with_suffix('.md').write_text(text + '\n')
            shown = [o for o in a.overrides if not o.startswith('data_dir=')]
            facts = dict(overrides=shown, versions=versions(), real=real, found=found)
            a.out.with_suffix('.json').write_text(json.dumps(facts) + '\n')


if __name__ == '__main__':
    main()
