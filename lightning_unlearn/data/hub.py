"""Data sets that are opened by `datasets`: those of the hub, and folders of ``save_to_disk``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.data.file_formats import FORMATS, Table, quiet_datasets, rows_of
from lightning_unlearn.data.places import close_names
from lightning_unlearn.errors import InputError


def read_hub(
    name: str,
    place: str,
    wanted: Sequence[str],
    split: str,
    subset: str | None,
    limit: int | None,
) -> Table:
    """Rows of a data set of the hub.

    Args:
        name: of the data set.
        place: starts every message.
        wanted: columns to load.
        split: of the data set.
        subset: its configuration.
        limit: only the first so many rows; None for all.

    Returns:
        The rows.

    Raises:
        InputError: if it can't be read.
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
            f"{place}: found no such file, and no such data set on the Hugging Face hub or one "
            f"that needs a login ({error}); expected a file or ORG/NAME; check the name, {advice}"
        ) from error
    except ConnectionError as error:
        raise InputError(
            f"{place}: found no such file, and the Hugging Face hub cannot be reached ({error}); "
            "expected a file or a data set that can be reached; check name, network and "
            f"HF_HUB_OFFLINE, {advice}"
        ) from error
    # Reading a foreign repository fails in many ways, all of them the source's: an unknown split
    # or subset (a ValueError that lists those there are), a script, a broken file, a refused login.
    except Exception as error:
        what = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"{place}: found an error on the Hugging Face hub with subset {subset!r} and split "
            f"'{split}' ({what}); expected a subset and a split that it has; set them, {advice}"
        ) from error
    return _table(records, place, wanted, limit)


def _table(records: Any, place: str, wanted: Sequence[str], limit: int | None) -> Table:
    columns = list(records.column_names)
    records = records.select_columns([c for c in columns if c in wanted] or columns[:1])
    return Table(columns, rows_of(records.take(min(limit or len(records), len(records))), place))


def read_saved(
    folder: Path, place: str, wanted: Sequence[str], split: str, limit: int | None
) -> Table:
    """Rows of a folder that ``save_to_disk`` of `datasets` wrote, of one data set or of its splits.

    Args:
        folder: the folder.
        place: starts every message.
        wanted: columns to load.
        split: which one, where the folder holds several.
        limit: only the first so many rows; None for all.

    Returns:
        The rows.

    Raises:
        InputError: if it can't be read.
    """
    import datasets

    if "::" in str(folder):
        raise InputError(f"{place}: found '::' in the path, expected a name without; rename it")
    try:
        with quiet_datasets():
            records = datasets.load_from_disk(str(folder))
    # What can be wrong with files of another library is that library's to say.
    except Exception as error:
        what = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"{place}: found a folder of save_to_disk that cannot be read ({what}); expected a "
            "whole one; save the data set again, or name a file of its rows"
        ) from error
    if isinstance(records, datasets.DatasetDict):
        if split not in records:
            raise InputError(
                f"{place}: found the splits {', '.join(records)} in this folder, expected "
                f"'{split}'; set split (of held-out rows heldout_split) to one of them"
            )
        records = records[split]
    elif split != "train":
        raise refused_option("split", split, place)
    return _table(records, place, wanted, limit)


def refused_option(name: str, value: str | None, place: str) -> InputError:
    """What to say of a split or subset where the rows have none.

    Args:
        name: "split" or "subset".
        value: what was given.
        place: starts the message.
    """
    return InputError(
        f"{place}: found {name} '{value}' with a file, which has no {name}s; expected none; set "
        f"{name} to {'train' if name == 'split' else 'null'} and name the file that holds the rows"
    )
