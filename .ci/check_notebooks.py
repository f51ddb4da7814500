"What a notebook of this project must and must not be; reads the files only, needs nothing installed."

import ast
import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
max_bytes = 1_500_000
max_export_lines = 40
max_run_cells = 12
runnables = {'train', 'generate', 'evaluate', 'sweep'}


def source(cell):
    return ''.join(cell['source'])


def is_export(cell):
    return re.search(r'^\s*#\s*\|\s*exporti?\b', source(cell), re.M)


def code_lines(src):
    "Lines that are neither empty nor only a comment"
    return [l for l in src.splitlines() if l.strip() and not l.strip().startswith('#')]


def problems(path):
    "Every problem of one notebook, as text"
    size = path.stat().st_size
    if size > max_bytes:
        yield f'{size:,} bytes, more than {max_bytes:,}: fewer or smaller stored figures'
    try:
        nb = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as e:
        yield f'not valid JSON: {e}'
        return
    if nb['metadata'].get('kernelspec', {}).get('name') != 'python3':
        yield 'kernelspec is not python3: papermill would not find the kernel'
    cells = [c for c in nb['cells'] if c['cell_type'] == 'code']
    for i, c in enumerate(nb['cells']):
        if c['cell_type'] != 'code':
            continue
        n = len(code_lines(source(c)))
        if is_export(c) and n > max_export_lines:
            yield f'cell {i}: {n} exported code lines, more than {max_export_lines}'
        for o in c['outputs']:
            if o['output_type'] == 'error':
                yield f"cell {i}: stored error {o['ename']}: {o['evalue'][:80]}"
    if path.stem in runnables:
        yield from runnable_problems(cells)


def runnable_problems(cells):
    "The rules of the notebooks that papermill runs"
    tagged = [c for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    if len(tagged) != 1:
        yield f'{len(tagged)} cells tagged `parameters`, not 1: papermill -p would be overridden by the defaults'
    if len(cells) > max_run_cells:
        yield f'{len(cells)} code cells, more than {max_run_cells}'
    for c in cells:
        try:
            tree = ast.parse(source(c))
        except SyntaxError:
            continue  # magics; running the notebook judges them
        defs = [o.name for o in ast.walk(tree) if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
        if defs:
            yield f"defines {', '.join(defs)}: move it to a numbered notebook"


if __name__ == '__main__':
    nbs = [
        p
        for p in sorted((root / 'nbs').rglob('*.ipynb'))
        if not any(o[0] in '._' for o in p.relative_to(root / 'nbs').parts)
    ]
    found = [f'{p.relative_to(root)}: {o}' for p in nbs for o in problems(p)]
    if not nbs:
        found = ['no notebooks in nbs/']
    if not (root / 'nbs/train.ipynb').exists():
        found.append('nbs/train.ipynb is missing')
    print('\n'.join(found) or f'{len(nbs)} notebooks are in order')
    sys.exit(bool(found))
