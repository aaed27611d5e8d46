"""The code that a class or function depends on: its file and the project's files it imports."""

import ast
import hashlib
import importlib.util
import inspect
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lightning_unlearn.version import __version__

PACKAGE = __name__.partition(".")[0]
# Modules of this package that hold formulas. The version alone would not tell apart two states of
# a checkout in which somebody works on them.
FORMULAS = ("objectives", "measures", "monitors", "unlearning")
# Installed as a checkout they lie outside of site-packages; runs record their versions.
LIBRARIES = {
    "accelerate", "bitsandbytes", "datasets", "jsonargparse", "lightning", "lightning_fabric",
    "lightning_utilities", "numpy", "pandas", "peft", "pyarrow", "pytorch_lightning", "ray",
    "scipy", "sklearn", "tokenizers", "torch", "torchmetrics", "transformers",
}  # fmt: skip


def code_of(value: Any) -> str:
    """Hash of the code that a class or function is made of.

    That is its file, and every file that it imports, directly or through others, from anywhere
    but the standard library and installed packages. Imports inside functions count; modules that
    are named only while the code runs do not.

    Args:
        value: a class or function.

    Returns:
        Hexadecimal digest; for what has no file, that of its compiled code.
    """
    module = getattr(value, "__module__", None) or ""
    package = module.partition(".")[0]
    if package in LIBRARIES or package in sys.stdlib_module_names:
        return f"{module}.{getattr(value, '__qualname__', value)}"
    file = _file_of(value)
    if file is None:
        return _digest(repr(sorted(_compiled(value))))
    known = _known.get((module, file))
    if known is not None and all(_state(path) == state for path, state in known[0].items()):
        return known[1]
    found = _closure(module, file)
    states = {path: _state(path) for path in found.values()}
    parts = sorted((name, _hash(path)) for name, path in found.items())
    digest = _digest(repr((__version__ if package == PACKAGE else "", parts)))
    _known[module, file] = (states, digest)
    return digest


# Digests of modules with all that they import, as long as none of the files changes.
_known: dict[tuple[str, Path], tuple[dict[Path, Any], str]] = {}


def _closure(module: str, file: Path) -> dict[str, Path]:
    """A module and what it imports, by name."""
    found = {module: file, **_parents(module)}
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        for imported in _imports(found[name], name):
            if imported not in found and (path := _project_file(imported)) is not None:
                found[imported] = path
                waiting.append(imported)
    return found


def _state(file: Path) -> tuple[int, int, int] | None:
    """Changes whenever a file does."""
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _file_of(value: Any) -> Path | None:
    try:
        file = inspect.getsourcefile(value)
    except TypeError:
        return None
    return Path(file) if file is not None and Path(file).is_file() else None


def _compiled(value: Any) -> Iterator[str]:
    """The code of what was typed in, such as in a notebook."""
    for part in [value, *vars(value).values()] if inspect.isclass(value) else [value]:
        code = getattr(getattr(part, "__func__", part), "__code__", None)
        if code is not None:
            yield from _code_texts(code)
        elif part is not value:
            yield repr(part) if isinstance(part, (str, int, float, bool, type(None))) else ""


def _code_texts(code: types.CodeType) -> Iterator[str]:
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    yield repr((code.co_name, code.co_code, code.co_names, code.co_varnames, constants))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _code_texts(inner)


def _parents(module: str) -> dict[str, Path]:
    """The files of the packages that a module is in, which run before it."""
    names = module.split(".")
    above = (".".join(names[:size]) for size in range(1, len(names)))
    return {name: path for name in above if (path := _project_file(name)) is not None}


def _project_file(module: str) -> Path | None:
    """The file of a module of the project; None for installed ones."""
    package, _, inner = module.partition(".")
    if package in sys.stdlib_module_names or package in LIBRARIES:
        return None
    if package == PACKAGE:
        return _find(module) if inner.partition(".")[0] in FORMULAS else None
    # Of an installed package no part is looked for, which would import it.
    if inner and (above := _find(package)) is not None and _is_installed(above):
        return None
    path = _find(module)
    return path if path is not None and not _is_installed(path) else None


def _find(module: str) -> Path | None:
    """The file of a module, wherever it is."""
    try:
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None)
        if loaded is None:
            spec = importlib.util.find_spec(module)
            file = spec.origin if spec is not None and spec.has_location else None
    # A package above it may be none, or fail in any way when it is imported; who needs it is told.
    except Exception:
        return None
    return Path(file).resolve() if file is not None and Path(file).is_file() else None


@cache
def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(root) for root in _installed()) or not (
        {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    )


@cache
def _installed() -> tuple[Path, ...]:
    """Where the standard library and installed packages are."""
    paths = sysconfig.get_paths()
    names = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    names += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(name).resolve() for name in names)


def _imports(file: Path, module: str) -> frozenset[str]:
    """Names of all modules that a file imports, and of the packages they are in."""
    about = file.stat()
    is_package = file.stem == "__init__"
    own = module if is_package else module.rpartition(".")[0]
    return _read_imports(file, own, about.st_mtime_ns, about.st_size)


@cache
def _read_imports(file: Path, package: str, modified: int, size: int) -> frozenset[str]:
    if file.suffix != ".py":
        return frozenset()
    names: set[str] = set()
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return frozenset()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(above if node.level else []), *([node.module] if node.module else [])]
            names.add(".".join(start))
            # What is imported from a package may be a module of its own.
            names.update(".".join([*start, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    whole = {name for name in names if name and not name.endswith("*")}
    parts = (name.split(".") for name in whole)
    return frozenset(".".join(p[:size]) for p in parts for size in range(1, len(p) + 1) if all(p))


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
