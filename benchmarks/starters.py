"""The models that come with medgen: trained on simulated patients, exported into the package, held against others.

python benchmarks/starters.py train dual --runs DIR    about an hour on one core; the same command goes on
python benchmarks/starters.py export dual --runs DIR   the newest run, into medgen/starters/dual
python benchmarks/starters.py measure dual             100 images against simulated patients it has not seen

Models of other sizes, such as dual-96, begin with the one of 64 pixels, and seg_sketch begins with seg;
benchmarks/quotas.py measures that one.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from medgen.core.config import compose_config, versions
from medgen.core.files import write_atomic
from medgen.core.show import markdown_table
from medgen.data.simulate import cohort_dir
from medgen.data.store import open_store
from medgen.diffusion.export import export_model
from medgen.diffusion.report import TrainingLine
from medgen.diffusion.run import run_training
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.sides import open_sets
from medgen.generation.generate import generate

COHORT = dict(seed=1, n_train=520, n_val=40, n_test=60)
TRAINING = dict(strategy='rflow', model='demo', training='demo', val_slices=256, checkpoint_minutes=5, compile='never')
EPOCHS = {  # by the name of the model
    'seg': dict(epochs=12, val_interval=2),
    'seg_sketch': dict(epochs=8, val_interval=2, condition_dropout=0.2, init='starter-seg'),
    'bravo': dict(epochs=2, val_interval=1),
    'dual': dict(epochs=5, val_interval=1),
    'dual-96': dict(epochs=4, val_interval=1),
}
PACKAGE = Path(__file__).resolve().parent.parent / 'medgen/starters'


def train(name: str, runs: str):
    "One training; one thread is as fast as two here."
    cohort = cohort_dir(compose_config().paths.cache_dir, **COHORT)
    places = dict(data_dir=str(cohort), output_dir=f'{runs}/{name}', resume='auto')
    mode, _, size = name.partition('-')
    begun = dict(image_size=int(size), init=f'starter-{mode}') if size else {}
    cfg = compose_config(mode=mode, seed=1, **TRAINING, **EPOCHS[name], **places, **begun)
    print(run_training(cfg, open_store(cfg), TrainingLine()).run_dir)


def export(mode: str, runs: str):
    "The newest run, without folders and training state."
    newest = sorted(Path(runs, mode).glob('*/'))[-1]
    # of masks the last one: held-out loss and lesion sizes were better, and the deviation that picks the best is noise
    checkpoint = newest / 'latest' if mode.startswith('seg') else newest
    print(export_model(checkpoint, PACKAGE / mode, licence='apache-2.0'))


COLUMNS = ('measure', 'images', 'synthetic', 'real patients in their place', 'reading')


def number(interval) -> str:
    "A value with its interval."
    value, low, high = interval[:3]
    return f'{value:.3g} [{low:.3g}, {high:.3g}]' if high == high else f'{value:.3g}'


def measure(mode: str, out: str, n: int = 100):
    "Images for drawn masks against the test patients; copies are looked for among all training patients."
    cohort = str(cohort_dir(compose_config().paths.cache_dir, **COHORT))
    with tempfile.TemporaryDirectory() as d:
        start = time.process_time()
        chosen = dict(seg_model='starter-seg_sketch') if mode == 'seg_sketch' else dict(mode=mode)
        made = generate(compose_config(job='generate', **chosen, num_images=n, output_dir=f'{d}/set'))
        seconds = (time.process_time() - start) / n
        sides = dict(synthetic_dir=f'{d}/set', real_dir=cohort, split='test', output_dir=f'{d}/evaluation')
        cfg = compose_config(job='evaluate', features=['radiomics'], **sides)
        found = evaluate(cfg, open_sets(cfg)).rows
    rows = [r for r in found if r.synthetic.value == r.synthetic.value]  # the others want weights, or a reference
    funnel = f'{n} images of {made.funnel.attempts} masks, {seconds:.2f} CPU s an image'
    place = f'CPU, {os.cpu_count()} cores, {os.environ.get("OMP_NUM_THREADS", "all")} threads'
    lines = [[r.measure, r.images, number(r.synthetic), number(r.floor), r.reading] for r in rows]
    facts = dict(mode=mode, funnel=funnel, machine=place, versions=versions(), rows=[r.facts() for r in rows])
    write_atomic(Path(out, f'starter-{mode}.json'), json.dumps(facts, indent=1))
    write_atomic(Path(out, f'starter-{mode}.md'), f'{funnel} ({place})\n\n{markdown_table(COLUMNS, lines)}\n')
    print(markdown_table(COLUMNS, lines))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['train', 'export', 'measure'])
    parser.add_argument('mode', choices=list(EPOCHS))
    parser.add_argument('--runs', default='runs/starters', help='where run folders are kept')
    parser.add_argument('--out', default='benchmarks/results', help='where tables go')
    a = parser.parse_args()
    measure(a.mode, a.out) if a.what == 'measure' else dict(train=train, export=export)[a.what](a.mode, a.runs)
