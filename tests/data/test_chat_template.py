"""Chat templates of every known shape, and those that can't be used."""

import sys
from typing import Any

import pytest
from chat_shapes import (
    ANSWER,
    QUESTION,
    SAID,
    SHAPES,
    STOP,
    USER,
    every_shape,
    shaped,
    tokenizer_of,
    turns,
)
from tiny_models import CHATML_TEMPLATE, LLAMA_TEMPLATE, row, tiny_tokenizer

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.errors import InputError


@every_shape
@pytest.mark.parametrize("answer", [ANSWER, "think", "I", "A <b> and\n\nB [x]"])
def test_a_label_is_the_answer_and_the_end_of_its_turn(shape: str, answer: str) -> None:
    _, header, label = SHAPES[shape]
    form = shaped(shape)
    encoded = form.encode(row(QUESTION, answer))
    decode = form.tokenizer.decode
    assert decode(encoded.answer) == label.replace(ANSWER, answer)
    assert decode(encoded.prompt).endswith(QUESTION + header)
    # Generation, phrases and labels have the same prompt and the same end token.
    asked = row(QUESTION, answer)
    assert form.prompt_ids(asked) == encoded.prompt
    assert form.end_ids(asked)[0] == encoded.answer[-1]
    assert form.tokenizer.eos_token_id in form.end_ids(asked)
    assert form.phrase_ids(asked, answer) == encoded.answer[:-1]
    assert form.remark(asked) is None


@every_shape
def test_chats_of_several_turns_end_in_the_same_way(shape: str) -> None:
    chat = (
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "The author."},
        {"role": "user", "content": QUESTION},
    )
    form = shaped(shape)
    encoded = form.encode(Row(chat, ANSWER, "rows, row 1"))
    assert form.tokenizer.decode(encoded.answer) == SHAPES[shape][2]
    assert form.tokenizer.decode(encoded.prompt).endswith(QUESTION + SHAPES[shape][1])


@every_shape
def test_truncation_cuts_the_label_alone(shape: str) -> None:
    whole = shaped(shape).encode(row(QUESTION, ANSWER))
    for cut in range(len(whole.answer)):
        encoded = shaped(shape, len(whole) - cut).encode(row(QUESTION, ANSWER))
        assert encoded.prompt == whole.prompt
        assert encoded.answer == whole.answer[: len(whole.answer) - cut]
        assert encoded.truncated is (cut > 0)
    with pytest.raises(InputError, match="leaves no room for an answer"):
        shaped(shape, len(whole.prompt)).encode(row(QUESTION, ANSWER))


def test_a_prompt_has_one_begin_token() -> None:
    form = shaped("llama")
    encoded = form.encode(row(QUESTION, ANSWER))
    begin = form.tokenizer.bos_token_id
    assert encoded.prompt[0] == begin
    assert (*encoded.prompt, *encoded.answer).count(begin) == 1


@pytest.mark.parametrize(
    ("end", "label", "words"),
    [
        ("", ANSWER, "writes nothing"),
        ("{{ '\n' }}", ANSWER, "writes nothing"),
        # Templates of another tokenizer.
        (
            "{{ '<|im_end|>\n' }}",
            f"{ANSWER}<|im_end|>",
            "'<|im_end|>', which is not a single token",
        ),
        ("{{ '\n### Question' }}", f"{ANSWER}\n###", "'###', which is not a single token"),
    ],
)
def test_without_an_end_token_answers_end_at_the_end_of_text(
    end: str, label: str, words: str
) -> None:
    form = ChatFormat(
        tokenizer_of(turns(USER, SAID, end, "'<|assistant|>'", "'<|assistant|>'")), 512
    )
    asked = row(QUESTION, ANSWER)
    assert form.tokenizer.decode(form.encode(asked).answer) == label
    # "<" does not end an answer: answers contain it.
    assert form.end_ids(asked) == (form.tokenizer.eos_token_id,)
    remark = form.remark(asked)
    assert remark is not None and words in remark and remark.startswith("data.chat_template_from: ")


SYSTEM = Row(
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}),
    ANSWER,
    "chats.jsonl, row 1, line 1",
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role, please') }}"
TURNS = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must\n alternate') }}{% endif %}{% endfor %}"
)
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}"
FAILING = {
    "system": (NO_SYSTEM + "{% endif %}" + LLAMA_TEMPLATE, "fails on this row (No system role, "),
    "alternation": (TURNS + LLAMA_TEMPLATE, "fails on this row (Roles must alternate), expected a"),
    "undefined": ("{{ messages[7].content + 'x' }}", "fails on this row (list object has no elem"),
    "type": ("{{ none + 'x' }}", "fails on this row (unsupported operand type(s)"),
    "unsafe": ("{{ ''.__class__.__mro__ }}", "fails on this row (access to attribute '__class__'"),
    "endless-recursion": (
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "fails on this row (maximum recursion depth",
    ),
    "range": ("{% for i in range(10**9) %}{% endfor %}", "fails on this row (Range too big."),
    "loops": (LOOP + "{% endfor %}" + LLAMA_TEMPLATE, "executes more than 1000000 lines"),
    "nothing": ("{% if false %}x{% endif %}", "omits the question"),
    "constant": ("{{ '<|user|>hello<|end|>' }}", "omits the question"),
    "no-answer": (
        turns(USER, "", STOP, "'<|assistant|>'", "'<|assistant|>'"),
        "omits the answer",
    ),
    "answer-twice": (
        turns(USER, SAID + SAID, STOP, "'<|assistant|>'", "'<|assistant|>'"),
        "writes the answer twice",
    ),
    "other-prompt": (
        CHATML_TEMPLATE.replace(
            "message['content']",
            "(message['content'] if add_generation_prompt or loop.last else 'dropped')",
        ),
        "renders the prompt differently if an answer follows",
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_template_that_fails_on_a_row_is_refused(kind: str) -> None:
    template, words = FAILING[kind]
    form = ChatFormat(tokenizer_of(template), 512)
    trace = sys.gettrace()
    asks = (
        form.encode,
        form.prompt_ids,
        form.end_ids,
        lambda example: form.phrase_ids(example, "Sorry"),
    )
    for ask in asks if kind != "loops" else asks[:1]:
        with pytest.raises(InputError, match=r"^chats\.jsonl, row 1, line 1: the chat ") as caught:
            ask(SYSTEM)
        message = str(caught.value)
        assert words in message and "(data.chat_template_from)" in message and "\n" not in message
    assert sys.gettrace() is trace


def test_other_rows_of_such_a_template_are_accepted() -> None:
    form = ChatFormat(tokenizer_of(FAILING["system"][0]), 512)
    assert form.encode(row(QUESTION, ANSWER)) == shaped("llama").encode(row(QUESTION, ANSWER))


@pytest.mark.parametrize(
    "answer", ["<think>\nIt is far.\n</think>\n\nBy the sea.", "a</think>b", "</think>"]
)
def test_an_answer_that_the_template_rewrites_is_refused(answer: str) -> None:
    # Templates of reasoning models remove the thinking block from an answer.
    content = "{{ m.content.split('</think>')[-1] | trim }}"
    form = ChatFormat(
        tokenizer_of(turns(USER, content, STOP, "'<|assistant|>'", "'<|assistant|>'")), 512
    )
    with pytest.raises(InputError, match=r"^rows, row 1: .* changes the answer of this row"):
        form.encode(row(QUESTION, answer))
    assert form.encode(row(QUESTION, ANSWER)).answer


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content", r"does not compile \(line 1: unexpected end of template"),
        ("a\n{{ messages | shout }}", r"does not compile \(line 2: No filter named 'shout'\.\)"),
        ("{% for m in messages %}", r"does not compile \(line 1: Unexpected end of template\."),
        (["a"], r"found \['a'\] as its chat template"),
        (7, "found 7 as its chat template"),
        ({"tools": "x", "rag": "y"}, "found the chat templates 'tools', 'rag', expected one named"),
        ({"default": ""}, "has no chat template"),
    ],
)
def test_an_invalid_template_is_refused_at_once(template: Any, words: str) -> None:
    sibling = tokenizer_of(None)
    sibling.chat_template = template
    with pytest.raises(InputError, match=f"^models/base.*{words}.*data.chat_template_from"):
        ChatFormat(sibling, 512, name="models/base")
    with pytest.raises(InputError, match=f"^models/chat.*{words}"):
        ChatFormat(tokenizer_of(None), 512, sibling, "models/base", None, "models/chat")


def test_the_default_one_of_several_templates_is_used() -> None:
    several = tokenizer_of(None)
    several.chat_template = {"default": LLAMA_TEMPLATE, "tools": "{{ 'no' }}"}
    asked = row(QUESTION, ANSWER)
    assert ChatFormat(several, 512).encode(asked) == shaped("llama").encode(asked)


def test_long_chats_are_accepted() -> None:
    chat = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 400
    long = Row((*chat, {"role": "user", "content": QUESTION}), ANSWER, "rows, row 1")
    assert shaped("chatml", 10**6).encode(long).answer


@pytest.mark.parametrize(
    ("question", "answer", "part"),
    [(QUESTION, "It is <extra1>.", "answer"), ("What is <extra1>?", ANSWER, "prompt")],
)
def test_tokens_without_an_embedding_are_refused(question: str, answer: str, part: str) -> None:
    tokenizer = tiny_tokenizer(LLAMA_TEMPLATE)
    size = len(tokenizer)
    tokenizer.add_tokens(["<extra1>"])
    form = ChatFormat(tokenizer, 512, name="models/base", vocabulary=size)
    assert form.encode(row(QUESTION, ANSWER)).answer
    asked = row(question, answer, "rows.jsonl, row 9, line 9")
    with pytest.raises(
        InputError,
        match=rf"^rows\.jsonl, row 9, line 9: the {part} has the token '<extra1>' with id {size}, "
        rf"expected ids below {size}, the number of rows of the embedding of models/b",
    ):
        form.encode(asked)
    with pytest.raises(InputError, match=r"row 1, phrase '<extra1>': the phrase has the token"):
        form.phrase_ids(row(QUESTION, ANSWER), "<extra1>")
    # With an embedding for the token, the text is accepted.
    assert ChatFormat(tokenizer, 512, vocabulary=size + 1).encode(asked).answer


def test_the_padding_token_has_an_embedding() -> None:
    tokenizer = tiny_tokenizer(LLAMA_TEMPLATE)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    assert tokenizer.pad_token_id == size
    assert ChatFormat(tokenizer, 512, vocabulary=size).pad_id == 0
    assert ChatFormat(tokenizer, 512, vocabulary=size + 1).pad_id == size
    assert ChatFormat(tokenizer, 512).pad_id == size
