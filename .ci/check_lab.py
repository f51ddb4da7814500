#!/usr/bin/env python3
"""JupyterLab as a person meets it: a headless Chromium opens it, runs a notebook, and sees pictures and widgets.

Needs `pip install -e ".[lab]"` and a Chromium; without the latter it says that it was skipped, and ends well."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

CELLS = {
    'text': 'import medgen\nprint("it is", medgen.__version__)',
    'slider': 'from ipywidgets import IntSlider\nIntSlider(7)',
    'progress': 'from medgen.core.show import ProgressBar\nfor _ in ProgressBar(range(3), "counting", 3): pass',
    'volume': (
        'import numpy as np, nibabel as nib\n'
        'from ipyniivue import NiiVue\n'
        'nib.save(nib.Nifti1Image(np.random.rand(8, 8, 8).astype(np.float32), np.eye(4)), "v.nii.gz")\n'
        'view = NiiVue()\nview.load_volumes([{"path": "v.nii.gz"}])\nview'
    ),
}
SEEN = {  # what the page must hold afterwards
    'the version': 'document.body.innerText.includes("it is ")',
    'a slider': 'document.querySelectorAll(".jp-OutputArea .widget-slider").length > 0',
    'a progress bar': 'document.body.innerText.includes("counting")',
    'a canvas of NiiVue': 'document.querySelectorAll(".jp-OutputArea canvas").length > 0',
}
# the session, not what the toolbar says: that is idle before there is a kernel, and a run then asks for one
IDLE = 'window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === "idle"'


def notebook() -> dict:
    "A notebook of the cells."
    made = [
        dict(cell_type='code', id=name, metadata={}, source=code, outputs=[], execution_count=None)
        for name, code in CELLS.items()
    ]
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    return dict(cells=made, metadata=kernel, nbformat=4, nbformat_minor=5)


def free_port() -> int:
    "A port that nobody listens at."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def waited(ask, seconds: float, what: str):
    "The first true answer; an error where none comes in time."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := ask():
                return answer
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f'no {what} within {seconds:g} seconds')


class Page:
    "The tab of a browser, driven by its debugging protocol."

    def __init__(self, port: int):
        from websocket import create_connection  # comes with jupyter_server

        def tab():
            tabs = json.load(urlopen(f'http://127.0.0.1:{port}/json'))
            return next((t for t in tabs if t['type'] == 'page'), None)

        self.socket = create_connection(
            waited(tab, 30, 'browser')['webSocketDebuggerUrl'], suppress_origin=True, timeout=60
        )

    def ask(self, code: str):
        "The value of an expression in the page."
        call = dict(id=1, method='Runtime.evaluate', params=dict(expression=code))
        self.socket.send(json.dumps(call))
        while (answer := json.loads(self.socket.recv())).get('id') != 1:
            pass
        return answer.get('result', {}).get('result', {}).get('value')


def look(folder: Path, browser: str):
    "Start both, run the notebook, and wait until everything is seen."
    Path(folder, 'look.ipynb').write_text(json.dumps(notebook()))
    port, debug, log = free_port(), free_port(), Path(folder, 'lab.log')
    lab = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--expose-app-in-browser', '--IdentityProvider.token=']
    lab += [f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--allow-root', f'--ServerApp.root_dir={folder}']
    flags = [
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--enable-unsafe-swiftshader',
        '--window-size=1200,1600',
    ]
    flags += [f'--remote-debugging-port={debug}', f'--user-data-dir={folder}/profile']
    places = {f'JUPYTER{name}_DIR': f'{folder}/{name}' for name in ('_CONFIG', '_DATA', '_RUNTIME', 'LAB_SETTINGS')}
    told = dict(stdout=log.open('w'), stderr=subprocess.STDOUT)
    programs = [subprocess.Popen(lab, cwd=folder, env=os.environ | places, **told)]
    try:
        waited(lambda: urlopen(f'http://127.0.0.1:{port}/api').status == 200, 60, 'JupyterLab')
        address = f'http://127.0.0.1:{port}/lab/tree/look.ipynb'
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        programs.append(subprocess.Popen([browser, *flags, address], **quiet))
        page = Page(debug)
        waited(lambda: page.ask('document.querySelectorAll(".jp-CodeCell").length') == len(CELLS), 90, 'open notebook')
        waited(lambda: page.ask(IDLE), 90, 'kernel')
        page.ask('window.jupyterapp.commands.execute("notebook:run-all-cells")')
        for what, code in SEEN.items():
            waited(lambda code=code: page.ask(code), 90, f'{what} in the page')
            print('seen:', what)
    except SystemExit:
        print(log.read_text()[-3000:])
        raise
    finally:
        for program in reversed(programs):
            program.terminate()
            program.wait(20)


def main():
    "Look, or say why not."
    found = [shutil.which(name) for name in ('chromium', 'chromium-browser', 'google-chrome')]
    browser = next(filter(None, found), None)
    if browser is None:
        print('skipped: no Chromium on this machine')
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        look(Path(folder), browser)


if __name__ == '__main__':
    main()
