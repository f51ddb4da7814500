#!/usr/bin/env python
"""Speed of the Fréchet distance, side by side with what pytorch-fid and torch-fidelity compute from the same
features.

Everybody starts from two float32 tables of features in memory and ends with the number. Contenders run in
rotation in one process; the figure to read is the ratio within a round. --coverage measures instead how often the
intervals of medgen.metrics.distances hold what they should."""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from medgen.core.show import markdown_table
from medgen.metrics.distances import frechet, interval, mmd, prdc
from medgen.metrics.weights import import_torchvision

# --- speed ---


def features(n, d, seed, scale=1.0, shift=0.0):
    "Gaussian features whose k-th direction has variance 1/k, in a turned basis, as float32."
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * (scale / np.sqrt(np.arange(1, d + 1))) + shift
    v = np.random.default_rng(0).standard_normal(d)
    v /= np.linalg.norm(v)
    return (x - 2 * np.outer(x @ v, v)).astype(np.float32)


def contenders():
    "Fréchet distance of two tables, by name; those whose package is absent are left out."
    made = {'medgen': frechet}
    import_torchvision()  # both rivals import it
    try:
        from pytorch_fid.fid_score import calculate_frechet_distance

        def pytorch_fid(x, y):
            return calculate_frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))

        made[f'pytorch-fid {version("pytorch-fid")}'] = pytorch_fid
    except ImportError:
        pass
    try:
        import torch
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        def torch_fidelity(x, y):
            return fid_statistics_to_metric(
                *[fid_features_to_statistics(torch.from_numpy(v)) for v in (x, y)], verbose=False
            )['frechet_inception_distance']

        made[f'torch-fidelity {version("torch-fidelity")}'] = torch_fidelity
    except ImportError:
        pass
    return made


def race(x, y, rounds):
    "Wall and processor seconds of each contender in each round, and its number."
    made, wall, cpu, value = contenders(), {}, {}, {}
    for r in range(rounds):
        for name in list(made)[r % len(made) :] + list(made)[: r % len(made)]:
            w, c = time.perf_counter(), time.process_time()
            value[name] = float(made[name](x, y))
            wall.setdefault(name, []).append(time.perf_counter() - w)
            cpu.setdefault(name, []).append(time.process_time() - c)
            print(f'{x.shape[0]} x {x.shape[1]}, round {r + 1}: {name} {wall[name][-1]:.2f} s', flush=True)
    return dict(n=x.shape[0], d=x.shape[1], wall=wall, cpu=cpu, value=value)


def spread(values, form='{:.3g}'):
    "Median and quartiles, or the values where they are one or two."
    if len(values) < 3:
        return ', '.join(form.format(v) for v in values)
    return f'{form} ({form} to {form})'.format(*np.quantile(values, [0.5, 0.25, 0.75]))


def speed_report(r):
    "The Markdown of a race."
    parts = [
        '# Speed of the Fréchet distance',
        f'{r["cores"]} cores, {r["threads"]} thread{"s" * (r["threads"] != 1)} for linear algebra; {r["versions"]}. '
        'Median (quartiles) over the rounds, or every round where there are fewer than three. "medgen is faster '
        'by" is the ratio within a round. '
        'Processor seconds do not count the time that other programs took.',
    ]
    for s in r['sizes']:
        rows = [
            [
                n,
                spread(s['wall'][n]),
                spread(s['cpu'][n]),
                spread(np.divide(w, s['wall']['medgen']), '{:.2f}'),
                spread(np.divide(s['cpu'][n], s['cpu']['medgen']), '{:.2f}'),
                f'{s["value"][n]:.9f}',
            ]
            for n, w in s['wall'].items()
        ]
        parts += [
            f'## Two sets of {s["n"]} × {s["d"]}',
            markdown_table(['', 'wall, s', 'processor, s', 'medgen is faster by, wall', 'processor', 'distance'], rows),
        ]
    return '\n\n'.join(parts) + '\n'


# --- how honest the intervals are ---


def cohort(rng, patients, slices, d, scale=1.0, shift=0.0):
    "Features of patients whose slices share half of their variance, and the patients' labels."
    x = (
        (rng.normal(size=(patients, 1, d)) + rng.normal(size=(patients, slices, d)))
        * (0.5 / np.arange(1, d + 1)) ** 0.5
        * scale
    )
    x[..., 0] += shift
    return x.reshape(-1, d), np.repeat(np.arange(patients), slices)


def held(statistic, real, synthetic, trials, resamples, rng):
    "Per number: expectation at this N, half-width, and how often our interval and the percentile bootstrap hold"
    "the expectation."

    def numbers(*sets):
        return f if isinstance(f := statistic(*sets), dict) else {statistic.__name__: f}

    def new():
        return (*cohort(rng, **real), *cohort(rng, **synthetic))

    def rows(g):
        return np.concatenate([np.flatnonzero(g == i) for i in rng.integers(0, g.max() + 1, g.max() + 1)])

    many = [numbers(x, y) for x, _, y, _ in (new() for _ in range(500))]
    expected, ours, usual = {k: np.mean([m[k] for m in many]) for k in many[0]}, [], []
    for _ in range(trials):
        x, p, y, q = new()
        found = interval(statistic, x, y, p, q)
        ours.append(found if isinstance(found, dict) else {statistic.__name__: found})
        usual.append([numbers(x[rows(p)], y[rows(q)]) for _ in range(resamples)])

    def row(k, e):
        ends = [np.quantile([b[k] for b in u], [0.025, 0.975]) for u in usual] if resamples else []
        return dict(
            measure=k,
            expected=e,
            half_width=np.mean([(o[k].high - o[k].low) / 2 for o in ours]),
            held=np.mean([o[k].low <= e <= o[k].high for o in ours]),
            bootstrap_held=np.mean([l <= e <= h for l, h in ends]) if ends else None,
        )

    return [row(k, e) for k, e in expected.items()]


def coverage(trials, resamples, seed):
    "Coverage of every measure on several pairs of sources."
    rng, other, rows = np.random.default_rng(seed), dict(scale=0.8, shift=0.5), []
    for patients, d, change in ((16, 24, {}), (16, 24, other), (16, 200, other), (8, 24, other), (50, 24, other)):
        for s in (frechet, mmd, prdc):
            slices = 96 // min(patients, 16)
            begun, few = time.process_time(), s is prdc
            found = held(
                s,
                dict(patients=patients, slices=slices, d=d),
                dict(patients=patients * slices, slices=1, d=d, **change),
                trials // 4 if few else trials,
                resamples // 2 if few else resamples,
                rng,
            )
            rows += [
                dict(
                    patients=patients,
                    images=patients * slices,
                    d=d,
                    source='other' if change else 'same',
                    trials=trials // 4 if few else trials,
                    **r,
                )
                for r in found
            ]
            print(
                patients,
                d,
                s.__name__,
                f'{time.process_time() - begun:.0f} s',
                *[f'{r["measure"]} {r["held"]:.2f}' for r in found],
                flush=True,
            )
    return rows


def coverage_report(r):
    "The Markdown of the coverage."
    rows = [
        [
            c['patients'],
            c['images'],
            c['d'],
            c['source'],
            c['measure'],
            c['trials'],
            f'{c["expected"]:.3f}',
            f'{c["half_width"]:.3f}',
            f'{c["held"]:.1%}',
            f'{c["bootstrap_held"]:.1%}',
        ]
        for c in r['coverage']
    ]
    return (
        '# Coverage of the intervals\n\nHow often a 95 % interval holds the expectation of the statistic at this '
        'number of images. Real slices of a patient share half of their variance (eigenvalues 1/k); '
        'the synthetic images are independent, from the same source or with 0.8 times its spread and its first '
        f'mean moved by 0.5. As many synthetic as real images. Seed {r["seed"]}; "bootstrap" is the '
        f'percentile bootstrap over patients, {r["resamples"]} resamples (half as many for precision, recall, '
        'density, coverage).\n\n'
        + markdown_table(
            [
                'patients',
                'images',
                'D',
                'source',
                'measure',
                'trials',
                'expected',
                'half-width',
                'interval holds it',
                'bootstrap holds it',
            ],
            rows,
        )
        + '\n'
    )


# --------------------------------------------------------------------------------------------------------------------


def arguments():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path('benchmark'), help='folder of the result (default: %(default)s)')
    p.add_argument(
        '--name', default='cpu', help='name of the result: distances-NAME.md and .json (default: %(default)s)'
    )
    p.add_argument('--rounds', type=int, default=8, help='rounds of the smaller sizes (default: %(default)s)')
    p.add_argument(
        '--full-rounds',
        type=int,
        default=2,
        help='rounds of 15000 x 2048, which take minutes; 300 x 2048 is run once (default: %(default)s)',
    )
    p.add_argument('--threads', type=int, default=os.cpu_count(), help='threads for linear algebra (default: all)')
    p.add_argument(
        '--coverage', action='store_true', help='measure the intervals instead: distances-coverage.md and .json'
    )
    p.add_argument('--trials', type=int, default=200, help='trials of --coverage (default: %(default)s)')
    p.add_argument('--resamples', type=int, default=60, help='bootstrap resamples of --coverage (default: %(default)s)')
    p.add_argument('--seed', type=int, default=0, help='of --coverage (default: %(default)s)')
    return p.parse_args()


def main():
    a = arguments()
    a.out.mkdir(parents=True, exist_ok=True)
    if a.coverage:
        result = dict(seed=a.seed, resamples=a.resamples, coverage=coverage(a.trials, a.resamples, a.seed))
        name, text = 'distances-coverage', coverage_report(result)
    else:
        sizes = [
            (300, 512, a.rounds),
            (4000, 512, a.rounds),
            (300, 2048, min(a.full_rounds, 1)),
            (15000, 2048, a.full_rounds),
        ]
        with threadpool_limits(a.threads):
            raced = [race(features(n, d, 1), features(n, d, 2, 1.1, 0.01), rounds) for n, d, rounds in sizes if rounds]
        result = dict(
            sizes=raced,
            cores=os.cpu_count(),
            threads=a.threads,
            versions=', '.join(f'{n} {version(n)}' for n in ('medgen', 'numpy', 'scipy')),
        )
        name, text = f'distances-{a.name}', speed_report(result)
    (a.out / f'{name}.json').write_text(json.dumps(result, indent=1))
    (a.out / f'{name}.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
