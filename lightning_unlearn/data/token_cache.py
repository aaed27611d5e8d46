"""Tokens of large row sets on disk, so that a second run of the same rows does not make them again.

An entry is found by everything that its tokens depend on: the text of the rows, the tokenizer with
its template, the longest sequence, this package's code, and the versions of the libraries. It is
verified when it is read. So the cache changes no number: without it, or if an entry is damaged, the
rows are tokenized.

The folder is ``lightning-unlearn/tokens`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. The environment
variable ``LIGHTNING_UNLEARN_CACHE`` names another folder, or switches the cache off with ``off``.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Examples

VARIABLE = "LIGHTNING_UNLEARN_CACHE"
# Tokenizing less text takes less than a second.
SMALLEST = 2_000_000  # characters
# Together, entries have at most so many bytes; those that were not used for longest are removed.
LARGEST = 4 * 2**30
SUFFIX = ".tokens"
_MAGIC = b"lightning-unlearn tokens 2\n"
# Code that decides which tokens a row has.
_CODE = ("chat.py", "chat_template.py", "encoding.py", "examples.py", "token_cache.py")
_LIBRARIES = ("transformers", "tokenizers", "jinja2")
_IDENTITIES: WeakKeyDictionary[ChatFormat, str | None] = WeakKeyDictionary()


def cached(
    rows: Sequence[Row],
    form: ChatFormat,
    make: Callable[[], Examples],
    remark: Callable[[str], None] = lambda sentence: None,
) -> Examples:
    """Return the tokens of rows from the cache, or make them and add them to it.

    Args:
        rows: the rows: chats, or plain texts.
        form: tokenizer and chat template.
        make: tokenizes the rows.
        remark: called with a note if an entry is damaged, or none can be written.

    Raises:
        InputError: if `make` raises it; such rows have no entry.
    """
    folder = cache_folder()
    identity = _identity(form) if folder is not None and _is_large(rows) else None
    if folder is None or identity is None:
        return make()
    entry = folder / f"{_key(rows, identity)}{SUFFIX}"
    try:
        data = entry.read_bytes()
    except OSError:
        data = None
    if data is not None:
        found = _parse(data)
        if found is not None and len(found) == len(rows):
            with suppress(OSError):
                os.utime(entry)  # marks it as used
            return found
        remark(f"{entry} is damaged; the rows are tokenized again.")
    examples = make()
    try:
        _write(entry, examples)
    except OSError as error:
        remark(
            f"tokens cannot be kept in {folder} ({error.strerror or error}), so the next run "
            f"tokenizes again; set {VARIABLE} to another folder, or to off."
        )
    else:
        prune(folder, LARGEST, keep=entry)
    return examples


def cache_folder() -> Path | None:
    """Return the folder of the cache; None if it is switched off or there is no home."""
    given = os.environ.get(VARIABLE, "")
    if given:
        return None if given.lower() in ("off", "0", "false", "no") else Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "lightning-unlearn" / "tokens"
    except RuntimeError:
        return None


def prune(folder: Path, most: int, keep: Path | None = None) -> None:
    """Remove the entries that were not used for longest, until the others have `most` bytes.

    Args:
        folder: of the cache.
        most: bytes.
        keep: an entry that stays.
    """
    entries = []
    with suppress(OSError):
        for file in folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):  # another process may have removed it
                about = file.stat()
                entries.append((about.st_mtime_ns, about.st_size, file))
    total = 0
    for _, size, file in sorted(entries, reverse=True):
        total += size
        if total > most and file != keep:
            with suppress(OSError):
                file.unlink()


def _is_large(rows: Sequence[Row]) -> bool:
    total = 0
    for row in rows:
        total += len(row.answer) + sum(len(message["content"]) for message in row.messages)
        if total >= SMALLEST:
            return True
    return False


def _identity(form: ChatFormat) -> str | None:
    """Return what decides the tokens of a row, as text; None if it is not known completely.

    Tokenizers without a description of all their rules are not cached: those in Python, and those
    whose code comes with a model.
    """
    if form not in _IDENTITIES:
        _IDENTITIES[form] = _described(form)
    return _IDENTITIES[form]


def _described(form: ChatFormat) -> str | None:
    tokenizer = form.tokenizer
    kind = type(tokenizer)
    if not tokenizer.is_fast or not kind.__module__.startswith("transformers."):
        return None
    try:
        rules = tokenizer.backend_tokenizer.to_str()
    except Exception:  # parts in Python cannot be written
        return None
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    values = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "rules": hashlib.sha256(rules.encode("utf-8")).hexdigest(),
        "special": special,
        "split": bool(getattr(tokenizer, "split_special_tokens", False)),
        "format": form.fingerprint,
        "max_length": form.max_length,
        "vocabulary": form.vocabulary,
        "code": _code(),
    }
    return json.dumps(values, sort_keys=True)


@cache
def _code() -> str:
    """Return a hash of the code and the versions that decide the tokens of a row."""
    digest = hashlib.sha256()
    for name in _CODE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    digest.update(repr([(name, version(name)) for name in _LIBRARIES]).encode())
    return digest.hexdigest()


def _key(rows: Sequence[Row], identity: str) -> str:
    digest = hashlib.sha256(identity.encode("ascii"))
    for part in _parts(rows):
        # With their lengths, no two lists of texts give the same bytes.
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()[:40]


def _parts(rows: Sequence[Row]) -> Iterator[bytes]:
    for row in rows:
        yield b"%d" % len(row.messages)
        for message in row.messages:
            yield message["role"].encode("utf-8")
            yield message["content"].encode("utf-8", "surrogatepass")
        yield row.answer.encode("utf-8", "surrogatepass")


def _write(entry: Path, examples: Examples) -> None:
    """Write an entry under a name of its own, then move it into place: it is whole or not there."""
    arrays: list[NDArray[Any]] = [examples.ids, examples.bounds, examples.truncated, examples.ends]
    body: list[Any] = [np.ascontiguousarray(array).view(np.uint8).data for array in arrays]
    digest = hashlib.sha256()
    about = {"sizes": [len(part) for part in body], "fingerprint": examples.fingerprint}
    head = json.dumps(about).encode("ascii") + b"\n"
    for part in (head, *body):
        digest.update(part)
    entry.parent.mkdir(parents=True, exist_ok=True)
    number, draft = tempfile.mkstemp(suffix=".draft", dir=entry.parent)
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(_MAGIC)
            stream.write(digest.hexdigest().encode("ascii") + b"\n")
            for part in (head, *body):
                stream.write(part)
        os.replace(draft, entry)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _parse(data: bytes) -> Examples | None:
    """Return the examples of an entry; None if it is not as it was written."""
    begin = len(_MAGIC) + 65
    if not data.startswith(_MAGIC):
        return None
    view = memoryview(data)
    if hashlib.sha256(view[begin:]).hexdigest().encode("ascii") != data[len(_MAGIC) : begin - 1]:
        return None
    end = data.index(b"\n", begin) + 1
    about = json.loads(data[begin:end])
    parts = []
    for size in about["sizes"]:
        parts.append(view[end : end + size])
        end += size
    return Examples(
        np.frombuffer(parts[0], np.int32),
        np.frombuffer(parts[1], np.int64),
        np.frombuffer(parts[2], np.bool_),
        np.frombuffer(parts[3], np.int32),
        about["fingerprint"],
    )
