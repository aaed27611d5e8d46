"""What is in the keys of the store of the rows that only some methods use."""

import json
from dataclasses import fields
from typing import Any

import pytest
from key_plans import Plans
from tiny_stages import Tiny
from torch import Tensor

from lightning_unlearn import NPO, RowSource, Unlearning


@pytest.fixture
def plans(tiny: Tiny) -> Plans:
    return Plans(tiny)


def test_retain_rows_and_their_term_are_in_the_key_of_a_method_that_uses_them(
    plans: Plans,
) -> None:
    """Arguments of a source change the key through its rows alone, as those of a stage do."""
    own = {"question": "Why?", "answer": "So.", "other": "c", "more": "d", "rest": "e"}
    chat = [{"role": "user", "content": "g"}, {"role": "assistant", "content": "h"}]
    file, again = (plans.tiny.root / name for name in ("own.jsonl", "again.jsonl"))
    file.write_text(json.dumps({**own, "chat": chat}) + "\n" + json.dumps(own | {"chat": chat}))
    again.write_text(json.dumps({**own, "answer": "i"}) + "\n")
    sources: list[dict[str, Any]] = [
        {},
        {"source": str(again)},
        {"prompt": "other"},
        {"answer": "other"},
        {"prompt_template": "{question} {other}"},
        {"system": "more"},
        {"messages": "chat"},
        {"text": "rest"},
        {"limit": 1},
    ]
    given: list[Any] = [RowSource(**{"source": str(file), **changes}) for changes in sources]
    given += [["tofu"], ["tofu", "math"], ["math:heldout"], ["inst"]]

    def keys(retain: Any, **term: Any) -> list[str]:
        method = NPO(**{"retain_weight": 1.0, **term})
        return plans.keys(data={"retain": retain}, trainer={"callbacks": [method]})

    found = [keys(retain) for retain in given]
    found += [keys(["tofu"], retain_weight=0.5), keys(["tofu"], retain_loss="kl")]
    assert len({own[-1] for own in found}) == len(found)
    assert {tuple(own[:-1]) for own in found} == {tuple(plans.keys()[:-1])}
    # Other names of the same rows, and a term without weight.
    assert keys(["tofu:train"]) == keys(["tofu"])
    plain = plans.keys(trainer={"callbacks": [NPO()]})
    assert keys(["tofu"], retain_weight=0.0, retain_loss="kl") == plain
    hub = {"subset", "split"}
    assert {*hub, "source", *(n for own in sources for n in own)} == {
        field.name for field in fields(RowSource)
    }


class Prefers(Unlearning):
    """A method that uses alternates."""

    def loss_with_alternates(
        self, policy: Any, reference: Any, alternates: Any, alternates_reference: Any
    ) -> Tensor:
        raise NotImplementedError


def test_alternates_are_in_the_key_of_a_method_that_uses_them(plans: Plans) -> None:
    def keys(text: str) -> list[str]:
        source = plans.file("safety.jsonl", lambda row: {**row, "answer": text})
        alternates = RowSource(source=source)
        return plans.keys(data={"alternates": alternates}, trainer={"callbacks": [Prefers()]})

    first, second = keys("No."), keys("Never.")
    assert first[:-1] == second[:-1] and first[-1] != second[-1]
