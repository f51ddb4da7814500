"""Min-SNR on and off, at equal steps and with several seeds: held-out loss and distance of samples.

Runs that are done are kept in --runs and not repeated, so the table can be made in several goes.
Example, MRI whose BRAVO files are missing:

  python benchmarks/min_snr.py --data-dir DIR --seeds 1,2 mode=dual model=demo training=demo epochs=8
"""

import argparse
import json
from pathlib import Path

import numpy as np

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.trainer import DiffusionTrainer


def run(folder: Path, overrides: list[str]) -> dict:
    "Train one run to its end, from wherever it stands; the last record of its history."
    cfg = compose_config(overrides)
    trainer = DiffusionTrainer.from_config(cfg, open_store(cfg, progress=False), folder)
    if (folder / 'latest').exists():
        trainer.resume(folder)
    return trainer.fit()[-1]


def table(results: dict) -> str:
    "One line per strategy and setting: every seed, and what Min-SNR changed, seed by seed."
    rows = []
    for strategy in dict.fromkeys(s for s, _, _ in results):
        for key, name in (('val_mse', 'held-out loss'), ('swd', 'distance of samples')):
            seeds = [seed for s, on, seed in results if s == strategy and on]
            off, on = [np.array([results[strategy, use, seed][key] for seed in seeds]) for use in (False, True)]

            def show(values, sign=''):
                return ', '.join(f'{v:{sign}.3f}' for v in values)

            rows.append([strategy, name, show(off), show(on), show(on - off, '+')])
    return markdown_table(['strategy', 'measure', 'plain', 'Min-SNR', 'change by Min-SNR, per seed'], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help='parameters of medgen as name=value, the same for all runs')
    parser.add_argument('--data-dir', help='folder of patients; without it the simulated cohort')
    parser.add_argument(
        '--strategies', type=lambda s: s.split(','), default=['ddpm', 'rflow'], help='with commas (ddpm,rflow)'
    )
    parser.add_argument(
        '--seeds', type=lambda s: [int(i) for i in s.split(',')], default=[1, 2], help='with commas (1,2)'
    )
    parser.add_argument('--runs', type=Path, default=Path('runs/min_snr'), help='where the runs are kept (%(default)s)')
    parser.add_argument('--out', type=Path, help='also write the table and the numbers to OUT.md and OUT.json')
    args = parser.parse_args()
    results = {}
    for seed in args.seeds:
        for strategy in args.strategies:
            for use in (False, True):
                given = [
                    *args.overrides,
                    f'strategy={strategy}',
                    f'use_min_snr={str(use).lower()}',
                    f'seed={seed}',
                    *([f'data_dir={args.data_dir}'] if args.data_dir else []),
                ]
                results[strategy, use, seed] = run(args.runs / f'{strategy}_{use}_{seed}', given)
                print(
                    strategy,
                    'Min-SNR' if use else 'plain',
                    'seed',
                    seed,
                    {k: results[strategy, use, seed][k] for k in ('step', 'val_mse', 'swd')},
                    flush=True,
                )
    print(table(results))
    if args.out:
        args.out.with_suffix('.md').write_text(table(results) + '\n')
        numbers = [dict(strategy=s, min_snr=use, seed=seed, **r) for (s, use, seed), r in results.items()]
        args.out.with_suffix('.json').write_text(
            json.dumps(dict(overrides=args.overrides, versions=versions(), results=numbers), indent=1)
        )


if __name__ == '__main__':
    main()
