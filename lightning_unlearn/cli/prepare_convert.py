"""``lightning-unlearn prepare convert``: rows of any shape as JSON lines, without a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.cli.prepare_options import add_source
from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    from lightning_unlearn.data.columns import ColumnNames


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb; those of columns are keys of a stage."""
    add_source(parser)
    add = parser.add_argument_group("columns, as the keys of a stage").add_argument
    add("--prompt", nargs="+", default=["question"], metavar="COLUMN",
        help="of the prompt; several are joined by a blank line; question")  # fmt: skip
    add("--answer", default="answer", metavar="COLUMN", help="of the answer; answer")
    add("--prompt_template", "--prompt-template", metavar="TEXT",
        help="text with {COLUMN} for columns, instead of --prompt")  # fmt: skip
    add("--system", metavar="COLUMN", help="of a system message")
    add("--messages", metavar="COLUMN", help="of a chat, instead of prompt and answer")
    add("--text", metavar="COLUMN", help="of plain text, instead of prompt and answer")
    add = parser.add_argument_group("output").add_argument
    add("--shape", choices=("prompt", "messages", "text"),
        help="question and answer, messages, or text; chosen by the rows")  # fmt: skip
    add("--overwrite", action="store_true", help="replace an output that convert did not write")


def run_convert(options: argparse.Namespace) -> int:
    """Run the verb and print what it wrote.

    Args:
        options: parsed options.

    Returns:
        0.

    Raises:
        InputError: for options or rows that cannot be used.
        StorageError: if a file cannot be written.
    """
    from lightning_unlearn.prepare.convert import check_place, convert, write
    from lightning_unlearn.prepare.tables import Source

    source = Source(options.input, split=options.split, subset=options.subset, limit=options.limit)
    check_place(options.output, source, options.overwrite)
    columns: ColumnNames = {
        "prompt": _columns(options.prompt),
        "answer": options.answer,
        "prompt_template": options.prompt_template,
        "system": options.system,
        "messages": options.messages,
        "text": options.text,
    }
    converted = convert(source, columns, options.shape)
    write(options.output, converted)
    print(converted.text(options.output))
    return 0


def _columns(given: Sequence[str]) -> str | list[str]:
    """One column or several; also a list as YAML writes it, as messages propose it."""
    text = " ".join(given)
    if text.startswith("[") and text.endswith("]"):
        import yaml

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            found = None
        if not isinstance(found, list) or not found:
            raise InputError(f"--prompt: found {text!r}, expected columns such as [a, b].")
        return [str(name) for name in found]
    return given[0] if len(given) == 1 else list(given)
