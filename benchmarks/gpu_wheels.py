"""Collect the packages that `scripts/gpu` needs besides PyTorch, as wheels for another machine.

    scripts/gpu --wheels DIR [--python 3.12] [--present NAME ...]
    scripts/gpu --install DIR/part-1 [DIR/part-2 ...]

Run the first command on a machine with a package registry, in this project's environment; it uses
the versions of that environment. It excludes PyTorch with its CUDA packages, packages that no check
imports (TensorBoard, Ray, packages for figures), and packages that the other machine has
(--present). The wheels are divided into folders of at most 60 MiB, so that each can be copied in
one call. Run the second command on the machine with the GPU; it installs missing and outdated
packages into .gpu/site.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

try:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.specifiers import SpecifierSet
    from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / ".gpu" / "site"
MANIFEST = "wheels.json"
MOST = 60 * 2**20
# Packages that the machine has, or that no check imports.
EXCLUDED = ("torch", "tensorboard", "hf-xet")
EXTRAS = ("", "bitsandbytes")


def closure(python: str, present: set[str]) -> dict[str, dict[str, str]]:
    """Find the needed packages with installed version and accepted range.

    Args:
        python: version of Python on the other machine, such as "3.12".
        present: names of packages on the other machine.

    Returns:
        "version" and "range" by name of the package.

    Raises:
        SystemExit: if a needed package is not installed here; the message names it.
    """
    target = {"python_version": python, "python_full_version": f"{python}.0"}
    target |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    target |= {"platform_machine": "x86_64", "implementation_name": "cpython"}
    target |= {"platform_python_implementation": "CPython"}
    found: dict[str, dict[str, str]] = {}
    open_: list[tuple[str, tuple[str, ...]]] = [("lightning-unlearn", EXTRAS)]
    seen = set(open_)
    while open_:
        name, extras = open_.pop()
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker and not any(marker.evaluate({**target, "extra": e}) for e in (*extras, "")):
                continue
            own = canonicalize_name(needed.name)
            if own in EXCLUDED or own in present:
                continue
            try:
                version = metadata.version(own)
            except metadata.PackageNotFoundError:
                raise SystemExit(
                    f"error: {own}, which {name} needs, is not installed here. Run this command in "
                    'the environment of scripts/test, after: pip install -e ".[bitsandbytes]"'
                ) from None
            known = found.setdefault(own, {"version": version, "range": ""})
            known["range"] = ",".join(filter(None, (known["range"], str(needed.specifier))))
            following = (own, ("", *sorted(needed.extras)))
            if following not in seen:
                seen.add(following)
                open_.append(following)
    return found


def download(folder: Path, packages: dict[str, dict[str, str]], python: str) -> None:
    """Download wheels for another machine; build a package without wheel if it is pure Python.

    Args:
        folder: an empty folder.
        packages: the result of `closure`.
        python: version of Python on the other machine.
    """
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in range(39, 4, -1)]
    platforms += [f"--platform=manylinux{name}_x86_64" for name in ("2014", "2010", "1")]
    tags = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    for number, (name, known) in enumerate(sorted(packages.items()), start=1):
        wanted = f"{name}=={known['version']}"
        if sys.stdout.isatty():
            print(f"\r{number}/{len(packages)} {wanted:<50}", end="", flush=True)
        common = ["--quiet", "--no-deps", "--disable-pip-version-check", wanted]
        absent = pip("download", *common, *tags, "--dest", str(folder)).returncode
        if absent and pip("wheel", *common, "--wheel-dir", str(folder)).returncode:
            raise SystemExit(f"\nerror: no wheel of {wanted} for Python {python} on x86-64")
        (wheel,) = (f for f in folder.glob("*.whl") if _name_of(f) == name)
        if wheel.stem.split("-")[-2:] == ["none", "any"] or "manylinux" in wheel.stem:
            continue
        raise SystemExit(f"\nerror: {wheel.name} works on this machine only")
    if sys.stdout.isatty():
        print("\r" + " " * 70 + "\r", end="")


def pip(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run pip of this environment, or of the Python that created it; return the result."""
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    options["env"] = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / f"python{version}"
    for python in (sys.executable, *([base] if base.is_file() else [])):
        command = [str(python), "-m", "pip"]
        if not subprocess.run([*command, "--version"], **options).returncode:
            return subprocess.run([*command, *arguments], **options)
    raise SystemExit("error: found no pip. Install it in this environment.")


def spread(folder: Path, packages: dict[str, dict[str, str]]) -> list[tuple[Path, int]]:
    """Move wheels into folders of at most 60 MiB each, small wheels first, with a list of all.

    Returns:
        The folders with their sizes in bytes.
    """
    parts: list[tuple[Path, int]] = []
    for wheel in sorted(folder.glob("*.whl"), key=lambda file: (file.stat().st_size, file.name)):
        size = wheel.stat().st_size
        if not parts or parts[-1][1] + size > MOST:
            parts.append((folder / f"part-{len(parts) + 1}", 0))
            parts[-1][0].mkdir()
        part, before = parts[-1]
        parts[-1] = (part, before + size)
        wheel.rename(part / wheel.name)
        packages[_name_of(wheel)] |= {"part": part.name, "wheel": wheel.name}
    for part, _ in parts:
        (part / MANIFEST).write_text(json.dumps(packages, indent=1) + "\n", encoding="utf-8")
    return parts


def _name_of(wheel: Path) -> str:
    return canonicalize_name(wheel.name.split("-")[0])


def install(parts: list[Path]) -> None:
    """Install packages that are missing or too old, and print those that are still missing."""
    sys.path.insert(0, str(SITE))
    known: dict[str, Any] = {}
    wheels: list[str] = []
    for part in parts:
        if not (part / MANIFEST).is_file():
            raise SystemExit(f"error: found no {MANIFEST} in {part}, expected a part of --wheels")
        known = json.loads((part / MANIFEST).read_text(encoding="utf-8"))
        named = {each["wheel"]: name for name, each in known.items()}
        for wheel in sorted(part.glob("*.whl")):
            if lacking(named[wheel.name], known[named[wheel.name]]["range"]):
                wheels.append(str(wheel))
    if wheels:
        SITE.mkdir(parents=True, exist_ok=True)
        how = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"]
        how += ["--disable-pip-version-check", "--target", str(SITE)]
        done = pip("install", *how, *wheels)
        if done.returncode:
            raise SystemExit(f"error: pip could not install: {done.stderr.strip()}")
    missing = {n: each["part"] for n, each in known.items() if lacking(n, each["range"])}
    print(f"Installed {len(wheels)} packages into {SITE.relative_to(ROOT)}.")
    if missing:
        names = ", ".join(f"{name} ({part})" for name, part in sorted(missing.items()))
        print(f"Still missing or too old: {names}.")


def lacking(name: str, accepted: str) -> bool:
    """Return whether a package is missing here, or has a version that is not accepted."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    return not SpecifierSet(accepted).contains(found, prereleases=True)


def main(arguments: list[str] | None = None) -> int:
    """Create the folders, or install from them."""
    parser = argparse.ArgumentParser(
        prog="scripts/gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--wheels", type=Path, metavar="DIR", help="create folders in DIR")
    what.add_argument("--install", type=Path, metavar="PART", nargs="+")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=here, help="version of Python on the other machine")
    parser.add_argument(
        "--present",
        nargs="+",
        metavar="NAME",
        default=[],
        help="packages on the other machine, which are excluded",
    )
    options = parser.parse_args(arguments)
    if options.install:
        install(options.install)
        return 0
    folder: Path = options.wheels
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"--wheels: found files in {folder}, expected an empty folder")
    packages = closure(options.python, {str(canonicalize_name(name)) for name in options.present})
    download(folder, packages, options.python)
    for part, size in spread(folder, packages):
        files = sorted(part.glob("*.whl"), key=lambda file: -file.stat().st_size)
        largest = ", ".join(f"{_name_of(f)} {f.stat().st_size / 2**20:.1f}" for f in files[:4])
        print(f"{part}: {len(files)} wheels, {size / 2**20:.1f} MiB (largest: {largest})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
