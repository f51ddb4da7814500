#!/usr/bin/env python
"""What does an evaluation say of models that are known to be bad? One that hardly learnt, and one that learnt by heart.

Planted defects (ladder.py) are made by hand; these are made by training: "undertrained" has seen the training slices
once, "overfitted" began with the starter model and has gone over those of two patients far too long. Images for masks
of held-out patients are evaluated against the same patients, as a user would; the answers of the first page are the
result.

  python benchmarks/real_models.py --data-dir DIR --runs DIR --out benchmarks/results/real-models"""

import argparse
import json
from pathlib import Path

from adapt import first_patients

from medgen.core.config import compose_config, versions
from medgen.core.show import markdown_table
from medgen.data.simulate import cohort_dir
from medgen.data.store import open_store
from medgen.diffusion.run import run_training
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.report import verdict
from medgen.evaluation.rows import QUESTIONS
from medgen.evaluation.sides import open_sets
from medgen.generation.generate import generate

TRAINING = dict(mode='dual', strategy='rflow', model='demo', training='demo', compile='never', val_slices=64)
MODELS = {  # patients to learn from, steps, and what to begin with
    'undertrained': (None, 200, None),
    'overfitted': (2, 3000, 'starter-dual'),
}


def train(name: str, data: Path, size: int, seed: int, runs: Path) -> Path:
    "The run folder of one of the models; an unfinished run goes on."
    patients, steps, init = MODELS[name]
    place = first_patients(data, patients, runs) if patients else data
    cfg = compose_config(**TRAINING, image_size=size, seed=seed, data_dir=str(place), init=init, epochs=8)
    cfg.paths.output_dir, cfg.training.resume = str(runs / f'{name}-{seed}'), 'auto'
    store = open_store(cfg, progress=False)
    cfg.training.epochs = max(1, round(steps * cfg.training.batch_size / len(store.select('train', 'nonempty'))))
    cfg.training.val_interval = cfg.training.epochs
    return run_training(cfg, store).run_dir


def answers(run: Path, data: Path, split: str, n: int, folder: Path) -> dict:
    "The five answers, and the numbers that are worse."
    masks = dict(mask_dir=str(data), mask_split=split)
    models = dict(image_model=str(run), checkpoint='latest', output_dir=str(folder / 'set'), num_images=n)
    generate(compose_config(job='generate', **masks, **models))
    sides = dict(synthetic_dir=str(folder / 'set'), real_dir=str(data), split=split)
    cfg = compose_config(job='evaluate', features=['radiomics'], output_dir=str(folder / 'evaluation'), **sides)
    rows = evaluate(cfg, open_sets(cfg)).rows
    found = {q: verdict(q, [r for r in rows if r.question == q])[0].strip('*') for q in QUESTIONS}
    return dict(answers=found, worse=[f'{r.measure}, {r.images}' for r in rows if r.reading == 'worse'])


def table(found: dict) -> str:
    "A line for each model and seed."
    rows = []
    for (name, seed), said in found.items():
        worse = ', '.join(dict.fromkeys(w.partition(',')[0] for w in said['worse']))
        rows.append([name, seed, *[said['answers'][q] for q in QUESTIONS if q != 'useful'], worse])
    return markdown_table(['model', 'seed', *[t for q, t in QUESTIONS.items() if q != 'useful'], 'worse'], rows)


def main():
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, help='folder of patients; without it a simulated cohort of 56')
    parser.add_argument('--split', default='test', help='whose images are held against them (%(default)s)')
    parser.add_argument('--image-size', type=int, default=48, help='(%(default)s)')
    parser.add_argument('--images', type=int, default=100, help='(%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3], help='(%(default)s)')
    parser.add_argument('--runs', type=Path, required=True, help='where runs and images are kept')
    parser.add_argument('--out', type=Path, help='OUT.md and OUT.json get the answers')
    a = parser.parse_args()
    cache, found = compose_config().paths.cache_dir, {}
    data = a.data_dir or Path(cohort_dir(cache, seed=7, n_train=40, n_val=4, n_test=12, progress=False))
    for seed in a.seeds:
        for name in MODELS:
            run = train(name, data, a.image_size, seed, a.runs)
            found[name, seed] = answers(run, data, a.split, a.images, a.runs / f'{name}-{seed}-images')
            print(name, seed, found[name, seed], flush=True)
    print(text := table(found))
    if a.out:
        facts = dict(images=a.images, image_size=a.image_size, models=MODELS, versions=versions())
        facts['found'] = [dict(model=m, seed=s, **said) for (m, s), said in found.items()]
        a.out.with_suffix('.md').write_text(text + '\n')
        a.out.with_suffix('.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    main()
