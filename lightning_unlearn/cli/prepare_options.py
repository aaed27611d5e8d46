"""Options that several verbs of ``lightning-unlearn prepare`` share, and numbers in them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

from lightning_unlearn.errors import InputError


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are `InputError`."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("lightning-unlearn ")
        raise InputError(f"{command}: {message}; lightning-unlearn {command} --help shows how.")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the rows and the output."""
    add = parser.add_argument_group("rows").add_argument
    add("--input", required=True, metavar="SOURCE", help="file, or data set of the hub")
    add("--output", required=True, type=Path, metavar="FILE.jsonl")
    add("--split", default="train", metavar="NAME", help="of a hub data set; train")
    add("--subset", metavar="NAME", help="configuration of a hub data set")
    add("--limit", type=count, metavar="N", help="only the first N rows")


def number(text: str) -> float:
    """Parse a number of 0 or more."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of 0 or more")
    return value


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = number(text)
    if not value:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return value


def whole(text: str) -> int:
    """Parse a whole number of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of 0 or more")
    return value


def count(text: str) -> int:
    """Parse a whole number of 1 or more."""
    value = whole(text)
    if not value:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of 1 or more")
    return value
