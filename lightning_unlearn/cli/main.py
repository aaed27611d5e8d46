"""Entry point of the command line: dispatches commands and prints errors."""

import os
import sys
import traceback

from lightning_unlearn.cli.failures import (
    describe_failure,
    describe_memory_error,
    describe_missing_package,
    describe_os_error,
    shows_traceback,
)
from lightning_unlearn.cli.help import HELP, OVERVIEW
from lightning_unlearn.cli.loading import announce_loading
from lightning_unlearn.cli.output import lasting_output
from lightning_unlearn.errors import (
    DivergedError,
    HungUp,
    InputError,
    Terminated,
    Unfinished,
    visible,
)
from lightning_unlearn.settings.compose import (
    load_configs,
    lost_parts,
    split_config_arguments,
    with_place,
)
from lightning_unlearn.signals import sigterm_as_interrupt
from lightning_unlearn.training.quiet import quiet_deprecations
from lightning_unlearn.version import __version__

COMMANDS = ("fit", "validate", "study", "status", "report", "plan", "prepare")
INTERRUPTED, TERMINATED, HUNG_UP = 130, 143, 129


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the name of the program; None takes those of the process.

    Returns:
        Exit code. 0: done. 1: a run of a study failed, a stage is not finished, a plan does not
        fit, or an unexpected error occurred. 2: a mistake in the input, a file that cannot be read
        or written, or a loss that is not finite. 129: terminal closed. 130: interrupted. 143:
        terminated.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with lasting_output() as (out, _):
        code = _run(arguments)
        out.flush()
        if out.failure is not None:
            reason = out.failure.strerror or out.failure
            print(f"error: the output cannot be written: {reason}.", file=sys.stderr)
            code = code or 2
    return code


def _run(arguments: list[str]) -> int:
    """Run a command, print its error, and return the exit code."""
    try:
        with sigterm_as_interrupt(), quiet_deprecations():
            return _dispatch(arguments)
    except (InputError, DivergedError) as error:
        return _print_error(error, str(error), 2)
    except Unfinished as error:
        return _print_error(error, str(error), 1)
    except KeyboardInterrupt as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            message = str(stop) or "stopped. Run the same command again to resume."
            print(f"\n{message}", file=sys.stderr)
        if isinstance(stop, HungUp):
            return HUNG_UP
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    # For any other exception the user gets one line, and a file to send to the developers.
    except Exception as error:
        if (text := describe_memory_error(error) or describe_missing_package(error)) is not None:
            return _print_error(error, text, 1)
        if isinstance(error, OSError) and (text := describe_os_error(error)) is not None:
            return _print_error(error, text, 2)
        text = "" if shows_traceback() else describe_failure(error, arguments)
        return _print_error(error, text, 1, always=True)


def _print_error(error: BaseException, text: str, code: int, always: bool = False) -> int:
    """Print an error and return the exit code.

    Args:
        error: the exception.
        text: the message.
        code: the exit code.
        always: print on every process, because only this one may have the error; False prints on
            the first process only.
    """
    if shows_traceback():
        traceback.print_exception(error)
    if text and (always or os.environ.get("LOCAL_RANK", "0") == "0"):
        print(f"error: {visible(text)}", file=sys.stderr)
    return code


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
            f"found the command {command!r}, expected one of {', '.join(COMMANDS)}. "
            "Describe them with: lightning-unlearn --help"
        )
    if command == "prepare" and rest and not rest[0].startswith("-"):
        from lightning_unlearn.cli.prepare import prepare

        return prepare(rest)
    if "-h" in rest or "--help" in rest or command == "prepare":
        print(HELP[command])
        return 0
    _join_current_directory()
    if command == "status":
        from lightning_unlearn.study.status import status

        return status(rest)
    if command == "report":
        from lightning_unlearn.cli.report import report

        return report(rest)
    if not rest:
        example = "configs/demo-study.yaml" if command == "study" else "configs/demo.yaml"
        raise InputError(
            f"{command}: found no configuration, expected --config FILE, such as --config {example}"
        )
    if command == "plan":
        from lightning_unlearn.cli.plan import plan

        return plan(rest)
    if command == "study":
        from lightning_unlearn.cli.study import study

        return study(rest)
    return _lightning(command, rest)


def _join_current_directory() -> None:
    """Add the current directory to the import path, for the user's own methods and monitors.

    Raises:
        InputError: if the current directory was deleted.
    """
    try:
        here = os.getcwd()
    except OSError:
        raise InputError(
            "the current directory was deleted or cannot be entered. Change to another directory."
        ) from None
    if here not in sys.path:
        sys.path.append(here)


def _lightning(command: str, arguments: list[str]) -> int:
    files, others = split_config_arguments(arguments)
    content = load_configs(files)
    others = ["--help" if a == "--help-all" else a for a in others]
    announce_loading(content, others)
    from lightning_unlearn.cli.fit import run

    try:
        run(command, content, others, lost_parts(files))
    except InputError as error:
        raise InputError(with_place(error, files, others)) from error
    except SystemExit as stop:
        # Code 0: the parser has printed the configuration or all keys.
        if stop.code:
            raise
    return 0
