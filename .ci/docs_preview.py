"""Build the documentation pages in _proc/_docs with smalldocs and check their links: a preview, not the Quarto site.

nbdev processes the notebooks as for Quarto. It links to pages of the published site by their names there, without
numbers (`.../core/config.html`); smalldocs names pages by file (`core/02_config.html`), so the links are
rewritten."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.serve import proc_nbs

nbs_path = Path(get_config().nbs_path)


def site_names(nbs):
    "Page on the published site, such as core/config (nbdev drops the number) -> the notebooks that become it"
    names = {}
    for p in nbs:
        page = p.relative_to(nbs_path).with_suffix('')
        name = page.with_name(re.sub(r'^\d+[a-z0-9]*_', '', page.name.lower()))
        names.setdefault(name.as_posix(), []).append(page.as_posix())
    return names


class Page(HTMLParser):
    "Targets and anchors of a page"

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loaded = set(), set(), set()
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.anchors |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and a.get('href'):
            self.links.add(a['href'])
        if url := a.get('src') or (a.get('href') if tag == 'link' else None):
            self.loaded.add(url)


def link_problems(site):
    "Links that lead nowhere within the site, and files from elsewhere that pages need; prints the external links,"
    "which are not fetched"
    pages, found, outside = {p.resolve(): Page(p) for p in site.rglob('*.html')}, [], Counter()
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for url in page.links | page.loaded:
            u = urlsplit(url)
            if u.scheme in ('http', 'https'):
                outside[url] += 1
                if url in page.loaded and '/katex@' not in url:
                    found.append(
                        f'{name}: needs {url[:80]} from elsewhere'
                    )  # KaTeX is smalldocs' own; Quarto is told to use MathML
                continue
            if u.scheme or url.startswith('//'):
                continue  # data:, mailto:
            target = (
                (site / u.path.lstrip('/') if u.path.startswith('/') else path.parent / unquote(u.path))
                if u.path
                else path
            ).resolve()
            if target.is_dir():
                target /= 'index.html'
            if not target.exists():
                found.append(f'{name}: {url} leads nowhere')
            elif u.fragment and target in pages and unquote(u.fragment) not in pages[target].anchors:
                found.append(f'{name}: {url}: no such place on that page')
    for path in pages:  # a default `env=os.environ` would be printed with all it holds, tokens too
        if re.search(r'environ\(\{', re.sub(r'<[^>]*>', '', path.read_text(encoding='utf-8'))):
            found.append(f'{path.name}: shows the environment of the build machine: a parameter defaults to os.environ')
    sources = [u for u in outside if '/blob/' in u]
    print(
        f'{len(pages)} pages; {len(outside)} external links, not fetched; {len(sources)} of them to source lines, '
        'the others:'
    )
    for url in sorted(set(outside) - set(sources)):
        print(f'  {url}')
    return found


def prepare(proc, names, site):
    "Make the pages that nbdev processed fit smalldocs: its names of pages, no options that it does not know"
    links = re.compile(rf"{re.escape(site)}({'|'.join(map(re.escape, names))})\.html(?=[#)\"'\\])")
    for p in proc.rglob('*.ipynb'):
        up = '../' * (len(p.relative_to(proc).parts) - 1)
        text = re.sub(r'output-file: [\w.]+\\n', '', p.read_text(encoding='utf-8'))  # Quarto's, not read by smalldocs
        text = links.sub(lambda m: f'{up}{names[m[1]][0]}.html', text).replace(site, up)
        p.write_text(text, encoding='utf-8')
    quarto = (proc / '_quarto.yml').read_text(encoding='utf-8')
    (proc / '_quarto.yml').unlink()  # it may be a link
    known = re.sub(r'^ *html-math-method:.*\n', '', quarto, flags=re.M)  # smalldocs warns of what it does not know
    (proc / '_quarto.yml').write_text(known, encoding='utf-8')


if __name__ == '__main__':
    cfg = get_config()
    names = site_names(nbglob(nbs_path, as_path=True))
    twice = [
        f'{" and ".join(pages)} would both become {name}.html on the published site: rename one'
        for name, pages in names.items()
        if len(pages) > 1
    ]
    proc = proc_nbs(force=True, n_workers=0)
    prepare(proc, names, f'{cfg.doc_host}{cfg.doc_baseurl}/')
    shutil.rmtree(proc / '_docs', ignore_errors=True)
    if code := subprocess.run([Path(sys.executable).parent / 'smalldocs', 'render', '--strict', proc]).returncode:
        sys.exit(code)
    copied = [] if (nbs_path / '_quarto.yml').is_symlink() else ['nbs/_quarto.yml is a copy: link it to ../_quarto.yml']
    found = twice + copied + link_problems(proc / '_docs')
    print('\n'.join(sorted(found)))
    sys.exit(bool(found))
