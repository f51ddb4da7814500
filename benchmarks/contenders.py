"""The contenders of train.py: medgen, medgen without one of its choices, and two rivals on the same slices."""

import contextlib
import io
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from ema_pytorch import EMA
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader, Dataset
from monai.networks import schedulers
from monai.optimizers import WarmupCosineSchedule
from PIL import Image

from medgen.core.config import compose_config
from medgen.data.store import open_store
from medgen.diffusion.networks import count_weights, make_network
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.weights import import_torchvision

GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
LUCID = find_spec('denoising_diffusion_pytorch') is not None
if LUCID:
    import_torchvision()  # which it imports
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet


def sync():
    "Wait for the GPU, if there is one."
    if GPU:
        torch.cuda.synchronize()


def configure(a, **changes):
    "The configuration of all contenders: dual mode, without the perceptual loss, which no rival has."
    given = dict(
        mode='dual',
        model=a.model,
        strategy=a.strategy,
        seed=a.seed,
        batch_size=a.batch_size,
        perceptual_weight=0,
        epochs=200,
        data_dir=a.data_dir,
    )
    return compose_config(**(given | changes))


# --- medgen, as it is and without one of its choices ---


class Medgen:
    "The epoch loop of `DiffusionTrainer`: batch, step, fetched numbers."

    def __init__(self, a, tweak=None, **changes):
        cfg = configure(a, **changes)
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = t = DiffusionTrainer.from_config(cfg, open_store(cfg, progress=False), self.folder.name)
        t.choose_compile()
        self.every, self.waited, self.images = (1, 20)[GPU], 0.0, t.batch_size
        self.network = t.raw_network
        if tweak:
            tweak(self)
        t.network.train()
        self.batches = self.endless()

    def endless(self):
        for epoch in range(10**6):
            yield from self.trainer.batches(epoch)

    def run(self, steps):
        pending = []
        for i in range(steps):
            start = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - start
            pending.append(self.trainer.train_step(batch)[1:3])
            if len(pending) == self.every or i == steps - 1:
                for loss, norm in pending:
                    loss.item(), float(norm)
                pending.clear()


class NoTF32(Medgen):
    "Products of float32 numbers in full precision."

    def run(self, steps):
        torch.set_float32_matmul_precision('highest')
        torch.backends.cudnn.allow_tf32 = False
        try:
            super().run(steps)
        finally:
            torch.set_float32_matmul_precision('high')
            torch.backends.cudnn.allow_tf32 = True


def other_layout(m):
    for network in (m.trainer.network, m.trainer.ema):
        network.to(memory_format=torch.contiguous_format if GPU else torch.channels_last)


def set_attention(network, on):
    "torch's scaled_dot_product_attention, or MONAI's own."
    for module in network.modules():
        if hasattr(module, 'use_flash_attention'):
            module.use_flash_attention = on


def plain_adamw(m):
    for group in m.trainer.optimizer.param_groups:
        group['fused'] = None


def slow_ema(m):
    m.trainer.ema.use_foreach = False


def fetch_each_step(m):
    m.every = 1


def use_loader(m):
    "A DataLoader that reads slice by slice instead of batches cut from the arrays."
    t = m.trainer

    class Slices(torch.utils.data.Dataset):
        def __len__(self):
            return len(t.train.rows)

        def __getitem__(self, i):
            return {k: v[0] for k, v in t.store.get(t.train.rows[i : i + 1], t.names).items()}

    loader = torch.utils.data.DataLoader(Slices(), t.batch_size, shuffle=True, drop_last=True, pin_memory=GPU)
    m.trainer.batches = lambda epoch: loader


# --- (a) a plain MONAI loop ---


def monai_slices(cfg, store):
    "The same training slices, read, scaled, resized and cached by MONAI as its tutorials do."
    names, size = [*cfg.mode.images, *cfg.mode.condition], cfg.model.image_size
    index = store.index.iloc[store.select('train', cfg.mode.slices)]
    files = [
        {n: str(store.data_dir / 'train' / p / cfg.data.modalities[n]) for n in names} for p in index.patient.unique()
    ]
    axis = store.patients.axis.iloc[0]
    volumes = CacheDataset(
        files,
        mt.Compose(
            [
                mt.LoadImaged(names),
                mt.EnsureChannelFirstd(names),
                mt.Orientationd(names, 'RAS', labels=None),
                mt.ScaleIntensityd(names),
                mt.Resized(
                    names,
                    [-1 if i == axis else size for i in range(3)],
                    mode=['nearest' if n == 'seg' else 'area' for n in names],
                ),
            ]
        ),
        progress=False,
    )
    volume = dict(zip(index.patient.unique(), volumes))
    return [{n: volume[p][n].select(axis + 1, s) for n in names} for p, s in zip(index.patient, index.slice)]


class MonaiLoop:
    "The loop of MONAI's diffusion tutorials; on a GPU with float16 and gradient scaling, as there."

    def __init__(self, a, features=False, bf16=False):
        cfg = configure(a)
        store, c = open_store(cfg, progress=False), cfg.training
        self.cfg, self.features, self.images, self.waited = cfg, features, c.batch_size, 0.0
        rows = monai_slices(cfg, store)
        self.loader = DataLoader(
            Dataset(rows),
            batch_size=c.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=a.workers,
            persistent_workers=a.workers > 0,
            pin_memory=GPU,
        )
        torch.manual_seed(a.seed)
        model = {k: v for k, v in cfg.model.items() if k != 'image_size'}
        self.network = (
            make_network(len(cfg.mode.images) + len(cfg.mode.condition), len(cfg.mode.images), **model)
            .to(DEVICE)
            .train()
        )
        set_attention(self.network, False)  # MONAI's default
        self.flow = cfg.choices.strategy == 'rflow'
        self.scheduler = (
            schedulers.RFlowScheduler(num_train_timesteps=1000)
            if self.flow
            else schedulers.DDPMScheduler(num_train_timesteps=1000, schedule='cosine')
        )
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=c.lr, weight_decay=c.weight_decay)
        steps = len(self.loader)
        self.schedule = (
            WarmupCosineSchedule(self.optimizer, c.warmup_epochs * steps, c.epochs * steps, warmup_multiplier=0.1)
            if features
            else None
        )
        self.ema = (
            EMA(self.network, beta=c.ema_decay, update_after_step=0, update_every=1, include_online_model=False)
            if features
            else None
        )
        self.autocast = lambda: torch.autocast(DEVICE, torch.bfloat16 if bf16 else torch.float16, enabled=GPU or bf16)
        self.scaler = torch.amp.GradScaler(DEVICE, enabled=GPU and not bf16)
        self.batches = self.endless()

    def endless(self):
        while True:
            yield from self.loader

    def step(self, batch):
        x = torch.cat([batch[n] for n in self.cfg.mode.images], 1).to(DEVICE) * 2 - 1
        condition = torch.cat([batch[n] for n in self.cfg.mode.condition], 1).to(DEVICE) * 2 - 1
        noise = torch.randn_like(x)
        t = self.scheduler.sample_timesteps(x) if self.flow else torch.randint(0, 1000, (len(x),), device=DEVICE)
        with self.autocast():
            out = self.network(
                torch.cat([self.scheduler.add_noise(original_samples=x, noise=noise, timesteps=t), condition], 1),
                timesteps=t,
            )
            loss = torch.nn.functional.mse_loss(out.float(), x - noise if self.flow else noise)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.features:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.training.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.features:
            self.schedule.step()
            self.ema.update()
        return loss.item()

    def run(self, steps):
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - start
            self.step(batch)


# --- (b) denoising-diffusion-pytorch ---


class Lucid:
    "Its Trainer, its Unet of about as many weights, on PNGs of one sequence of the same slices; unconditional."

    def __init__(self, a):
        cfg = configure(a)
        store, self.folder, size = open_store(cfg, progress=False), tempfile.TemporaryDirectory(), cfg.model.image_size
        folder = Path(self.folder.name)
        rows = store.select('train', cfg.mode.slices)
        for row, image in zip(rows, store.get(rows, (cfg.mode.images[0],))[cfg.mode.images[0]]):
            Image.fromarray((image[0].clamp(0, 1) * 255).byte().numpy()).save(folder / f'{row}.png')
        mults = tuple(round(c / cfg.model.channels[0]) for c in cfg.model.channels)

        def weights(dim):
            with torch.device('meta'):
                return count_weights(Unet(dim=dim, dim_mults=mults, channels=1))

        aim = count_weights(make_network(3, 2, **{k: v for k, v in cfg.model.items() if k != 'image_size'}))
        self.network = Unet(
            dim=min(range(8, 161, 4), key=lambda dim: abs(weights(dim) - aim)), dim_mults=mults, channels=1
        )
        batch = cfg.training.batch_size
        accumulate = -(-16 // batch)  # it refuses less than 16 images a step
        self.images, self.waited = batch * accumulate, None
        AcceleratorState._reset_state()  # a trainer of another arithmetic may have been here
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer = Trainer(
                GaussianDiffusion(self.network, image_size=size, timesteps=1000),
                folder,
                train_batch_size=batch,
                gradient_accumulate_every=accumulate,
                train_lr=cfg.training.lr,
                train_num_steps=0,
                save_and_sample_every=10**9,
                results_folder=folder / 'results',
                amp=GPU,
                mixed_precision_type='bf16',
                calculate_fid=False,
            )

    def run(self, steps):
        self.trainer.train_num_steps = self.trainer.step + steps
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.trainer.train()


# --- contenders and race ---


def contenders(a):
    "Name -> (maker, why it cannot run here); the first one is what the others are compared with."
    gpu, lucid = '' if GPU else 'not measured: no GPU', '' if LUCID else 'not measured: not installed'
    return {
        'medgen': (lambda: Medgen(a), ''),
        'MONAI loop as in its tutorials': (lambda: MonaiLoop(a), ''),
        'MONAI loop + EMA, clipping, schedule': (lambda: MonaiLoop(a, features=True), ''),
        'MONAI loop + EMA, clipping, schedule, bfloat16': (lambda: MonaiLoop(a, features=True, bf16=True), ''),
        'denoising-diffusion-pytorch': (lambda: Lucid(a), lucid),
        'medgen, float32': (lambda: Medgen(a, mixed_precision='fp32'), ''),
        'medgen, bfloat16': (lambda: Medgen(a, mixed_precision='bf16'), ''),
        'medgen, ' + ('contiguous' if GPU else 'channels_last'): (lambda: Medgen(a, other_layout), ''),
        'medgen, ' + ("MONAI's own attention" if GPU else 'scaled_dot_product_attention'): (
            lambda: Medgen(a, lambda m: set_attention(m.network, not GPU)),
            '',
        ),
        'medgen, AdamW not fused': (lambda: Medgen(a, plain_adamw), ''),
        'medgen, EMA weight by weight': (lambda: Medgen(a, slow_ema), ''),
        'medgen, DataLoader': (lambda: Medgen(a, use_loader), ''),
        'medgen, numbers fetched every step': (lambda: Medgen(a, fetch_each_step), gpu),
        'medgen, slices not held on the device': (lambda: Medgen(a, hold_on_device='never'), gpu),
        'medgen, no torch.compile': (lambda: Medgen(a, compile='never'), gpu),
        'medgen, always torch.compile': (lambda: Medgen(a, compile='always'), gpu),
        'medgen, float32 without TF32': (lambda: NoTF32(a, mixed_precision='fp32'), gpu),
    }
