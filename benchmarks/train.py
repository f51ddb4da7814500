#!/usr/bin/env python
"""Training speed of medgen, side by side with a plain MONAI loop and with denoising-diffusion-pytorch.

All contenders train on the same slices in one process, a few steps each in rotation, so that a machine whose speed
drifts slows all of them; the figure to read is the ratio within a round. Rows that need a GPU are left out where there
is none."""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from contenders import DEVICE, GPU, Medgen, configure, contenders, sync
from torch.utils.flop_counter import FlopCounterMode

import medgen.diffusion.step
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.networks import count_weights
from medgen.diffusion.trainer import DiffusionTrainer

# --- the race ---


def build(a, names):
    "Make the contenders: float32 first, bfloat16 last, since Accelerate keeps its arithmetic per process."
    makers, built = contenders(a), {}

    def turn(name):
        if 'bfloat16' in name:
            return 1
        return -1 if 'float32' in name or 'denoising' in name else 0

    for name in sorted(names, key=turn):
        print(f'making {name}', file=sys.stderr)
        built[name] = makers[name][0]()
    return {name: built[name] for name in names}


def race(built, rounds, steps):
    "Images per second of each contender in each round, and the share of its time spent waiting for data."
    speed, seconds = {name: [] for name in built}, dict.fromkeys(built, 0.0)
    for c in built.values():
        c.run(3)
        sync()
        if c.waited:
            c.waited = 0.0
    for r in range(rounds):
        print(f'round {r + 1} of {rounds}', file=sys.stderr)
        names = list(built)[r % len(built) :] + list(built)[: r % len(built)]
        for name in names:
            start = time.perf_counter()
            built[name].run(steps)
            sync()
            taken = time.perf_counter() - start
            seconds[name] += taken
            speed[name].append(steps * built[name].images / taken)
    return speed, {n: None if c.waited is None else c.waited / seconds[n] for n, c in built.items()}


# --- where the time goes ---


def time_budget(m, steps):
    "Milliseconds of a step by stage, from clocks around the parts of the trainer."
    t, spent, undo, loss = m.trainer, {}, [], 'noise, loss, batch to network space'

    def clock(owner, name, stage):
        inner = getattr(owner, name)

        def timed(*args, **kwargs):
            sync()
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                sync()
                spent[stage] = spent.get(stage, 0) + time.perf_counter() - start

        setattr(owner, name, timed)
        undo.append((owner, name, inner))

    clock(medgen.diffusion.step, 'predict', 'forward')
    clock(t, 'training_loss', loss)
    clock(t.accelerator, 'backward', 'backward')
    clock(t.accelerator, 'clip_grad_norm_', 'clipping')
    clock(t.optimizer, 'step', 'optimiser')
    clock(t.ema, 'update', 'moving average')
    m.run(3)
    spent.clear()
    m.waited = 0.0
    start = time.perf_counter()
    m.run(steps)
    sync()
    total = time.perf_counter() - start
    for owner, name, inner in undo:
        setattr(owner, name, inner)
    spent[loss] -= spent['forward']
    spent['waiting for data'] = m.waited
    spent['rest (schedule, zeroing, fetched numbers)'] = total - sum(spent.values())
    return {k: 1000 * v / steps for k, v in spent.items()}


def best_of(fn, repeats=6):
    "Shortest time of a call, in seconds."
    times = []
    for _ in range(repeats):
        sync()
        start = time.perf_counter()
        fn()
        sync()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def alone(layer, shape, dtype):
    "Seconds of forward and backward of a layer by itself, in its better memory layout."
    seconds = []
    for layout in (torch.contiguous_format, torch.channels_last):
        layer, x = layer.to(DEVICE, dtype, memory_format=layout), torch.randn(shape, device=DEVICE, dtype=dtype)
        x = (x.to(memory_format=layout) if x.ndim == 4 else x).requires_grad_()
        g = torch.ones_like(layer(x))
        seconds.append(best_of(lambda: layer(x).backward(g)))
    return min(seconds)


def ceiling(m):
    "What the machine can do: a big product, a big convolution, every convolution and linear layer of a step by itself."
    t, layers = m.trainer, {}
    dtype, kinds = (
        torch.bfloat16 if t.accelerator.mixed_precision == 'bf16' else torch.float32,
        (torch.nn.Conv2d, torch.nn.Linear),
    )

    def seen(layer, args):
        layers.setdefault((str(layer), args[0].shape), [copy.deepcopy(layer), 0])[1] += 1

    hooks = [x.register_forward_pre_hook(seen) for x in t.raw_network.modules() if isinstance(x, kinds)]
    with FlopCounterMode(display=False) as counter:
        t.training_loss(next(m.batches))[0].backward()
    for h in hooks:
        h.remove()
    t.optimizer.zero_grad(set_to_none=True)
    n, new = 8192 if GPU else 1024, dict(device=DEVICE, dtype=dtype)
    x, image, conv = (
        torch.randn(n, n, **new),
        torch.randn(8, 128, 64, 64, **new),
        torch.nn.Conv2d(128, 128, 3, padding=1, **new),
    )
    with torch.no_grad():
        product = 2 * n**3 / best_of(lambda: x @ x)
        pairs = [
            (conv, image),
            (copy.deepcopy(conv).to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)),
        ]
        convolution = 2 * 8 * 128 * 128 * 9 * 64 * 64 / min(best_of(lambda: c(i)) for c, i in pairs)
    return dict(
        arithmetic=str(dtype).split('.')[1],
        gflop_per_step=counter.get_total_flops() / 1e9,
        product_gflops=product / 1e9,
        convolution_gflops=convolution / 1e9,
        layers_alone_ms=1000 * sum(count * alone(layer, shape, dtype) for (_, shape), (layer, count) in layers.items()),
    )


def budget(a):
    "Both of the above, in a process of its own."
    m = Medgen(a)
    return dict(budget=time_budget(m, a.steps), ceiling=ceiling(m))


# --- memory and cold start, each in a process of its own ---


def in_child(a, *extra):
    "Run this script for one measurement; the last line it prints is JSON."
    given = [
        f'--{k.replace("_", "-")}={v}'
        for k, v in vars(a).items()
        if v is not None and k in ('model', 'strategy', 'batch_size', 'seed', 'workers', 'data_dir')
    ]
    done = subprocess.run([sys.executable, __file__, *given, *extra], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def resident():
    "Peak memory of this process in MiB; ru_maxrss would count the parent."
    return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 2**10


def memory_of(a):
    "Peak memory of a contender over its first steps in MiB: of the GPU, or of the process beyond the imports."
    before, contender = 0 if GPU else resident(), contenders(a)[a.child][0]()
    contender.run(4)
    sync()
    return torch.cuda.max_memory_allocated() / 2**20 if GPU else resident() - before


def write_cohort(folder, patients=140, slices=100, size=128):
    "NIfTI files of patients whose heads are smooth balls; no two are the same."
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (size, size, slices)], indexing='ij')
    for i in range(patients):
        place = Path(folder) / ('val' if i % 10 == 0 else 'train') / f'patient{i:03d}'
        place.mkdir(parents=True)
        r = np.sqrt(z**2 + y**2 + (x / (1 + i / patients)) ** 2)
        tumour = np.sqrt((z - 0.3 * np.cos(i)) ** 2 + (y - 0.3 * np.sin(i)) ** 2 + x**2) < 0.2
        for name, values in dict(
            t1_pre=200 * (r < 0.8) * (1 - r / 2), t1_gd=250 * (r < 0.8) * (1 - r / 3), seg=tumour
        ).items():
            nib.save(nib.Nifti1Image(values.astype(np.uint8), np.eye(4)), place / f'{name}.nii.gz')


def cold_start(a):
    "Seconds from a configuration to the first batch and, with --step, to the end of the first step."
    changes = dict(model='demo', image_size=128) if a.step and not GPU else dict(model='unet')
    start, marks = time.perf_counter(), {}

    def mark(name):
        sync()
        marks[name] = time.perf_counter() - start

    cfg = configure(a, batch_size=16, **changes)
    mark('configuration')
    store = open_store(cfg, progress=False)
    mark('slices opened')
    trainer = DiffusionTrainer.from_config(cfg, store, tempfile.mkdtemp())
    mark('trainer made')
    batch = next(iter(trainer.batches(0)))
    mark('first batch')
    if a.step:
        trainer.train_step(batch)[1].item()
        mark('first step done')
    return dict(slices=len(store.index), seconds=marks)


def measure_cold_start(a):
    "The same in fresh processes, on 14,000 slices; the first call makes the slices."
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(folder)
        os.environ['MEDGEN_CACHE'] = f'{folder}/cache'
        here = argparse.Namespace(**vars(a) | dict(data_dir=folder))
        try:
            once = in_child(here, '--child=cold')
            if GPU:
                return dict(once=once, full_network=in_child(here, '--child=cold', '--step'), small_network=None)
            full = in_child(here, '--child=cold')
            return dict(once=once, full_network=full, small_network=in_child(here, '--child=cold', '--step'))
        finally:
            del os.environ['MEDGEN_CACHE']


# --- the report ---


def machine():
    "Processor by what it can, GPU by its name."
    flags = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    can = ', '.join(
        f'{"" if flag in flags else "no "}{name}'
        for name, flag in {
            'AVX2': 'avx2',
            'AVX-512': 'avx512f',
            'AVX-512 bfloat16': 'avx512_bf16',
            'AMX': 'amx_tile',
        }.items()
    )
    return f'{os.cpu_count()} cores ({can})' + (f', {torch.cuda.get_device_name()}' if GPU else ', no GPU')


def package(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return 'absent'


def spread(values, form='{:.2f}'):
    "Median and quartiles."
    q = np.quantile(values, [0.5, 0.25, 0.75])
    return f'{form} ({form} to {form})'.format(*q)


def report(r):
    "The Markdown of a result."
    about, first = r['about'], 'medgen'
    rows = [
        [
            name,
            spread(v, '{:.3g}'),
            spread(np.array(r['speed'][first]) / v),
            '' if r['waiting'][name] is None else f'{100 * r["waiting"][name]:.1f} %',
            f'{r["memory"][name]:.0f}' if name in r['memory'] else '',
        ]
        for name, v in r['speed'].items()
    ]
    rows += [[name, why, '', '', ''] for name, why in r['left_out'].items()]
    total, c = sum(r['budget'].values()), r['ceiling']
    title = f'{about["model"]} network, {about["image_size"]} pixels, batch {about["batch_size"]}, {about["strategy"]}'
    alone_ms = c['layers_alone_ms']
    parts = [
        f'# Training speed, {title}',
        f'{about["machine"]}, {about["threads"]} threads; {about["versions"]}; seed {about["seed"]}, '
        f'{about["slices"]} training slices, {about["weights"]}. '
        f'{about["rounds"]} rounds of {about["steps"]} steps, contenders in rotation; median (quartiles) over the '
        'rounds. "medgen is faster by" is the ratio within a round.',
        '## Contenders',
        markdown_table(['contender', 'images/s', 'medgen is faster by', 'waiting for data', 'peak memory, MiB'], rows),
        'What medgen chose here: ' + '; '.join(f'{k} {v[0]}' for k, v in r['choices'].items()) + '.',
        '## A step of medgen by stage',
        markdown_table(
            ['stage', 'ms', 'share'], [[k, f'{v:.2f}', f'{100 * v / total:.1f} %'] for k, v in r['budget'].items()]
        ),
        f'A step needs {c["gflop_per_step"]:.1f} GFLOP, that is {1000 * c["gflop_per_step"] / total:.0f} GFLOP/s. '
        f'In {c["arithmetic"]} this machine multiplies big matrices with {c["product_gflops"]:.0f} GFLOP/s and '
        f'convolves 128 channels with {c["convolution_gflops"]:.0f} GFLOP/s. All convolutions and linear layers of a '
        f'step, each alone in its better layout, take {alone_ms:.1f} ms, {100 * alone_ms / total:.0f} % of the step.',
    ]
    if r['cold']:
        table = [
            [
                label,
                *[
                    f'{s:.2f}'
                    for s in (row['seconds'].get(k) for k in ('slices opened', 'trainer made', 'first batch'))
                ],
                f'{row["seconds"]["first step done"]:.2f}' if 'first step done' in row['seconds'] else 'not run',
            ]
            for label, row in [
                ('first call, makes the slices', r['cold']['once']),
                ('full network', r['cold']['full_network']),
                ('small network, 128 pixels', r['cold']['small_network']),
            ]
            if row
        ]
        parts += [
            f'## Cold start on {r["cold"]["once"]["slices"]} slices of 128 × 128 pixels',
            'Seconds since the start, without imports; files in the memory of the operating system.',
            markdown_table(['', 'slices opened', 'trainer made', 'first batch', 'first step done'], table),
        ]
    return '\n\n'.join(parts) + '\n'


STEPS = (50, 10) if GPU else (4, 2)


def arguments():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        '--out',
        type=Path,
        default=Path('benchmark'),
        help='folder of the result, train-NAME.md and .json (default: %(default)s)',
    )
    p.add_argument('--name', default='gpu' if GPU else 'cpu', help='name of the result (default: %(default)s)')
    p.add_argument('--quick', action='store_true', help='about a minute: few rounds; no memory, no cold start')
    p.add_argument(
        '--model',
        choices=['demo', 'unet'],
        default='unet' if GPU else 'demo',
        help='network and image size (default here: %(default)s)',
    )
    p.add_argument('--strategy', choices=['ddpm', 'rflow'], default='rflow', help='(default: %(default)s)')
    p.add_argument('--batch-size', type=int, default=16 if GPU else 8, help='(default here: %(default)s)')
    p.add_argument('--rounds', type=int, help='(default: 12, with --quick 4)')
    p.add_argument(
        '--steps', type=int, help=f'steps of a contender in a round (default here: {STEPS[0]}, with --quick {STEPS[1]})'
    )
    p.add_argument(
        '--workers',
        type=int,
        default=4 if GPU else 0,
        help='worker processes of the MONAI loader (default here: %(default)s)',
    )
    p.add_argument('--seed', type=int, default=42, help='(default: %(default)s)')
    p.add_argument('--data-dir', help='folder of patients; left out: the simulated cohort')
    p.add_argument('--only', help='only contenders whose name contains this, and medgen itself')
    p.add_argument('--child', help=argparse.SUPPRESS)
    p.add_argument('--step', action='store_true', help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    a = arguments()
    if a.child:
        print(json.dumps({'cold': cold_start, 'budget': budget}.get(a.child, memory_of)(a)))
        return
    a.rounds, a.steps = a.rounds or (4 if a.quick else 12), a.steps or STEPS[a.quick]
    makers = contenders(a)
    wanted = [n for n in makers if not a.only or a.only in n or n == 'medgen']
    names = [n for n in wanted if not makers[n][1]]
    built = build(a, names)
    speed, waiting = race(built, a.rounds, a.steps)
    m, rival = built['medgen'], built.get('denoising-diffusion-pytorch')
    t = m.trainer
    weights = f'{count_weights(t.raw_network):,} weights' + (
        f' (denoising-diffusion-pytorch: {count_weights(rival.network):,})' if rival else ''
    )
    result = dict(
        speed=speed,
        waiting=waiting,
        left_out={n: makers[n][1] for n in wanted if n not in names},
        choices=t.choices,
        **in_child(a, '--child=budget', f'--steps={10 if a.quick else 40}'),
        about=dict(
            model=a.model,
            image_size=t.image_shape[-1],
            batch_size=t.batch_size,
            strategy=a.strategy,
            seed=a.seed,
            rounds=a.rounds,
            steps=a.steps,
            slices=len(t.train.rows),
            weights=weights,
            machine=machine(),
            threads=torch.get_num_threads(),
            versions=', '.join(
                f'{n} {package(n)}'
                for n in ('medgen', 'torch', 'monai', 'accelerate', 'ema-pytorch', 'denoising-diffusion-pytorch')
            ),
        ),
    )
    result['memory'] = {} if a.quick else {n: in_child(a, f'--child={n}') for n in names}
    result['cold'] = None if a.quick else measure_cold_start(a)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / f'train-{a.name}.json').write_text(json.dumps(result, indent=1))
    (a.out / f'train-{a.name}.md').write_text(report(result))
    print(report(result))


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    main()
