#!/usr/bin/env python
"""Which planted defects does an evaluation call worse, and how often does it call real patients worse?

Patients are dealt into three groups, several times: held-out ones, as many whose images stand for the synthetic set,
and the rest for training. Draws of the training patients say what chance does, exactly as in an evaluation. Then images
of the second group are judged as they are (false alarms) and with every defect at several rungs of its ladder.

  python benchmarks/ladder.py --out benchmarks/results --name ladder-simulated-100
  python benchmarks/ladder.py --data-dir DIR --out benchmarks/results --name ladder-lgg-100"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.images import real_set
from medgen.data.simulate import cohort_dir
from medgen.data.slices import Recipe
from medgen.data.store import SliceStore
from medgen.evaluation.power import DRAWS, MOST, Draws, Reader, Size, numbers_of, pretend
from medgen.evaluation.rows import chosen_metrics, metric_rows
from medgen.evaluation.sides import EvaluationSets
from medgen.metrics.defects import DEFECTS, plant
from medgen.metrics.intervals import mean_interval

METRICS = 'fid kid prdc swd plausibility two_sample coupling ms_ssim_diversity masks'.split()


def deal(images, patients: int, seed: int) -> list:
    "Three sets of patients at random: held-out, in the place of the synthetic ones, training."
    order = np.random.default_rng(seed).permutation(np.unique(images.groups.astype(str)))
    parts = order[:patients], order[patients : 2 * patients], order[2 * patients :]
    dealt = [images.take(np.flatnonzero(np.isin(images.groups.astype(str), part))) for part in parts]
    for part, name in zip(dealt, ('held-out', 'synthetic', 'training')):
        part.name = name
    return dealt


def draw(images, n: int, seed: int, defect: str = '', rung: int = 0):
    "Some images in the place of the synthetic ones, with a defect."
    drawn = images.draw(n, seed)
    drawn = plant(drawn, defect, rung, seed).held() if defect else drawn.take(np.arange(len(drawn)))
    drawn.name = 'synthetic'
    return drawn


def judge(a, images, store, metrics, better: dict, deal_seed: int) -> list[dict]:
    "All draws of one deal: defect, rung, and the numbers that are worse."
    held, fake, train = deal(images, a.patients, deal_seed)
    cfg = compose_config(job='evaluate', features=['radiomics'], positive_only=True)
    sets = EvaluationSets(fake, held, train, '', None, {}, store.recipe, cfg, [], None, '')
    drawn = min(a.patients, train.patients // 2)
    size = Size(min(a.images, MOST, len(fake), len(train) // 2), drawn, train.patients, fake.patients)
    if not better:
        few = replace(sets, synthetic=draw(fake, 24, 0))
        better |= {f'{r.measure}, {r.images}': r.better for r in metric_rows(few, *metrics)}
    null = [numbers_of(pretend(sets, size, k), metrics) for k in range(DRAWS)]
    reader, found = Reader(Draws(size, null, {}), better, images.size), []
    ladder = [('', 0)] * (a.false_alarms // a.draws)
    if deal_seed < a.deals:
        ladder += [(name, rung) for name, d in DEFECTS.items() if not d.lacks(fake) for rung in a.rungs]
    observed = pretend(sets, size, 0)  # for its training images
    for defect, rung in ladder:
        for k in range(a.draws):
            seed = 1000 * deal_seed + 100 * len(found) + k
            synthetic = draw(fake, size.images, seed, defect, rung)
            worse = reader.worse(numbers_of(replace(observed, synthetic=synthetic), metrics))
            found.append(dict(defect=defect, rung=rung, worse=worse, deal=deal_seed))
    return found


def write(report: dict) -> str:
    "Shares of draws that are called worse, by defect and rung, and the measures that see it most often."
    by, none = {}, [d for d in report['draws'] if not d['defect']]
    for d in report['draws']:
        if d['defect']:
            by.setdefault(d['defect'], {}).setdefault(d['rung'], []).append(d['worse'])
    called, deals = [float(bool(d['worse'])) for d in none], [d['deal'] for d in none]
    alarms = mean_interval(called, deals).clip(0, 1)  # draws of a deal are of the same patients
    rows = []
    for defect, rungs in by.items():
        shares = [f'{100 * np.mean([bool(w) for w in worse]):.0f} %' for worse in rungs.values()]
        seen = Counter(name.split(',')[0] for worse in rungs.values() for w in worse for name in set(w))
        rows.append([defect, *shares, ', '.join(name for name, _ in seen.most_common(3))])
    head = ['called worse', *(f'rung {r}' for r in next(iter(by.values()))), 'most often by']
    share = f'{100 * alarms.value:.1f} % (95 % {100 * alarms.low:.1f} to {100 * alarms.high:.1f})'
    some = len({d['deal'] for d in none if d['worse']})
    looked = f' (an evaluation looks at {MOST} of them)' if report['images'] > MOST else ''
    about = (
        f'{report["images"]} images{looked} of {report["patients"]} patients against {report["patients"]} held-out '
        f'patients, {report["deals"]} deals of the patients, {report["each"]} draws of each rung in each. Other '
        f'patients, undamaged: {share} of {len(none)} draws are called worse, all of them in {some} of '
        f'{len(set(deals))} deals.'
    )
    return f'{about}\n\n{markdown_table(head, rows)}'


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', help='folder of patients; without it the simulated cohort')
    parser.add_argument('--images', type=int, default=100, help='in the place of the synthetic ones (%(default)s)')
    parser.add_argument('--patients', type=int, default=12, help='held out, and again (%(default)s)')
    parser.add_argument('--image-size', type=int, default=64, help='side of the slices in pixels (%(default)s)')
    parser.add_argument('--deals', type=int, default=4, help='of the patients (%(default)s)')
    parser.add_argument('--draws', type=int, default=5, help='of each rung in each deal (%(default)s)')
    parser.add_argument('--false-alarms', type=int, default=50, help='undamaged draws in each deal (%(default)s)')
    parser.add_argument('--more', type=int, default=12, help='deals of undamaged draws alone (%(default)s)')
    parser.add_argument('--rungs', type=int, nargs='+', default=[1, 3, 5], help='of 1 to 5 (%(default)s)')
    parser.add_argument('--metrics', nargs='+', default=METRICS, help='(%(default)s)')
    parser.add_argument('--out', type=Path, help='write the table and the draws to OUT/NAME.md and OUT/NAME.json')
    parser.add_argument('--name', default='ladder', help='(%(default)s)')
    a = parser.parse_args()
    cache = compose_config().paths.cache_dir
    folder = a.data_dir or cohort_dir(cache, progress=False)
    names = ('t1_pre', 't1_gd', 'seg')
    store = SliceStore.open(folder, Recipe(image_size=a.image_size), names, cache, progress=False)
    images, metrics, better, draws = real_set(store, 'all', True, 'all', 10**6), chosen_metrics(a.metrics), {}, []
    images.names = list(names)  # before gadolinium first
    start = time.time()
    for k in range(a.deals + a.more):
        draws += judge(a, images, store, metrics, better, k)
        print(f'deal {k + 1} of {a.deals + a.more}, {time.time() - start:.0f} s', file=sys.stderr, flush=True)
    report = dict(images=a.images, patients=a.patients, deals=a.deals, each=a.draws, metrics=a.metrics)
    report |= dict(image_size=a.image_size, threads=torch.get_num_threads(), versions=versions(), draws=draws)
    print(text := write(report))
    if a.out:
        (a.out / f'{a.name}.json').write_text(json.dumps(report) + '\n')
        (a.out / f'{a.name}.md').write_text(text + '\n')


if __name__ == '__main__':
    main()
