#!/usr/bin/env python
"""How much sooner medgen reaches the quality of a plain MONAI loop, in seconds of the processor.

The plain loop is that of MONAI's tutorials: its rectified-flow scheduler, its U-Net, AdamW at a constant rate, float32;
the best of several rates, chosen with the first seed. Its slices come from medgen's store, for free. medgen trains the
same network on the same slices as its configuration says, once for each number of epochs in --medgen, each a whole run
with its own schedule. Quality is the loss on held-out slices, at fixed times and noise. The time that counts is that of
the training steps alone. Everything runs in one process; contenders of a seed take turns, an epoch each.

  python benchmarks/time_to_quality.py --out benchmarks/results --name time-to-quality-simulated
  python benchmarks/time_to_quality.py --data-dir DIR --out benchmarks/results --name time-to-quality-lgg"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from contenders import DEVICE, GPU, configure, set_attention, sync
from monai.networks.schedulers import RFlowScheduler

from medgen.core.config import versions
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.networks import count_weights
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.intervals import mean_interval


def seconds() -> float:
    "Of this process on the CPU, or of the wall where a GPU does the work."
    sync()
    return time.perf_counter() if GPU else time.process_time()


class Medgen:
    "A whole run of the trainer."

    def __init__(self, a, seed, epochs, **changes):
        given = dict(training=a.training, epochs=epochs, seed=seed, image_size=a.image_size, val_slices=256)
        cfg = configure(a, **given, **changes)
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = DiffusionTrainer.from_config(cfg, open_store(cfg, progress=False), self.folder.name)
        self.epochs, self.spent, self.curve = epochs, 0.0, []

    def train(self):
        "One epoch."
        t = self.trainer
        t.network.train()
        for batch in t.batches(t.epoch):
            float(t.train_step(batch)[1])
        t.epoch += 1

    def turn(self):
        "Train an epoch, and note what it cost and what it brought."
        start = seconds()
        self.train()
        self.spent += seconds() - start
        self.trainer.eval_network.eval()
        self.curve.append((self.spent, self.trainer.validation_loss()['val_mse']))


class PlainLoop(Medgen):
    "The loop of MONAI's tutorials on the slices of a trainer that is asked for nothing else."

    def __init__(self, a, seed, epochs, lr):
        same = dict(slice_position=False, use_ema=False, optimizer='adamw', mixed_precision='fp32')
        super().__init__(a, seed, epochs, lr=lr, **same)
        self.network, self.scheduler = self.trainer.raw_network, RFlowScheduler(num_train_timesteps=1000)
        set_attention(self.network, False)  # MONAI's default
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=lr)
        torch.manual_seed(seed)

    def train(self):
        t, mode = self.trainer, self.trainer.cfg.mode
        self.network.train()
        for batch in t.batches(t.epoch):
            x, condition = [torch.cat([batch[n] for n in names], 1).to(DEVICE) * 2 - 1 for names in self.names(mode)]
            noise, times = torch.randn_like(x), self.scheduler.sample_timesteps(x)
            noisy = self.scheduler.add_noise(original_samples=x, noise=noise, timesteps=times)
            out = self.network(torch.cat([noisy, condition], 1), timesteps=times)
            loss = torch.nn.functional.mse_loss(out, x - noise)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            loss.item()
        t.epoch += 1

    @staticmethod
    def names(mode):
        return mode.images, mode.condition


def race(contenders: dict):
    "All contenders to their end, an epoch each in turn."
    for epoch in range(max(c.epochs for c in contenders.values())):
        for name, c in contenders.items():
            if epoch < c.epochs:
                c.turn()
                spent, loss = c.curve[-1]
                print(
                    f'{name}: epoch {epoch + 1} of {c.epochs}, {spent:.0f} s, {loss:.4f}', file=sys.stderr, flush=True
                )


def needed(curve: list, goal: float) -> float | None:
    "Seconds until a curve of (seconds, loss) is at or below the goal, on the line between its points."
    before = None
    for spent, loss in curve:
        if loss <= goal:
            if before is None:
                return spent
            s, worse = before
            return s + (spent - s) * (worse - goal) / (worse - loss)
        before = spent, loss
    return None


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', help='folder of patients; without it the simulated cohort')
    parser.add_argument('--model', default='demo', help='size of the network (%(default)s)')
    parser.add_argument('--training', default='demo', help='settings that medgen trains with (%(default)s)')
    parser.add_argument('--image-size', type=int, default=48, help='side of the slices in pixels (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=8, help='slices per step (%(default)s)')
    parser.add_argument('--plain', type=int, default=12, help='epochs of the plain loop (%(default)s)')
    parser.add_argument('--medgen', default='2,3,4', help='epochs of the runs of medgen (%(default)s)')
    parser.add_argument('--rates', default='1e-4,5e-4,2e-3', help='learning rates of the plain loop (%(default)s)')
    parser.add_argument('--seeds', default='1,2,3', help='(%(default)s)')
    parser.add_argument('--out', type=Path, help='write the table and the numbers to OUT/NAME.md and OUT/NAME.json')
    parser.add_argument('--name', default='time-to-quality', help='(%(default)s)')
    a = parser.parse_args()
    a.strategy, a.seed = 'rflow', None
    rates, lengths = [float(r) for r in a.rates.split(',')], [int(e) for e in a.medgen.split(',')]
    seeds, curves, best = [int(s) for s in a.seeds.split(',')], {}, None
    for seed in seeds:
        plain = {f'plain loop, rate {r:g}': PlainLoop(a, seed, a.plain, r) for r in ([best] if best else rates)}
        ours = {f'medgen, {e} epochs': Medgen(a, seed, e) for e in lengths}
        race(plain | ours)
        curves[seed] = {name: c.curve for name, c in (plain | ours).items()}
        best = best or min(rates, key=lambda r: plain[f'plain loop, rate {r:g}'].curve[-1][1])
    weights = count_weights(next(iter(ours.values())).trainer.raw_network)
    report = dict(about={k: str(v) for k, v in vars(a).items() if k not in ('data_dir', 'out', 'seed')}, best_rate=best)
    report |= dict(weights=weights, threads=torch.get_num_threads(), versions=versions(), curves=curves)
    text = write(report)
    print(text)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / f'{a.name}.json').write_text(json.dumps(report, indent=1) + '\n')
        (a.out / f'{a.name}.md').write_text(text + '\n')


def write(report: dict) -> str:
    "The report in words and tables: after a third, two thirds and all of the plain loop."
    rows, plain_name = [], f'plain loop, rate {report["best_rate"]:g}'
    for part in (1, 2, 3):
        ratios = []
        for seed, curves in report['curves'].items():
            plain = curves[plain_name][: round(part * len(curves[plain_name]) / 3)]
            spent, goal = plain[-1][0], min(loss for _, loss in plain)
            ends = sorted(curve[-1] for name, curve in curves.items() if name.startswith('medgen'))  # of whole runs
            ours = needed(ends, goal)
            ratios.append(spent / ours if ours else np.nan)
            found = f'{ours:.0f} s' if ours else f'not reached in {ends[-1][0]:.0f} s: {ends[-1][1]:.4f}'
            rows.append([seed, f'{goal:.4f} in {spent:.0f} s', found, f'{ratios[-1]:.1f}' if ours else ''])
        if len(ratios) > 1 and np.isfinite(ratios).all():
            middle = mean_interval(np.array(ratios))
            rows.append(['all', '', '', f'{middle.value:.1f} (95 % {middle.low:.1f} to {middle.high:.1f})'])
    header = ['seed', 'plain loop', 'a whole run of medgen needs', 'times faster']
    about = f'{report["weights"]:,} weights; best rate of the plain loop {report["best_rate"]:g}.'
    return f'{about}\n\n{markdown_table(header, rows)}'


if __name__ == '__main__':
    main()
