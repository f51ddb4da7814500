"""The experiments of gpu.py: each is called in a process of its own and returns plain values."""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from medgen.core.config import compose_config
from medgen.core.processes import exact_float32, float32_as
from medgen.data.store import open_store
from medgen.diffusion.inference import inference_network
from medgen.diffusion.run import largest_batch
from medgen.diffusion.sampling import fresh_noise, image_noise, sample
from medgen.diffusion.step import TrainingError, small_training
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.features import extract
from medgen.metrics.intervals import NotComputed

GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
SMALL = sys.argv[-1] == 'small'


def synchronize():
    if GPU:
        torch.cuda.synchronize()


def seconds_of(call, repeats, warm_up=3):
    "Median seconds of a call."
    times = []
    for _ in range(warm_up + repeats):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[warm_up:]))


def new_trainer(folder, layout=None, **choices):
    "A trainer of the small training of the notebooks, or of the full network on the simulated cohort."
    choices = dict(mode='dual', strategy='rflow', perceptual_weight=0) | choices
    if SMALL:
        cfg, store = small_training(**choices)
    else:
        cfg = compose_config(model='unet', data_dir=None, **dict(epochs=200) | choices)
        store = open_store(cfg, progress=False)
    trainer = DiffusionTrainer.from_config(cfg, store, folder)
    if layout:
        trainer.raw_network.to(memory_format=getattr(torch, layout))
    return trainer


# --- what a GPU does meanwhile ---


def busy_seconds(events):
    "Time in which at least one kernel or copy ran."
    total, end = 0.0, 0.0
    for start, stop in sorted((e.time_range.start, e.time_range.end) for e in events):
        total, end = total + max(0.0, stop - max(start, end)), max(end, stop)
    return total / 1e6


def profiled(call, repeats=5):
    "Busy share, blocking copies and waits per call; nothing without a GPU."
    if not GPU:
        return {}
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize()
        wall = time.perf_counter() - start
    events = profile.events()
    on_gpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]

    def per_call(chosen, *words):
        return sum(all(word in e.name for word in words) for e in chosen) / repeats

    return dict(
        busy_share=busy_seconds(on_gpu) / wall,
        copies_to_gpu=per_call(on_gpu, 'Memcpy HtoD'),
        blocking_copies=per_call(on_gpu, 'Memcpy HtoD', 'Pageable'),
        waits=per_call(events, 'cudaStreamSynchronize'),
    )


def ceiling():
    "TFLOP/s of a large product, in each arithmetic: what the best kernels reach here."
    n = 256 if SMALL else 8192
    out = {}
    for name, dtype, context in (
        ('fp32', torch.float32, exact_float32),
        ('tf32', torch.float32, partial(float32_as, tf32=True)),
        ('bf16', torch.bfloat16, exact_float32),
    ):
        a, b = torch.randn(2, n, n, device=DEVICE, dtype=dtype)
        with context():
            out[name] = 2 * n**3 / seconds_of(lambda: a @ b, 10) / 1e12
    return out


# --- training ---


def training_step(batch_size, precision, compile, layout):
    "Time, memory and utilisation of a step."
    with tempfile.TemporaryDirectory() as folder, float32_as(tf32=True, autotune=True):
        t = new_trainer(folder, layout, batch_size=batch_size, mixed_precision=precision, compile=compile)
        batches = iter([])

        def step():
            nonlocal batches
            batch = next(batches, None)
            if batch is None:
                batches = t.batches(0)
                batch = next(batches)
            t.train_step(batch)

        with FlopCounterMode(display=False) as flops:
            step()
        t.choose_compile()
        seconds = seconds_of(step, 3 if SMALL else 30)
        best = ceiling()['bf16' if precision == 'bf16' else 'tf32']
        rate = flops.get_total_flops() / seconds / 1e12
        out = dict(ms=1000 * seconds, images_per_second=batch_size / seconds, tflops=rate, mfu=rate / best)
        if GPU:
            out['peak_memory_mib'] = torch.cuda.max_memory_allocated() / 2**20
        return out | profiled(step)


def against_monai():
    "Images per second of medgen over those of a MONAI loop that trains the same, within rounds."
    from train import build, race

    batch, goal = 16, 2.0
    a = Namespace(model='unet', strategy='rflow', seed=42, batch_size=batch, data_dir=None)
    rival = 'MONAI loop + EMA, clipping, schedule'
    speed, _ = race(build(a, ['medgen', rival]), rounds=5, steps=10)
    ratio = float(np.median(np.array(speed['medgen']) / speed[rival]))
    return dict(medgen=float(np.median(speed['medgen'])), monai=float(np.median(speed[rival])), ratio=ratio, goal=goal)


def loss_curve(precision, compile):
    "The mean loss of the first and of the last tenth of some steps, from the same start."
    with tempfile.TemporaryDirectory() as folder, float32_as(tf32=True, autotune=True):
        steps = 20 if SMALL else 400
        t = new_trainer(folder, batch_size=16, mixed_precision=precision, compile=compile, lr=1e-3)
        t.choose_compile()
        losses = []
        while len(losses) < steps:
            losses += [t.train_step(batch).loss for batch in t.batches(len(losses))]
        losses = torch.stack(losses[:steps]).tolist()
        tenth = steps // 10
        return dict(first=float(np.mean(losses[:tenth])), last=float(np.mean(losses[-tenth:])))


def resume():
    "The largest difference of a weight between a run of two epochs and one that was resumed after the first."
    choices = dict(batch_size=16, mixed_precision='fp32', compile='never', val_interval=1)
    if not SMALL:
        choices |= dict(val_slices=8, sample_slices=4, sample_steps=2)

    def stop_after_one_epoch():
        return 'asked' if t.epoch >= 1 else None

    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as parts:
        t = new_trainer(whole, epochs=2, **choices)
        t.fit()
        expected = {k: v.cpu().clone() for k, v in t.raw_network.state_dict().items()}
        t = new_trainer(parts, epochs=2, **choices)
        t.fit(stop=stop_after_one_epoch)
        t = new_trainer(parts, epochs=2, **choices)
        t.resume(parts)
        t.fit()
        gaps = [(v.cpu() - expected[k]).abs().max().item() for k, v in t.raw_network.state_dict().items()]
    return dict(largest_difference=max(gaps), epochs=t.epoch)


def memory_advice():
    "What the message advises when memory runs out, and what is true."
    if not GPU:
        return dict(skipped='needs a GPU')
    size, advised = 64, None
    with tempfile.TemporaryDirectory() as folder:
        t = new_trainer(folder, batch_size=1, compile='never')
        rows = np.resize(t.train.rows, 2**16)
        while advised is None:
            size *= 2
            try:
                t.batch_size = size
                t.train_step(t.store.get(rows[:size], t.names))
            except TrainingError as e:
                advised = int(re.search(r'batch_size=(\d+) fits', str(e))[1])
        true = {n: t.fits(t.store.get(rows[:n], t.names), n) for n in (advised, advised * 5 // 4, advised * 2)}
    return dict(failed=size, advised=advised, **{f'{n} fits': fits for n, fits in true.items()})


def auto_batch():
    "The batch that batch_size=auto takes, and how long the search lasts."
    start = time.perf_counter()
    size = largest_batch(compose_config(model='unet', data_dir=None, mode='dual', batch_size='auto'))
    return dict(batch_size=size, search_seconds=time.perf_counter() - start)


def two_processes():
    "The final loss of a short run by one and by two processes."
    if torch.cuda.device_count() < 2:
        return dict(skipped='needs two GPUs')
    out = {}
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            several = [f'num_processes={n}', 'multi_gpu=true'] if n > 1 else []
            options = ['mode=seg', 'epochs=2', 'val_interval=2', 'batch_size=32', f'output_dir={folder}', *several]
            subprocess.run([sys.executable, '-m', 'medgen.scripts.train', *options], check=True, capture_output=True)
            history = next(Path(folder).glob('*/history.jsonl')).read_text().splitlines()
            out[f'loss_with_{n}'] = json.loads(history[-1])['loss']
    return out


# --- sampling ---


def drawing(precision, compile, strategy='rflow'):
    "A network for inference, its trainer, and masks to draw for."
    folder = tempfile.mkdtemp()
    t = new_trainer(folder, batch_size=16, mixed_precision='fp32', strategy=strategy)
    batch = t.store.get(np.resize(t.val_rows, 4 if SMALL else 64), t.names)
    condition = t.mode.prepare(batch, DEVICE).condition
    network, _ = inference_network(t.raw_network, DEVICE, precision, compile, t.strategy)
    return network, t, condition


def sampling(precision, compile):
    "Images per second, and what the GPU does meanwhile."
    network, t, condition = drawing(precision, compile)
    n, steps = len(condition), 4 if SMALL else 25
    noise = image_noise(range(n), t.image_shape, 0).to(DEVICE)

    def draw():
        sample(network, t.strategy, t.mode, noise, condition, steps, n, 'dpm_solver')

    out = dict(images_per_second=n / seconds_of(draw, 2, warm_up=1), evaluations=steps)
    return out | {f'{k}_per_walk' if k != 'busy_share' else k: v for k, v in profiled(draw, 1).items()}


def fresh_noise_price():
    "Milliseconds of an evaluation, and of the fresh noise that a stochastic sampler adds after it."
    network, t, condition = drawing('auto', 'never')
    n = len(condition)
    x = t.mode.model_input(image_noise(range(n), t.image_shape, 0).to(DEVICE), condition)
    numbers, times = torch.tensor([range(n), [0] * n]).to(DEVICE), torch.full((n,), 500.0, device=DEVICE)
    noise = 1000 * seconds_of(lambda: fresh_noise(numbers, t.image_shape, 0, 1), 10)
    evaluation = 1000 * seconds_of(lambda: network(x, timesteps=times), 3)
    return dict(evaluation_ms=evaluation, noise_ms=noise, share=noise / evaluation)


def image_hashes(first, count):
    "Hashes of some images, drawn in batches that are filled up; noise prediction, which amplifies rounding most."
    network, t, condition = drawing('auto', 'never', strategy='ddpm')
    indices = list(range(first, first + count))
    noise, masks = image_noise(indices, t.image_shape, 0).to(DEVICE), condition[[i % len(condition) for i in indices]]
    options = dict(num_steps=4 if SMALL else 25, batch_size=4, sampler='ancestral', indices=indices, seed=0, pad=True)
    images = sample(network, t.strategy, t.mode, noise, masks, **options).cpu().numpy()
    return dict(images={i: hashlib.sha256(x.tobytes()).hexdigest()[:12] for i, x in zip(indices, images)})


def features(count=512):
    "Feature vectors per second, where the weights are at hand."
    images, out = np.random.default_rng(0).random((count, 1, 128, 128), np.float32), {}
    for name in ('radimagenet_resnet50', 'inception'):
        try:
            seconds = seconds_of(lambda: extract(images, name, keep=False), 1, warm_up=1)
            out[f'{name}_per_second'] = count / seconds
        except NotComputed as e:
            out[f'{name}_skipped'] = str(e)[:80]
    return out


def notebook():
    "Seconds of the generation notebook, from small models of the simulated cohort."
    source = Path(__file__).parents[1] / 'nbs/generate.ipynb'
    with tempfile.TemporaryDirectory() as folder:
        options = ['-p', 'num_images', '16', '-p', 'output_dir', f'{folder}/set']
        command = [sys.executable, '-m', 'papermill', str(source), f'{folder}/out.ipynb', *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return dict(notebook_seconds=time.perf_counter() - start)


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    experiment = globals()[dict(fresh_noise='fresh_noise_price').get(sys.argv[1], sys.argv[1])]
    result = experiment(**json.loads(sys.argv[2]))
    device = torch.cuda.get_device_name() if GPU else 'CPU'
    print(json.dumps(dict(result=dict(device=device, **result))))
