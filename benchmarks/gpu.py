#!/usr/bin/env python
"""What medgen does on a GPU: three parts of at most eight minutes each.

  A  does it run, how fast are steps, what stays busy, how much memory, against a MONAI loop
  B  are the numbers right: arithmetics, compiled networks, resuming, advice when memory runs out, two processes
  C  sampling: images per second, the price of fresh noise, equal images in any batch and process, features, a notebook

Every experiment is a process of its own with a time limit and adds one line of JSON to gpu-NAME.jsonl, so that a crash
or a hang costs one line; gpu-NAME.md is made from these lines. Part A first: the others mean nothing where it fails."""

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

PART_SECONDS = 480


def plan(part, small):
    "Experiments of a part in the order of their importance: (name, options, seconds at most)."
    if part == 'A':
        grid = product((16, 64), ('bf16', 'fp32'), ('never', 'always'), ('channels_last', 'contiguous_format'))
        steps = [dict(batch_size=b, precision=p, compile=c, layout=l) for b, p, c, l in grid]
        if small:
            steps = [dict(batch_size=4, precision='fp32', compile='never', layout='contiguous_format')]
        monai = [] if small else [('against_monai', {}, 150)]
        return [
            ('ceiling', {}, 60),
            ('training_step', steps[0], 90),
            *monai,
            *[('training_step', s, 90) for s in steps[1:]],
        ]
    if part == 'B':
        kinds = [('fp32', 'never')] + ([] if small else [('bf16', 'never'), ('bf16', 'always')])
        curves = [('loss_curve', dict(precision=p, compile=c), 120) for p, c in kinds]
        needs_gpu = [] if small else [('memory_advice', {}, 90), ('auto_batch', {}, 120), ('two_processes', {}, 120)]
        return [*curves, ('resume', {}, 90), *needs_gpu]
    kinds = [('fp32', 'never')] if small else [('bf16', 'never'), ('bf16', 'always'), ('fp32', 'never')]
    speeds = [('sampling', dict(precision=p, compile=c), 90) for p, c in kinds]
    hashes = [('image_hashes', dict(first=first, count=count), 60) for first, count in ((0, 6), (2, 4))]
    more = [] if small else [('features', {}, 90), ('notebook', {}, 240)]
    return [*speeds, ('fresh_noise', {}, 60), *hashes, *more]


def run(name, options, limit, small):
    "The line of an experiment: its result, or how it ended."
    command = [sys.executable, str(Path(__file__).with_name('gpu_experiments.py')), name, json.dumps(options)]
    start = time.monotonic()
    try:
        out = subprocess.run([*command, *['small'] * small], capture_output=True, text=True, timeout=limit)
        outcome = json.loads(out.stdout.splitlines()[-1]) if not out.returncode else dict(error=out.stderr[-800:])
    except subprocess.TimeoutExpired:
        outcome = dict(error=f'not finished in {limit:.0f} s')
    return dict(experiment=name, options=options, seconds=round(time.monotonic() - start, 1), **outcome)


def run_part(part, small, file):
    "Run the experiments of a part while its time lasts; whether all went well."
    end, good = time.monotonic() + PART_SECONDS, True
    for name, options, limit in plan(part, small):
        left = end - time.monotonic()
        line = dict(experiment=name, options=options, error='not run: the time of the part was used up')
        if left > 20:
            line = run(name, options, min(limit, left), small)
        good = good and 'error' not in line
        with open(file, 'a') as f:
            f.write(json.dumps(dict(part=part, small=small) | line) + '\n')
        print(json.dumps(line)[:1000], flush=True)
    return good


# --- the tables ---


def cell(value):
    return f'{value:.4g}' if isinstance(value, float) else str(value).replace('\n', ' ').replace('|', '/')


def table(rows):
    "A Markdown table of dicts."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ['---'] * len(columns), *[[cell(row.get(c, '')) for c in columns] for row in rows]]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def same_images(lines):
    "Whether every image came out alike in all processes and batches that drew it."
    hashes = {}
    for line in lines:
        for index, digest in line['result']['images'].items():
            hashes.setdefault(index, set()).add(digest)
    different = [index for index, digests in hashes.items() if len(digests) > 1]
    shared = f'images drawn by {len(lines)} processes'
    return f'{shared}: equal to the last bit' if not different else f'{shared}: numbers {", ".join(different)} differ'


def report(lines):
    "The Markdown of all experiments."
    devices = dict.fromkeys(line['result']['device'] for line in lines if 'result' in line)
    parts = [f'# medgen on {", ".join(devices) or "no device: nothing ran"}']
    if any(line['small'] for line in lines):
        parts.append('**Made with `--small`: it shows that the experiments run, and says nothing about a GPU.**')
    for name in dict.fromkeys(line['experiment'] for line in lines):
        mine = [line for line in lines if line['experiment'] == name]
        rows = [line['options'] | line.get('result', dict(error=line.get('error'))) for line in mine]
        rows = [{k: v for k, v in row.items() if k not in ('device', 'images')} for row in rows]
        parts += [f'## {name.replace("_", " ")}', table(rows)]
        if name == 'image_hashes':
            parts.append(same_images([line for line in mine if 'result' in line]))
    return '\n\n'.join(parts) + '\n'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('parts', nargs='*', choices=['A', 'B', 'C'], help='which parts; none: only make the table again')
    p.add_argument('--small', action='store_true', help='a tiny network and few steps, about a minute on a CPU')
    p.add_argument('--out', type=Path, default=Path('benchmark'), help='folder of the results (default: %(default)s)')
    p.add_argument('--name', default='gpu', help='name of the result (default: %(default)s)')
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    file = a.out / f'gpu-{a.name}.jsonl'
    good = all([run_part(part, a.small, file) for part in a.parts])
    text = report([json.loads(line) for line in file.read_text().splitlines()])
    file.with_suffix('.md').write_text(text)
    print(text)
    sys.exit(not good)


if __name__ == '__main__':
    main()
