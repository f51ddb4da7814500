#!/usr/bin/env python
"""How many network evaluations a trained model needs: quality of its images against steps, for every sampler that suits it.

Takes run folders, or trains small ones first, and writes a table with intervals. Images that are drawn are kept in --keep and
found again, so the measurement can be interrupted, and made longer later. Examples:

  python benchmarks/frontier.py --train runs/frontier --splits val test --name simulated
  python benchmarks/frontier.py --runs runs/A runs/B --splits val --n 64 --out benchmarks/results --name mine

Models of the same mode and data are also compared with the longest ancestral chain of each DDPM model among them.
Name=value pairs at the end are parameters of medgen for --train, for example data_dir=DIR.
"""

import argparse, json, os
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from medgen.config import compose_config, markdown_table, versions
from medgen.frontier import (
    FROM_MEAN,
    compare,
    draw_all,
    floor,
    frontier_table,
    held_out,
    kept_as,
    mean_slice,
    measure_all,
    settings_of,
    smallest_enough,
)
from medgen.launch import open_store
from medgen.trainer import DiffusionTrainer, computes_bf16, load_model

PUBLISHED = [
    'euler:1,2,4,8,16,25,50,250',
    'heun:4,8,16,25',
    'dpm_solver:4,8,16,25',
    'ddim:1,2,4,8,16,25,50,250',
    'ancestral:8,25,50,1000',
    'ddim from mean:1,2,4,8,16,25,50,250',
    'dpm_solver from mean:4,8,16,25',
    'ancestral from mean:8,25,50,250',
]
LONG = 200  # evaluations from which a chain is a reference


def machine() -> str:
    "What the numbers were taken on."
    import torch

    gpu = torch.cuda.is_available()
    return f'{torch.cuda.get_device_name() if gpu else f"CPU with {os.cpu_count()} cores"}, {torch.get_num_threads()} threads'


def train(folder: Path, overrides: list[str]) -> list[Path]:
    "The six runs of the demo's small network, each trained from wherever it stands."
    for mode in ('dual', 'bravo', 'seg'):
        for strategy in ('rflow', 'ddpm'):
            more = ['epochs=40', 'val_interval=20'] if mode == 'seg' else []  # fewer slices have a mask
            cfg = compose_config(
                ['model=demo', 'training=demo', *more, *overrides, f'mode={mode}', f'strategy={strategy}']
            )
            trainer = DiffusionTrainer.from_config(cfg, open_store(cfg, progress=False), folder / f'{mode}-{strategy}')
            if (folder / f'{mode}-{strategy}' / 'latest').exists():
                trainer.resume(folder / f'{mode}-{strategy}')
            trainer.fit()
            yield folder / f'{mode}-{strategy}'


class Run:
    "A trained model, its held-out slices and what it drew."

    def __init__(self, folder: Path, a):
        self.folder, self.device = folder, 'cuda' if machine()[:3] != 'CPU' else 'cpu'
        self.network, self.strategy, self.mode, about = load_model(folder, self.device)
        c = OmegaConf.create(about['config'])
        self.choice, self.prediction, self.steps = (
            c.choices.mode,
            c.strategy.get('prediction', 'velocity'),
            about['step'],
        )
        self.is_ddpm, self.simulated = 'schedule' in c.strategy, about['simulated']
        self.seed, self.label = c.seed, f'{c.choices.strategy}, {self.prediction}'
        self.store = open_store(c, progress=False)
        self.held = held_out(self.store, self.mode, a.n, a.splits)
        self.group = (self.choice, self.store.fingerprint)
        self.keep = a.keep / (about['files'].get('ema.safetensors') or about['files']['weights.safetensors'])[:12]
        self.bf16 = a.bf16

    def draw(self, settings, a):
        "Draw the settings that are not kept; the cheapest first."
        self.drawn = draw_all(
            self.network,
            self.strategy,
            self.mode,
            self.held,
            sorted(settings, key=lambda s: s[1]),
            self.keep,
            lambda line: print(f'{self.folder.name}: {line}', flush=True),
            mean_image=mean_slice(self.store, self.mode),
            seed=a.seed,
            batch_size=a.batch_size,
            device=self.device,
            bf16=self.bf16,
        )

    def settings(self, a):
        "Those of the given settings whose sampler suits the strategy."
        self.samplers = list(dict.fromkeys(s for s, _ in settings_of(self.strategy, [LONG])))
        suited = [s for s in a.settings if s[0] in self.samplers]
        return (
            [s for s in suited if kept_as(self.keep, self.held, *s, seed=a.seed, bf16=a.bf16).exists()]
            if a.kept
            else suited
        )

    def reference(self):
        "The longest chain: ancestral for DDPM, the first sampler otherwise."
        first = 'ancestral' if self.is_ddpm else self.samplers[0]
        return max(self.drawn, key=lambda s: (s[0] == first, s[1]))


def measure(run: Run, rivals: list[Run], a) -> dict:
    "Table of a run, and the fewest evaluations that are enough against its own long chains and against each DDPM model's."
    real, key = floor(run.store, run.mode, run.held, seed=a.seed), run.reference()
    late = any(FROM_MEAN in s for s in run.samplers)  # then the other chains are no reference, but for DDPM's own
    against = {
        f'its own {s[0]} {s[1]}': run.measured[s]
        for s in run.measured
        if s == key or s[1] >= LONG and (FROM_MEAN in s[0] or not late)
    }
    against |= {
        f'{r.label}: {" ".join(map(str, r.reference()))}': r.measured[r.reference()]
        for r in rivals
        if r is not run and r.group == run.group and r.is_ddpm
    }
    verdicts, table = [], compare(run.drawn, run.held, run.measured, run.measured[key])
    for name, reference in against.items():
        t = compare(run.drawn, run.held, run.measured, reference)
        t.attrs['floor'] = real.mean().to_dict()
        for m in real.columns:
            one = t[t.measure == m]
            for sampler, least in smallest_enough(t, a.margin, m).items():
                row = None if pd.isna(least) else one[(one.sampler == sampler) & (one.evaluations == least)].iloc[0]
                verdicts.append(
                    dict(
                        measure=m,
                        reference=name,
                        reference_distance=float((one.distance - one.difference).iloc[0]),
                        sampler=sampler,
                        enough=None if row is None else int(least),
                        **(
                            {}
                            if row is None
                            else {k: float(row[k]) for k in ('distance', 'difference', 'diff_low', 'diff_high')}
                        ),
                    )
                )
    return dict(
        run=run.folder.name,
        training_seed=run.seed,
        mode=run.choice,
        strategy=run.label,
        trained_steps=run.steps,
        **table.attrs,
        floor=real.mean().to_dict(),
        floor_sd=real.std().to_dict(),
        margin=a.margin,
        reference=list(key),
        table=table.to_dict('records'),
        verdicts=verdicts,
    )


def as_frame(r: dict) -> pd.DataFrame:
    "The table of a result, with what real slices reach."
    table = pd.DataFrame(r['table'])
    table.attrs['floor'] = r['floor']
    return table


def verdict_table(results: list[dict]) -> str:
    "A line per model, measure, reference and sampler."
    return markdown_table(
        ['mode', 'model', 'measure', 'reference', 'its distance', 'sampler', 'enough', 'difference there'],
        [
            [
                r['mode'],
                r['strategy'],
                v['measure'],
                v['reference'],
                f'{v["reference_distance"]:.3f}',
                v['sampler'],
                v['enough'] or 'none',
                f'{v["difference"]:+.3f} ({v["diff_low"]:+.3f} .. {v["diff_high"]:+.3f})' if v['enough'] else '',
            ]
            for r in results
            for v in r['verdicts']
        ],
    )


def report(about: dict, results: list[dict]) -> str:
    "Everything as Markdown."
    parts = [
        f'{about["data"]}; {about["machine"]}, network in {about["arithmetic"]}; noise of seed {about["seed"]}; {about["resamples"]} resamples.',
        verdict_table(results),
    ]
    for r in results:
        for m in r['floor']:
            parts.append(
                f'## {r["mode"]}, {r["strategy"]}, {m}\n\n{r["trained_steps"]} training steps. Distance to {r["n"]} held-out slices with 95 % interval ({r["groups"]} {r["unit"]} resampled); '
                f'* is surely less than {r["margin"]:.0%} worse than {r["reference"][0]} {r["reference"][1]}. Real training slices: {r["floor"][m]:.3f} ± {r["floor_sd"][m]:.3f}.'
            )
            parts.append(frontier_table(as_frame(r), r['margin'], m))
    return '\n\n'.join(parts) + '\n'


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help='parameters of medgen for --train, as name=value')
    parser.add_argument('--runs', nargs='+', type=Path, default=[], help='run folders or checkpoints')
    parser.add_argument(
        '--train',
        type=Path,
        metavar='FOLDER',
        help='first train the small network, three modes with two strategies, into FOLDER',
    )
    parser.add_argument('--n', type=int, default=32, help='held-out slices at most (%(default)s)')
    parser.add_argument('--splits', nargs='+', default=['val'], help='held-out patients')
    parser.add_argument(
        '--settings',
        nargs='+',
        default=PUBLISHED,
        metavar='SAMPLER:N,N',
        help='samplers with their evaluations, drawn where the sampler suits the strategy; "ddim from mean" begins later, from the mean image (%(default)s)',
    )
    parser.add_argument(
        '--margin',
        type=float,
        default=0.1,
        help='difference that does not matter, as a share of the distance of the reference or, if larger, of real slices (%(default)s)',
    )
    parser.add_argument('--resamples', type=int, default=1000, help='of the bootstrap (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of noise and resamples (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument(
        '--arithmetic', choices=['auto', 'bf16', 'fp32'], default='auto', help='of the network; auto as in training'
    )
    parser.add_argument(
        '--keep', type=Path, default=Path('runs/frontier-images'), help='where images are kept (%(default)s)'
    )
    parser.add_argument('--kept', action='store_true', help='draw nothing, measure what is kept')
    parser.add_argument('--out', type=Path, help='folder for frontier-NAME.md and frontier-NAME.json')
    parser.add_argument('--name', default='frontier', help='of the results')
    a = parser.parse_args()
    a.bf16 = a.arithmetic == 'bf16' or a.arithmetic == 'auto' and (machine()[:3] != 'CPU' or computes_bf16())
    a.settings = [(name, int(n)) for name, numbers in (s.split(':') for s in a.settings) for n in numbers.split(',')]
    runs = [Run(f, a) for f in [*a.runs, *(train(a.train, a.overrides) if a.train else [])]]
    if not runs:
        parser.error('name run folders with --runs, or train some with --train')
    for run in runs:
        run.draw(run.settings(a), a)
    if empty := [r.folder.name for r in runs if not r.drawn]:
        print(f'skipped, nothing drawn: {", ".join(empty)}')
    runs = [r for r in runs if r.drawn]
    for run in runs:
        run.measured = measure_all(run.drawn, run.held, a.resamples, a.seed)
    results = [measure(run, runs, a) for run in runs]
    about = dict(
        data='simulated cohort' if runs[0].simulated else 'MRI',
        splits=a.splits,
        machine=machine(),
        arithmetic='bfloat16' if a.bf16 else 'float32',
        seed=a.seed,
        resamples=a.resamples,
        versions=versions(),
    )
    print(report(about, results))
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / f'frontier-{a.name}.md').write_text(report(about, results))
        (a.out / f'frontier-{a.name}.json').write_text(json.dumps(dict(about=about, results=results), indent=1))


if __name__ == '__main__':
    main()
