#!/usr/bin/env python
"""How many network evaluations a trained model needs: quality of images against steps, for every sampler that suits it.

Takes run folders, or trains small ones first, and writes a table with intervals. Images that are drawn are kept in
--keep and found again, so the measurement can be interrupted, and made longer later. How it is decided what is enough
is told in nbs/explanations/how_many_evaluations.ipynb. Examples:

  python benchmarks/frontier.py --train runs/frontier --splits val test --name simulated
  python benchmarks/frontier.py --runs runs/A runs/B --splits val --n 64 --out benchmarks/results --name mine
  python benchmarks/frontier.py --check

Models of the same mode and data are also compared with the longest ancestral chain of each DDPM model among them.
Name=value pairs at the end are parameters of medgen for --train, for example data_dir=DIR.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from scipy import stats

from medgen.core.config import compose_config, versions
from medgen.core.processes import choose_bf16
from medgen.core.show import markdown_table
from medgen.data.lesions import label_lesions
from medgen.data.slices import MASK
from medgen.data.store import open_store
from medgen.diffusion.model import load_model
from medgen.diffusion.sampling import first_time, image_noise, sample
from medgen.diffusion.strategies import RFlowStrategy
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.sliced_wasserstein import laplacian_pyramid, sliced_wasserstein

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
FROM_MEAN = ' from mean'  # after the name of a sampler: begin at `first_time`, with the mean image
LONG = 200  # evaluations from which a chain is a reference
LARGEST = 0.04  # of the picture: masks above are taken for failures


# --- the slices that images are drawn for and compared with ---


class HeldOut(NamedTuple):
    "Real slices that generated images are compared with."

    rows: np.ndarray  # [N] of the store
    patients: np.ndarray  # [N] names
    images: torch.Tensor  # [N,C,H,W] in [0, 1]
    condition: torch.Tensor | None  # [N,K,H,W] in network space, with the position where the network sees it
    is_conditional: bool  # whether the mode has a condition of its own
    are_masks: bool


def balanced_rows(index, rows, n):
    "At most n rows, about equally many of each patient, evenly spaced within the patient."
    groups = [g.to_numpy() for _, g in pd.Series(rows).groupby(index.patient.to_numpy()[rows])]
    share = np.zeros(len(groups), int)
    for _ in range(min(n, len(rows))):
        share[min((i for i, g in enumerate(groups) if share[i] < len(g)), key=lambda i: share[i])] += 1
    return np.sort(
        np.concatenate([g[np.linspace(0, len(g) - 1, k).round().astype(int)] for g, k in zip(groups, share)])
    )


def slices_with_masks(store, splits):
    "Rows of some splits: with tumour where the store knows masks, else not empty."
    return np.concatenate([store.select(s, 'tumour' if MASK in store.names else 'nonempty') for s in splits])


def prepared(store, mode, rows):
    "Images and condition of some rows, as the mode makes them."
    return mode.prepare(store.get(rows, tuple(dict.fromkeys([*mode.images, *mode.condition]))), 'cpu')


def pick(store, mode, rows) -> HeldOut:
    "Slices of the store as the mode sees them."
    images, condition = prepared(store, mode, rows)
    patients = store.index.patient.to_numpy()[rows]
    return HeldOut(rows, patients, mode.to_images(images), condition, mode.is_conditional, mode.images == [MASK])


def held_out(store, mode, n, splits) -> HeldOut:
    "At most n slices that training has not seen."
    rows = slices_with_masks(store, splits)
    if not len(rows):
        raise ValueError(f'{store.data_dir}: no slice with a mask in {" and ".join(splits)}; name other --splits')
    return pick(store, mode, balanced_rows(store.index, rows, n))


def mean_slice(store, mode) -> torch.Tensor:  # [C,H,W] in network space
    "The mean of the training slices with tumour."
    return prepared(store, mode, slices_with_masks(store, ['train']))[0].mean(0)


# --- drawing ---


class Drawn(NamedTuple):
    "Images of one setting."

    images: torch.Tensor  # [N,C,H,W] in [0, 1]
    evaluations: int  # of the network, per image, counted
    seconds: float  # per image


def draw(model, held, sampler, num_steps, mean_image, a, device) -> Drawn:
    "An image for each held-out slice; image i has the same noise in every setting."
    (network, strategy, mode), calls, n = model, [], len(held.rows)
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    noise = image_noise(range(n), tuple(held.images.shape[1:]), a.seed).to(device)
    options = dict(
        condition=None if held.condition is None else held.condition.to(device),
        mean_image=mean_image if FROM_MEAN in sampler else None,
        num_steps=num_steps,
        batch_size=a.batch_size,
        sampler=sampler.removesuffix(FROM_MEAN),
    )
    start = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=a.bf16):
        x = sample(network, strategy, mode, noise, indices=range(n), seed=a.seed, **options)
    hook.remove()
    seconds, batches = (time.perf_counter() - start) / n, -(-n // a.batch_size)
    return Drawn(mode.to_images(x.float()).cpu(), len(calls) // batches, seconds)


def kept_as(keep: Path, held, sampler, steps, a) -> Path:
    "The file of a setting's images in a folder that belongs to one network."
    about = json.dumps([held.rows.tolist(), dict(bf16=a.bf16, seed=a.seed)])
    return keep / f'{sampler.replace(" ", "_")}-{steps}-{hashlib.sha256(about.encode()).hexdigest()[:8]}.npz'


def draw_or_read(file: Path, make) -> Drawn:
    "What a file keeps, or what is made now and kept."
    if file.exists():
        with np.load(file) as z:
            return Drawn(torch.from_numpy(z['images']), int(z['evaluations']), float(z['seconds']))
    drawn = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix('.part')
    with open(part, 'wb') as f:
        np.savez_compressed(f, images=drawn.images.numpy(), evaluations=drawn.evaluations, seconds=drawn.seconds)
    part.replace(file)
    return drawn


# --- distances, and distances of resamples ---
# In one dimension the Wasserstein distance is the area between two cumulative distribution functions. That of a
# resample is a weighted mean of those of its images. So the axis is cut into cells once and the area under each image's
# function is stored for each cell; a resample is then one matrix product. The sum over cells is exact except where the
# two functions cross within a cell: there it is too small, by less the finer the cells.


def projections(fake, real, n_patches=128, n_directions=256, size=7, seed=0):
    "Per level, as `sliced_wasserstein` makes them: projected patches of both sets [directions,N,patches], and moments."
    g = torch.Generator().manual_seed(seed)

    def patches(x, places):
        cut = [x[:, :, i : i + size, j : j + size].flatten(1) for i, j in places.tolist()]
        return torch.stack(cut, 1).flatten(0, 1)

    for f, r in zip(laplacian_pyramid(fake.float()), laplacian_pyramid(real.float())):
        places = torch.randint(0, f.shape[-1] - size + 1, (n_patches, 2), generator=g)
        f, r = patches(f, places), patches(r, places)
        mean, std = r.mean(), r.std().clamp_min(1e-6)
        directions = F.normalize(torch.randn(r.shape[1], n_directions, generator=g), dim=0)
        f, r = (f - mean) / std, (r - mean) / std
        moments = torch.stack([r, r.square()], 2).reshape(len(real), -1, 2).mean(1)  # of each real image
        yield *[(p @ directions).T.reshape(n_directions, -1, n_patches) for p in (f, r)], moments


def areas(values, edges):
    "Area [N,D*K] under each image's distribution function of `values` [D,N,P] within each cell of `edges` [D,K+1]."
    (D, N, P), K = values.shape, edges.shape[1] - 1
    cell = (torch.searchsorted(edges, values.reshape(D, -1).contiguous(), right=True) - 1).clamp(0, K - 1)
    slot = ((torch.arange(N).repeat_interleave(P) * D + torch.arange(D)[:, None]) * K + cell).flatten()
    count = torch.bincount(slot, minlength=N * D * K).reshape(N, D, K).double()
    total = torch.bincount(slot, values.reshape(-1).double(), N * D * K).reshape(N, D, K)
    below, edges = count.cumsum(2) - count, edges.double()
    return ((below * edges.diff() + count * edges[:, 1:] - total) / P).reshape(N, D * K).float()


class PatchDistance:
    "Sliced Wasserstein distance of two sets of images [N,C,H,W] in [0, 1], and of resamples of them."

    def __init__(self, fake, real, cells=128, **kwargs):
        self.distance, self.levels = 0.0, []
        for f, r, moments in projections(fake, real, **kwargs):
            sorted_f, sorted_r = [p.flatten(1).sort(1).values for p in (f, r)]
            self.distance += (sorted_f - sorted_r).abs().mean().item()
            at = torch.linspace(0, sorted_f.shape[1] - 1, cells // 2 + 1).long()
            edges = torch.cat([sorted_f[:, at], sorted_r[:, at]], 1).sort(1).values  # both sets lie within
            self.levels.append((areas(f, edges) / len(edges), areas(r, edges) / len(edges), moments))
        self.distance /= len(self.levels)

    def resampled(self, fake, real):
        "Distances [B] of resamples, given how often each image is in each of them [B,N]."
        f, r = [torch.as_tensor(w / w.sum(1, keepdims=True), dtype=torch.float32) for w in (fake, real)]

        def of_level(wf, wr, a, b, moments):
            std = (wr @ moments[:, 1] - (wr @ moments[:, 0]).square()).sqrt()  # the unit of `sliced_wasserstein`
            return (wf @ a - wr @ b).abs().sum(1) / std

        parts = zip(f.split(64), r.split(64))
        return torch.cat([sum(of_level(wf, wr, *level) for level in self.levels) for wf, wr in parts]).numpy() / len(
            self.levels
        )


def lesion_areas(masks):
    "Log of the pixels of each lesion, and the number of its mask."
    pixels = [np.bincount(label_lesions(m).ravel())[1:] for m in masks[:, 0].numpy() > 0.5]
    return np.log(np.concatenate(pixels)), np.repeat(np.arange(len(pixels)), [len(p) for p in pixels])


class LesionDistance:
    "Wasserstein distance of log lesion area of two sets of masks [N,1,H,W]; NaN where a set has no lesion."

    def __init__(self, fake, real):
        self.fake, self.real = lesion_areas(fake), lesion_areas(real)
        self.distance = self.resampled(*np.ones((2, 1, len(fake))))[0]

    def resampled(self, fake, real):
        "Distances [B] of resamples, given how often each mask is in each of them [B,N]."
        (f, of_fake), (r, of_real) = self.fake, self.real
        weights = zip(fake[:, of_fake], real[:, of_real])
        return np.array([stats.wasserstein_distance(f, r, u, v) if u.sum() and v.sum() else np.nan for u, v in weights])


def accepted(masks) -> float:
    "Share of masks that are not empty and cover less of the picture than LARGEST."
    area = masks.flatten(1).mean(1)
    return ((area > 0) & (area < LARGEST)).float().mean().item()


def measures_of(images, held) -> dict:
    "The distances that apply."
    measures = {'patches': PatchDistance(images, held.images)}
    return measures | ({'lesion area': LesionDistance(images, held.images)} if held.are_masks else {})


# --- resamples and intervals ---


def resamples(groups, n, seed):
    "How often each image is in each of n resamples [n,N], which draw whole groups with replacement."
    names, of = np.unique(groups, return_inverse=True)
    return np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)[:, of]


def interval(value, replicates, k):
    """95 % bootstrap interval. A resample holds the same image several times, which makes its distances larger, so
    only the spread around the resamples' mean is used; with few groups k it is widened (Hesterberg 2015)."""
    if np.isnan(replicates).mean() > 0.01:
        return np.nan, np.nan
    low, high = np.nanquantile(replicates, [0.025, 0.975]) - np.nanmean(replicates)
    wide = np.sqrt(k / (k - 1)) * stats.t.ppf(0.975, k - 1) / stats.norm.ppf(0.975)
    return value + wide * low, value + wide * high


def groups_of(held):
    "The group of each slice: its patient where there are at least six of them, else the slice itself; and its name."
    enough = len(set(held.patients)) >= 6
    return (held.patients, 'patients') if enough else (np.arange(len(held.rows)), 'slices')


def measure_all(drawn, held, n_resamples, seed) -> dict:  # setting -> measure -> (distance, those of the resamples)
    "Distances of all settings from the held-out slices; all see the same resamples, so differences are sharper."
    real = resamples(groups_of(held)[0], n_resamples, seed)
    unconditional = not held.is_conditional  # then a generated mask belongs to no patient
    fake = resamples(np.arange(len(held.rows)), n_resamples, seed + 1) if unconditional else real
    return {
        setting: {k: (m.distance, m.resampled(fake, real)) for k, m in measures_of(d.images, held).items()}
        for setting, d in drawn.items()
    }


def distance_table(drawn, held, measured, reference) -> pd.DataFrame:  # a row per measure and setting
    "Distances, and differences to the reference (one setting of `measured`, of this model or another), with intervals."
    groups, unit = groups_of(held)
    k, rows = len(set(groups)), []
    for (sampler, steps), d in drawn.items():
        for measure, (value, again) in measured[sampler, steps].items():
            low, high = interval(value, again, k)
            base, base_again = reference[measure]
            diff_low, diff_high = interval(value - base, again - base_again, k)
            row = dict(measure=measure, sampler=sampler, evaluations=d.evaluations)
            row |= dict(distance=value, low=np.maximum(low, 0), high=high)
            row |= dict(difference=value - base, diff_low=diff_low, diff_high=diff_high, seconds=d.seconds)
            rows.append(row | (dict(accepted=accepted(d.images)) if held.are_masks else {}))
    order = dict(by=['measure', 'sampler', 'evaluations'], ascending=[False, True, True], ignore_index=True)
    table = pd.DataFrame(rows).sort_values(**order)
    table.attrs.update(n=len(held.rows), groups=k, unit=unit)
    return table


def real_distances(store, mode, held, seed, draws=10) -> pd.DataFrame:  # a row per draw, a column per measure
    "Distances of as many real training slices from the held-out ones: what a perfect generator would reach."
    rows, rng, n = slices_with_masks(store, ['train']), np.random.default_rng(seed), len(held.rows)
    if len(rows) < n:
        raise ValueError(
            f'{len(rows)} training slices with a mask, {n} are needed; take fewer held-out slices with --n'
        )
    images = [pick(store, mode, np.sort(rng.choice(rows, n, replace=False))).images for _ in range(draws)]
    table = pd.DataFrame({'patches': [sliced_wasserstein(x, held.images)['mean'] for x in images]})
    if held.are_masks:
        table['lesion area'] = [LesionDistance(x, held.images).distance for x in images]
    return table


def allowance(table, margin, measure):
    "The difference that does not matter: a share of the reference's distance, or of real slices' if that is larger."
    one = table[table.measure == measure]
    return margin * max((one.distance - one.difference).iloc[0], table.attrs.get('floor', {}).get(measure, 0))


def smallest_enough(table, margin, measure='patches') -> pd.Series:  # sampler -> evaluations; <NA> where none is enough
    "The fewest evaluations that are surely no worse than the reference."
    one = table[table.measure == measure]
    least = one[one.diff_high < allowance(table, margin, measure)].groupby('sampler').evaluations.min()
    return least.reindex(one.sampler.unique()).astype('Int64')


# --- runs ---


def machine() -> str:
    "What the numbers were taken on."
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU with {os.cpu_count()} cores'
    return f'{name}, {torch.get_num_threads()} threads'


def train(folder: Path, overrides: list[str]):
    "The six runs of the demo's small network, each trained from wherever it stands."
    for mode in ('dual', 'bravo', 'seg'):
        for strategy in ('rflow', 'ddpm'):
            more = ['epochs=40', 'val_interval=20'] if mode == 'seg' else []  # fewer slices have a mask
            words = ['model=demo', 'training=demo', *more, *overrides, f'mode={mode}', f'strategy={strategy}']
            cfg, run = compose_config(words), folder / f'{mode}-{strategy}'
            trainer = DiffusionTrainer.from_config(cfg, open_store(cfg, progress=False), run)
            if (run / 'latest').exists():
                trainer.resume(run)
            trainer.fit()
            yield run


class Run:
    "A trained model, its held-out slices and what it drew."

    def __init__(self, folder: Path, a):
        self.folder, self.device = folder, 'cuda' if torch.cuda.is_available() else 'cpu'
        self.network, self.strategy, self.mode, about = load_model(folder, self.device)
        c = OmegaConf.create(about['config'])
        self.choice, self.steps, self.seed = c.choices.mode, about['step'], c.seed
        self.label = f'{c.choices.strategy}, {c.strategy.get("prediction", "velocity")}'
        self.is_ddpm, self.simulated = 'schedule' in c.strategy, about['simulated']
        self.store = open_store(c, progress=False)
        self.held = held_out(self.store, self.mode, a.n, a.splits)
        self.group = (self.choice, self.store.fingerprint)
        self.keep = a.keep / (about['files'].get('ema.safetensors') or about['files']['weights.safetensors'])[:12]

    def samplers(self):
        "Those that suit the strategy; the first is the usual one."
        straight = isinstance(self.strategy, RFlowStrategy)
        usual = ['euler', 'heun', 'dpm_solver'] if straight else ['ddim', 'ancestral', 'dpm_solver']
        late = first_time(self.strategy) < self.strategy.num_timesteps
        return usual + [s + FROM_MEAN for s in usual if late]

    def settings(self, a):
        "Those of the given settings whose sampler suits the strategy; with --kept, whose images are there."
        suited = [s for s in a.settings if s[0] in self.samplers()]
        return [s for s in suited if not a.kept or kept_as(self.keep, self.held, *s, a).exists()]

    def draw(self, a):
        "Draw the settings that are not kept; the cheapest first."
        mean, model, self.drawn = mean_slice(self.store, self.mode), (self.network, self.strategy, self.mode), {}
        for setting in sorted(self.settings(a), key=lambda s: s[1]):
            file = kept_as(self.keep, self.held, *setting, a)
            new = not file.exists()
            d = draw_or_read(file, lambda: draw(model, self.held, *setting, mean, a, self.device))
            self.drawn[setting] = d
            if new:
                words = f'{d.evaluations} evaluations, {d.seconds:.3g} s per image'
                print(f'{self.folder.name}: {setting[0]} {setting[1]}: {words}', flush=True)

    def reference(self):
        "The longest chain: ancestral for DDPM, the first sampler otherwise."
        first = 'ancestral' if self.is_ddpm else self.samplers()[0]
        return max(self.drawn, key=lambda s: (s[0] == first, s[1]))


def references(run: Run, rivals: list[Run]) -> dict:
    "What a run is compared with: its own long chains and those of each DDPM model of the same mode and data."
    late, key = any(FROM_MEAN in s for s in run.samplers()), run.reference()

    def is_long(s):  # where starts from the mean are tried, other chains are no reference, but for DDPM's own
        return s == key or s[1] >= LONG and (FROM_MEAN in s[0] or not late)

    own = {f'its own {s[0]} {s[1]}': run.measured[s] for s in run.measured if is_long(s)}
    others = [r for r in rivals if r is not run and r.group == run.group and r.is_ddpm]
    return own | {f'{r.label}: {" ".join(map(str, r.reference()))}': r.measured[r.reference()] for r in others}


def judge(run: Run, reference: str, measured: dict, real: pd.DataFrame, a) -> list[dict]:
    "The fewest evaluations of each sampler that are enough against one reference, by each measure."
    table, rows = distance_table(run.drawn, run.held, run.measured, measured), []
    table.attrs['floor'] = real.mean().to_dict()
    for measure in real.columns:
        one = table[table.measure == measure]
        base = float((one.distance - one.difference).iloc[0])
        for sampler, least in smallest_enough(table, a.margin, measure).items():
            row = dict(measure=measure, reference=reference, reference_distance=base, sampler=sampler, enough=None)
            if not pd.isna(least):
                there = one[(one.sampler == sampler) & (one.evaluations == least)].iloc[0]
                numbers = {k: float(there[k]) for k in ('distance', 'difference', 'diff_low', 'diff_high')}
                row |= dict(enough=int(least), **numbers)
            rows.append(row)
    return rows


def measure(run: Run, rivals: list[Run], a) -> dict:
    "Everything about a run, for the JSON file."
    real, key = real_distances(run.store, run.mode, run.held, a.seed), run.reference()
    table = distance_table(run.drawn, run.held, run.measured, run.measured[key])
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
        verdicts=[row for name, m in references(run, rivals).items() for row in judge(run, name, m, real, a)],
    )


# --- report ---


def verdict_table(results: list[dict]) -> str:
    "A line per model, measure, reference and sampler."
    names = ['mode', 'model', 'measure', 'reference', 'its distance', 'sampler', 'enough', 'difference there']

    def line(r, v):
        there = f'{v["difference"]:+.3f} ({v["diff_low"]:+.3f} .. {v["diff_high"]:+.3f})' if v['enough'] else ''
        first = [r['mode'], r['strategy'], v['measure'], v['reference'], f'{v["reference_distance"]:.3f}']
        return [*first, v['sampler'], v['enough'] or 'none', there]

    return markdown_table(names, [line(r, v) for r in results for v in r['verdicts']])


def frontier_table(r: dict, measure: str) -> str:
    "A line per number of evaluations, a column per sampler; * marks what is no worse than the reference."
    table = pd.DataFrame(r['table'])
    table.attrs['floor'] = r['floor']
    limit, one = allowance(table, r['margin'], measure), table[table.measure == measure]

    def cell(row):
        if np.isnan(row.distance):
            return 'no lesion'
        ends = '(?)' if np.isnan(row.low) else f'({row.low:.3f} .. {row.high:.3f})'
        return f'{row.distance:.3f} {ends}{" *" if row.diff_high < limit else ""}'

    cells = {(row.sampler, row.evaluations): cell(row) for row in one.itertuples()}
    samplers = list(one.sampler.unique())
    lines = [[e, *(cells.get((s, e), '') for s in samplers)] for e in sorted(one.evaluations.unique())]
    return markdown_table(['evaluations', *samplers], lines)


def report(about: dict, results: list[dict]) -> str:
    "Everything as Markdown."
    parts = [
        f'{about["data"]}; {about["machine"]}, network in {about["arithmetic"]}; noise of seed {about["seed"]}; '
        f'{about["resamples"]} resamples.',
        verdict_table(results),
    ]
    for r in results:
        for m in r['floor']:
            parts.append(
                f'## {r["mode"]}, {r["strategy"]}, {m}\n\n{r["trained_steps"]} training steps. Distance to {r["n"]} '
                f'held-out slices with 95 % interval ({r["groups"]} {r["unit"]} resampled); * is surely less than '
                f'{r["margin"]:.0%} worse than {r["reference"][0]} {r["reference"][1]}. Real training slices: '
                f'{r["floor"][m]:.3f} ± {r["floor_sd"][m]:.3f}.'
            )
            parts.append(frontier_table(r, m))
    return '\n\n'.join(parts) + '\n'


# --- checks of the measurement itself ---


def check_distances():
    "Resampled distances against the sets written out, and against medgen's own and scipy's."
    torch.manual_seed(0)
    real, fake = [F.avg_pool2d(torch.rand(12, 1, 34, 34), 3, 1) for _ in range(2)]
    fake, ones, eye = fake**1.1, np.ones((1, 12)), np.eye(12)
    p = PatchDistance(fake, real)
    assert PatchDistance(real, real).distance == 0 and abs(PatchDistance(real, real).resampled(ones, ones)) < 1e-5
    assert np.isclose(p.distance, sliced_wasserstein(fake, real)['mean'])
    assert np.isclose(p.resampled(ones, ones), p.distance, rtol=0.01)
    times = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=(5, 2))
    fast = p.resampled(times[:, 0], times[:, 1])
    written_out = [[x.repeat_interleave(torch.from_numpy(k), 0) for x, k in zip((fake, real), pair)] for pair in times]
    exact = np.array([sliced_wasserstein(*pair)['mean'] for pair in written_out])
    assert (fast <= exact * (1 + 1e-4)).all() and (fast > 0.99 * exact).all()
    masks, other = [(x > x.median()).float() for x in (fake, real)]
    lesions = LesionDistance(masks, other)
    assert np.isclose(lesions.distance, stats.wasserstein_distance(lesions.fake[0], lesions.real[0]))
    assert np.isclose(lesions.resampled(eye[3:4], eye[3:4])[0], LesionDistance(masks[3:4], other[3:4]).distance)
    assert np.isnan(LesionDistance(torch.zeros_like(masks), masks).distance)
    print('largest error of five resampled distances:', f'{abs(fast / exact - 1).max():.1%}')


def experiment(seed: int):
    "Twelve patients of three pictures; two kinds of generated ones; distance, difference, each (value, low, high)."
    g = torch.Generator().manual_seed(seed)

    def noise(scale):
        return scale * torch.randn(36, 1, 16, 16, generator=g)

    real = 0.5 + 0.1 * torch.randn(12, 1, 1, 1, generator=g).repeat_interleave(3, 0) + noise(0.1)
    same, w = noise(0.08), resamples(np.repeat(np.arange(12), 3), 200, seed)
    small = dict(n_patches=8, n_directions=16, cells=32)
    a, b = [PatchDistance(real - 0.05 + same + noise(s), real, **small) for s in (0.0, 0.05)]
    ra, rb, difference = a.resampled(w, w), b.resampled(w, w), b.distance - a.distance
    return [(a.distance, *interval(a.distance, ra, 12)), (difference, *interval(difference, rb - ra, 12))]


def check_intervals(n=100):
    "How often intervals hold the truth, which is the mean over many repetitions."
    runs = np.array([experiment(seed) for seed in range(n)])  # [experiment, quantity, (value, low, high)]
    truth = runs[:, :, 0].mean(0)
    covers = ((runs[:, :, 1] <= truth) & (truth <= runs[:, :, 2])).mean(0)
    print(f'intervals hold the truth in {covers[0]:.0%} (distance) and {covers[1]:.0%} (difference) of {n} experiments')
    assert covers.min() >= 0.88


def check_choices():
    "Balanced rows, and what is enough."
    index = pd.DataFrame(dict(patient=['a'] * 10 + ['b'] * 2 + ['c'] * 5))
    chosen = balanced_rows(index, np.arange(17), 8)
    assert index.patient[chosen].value_counts().to_dict() == dict(a=3, b=2, c=3)
    assert balanced_rows(index, np.arange(10), 3).tolist() == [0, 4, 9]
    t = pd.DataFrame(dict(measure='patches', sampler=['ddim'] * 4 + ['heun'] * 2, evaluations=[4, 8, 16, 50, 7, 15]))
    t['difference'], t['diff_high'] = [0.2, 0.01, 0.03, 0, 0.1, 0.0], [0.3, 0.04, 0.06, 0.01, 0.2, np.nan]
    t['distance'] = 0.5 + t.difference
    enough = smallest_enough(t, 0.1)  # heun: never, and an unknown interval is not enough
    assert enough.dropna().to_dict() == dict(ddim=8) and enough.isna().to_dict() == dict(ddim=False, heun=True)
    assert smallest_enough(t, 0.01).isna().all() and smallest_enough(t, 0.5).to_dict() == dict(ddim=8, heun=7)
    t.attrs['floor'] = dict(patches=3.1)  # real slices are much farther: a tenth of that
    assert smallest_enough(t, 0.1).to_dict() == dict(ddim=4, heun=7)
    masks = torch.zeros(3, 1, 10, 10)
    masks[1, 0, 0, :3], masks[2] = 1, 1
    assert np.isclose(accepted(masks), 1 / 3)


# --- command line ---

HELP = dict(
    overrides='parameters of medgen for --train, as name=value',
    runs='run folders or checkpoints',
    train='first train the small network, three modes with two strategies, into FOLDER',
    n='held-out slices at most (%(default)s)',
    settings='samplers with their evaluations, drawn where the sampler suits the strategy; '
    '"ddim from mean" begins later, from the mean image (%(default)s)',
    margin='difference that does not matter, as a share of the distance of the reference or, if larger, of real slices '
    '(%(default)s)',
    keep='where images are kept (%(default)s)',
    out='folder for frontier-NAME.md and frontier-NAME.json',
)


def arguments() -> argparse.Namespace:
    "What the command line says."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help=HELP['overrides'])
    parser.add_argument('--runs', nargs='+', type=Path, default=[], help=HELP['runs'])
    parser.add_argument('--train', type=Path, metavar='FOLDER', help=HELP['train'])
    parser.add_argument('--n', type=int, default=32, help=HELP['n'])
    parser.add_argument('--splits', nargs='+', default=['val'], help='held-out patients')
    parser.add_argument('--settings', nargs='+', default=PUBLISHED, metavar='SAMPLER:N,N', help=HELP['settings'])
    parser.add_argument('--margin', type=float, default=0.1, help=HELP['margin'])
    parser.add_argument('--resamples', type=int, default=1000, help='of the bootstrap (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of noise and resamples (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument('--arithmetic', choices=['auto', 'bf16', 'fp32'], default='auto', help='of the network')
    parser.add_argument('--keep', type=Path, default=Path('runs/frontier-images'), help=HELP['keep'])
    parser.add_argument('--kept', action='store_true', help='draw nothing, measure what is kept')
    parser.add_argument('--out', type=Path, help=HELP['out'])
    parser.add_argument('--name', default='frontier', help='of the results')
    parser.add_argument('--check', action='store_true', help='only check the measurement itself, on made-up pictures')
    a = parser.parse_args()
    if not (a.runs or a.train or a.check):
        parser.error('name run folders with --runs, or train some with --train')
    a.bf16 = choose_bf16(a.arithmetic, torch.cuda.is_available())[0]
    a.settings = [(name, int(n)) for name, numbers in (s.split(':') for s in a.settings) for n in numbers.split(',')]
    return a


def main():
    "Draw, measure, report."
    a = arguments()
    if a.check:
        return check_distances(), check_intervals(), check_choices()
    runs = [Run(f, a) for f in [*a.runs, *(train(a.train, a.overrides) if a.train else [])]]
    for run in runs:
        run.draw(a)
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
