#!/usr/bin/env python
"""Speed of diversity over all pairs of pictures, side by side with plain loops over the libraries.

All contenders measure the same random pictures in one process in rotation, so that a machine whose speed drifts
slows all of them; the figure to read is the ratio within a round. A loop is timed on its first pairs, as the time
of a pair does not depend on the pair; medgen on all pairs, its work per picture included. LPIPS needs its
networks (`medgen-weights fetch alexnet`, `vgg16`, or the folder MEDGEN_WEIGHTS)."""

import argparse
import json
import os
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric

from medgen.core.show import markdown_table
from medgen.metrics.diversity import DIVERSITY_MEASURES, pair_values
from medgen.metrics.pairs import NETS, ms_ssim_weights
from medgen.metrics.weights import import_torchvision, load_network

import_torchvision()  # which lpips imports
import lpips

GOAL = 5
CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)
CLOCK_TEXTS = dict(wall='that of the clock', cpu='CPU seconds of the process, as others used the machine')

# --- the contenders: each a function of lists of pairs that returns their values ---


def package_lpips(net):
    "The class of the package, filled with the weights that medgen uses."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = load_network(NETS[net]).features
    for k in range(1, 6):
        for index, layer in getattr(model.net, f'slice{k}').named_children():
            layer.load_state_dict(trunk[int(index)].state_dict())
    return model


def gray_lpips(model):
    "LPIPS of one-channel pictures in [0, 1]."

    def rgb(x):
        return x.expand(-1, 3, -1, -1)

    return lambda a, b: model(rgb(a), rgb(b), normalize=True).flatten()


def torchmetrics_ms_ssim(weights):
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms

    return lambda a, b: ms(a, b, data_range=1.0, betas=tuple(weights), normalize='relu', reduction='none').flatten()


def loops(measure, size):
    "Libraries by name: value of pictures a against b."
    if measure == 'ms_ssim':
        weights = ms_ssim_weights(size)
        monai = MultiScaleSSIMMetric(2, weights=weights)
        return {'MONAI MultiScaleSSIMMetric': lambda a, b: monai(a, b)[:, 0]} | (
            {'torchmetrics': torchmetrics_ms_ssim(weights)} if find_spec('torchmetrics') else {}
        )
    return {'package lpips': gray_lpips(package_lpips(measure.removeprefix('lpips_')))}


def pairwise(compare, x, batch):
    "A plain loop, so many pairs per call."

    def run(i, j):
        return (
            torch.cat(
                [compare(x[p], x[q]) for p, q in zip(torch.as_tensor(i).split(batch), torch.as_tensor(j).split(batch))]
            )
            .double()
            .numpy()
        )

    return run


def medgen(measure, x):
    def run(i, j):
        return pair_values(x, DIVERSITY_MEASURES[measure](), i, j)

    return run


# --- the race ---


def pictures(n, size, seed):
    "Smooth random pictures in [0, 1]; similarity is neither 0 nor 1."
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, size // 8, size // 8, generator=g)
    return (
        torch.nn.functional.interpolate(coarse, size=(size, size), mode='bilinear')
        + 0.05 * torch.randn(n, 1, size, size, generator=g)
    ).clamp(0, 1)


@torch.no_grad()
def race(measure, size, n, timed, rounds, batch, seed, clock):
    "Pairs per second of each contender in each round, and how far the values are apart."
    x, (i, j) = pictures(n, size, seed), np.triu_indices(n, 1)
    few = np.random.default_rng(seed).choice(len(i), min(timed, len(i)), replace=False)
    runs = {'medgen': (medgen(measure, x), np.arange(len(i)))}
    for name, compare in loops(measure, size).items():
        for b in (1, batch):
            runs[f'{name}, {b} pair{"s" * (b > 1)} per call'] = pairwise(compare, x, b), few
    speed, values = {name: [] for name in runs}, {}
    for run, _ in runs.values():
        run(i[few[:2]], j[few[:2]])  # the first call of everything
    for r in range(rounds):
        names = list(runs)[r % len(runs) :] + list(runs)[: r % len(runs)]
        for name in names:
            run, which = runs[name]
            start = clock()
            found = run(i[which], j[which])
            taken = clock() - start
            speed[name].append(len(which) / taken)
            values[name] = found if name != 'medgen' else found[few]
            print(
                f'{measure} {size} round {r + 1} of {rounds}, {name}: {speed[name][-1]:.1f} pairs/s',
                file=sys.stderr,
                flush=True,
            )
    apart = {name: float(np.abs(v - values['medgen']).max()) for name, v in values.items() if name != 'medgen'}
    return dict(
        measure=measure,
        size=size,
        pictures=n,
        pairs=len(i),
        timed=len(few),
        rounds=rounds,
        scales=len(ms_ssim_weights(size)) if measure == 'ms_ssim' else None,
        value=[float(values['medgen'].min()), float(values['medgen'].max())],
        speed=speed,
        apart=apart,
    )


# --- the report ---


def spread(values, form='{:.3g}'):
    "Median and quartiles."
    return f'{form} ({form} to {form})'.format(*np.quantile(values, [0.5, 0.25, 0.75]))


def package(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return 'absent'


def setting_report(r):
    "The Markdown of one setting."
    ours = np.array(r['speed']['medgen'])
    rows = [
        [name, spread(v), spread(ours / v), f'{r["apart"][name]:.1e}' if name in r['apart'] else '']
        for name, v in r['speed'].items()
    ]
    fastest = min(float(np.median(ours / v)) for name, v in r['speed'].items() if name != 'medgen')
    scales = f', {r["scales"]} scales' if r['scales'] else ''
    return '\n\n'.join(
        [
            f'## {r["measure"]}, {r["size"]} pixels{scales}',
            f'{r["pictures"]} pictures, {r["pairs"]} pairs, loops timed on {r["timed"]} of them; {r["rounds"]} '
            f'rounds. Values {r["value"][0]:.3f} to {r["value"][1]:.3f}. '
            f'Goal {GOAL} times as fast as the fastest loop: {"met" if fastest >= GOAL else "missed"} ({fastest:.1f}).',
            markdown_table(['contender', 'pairs/s', 'medgen is faster by', 'largest difference of a value'], rows),
            *(
                ['torchmetrics also counts the mirrored border at the last scale, so its values differ.']
                if any('torchmetrics' in name for name in r['speed'])
                else []
            ),
        ]
    )


def report(result):
    about = result['about']
    return (
        '\n\n'.join(
            [
                '# Speed of diversity over pairs',
                f'{about["machine"]}, {about["threads"]} threads; {about["versions"]}; seed {about["seed"]}. '
                'Time is '
                f'{CLOCK_TEXTS[about["clock"]]}. '
                'Contenders in rotation in one process; median (quartiles) over the rounds. '
                '"medgen is faster by" is the ratio within a round.',
                *[setting_report(r) for r in result['settings']],
            ]
        )
        + '\n'
    )


def arguments():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        '--out',
        type=Path,
        default=Path('benchmark'),
        help='folder of the result, pairs-NAME.md and .json (default: %(default)s)',
    )
    p.add_argument('--name', default='cpu', help='name of the result (default: %(default)s)')
    p.add_argument(
        '--settings',
        nargs='*',
        default=[
            'ms_ssim:48:64:60',
            'ms_ssim:64:64:60',
            'ms_ssim:128:64:40',
            'lpips_alex:64:64:60',
            'lpips_alex:128:64:40',
            'lpips_vgg:64:32:16',
        ],
        metavar='MEASURE:PIXELS:PICTURES:TIMED',
        help='what to measure; TIMED: pairs that a loop is timed on (default: %(default)s)',
    )
    p.add_argument('--rounds', type=int, default=6, help='(default: %(default)s)')
    p.add_argument(
        '--batch', type=int, default=16, help='pairs per call of the second loop of each library (default: %(default)s)'
    )
    p.add_argument(
        '--clock',
        choices=list(CLOCKS),
        default='wall',
        help=(
            'cpu counts the CPU seconds of the process: for a machine that others use, with OMP_NUM_THREADS=1 '
            '(default: %(default)s)'
        ),
    )
    p.add_argument('--seed', type=int, default=42, help='(default: %(default)s)')
    return p.parse_args()


def main():
    a, settings = arguments(), []
    for text in a.settings:
        measure, *numbers = text.split(':')
        size, n, timed = map(int, numbers)
        settings.append(race(measure, size, n, timed, a.rounds, a.batch, a.seed, CLOCKS[a.clock]))
    flags = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    machine = f'{os.cpu_count()} cores ({"" if "avx512f" in flags else "no "}AVX-512), no GPU used'
    result = dict(
        settings=settings,
        about=dict(
            machine=machine,
            threads=torch.get_num_threads(),
            seed=a.seed,
            clock=a.clock,
            versions=', '.join(f'{n} {package(n)}' for n in ('medgen', 'torch', 'monai', 'lpips', 'torchmetrics')),
        ),
    )
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / f'pairs-{a.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (a.out / f'pairs-{a.name}.md').write_text(report(result))
    print(report(result))


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    main()
