#!/usr/bin/env python
"""What a choice of the training is worth: runs that differ in it alone, at equal steps, several seeds each.

A variant is a name and the parameters that make it; the first one is what the others are compared with, seed by seed.
Runs that are done are kept in --runs and not repeated, so the table can be made in several goes. Held-out losses of
different strategies or targets are not comparable; their samples are.

  python benchmarks/ablation.py mode=dual strategy=rflow model=demo training=demo epochs=3 \\
      --variant 'Muon:' --variant 'AdamW: optimizer=adamw' --variant 'no slice position: slice_position=false'"""

import argparse
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.intervals import mean_interval

MEASURES = dict(
    val_mse='held-out loss', deviation='deviation of samples', implausible='share implausible', swd='sliced distance'
)


def run(folder: Path, overrides: list[str]) -> dict:
    "Train one run to its end, from wherever it stands; the last record of its history."
    cfg = compose_config(overrides)
    trainer = DiffusionTrainer.from_config(cfg, open_store(cfg, progress=False), folder)
    if (folder / 'latest').exists():
        trainer.resume(folder)
    start = time.process_time()
    trainer.fit()
    validation = sum(r.get('val_seconds', 0) for r in trainer.history)
    cost = dict(cpu=time.process_time() - start, val_seconds=validation)
    return trainer.history[-1] | cost


def table(results: dict, variants: list[str], seeds: list[int]) -> str:
    "A line per variant: the mean of each measure, and its change against the first, with an interval over seeds."
    shown = {k: name for k, name in MEASURES.items() if results[variants[0], seeds[0]].get(k) is not None}
    rows = []
    for variant in variants:
        row = [variant]
        for key in shown:
            values = np.array([results[variant, seed][key] for seed in seeds])
            text = f'{values.mean():.4f}'
            if variant != variants[0]:
                change = values - [results[variants[0], seed][key] for seed in seeds]
                text += f' ({interval_text(change)})'
            row.append(text)
        rows.append([*row, f'{np.mean([results[variant, seed]["cpu"] for seed in seeds]):.0f}'])
    return markdown_table(['', *shown.values(), 'CPU s, validation included'], rows)


def picture(runs: list[Path], names: list[str]):
    "The last samples of one run of each variant, and the real slices with these masks."
    last = [sorted((run / 'samples').glob('*.npz'))[-1] for run in runs]
    rows = [np.load(file)['fake'][:, 0] for file in last] + [np.load(last[0])['real'][:, 0]]
    fig, axes = plt.subplots(len(rows), 1, figsize=(8, 1.05 * len(rows)), layout='constrained')
    for ax, row, name in zip(axes, rows, [*names, 'held-out slices']):
        ax.imshow(np.concatenate(list(row), 1), cmap='gray', vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name, rotation=0, ha='right', va='center')
    return fig


def interval_text(change: np.ndarray) -> str:
    "A mean change and its 95 % interval."
    found = mean_interval(change)
    return f'{found.value:+.4f}, {found.low:+.4f} to {found.high:+.4f}'


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help='parameters of medgen as name=value, the same for all runs')
    parser.add_argument('--variant', action='append', required=True, help="'NAME: name=value name=value'")
    parser.add_argument('--data-dir', help='folder of patients; without it the simulated cohort')
    parser.add_argument('--seeds', default='1,2,3', help='(%(default)s)')
    parser.add_argument('--runs', type=Path, default=Path('runs/ablation'), help='where runs are kept (%(default)s)')
    parser.add_argument('--out', type=Path, help='write OUT.md, OUT.json, and OUT.png of a simulated cohort')
    args = parser.parse_args()
    variants = {name: rest.split() for name, _, rest in (v.partition(':') for v in args.variant)}
    seeds, results, folders = [int(s) for s in args.seeds.split(',')], {}, {}
    data = [f'data_dir={args.data_dir}'] if args.data_dir else []
    for seed in seeds:
        for name, parameters in variants.items():
            folder = folders[name, seed] = args.runs / f'{name.replace(" ", "_")}_{seed}'
            done = folder / 'ablation.json'
            if not done.exists():
                result = run(folder, [*args.overrides, *data, *parameters, f'seed={seed}'])
                done.write_text(json.dumps(result))
            results[name, seed] = json.loads(done.read_text())
            print(name, seed, {k: results[name, seed].get(k) for k in ('step', *MEASURES, 'cpu')}, flush=True)
    text = table(results, list(variants), seeds)
    print(text)
    if args.out:
        args.out.with_suffix('.md').write_text(text + '\n')
        numbers = [dict(variant=name, seed=seed, **r) for (name, seed), r in results.items()]
        about = dict(overrides=args.overrides, variants=variants, seeds=seeds, threads=torch.get_num_threads())
        report = about | dict(versions=versions(), results=numbers)
        args.out.with_suffix('.json').write_text(json.dumps(report, indent=1) + '\n')
        if not args.data_dir:  # pictures of patients, or learned from them, stay where they are
            picture([folders[name, seeds[0]] for name in variants], list(variants)).savefig(
                args.out.with_suffix('.png')
            )


if __name__ == '__main__':
    main()
