"""Tables of measures on disk: tidy Parquet, one row per value."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

STEPS, EXAMPLES, TRAINING = "records.parquet", "examples.parquet", "training.parquet"


def write_table(file: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns as Parquet; equal values give equal bytes.

    Args:
        file: where to.
        columns: by name, equally long.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), file)


def read_table(file: Path) -> "pd.DataFrame":
    """Read what `write_table` wrote."""
    import pandas as pd

    return pd.read_parquet(file)


def replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or as it was.

    Args:
        file: the file.
        write: writes to the path it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid.uuid4().hex[:8]}-{file.name}")
    try:
        write(draft)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write text so that it is there whole or as it was."""

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    replace(file, write)
