#!/usr/bin/env python
"""What should choose the checkpoint of a mask model? Numbers of its validations against many masks.

After every epoch some hundred masks are drawn and compared with those of held-out patients: empty ones, number, size,
shape and place of the lesions. The number of a validation that ranks epochs as they do should choose.

  python benchmarks/steer_masks.py --runs DIR strategy=rflow model=demo training=demo image_size=48 epochs=6"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.sampling import image_noise, sample
from medgen.diffusion.trainer import DiffusionTrainer
from medgen.metrics.intervals import mean_interval
from medgen.metrics.masks import MASK_MEASURES, describe_masks, mask_distance

CHOOSE = dict(val_mse='held-out loss', deviation='deviation of samples', swd='sliced distance', epoch='the later')


def masks_of(trainer, rows: np.ndarray, seed: int = 11):
    "Masks at the positions of some slices of the store, by the network as it is."
    batch = trainer.store.get(rows, trainer.names)
    images, condition = trainer.mode.prepare(batch, trainer.device)
    noise = image_noise(range(len(images)), tuple(images.shape[1:]), seed)
    network = trainer.eval_network.eval()
    x = sample(network, trainer.strategy, trainer.mode, noise, condition, num_steps=15, batch_size=50)
    return describe_masks(trainer.mode.to_images(x)[:, 0].numpy().astype(np.uint8), 1.0)


def distances(real, fake) -> dict:
    "How far the masks are from real ones, property by property; nan where there is no lesion."
    measures = MASK_MEASURES if len(fake.lesions) else ['empty', 'count']
    return {name: mask_distance(name, real, fake) if name in measures else np.nan for name in MASK_MEASURES}


def run(folder: Path, overrides: list[str], n: int) -> list[dict]:
    "A record for each epoch: its validation, and the distances of many masks."
    cfg = compose_config(overrides)
    store = open_store(cfg, progress=False)
    trainer = DiffusionTrainer.from_config(cfg, store, folder)
    rows = store.select('val', 'tumour')
    rows = rows[np.linspace(0, len(rows) - 1, n).astype(int)]
    held_out = describe_masks(store.get(rows, ['seg'])['seg'][:, 0].numpy().astype(np.uint8), 1.0)
    found = []

    def judge(trainer, event):
        if event == 'validation':
            record = trainer.history[-1]
            found.append({name: record[name] for name in CHOOSE} | distances(held_out, masks_of(trainer, rows)))
            print(found[-1], flush=True)

    trainer.fit(judge)
    return found


def truth(records: list[dict]) -> np.ndarray:
    "[epochs] mean distance over the properties, each as a part of its mean over the epochs; the smallest is the best."
    table = np.array([[record[name] for name in MASK_MEASURES] for record in records])
    return np.nanmean(table / np.nanmean(table, 0), 1)


def table(runs: dict) -> str:
    "How well each number ranks the epochs of a run, and how good the epoch is that it chooses."
    rows = []
    for name, label in CHOOSE.items():
        ranks, chosen = [], []
        for records in runs.values():
            worth, number = truth(records), np.array([r[name] for r in records]) * (-1 if name == 'epoch' else 1)
            ranks.append(spearmanr(number, worth).statistic)
            chosen.append(worth[number.argmin()] / worth.min())
        rank, ratio = mean_interval(ranks), mean_interval(chosen)
        rows.append([label, f'{rank.value:.2f} ({rank.low:.2f} to {rank.high:.2f})', f'{ratio.value:.2f}'])
    return markdown_table(
        ['chosen by', 'rank correlation with the distances', 'distance of its choice / of the best'], rows
    )


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('overrides', nargs='*', help='parameters of medgen-train')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='(%(default)s)')
    parser.add_argument('--masks', type=int, default=400, help='drawn after every epoch (%(default)s)')
    parser.add_argument('--runs', type=Path, required=True, help='folder of the runs')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the table and its numbers')
    a = parser.parse_args()
    runs = {
        s: run(a.runs / f'seed-{s}', [*a.overrides, 'mode=seg', f'seed={s}', 'val_interval=1'], a.masks)
        for s in a.seeds
    }
    print(text := table(runs))
    if a.out:
        shown = [o for o in a.overrides if not o.startswith('data_dir=')]
        a.out.with_suffix('.md').write_text(text + '\n')
        report = dict(overrides=shown, masks=a.masks, versions=versions(), runs=runs)
        a.out.with_suffix('.json').write_text(json.dumps(report) + '\n')


if __name__ == '__main__':
    main()
