"""The source of a function: the file of its module, and of every module that this one imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

# Packages that belong only to the source of their own functions. The version of torch is a field of its own.
APART = ("harness", "methods", "torch")
MOST_MODULES = 200  # of which the source counts: a clone of a large library takes a second for a hundred


def source_hash(target: str, mentioned: Iterable[str] = (), options: str = "") -> str:
    """A hash of 16 hexadecimal digits of `options`, and of the source of the function at the dotted path `target`.

    What a module imports counts with it, where it imports it within a function too. So does what is `mentioned` by its
    dotted path. Other packages do not count where they are installed, Python's own, torch or the harness's. Of a
    module's parent packages only their own files count. No module is imported for this. The MOST_MODULES modules to
    which the fewest imports lead count: an edit of another one does not change the hash.
    """
    digest = hashlib.sha256(options.encode())
    for _, content in sorted(_sources(target, mentioned).items()):
        digest.update(content)
    return digest.hexdigest()[:16]


def _sources(target: str, mentioned: Iterable[str]) -> dict[str, bytes]:
    """The content of the files, by the name of their module."""
    found: dict[str, bytes] = {}
    package = target.partition(".")[0]
    paths, met = deque([target, *mentioned]), set()
    while paths and len(met) < MOST_MODULES:
        module = _module(paths.popleft())
        if module is None or module in met or not _counts(module, package):
            continue
        met.add(module)
        files = {name: file for name in _with_parents(module) if (file := _file(name)) is not None}
        found |= {name: file.read_bytes() for name, file in files.items() if name not in found}
        paths += _imported(module, found[module])
    return found


def _counts(module: str, package: str) -> bool:
    top, file = module.partition(".")[0], _file(module)
    if top == package:
        return True
    installed = file is None or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    return not installed and top not in sys.stdlib_module_names and top not in APART


@functools.cache
def _imported(module: str, content: bytes) -> tuple[str, ...]:
    """Dotted paths of what a module imports: of modules, or of something in them."""
    try:
        return tuple(_imports(module, ast.parse(content)))
    except (SyntaxError, ValueError):
        return ()


def _imports(module: str, tree: ast.Module) -> Iterator[str]:
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        statements = (ast.stmt, ast.excepthandler, ast.match_case)
        nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, statements)]


def _origin(module: str, node: ast.ImportFrom) -> str:
    """The absolute dotted path of the module from which names are imported."""
    file = _file(module)
    levels = node.level - (file is not None and file.name == "__init__.py")
    parents = module.split(".")[: -levels or None] if node.level else []
    return ".".join([*parents, *filter(None, [node.module])])


def _module(path: str) -> str | None:
    """The longest part of a dotted path that is a module with a file; None where there is none."""
    parts = _with_parents(path.replace(":", "."))
    return next((part for part in reversed(parts) if _file(part) is not None), None)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


@functools.cache
def _file(module: str) -> Path | None:
    """The source file of a module, found without importing it; None where there is none."""
    top, *inner = module.split(".")
    spec = _spec(top)
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
    places = [Path(folder, *inner) for folder in spec.submodule_search_locations or ()]
    files = [file for place in places for file in (place / "__init__.py", place.with_name(f"{place.name}.py"))]
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
