"""Check the type hints of the exported package with mypy (settings and reasons: mypy.ini).

A method that a notebook adds with fastcore's `@patch` is invisible to a type checker, so the modules are checked
as a copy in which every such method stands in its class. Findings are printed with the lines of medgen/.

.ci/types_known.txt counts the findings that are left, by module and kind: more fail, --update writes the file
afresh."""

import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def patched_class(node):
    "Name of the class that a function with `@patch` is added to, or None"
    if not isinstance(node, ast.FunctionDef):
        return None
    names = [ast.unparse(d).split('(')[0] for d in node.decorator_list]
    if not any(n in ('patch', 'patch_to') for n in names):
        return None
    return ast.unparse(node.args.args[0].annotation)


def kind_of(node):
    "The decorator that a patched method would have within its class, or None"
    decorators = ' '.join(ast.unparse(d) for d in node.decorator_list)
    kinds = (('as_prop=True', '@property'), ('cls_method=True', '@classmethod'))
    return next((decorator for option, decorator in kinds if option in decorators), None)


def patched_elsewhere(files):
    "Class -> {method: decorator} for methods that a module adds to a class of another module"
    found = {}
    for p in files:
        tree = ast.parse(p.read_text(encoding='utf-8'))
        own = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
        for n in tree.body:
            if (cls := patched_class(n)) and cls not in own:
                found.setdefault(cls, {})[n.name] = kind_of(n)
    return found


def stubs(methods, at):
    "Lines that declare methods which other modules add, of any type"
    for name, kind in methods.items():
        if kind:
            yield f'    {kind}', at
        first = 'cls' if kind == '@classmethod' else 'self'
        yield f'    def {name}({first}{"" if kind == "@property" else ", *args, **kwargs"}): ...', at


def methods_in_classes(text, elsewhere):
    "The module with its patched methods moved into their classes, and for every new line the number of the old one"
    tree, lines = ast.parse(text), text.splitlines()
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    moved, gone = {}, set()
    for n in tree.body:
        if (cls := patched_class(n)) not in classes:
            continue
        first = n.decorator_list[0].lineno
        gone.update(range(first, n.end_lineno + 1))
        kept = [first + k for k, l in enumerate(lines[first - 1 : n.end_lineno]) if not re.match(r'@patch\b', l)]
        moved.setdefault(cls, []).append((kept, kind_of(n)))
    new = []
    for k, line in enumerate(lines, 1):
        if k not in gone:
            new.append((line, k))
        for cls in (c for c in classes if classes[c].end_lineno == k):
            new += stubs(elsewhere.get(cls, {}), k)
            for kept, kind in moved.get(cls, []):
                if kind:
                    new.append((f'    {kind}', kept[0]))
                new += [('    ' + re.sub(rf'\b(self|cls): *{cls}\b', r'\1', lines[o - 1]), o) for o in kept]
    return '\n'.join(l for l, _ in new) + '\n', [k for _, k in new]


def check(copy):
    "Run mypy on a copy of the package; its findings with the lines of medgen/"
    maps, files = {}, sorted((root / 'medgen').rglob('*.py'))
    elsewhere = patched_elsewhere(files)
    for p in files:
        text, maps[str(p.relative_to(root))] = methods_in_classes(p.read_text(encoding='utf-8'), elsewhere)
        target = copy / p.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text('from __future__ import annotations\n' + text, encoding='utf-8')
    cmd = [sys.executable, '-m', 'mypy', '--config-file', root / 'mypy.ini', '--cache-dir', copy / '.cache', 'medgen']
    res = subprocess.run(cmd, cwd=copy, capture_output=True, text=True)
    if res.returncode not in (0, 1):
        sys.exit(res.stdout + res.stderr)

    def true_line(m):
        return f'{m[1]}:{maps[m[1]][max(int(m[2]) - 2, 0)]}:'

    return [re.sub(r'^(medgen/[\w/]+\.py):(\d+):', true_line, l) for l in res.stdout.splitlines() if ': error: ' in l]


def kinds(findings):
    "How many findings there are of each kind in each module"
    return Counter(f"{l.partition(':')[0]} {l.rpartition('[')[2].rstrip(']')}" for l in findings)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as d:
        findings = check(Path(d))
    now, file = kinds(findings), root / '.ci/types_known.txt'
    if '--update' in sys.argv:
        file.write_text(''.join(f'{k} {n}\n' for k, n in sorted(now.items())), encoding='utf-8')
    known = {k: int(n) for k, _, n in (l.rpartition(' ') for l in file.read_text(encoding='utf-8').splitlines())}
    more = [k for k in now if now[k] > known.get(k, 0)]
    show = [l for l in findings if next(iter(kinds([l]))) in more] if more else findings * ('--all' in sys.argv)
    print(
        '\n'.join(
            show
            + [
                f'{len(findings)} findings, {sum(known.values())} known'
                + f'; more than known: {", ".join(more)}' * bool(more)
            ]
        )
    )
    if fewer := [k for k in known if now[k] < known[k]]:
        print(f'fewer than known, run with --update: {", ".join(fewer)}')
    sys.exit(bool(more))
