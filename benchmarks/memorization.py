#!/usr/bin/env python
"""Search for copies of training images: what it finds, and how fast.

planted: copies of training images of thirteen kinds among slices of held-out patients, many splits of the patients into
         training, calibration and test. --data-dir: another cohort in the layout of the project (its images are not
         kept, numbers are).
overfit: models trained on 20 slices and the well-trained demo model, asked for images of the masks of test patients.
speed:   medgen against plain loops over the moves, the nearest images asserted equal; and the full size, with the peak
         of memory.

Everything is computed on the CPU. Results: memorization-PART-NAME.json and .md."""

import argparse
import json
import os
import resource
import sys
import time
import warnings
from collections import defaultdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from medgen.core.config import compose_config
from medgen.core.show import markdown_table
from medgen.data.simulate import cohort_dir
from medgen.data.slices import MASK, Recipe
from medgen.data.store import SliceStore, open_store
from medgen.diffusion.model import load_model
from medgen.diffusion.sampling import image_noise, sample
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.evaluation.memorization import evidence_text, show_pairs
from medgen.metrics.intervals import mean_interval, share_interval
from medgen.metrics.memorization import CopyIndex, ImageSource, PixelSearch, find_copies, membership, small_shifts

CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)
NAMES = 't1_pre', 't1_gd'


def spread(values, form='{:.3g}'):
    "Median and quartiles."
    return f'{form} ({form} to {form})'.format(*np.quantile(values, [0.5, 0.25, 0.75]))


def percent(shares):
    "Mean over splits with the 95 % interval of their mean, in percent."
    return f'{mean_interval(100 * np.asarray(shares, float)).clip(0, 100):.1f}'


def percent_of(called):
    "A share with its exact 95 % interval, in percent."
    share = share_interval(called.sum(), len(called))
    return f'{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})'


def reader(store, names):
    "A function that gives the images of rows."

    def read(rows):
        return np.concatenate([store.get(rows, (n,))[n].numpy() for n in names], 1)

    return read


# --- planted copies ---


def move_each(x, shifts, order):
    return np.stack([ndimage.shift(v, (0, *by), order=order) for v, by in zip(x, shifts)])


def shifted(x, rng, s):
    return move_each(x, rng.integers(-s, s + 1, (len(x), 2)), 0)


def shifted_far(x, rng, s):
    return move_each(x, 2 * s * rng.choice([-1, 1], (len(x), 2)), 0)


def shifted_by_parts(x, rng, s):
    return move_each(x, rng.uniform(-s, s, (len(x), 2)), 1)


def scaled(x, rng, s):
    return x * rng.uniform(0.6, 1.4, (len(x), 1, 1, 1))


def noisy(sd, x, rng, s):
    return x + rng.normal(0, sd, x.shape)


def blurred(x, rng, s):
    return ndimage.gaussian_filter(x, (0, 0, 1, 1))


def turned(x, rng, s):
    return ndimage.rotate(x, 3, axes=(2, 3), reshape=False, order=1)


def all_together(x, rng, s):
    return noisy(0.05, scaled(shifted(x[..., ::-1], rng, s), rng, s), rng, s)


KINDS = {  # of copies: (images [n,C,H,W], generator, most pixels) -> images
    'exact': lambda x, rng, s: x,
    'shifted': shifted,
    'shifted far': shifted_far,
    'shifted by parts of pixels': shifted_by_parts,
    'scaled brightness': scaled,
    'mirrored': lambda x, rng, s: x[..., ::-1],
    'upside down': lambda x, rng, s: x[:, :, ::-1],
    'noise 0.05': partial(noisy, 0.05),
    'noise 0.1': partial(noisy, 0.1),
    'blurred by 1 pixel': blurred,
    'turned by 3°': turned,
    'turned by 90°': lambda x, rng, s: np.rot90(x, axes=(2, 3)),
    'mirrored, shifted, scaled, noise 0.05': all_together,
}


def plant(images, kind, rng, shift):
    "Copies of images, changed in one way."
    return np.clip(KINDS[kind](np.asarray(images), rng, shift), 0, 1).astype(np.float32)


def largest_shift(side):
    "4 % of the picture, in pixels."
    return max(1, round(0.04 * side))


def open_cohort(data_dir, size, cache):
    return SliceStore.open(
        Path(data_dir) if data_dir else cohort_dir(cache, progress=False),
        Recipe(image_size=size),
        (*NAMES, MASK),
        cache,
        progress=False,
    )


def patients_split(store, shares, seed, kind):
    "Rows of training, calibration and test patients; all splits of the cohort are dealt anew."
    rows = np.concatenate([store.select(s, kind) for s in ('train', 'val', 'test')])
    who = store.index.patient.to_numpy()[rows]
    names = np.random.default_rng(seed).permutation(np.unique(who))
    ends = np.round(np.cumsum(shares) * len(names)).astype(int)
    return [rows[np.isin(who, part)] for part in np.split(names, ends[:-1])]


def one_split(store, seed, rate, copies, names, spaces, kinds):
    "Recall per kind, false alarms, and what the calibration expected of them."
    rng, who = np.random.default_rng(seed), store.index.patient.to_numpy()
    train, held, test = patients_split(store, (0.6, 0.2, 0.2), seed, 'tumour' if names == (MASK,) else 'nonempty')
    get, shift = reader(store, names), largest_shift(store.recipe.image_size)
    source = rng.choice(len(train), copies, replace=False)
    index = CopyIndex(get(train), get(held), rate, who[train], who[held], spaces)
    x = get(train[source])
    fresh = index.find(get(test))
    result = dict(
        false_alarms=float(fresh.is_copy.mean()),
        expected=index.rates.rate,
        left_out=index.rates.achieved.value,
        held=len(held),
        test=len(test),
        train=len(train),
        thresholds=index.thresholds,
    )
    result['by'] = {s: float(v.mean()) for s, v in fresh.by_space.items()}
    result['recall'], result['nearest'], result['recall_by'], result['large'] = {}, {}, {}, {}
    for kind in kinds:
        made = plant(x, kind, rng, shift)
        if names == (MASK,):
            made = (made > 0.5).astype(np.float32)
        found = index.find(made)
        result['recall'][kind], result['nearest'][kind] = (
            float(found.is_copy.mean()),
            float((found.nearest == source).mean()),
        )
        result['recall_by'][kind] = {s: float(v.mean()) for s, v in found.by_space.items()}
        big = made.sum((1, 2, 3)) >= 10
        if names == (MASK,):
            result['large'][kind] = [int(found.is_copy[big].sum()), int(big.sum())]
    return result


def planted(a):
    "All splits."
    store, out = open_cohort(a.data_dir, a.size, a.cache_dir), {}
    mask_kinds = ['exact', 'shifted', 'mirrored', 'upside down', 'turned by 3°', 'turned by 90°']
    for label, names, spaces, rate, kinds in (
        ('images, 1 %', NAMES, ['pixels', 'radiomics'], 0.01, list(KINDS)),
        ('pixels alone, 1 %', NAMES, ['pixels'], 0.01, list(KINDS)),
        ('pixels alone, 5 %', NAMES, ['pixels'], 0.05, list(KINDS)),
        ('masks, 5 %', (MASK,), ['masks'], 0.05, mask_kinds),
    ):
        out[label] = []
        for seed in range(a.seed, a.seed + a.splits):
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                out[label].append(one_split(store, seed, rate, a.copies, names, spaces, kinds))
            print(label, seed, f'{out[label][-1]["false_alarms"]:.3f}', file=sys.stderr, flush=True)
    counts = dict(
        patients=int(store.index.patient.nunique()),
        copies=a.copies,
        splits=a.splits,
        size=a.size,
        simulated=bool(store.is_simulated),
    )
    return dict(settings=out, counts=counts)


def planted_report(r):
    "The Markdown of planted copies."
    c = r['counts']
    parts = [
        '# Planted copies',
        f'{"Simulated cohort" if c["simulated"] else "Real MRI"}, {c["patients"]} patients, '
        f'pictures of {c["size"]} pixels, '
        f'T1 before and after contrast. {c["splits"]} random splits of the patients: 60 % training, 20 % calibration, '
        f'20 % test; {c["copies"]} copies of training images of each kind in each split. Means over the splits with '
        'the 95 % interval of the mean (splits share patients, so it is somewhat too narrow); '
        f'in %. {r["about"]}',
    ]
    for label, splits in r['settings'].items():

        def get(key):
            return [s[key] for s in splits]

        kinds = splits[0]['recall']
        parts += [
            f'## {label}',
            f'{spread(get("train"), "{:.0f}")} training, {spread(get("held"), "{:.0f}")} calibration, '
            f'{spread(get("test"), "{:.0f}")} test slices (median, quartiles).',
            markdown_table(
                ['', 'called copies', 'nearest is the original', *[f'by {s}' for s in splits[0]['by']]],
                [
                    [
                        '**held-out test patients**',
                        percent(get('false_alarms')),
                        '',
                        *[percent([s['by'][n] for s in splits]) for n in splits[0]['by']],
                    ],
                    *[
                        [
                            k,
                            percent([s['recall'][k] for s in splits]),
                            percent([s['nearest'][k] for s in splits]),
                            *[percent([s['recall_by'][k][n] for s in splits]) for n in splits[0]['by']],
                        ]
                        for k in kinds
                    ],
                ],
            ),
        ]
        if splits[0]['large']:
            parts += [
                'Of masks with at least 10 pixels: '
                + '; '.join(
                    f'{k} {sum(s["large"][k][0] for s in splits)} of {sum(s["large"][k][1] for s in splits)}'
                    for k in kinds
                )
                + '.'
            ]
    return '\n\n'.join(parts) + '\n'


# --- an overfitted model ---


def few_model(cfg, slices, folder, seed):
    "The demo model, trained on a few slices only (None: on all); and the rows of those."
    store = open_store(cfg, progress=False)
    select = store.select
    rows = select('train', cfg.mode.slices)
    if slices:
        repeats = len(rows) // slices + 1
        rows = np.sort(np.random.default_rng(seed).choice(rows, slices, replace=False))
        tiled = np.tile(rows, repeats)
        store.select = lambda split, kind='nonempty': tiled if split == 'train' else select(split, kind)
    run = Path(folder) / f'few{slices}-{cfg.training.epochs}'
    if not (run / 'status.json').exists() or json.loads((run / 'status.json').read_text())['state'] != 'finished':
        DiffusionTrainer.from_config(cfg, store, run).fit(
            lambda trainer, event: (
                print(event, trainer.epoch, trainer.step, file=sys.stderr, flush=True) if event == 'epoch' else None
            )
        )
    return run / 'latest', rows


def losses(checkpoint):
    "Loss in the last epoch, of training and of held-out slices: far apart where a model is overfitted."
    last = [json.loads(line) for line in (Path(checkpoint).parent / 'history.jsonl').read_text().splitlines()][-1]
    return dict(steps=last['step'], train_mse=last['mse'], val_mse=last.get('val_mse'))


@torch.no_grad()
def draw(checkpoint, batch, seed):
    "An image of a model for the mask and the position of each slice."
    network, strategy, mode, about = load_model(checkpoint, 'cpu', True)
    network.eval()
    condition = mode.prepare(batch, 'cpu').condition
    noise = image_noise(list(range(len(condition))), tuple(about['image_shape']), seed)
    x = sample(
        network,
        strategy,
        mode,
        noise,
        condition,
        25,
        25,
        'dpm_solver',
        indices=list(range(len(condition))),
        seed=seed,
        mean_image=about['mean_image'],
    )
    return mode.to_images(x).numpy()


def judge(images, mine, sets, who):
    "Copies and membership of some images, for a model that learnt from the rows `mine`."
    get, val = sets
    c = find_copies(images, get(mine), get(val), 0.01, train_groups=who[mine], calibration_groups=who[val])
    m = membership(images, get(mine), get(val), who[mine], who[val], most=1000)
    return c, dict(
        images=len(images),
        train=len(mine),
        train_patients=len(set(who[mine])),
        called=int(c.is_copy.sum()),
        share=percent_of(c.is_copy),
        expected=c.expected,
        by={k: int(v.sum()) for k, v in c.by_space.items()},
        chance=c.chance,
        evidence=evidence_text(c),
        left_out=list(c.rates.achieved[:3]),
        calibration=[c.rates.images, c.rates.patients],
        auc=list(m.auc[:3]),
        ratio=np.quantile(c.neighbours['pixels'].ratio, [0.05, 0.5, 0.95]).round(3).tolist(),
        threshold=c.index.thresholds['pixels'],
    )


def overfit(a):
    "Models of rising overfitting and the demo model, judged in the same way."
    a.out.mkdir(parents=True, exist_ok=True)  # for the pictures
    out = {}
    store = open_store(compose_config(mode='dual'), progress=False)
    who = store.index.patient.to_numpy()
    get = reader(store, NAMES)
    test, val, train = [store.select(s, 'nonempty') for s in ('test', 'val', 'train')]
    conditions = np.sort(np.random.default_rng(a.seed).choice(test, a.images, replace=False))
    batch = store.get(conditions, (*NAMES, MASK))
    models = {
        f'{a.slices} slices, {epochs} epochs': few_model(
            compose_config(mode='dual', epochs=epochs, val_interval=epochs), a.slices, a.work_dir, a.seed
        )
        for epochs in a.epochs
    } | {'demo model': few_model(compose_config(mode='dual'), None, a.work_dir, a.seed)}
    for label, (checkpoint, mine) in models.items():
        c, out[label] = judge(draw(checkpoint, batch, a.seed), mine, (get, val), who)
        out[label] |= losses(checkpoint)
        print(label, c, file=sys.stderr, flush=True)
        if a.figure:
            show_pairs(c).savefig(
                Path(a.out) / f'memorization-overfit-{label.replace(" ", "-").replace(",", "")}.png',
                dpi=110,
                bbox_inches='tight',
            )
    for label, mine in (
        (f'test patients instead of a model, {a.slices} slices', models[f'{a.slices} slices, {a.epochs[0]} epochs'][1]),
        ('test patients instead of a model', train),
    ):
        out[label] = judge(get(conditions), mine, (get, val), who)[1]
    return dict(settings=out, slices=a.slices)


def overfit_report(r):
    def mse(v):
        return f'{v["train_mse"]:.4f}, {v["val_mse"]:.4f}' if v.get('val_mse') else ''

    rows = [
        [
            k,
            v.get('steps', ''),
            mse(v),
            f'{v["train"]} of {v["train_patients"]} patients',
            f'{v["called"]} of {v["images"]}: {v["share"]}',
            f'{v["expected"]:.3g}',
            '{:.2f} ({:.2f} to {:.2f})'.format(v['ratio'][1], v['ratio'][0], v['ratio'][2]),
            f'{v["threshold"]:.2f}',
            '{:.2f} ({:.2f} to {:.2f})'.format(*v['auc']),
            v['evidence'],
        ]
        for k, v in r['settings'].items()
    ]
    return (
        '\n\n'.join(
            [
                '# Overfitted models and a well-trained one',
                'Mode dual, 48 pixels, simulated cohort, small demo network; images for the masks of test patients, '
                'which no model has seen. Calibrated with the validation patients, false-alarm rate 1 %. A model is '
                'overfitted where its loss is much smaller for training slices than for held-out ones. '
                f'{r["about"]}',
                markdown_table(
                    [
                        '',
                        'steps',
                        'loss: training, held-out',
                        'training slices',
                        'called copies',
                        'by chance',
                        'ratio in pixels, median (5th to 95th percentile)',
                        'threshold',
                        'membership AUC',
                        'evidence',
                    ],
                    rows,
                ),
            ]
        )
        + '\n'
    )


# --- speed ---


class Made:
    "Smooth random pictures that are made when they are asked for; a picture depends on its number only."

    def __init__(self, n, size, seed, channels=2):
        g = torch.Generator().manual_seed(seed)
        coarse = torch.rand(256, channels, 12, 12, generator=g)
        dome = torch.hann_window(size, periodic=False).sqrt()
        self.base = (
            torch.nn.functional.interpolate(coarse, size=(size, size), mode='bicubic').clamp(0, 1)
            * dome[:, None]
            * dome
        ).numpy()
        self.shape, self.seed = (n, channels, size, size), seed

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, places):
        out = np.empty((len(places), *self.shape[1:]), np.float32)
        for k, i in enumerate(places):
            rng = np.random.default_rng([self.seed, int(i)])
            p, q = rng.integers(256, size=2)
            w = rng.random()
            out[k] = w * self.base[p] + (1 - w) * self.base[q, :, ::-1]
        return out


def filtered(x):
    "The pixels that medgen compares: the same filter and alignment, each sequence of unit length."
    n = x.shape[-1]
    k = np.fft.fftfreq(n, 1 / n)[:, None]
    f = np.hypot(k, k.T)
    keep = (f > 0) & (f <= 12.5) & (abs(k) <= 12) & (abs(k.T) <= 12)
    y = np.fft.fft2(x) * np.where(keep, np.maximum(f, 1) ** 0.5, 0)
    y /= np.sqrt((abs(y) ** 2).sum((2, 3), keepdims=True) * y.shape[1]) / n
    middle = np.exp(1j * np.pi * (n - 1) / n)
    down, right = [np.angle(v.sum(1) * middle)[:, None, None, None] for v in (y[:, :, 1, 0], y[:, :, 0, 1])]
    return np.fft.ifft2(y * np.exp(-1j * (down * k + right * k.T))).real.astype(np.float32)


def plain(images, train):
    "Loops over images, mirror images and small shifts, all training images at once; nearest and distance."
    n = train.shape[-1]
    k = np.fft.fftfreq(n, 1 / n)[:, None]
    by = small_shifts(n).numpy()
    t, near, distance = filtered(train).reshape(len(train), -1), [], []
    for x in filtered(images):
        best = np.full(len(t), -2, np.float32)
        for flip in ((), (2,), (1,), (1, 2)):
            waves = np.fft.fft2(np.flip(x, flip))
            for down in by:
                for right in by:
                    np.maximum(
                        best,
                        t
                        @ np.fft.ifft2(waves * np.exp(-2j * np.pi * (k * down + k.T * right) / n))
                        .real.astype(np.float32)
                        .ravel(),
                        out=best,
                    )
        near.append(int(best.argmax()))
        distance.append(max(0, 1 - float(best.max())) ** 0.5)
    return np.array(near), np.array(distance)


def ours(images, train):
    f = PixelSearch(
        [torch.from_numpy(train[i : i + 256]) for i in range(0, len(train), 256)],
        np.arange(len(train)),
        0,
        train.shape[2:],
    )
    found = [f.find(torch.from_numpy(images[i : i + 256])) for i in range(0, len(images), 256)]
    return np.concatenate([x.nearest for x in found]), np.concatenate([x.distance for x in found])


def race(size, n, m, rounds, seed, clock):
    "Seconds of both ways in each round, and how far they agree."
    images, train = Made(n, size, seed)[range(n)], Made(m, size, seed + 1)[range(m)]
    shift, seconds, got = largest_shift(size), defaultdict(list), {}
    images[: n // 4] = plant(
        train[: n // 4], 'mirrored, shifted, scaled, noise 0.05', np.random.default_rng(seed), shift
    )
    for r in range(rounds):
        for name, way in [('medgen', ours), ('plain loops', plain)][:: 1 if r % 2 else -1]:
            begun = clock()
            got[name] = way(images, train)
            seconds[name].append(clock() - begun)
            print(
                f'{size} pixels, {n} x {m}, round {r + 1}, {name}: {seconds[name][-1]:.1f} s',
                file=sys.stderr,
                flush=True,
            )
    (a, d), (b, e) = got['medgen'], got['plain loops']
    same = a == b
    assert same[: n // 4].all() and np.abs(d - e)[same].max() < 2e-3 and same.mean() > 0.9, (
        same.mean(),
        np.abs(d - e)[same].max(),
    )
    return dict(
        size=size,
        images=n,
        train=m,
        shift=shift,
        seconds=seconds,
        same=float(same.mean()),
        planted=n // 4,
        apart=float(np.abs(d - e)[same].max()),
        farther=float((d / e - 1)[~same].max()) if (~same).any() else 0.0,
    )


def full(n, m, size, seed):
    "The full size once: seconds by part and the peak of memory."
    clock, cpu = time.perf_counter(), time.process_time()
    train = ImageSource(Made(m, size, seed + 1), 'train')
    groups = np.arange(m) // 30
    index = PixelSearch(train.batches(), groups, largest_shift(size), (size, size))
    built = time.perf_counter() - clock, time.process_time() - cpu
    images, seen = ImageSource(Made(n, size, seed), 'images'), 0
    for batch in images.batches():
        index.find(batch)
        seen += len(batch)
        print(f'{seen} of {n}, {time.perf_counter() - clock:.0f} s', file=sys.stderr, flush=True)
    return dict(
        images=n,
        train=m,
        size=size,
        patients=int(groups[-1]) + 1,
        built=built,
        wall=time.perf_counter() - clock,
        cpu=time.process_time() - cpu,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        index_gib=(index.train.numel() * 8 + index.coarse.numel() * 4) / 2**30,
    )


def speed(a):
    clock = CLOCKS[a.clock]
    big = full(*a.full, a.seed) if a.full else None  # first: the peak of memory is that of the process
    print(big, file=sys.stderr, flush=True)
    return dict(
        races=[race(size, n, m, a.rounds, a.seed, clock) for size, n, m in (map(int, s.split(':')) for s in a.races)],
        full=big,
        clock=a.clock,
    )


def speed_report(r):
    rows = [
        [
            f'{s["size"]}',
            f'{s["images"]} × {s["train"]}',
            spread(s['seconds']['medgen']),
            spread(s['seconds']['plain loops']),
            spread(np.divide(s['seconds']['plain loops'], s['seconds']['medgen'])),
            f'{100 * s["same"]:.1f} %',
            f'{s["apart"]:.0e}',
            f'{100 * s["farther"]:.1f} %',
        ]
        for s in r['races']
    ]
    parts = [
        '# Speed of the search for copies',
        'Pixels under shifts and mirror images, two sequences. Plain loops go over images, mirror images and the 49 '
        'small shifts after the same alignment, with one product with all training images for each. '
        f'{"CPU seconds" if r["clock"] == "cpu" else "Seconds"} on the given threads, both ways in turn; '
        f'median (quartiles) over the rounds, and of the ratio within a round. {r["about"]}',
        markdown_table(
            [
                'pixels',
                'images × training',
                'medgen, s',
                'plain loops, s',
                'medgen is faster by',
                'same nearest',
                'distances of those differ by',
                'others farther by at most',
            ],
            rows,
        ),
        'A quarter of the images are copies (mirrored, shifted, scaled, noisy); of these all have the same nearest '
        'image in both ways.',
    ]
    if f := r['full']:
        parts.append(
            f'**Full size**: {f["images"]} images against {f["train"]} training images of {f["patients"]} patients, '
            f'{f["size"]} × {f["size"]} pixels, two sequences: {f["wall"]:.0f} s of the clock, {f["cpu"]:.0f} CPU '
            f'seconds, {f["peak_gib"]:.2f} GiB at most in memory with everything that is imported '
            f'({f["index_gib"]:.2f} GiB of it the index). Making the random pictures is included.'
        )
    return '\n\n'.join(parts) + '\n'


# --- command line ---

PARTS = dict(planted=(planted, planted_report), overfit=(overfit, overfit_report), speed=(speed, speed_report))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('part', choices=PARTS)
    p.add_argument('--out', type=Path, default=Path('benchmark'), help='folder of the result (default: %(default)s)')
    p.add_argument('--name', default='simulated', help='name of the result (default: %(default)s)')
    p.add_argument('--seed', type=int, default=42, help='(default: %(default)s)')
    p.add_argument(
        '--cache-dir', type=Path, default=Path(os.environ.get('MEDGEN_CACHE', '~/.cache/medgen')).expanduser()
    )
    p.add_argument('--data-dir', help='planted: folder of patients; left out: the simulated cohort')
    p.add_argument('--size', type=int, default=48, help='planted: side in pixels (default: %(default)s)')
    p.add_argument(
        '--splits', type=int, default=8, help='planted: random splits of the patients (default: %(default)s)'
    )
    p.add_argument('--copies', type=int, default=30, help='planted: of each kind in a split (default: %(default)s)')
    p.add_argument('--slices', type=int, default=20, help='overfit: training slices (default: %(default)s)')
    p.add_argument(
        '--epochs',
        type=int,
        nargs='*',
        default=[12, 40],
        help='overfit: lengths of the training on few slices, in epochs of as many steps as those of the demo model '
        '(default: %(default)s)',
    )
    p.add_argument('--images', type=int, default=100, help='overfit: images of each model (default: %(default)s)')
    p.add_argument(
        '--work-dir',
        default='runs',
        help='overfit: where the overfitted model is trained or found (default: %(default)s)',
    )
    p.add_argument(
        '--figure', action='store_true', help='overfit: also pictures of the closest pairs, of simulated patients'
    )
    p.add_argument(
        '--races',
        nargs='*',
        default=['48:24:2000', '64:24:2000', '128:8:1000'],
        metavar='PIXELS:IMAGES:TRAIN',
        help='speed (default: %(default)s)',
    )
    p.add_argument('--rounds', type=int, default=5, help='speed (default: %(default)s)')
    p.add_argument(
        '--full',
        nargs='*',
        type=int,
        default=[15000, 14000, 128],
        metavar='N',
        help='speed: images, training images, pixels; nothing leaves it out (default: %(default)s)',
    )
    p.add_argument(
        '--clock',
        choices=CLOCKS,
        default='wall',
        help='speed: cpu counts CPU seconds, for a machine that others use, with OMP_NUM_THREADS=1 '
        '(default: %(default)s)',
    )
    return p.parse_args()


def main():
    a = arguments()
    work, report = PARTS[a.part]
    threads = torch.get_num_threads()
    machine = f'{os.cpu_count()} cores, {threads} thread{"" if threads == 1 else "s"}'
    versions = f'medgen {version("medgen")}, torch {version("torch")}'
    result = work(a) | dict(about=f'{machine}; {versions}; seed {a.seed}.')
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / f'memorization-{a.part}-{a.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (a.out / f'memorization-{a.part}-{a.name}.md').write_text(report(result))
    print(report(result))


if __name__ == '__main__':
    main()
