#!/usr/bin/env python
"""What real patients need: trainings of growing length on one folder of patients, begun with the starter models.

A row is a mode and a number of epochs, a whole run with its own schedule. Its images (for masks of training patients)
or masks are evaluated against held-out patients as medgen-evaluate does; a segmenter that learnt from the real images
says how well they obey their masks. Runs are kept in --runs, resumed, and found again. Only numbers are written.

  python benchmarks/real_data.py --data-dir DIR --rows dual:4 dual:24 seg:8 --runs DIR --out RESULTS/real-data

Modes with other sequences than the folder has are renamed: --rename bravo=t1_gd.nii.gz"""

import argparse
import json
import time
from pathlib import Path

from medgen.core.config import compose_config, versions
from medgen.core.files import write_atomic
from medgen.core.show import markdown_table
from medgen.data.store import open_store
from medgen.diffusion.run import run_training
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.sides import open_sets
from medgen.evaluation.utility import utility
from medgen.generation.generate import generate

TRAINING = dict(strategy='rflow', model='demo', training='demo', compile='never', val_slices=256, checkpoint_minutes=2)
OF_IMAGES = dict(
    implausible='implausible images',
    auc='told apart, AUC',
    kid='kid_alexnet',
    recall='recall_alexnet',
    alignment='edge_alignment',
    copies='copies of training images',
)
OF_MASKS = dict(
    count='mask_count',
    area='mask_area',
    solidity='mask_solidity',
    place='mask_place',
    copies='copies of training masks',
)


def train(mode: str, epochs: int, a):
    "The trainer of a row, when it has ended, and the minutes of the processor that all its starts took."
    folder, clock = a.runs / f'{mode}-{epochs}', a.runs / f'{mode}-{epochs}-minutes.txt'
    given = dict(data_dir=str(a.data_dir), image_size=a.image_size, seed=a.seed, output_dir=str(folder), resume='auto')
    every = max(1, epochs // 6)
    cfg = compose_config(
        a.rename, mode=mode, init=f'starter-{mode}', epochs=epochs, val_interval=every, **TRAINING, **given
    )
    before, start = float(clock.read_text()) if clock.exists() else 0.0, time.process_time()
    trainer = run_training(cfg, open_store(cfg, progress=False))
    minutes = before + (time.process_time() - start) / 60
    write_atomic(clock, str(minutes))
    return trainer, minutes


def measured(mode: str, run: Path, folder: Path, a) -> dict:
    "What an evaluation says of a row's images or masks; kept beside them."
    kept = folder / 'found.json'
    if kept.exists():
        return json.loads(kept.read_text())
    made = dict(seg_model=str(run)) if mode == 'seg' else dict(image_model=str(run), mask_dir=str(a.data_dir))
    generate(compose_config(job='generate', mode=mode, num_images=a.images, output_dir=str(folder / 'set'), **made))
    sides = dict(synthetic_dir=str(folder / 'set'), real_dir=str(a.data_dir), split='val')
    cfg = compose_config(
        job='evaluate', features=['alexnet', 'radiomics'], output_dir=str(folder / 'evaluation'), **sides
    )
    sets = open_sets(cfg)
    rows = evaluate(cfg, sets).rows
    wanted = OF_MASKS if mode == 'seg' else OF_IMAGES
    found = {}
    for name, measure in wanted.items():
        row = [r for r in rows if r.measure == measure][-1]  # of several sequences the last, after gadolinium
        found[name] = dict(value=row.synthetic[:3], floor=row.floor[:3], reading=row.reading)
    if mode != 'seg':
        judged = utility(sets, arms=('real',), seeds=1)
        found['obeyed'] = dict(
            value=judged.faithfulness('synthetic')[:3], floor=judged.faithfulness('held-out')[:3], reading=''
        )
    write_atomic(kept, json.dumps(found, indent=1))
    return found


def line(row: dict) -> list:
    "A line of the table."
    cells = []
    for value in row['found'].values():
        low, high = value['value'][1:3]
        interval = f' ({low:.2g} to {high:.2g})' if low == low else ''
        cells.append(f'{value["value"][0]:.2g}{interval}; {value["floor"][0]:.2g}')
    return [row['mode'], row['steps'], f'{row["minutes"]:.0f}', f'{row["loss"]:.4f}', *cells]


def tables(rows: list[dict]) -> str:
    "One table of images and one of masks; behind the semicolon: training patients in their place."
    texts = []
    for kind, titles in ((False, [*OF_IMAGES.values(), 'masks obeyed, Dice']), (True, list(OF_MASKS.values()))):
        lines = [line(r) for r in rows if (r['mode'] == 'seg') == kind]
        if lines:
            texts.append(markdown_table(['mode', 'steps', 'CPU minutes', 'held-out loss', *titles], lines))
    return '\n\n'.join(texts)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, required=True, help='folder with train/ and val/')
    parser.add_argument('--rows', nargs='+', required=True, help='MODE:EPOCHS ...')
    parser.add_argument('--rename', nargs='*', default=[], help='NAME=FILE of sequences')
    parser.add_argument('--image-size', type=int, default=64, help='(%(default)s)')
    parser.add_argument('--images', type=int, default=100, help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='(%(default)s)')
    parser.add_argument('--train-only', action='store_true', help='leave the evaluations for later')
    parser.add_argument('--runs', type=Path, required=True, help='where runs, images and evaluations are kept')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the tables')
    a = parser.parse_args()
    a.rename = [f'modalities.{r}' for r in a.rename]
    rows = []
    for mode, epochs in ((m, int(e)) for m, _, e in (r.partition(':') for r in a.rows)):
        trainer, minutes = train(mode, epochs, a)
        best = min(r['val_mse'] for r in trainer.history if 'val_mse' in r)
        print(mode, epochs, trainer.step, 'steps', f'{minutes:.1f} min', 'loss', best, flush=True)
        if not a.train_only:
            found = measured(mode, trainer.run_dir, a.runs / f'{mode}-{epochs}-images', a)
            rows.append(dict(mode=mode, steps=trainer.step, minutes=minutes, loss=best, found=found))
            print(rows[-1], flush=True)
    print(text := tables(rows))
    if a.out:
        facts = dict(images=a.images, image_size=a.image_size, seed=a.seed, versions=versions(), rows=rows)
        a.out.with_suffix('.md').write_text(text + '\n')
        a.out.with_suffix('.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    main()
