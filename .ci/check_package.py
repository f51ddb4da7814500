"""Build sdist and wheel without isolation (setuptools and wheel must be installed) and look into both: every module,
every configuration file. Then install the wheel alone into an empty folder, compose a configuration from it, and
call the commands."""

import configparser
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
use = '''
import sys; from pathlib import Path
import medgen, medgen.core.config as c
assert Path(medgen.__file__).is_relative_to(sys.argv[1]), medgen.__file__
assert 'torch' not in sys.modules, 'medgen.core.config imports torch'
for mode in ('seg', 'seg_sketch', 'bravo', 'dual'): assert c.compose_config(mode=mode).choices.mode == mode
for job in ('generate', 'evaluate'): c.compose_config(job=job)
found = sorted(p.parent.name for p in Path(medgen.__file__).parent.glob('starters/*/weights.safetensors'))
assert found == ['bravo', 'dual', 'seg', 'seg_sketch'], found
'''


def run(*args, **kwargs):
    subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **kwargs)


def copy_of(target):
    "What a clone holds, without leftovers of earlier builds"
    found = subprocess.run(
        [
            'git',
            'ls-files',
            '-z',
            '--cached',
            '--others',
            '--exclude-standard',
            'medgen',
            '*.*',
            ':!*/*.ipynb',
            'LICENSE',
        ],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split('\0')
    for name in found:
        if not name or '/' in name and not name.startswith('medgen/') or not (root / name).is_file():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((root / name).read_bytes())


def missing(names, wanted, what):
    if gone := sorted(set(wanted) - set(names)):
        sys.exit(f'the {what} lacks {", ".join(gone)}')


def commands():
    cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(root / 'settings.ini', encoding='utf-8')
    return dict(line.split('=') for line in cfg['DEFAULT']['console_scripts'].split())


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as d:
        source, dist, place = Path(d, 'source'), Path(d, 'dist'), Path(d, 'place')
        copy_of(source)
        wanted = [
            str(p.relative_to(source))
            for p in source.rglob('*')
            if p.suffix in ('.py', '.yaml') and 'medgen' in p.relative_to(source).parts
        ]
        run(sys.executable, 'setup.py', '-q', 'sdist', '--dist-dir', dist, cwd=source)
        sdist = next(dist.glob('*.tar.gz'))
        with tarfile.open(sdist) as t:
            missing(
                [n.partition('/')[2] for n in t.getnames()],
                [*wanted, 'setup.py', 'settings.ini', 'constraints.txt', 'LICENSE'],
                'sdist',
            )
        pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
        run(
            *pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', dist, sdist
        )  # from the sdist, so that is enough to build
        wheel = next(dist.glob('*.whl'))
        with zipfile.ZipFile(wheel) as z:
            missing(z.namelist(), wanted, 'wheel')
        run(*pip, 'install', '--no-deps', '--target', place, wheel)
        env = os.environ | {'PYTHONPATH': str(place), 'PYTHONSAFEPATH': '1'}
        run(sys.executable, '-c', use, place, cwd=d, env=env)
        for name in commands() if '--commands' in sys.argv else []:
            run(sys.executable, place / 'bin' / name, '--help', cwd=d, env=env)
        if gone := [n for n in commands() if not (place / 'bin' / n).exists()]:
            sys.exit(f'not installed: {", ".join(gone)}')
        print(
            f'{sdist.name} and {wheel.name} hold {len(wanted)} modules and configuration files; the wheel works by '
            'itself'
        )
