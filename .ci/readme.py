"Write README.md from nbs/index.ipynb; with --check, only say whether it is up to date. Needs nbconvert, not Quarto."

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
source, target = root / 'nbs/index.ipynb', root / 'README.md'
header = '<!-- Made from nbs/index.ipynb by .ci/readme.py: edit there. -->\n\n'


def is_hidden(cell):
    return cell.cell_type == 'code' and re.search(r'^\s*#\s*\|\s*hide\b', cell.source, re.M)


def from_root(md):
    "Make link targets that are relative to nbs/ relative to the repository's root"

    def fix(m):
        url = m[2]
        if re.match(r'[a-z]+:|#|/', url):
            return m[0]
        return m[1] + (url[3:] if url.startswith('../') else f'nbs/{url}') + ')'

    return re.sub(r'(\]\()([^)\s]+)\)', fix, md)


def readme():
    "The text of README.md"
    nb = nbformat.read(source, 4)
    nb.cells = [c for c in nb.cells if not is_hidden(c)]
    nb.metadata['language_info'] = {'name': 'python'}
    for c in nb.cells:
        if c.cell_type == 'code':
            c.source = re.sub(r'^\s*#\s*\|.*\n?', '', c.source, flags=re.M)
    md, res = MarkdownExporter().from_notebook_node(nb)
    if res['outputs']:
        sys.exit(f'{source.name} stores pictures in cell outputs; put them into nbs/images/ and link to them')
    return header + from_root(re.sub(r'\n{3,}', '\n\n', md)).strip() + '\n'


if __name__ == '__main__':
    new, old = readme(), target.read_text(encoding='utf-8') if target.exists() else ''
    if new == old:
        print('README.md is up to date')
    elif '--check' in sys.argv:
        sys.exit('README.md differs from nbs/index.ipynb: run python3 .ci/readme.py')
    else:
        target.write_text(new, encoding='utf-8')
        print('README.md written')
