"""The command line: LightningCLI for fit and validate, and the study command."""

import os
import re
import sys
from typing import Any

from lightning_unlearn.configuration import Path, compose, line_of, read_arguments, read_yaml
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.help import HELP, OVERVIEW
from lightning_unlearn.version import __version__

COMMANDS = ("fit", "validate", "study")
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None takes the process's.

    Returns:
        Exit code: 0 done, 1 some run of a study failed, 2 a mistake in the input or a loss that is
        not finite, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # What `python -m` does: methods and monitors of one's own are found in the current directory.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return _dispatch(arguments)
    except (InputError, DivergedError) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped; the same command goes on from here.'}", file=sys.stderr)
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"lightning-unlearn {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise InputError(
            f"found the command {command!r}, expected one of {', '.join(COMMANDS)}; "
            "lightning-unlearn --help tells what they do."
        )
    if "-h" in rest or "--help" in rest:
        print(HELP[command])
        return 0
    if not rest:
        example = "configs/demo-study.yaml" if command == "study" else "configs/demo.yaml"
        raise InputError(
            f"{command}: found no configuration, expected --config FILE, such as --config {example}"
        )
    if command == "study":
        from lightning_unlearn.study.command import study

        return study(rest)
    return _lightning(command, rest)


def take_configs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate the configuration files from the other arguments.

    Args:
        arguments: of a command.

    Returns:
        The files in order, and what is left.

    Raises:
        InputError: if the last argument is --config without a file.
    """
    files, others = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-c", "--config"):
            file = next(rest, None)
            if file is None:
                raise InputError("--config: found nothing after it, expected a YAML file.")
            files.append(file)
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            others.append(argument)
    return files, others


def compose_files(files: list[str], key: str = "--config") -> dict[str, Any]:
    """The content of configuration files, each changing what the ones before it said."""
    content: dict[str, Any] = {}
    for file in files:
        content = compose(content, read_yaml(file, key))
    return content


def _lightning(command: str, arguments: list[str]) -> int:
    from lightning_unlearn.lightning_cli import run

    files, others = take_configs(arguments)
    content = compose_files(files)
    others = ["--help" if a == "--help-all" else a for a in others]
    try:
        run(command, content, others)
    except InputError as error:
        raise InputError(with_place(error, files, others)) from error
    except SystemExit as stop:
        # The parser has printed the configuration, or all keys.
        if stop.code:
            raise
    return 0


def with_place(error: InputError, files: list[str], arguments: list[str]) -> str:
    """A message with the place of the key it complains about, where a file holds it.

    Args:
        error: its message begins with the key, or it has the path to it.
        files: the configuration files, later ones changing earlier ones.
        arguments: of the command line, which change the files.

    Returns:
        The message.
    """
    leading = re.match(r"([\w.+]+)(?=: )", str(error))
    path: Path = getattr(error, "path", tuple(leading[1].split(".")) if leading else ())
    # What a study changes in a fit configuration wins over the configuration.
    for wanted in (("change", *path), path) if path else ():
        for key, _ in read_arguments(arguments):
            given = tuple(key.rstrip("+").split("."))
            if all(a == b for a, b in zip(wanted, given, strict=False)):
                return str(error)
        for file in reversed(files):
            if line := line_of(file, wanted):
                return f"{error} ({file}, line {line})"
    return str(error)
