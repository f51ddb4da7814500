#!/usr/bin/env python
"""What segmenters learn from the images of trained models: train on synthetic, test on real, and what moves the
result.

Takes run folders of image models (bravo, dual). Each draws one image for the mask of every training slice with a
tumour and of half as many without, so that the real and the synthetic arm learn from the same masks in the same
number. Segmenters are tested on all slices of the held-out patients. Images and segmenters are kept in --keep and
found again, so the measurement can be interrupted. Examples:

  python benchmarks/utility.py runs/A --name simulated-dual --out benchmarks/results
  python benchmarks/utility.py runs/A --vary runs/A,steps=4 runs/A,ema=false runs/B masks=runs/SEG \
      --splits val test --name simulated-dual

The first run gets all arms; each variation the synthetic arm alone, held against the same real one. A variation
is RUN[,steps=N][,sampler=NAME] [,ema=false][,checkpoint=best], and masks=RUN takes a model of masks instead of
the training masks. Unless told otherwise the last checkpoint is taken, so that nothing was chosen by looking at
the patients that test."""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from frontier import mean_slice
from omegaconf import OmegaConf

from medgen.core.config import versions
from medgen.core.files import write_atomic
from medgen.core.show import markdown_table
from medgen.data.slices import MASK
from medgen.data.store import open_store
from medgen.diffusion.inference import inference_network
from medgen.diffusion.model import load_model
from medgen.diffusion.modes import to_network
from medgen.diffusion.sampling import image_noise, sample
from medgen.diffusion.strategies import RFlowStrategy
from medgen.evaluation.utility import LabelledSets, faithfulness_difference, goal_reached, shares, utility
from medgen.metrics.masks import strata_names
from medgen.metrics.segmenter import Labelled, convergence


def machine() -> str:
    "What the numbers were taken on."
    gpu = torch.cuda.is_available()
    return (
        f'{torch.cuda.get_device_name() if gpu else f"CPU with {os.cpu_count()} cores"}, {torch.get_num_threads()} '
        'threads'
    )


class Generator:
    "A trained model with the way it is sampled."

    def __init__(self, text: str, a):
        folder, *given = text.split(',')
        self.options = dict(steps='25', sampler='', ema='true', checkpoint='latest', masks='') | dict(
            g.split('=') for g in given
        )
        if unknown := set(self.options) - {'steps', 'sampler', 'ema', 'checkpoint', 'masks'}:
            raise SystemExit(f'{text}: {", ".join(unknown)} is unknown')
        o, self.seed = self.options, a.seed
        self.folder = Path(folder) / o['checkpoint']
        self.network, self.strategy, self.mode, self.about = load_model(self.folder, a.device, o['ema'] == 'true')
        c = self.config = OmegaConf.create(self.about['config'])
        self.store, self.device, self.keep, self.a = open_store(c, progress=False), a.device, a.keep, a
        self.network, _ = inference_network(self.network, a.device, 'auto', 'auto', self.strategy)
        rflow = isinstance(self.strategy, RFlowStrategy)
        self.sampler = o['sampler'] or ('dpm_solver' if rflow else 'ddim')
        self.mean = None if rflow else mean_slice(self.store, self.mode)  # other strategies begin at the mean image
        self.label = ', '.join(
            [
                f'{c.choices.strategy}, {self.about["step"]} training steps',
                f'{self.sampler} {o["steps"]}',
                *['without EMA'] * (o['ema'] != 'true'),
                *['masks of a model'] * bool(o['masks']),
            ]
        )

    def walk(self, n: int, condition=None) -> torch.Tensor:  # [n,C,H,W] in [0, 1]
        "Sample n images."
        noise = image_noise(range(n), tuple(self.about['image_shape']), self.seed).to(self.device)
        x = sample(
            self.network,
            self.strategy,
            self.mode,
            noise,
            condition,
            int(self.options['steps']),
            32,
            self.sampler,
            mean_image=self.mean,
        )
        return self.mode.to_images(x.float()).cpu()

    def masks(self, rows) -> np.ndarray:  # [N,H,W]
        "Masks to draw images for: those of the training slices, or as many with a lesion from a model of masks."
        real = self.store.get(rows, (MASK,))[MASK][:, 0].numpy().astype(np.uint8)
        if not self.options['masks']:
            return real
        model, full = Generator(self.options['masks'], self.a), np.flatnonzero(real.any((1, 2)))
        drawn = model.walk(2 * len(full))[:, 0].numpy().astype(np.uint8)
        good = drawn[drawn.any((1, 2))]
        if len(good) < len(full):
            raise SystemExit(
                f'{self.options["masks"]}: only {len(good)} of {len(drawn)} masks hold a lesion, {len(full)} are needed'
            )
        real[full] = good[: len(full)]
        return real

    def draw(self, rows) -> Labelled:
        "An image for the mask of every row, kept in a file."
        what = json.dumps(
            [
                1,
                self.about['weights_sha256'],
                self.sampler,
                self.options,
                np.asarray(rows).tolist(),
                self.store.fingerprint,
                self.seed,
            ]
        )
        file = self.keep / f'images-{hashlib.sha256(what.encode()).hexdigest()[:12]}.npz'
        if not file.exists():
            begun, masks = time.time(), self.masks(rows)
            condition = to_network(torch.from_numpy(masks).float())[:, None].to(self.device)
            images = self.walk(len(masks), condition).numpy().astype(np.float16)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix('.part')
            with open(part, 'wb') as f:
                np.savez_compressed(f, images=images, masks=masks, seconds=time.time() - begun)
            part.replace(file)
            print(f'{self.label}: {len(masks)} images in {time.time() - begun:.0f} s', flush=True)
        with np.load(file) as z:
            return Labelled(
                z['images'], z['masks'], self.store.index.patient.to_numpy()[rows], float(self.store.pixel_mm.median())
            )


def training_rows(store, without: float) -> np.ndarray:
    "Training slices with a tumour, and for each of them `without` evenly spread ones without."
    full, rest = store.select('train', 'tumour'), store.select('train', 'nonempty')
    rest = np.setdiff1d(rest, full)
    return np.sort(
        np.concatenate(
            [full, rest[np.linspace(0, len(rest) - 1, min(len(rest), round(without * len(full)))).round().astype(int)]]
        )
    )


def real_slices(store, mode, rows) -> Labelled:
    "Some slices of the store."
    b = store.get(rows, (*mode.images, MASK))
    return Labelled(
        torch.cat([b[n] for n in mode.images], 1).numpy().astype(np.float16),
        b[MASK][:, 0].numpy(),
        store.index.patient.to_numpy()[rows],
        float(store.pixel_mm.median()),
    )


def plain(x) -> dict:
    "A number with the ends of its interval, or the reason why there is none."
    if np.isnan(x.value):
        return dict(reason=x.reason)
    return {k: None if np.isnan(v) else round(float(v), 5) for k, v in zip(('value', 'low', 'high'), x)}


def arm_facts(u, arm: str) -> dict:
    "The numbers of an arm."
    curve, lesions = np.mean(u.arms[arm].curves, 0), u.arms[arm].counts.lesions
    loss, dice = curve[:, 1:].round(4).T.tolist()
    strata = {
        name: dict(
            lesions=int(lesions[:, k].sum()),
            found=plain(u.number(arm, 'sensitivity', k)),
            false=plain(u.number(arm, 'false', k)),
        )
        for k, name in enumerate(strata_names()[:-1])
    }
    facts = dict(
        arm=arm,
        dice=plain(u.number(arm)),
        lesions_found=plain(u.number(arm, 'sensitivity')),
        false_per_slice=plain(u.number(arm, 'false')),
        strata=strata,
        convergence=convergence(u.arms[arm].curves)[1],
        curve=dict(step=curve[:, 0].astype(int).tolist(), loss=loss, dice=dice),
    )
    if arm != 'real':
        ratio = u.ratio(arm)
        facts |= dict(difference=plain(u.difference(arm)), ratio=plain(ratio), goal=goal_reached(ratio, u.goal))
    return facts


def faithfulness_facts(u) -> dict:
    "Agreement of the real-trained segmenters with the masks."
    facts = {k: {m: plain(u.faithfulness(k, m)) for m in ('pooled', 'sensitivity', 'false')} for k in u.faithful}
    return facts | {'synthetic less held-out': dict(pooled=plain(faithfulness_difference(u)))}


def measure(a) -> dict:
    "All arms for the first model, the synthetic arm for each variation."
    main = Generator(a.run, a)
    rows = training_rows(main.store, a.without)
    real, held = [
        real_slices(main.store, main.mode, r)
        for r in (rows, np.concatenate([main.store.select(s, 'nonempty') for s in a.splits]))
    ]
    kwargs, results = (
        dict(seeds=a.seeds, steps=a.steps, batch_size=a.batch_size, folder=a.keep / 'segmenters', device=a.device),
        [],
    )
    for k, text in enumerate([a.run, *a.vary]):
        if text.startswith('masks='):
            text = f'{a.run},{text}'
        generator = main if k == 0 else Generator(text, a)
        if (generator.store.fingerprint, generator.mode.images) != (main.store.fingerprint, main.mode.images):
            raise SystemExit(f'{text}: trained on other data or sequences than {a.run}')
        u = utility(
            LabelledSets(real, generator.draw(rows), held, tuple(main.mode.images)),
            tuple(a.arms) if k == 0 else ('real', 'synthetic'),
            **kwargs,
        )
        results.append(
            dict(
                model=generator.label,
                run=generator.folder.parent.name,
                arms=[arm_facts(u, arm) for arm in u.arms if k == 0 or arm != 'real'],
                faithfulness=faithfulness_facts(u),
            )
        )
        print(generator.label, {x['arm']: x['dice']['value'] for x in results[-1]['arms']}, flush=True)
        write_atomic(a.keep / f'{a.name}.json', json.dumps(results, indent=1))
    s = u.arms['real'].counts
    return dict(
        data='simulated cohort' if main.store.is_simulated else 'MRI',
        mode=main.config.choices.mode,
        sequences=main.mode.images,
        pixels=main.store.recipe.image_size,
        pixel_mm=float(main.store.pixel_mm.median()),
        splits=a.splits,
        training=dict(slices=len(real), with_lesion=int(real.masks.any((1, 2)).sum()), patients=len(set(real.groups))),
        held_out=dict(
            slices=len(held),
            patients=len(s.patients),
            with_lesion=int((s.true > 0).sum()),
            lesions=int(s.lesions.sum()),
        ),
        segmenter=dict(steps=a.steps, batch_size=a.batch_size, seeds=a.seeds),
        machine=machine(),
        versions=versions(),
        results=results,
    )


def text_of(x: dict, digits=3) -> str:
    "An entry of a file as text."
    if 'reason' in x:
        return x['reason']
    return f'{x["value"]:.{digits}f}' + (
        f' ({x["low"]:.{digits}f} to {x["high"]:.{digits}f})' if x['low'] is not None else ''
    )


def arms_table(r: dict) -> str:
    "All arms of the first model, and the variations, of one entry of the file."
    rows = []
    for k, model in enumerate(r['results']):
        for x in model['arms']:
            name = x['arm'] if x['arm'] == 'real' else f'{x["arm"]}: {model["model"]}'
            rows.append(
                [
                    name,
                    text_of(x['dice']),
                    text_of(x['ratio']) if 'ratio' in x else '–',
                    x.get('goal', '–'),
                    text_of(x['lesions_found']),
                    text_of(x['false_per_slice']),
                ]
            )
    return markdown_table(
        ['trained on', 'Dice per patient', 'ratio to real', 'goal: 95 %', 'lesions found', 'false positives per slice'],
        rows,
    )


def faithfulness_lines(r: dict) -> str:
    "Agreement of the real-trained segmenters with the masks."
    rows = []
    for model in r['results']:
        f = model['faithfulness']
        rows.append(
            [
                model['model'],
                text_of(f['synthetic']['pooled']),
                text_of(f['held-out']['pooled']),
                text_of(f['synthetic less held-out']['pooled']),
                text_of(f['synthetic']['sensitivity'], 2),
                text_of(f['held-out']['sensitivity'], 2),
            ]
        )
    return markdown_table(
        [
            'model',
            'Dice, synthetic',
            'Dice, held-out real',
            'difference',
            'lesions found, synthetic',
            'lesions found, held-out real',
        ],
        rows,
    )


def report(everything: dict) -> str:
    "The file as Markdown."
    parts = ['# Utility: train on synthetic, test on real']
    for name, r in everything.items():
        t, h, s = r['training'], r['held_out'], r['segmenter']
        curves = [
            f'- {x["arm"]}{", " + m["model"] if k else ""}: {x["convergence"]}'
            for k, m in enumerate(r['results'])
            for x in m['arms']
        ]
        parts += [
            f'## {name}',
            f'{r["data"]}, mode {r["mode"]} ({", ".join(r["sequences"])}), {r["pixels"]} x {r["pixels"]} pixels of '
            f'{r["pixel_mm"]:g} mm. Pools of {t["slices"]} slices ({t["with_lesion"]} with a lesion) of '
            f'{t["patients"]} training patients and as many synthetic ones; '
            f'{s["steps"]} steps with {s["batch_size"]} images in every arm, {s["seeds"]} seeds. Test: '
            f'{h["slices"]} slices of {h["patients"]} held-out patients ({" and ".join(r["splits"])}; '
            f'{h["with_lesion"]} with a lesion), {h["lesions"]} lesions. 95 % intervals over patients and seeds.',
            arms_table(r),
            '\n'.join(curves),
            'Mask faithfulness: segmenters of the real arm, on slices with a lesion.',
            faithfulness_lines(r),
        ]
    return '\n\n'.join(parts) + '\n'


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', help='run folder of an image model, with options as for --vary')
    parser.add_argument(
        '--vary',
        nargs='+',
        default=[],
        metavar='RUN,OPTION=VALUE',
        help='other models or ways to sample, for the synthetic arm',
    )
    parser.add_argument('--splits', nargs='+', default=['val'], help='held-out patients (%(default)s)')
    parser.add_argument(
        '--arms', nargs='+', default=['real', 'synthetic', '1:1', '1:4'], help='of the first model (%(default)s)'
    )
    parser.add_argument('--seeds', type=int, default=3, help='segmenters per arm (%(default)s)')
    parser.add_argument('--steps', type=int, default=600, help='optimiser steps of each (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=16, help='images per step (%(default)s)')
    parser.add_argument(
        '--without', type=float, default=0.5, help='training slices without tumour for each one with (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the noise (%(default)s)')
    parser.add_argument(
        '--keep', type=Path, default=Path('runs/utility'), help='where images and segmenters are kept (%(default)s)'
    )
    parser.add_argument('--name', default='utility', help='of the entry in the results')
    parser.add_argument(
        '--out', type=Path, help='folder of utility.json and utility.md; other entries of the file stay'
    )
    a = parser.parse_args()
    a.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    [shares(arm) for arm in a.arms]
    if 'real' not in a.arms:
        parser.error('the arm real is what the others are held against')
    found = measure(a)
    everything = {a.name: found}
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        file = a.out / 'utility.json'
        if file.exists():
            everything = json.loads(file.read_text()) | everything
        write_atomic(file, json.dumps(everything, indent=1))
        write_atomic(a.out / 'utility.md', report(everything))
    print(report({a.name: found}))


if __name__ == '__main__':
    main()
