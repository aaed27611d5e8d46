"""Plain text: windows in which every token is a label once."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_files import lines_of

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.recipes import EvalSet, Recipe, Stage
from lightning_unlearn.data.text import windows
from lightning_unlearn.demo import resolve
from lightning_unlearn.errors import InputError

TEXTS = ["Ada was born in Turin. She wrote nine novels.", "Rain.", "A short one."]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve("demo:tiny-llama"))


class _Plain:
    """The part of a chat format that windows need."""

    def __init__(self, length: int, end: int | None = 0) -> None:
        self.max_length, self.name = length, "test"
        self.tokenizer = self
        self.eos_token_id = end

    def decode(self, ids: Any, **options: Any) -> str:
        return " ".join(map(str, ids))


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    length=st.integers(2, 12),
    data=st.data(),
)
def test_every_token_but_the_first_is_a_label_once(
    lengths: list[int], length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.none() | st.integers(1, length - 1))
    packing = data.draw(st.booleans())
    numbers = itertools.count(1)
    texts = [[next(numbers) for _ in range(size)] for size in lengths]
    rows = [Row((), "x", f"row {n}") for n in range(len(texts))]
    form: Any = _Plain(length)
    found = [example for _, example in windows(texts, rows, form, stride, packing)]
    labels = [token for example in found for token in example.answer]
    sequences = [[t for ids in texts for t in (*ids, 0)]] if packing else texts
    assert labels == [token for ids in sequences for token in ids[1:]]
    for example in found:
        assert len(example.prompt) >= 1 and len(example) <= length
        whole = [*example.prompt, *example.answer]
        assert any(
            ids[at : at + len(whole)] == whole for ids in sequences for at in range(len(ids))
        )
    if stride is not None:
        # All windows but the first of a text add at most the stride.
        firsts = {ids[1] for ids in sequences}
        assert all(len(e.answer) <= stride or e.answer[0] in firsts for e in found)


def stage(tmp_path: Path, **options: Any) -> Stage:
    file = tmp_path / "texts.jsonl"
    file.write_text(lines_of(*({"text": text} for text in TEXTS)))
    return Stage(source=str(file), text="text", batch_size=1, **options)


def test_texts_become_windows_of_a_stage(tmp_path: Path, tokenizer: Any) -> None:
    data = StagedDataModule({"news": stage(tmp_path)}, forget="news", max_length=8)
    data.load_rows(tokenizer, 512)
    rows, examples = data.row_set("news")
    assert len(rows) == len(examples) > len(TEXTS)
    assert all(len(example) <= 8 for example in examples)
    assert rows[0].where.endswith("row 1, line 1, window 1") and not rows[0].messages
    ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    own = [e for row, e in zip(rows, examples, strict=True) if "row 1," in row.where]
    labels = [token for example in own for token in example.answer]
    assert labels == ids[len(ids) - len(labels) :] and len(ids) - len(labels) <= 1
    assert not data.row_sets.truncations(data.path, data.format)


def test_packing_joins_texts_at_the_end_of_text(tmp_path: Path, tokenizer: Any) -> None:
    data = StagedDataModule({"news": stage(tmp_path, packing=True)}, max_length=64)
    data.load_rows(tokenizer, 512)
    (example,) = data.examples["news"]
    whole = [*example.prompt, *example.answer]
    assert whole.count(tokenizer.eos_token_id) == len(TEXTS)
    assert whole[-1] == tokenizer.eos_token_id


def test_a_tokenizer_that_begins_texts_makes_the_first_token_a_label(tokenizer: Any) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    begins = AutoTokenizer.from_pretrained(resolve("demo:tiny-llama"))
    first = begins.eos_token
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, begins.eos_token_id)]
    )
    form = ChatFormat(begins, 32)
    row = Row((), "A short one.", "row 1")
    ids = form.text_ids(row)
    assert ids == [
        begins.eos_token_id,
        *tokenizer("A short one.", add_special_tokens=False)["input_ids"],
    ]
    ((_, example),) = windows([ids], [row], form)
    assert example.prompt == (begins.eos_token_id,) and list(example.answer) == ids[1:]


def test_settings_that_cannot_cut(tmp_path: Path, tokenizer: Any) -> None:
    data = StagedDataModule({"news": stage(tmp_path, stride=8)}, max_length=8)
    with pytest.raises(InputError, match="found the stride 8, expected at most 7"):
        data.load_rows(tokenizer, 512)
    form: Any = _Plain(8, end=None)
    with pytest.raises(InputError, match="which has no end-of-text token; set packing: false"):
        list(windows([[1, 2]], [Row((), "x", "row 1")], form, packing=True))


def test_a_model_without_chat_template_trains_on_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(resolve("demo:tiny-llama"))
    bare.chat_template = None
    data = StagedDataModule({"news": stage(tmp_path)}, forget="news", unlearn=Recipe(batch_size=1))
    data.load_rows(bare, 512)
    assert data.fingerprint("news")
    both = StagedDataModule(
        {"news": stage(tmp_path)}, eval_sets={"facts": EvalSet(source="demo:math")}
    )
    with pytest.raises(InputError, match="has no chat template, and prompts need one"):
        both.load_rows(bare, 512)


def test_a_phrase_after_a_plain_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from lightning_unlearn.monitors import TOFU, AnswerLikelihood, LabelLikelihood, Memorization

    data = StagedDataModule({"news": stage(tmp_path)}, forget="news")
    data.load_rows(tokenizer, 512)
    AnswerLikelihood().check(data)
    with pytest.raises(InputError, match="the row is plain text, which has no prompt"):
        LabelLikelihood(label="paper").check(data)
    LabelLikelihood().check(data)
    assert LabelLikelihood().forget_label(data).kind == "own"
    for monitor in (Memorization("news"), TOFU(forget="news", retain="news")):
        with pytest.raises(InputError, match=r"^(Memorization|TOFU)\..*which has no prompt"):
            monitor.check(data)
