#!/usr/bin/env python
"""Lesions of asked-for number, size and region: masks drawn per accepted one, by asking again and by asking for them.

One model of `seg_sketch` draws masks: told nothing, so that one must wait for a mask that is as requested, and told by
a sketch what is wanted. What the request leaves open should come out as among real masks that meet it: the area of
these lesions and how convex they are is compared.

  python benchmarks/quotas.py --out benchmarks/results/quotas-simulated
  python benchmarks/quotas.py --data-dir DIR --seg-model RUN --out benchmarks/results/quotas-NAME"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import yaml

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.lesions import lesion_table
from medgen.data.slices import MASK
from medgen.generation.generate import Sources, draw_masks, image_positions, open_sources, training_store
from medgen.generation.masks import check_masks
from medgen.metrics.masks import lesion_shapes

REQUESTS = [
    dict(count='1', min_mm=5, max_mm=10),
    dict(count='2-3'),
    dict(count='2-4', min_mm=4, max_mm=9),
    dict(count='1', min_mm=15, max_mm=25, region='left'),
    dict(count='1', min_mm=10, max_mm=20, region='right posterior'),
    dict(count='1', min_mm=30, max_mm=60),
]


def sources_for(request: dict | None, seed: int, a) -> Sources:
    "The model, with a catalogue of one request or none."
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder, 'catalogue.yaml')
        catalogue.write_text(yaml.safe_dump([request]))
        asked = dict(catalogue=str(catalogue)) if request else {}
        cfg = compose_config(job='generate', seg_model=a.seg_model, checkpoint='latest', seed=seed, **asked)
        return open_sources(cfg)


def real_masks(sources: Sources) -> np.ndarray:  # [N,H,W]
    "Masks of the patients that the model learned from, a thousand of them."
    store = training_store(sources.seg, sources.cfg)
    rows = store.select('train', 'tumour')
    return np.asarray(store.arrays[MASK][rows[:: max(1, len(rows) // 1000)]])


def drawn(sources: Sources, n: int) -> np.ndarray:  # [n,H,W]
    "The first attempts at some masks."
    indices, attempts = list(range(n)), [0] * n
    return draw_masks(sources, indices, attempts, image_positions(sources, indices, attempts))


def accepted(masks: np.ndarray, sources: Sources, request) -> np.ndarray:  # [N] bool
    "Which masks keep the rules and are as requested."
    wanted = [request] * len(masks)
    reasons = check_masks(masks, sources.rules, sources.pixel_mm, sources.head, wanted, sources.plane)
    return np.array([not reason for reason in reasons])


def shapes(masks: np.ndarray, pixel_mm: float) -> dict:
    "Mean area and convexity of the lesions of some masks."
    area, solidity = lesion_table(masks, pixel_mm).area_mm2, lesion_shapes(masks).solidity
    return dict(area=float(area.mean()), solidity=float(solidity.mean()))


def measure(a) -> list[dict]:
    "For each request and seed: accepted shares of real masks, of masks drawn untold, and of masks drawn for it."
    untold = {seed: drawn(sources_for(None, seed, a), a.untold) for seed in a.seeds}
    results, real = [], None
    for asked in REQUESTS:
        for seed in a.seeds:
            sources = sources_for(asked, seed, a)
            real, [request] = real_masks(sources) if real is None else real, sources.requests
            told = drawn(sources, a.told)
            found = dict(request=str(request), seed=seed)
            for name, masks in dict(real=real, untold=untold[seed], told=told).items():
                fits = accepted(masks, sources, request)
                found[name] = dict(share=float(fits.mean()))
                if fits.any():
                    found[name] |= shapes(masks[fits], sources.pixel_mm)
            results.append(found)
            print(json.dumps(found), flush=True)
    return results


def table(results: list[dict]) -> str:
    "A line for each request, seeds taken together; in brackets the best and the worst of them."
    rows = []
    for request in dict.fromkeys(r['request'] for r in results):
        own = [r for r in results if r['request'] == request]
        row = [request, f'{100 * own[0]["real"]["share"]:.1f} %']
        for name in ('untold', 'told'):
            shares = [r[name]['share'] for r in own]
            ends = ' to '.join(f'{1 / share:.2f}' if share else 'none' for share in (max(shares), min(shares)))
            row.append(f'{1 / np.mean(shares):.2f} ({ends})' if any(shares) else 'none')
        for shape, form in (('area', '.0f'), ('solidity', '.3f')):
            means = [np.mean([r[name][shape] for r in own if shape in r[name]]) for name in ('real', 'told')]
            row.append(', '.join(f'{mean:{form}}' for mean in means))
        rows.append(row)
    head = ['request', 'of real masks', 'masks per accepted one, untold', 'told']
    return markdown_table([*head, 'area of a lesion in mm², real and told', 'solidity, real and told'], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seg-model', default='starter-seg_sketch', help='a model of seg_sketch (%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='(%(default)s)')
    parser.add_argument('--told', type=int, default=64, help='masks for each request and seed (%(default)s)')
    parser.add_argument('--untold', type=int, default=400, help='masks for each seed (%(default)s)')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the numbers')
    a = parser.parse_args()
    results = measure(a)
    print(text := table(results))
    if a.out:
        facts = dict(seg_model=Path(a.seg_model).name, told=a.told, untold=a.untold, cores=os.cpu_count())
        a.out.with_suffix('.md').write_text(text + '\n')
        a.out.with_suffix('.json').write_text(
            json.dumps(facts | dict(versions=versions(), results=results), indent=1) + '\n'
        )


if __name__ == '__main__':
    main()
