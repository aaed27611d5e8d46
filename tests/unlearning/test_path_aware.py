"""Path-aware methods: what they plan and train, and how close they are to the oracle."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_stages import Tiny
from transformers import AutoModelForCausalLM

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    CausalLM,
    InputError,
    ModelStateArithmetic,
    NegationThenReplay,
    OracleDistance,
    Replay,
    Rewind,
    Splice,
    StagedTrainer,
    StageNegation,
    TaskNegation,
)
from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.model import adapters
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.storage.run_folders import MANIFEST

FIRST, MIDDLE, LAST = (
    ["safety", "tofu", "math"],
    ["tofu", "safety", "math"],
    ["tofu", "math", "safety"],
)


OPTIONS = ("precision", "strategy", "snapshot_steps", "checkpoint_steps")
WATCHED = "model.layers.1.mlp.up_proj.weight"


def products(folder: Path) -> dict[str, torch.Tensor]:
    """The update of each layer of an adapter, computed densely."""
    weights = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    return {
        name.removeprefix("base_model.model.").replace("lora_A.", ""): scale
        * (weights[name.replace("lora_A", "lora_B")] @ a)
        for name, a in weights.items()
        if "lora_A" in name
    }


def fitted(tiny: Tiny, method: Any, order: list[str], **changes: Any) -> StagedTrainer:
    options = {name: changes.pop(name) for name in OPTIONS if name in changes}
    trainer = tiny.trainer([method, AnswerLikelihood(), OracleDistance()], **options)
    trainer.fit(tiny.module(**changes), tiny.datamodule(order=order))
    return trainer


def oracle(tiny: Tiny, order: list[str], **changes: Any) -> StagedTrainer:
    options = {name: changes.pop(name) for name in OPTIONS if name in changes}
    trainer = tiny.trainer([AnswerLikelihood()], **options)
    trainer.fit(tiny.module(**changes), tiny.datamodule(order=order, oracle=True))
    return trainer


def adapter(trainer: StagedTrainer, name: str) -> dict[str, torch.Tensor]:
    assert trainer.run_dir is not None
    return load_file(trainer.run_dir / name / "adapter_model.safetensors")


@pytest.mark.parametrize("order", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("method", [Rewind, lambda: Replay(1)])
def test_rewind_and_full_replay_are_the_oracle_bit_for_bit(
    tiny: Tiny, method: Any, order: list[str]
) -> None:
    wanted = oracle(tiny, order)
    trainer = fitted(tiny, method(), order)
    learned, known = adapter(trainer, LEARN), adapter(wanted, LEARN)
    assert learned.keys() == known.keys()
    assert all(torch.equal(learned[name], known[name]) for name in known)
    ends = trainer.results.first_and_last()
    for name, (_, last) in wanted.results.first_and_last().items():
        assert ends[name][1] == last
    assert ends["kl/forget"][0] > 1e-3 and ends["kl/forget"][1] == 0


def test_negation_at_the_last_position_is_the_oracle(tiny: Tiny) -> None:
    wanted = oracle(tiny, LAST, precision="64-true").results.first_and_last()
    trainer = fitted(tiny, StageNegation(), LAST, precision="64-true")
    assert trainer.trained_stages == ["safety", "unlearn"]
    ends = trainer.results.first_and_last()
    for name, (_, last) in wanted.items():
        assert ends[name][1] == pytest.approx(last, abs=1e-9)
    assert abs(ends["kl/forget"][1]) < 1e-9 < 1e-3 < ends["kl/forget"][0]
    a = adapter(trainer, UNLEARN)["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]
    assert a.shape == (8, 32)
    assert trainer.run_dir is not None
    config = json.loads((trainer.run_dir / UNLEARN / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)


def test_what_a_method_uses_is_planned_trained_once_and_in_the_key(tiny: Tiny) -> None:
    trainer = fitted(tiny, TaskNegation(0.5), MIDDLE)
    again = "tofu-safety-math-safety"
    assert trainer.trained_stages == ["tofu", "safety", "math", again, "unlearn"]
    assert trainer.run_dir is not None
    about = json.loads((trainer.run_dir / "run.json").read_text())
    assert [stage["name"] for stage in about["stages"]] == [*MIDDLE, "unlearn"]
    (used,) = about["history"]
    content = trainer.store.manifest(about["key"])["content"]
    assert used["name"] == again and used["key"] in content["history"]
    assert "unlearn" not in content
    other = fitted(tiny, TaskNegation(0.25), MIDDLE)
    assert other.trained_stages == ["unlearn"]
    path = fitted(tiny, StageNegation(), MIDDLE)
    assert path.trained_stages == ["unlearn"]
    assert path.results.first_and_last() != other.results.first_and_last()


@pytest.mark.parametrize("lora", [True, False])
def test_every_sum_equals_one_computed_tensor_by_tensor(tiny: Tiny, lora: bool) -> None:
    """The same function as the weights that the definition gives, from the entries of the store."""
    changes: dict[str, Any] = {"precision": "64-true"} | ({} if lora else {"lora": None})
    methods = {
        StageNegation(0.7): {"end": 1, "after": -0.7, "before": 0.7},
        Splice(2): {"oracle at 2": 1, "end": 1, "path at 2": -1},
        ModelStateArithmetic(1.5, 0.5, "math"): {
            "end": 1,
            "after": -1.5,
            "before": 1.0,
            "with math": 0.5,
        },
    }
    history = {
        "end": [("tofu", None), ("safety", None), ("math", None)],
        "after": [("tofu", None), ("safety", None)],
        "before": [("tofu", None)],
        "oracle at 2": [("tofu", None), ("math", 2)],
        "path at 2": [("tofu", None), ("safety", None), ("math", 2)],
        "with math": [("tofu", None), ("math", None)],
    }
    for method, terms in methods.items():
        trainer = fitted(tiny, method, MIDDLE, **changes)
        store = trainer.store
        entries = {}
        for manifest in store.folder.glob(f"*/{MANIFEST}"):
            content = store.manifest(manifest.parent.name)["content"]
            if "monitors" not in content:
                chain = [(stage["name"], stage.get("upto")) for stage in content["stages"]]
                entries[json.dumps(chain)] = manifest.parent / LEARN
        folders = {
            name: entries[json.dumps(chain)] for name, chain in history.items() if name in terms
        }
        assert trainer.run_dir is not None
        if lora:
            wanted = sum(c * products(folders[name])[WATCHED] for name, c in terms.items())
            found = sum(products(trainer.run_dir / name)[WATCHED] for name in (LEARN, UNLEARN))
        else:
            file = "model.safetensors"
            parts = {name: load_file(folder / file)[WATCHED] for name, folder in folders.items()}
            wanted = sum(c * parts[name] for name, c in terms.items())
            found = load_file(trainer.run_dir / UNLEARN / file)[WATCHED]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_snapshots_are_the_states_that_partial_stages_give(tiny: Tiny) -> None:
    """Bit for bit; Splice then trains the oracle's steps only, and gives the same."""
    plain, kept = tiny.below("plain"), tiny.below("kept")
    # The path is trained before the method is known.
    fitted(plain, NPO(), MIDDLE)
    fitted(kept, NPO(), MIDDLE, snapshot_steps=1)
    apart, shared = (fitted(place, Splice(1), MIDDLE) for place in (plain, kept))
    partial, own = "tofu-math (to step 1)", "tofu-safety-math (to step 1)"
    assert apart.trained_stages == [partial, own, "unlearn"]
    assert shared.trained_stages == [partial, "unlearn"]
    again = fitted(tiny.below("once"), Splice(1), MIDDLE)
    assert again.trained_stages == ["tofu", "safety", "math", partial, "unlearn"]
    for other in (shared, again):
        for name in (LEARN, UNLEARN):
            one, two = adapter(apart, name), adapter(other, name)
            assert all(torch.equal(one[key], two[key]) for key in one)
        assert other.results.steps == apart.results.steps
    steps = {step for step, _, _ in apart.results.steps}
    assert steps == {0, 1}


def test_spliced_at_the_last_step_the_model_is_the_oracle(tiny: Tiny) -> None:
    wanted = oracle(tiny, MIDDLE, precision="64-true").results.first_and_last()
    total = 3
    ends = fitted(tiny, Splice(total), MIDDLE, precision="64-true").results.first_and_last()
    for name, (_, last) in wanted.items():
        assert ends[name][1] == pytest.approx(last, abs=1e-9)
    with pytest.raises(InputError, match=r"Splice: steps: found 9, expected at most 3, the opt"):
        fitted(tiny, Splice(9), MIDDLE)


def test_a_smaller_rank_is_the_best_approximation_and_its_error_is_stated(tiny: Tiny) -> None:
    exact = fitted(tiny, StageNegation(), MIDDLE, precision="64-true")
    small = fitted(tiny, StageNegation(rank=3), MIDDLE, precision="64-true")
    assert exact.run_dir is not None and small.run_dir is not None
    lost = total = 0.0
    kept, full = products(small.run_dir / UNLEARN), products(exact.run_dir / UNLEARN)
    for name, update in full.items():
        values = torch.linalg.svdvals(update)
        lost, total = lost + values[3:].square().sum(), total + values.square().sum()
        assert torch.linalg.matrix_rank(kept[name]) == 3
        rest = torch.linalg.matrix_norm(update - kept[name])
        torch.testing.assert_close(rest, values[3:].square().sum().sqrt(), rtol=1e-8, atol=1e-12)
    about = json.loads((small.run_dir / "run.json").read_text())
    stated = small.store.manifest(about["key"])["details"]["rank_error"]
    assert stated == pytest.approx(float((lost / total).sqrt()), rel=1e-6)
    assert about["stages"][-1]["rank_error"] == stated


def test_results_are_loaded_merged_and_validated_as_those_of_any_method(tiny: Tiny) -> None:
    """In one module after the other, with an ordinary method between them."""
    module = tiny.module(save_merged=True)
    for method in (StageNegation(0.5), NPO(), Rewind(), StageNegation(0.5, rank=4)):
        trainer = tiny.trainer([method, AnswerLikelihood()])
        data = tiny.datamodule(order=MIDDLE)
        trainer.fit(module, data)
        assert trainer.run_dir is not None and trainer.results is not None
        ends = {name: end for name, (_, end) in trainer.results.first_and_last().items()}
        for opened in (module, tiny.module()):
            found = tiny.trainer([method, AnswerLikelihood()]).validate(opened, data)
            assert found == pytest.approx(ends, abs=1e-6)
        merged = tiny.trainer([AnswerLikelihood()])
        lm = tiny.module(base=str(trainer.run_dir / "merged"))
        assert merged.validate(lm, data, stage="base") == pytest.approx(ends, abs=1e-5)
        check_with_peft(tiny, trainer.run_dir, data)


def check_with_peft(tiny: Tiny, run: Path, data: Any) -> None:
    """PEFT opens the two adapters, and they give the merged model's logits."""
    lm = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(str(tiny.base)), run / LEARN, adapter_name=LEARN
    )
    lm.load_adapter(run / UNLEARN, adapter_name=UNLEARN)
    lm.base_model.set_adapter([LEARN, UNLEARN])
    merged = AutoModelForCausalLM.from_pretrained(str(run / "merged"))
    tokens = torch.tensor([data.examples["safety"][0].prompt])
    with torch.no_grad():
        torch.testing.assert_close(lm(tokens).logits, merged(tokens).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_negation_then_replay_is_training_from_the_negated_model(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    """Equal to plain training whose base model is the negated model, merged."""
    # A new adapter starts from the same random numbers under either name.
    monkeypatch.setattr(adapters, "derive_seed", lambda seed, kind, name: derive_seed(seed, kind))
    changes: dict[str, Any] = {} if lora else {"lora": None}
    model = {"precision": "64-true", **changes}
    trainer = fitted(tiny, NegationThenReplay(0.5, 0.7), FIRST, **model)
    first, second = "sum-tofu (2 steps)", "sum-tofu (2 steps)-math (2 steps)"
    assert trainer.trained_stages == [*FIRST, first, second, "unlearn"]
    fitted(tiny, StageNegation(0.7), FIRST, save_merged=True, **model)
    (merged,) = tiny.root.glob("runs/StageNegation/*/merged")
    plain = tiny.trainer([AnswerLikelihood()], precision="64-true", run_name="plain")
    data = tiny.datamodule(order=FIRST[1:], stages=tiny.stages(steps=2), forget=None)
    plain.fit(tiny.module(base=str(merged), **changes), data)
    assert plain.run_dir is not None and trainer.run_dir is not None
    if not lora:
        file = "model.safetensors"
        wanted = load_file(plain.run_dir / LEARN / file)
        found = load_file(trainer.run_dir / UNLEARN / file)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
        return
    (negated,) = tiny.root.glob("runs/StageNegation/*/unlearn")
    added = products(plain.run_dir / LEARN)
    for name, update in products(trainer.run_dir / UNLEARN).items():
        torch.testing.assert_close(update, products(negated)[name] + added[name], rtol=0, atol=1e-9)
    factor = adapter(trainer, UNLEARN)["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]
    # The model before the first stage adds no rank.
    assert factor.shape == (8, 32)


def test_a_stage_of_the_history_resumes_inside(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where a new adapter is trained on a frozen sum."""
    once = fitted(tiny.below("once"), NegationThenReplay(1), MIDDLE)
    step, stopped = CausalLM.training_step, tiny.below("stopped")

    def stops(self: CausalLM, *batch: Any) -> None:
        step(self, *batch)
        if self.trainable == UNLEARN and self.step == 2:
            raise RuntimeError("power is off")

    monkeypatch.setattr(CausalLM, "training_step", stops)
    with pytest.raises(RuntimeError, match="power is off"):
        fitted(stopped, NegationThenReplay(1), MIDDLE, checkpoint_steps=1)
    monkeypatch.undo()
    trainer = fitted(stopped, NegationThenReplay(1), MIDDLE)
    assert trainer.trained_stages == ["sum-math", "unlearn"]
    for name in (LEARN, UNLEARN):
        one, two = adapter(once, name), adapter(trainer, name)
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert trainer.results.steps == once.results.steps
