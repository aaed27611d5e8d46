"""Rows of a source, a file or a data set of the Hugging Face hub, as prompts and answers."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_unlearn.data.formats import FORMATS, Table, describe, quiet_datasets, read_file
from lightning_unlearn.errors import InputError

_ROLES = ("system", "user", "assistant")
# Names that published data sets use, most telling first: only for proposals in messages.
_USUAL_PROMPTS = ("question", "instruction", "prompt", "query", "problem", "input")
_USUAL_ANSWERS = ("answer", "output", "response", "completion", "solution", "target")
_USUAL_MESSAGES = ("messages", "conversations", "conversation", "chat")


@dataclass(frozen=True)
class Row:
    """One example: the chat before the answer, the assistant's answer, and its place for messages.

    The last of `turns` is the user's; each has the keys "role" and "content". `paraphrase` is the
    answer in other words, `alternatives` are wrong answers; both only where they were asked for.
    """

    turns: tuple[dict[str, str], ...]
    answer: str
    where: str
    paraphrase: str | None = None
    alternatives: tuple[str, ...] = ()


def read_rows(
    source: str,
    *,
    prompt: str = "question",
    answer: str = "answer",
    messages: str | None = None,
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    paraphrase: str | None = None,
    alternatives: str | Sequence[str] | None = None,
    key: str = "source",
) -> list[Row]:
    """Read the first `limit` rows of a source, all of them by default, with text as it is written.

    `source` is a .json, .jsonl, .csv or .parquet file, `demo:NAME`, or the name of a data set on
    the Hugging Face hub, to which alone `split` and `subset` apply. A row is made of the columns
    `prompt` and `answer`, or of a chat in the column `messages` that ends in user, assistant.
    Numbers become their text. Rows beyond `limit` must parse but are not checked further.
    `paraphrase` is a column of text; `alternatives` a column of lists of texts, or columns of text,
    of which those that repeat the answer are left out.

    Raises InputError, its message starting with `key`, for everything else that is found.
    """
    place = f"{key}: {source}"
    if limit is not None and limit < 1:
        raise InputError(f"{place}: found limit {limit}, expected 1 or more; drop it for all rows")
    wanted = [prompt, answer] if messages is None else [messages]
    spread = alternatives is not None and not isinstance(alternatives, str)
    others = [alternatives] if isinstance(alternatives, str) else list(alternatives or [])
    extra = {name: "alternatives" for name in others}
    if paraphrase is not None:
        extra[paraphrase] = "paraphrase"
    wanted += list(extra)
    path = _local_path(source, place)
    if path is None:
        table = _read_hub(source, place, wanted, split, subset, limit)
    else:
        for name, value, only in (("split", split, "train"), ("subset", subset, None)):
            if value != only:
                raise InputError(
                    f"{place}: found {name} '{value}' with a file, which has no {name}s; expected "
                    f"none; drop {name} and name the file that holds the rows"
                )
        table = read_file(path, place, wanted)
    if not table.rows:
        raise InputError(
            f"{place}: found no rows, expected at least one; check how the data were written"
        )
    for name in wanted:
        if name not in table.columns:
            raise InputError(
                f"{place}: found {_names(table.columns)} in the rows, expected the column "
                f"'{name}'; {_advice(name, extra, table.columns, wanted, messages)}"
            )
    rows = []
    for index, record in enumerate(table.rows[:limit]):
        where = f", row {index + 1}" + (f", line {table.lines[index]}" if table.lines else "")
        for name in wanted:
            if name not in record:
                raise InputError(
                    f"{place}{where}: found {_names(list(record))}, expected the column '{name}'; "
                    "add it to this row, or "
                    f"{_advice(name, extra, list(record), wanted, messages)}"
                )
        if messages is None:
            turns = [("user", _content(record[prompt], f"{place}{where}, column '{prompt}'"))]
            reply = _content(record[answer], f"{place}{where}, column '{answer}'")
        else:
            *turns, (_, reply) = _chat(record[messages], f"{place}{where}, column '{messages}'")
        other_words = None
        if paraphrase is not None:
            other_words = _content(record[paraphrase], f"{place}{where}, column '{paraphrase}'")
            if other_words.strip() == reply.strip():
                raise InputError(
                    f"{place}{where}, column '{paraphrase}': found the answer again, expected it "
                    "in other words; correct or remove the row, or drop paraphrase"
                )
        wrong: list[str] = []
        for name in others:
            spot = f"{place}{where}, column '{name}'"
            values = [record[name]] if spread else _list(record[name], spot)
            wrong += [_content(value, spot) for value in values]
        if others and not (wrong := [text for text in wrong if text.strip() != reply.strip()]):
            raise InputError(
                f"{place}{where}: found no alternative to the answer, expected at least one wrong "
                "answer; remove the row or name the columns that hold them (alternatives)"
            )
        rows.append(
            Row(
                tuple({"role": role, "content": content} for role, content in turns),
                reply,
                source + where,
                other_words,
                tuple(wrong),
            )
        )
    return rows


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else describe(value)
        raise InputError(
            f"{place}: found {found}, expected a list of wrong answers; fill it or remove the row"
        )
    return value


def _content(value: Any, place: str) -> str:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if not isinstance(value, str):
        raise InputError(
            f"{place}: found {describe(value)}, expected text; fill in text or remove the row"
        )
    if not value.strip():
        found = "only white space" if value else "an empty text"
        raise InputError(f"{place}: found {found}, expected text; fill in text or remove the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: found half a surrogate pair ({value[error.start]!a}), expected whole "
            "characters; write the character out or remove it"
        ) from error
    return value


def _chat(value: Any, place: str) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise InputError(
            f"{place}: found {describe(value)}, expected a list of messages with role and content; "
            "for columns of plain text set prompt and answer in place of messages"
        )
    chat = []
    for number, message in enumerate(value, start=1):
        spot = f"{place}, message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            found = _names(list(message)) if isinstance(message, dict) else describe(message)
            raise InputError(
                f"{spot}: found {found}, expected an object with role and content; "
                "rename its keys (in some data sets they are from and value)"
            )
        if message["role"] not in _ROLES:
            raise InputError(
                f"{spot}: found the role {message['role']!r}, expected {', '.join(_ROLES)}; "
                "rename the role or remove the row"
            )
        chat.append((message["role"], _content(message["content"], spot)))
    roles = [role for role, _ in chat]
    if roles[-2:] != ["user", "assistant"]:
        raise InputError(
            f"{place}: found the roles {', '.join(roles) or 'of no message'}, expected a chat that "
            "ends in user, assistant; the last message is the answer to learn"
        )
    return chat


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in columns) or "no columns"


def _advice(
    name: str,
    extra: dict[str, str],
    columns: Sequence[str],
    wanted: Sequence[str],
    messages: str | None,
) -> str:
    """What to set where a column is missing."""
    if name in extra and name not in wanted[: 2 if messages is None else 1]:
        return f"set {extra[name]} to another column, or drop {extra[name]}"
    return _proposal(columns, wanted, messages)


def _proposal(columns: Sequence[str], wanted: Sequence[str], messages: str | None) -> str:
    """What to set in place of a mapping that does not fit these columns."""

    def first(*candidates: str) -> str | None:
        return next((name for name in candidates if name in columns), None)

    if messages is None:
        prompt = first(wanted[0], *_USUAL_PROMPTS)
        answer = first(wanted[1], *_USUAL_ANSWERS)
    else:
        prompt, answer = first(*_USUAL_PROMPTS), first(*_USUAL_ANSWERS)
    chat = first(*_USUAL_MESSAGES)
    if chat and (messages is not None or not (prompt and answer)):
        return f"set messages: {chat}"
    if prompt and answer:
        drop = "" if messages is None else "drop messages and "
        return f"{drop}set prompt: {prompt}, answer: {answer}"
    return "set prompt and answer to two of the columns, or messages to one that holds chats"


def _local_path(source: str, place: str) -> Path | None:
    """The file a source names, or None if it is written like a data set of the hub."""
    if source.startswith("demo:"):
        from lightning_unlearn.demo import resolve

        try:
            path = resolve(source)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from error
    else:
        path = Path(source).expanduser()
    if path.is_dir():
        held = ", ".join(_readable_files(path)[:5]) or f"no {', '.join(FORMATS)}"
        raise InputError(
            f"{place}: found a directory, which holds {held}; expected a file; name one in it"
        )
    if path.exists():
        return path
    # A suffix begins with a letter, or else wikitext-2.0 would be taken for a file.
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) and not re.search(r"\.[A-Za-z]\w*$", source):
        return None
    raise InputError(
        f"{place}: found no such file ({path.absolute()}), expected {', '.join(FORMATS)}, "
        "demo:NAME or the name of a data set on the Hugging Face hub; check the path"
        + _close_names(path)
    )


def _readable_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in FORMATS)


def _close_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder '{path.parent}' does not exist either"
    close = difflib.get_close_matches(path.name, _readable_files(path.parent))
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _read_hub(
    name: str,
    place: str,
    wanted: Sequence[str],
    split: str,
    subset: str | None,
    limit: int | None,
) -> Table:
    import datasets

    advice = f"or download the rows and name the file ({', '.join(FORMATS)})"
    if Path(name).parent.is_dir():
        advice += _close_names(Path(name))
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
    columns = list(records.column_names)
    records = records.select_columns([c for c in columns if c in wanted] or columns[:1])
    return Table(columns, list(records.take(min(limit or len(records), len(records)))))
