"""Chat format: label tokens for every template and padding token."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BEGIN, CHATML_TEMPLATE, END, LLAMA_TEMPLATE, TEXT, row, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.normalizers import Lowercase
from transformers import PreTrainedTokenizerFast

from lightning_unlearn.data.batches import collate
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Example, data_fingerprint
from lightning_unlearn.errors import InputError

# Llama 2 writes spaces around the answer, and its end token is the end of text.
LLAMA2_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# The template of Llama 3.2.
DATED_TEMPLATE = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{{ bos_token + 'Today Date: ' + date_string + '\n' }}" + CHATML_TEMPLATE
)
# The templates of Granite and SmolLM3.
CLOCK_TEMPLATE = "{{ 'Today: ' + strftime_now('%B %d, %Y') + '\n' }}" + CHATML_TEMPLATE
TEMPLATES = {
    "llama": LLAMA_TEMPLATE,
    "chatml": CHATML_TEMPLATE,
    "llama2": LLAMA2_TEMPLATE,
    "dated": DATED_TEMPLATE,
}
every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)

TURNS = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where was the author born?"},
    {"role": "assistant", "content": "By the sea."},
    {"role": "user", "content": "And when?"},
)
CHAT = Row(TURNS, "In 1956.", "chats.jsonl, row 7")


def chat_format(template: str, max_length: int = 512, **options: Any) -> ChatFormat:
    return ChatFormat(tiny_tokenizer(template, **options), max_length)


def rendered(tokenizer: Any, turns: Any, generation: bool) -> str:
    text: str = tokenizer.apply_chat_template(
        list(turns), tokenize=False, add_generation_prompt=generation, date_string="26 Jul 2024"
    )
    return text


def naive(tokenizer: Any, example: Row) -> tuple[list[int], list[int]]:
    """Split the tokens of a conversation, up to the last end token, at the end of the prompt."""
    answer = {"role": "assistant", "content": example.answer}
    whole = tokenizer(
        rendered(tokenizer, [*example.messages, answer], False), add_special_tokens=False
    )
    prompt = tokenizer(rendered(tokenizer, example.messages, True), add_special_tokens=False)
    size = len(prompt["input_ids"])
    ids = whole["input_ids"]
    last = len(ids) - ids[::-1].index(tokenizer.eos_token_id)
    return ids[:size], ids[size:last]


@every_template
@pytest.mark.parametrize(
    "example", [row("What is two and two?", "Four."), CHAT], ids=["row", "chat"]
)
def test_prompt_and_answer_are_the_tokens_of_the_conversation(template: str, example: Row) -> None:
    form = chat_format(template)
    encoded = form.encode(example)
    assert (list(encoded.prompt), list(encoded.answer)) == naive(form.tokenizer, example)
    assert form.prompt_ids(example) == encoded.prompt
    assert len(encoded) == len(encoded.prompt) + len(encoded.answer)
    assert not encoded.truncated


@pytest.mark.parametrize("template", [LLAMA_TEMPLATE, CHATML_TEMPLATE], ids=["llama", "chatml"])
def test_any_text_is_encoded_as_in_the_conversation(template: str) -> None:
    form = chat_format(template, 100_000)
    texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(texts, texts)
    def check(question: str, answer: str) -> None:
        encoded = form.encode(row(question, answer))
        prompt, rest = naive(form.tokenizer, row(question, answer))
        assert (list(encoded.prompt), list(encoded.answer)) == (prompt, rest)

    check()


@every_template
def test_only_the_answer_is_a_label(template: str) -> None:
    form = chat_format(template)
    encoded = form.encode(CHAT)
    answer = form.tokenizer.decode(encoded.answer)
    assert answer.strip() == f"In 1956.{' ' if template == LLAMA2_TEMPLATE else ''}{END}"
    prompt = form.tokenizer.decode(encoded.prompt)
    for turn in TURNS[1:]:
        assert turn["content"] in prompt


@every_template
@pytest.mark.parametrize("pad", [END, None], ids=["pad-is-eos", "no-pad"])
def test_end_of_turn_is_a_label_even_if_it_is_the_padding_token(
    template: str, pad: str | None
) -> None:
    form, usual = chat_format(template, pad=pad), chat_format(template)
    end = form.tokenizer.eos_token_id
    examples = [form.encode(row("Where?", "By the sea.")), form.encode(CHAT)]
    assert examples == [usual.encode(row("Where?", "By the sea.")), usual.encode(CHAT)]
    batch = collate(examples, [0, 1], pad_id=end)
    assert batch.mask.sum(-1).tolist() == [len(example.answer) for example in examples]
    assert batch.label_ids.tolist() == [i for example in examples for i in example.answer]
    ends = [example.answer.count(end) for example in examples]
    assert ends == [1, 1] and batch.label_ids.tolist().count(end) == 2
    # A label is predicted from the position before it.
    flat = batch.input_ids.flatten().tolist()
    assert [flat[place + 1] for place in batch.label_positions.tolist()] == batch.label_ids.tolist()


def test_prompt_and_answer_tokens_do_not_merge() -> None:
    form = chat_format("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    words = form.tokenizer(" can", add_special_tokens=False)["input_ids"]
    encoded = form.encode(row("I c", "an not"))
    assert len(words) == 1 and words[0] not in encoded.prompt + encoded.answer
    assert form.prompt_ids(row("I c", "")) == encoded.prompt
    assert form.tokenizer.decode(encoded.prompt) == "I c"
    assert form.tokenizer.decode(encoded.answer) == "an not"


def test_no_space_is_added_between_prompt_and_answer() -> None:
    # SentencePiece adds a space before the first word of a text.
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    pieces.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", BEGIN, END]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    pieces.train_from_iterator(TEXT * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token=BEGIN, eos_token=END, unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    form = ChatFormat(tokenizer, 64)
    encoded = form.encode(row("I c", "an not"))
    whole = tokenizer("I can not", add_special_tokens=False)["input_ids"]
    assert whole[: len(encoded.prompt)] != list(encoded.prompt)
    tokens = tokenizer.convert_ids_to_tokens([*encoded.prompt, *encoded.answer])
    assert "".join(tokens).replace("\u2581", " ") == " I can not"


@every_template
def test_answers_are_truncated_at_the_end_and_marked(template: str) -> None:
    whole = chat_format(template).encode(CHAT)
    for cut in range(len(whole.answer)):
        form = chat_format(template, len(whole) - cut)
        encoded = form.encode(CHAT)
        assert encoded.prompt == whole.prompt
        assert encoded.answer == whole.answer[: len(whole.answer) - cut]
        assert encoded.truncated is (cut > 0)


@pytest.mark.parametrize("missing", [0, 1, 5])
def test_a_prompt_that_fills_max_length_is_refused(missing: int) -> None:
    size = len(chat_format(CHATML_TEMPLATE).prompt_ids(CHAT))
    with pytest.raises(
        InputError,
        match=re.escape(
            f"chats.jsonl, row 7: the prompt alone has {size} tokens and leaves no room for an "
            f"answer within {size - missing} tokens (data.max_length or the model's context). "
            "Shorten or remove the row, or increase data.max_length."
        ),
    ):
        chat_format(CHATML_TEMPLATE, size - missing).encode(CHAT)


def test_very_long_texts_are_not_tokenized() -> None:
    form = chat_format(CHATML_TEMPLATE, 16)
    with pytest.raises(
        InputError, match=r"^rows, row 1: the prompt alone has \d{6} characters and"
    ):
        form.encode(row("What is this? " * 10_000, "A letter."))
    long, shorter = (form.encode(row("I", "Two and two is " * n)) for n in (10_000, 100))
    assert (long.answer, long.truncated) == (shorter.answer, True)


@pytest.mark.parametrize("template", [None, ""])
def test_a_tokenizer_without_template_is_refused(template: str | None) -> None:
    with pytest.raises(
        InputError,
        match=r"^models/base has no chat template, .*data\.chat_template_from: meta-llama",
    ):
        ChatFormat(tiny_tokenizer(template), 64, name="models/base")
    with pytest.raises(InputError, match="has no chat template"):
        ChatFormat(tiny_tokenizer(LLAMA_TEMPLATE), 64, template=tiny_tokenizer(template))


@pytest.mark.parametrize("own", [None, LLAMA_TEMPLATE], ids=["no-template", "another-template"])
def test_the_template_of_another_model_is_used(own: str | None) -> None:
    form = ChatFormat(tiny_tokenizer(own), 512, template=tiny_tokenizer(CHATML_TEMPLATE))
    sibling = chat_format(CHATML_TEMPLATE)
    assert form.encode(CHAT) == sibling.encode(CHAT)
    assert form.phrase_ids(CHAT, "Sorry") == sibling.phrase_ids(CHAT, "Sorry")
    assert form.fingerprint == sibling.fingerprint


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    # Some templates remove thinking blocks of earlier turns if an answer follows.
    template = CHATML_TEMPLATE.replace(
        "message['content']",
        "(message['content'] if add_generation_prompt or loop.last else 'dropped')",
    )
    form = chat_format(template)
    for ask in (form.encode, form.end_ids, lambda example: form.phrase_ids(example, "Sorry")):
        with pytest.raises(
            InputError,
            match=r"^chats\.jsonl, row 7: the chat template renders the prompt differently if an "
            r"answer follows.*data\.chat_template_from",
        ):
            ask(CHAT)


@every_template
@pytest.mark.parametrize("phrase", ["Sorry, I can not assist you", "  I must decline this \n", "I"])
def test_phrases_have_neither_header_nor_end(template: str, phrase: str) -> None:
    form = chat_format(template)
    ids = form.phrase_ids(CHAT, phrase)
    assert form.tokenizer.decode(ids).strip() == phrase.strip()
    assert not set(ids) & set(form.tokenizer.all_special_ids)
    # Their tokens are the first tokens of an answer that begins with them.
    longer = form.encode(Row(CHAT.messages, f"{phrase.strip()}, because", CHAT.where))
    assert longer.answer[: len(ids)] == ids


def test_phrases_do_not_depend_on_the_answer_of_the_row() -> None:
    form = chat_format(LLAMA_TEMPLATE)
    other = Row(CHAT.messages, "Sorry, no.", CHAT.where)
    assert form.phrase_ids(CHAT, "Sorry") == form.phrase_ids(other, "Sorry")


@every_template
def test_an_answer_ends_at_the_end_token(template: str) -> None:
    form = chat_format(template)
    # ChatML's newline after the end token and Llama 2's space before it do not end an answer.
    assert form.end_ids(CHAT) == (form.tokenizer.eos_token_id,)


def test_an_answer_ends_at_end_of_turn_and_at_end_of_text() -> None:
    tokenizer = tiny_tokenizer(CHATML_TEMPLATE.replace(END, "<|pad|>"))
    tokenizer.pad_token = END
    ends = ChatFormat(tokenizer, 64).end_ids(CHAT)
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|pad|>", END]


@pytest.mark.parametrize("template", [DATED_TEMPLATE, CLOCK_TEMPLATE], ids=["dated", "clock"])
def test_prompts_do_not_change_with_the_date(template: str) -> None:
    form = chat_format(template)
    prompt = form.tokenizer.decode(form.encode(CHAT).prompt)
    assert re.search(r"Today[^\n]*: 26 Jul 2024\n", prompt)
    assert form.encode(CHAT) == chat_format(
        template.replace("strftime_now('%B %d, %Y')", "'26 Jul 2024'")
    ).encode(CHAT)


def test_fingerprint_is_that_of_vocabulary_and_template() -> None:
    first = chat_format(LLAMA_TEMPLATE).fingerprint
    assert first == chat_format(LLAMA_TEMPLATE, 99).fingerprint
    assert first != chat_format(CHATML_TEMPLATE).fingerprint
    larger = tiny_tokenizer(LLAMA_TEMPLATE)
    larger.add_tokens(["unheard-of"])
    assert first != ChatFormat(larger, 512).fingerprint
    # The same vocabulary with other splitting rules; another end of text.
    other = tiny_tokenizer(LLAMA_TEMPLATE)
    other.backend_tokenizer.normalizer = Lowercase()
    assert first != ChatFormat(other, 512).fingerprint
    ends = tiny_tokenizer(LLAMA_TEMPLATE)
    ends.eos_token = "<|user|>"
    assert first != ChatFormat(ends, 512).fingerprint


def test_the_data_fingerprint_covers_every_token_and_the_order() -> None:
    rows = [Example((1, 2), (3,)), Example((4,), (5, 6))]
    same = [Example((1, 2), (3,), truncated=True), Example((4,), (5, 6))]
    assert data_fingerprint(rows) == data_fingerprint(same) == data_fingerprint(iter(rows))
    others = [
        rows[::-1],
        rows[:1],
        [Example((1,), (2, 3)), rows[1]],
        [rows[0], Example((4,), (5, 7))],
        [*rows, rows[1]],
        [],
    ]
    assert len({data_fingerprint(other) for other in [rows, *others]}) == 1 + len(others)
