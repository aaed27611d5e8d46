"""Read data sets with `datasets`: from the Hugging Face hub, or folders of ``save_to_disk``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.data.file_formats import FORMATS
from lightning_unlearn.data.places import close_names
from lightning_unlearn.data.tables import Table, quiet_datasets, rows_of
from lightning_unlearn.errors import InputError


def read_hub(
    name: str,
    place: str,
    wanted: Sequence[str],
    split: str,
    subset: str | None,
    limit: int | None,
) -> Table:
    """Read rows of a data set of the hub.

    Args:
        name: name of the data set.
        place: start of every message: key and source.
        wanted: columns to load.
        split: split of the data set.
        subset: configuration name of the data set.
        limit: number of rows to read, from the first; None for all.

    Returns:
        The rows.

    Raises:
        InputError: if the data set cannot be read.
    """
    import datasets

    advice = f"or download the rows and name the file ({', '.join(FORMATS)})"
    if Path(name).parent.is_dir():
        advice += close_names(Path(name))
    try:
        with quiet_datasets():
            records = datasets.load_dataset(name, subset, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputError(
            f"{place}: found no such file, and no such public data set on the Hugging Face hub "
            f"({error}); expected a file or ORG/NAME; check the name, log in, {advice}"
        ) from error
    except ConnectionError as error:
        raise InputError(
            f"{place}: found no such file, and the Hugging Face hub cannot be reached ({error}); "
            "expected a file or a data set that can be reached; check the name, the network and "
            f"HF_HUB_OFFLINE, {advice}"
        ) from error
    # Reading a repository can fail in many ways: an unknown split or subset (a ValueError that
    # lists the known ones), a script, a broken file, a refused login. None is a defect here.
    except Exception as error:
        what = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"{place}: found an error on the Hugging Face hub with subset {subset!r} and split "
            f"'{split}' ({what}); expected a subset and a split of the data set; set them, {advice}"
        ) from error
    return _table(records, place, wanted, limit)


def _table(records: Any, place: str, wanted: Sequence[str], limit: int | None) -> Table:
    columns = list(records.column_names)
    records = records.select_columns([c for c in columns if c in wanted] or columns[:1])
    return Table(columns, rows_of(records.take(min(limit or len(records), len(records))), place))


def read_saved(
    folder: Path, place: str, wanted: Sequence[str], split: str, limit: int | None
) -> Table:
    """Read rows of a folder that ``save_to_disk`` of `datasets` wrote.

    Args:
        folder: folder of one data set, or of several splits.
        place: start of every message: key and source.
        wanted: columns to load.
        split: split to read, if the folder has several.
        limit: number of rows to read, from the first; None for all.

    Returns:
        The rows.

    Raises:
        InputError: if the folder cannot be read.
    """
    import datasets

    if "::" in str(folder):
        raise InputError(f"{place}: found '::' in the path, expected a path without; rename it")
    try:
        with quiet_datasets():
            records = datasets.load_from_disk(str(folder))
    # The files are in the format of another library, which may raise any exception.
    except Exception as error:
        what = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"{place}: found a folder of save_to_disk that cannot be read ({what}); expected a "
            "complete one; save the data set again, or name a file of its rows"
        ) from error
    if isinstance(records, datasets.DatasetDict):
        if split not in records:
            raise InputError(
                f"{place}: found the splits {', '.join(records)} in this folder, expected "
                f"'{split}'; set split (for held-out rows heldout_split) to one of them"
            )
        records = records[split]
    elif split != "train":
        raise refused_option("split", split, place)
    return _table(records, place, wanted, limit)


def refused_option(name: str, value: str | None, place: str) -> InputError:
    """Return the error for a split or subset of a file, which has none.

    Args:
        name: "split" or "subset".
        value: the value of the user.
        place: start of the message: key and source.
    """
    return InputError(
        f"{place}: found {name} '{value}' with a file, which has no {name}s; expected none; set "
        f"{name} to {'train' if name == 'split' else 'null'} and name the file with the rows"
    )
