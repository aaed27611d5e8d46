"""Hash the code of a class or function: its file and all files of the project that it imports."""

import ast
import hashlib
import importlib.util
import inspect
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from lightning_unlearn.version import __version__

PACKAGE = __name__.partition(".")[0]
# Modules of this package that contain formulas. Their files are hashed in addition to the version:
# a developer's checkout changes while the version stays the same.
FORMULAS = ("objectives", "metrics", "monitors", "unlearning")
# Libraries may be installed as a checkout outside of site-packages. They are not hashed, because
# runs record their versions.
LIBRARIES = {
    "accelerate", "bitsandbytes", "datasets", "jsonargparse", "lightning", "lightning_fabric",
    "lightning_utilities", "numpy", "pandas", "peft", "pyarrow", "pytorch_lightning", "ray",
    "scipy", "sklearn", "tokenizers", "torch", "torchmetrics", "transformers",
}  # fmt: skip


def code_of(value: Any) -> str:
    """Hash the code of a class or function.

    The hash covers its file and every file that it imports, directly or indirectly, except the
    standard library and installed packages. Imports inside functions count. Modules whose names
    are computed at run time do not count.

    Args:
        value: a class or function.

    Returns:
        Hexadecimal digest. If the value has no file, it is the digest of its compiled code.
    """
    module = getattr(value, "__module__", None) or ""
    package = module.partition(".")[0]
    if package in LIBRARIES or package in sys.stdlib_module_names:
        return f"{module}.{getattr(value, '__qualname__', value)}"
    file = _file_of(value)
    if file is None:
        return _digest(repr(sorted(_compiled(value))))
    known = _known.get((module, file))
    if known is not None and all(_token(*item) == token for item, token in known[0].items()):
        return known[1]
    found = _closure(module, file)
    parts = sorted((name, _source(name, path).digest) for name, path in found.items())
    digest = _digest(repr((__version__ if package == PACKAGE else "", parts)))
    _known[module, file] = ({item: _token(*item) for item in found.items()}, digest)
    return digest


def remember_code(cls: type) -> None:
    """Hash the code of a user's class when it is defined: later edits of its file do not run.

    Args:
        cls: any class; classes of this package are skipped here and hashed at their first use.
    """
    if cls.__module__.partition(".")[0] != PACKAGE:
        code_of(cls)


@dataclass(frozen=True)
class _Source:
    """A file of code: the hash of its text, and the names of the modules that it imports."""

    digest: str
    imports: frozenset[str]


# By name of a loaded module: its spec, path and source at the time. A reload changes the spec.
_loaded: dict[str, tuple[Any, Path, _Source]] = {}
# Digests of modules with all their imports. Each is valid as long as all tokens stay the same.
_known: dict[tuple[str, Path], tuple[dict[tuple[str, Path], Any], str]] = {}


def _source(name: str, path: Path) -> _Source:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    known = _loaded.get(name)
    if module is not None and known is not None and known[0] is spec and known[1] == path:
        return known[2]
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    source = _read(path, package, _state(path))
    if module is not None:
        _loaded[name] = (spec, path, source)
    return source


def _token(name: str, path: Path) -> Any:
    """Return a value that changes whenever the code that runs for a module changes."""
    module = sys.modules.get(name)
    if module is None:
        return _state(path)
    known = _loaded.get(name)
    # Compare specs by address: two different specs may be equal. The address of a spec that
    # _loaded keeps alive belongs to no other object.
    return known is not None and (id(known[0]), known[0] is getattr(module, "__spec__", None))


def _closure(module: str, file: Path) -> dict[str, Path]:
    """Return the files of a module and of all its direct and indirect imports, by module name."""
    found = {module: file, **_parents(module)}
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        for imported in _source(name, found[name]).imports:
            if imported not in found and (path := _project_file(imported)) is not None:
                found[imported] = path
                waiting.append(imported)
    return found


def _state(file: Path) -> tuple[int, int, int] | None:
    """Return a value that changes whenever the file changes; None if there is no file."""
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
    """Yield the compiled code of a class or function without a file, such as in a notebook."""
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
    """Return the files of the packages that contain a module; Python runs them before it."""
    names = module.split(".")
    above = (".".join(names[:size]) for size in range(1, len(names)))
    return {name: path for name in above if (path := _project_file(name)) is not None}


def _project_file(module: str) -> Path | None:
    """Return the file of a module of the project; None for an installed module."""
    package, _, inner = module.partition(".")
    if package in sys.stdlib_module_names or package in LIBRARIES:
        return None
    if package == PACKAGE:
        return _find(module) if inner.partition(".")[0] in FORMULAS else None
    # Do not search inside an installed package: the search would import the package.
    if inner and (above := _find(package)) is not None and _is_installed(above):
        return None
    path = _find(module)
    return path if path is not None and not _is_installed(path) else None


def _find(module: str) -> Path | None:
    """Find the file of a module anywhere, without importing the module."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        try:
            spec = _spec(module)
        # The module is only partly imported, or another program's import finder fails.
        except (ImportError, AttributeError, ValueError):
            return None
        file = spec.origin if spec is not None and spec.has_location else None
    return Path(file).resolve() if file is not None and Path(file).is_file() else None


def _spec(module: str) -> ModuleSpec | None:
    loaded: ModuleSpec | None = getattr(sys.modules.get(module), "__spec__", None)
    above = module.rpartition(".")[0]
    if loaded is not None or not above:
        return loaded or importlib.util.find_spec(module)
    parent = _spec(above)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(module, parent.submodule_search_locations)


@cache
def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(root) for root in _installed()) or not (
        {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    )


@cache
def _installed() -> tuple[Path, ...]:
    """Return the folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    names = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    names += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(name).resolve() for name in names)


@cache
def _read(file: Path, package: str, state: Any) -> _Source:
    content = file.read_bytes()
    return _Source(_hash(content, file), _imports(content, package, file))


def _imports(content: bytes, package: str, file: Path) -> frozenset[str]:
    """Return the names of all modules that a file imports, and of their packages."""
    if file.suffix != ".py":
        return frozenset()
    names: set[str] = set()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return frozenset()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(above if node.level else []), *([node.module] if node.module else [])]
            names.add(".".join(start))
            # A name that is imported from a package may be a module itself.
            names.update(".".join([*start, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    whole = {name for name in names if name and not name.endswith("*")}
    parts = (name.split(".") for name in whole)
    return frozenset(".".join(p[:size]) for p in parts for size in range(1, len(p) + 1) if all(p))


def _hash(content: bytes, file: Path) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
