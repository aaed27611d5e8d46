"""What path-aware methods ask of the history: plans and refusals, without training."""

from collections.abc import Callable
from typing import Any

import pytest
from tiny_stages import Tiny
from trained_elsewhere import random_adapter

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    InputError,
    ModelStateArithmetic,
    NegationThenReplay,
    PathAware,
    PathHistory,
    Recipe,
    Replay,
    Rewind,
    Splice,
    StagedTrainer,
    StageNegation,
    TaskNegation,
)
from lightning_unlearn.planning.history_steps import history_steps
from lightning_unlearn.storage.path_history import Link, Weights
from lightning_unlearn.training.planned_stage import PlannedStage

ORDER = ["tofu", "safety", "math"]


def planned(tiny: Tiny, method: Any, **changes: Any) -> list[PlannedStage]:
    model = {name: changes.pop(name) for name in ("adapters", "stacked") if name in changes}
    module = tiny.module(**model)
    data = tiny.datamodule(**{"order": ORDER, **changes})
    trainer: StagedTrainer = tiny.trainer([method, AnswerLikelihood()])
    trainer.check(module, data)
    return trainer.plan(module, data)


class Asks(PathAware):
    """A method of one's own."""

    def __init__(self, asked: Callable[[PathHistory], Weights]) -> None:
        super().__init__()
        self._asked = asked

    def unlearned(self, history: PathHistory) -> Weights:
        return self._asked(history)


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        (StageNegation(), []),
        (Rewind(), ["tofu-math"]),
        (Replay(1), ["tofu-math"]),
        (Replay(0.5), ["tofu-math (2 steps)"]),
        (TaskNegation(), ["tofu-safety-math-safety"]),
        (ModelStateArithmetic(beta=0), []),
        (ModelStateArithmetic(), ["tofu-tofu"]),
        (ModelStateArithmetic(retain="math"), ["tofu-math"]),
        (NegationThenReplay(1), ["sum-math"]),
        (NegationThenReplay(0.1), ["sum-math (1 steps)"]),
        (Splice(0), []),
        (Splice(2), ["tofu-math (to step 2)", "tofu-safety-math (to step 2)"]),
        (Splice(3), ["tofu-math"]),
        (Asks(lambda h: h.alone("safety")), ["safety"]),
        (Asks(lambda h: h.at("math", 1)), ["tofu-safety-math (to step 1)"]),
        (Asks(lambda h: 2 * h.end - h.at("math", 3)), []),
    ],
)  # fmt: skip
def test_the_stages_that_a_method_needs_are_planned(
    tiny: Tiny, method: Any, extra: list[str]
) -> None:
    plan = planned(tiny, method)
    assert [stage.label for stage in plan] == [*ORDER, *extra, "unlearn"]
    assert plan[-1].result is not None
    entries = {stage.key for stage in plan[:-1]}
    assert all(part.key in entries for part in plan[-1].result.parts if part.key is not None)
    # Stages that several runs need have one key.
    oracle = planned(tiny, NPO(), oracle=True)
    assert extra != ["tofu-math"] or plan[3].key == oracle[1].key


def test_the_key_of_a_result_has_what_it_is_computed_from(tiny: Tiny) -> None:
    key = planned(tiny, StageNegation())[-1].key
    # A method without steps does not use the recipe of unlearning.
    assert planned(tiny, StageNegation(), unlearn=Recipe(lr=1.0, batch_size=3))[-1].key == key
    keys = {key}
    for method in (StageNegation(0.5), StageNegation(rank=2), Splice(0), TaskNegation()):
        keys.add(planned(tiny, method)[-1].key)
    keys.add(planned(tiny, StageNegation(), stages=tiny.stages(lr=1e-4))[-1].key)
    assert len(keys) == 6


def test_sums_of_models() -> None:
    history = PathHistory(["a", "b", "c"], "b", {"a": 4, "b": 4, "c": 4})
    end = history.end
    assert (end - end).terms == () and not (end - end).is_affine
    found = end - 0.5 * (history.after("b") - history.before("b"))
    assert dict(found.terms) == {end.chain: 1, (Link("a"), Link("b")): -0.5, (Link("a"),): 0.5}
    assert found.is_affine and -found == found * -1 and found * 1 == found
    assert history.at("c", 4) == end and history.at("c", 0) == history.after("b")
    assert history.later == ("c",) and history.without("b") == history.trained("a", "c")
    with pytest.raises(InputError, match=r"the stage 'x' was requested, expected one of the path"):
        history.before("x")
    with pytest.raises(InputError, match=r"step 5 of stage 'c' was requested, expected 0 to 4"):
        history.at("c", 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replay(0), r"Replay\.fraction: found 0, expected a share above 0, at most 1"),
        (lambda: Replay(1.5), r"Replay\.fraction: found 1\.5"),
        (lambda: NegationThenReplay(2), r"NegationThenReplay\.fraction: found 2, expected a share"),
        (lambda: NegationThenReplay(1, float("nan")), r"NegationThenReplay\.alpha: found nan"),
        (lambda: Splice(-1), r"Splice\.steps: found -1, expected 0 or more"),
        (lambda: StageNegation(float("inf")), r"StageNegation\.alpha: found inf, expected a num"),
        (lambda: StageNegation(float("nan")), r"StageNegation\.alpha: found nan"),
        (lambda: TaskNegation(float("nan")), r"TaskNegation\.alpha: found nan"),
        (lambda: StageNegation(rank=0), r"StageNegation\.rank: found 0, expected at least 1, or"),
        (lambda: ModelStateArithmetic(beta=float("nan")), r"ModelStateArithmetic\.beta: found nan"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (ModelStateArithmetic(retain="safety"), r"ModelStateArithmetic: retain: found safety on"),
        (ModelStateArithmetic(retain="inst"), r"ModelStateArithmetic: the stage 'inst' was req"),
        (Asks(lambda h: h.at("math", 9)), r"Asks: step 9 of stage 'math' was requested, expected"),
    ],
)
def test_what_a_path_does_not_have_is_refused(tiny: Tiny, method: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(tiny, method)


def test_wrong_methods_are_refused(tiny: Tiny) -> None:
    with pytest.raises(TypeError, match=r"Asks\.unlearned: found coefficients with the sum 2, exp"):
        planned(tiny, Asks(lambda h: h.end + h.before("math")))
    with pytest.raises(TypeError, match=r"Asks\.unlearned: found int, expected a model of the hi"):
        planned(tiny, Asks(lambda h: 1))  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"Empty: found a path-aware method without unlearned"):
        type("Empty", (PathAware,), {})


def test_a_rank_needs_adapters(tiny: Tiny) -> None:
    trainer = tiny.trainer([StageNegation(rank=2)])
    with pytest.raises(InputError, match=r"StageNegation\.rank: found 2 with model\.lora null"):
        trainer.check(tiny.module(lora=None), tiny.datamodule(order=ORDER))


def test_history_from_elsewhere_is_used_or_its_absence_named(tiny: Tiny) -> None:
    """Adapters of stages that were trained elsewhere are a history."""
    folder = tiny.root / "adapters"
    adapters = {
        name: random_adapter(tiny.base, folder / name, seed)
        for seed, name in enumerate(("tofu", "safety"))
    }
    known: dict[str, Any] = {"learned": ["tofu", "safety"], "order": ["math"]}
    plan = planned(tiny, StageNegation(), adapters=adapters, **known)
    assert [stage.label for stage in plan] == ["math", "unlearn"]
    assert plan[-1].result is not None
    parts = {part.given: part.coefficient for part in plan[-1].result.parts}
    assert parts == {None: 1.0, "safety": -1.0, "tofu": 1.0}
    last = {"safety": adapters["safety"]}
    wanted = r"model\.adapters: found no adapter that gives the model after 'tofu', but StageNeg"
    with pytest.raises(InputError, match=wanted):
        planned(tiny, StageNegation(), adapters=last, **known)
    with pytest.raises(InputError, match=wanted):
        planned(tiny, StageNegation(), **known)
    wanted = r"data\.learned: found tofu, safety, but Rewind uses the model trained on tofu-math, w"
    with pytest.raises(InputError, match=wanted):
        planned(tiny, Rewind(), adapters=adapters, **known)
    first = {"learned": ["safety"], "order": ["tofu"]}
    with pytest.raises(InputError, match=r"gives the model before 'safety', but StageNegation"):
        planned(tiny, StageNegation(), **first)
    # Without the adapters of "safety" the base model itself is not known.
    alone = planned(tiny, StageNegation(), adapters=last, **first)
    assert alone[-1].result is not None and len(alone[-1].result.parts) == 3


def test_the_method_of_the_readme_is_one_class(tiny: Tiny) -> None:
    from callbacks.interpolation import Interpolation

    plan = planned(tiny, Interpolation(0.25))
    assert plan[-1].result is not None
    assert [part.coefficient for part in plan[-1].result.parts] == [0.75, 0.25]


def test_the_steps_of_the_history_are_counted(tiny: Tiny) -> None:
    data = tiny.datamodule(order=ORDER)
    counts = {"tofu": 3, "safety": 2, "math": 8}
    wanted = {
        StageNegation(): 0,
        Rewind(): 8,
        Replay(0.1): 1,
        TaskNegation(): 2,
        Splice(3): 3,
        NegationThenReplay(0.5): 4,
        Asks(lambda h: h.alone("safety")): 2,
    }
    for method, steps in wanted.items():
        assert history_steps(method, data, counts) == steps
    assert history_steps(Rewind(), data, {**counts, "math": None}) is None


def test_a_model_trained_on_a_sum_is_the_sum_and_what_was_trained(tiny: Tiny) -> None:
    """Also as a part of another sum."""

    def halfway(history: PathHistory) -> Weights:
        negated = 2 * history.end - history.before(history.forget)
        return 0.5 * (history.end + history.continued(negated))

    plan = planned(tiny, Asks(halfway))
    assert plan[-1].result is not None and not plan[-1].result.is_model
    parts = {"-".join(map(str, p.chain)): p.coefficient for p in plan[-1].result.parts}
    assert parts == {"tofu-safety-math": 1.5, "tofu": -0.5, "sum-math": 0.5}
    assert [stage.label for stage in plan] == [*ORDER, "sum-math", "unlearn"]


def test_rows_that_a_method_without_steps_leaves_unused_are_noted(tiny: Tiny) -> None:
    module, data = tiny.module(), tiny.datamodule(order=ORDER, retain=["tofu"])
    trainer = tiny.trainer([StageNegation()])
    trainer.check(module, data)
    notes = [note for note in trainer.data_notes(module, data) if "data.retain" in note]
    assert notes == [
        "data.retain: StageNegation makes no optimizer step of unlearning, so these rows are not "
        "used; remove data.retain."
    ]
