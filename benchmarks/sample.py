#!/usr/bin/env python
"""Sampling speed of medgen, side by side with MONAI's DiffusionInferer and a pipeline of diffusers.

All contenders draw images with the same network, for the same masks, in as many evaluations, in one process in
rotation, so that a machine whose speed drifts slows all of them; the figure to read is the ratio within a round.
With --checkpoints it also compares images in bfloat16 with images in float32."""

import argparse
import json
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from monai.inferers import DiffusionInferer
from monai.networks import schedulers
from omegaconf import OmegaConf
from train import DEVICE, GPU, machine, package, spread, sync

from medgen.core.config import compose_config
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.inference import InferenceNetwork, forward_copy, inference_network
from medgen.diffusion.model import load_model
from medgen.diffusion.modes import mode_of_run
from medgen.diffusion.networks import count_weights, make_network
from medgen.diffusion.sampling import image_noise, sample
from medgen.diffusion.strategies import make_strategy
from medgen.metrics.sliced_wasserstein import sliced_wasserstein
from medgen.metrics.weights import import_torchvision

import_torchvision()  # which diffusers imports
import diffusers

# --- the contenders ---


class Setting:
    "What all contenders share: a network, masks, starting noise."

    def __init__(self, a):
        self.a, self.cfg = a, compose_config(mode='dual', model=a.model, strategy=a.strategy)
        c = OmegaConf.to_container(self.cfg, resolve=True)
        self.mode = mode_of_run(c)
        self.strategy = make_strategy(**c['strategy'], image_size=c['model']['image_size'])
        size = self.size = c['model']['image_size']
        torch.manual_seed(a.seed)
        self.network = (
            make_network(3, 2, **{k: v for k, v in c['model'].items() if k != 'image_size'}).to(DEVICE).eval()
        )
        for p in self.network.parameters():  # an untrained network has layers of zeros
            if p.ndim > 1 and not p.any():
                torch.nn.init.normal_(p, std=0.02)
        self.noise = image_noise(range(a.batch_size), (2, size, size), a.seed).to(DEVICE)
        self.condition = torch.full((a.batch_size, 1, size, size), -1.0, device=DEVICE)
        self.condition[:, :, size // 3 : size // 2, size // 3 : size // 2] = 1

    def autocast(self, on):
        return torch.autocast(DEVICE, torch.bfloat16, enabled=on)


def medgen(s, word='auto', tweak=None):
    "`sample` with the network of `inference_network`."
    network = inference_network(s.network, DEVICE, mixed_precision=word, strategy=s.strategy)[0]
    if tweak:
        network = tweak(s, network)
    return lambda: sample(
        network, s.strategy, s.mode, s.noise, s.condition, num_steps=s.a.evaluations, batch_size=s.a.batch_size
    )


def medgen_autocast(s):
    "`sample` with the plain network under autocast, which casts the weights at every call."

    def run():
        with s.autocast(True):
            return sample(
                s.network,
                s.strategy,
                s.mode,
                s.noise,
                s.condition,
                num_steps=s.a.evaluations,
                batch_size=s.a.batch_size,
            )

    return run


def monai(s, bf16):
    "MONAI's inferer, condition by concatenation, as in its tutorials."
    flow = s.a.strategy == 'rflow'
    scheduler = (
        schedulers.RFlowScheduler(num_train_timesteps=1000)
        if flow
        else schedulers.DDIMScheduler(num_train_timesteps=1000, schedule='cosine')
    )
    scheduler.set_timesteps(s.a.evaluations)
    inferer = DiffusionInferer(scheduler)

    def run():
        with s.autocast(bf16):
            return inferer.sample(s.noise, s.network, scheduler, conditioning=s.condition, mode='concat', verbose=False)

    return run


class Adapter(diffusers.ModelMixin, diffusers.ConfigMixin):
    "MONAI's network in the convention of diffusers; the condition is concatenated here."

    config_name = 'config.json'

    @diffusers.configuration_utils.register_to_config
    def __init__(self, in_channels: int = 2, sample_size: int = 48):
        super().__init__()

    def forward(self, x, t):
        y = self.network(torch.cat([x, self.condition], 1), timesteps=t.expand(len(x)).to(x.device, torch.float32))
        return diffusers.models.unets.unet_2d.UNet2DOutput(
            sample=-y if self.flow else y
        )  # its flow points from data to noise


class FlowPipeline(diffusers.DiffusionPipeline):
    "`DDIMPipeline`, with the step of a flow scheduler; diffusers has none without a text encoder."

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, batch_size, num_inference_steps, generator, output_type='pt'):
        c = self.unet.config
        image = diffusers.utils.torch_utils.randn_tensor(
            (batch_size, c.in_channels, c.sample_size, c.sample_size),
            generator=generator,
            device=self._execution_device,
            dtype=self.unet.dtype,
        )
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            image = self.scheduler.step(self.unet(image, t).sample, t, image).prev_sample
        return diffusers.ImagePipelineOutput(images=(image / 2 + 0.5).clamp(0, 1))


def pipeline(s, bf16):
    "A pipeline of diffusers around the same network."
    unet = Adapter(2, s.size)
    unet.network, unet.condition, unet.flow = s.network, s.condition, s.a.strategy == 'rflow'
    made = (
        FlowPipeline(unet, diffusers.FlowMatchEulerDiscreteScheduler())
        if unet.flow
        else diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(beta_schedule='squaredcos_cap_v2'))
    )
    made.set_progress_bar_config(disable=True)
    made = made.to(DEVICE)

    def run():
        with s.autocast(bf16):
            return made(
                batch_size=s.a.batch_size,
                num_inference_steps=s.a.evaluations,
                generator=torch.Generator().manual_seed(0),
                output_type='pt',
            ).images

    return run


def other_layout(s, network):
    return InferenceNetwork(
        network.fast, torch.contiguous_format if GPU else torch.channels_last, network.exact, network.exact_from
    )


def other_attention(s, network):
    fused = not any(getattr(m, 'use_flash_attention', False) for m in network.fast.modules())
    return InferenceNetwork(
        forward_copy(s.network, DEVICE, network.dtype, fused), network.layout, network.exact, network.exact_from
    )


CONTENDERS = {
    'medgen': medgen,
    'MONAI DiffusionInferer': lambda s: monai(s, False),
    'diffusers pipeline': lambda s: pipeline(s, False),
    'MONAI DiffusionInferer, bfloat16 autocast': lambda s: monai(s, True),
    'diffusers pipeline, bfloat16 autocast': lambda s: pipeline(s, True),
    'medgen, float32': lambda s: medgen(s, 'fp32'),
    'medgen, bfloat16 by autocast': medgen_autocast,
    'medgen, ' + ('contiguous' if GPU else 'channels_last'): lambda s: medgen(s, tweak=other_layout),
    'medgen, the other attention': lambda s: medgen(s, tweak=other_attention),
}

# --- the race ---

CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)
CLOCK_TEXTS = dict(wall='that of the clock', cpu='CPU seconds of the process, as others used the machine')


def race(runs, rounds, images, clock):
    "Images per second of each contender in each round."
    speed = {name: [] for name in runs}
    for run in runs.values():
        run()
        sync()
    for r in range(rounds):
        print(f'round {r + 1} of {rounds}', file=sys.stderr)
        for name in [*runs][r % len(runs) :] + [*runs][: r % len(runs)]:
            start = clock()
            runs[name]()
            sync()
            speed[name].append(images / (clock() - start))
    return speed


def network_share(s):
    "Share of the time of medgen's `sample` that is spent in the network."
    network, spent = inference_network(s.network, DEVICE, strategy=s.strategy)[0], [0.0]

    def clocked(x, timesteps):
        sync()
        start = time.perf_counter()
        try:
            return network(x, timesteps=timesteps)
        finally:
            sync()
            spent[0] += time.perf_counter() - start

    def run():
        return sample(
            clocked, s.strategy, s.mode, s.noise, s.condition, num_steps=s.a.evaluations, batch_size=s.a.batch_size
        )

    run()
    spent[0] = 0.0
    start = time.perf_counter()
    run()
    sync()
    return spent[0] / (time.perf_counter() - start)


def memory_of(a):
    "Peak memory of a contender in MiB: of the GPU, or of the process beyond what imports and network take."

    def resident():  # ru_maxrss would count the parent
        return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 2**10

    a.evaluations = min(a.evaluations, 3)  # memory does not grow with more; three include both arithmetics
    s = Setting(a)
    before = 0 if GPU else resident()
    CONTENDERS[a.child](s)()
    sync()
    return torch.cuda.max_memory_allocated() / 2**20 if GPU else resident() - before


def in_child(a, name):
    given = [
        f'--{k.replace("_", "-")}={v}'
        for k, v in vars(a).items()
        if k in ('model', 'strategy', 'batch_size', 'seed', 'evaluations')
    ]
    done = subprocess.run([sys.executable, __file__, *given, f'--child={name}'], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


# --- what bfloat16 does to images of trained networks ---


def numerics(folder, evaluations=25, n=16):
    "Images of a checkpoint in bfloat16 against float32, for the same noise and masks; their distances to real"
    "slices; batches of 1 and 3 against 8."
    network, strategy, mode, about = load_model(folder, DEVICE)
    cfg = OmegaConf.create(about['config'])
    store, names = open_store(cfg, progress=False), tuple(dict.fromkeys([*mode.images, *mode.condition]))
    rows = store.select('val', cfg.mode.slices)
    rows = rows[np.linspace(0, len(rows) - 1, n).astype(int)]
    real, masks = mode.prepare(store.get(rows, names), DEVICE)

    def images(net, first=0, size=8, count=n, steps=evaluations):
        z = image_noise(range(first, first + count), about['image_shape'], 0).to(DEVICE)
        return (
            sample(
                net, strategy, mode, z, None if masks is None else masks[:count], num_steps=steps, batch_size=size
            ).clamp(-1, 1)
            / 2
            + 0.5
        )

    nets = {
        'float32': inference_network(network, DEVICE, 'fp32')[0],
        'bfloat16 throughout': inference_network(network, DEVICE, 'bf16')[0],
        'bfloat16': inference_network(network, DEVICE, 'bf16', strategy=strategy)[0],
    }

    def gap(x, y):
        return dict(
            mean=(x - y).abs().mean().item(),
            largest=(x - y).abs().max().item(),
            other_side=((x > 0.5) != (y > 0.5)).float().mean().item(),
        )

    made, real = {k: images(v) for k, v in nets.items()}, real / 2 + 0.5
    exact, more, other = (
        made['float32'],
        images(nets['float32'], steps=evaluations + 1),
        images(nets['float32'], first=1000),
    )

    def swd(x, y=real):
        return sliced_wasserstein(x, y)['mean']

    return dict(
        strategy=type(strategy).__name__.removesuffix('Strategy')
        + (f', {strategy.prediction}' if hasattr(strategy, 'prediction') else ''),
        images=', '.join(mode.images),
        data=Path(str(cfg.paths.data_dir)).name if cfg.paths.data_dir else 'simulated',
        steps=about['step'],
        bf16=gap(made['bfloat16'], exact),
        throughout=gap(made['bfloat16 throughout'], exact),
        one_step_more=gap(more, exact),
        swd_real={k: swd(v) for k, v in (*made.items(), ('other noise', other))},
        swd_bf16=swd(made['bfloat16'], exact),
        swd_other=swd(other, exact),
        batch={
            k: max(gap(images(v, size=b, count=8), made[k][:8])['largest'] for b in (1, 3))
            for k, v in nets.items()
            if k != 'bfloat16 throughout'
        },
    )


# --- the report ---


def setting_report(r):
    "The Markdown of one setting."
    about, ours = r['about'], np.array(r['speed']['medgen'])
    rows = [
        [name, spread(v, '{:.3g}'), spread(ours / v), f'{r["memory"][name]:.0f}' if name in r['memory'] else '']
        for name, v in r['speed'].items()
    ]
    rivals = [
        (n, float(np.median(ours / r['speed'][n])))
        for n in ('MONAI DiffusionInferer', 'diffusers pipeline')
        if n in r['speed']
    ]
    goal = '; '.join(f'against {n} {m:.2f}: {"met" if m >= about["goal"] else "missed"}' for n, m in rivals)
    return '\n\n'.join(
        [
            f'## {about["model"]} network, {about["image_size"]} pixels, batch {about["batch_size"]}, '
            f'{about["strategy"]}, {about["evaluations"]} evaluations',
            f'{about["rounds"]} rounds, {about["weights"]:,} weights. medgen spends {100 * r["network_share"]:.1f} '
            f'% of the time in the network. Goal {about["goal"]} times as fast: {goal}.',
            markdown_table(['contender', 'images/s', 'medgen is faster by', 'peak memory, MiB'], rows),
            'What medgen chose here: ' + '; '.join(f'{k} {v[0]}' for k, v in r['choices'].items()) + '.',
        ]
    )


def numerics_report(rows, evaluations=25):
    "The Markdown of the comparison of arithmetics."

    def g(d):
        return f'{d["mean"]:.5f} / {d["largest"]:.3f} / {100 * d["other_side"]:.2f} %'

    first = [
        [r['images'], r['strategy'], r['data'], r['steps'], g(r['bf16']), g(r['throughout']), g(r['one_step_more'])]
        for r in rows
    ]
    second = [
        [
            r['images'],
            r['strategy'],
            r['data'],
            *[f'{r["swd_real"][k]:.3f}' for k in ('float32', 'bfloat16', 'other noise')],
            f'{r["swd_bf16"]:.4f}',
            f'{r["swd_other"]:.3f}',
            *[f'{r["batch"][k]:.1e}' for k in ('float32', 'bfloat16')],
        ]
        for r in rows
    ]
    return '\n\n'.join(
        [
            '## Images in bfloat16 against float32',
            f'16 images of trained small networks, {evaluations} evaluations, the same noise and masks; image '
            'range 1. Mean difference / largest / pixels on the other side of one half.',
            markdown_table(
                [
                    'images',
                    'strategy',
                    'data',
                    'steps trained',
                    'bfloat16 as chosen',
                    'bfloat16 throughout',
                    f'float32, {evaluations + 1} evaluations',
                ],
                first,
            ),
            'Sliced Wasserstein distances: to real slices of float32, bfloat16 and float32 from other noise; of '
            'bfloat16 and of other noise to float32. Then the largest difference of an image between batches of 1 '
            'or 3 and of 8.',
            markdown_table(
                [
                    'images',
                    'strategy',
                    'data',
                    'float32 to real',
                    'bfloat16 to real',
                    'other noise to real',
                    'bfloat16 to float32',
                    'other noise to float32',
                    'batches, float32',
                    'batches, bfloat16',
                ],
                second,
            ),
        ]
    )


def report(result):
    about = result['about']
    parts = [
        '# Sampling speed',
        f'{about["machine"]}, {about["threads"]} threads; {about["versions"]}; seed {about["seed"]}. Time is '
        f'{CLOCK_TEXTS[about["clock"]]}. '
        'Contenders in rotation in one process; median (quartiles) over the rounds. '
        '"medgen is faster by" is the ratio within a round. Memory: each contender in a process of its own, beyond '
        'the network in float32 and the imports.',
        *[setting_report(r) for r in result['settings']],
    ]
    return '\n\n'.join(parts + ([numerics_report(result['numerics'])] if result['numerics'] else [])) + '\n'


def measure(a):
    "One setting: race, memory, share of the network."
    s = Setting(a)
    runs = {name: make(s) for name, make in CONTENDERS.items() if not a.only or a.only in name or name == 'medgen'}
    speed = race(runs, a.rounds, a.batch_size, CLOCKS[a.clock])
    return dict(
        speed=speed,
        memory={} if a.quick else {n: in_child(a, n) for n in runs},
        network_share=network_share(s),
        choices=inference_network(s.network, DEVICE, strategy=s.strategy)[1],
        about=dict(
            model=a.model,
            image_size=s.size,
            batch_size=a.batch_size,
            strategy=a.strategy,
            evaluations=a.evaluations,
            rounds=a.rounds,
            weights=count_weights(s.network),
            goal=2.0 if GPU else 1.5,
        ),
    )


SETTINGS = (
    ['unet:rflow:32:6:25', 'unet:ddpm:32:6:25']
    if GPU
    else ['demo:rflow:8:6:25', 'demo:ddpm:8:4:25', 'demo:rflow:64:2:10', 'unet:rflow:1:2:5']
)


def arguments():
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        '--out',
        type=Path,
        default=Path('benchmark'),
        help='folder of the result, sample-NAME.md and .json (default: %(default)s)',
    )
    p.add_argument('--name', default='gpu' if GPU else 'cpu', help='name of the result (default: %(default)s)')
    p.add_argument('--quick', action='store_true', help='no memory, and only the first of the default settings')
    p.add_argument(
        '--settings',
        nargs='*',
        metavar='MODEL:STRATEGY:BATCH:ROUNDS:EVALUATIONS',
        help=f'what to measure (default here: {" ".join(SETTINGS)})',
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
    p.add_argument('--only', help='only contenders whose name contains this, and medgen itself')
    p.add_argument(
        '--checkpoints', nargs='*', default=[], help='run folders whose images are compared between arithmetics'
    )
    for name, kind in dict(model=str, strategy=str, batch_size=int, evaluations=int, child=str).items():
        p.add_argument(f'--{name.replace("_", "-")}', type=kind, help=argparse.SUPPRESS)
    return p.parse_args()


def save(a, result):
    "Write what is known so far, so that a run that is cut short is not lost."
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / f'sample-{a.name}.json').write_text(json.dumps(result, indent=1))
    (a.out / f'sample-{a.name}.md').write_text(report(result))


def main():
    a = arguments()
    if a.child:
        print(json.dumps(memory_of(a)))
        return
    if a.settings is None:
        a.settings = SETTINGS[:1] if a.quick else SETTINGS
    result = dict(
        settings=[],
        numerics=[],
        about=dict(
            machine=machine(),
            threads=torch.get_num_threads(),
            seed=a.seed,
            clock=a.clock,
            versions=', '.join(f'{n} {package(n)}' for n in ('medgen', 'torch', 'monai', 'diffusers')),
        ),
    )
    for text in a.settings:
        model, strategy, *numbers = text.split(':')
        batch, rounds, evaluations = map(int, numbers)
        result['settings'].append(
            measure(
                argparse.Namespace(
                    **vars(a)
                    | dict(model=model, strategy=strategy, batch_size=batch, rounds=rounds, evaluations=evaluations)
                )
            )
        )
        save(a, result)
    for folder in a.checkpoints:
        result['numerics'].append(numerics(folder))
        save(a, result)
    print(report(result))


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    main()
