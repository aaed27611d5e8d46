"""Many rows at once get the tokens that they get one by one; the cache changes no number."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from chat_shapes import SHAPES, every_shape, shaped
from hypothesis import given, settings
from hypothesis import strategies as st
from row_files import lines_of, pair
from tiny_models import tiny_tokenizer

from lightning_unlearn.data import token_cache
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.encoding import MOST_ROWS, encode_chats
from lightning_unlearn.data.examples import Example, Examples, data_fingerprint
from lightning_unlearn.data.recipes import Stage
from lightning_unlearn.data.stage_rows import StageRows, encode_rows, read_stage
from lightning_unlearn.errors import InputError

BITS = ["Hello", " world", "\n", "\n\n", "  ", "'s", "12", "\u00e9", "\u4e2d", "<|end|>", "<think>",
        "</think>", "<|user|>", " a", "\t", "!", "[INST]", "<|", "|>"]  # fmt: skip


def some_rows(count: int, seed: int = 0) -> list[Row]:
    """Chats of every form, with text that looks like parts of templates."""
    chance = random.Random(seed)

    def text(end: str) -> str:
        return "".join(chance.choices(BITS, k=chance.randint(0, 8))) + end

    rows = []
    for number in range(count):
        chat = [("system", text("s"))] if chance.random() < 0.2 else []
        if chance.random() < 0.2:
            chat += [("user", text("q")), ("assistant", text("a"))]
        chat.append(("user", text("q") + " " * chance.randint(0, 1)))
        messages = tuple({"role": role, "content": content} for role, content in chat)
        rows.append(Row(messages, text("a") + "\n" * chance.randint(0, 1), f"row {number}"))
    return rows


def one_by_one(rows: list[Row], form: ChatFormat) -> list[Example | str]:
    """Tokens or error of each row, each by a format that has seen no other row."""
    found: list[Example | str] = []
    for row in rows:
        fresh = ChatFormat(form.tokenizer, form.max_length, vocabulary=form.vocabulary)
        try:
            found.append(fresh.encode(row))
        except InputError as error:
            found.append(str(error))
    return found


@every_shape
def test_rows_together_are_as_one_by_one(shape: str) -> None:
    rows = some_rows(60)
    form = shaped(shape, 48)
    expected = one_by_one(rows, form)
    usable = [row for row, found in zip(rows, expected, strict=True) if isinstance(found, Example)]
    assert len(usable) > 10
    found = encode_chats(usable, form, "rows")
    assert found == [example for example in expected if isinstance(example, Example)]
    assert data_fingerprint(found) == data_fingerprint(list(found))
    # In any order, and after other rows.
    assert encode_chats(usable[::-1], form, "rows") == list(found)[::-1]
    for row, error in zip(rows, expected, strict=True):
        if isinstance(error, str):
            with pytest.raises(InputError) as caught:
                encode_chats([*usable[:3], row], form, "rows")
            assert str(caught.value) == error


def test_a_batch_ends_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in some_rows(2 * MOST_ROWS + 1, 1) if "think" not in str(row)]
    form = shaped("chatml")
    whole = encode_chats(rows, form, "rows")
    monkeypatch.setattr("lightning_unlearn.data.encoding.MOST_CHARACTERS", 40)
    assert encode_chats(rows, form, "rows") == whole
    assert encode_chats([], form, "rows") == []


def test_wrong_rows_of_several_batches_are_listed_together() -> None:
    rows = some_rows(MOST_ROWS + 2, 2)
    rows = [Row(row.messages, "fine", row.where) for row in rows]
    for number in (1, MOST_ROWS + 1):
        rows[number] = Row(({"role": "user", "content": "q " * 600},), "a", f"row {number}")
    with pytest.raises(InputError) as caught:
        encode_chats(rows, shaped("chatml", 256), "rows")
    assert "row 1: the prompt alone has" in str(caught.value)
    assert "1 more row has the same mistake" in str(caught.value)


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.booleans()), max_size=6),
    bounds=st.tuples(st.integers(-7, 7), st.integers(-7, 7)),
)
def test_arrays_of_examples_are_like_a_list(lengths: Any, bounds: tuple[int, int]) -> None:
    listed = [Example(tuple(range(p)), tuple(range(10, 10 + a)), cut) for p, a, cut in lengths]
    found = Examples.of(listed)
    assert found == listed and list(found) == listed and len(found) == len(listed)
    part = found[slice(*bounds)]
    assert part == listed[slice(*bounds)] and found[::-2] == listed[::-2]
    assert data_fingerprint(found) == data_fingerprint(listed)
    assert data_fingerprint(part) == data_fingerprint(listed[slice(*bounds)])
    for number in range(-len(listed), len(listed)):
        assert found[number] == listed[number]
    with pytest.raises(IndexError):
        found[len(listed)]
    assert (found == Examples.of(listed[1:])) == (not listed)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that takes row sets of any size."""
    monkeypatch.setattr(token_cache, "SMALLEST", 1)
    monkeypatch.setenv(token_cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class _Counting:
    """Counts how often rows are tokenized."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        batch_ids = ChatFormat.batch_ids

        def counted(form: ChatFormat, texts: Any) -> Any:
            self.times += 1
            return batch_ids(form, texts)

        monkeypatch.setattr(ChatFormat, "batch_ids", counted)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> _Counting:
    return _Counting(monkeypatch)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*")) if folder.is_dir() else []


ROWS = [pair("Where?", "By the sea."), pair("When?", "Long ago."), pair("Who?", "A sailor.")]


def read(source: str, max_length: int = 64, **columns: Any) -> StageRows:
    form = ChatFormat(tiny_tokenizer(), max_length, chats="text" not in columns)
    return read_stage("tofu", Stage(source=source, **columns), form)


@pytest.mark.parametrize("columns", [{}, {"text": "answer"}, {"text": "answer", "packing": True}])
def test_a_second_run_reads_the_same_tokens(
    tmp_path: Path, cache: Path, counting: _Counting, columns: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source = tmp_path / "rows.jsonl"
    source.write_text(lines_of(*ROWS))
    first = read(str(source), 16, **columns)
    made = counting.times
    assert len(entries(cache)) == 1 and made
    again = read(str(source), 16, **columns)
    assert counting.times == made and entries(cache)
    monkeypatch.setenv(token_cache.VARIABLE, "off")
    plain = read(str(source), 16, **columns)
    assert counting.times > made
    for found in (again, plain):
        assert (found.rows, found.examples) == (first.rows, first.examples)
        assert data_fingerprint(found.examples) == data_fingerprint(list(first.examples))
        assert found.remarks == first.remarks


def test_everything_that_changes_tokens_has_an_entry_of_its_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(({"role": "user", "content": "ab"},), "cd", "row 1")]
    count = 0

    def encode(rows: list[Row], form: ChatFormat, new: bool = True) -> None:
        nonlocal count
        count += new
        encode_rows(rows, form, "rows")
        assert len(entries(cache)) == count

    encode(rows, shaped("chatml"))
    encode(rows, shaped("chatml"), new=False)
    # Where a row comes from is in no token.
    encode([Row(rows[0].messages, "cd", "elsewhere")], shaped("chatml"), new=False)
    encode([Row(({"role": "user", "content": "abc"},), "d", "row 1")], shaped("chatml"))
    encode([Row(({"role": "user", "content": "a"},), "bcd", "row 1")], shaped("chatml"))
    encode(rows * 2, shaped("chatml"))
    encode([Row((), "abcd", "row 1")], shaped("chatml"))
    for shape in list(SHAPES)[1:]:
        encode(rows, shaped(shape))
    encode(rows, shaped("chatml", 100))
    tokenizer = shaped("chatml").tokenizer
    encode(rows, ChatFormat(tokenizer, 512, vocabulary=10**6))
    tokenizer.add_tokens(["ab"])
    encode(rows, ChatFormat(tokenizer, 512))
    monkeypatch.setattr(token_cache, "_code", lambda: "another version")
    encode(rows, shaped("chatml"))


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "magic", "longer"])
def test_a_damaged_entry_is_named_and_made_again(
    cache: Path, damage: str, counting: _Counting
) -> None:
    rows = some_rows(5, 3)
    form = shaped("llama")
    remarks: list[str] = []
    _, first = encode_rows(rows, form, "rows", remark=remarks.append)
    (entry,) = entries(cache)
    data = entry.read_bytes()
    wrong = {
        "cut": data[:-3],
        "empty": b"",
        "byte": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "magic": b"x" + data[1:],
        "longer": data + b"\0",
    }
    entry.write_bytes(wrong[damage])
    made = counting.times
    _, found = encode_rows(rows, form, "rows", remark=remarks.append)
    assert found == first and counting.times > made
    assert remarks == [f"{entry} is damaged; the rows are tokenized again."]
    assert entries(cache) == [entry] and entry.read_bytes() == data


def test_a_folder_that_cannot_be_written_is_only_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(token_cache.VARIABLE, str(tmp_path / "file"))
    remarks: list[str] = []
    _, found = encode_rows(some_rows(2), shaped("chatml"), "rows", remark=remarks.append)
    assert len(found) == 2 and len(remarks) == 1
    assert "tokens cannot be kept in" in remarks[0] and token_cache.VARIABLE in remarks[0]


def test_wrong_rows_leave_no_entry(cache: Path) -> None:
    with pytest.raises(InputError, match="leaves no room"):
        encode_rows(some_rows(2), shaped("chatml", 3), "rows")
    assert not entries(cache)


def test_small_row_sets_and_unknown_tokenizers_have_no_entry(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = shaped("chatml")
    monkeypatch.setattr(token_cache, "SMALLEST", 10**6)
    encode_rows(some_rows(2), form, "rows")
    monkeypatch.setattr(token_cache, "SMALLEST", 1)
    monkeypatch.setattr(type(form.tokenizer), "__module__", "code_of_a_model")
    encode_rows(some_rows(2), form, "rows")
    assert not entries(cache)


def test_the_least_recently_used_entries_are_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = shaped("chatml")
    sets = [some_rows(4, seed) for seed in range(4)]
    for number, rows in enumerate(sets[:3]):
        encode_rows(rows, form, "rows")
        for entry in entries(cache):
            if entry.stat().st_mtime_ns > 10**12:
                token_cache.os.utime(entry, ns=(number + 1, number + 1))
    old = {entry.stat().st_mtime_ns: entry for entry in entries(cache)}
    encode_rows(sets[0], form, "rows")  # used again
    monkeypatch.setattr(token_cache, "LARGEST", 3 * max(e.stat().st_size for e in old.values()))
    encode_rows(sets[3], form, "rows")
    assert old[2] not in entries(cache) and {old[1], old[3]} <= set(entries(cache))
    monkeypatch.setattr(token_cache, "LARGEST", 1)
    (cache / "notes.txt").write_text("of the user")
    encode_rows(some_rows(4, 9), form, "rows")
    assert len(entries(cache)) == 2 and (cache / "notes.txt").exists()


def test_several_writers_of_one_entry(cache: Path) -> None:
    rows = some_rows(30, 5)
    found: list[Examples] = []

    def work() -> None:
        for _ in range(5):
            found.append(encode_rows(rows, shaped("llama"), "rows")[1])
            for entry in entries(cache):
                if entry.suffix == token_cache.SUFFIX and len(found) % 3 == 0:
                    entry.unlink(missing_ok=True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(one == found[0] for one in found)
    assert all(entry.suffix == token_cache.SUFFIX for entry in entries(cache))


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/lightning-unlearn/tokens"),
        ({"HOME": "/h"}, "/h/.cache/lightning-unlearn/tokens"),
        ({"LIGHTNING_UNLEARN_CACHE": "/y"}, "/y"),
        ({"LIGHTNING_UNLEARN_CACHE": "OFF", "XDG_CACHE_HOME": "/x"}, None),
    ],
)
def test_the_folder_of_the_cache(
    variables: dict[str, str], folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", token_cache.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = token_cache.cache_folder()
    assert (None if found is None else found.as_posix()) == folder
