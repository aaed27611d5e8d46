"""Files of rows, and what reading them gives."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.errors import InputError

KEY = "data.stages.tofu.source"


Write = Callable[..., str]


def refused(source: str, *texts: str, **options: Any) -> None:
    """Check that the source is refused with each of the texts, in the form all messages have."""
    with pytest.raises(InputError, match=f"^{re.escape(f'{KEY}: {source}')}") as caught:
        read_rows(source, key=KEY, **options)
    message = str(caught.value)
    for text in (*texts, "found", "expected", "; "):
        assert text in message, message


def lines_of(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(question: Any, answer: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer}


def row(question: str, answer: str, where: str) -> Row:
    return Row(({"role": "user", "content": question},), answer, where)
