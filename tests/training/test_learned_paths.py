"""Paths that begin with learned stages: stopped, resumed, evaluated, mixed with trained ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import Interrupts
from process_runs import assert_same, run_script
from tiny_stages import Tiny, results
from trained_elsewhere import random_adapter

from lightning_unlearn import GA, NPO, AnswerLikelihood, CausalLM, InputError, Recipe

UNLEARN = Recipe(lr=2e-3, epochs=2, batch_size=4)


def adapter(tiny: Tiny, name: str = "safety", seed: int = 0) -> str:
    folder = tiny.root / "given" / name
    return str(folder) if folder.exists() else random_adapter(tiny.base, folder, seed)


def data_of(tiny: Tiny, *learned: str, **changes: Any) -> Any:
    given = {"learned": list(learned or ["safety"]), "order": [], "unlearn": UNLEARN}
    return tiny.datamodule(**{**given, **changes})


def weights(module: CausalLM) -> dict[str, torch.Tensor]:
    module.configure_model()
    names = ("learn", "unlearn")
    return {f"{n} {k}": v for n in names for k, v in module.weights.state_dict(n).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_stopped_unlearning_resumes_on_the_given_adapter(tiny: Tiny) -> None:
    runs = []
    for name in ("whole", "halted"):
        own, base = tiny.below(name), adapter(tiny)
        halted = [Interrupts("unlearn", 3)] if name == "halted" else []
        if halted:
            with pytest.raises(
                KeyboardInterrupt, match=r"in stage unlearn at step 3 of 6; a check"
            ):
                own.trainer([NPO(), AnswerLikelihood(2), *halted]).fit(
                    own.module(base=base), data_of(tiny)
                )
        trainer = own.trainer([NPO(), AnswerLikelihood(2), *halted])
        trainer.fit(own.module(base=base), data_of(tiny))
        assert trainer.run_dir is not None
        runs.append(results(trainer.run_dir))
    assert runs[0] == runs[1]


def test_one_module_runs_learned_and_trained_paths_in_turn(tiny: Tiny) -> None:
    """The weights of one run are never those of another."""
    shared, alone = tiny.module(base=adapter(tiny)), {}
    runs: list[tuple[str, Any]] = [
        ("at once", {}),
        ("trained", {"order": ["math"]}),
        ("at once", {}),
        ("other", {"order": [], "unlearn": Recipe(lr=1e-3, batch_size=4)}),
        ("trained", {"order": ["math"]}),
    ]
    for name, changes in runs:
        if name not in alone:
            own, module = tiny.below(name), tiny.module(base=adapter(tiny))
            own.trainer([GA()]).fit(module, data_of(tiny, **changes))
            alone[name] = weights(module)
        tiny.trainer([GA()]).fit(shared, data_of(tiny, **changes))
        assert equal(weights(shared), alone[name]), name
    assert len({len(own) for own in alone.values()}) == 1


def test_all_weights_of_a_learned_model_are_unlearned(tiny: Tiny) -> None:
    module = tiny.module(lora=None)
    trainer = tiny.trainer([GA(), AnswerLikelihood()])
    trainer.fit(module, data_of(tiny))
    assert trainer.trained_stages == ["unlearn"] and trainer.results is not None
    before, after = trainer.results.first_and_last()["answers/safety"]
    assert after < before
    assert trainer.run_dir is not None and not (trainer.run_dir / "learn").exists()


def test_stages_are_trained_on_top_of_the_given_adapter(tiny: Tiny) -> None:
    """The oracle too: its base has not learned the forget stage."""
    data: dict[str, Any] = {"learned": ["inst"], "order": ["math", "safety"]}
    base, monitors = adapter(tiny, "inst"), [AnswerLikelihood()]
    oracle = tiny.trainer([NPO(), *monitors])
    oracle.fit(tiny.module(base=base), data_of(tiny, **data, oracle=True))
    assert oracle.trained_stages == ["math", "oracle"] and oracle.run_dir is not None
    assert oracle.run_dir.name == "inst-math_s0"
    trainer = tiny.trainer([NPO(), *monitors])
    trainer.fit(tiny.module(base=base), data_of(tiny, **data))
    assert trainer.trained_stages == ["safety", "unlearn"] and trainer.run_dir is not None
    assert trainer.run_dir.name == "p3_inst-math-safety_s0"
    start = trainer.validate(tiny.module(base=base), data_of(tiny, **data), "base")
    assert start == trainer.validate(tiny.module(base=base), data_of(tiny, **data), "inst")
    plain = tiny.trainer(monitors).validate(tiny.module(), tiny.datamodule(forget=None), "base")
    assert start["answers/inst"] != plain["answers/inst"]


def test_validate_evaluates_after_every_stage_whose_adapter_is_known(tiny: Tiny) -> None:
    paths = {name: adapter(tiny, name, n) for n, name in enumerate(("inst", "safety"))}
    trainer = tiny.trainer([GA(), AnswerLikelihood()])
    data = data_of(tiny, "inst", "safety")
    trainer.fit(tiny.module(adapters=paths), data)
    found = {
        stage: trainer.validate(tiny.module(adapters=paths), data, stage)
        for stage in ("inst", "safety", "base", "unlearn", None)
    }
    alone = tiny.trainer([AnswerLikelihood()])
    for name, path in paths.items():
        only = data_of(tiny, "inst", "safety", forget=None)
        assert found[name] == alone.validate(tiny.module(base=path), only, "base"), name
    assert found["base"] == found["safety"] and found["unlearn"] == found[None]
    assert len({tuple(own.items()) for own in found.values()}) == 3
    # Of one adapter, only the last stage is known.
    with pytest.raises(InputError) as refused:
        trainer.validate(tiny.module(base=paths["safety"]), data, "inst")
    assert str(refused.value) == (
        "stage: found 'inst', after which the model is not known: model.base has learned 'safety' "
        "too, expected one of base, safety, unlearn. If there is an adapter of 'inst', name it in "
        "model.adapters."
    )


def test_learned_stages_and_adapters_must_agree(tiny: Tiny) -> None:
    paths = {name: adapter(tiny, name) for name in ("inst", "safety")}
    cases = {
        (): "no stage",
        ("safety",): "safety",
        ("safety", "inst"): "safety, inst",
        ("inst", "safety", "math"): "inst, safety, math",
    }
    for learned, found in cases.items():
        data = tiny.datamodule(learned=list(learned))
        with pytest.raises(InputError) as refused:
            tiny.trainer([GA()]).fit(tiny.module(adapters=paths), data)
        assert str(refused.value) == (
            f"data.learned: found {found}, expected it to end with the stages of model.adapters, "
            "inst, safety. Set data.learned: [inst, safety]."
        )
    with pytest.raises(InputError, match=r"^data\.order: found no stage to train and "):
        tiny.trainer([]).fit(tiny.module(), data_of(tiny, forget=None))
    assert not (tiny.root / "runs").exists() and not (tiny.root / "store").exists()
    # What the base has learned before the adapters may be named too.
    tiny.trainer([GA()]).check(tiny.module(adapters=paths), data_of(tiny, "math", "inst", "safety"))


def test_micro_batches_change_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """On stacked adapters, whose ranks and layers differ."""
    one = random_adapter(tiny.base, tmp_path / "one")
    two = random_adapter(tiny.base, tmp_path / "two", 1, r=2, target_modules=["q_proj"])
    runs = []
    for micro in (4, 1):
        own = tiny.below(str(micro))
        trainer = own.trainer([NPO(), AnswerLikelihood(2)], precision="64-true")
        module = tiny.module(adapters={"inst": one, "safety": two}, stacked=True)
        trainer.fit(module, data_of(tiny, "inst", "safety", micro_batch_size=micro))
        assert trainer.run_dir is not None
        runs.append(trainer.run_dir)
    assert_same(*runs, 1e-9)


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
from tiny_stages import Tiny
from test_learned_paths import NPO, AnswerLikelihood, adapter, data_of

if __name__ == "__main__":
    tiny = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    for strategy in ("ddp", "fsdp2"):
        several = {{"devices": 2, "strategy": strategy, "precision": "64-true"}}
        trainer = tiny.below(strategy).trainer([NPO(), AnswerLikelihood(2)], **several)
        trainer.fit(tiny.module(base=adapter(tiny)), data_of(tiny))
        assert trainer.trained_stages == ["unlearn"]
        if trainer.is_global_zero:
            print("run", trainer.run_dir)
"""


@pytest.mark.slow
def test_processes_change_nothing(tiny: Tiny) -> None:
    trainer = tiny.trainer([NPO(), AnswerLikelihood(2)], precision="64-true")
    trainer.fit(tiny.module(base=adapter(tiny)), data_of(tiny))
    folders = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parent)]
    script = tiny.root / "script.py"
    script.write_text(SCRIPT.format(tests=folders))
    told = run_script(script, tiny.settings())
    found = [Path(line[4:]) for line in told.splitlines() if line.startswith("run ")]
    assert len(found) == 2 and trainer.run_dir is not None
    for run in found:
        assert_same(trainer.run_dir, run, 1e-9)
