"""Build the documentation pages in _proc/_docs with smalldocs: a preview and a check of links, not the Quarto site.

nbdev processes the notebooks as for Quarto. It links to pages of the published site by module (`.../data.html`),
as Quarto names them; smalldocs names pages by file (`02_data.html`), so the links are rewritten."""
import re, shutil, subprocess, sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.serve import proc_nbs

def page_of_module(nbs):
    "Module name -> stem of the notebook that exports it"
    exp = re.compile(r'#\s*\|\s*default_exp\s+([\w.]+)')
    found = {p.stem: exp.search(p.read_text(encoding='utf-8')) for p in nbs}
    return {m[1].split('.')[-1]: stem for stem, m in found.items() if m and m[1] != stem}

if __name__ == '__main__':
    cfg = get_config()
    pages = page_of_module(nbglob(cfg.nbs_path, as_path=True))
    site = f'{cfg.doc_host}{cfg.doc_baseurl}/'
    proc = proc_nbs(force=True, n_workers=0)
    links = re.compile(rf"(?<![\w/])({'|'.join(map(re.escape, pages))})\.html(?=[#)\"'\\])")
    for p in proc.rglob('*.ipynb'):
        text = re.sub(r'output-file: [\w.]+\\n', '', p.read_text(encoding='utf-8')) # Quarto's, not read by smalldocs
        text = text.replace(site, '')
        p.write_text(links.sub(lambda m: f'{pages[m[1]]}.html', text), encoding='utf-8')
    shutil.rmtree(proc/'_docs', ignore_errors=True)
    sys.exit(subprocess.run([Path(sys.executable).parent/'smalldocs', 'render', '--strict', proc]).returncode)
