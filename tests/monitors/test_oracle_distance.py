"""Distance to the oracle: its numbers, the choice of the oracle, and no effect on training."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from path_runs import unlearned_and_oracle
from study_runs import spec_of, studied
from tiny_stages import Tiny, results
from torch import Tensor

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    CausalLM,
    EvalSet,
    InputError,
    LoRA,
    Membership,
    OracleDistance,
    Recipe,
    StagedTrainer,
)
from lightning_unlearn.storage.records import EXAMPLES, STEPS, TRAINING, read_table

PATH = ["safety", "math"]
# Two computations are compared in float64, because fp32 results depend on the processor.
EXACT = {"precision": "64-true"}
KINDS = ("log_likelihood", "margin", "distance", "overshoot", "kl")
ADAPTERS = LoRA(rank=4, alpha=8)
WATCH = [{"class_path": "OracleDistance", "init_args": {"every_n_steps": 2, "limit": 5}}]


def fitted(
    tiny: Tiny, *monitors: Any, oracle: bool = True, lora: LoRA | None = ADAPTERS, **changes: Any
) -> StagedTrainer:
    """Train the oracle, then run 3 steps of unlearning."""
    given: dict[str, Any] = {"order": PATH, "unlearn": Recipe(lr=5e-3, steps=3, batch_size=4)}
    given |= changes
    if oracle:
        data = tiny.datamodule(**given, oracle=True)
        tiny.trainer(list(monitors), **EXACT).fit(tiny.module(lora=lora), data)
    trainer = tiny.trainer([NPO(), *monitors], **EXACT)
    trainer.fit(tiny.module(lora=lora), tiny.datamodule(**given))
    return trainer


def measured(trainer: StagedTrainer, file: str = STEPS) -> pd.DataFrame:
    assert trainer.run_dir is not None
    return read_table(trainer.run_dir / file)


def logits_of(model: CausalLM, prompt: Any, answer: Any) -> Tensor:
    """Compute the model's logits at the positions that predict the answer's tokens."""
    with torch.no_grad():
        logits: Tensor = model.network.hf_model(
            torch.tensor([[*prompt, *answer]]), use_cache=False
        ).logits[0]
    return logits[len(prompt) - 1 : -1].double()


def test_numbers_equal_those_of_two_separate_models(tiny: Tiny) -> None:
    trainer = fitted(tiny, OracleDistance(2, limit=5))
    examples = measured(trainer, EXAMPLES)
    last = examples[examples["step"] == 3].set_index(["metric", "example"])["value"].sort_index()
    own, oracle = unlearned_and_oracle(tiny, trainer)
    assert trainer.results is not None
    data = trainer.results.data
    probes = {"forget": ["safety"], "retain": ["math:train"], "heldout": ["math:heldout"]}
    seen = set()
    for probe, (name,) in probes.items():
        for number, example in enumerate(data.row_set(name)[1][:5]):
            tables = [
                logits_of(m, example.prompt, example.answer).log_softmax(-1) for m in (own, oracle)
            ]
            label = torch.tensor(example.answer)[:, None]
            mine, aim = (table.gather(-1, label).mean().item() for table in tables)
            p = tables[0].gather(-1, label).exp()
            wanted = {
                "log_likelihood": mine,
                "margin": (p.log() - (1 - p).log()).mean().item(),
                "distance": (mine - aim) ** 2,
                "overshoot": float(mine < aim),
                "kl": (tables[1].exp() * (tables[1] - tables[0])).sum(-1).mean().item(),
            }
            for kind, value in wanted.items():
                seen.add((f"{kind}/{probe}", number))
                assert last[f"{kind}/{probe}", number] == pytest.approx(value, abs=1e-9)
    assert set(last.index) == seen


def test_evaluations_do_not_change_training(tiny: Tiny) -> None:
    looked = fitted(tiny.below("a"), OracleDistance(1), AnswerLikelihood(1))
    plain = fitted(tiny.below("b"), AnswerLikelihood(1))
    assert looked.run_dir is not None and plain.run_dir is not None
    both = results(looked.run_dir), results(plain.run_dir)
    same = [name for name in both[0] if "records" not in name and "examples" not in name]
    assert len(same) > 4 and all(both[0][name] == both[1][name] for name in same)
    a, b = (measured(run).set_index(["step", "metric"])["value"] for run in (looked, plain))
    assert a[b.index].to_numpy() == pytest.approx(b.to_numpy(), abs=1e-9)


def test_the_distance_of_the_oracle_to_itself_is_zero(tiny: Tiny) -> None:
    trainer = fitted(tiny, OracleDistance(), order=["math", "safety"])
    (run,) = (tiny.root / "runs" / "oracle").iterdir()
    oracle = read_table(run / EXAMPLES)
    kinds = {measure.partition("/")[0] for measure in oracle["metric"]}
    assert kinds == {"log_likelihood", "margin"}
    examples = measured(trainer, EXAMPLES).set_index(["step", "metric", "example"])["value"]
    examples = examples.sort_index()
    aim = oracle.set_index(["metric", "example"])["value"]
    for (measure, number), value in aim.items():
        if measure.startswith("log_likelihood/"):
            probe = measure.removeprefix("log_likelihood/")
            gap = examples[0, measure, number] - value
            assert examples[0, f"distance/{probe}", number] == pytest.approx(gap**2, abs=1e-9)


def test_without_an_oracle_there_is_a_message_and_no_distance(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fitted(tiny, OracleDistance(), Membership("math:heldout"), oracle=False)
    said = capsys.readouterr().err
    assert "OracleDistance and Membership: cannot measure the distance to the oracle." in said
    assert "forget stage: math, seed 0) is not in" in said and "--data.oracle true" in said
    kinds = {measure.partition("/")[0] for measure in measured(trainer)["metric"]}
    assert {"log_likelihood", "margin", "auc"} <= kinds
    assert not {"distance", "overshoot", "kl", "privleak"} & kinds
    assert measured(trainer)["value"].notna().all()
    # With the oracle, the run has another key.
    assert "distance/forget" in set(measured(fitted(tiny, OracleDistance()))["metric"])


def test_an_oracle_of_another_base_is_reported(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(tiny, OracleDistance(), oracle=True)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tiny.root / "other"
    lm = AutoModelForCausalLM.from_pretrained(tiny.base)
    lm.lm_head.weight.data.mul_(1.1)
    lm.save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny.base).save_pretrained(other)
    capsys.readouterr()
    fitted(Tiny(other, tiny.data, tiny.root), OracleDistance(), oracle=False)
    assert "only an oracle of another base model" in capsys.readouterr().err


def test_the_oracle_of_a_path_with_only_the_forget_stage_is_the_base(tiny: Tiny) -> None:
    trainer = fitted(tiny, OracleDistance(), order=["safety"], oracle=False)
    examples = measured(trainer, EXAMPLES).set_index(["step", "metric", "example"])["value"]
    examples = examples.sort_index()
    base = tiny.module()
    base.configure_model()
    base.double()
    assert trainer.results is not None
    rows = trainer.results.data.row_set("safety")[1]
    with torch.no_grad():
        aim = base.evaluator.score(rows, 4).mean
    gap = examples[0, "log_likelihood/forget"].to_numpy() - aim.numpy()
    assert examples[0, "distance/forget"].to_numpy() == pytest.approx(gap**2, abs=1e-9)


def test_full_fine_tuning_has_distances_and_reports_why_there_is_no_kl(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fitted(tiny, OracleDistance(limit=3), lora=None)
    measures = set(measured(trainer)["metric"])
    assert "distance/forget" in measures and not any(m.startswith("kl/") for m in measures)
    assert (
        "the KL to the oracle is not computed, because adapters train the"
        in capsys.readouterr().err
    )


def test_overlap_with_the_forget_rows_is_reported(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = {"same": EvalSet(source=str(tiny.data / "safety.jsonl"))}
    monitor = OracleDistance(groups={"forget": ["safety"], "kept": ["math", "same"]}, limit=2)
    fitted(tiny, monitor, oracle=False, eval_sets=probes)
    said = capsys.readouterr().err
    assert "11 of 16 rows of the group 'kept' are also forget rows" in said


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "OracleDistance.groups: found none, expected at least one, or null."),
        ({"mine": []}, "OracleDistance.groups: found [] under 'mine', expected a name"),
        ({"m/e": ["safety"]}, "OracleDistance.groups: found ['safety'] under 'm/e'"),
        (
            {"mine": ["math", "math:heldout"]},
            "OracleDistance.groups.mine: found math, math:heldout,",
        ),
        ({"mine": ["facts"]}, "OracleDistance.groups.mine: found the rows 'facts', expected one"),
    ],
)
def test_groups_are_checked(tiny: Tiny, groups: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fitted(tiny, OracleDistance(groups=groups), oracle=False)
    assert not (tiny.root / "store").exists()


def test_without_a_forget_stage_it_is_refused(tiny: Tiny) -> None:
    with pytest.raises(
        InputError,
        match=r"OracleDistance: found data\.forget null, expected a forget stage: the oracle is",
    ):
        tiny.trainer([OracleDistance()]).fit(tiny.module(), tiny.datamodule(forget=None))


def test_a_study_trains_oracles_first_and_compares_with_them(tiny: Tiny) -> None:
    spec = spec_of(tiny, "GA", fit=tiny.fit(WATCH), oracle=True)
    # In this part of the grid, no path has a prefix in common with the oracle's path.
    result, said = studied(spec, tiny, "path=2,method=GA")
    assert not result.failed and "✓" in said
    records = read_table(result.folder / STEPS)
    assert set(records["method"]) == {"GA"} and "distance/forget" in set(records["metric"])
    whole, _ = studied(spec, tiny)
    both = read_table(whole.folder / STEPS)
    alone = both[(both["path"] == "safety-tofu") & (both["method"] == "GA")]
    assert alone["value"].tolist() == records["value"].tolist()
    assert {"log_likelihood/forget", "margin/retain"} <= set(
        both[both["method"] == "oracle"]["metric"]
    )


@pytest.mark.slow
def test_a_study_without_oracles_reports_it(tiny: Tiny) -> None:
    result, said = studied(spec_of(tiny, "GA", fit=tiny.fit(WATCH)), tiny)
    assert (
        said.count("OracleDistance: cannot measure the distance to the oracle, because this study")
        == 1
    )
    measures = set(read_table(result.folder / STEPS)["metric"])
    assert "log_likelihood/forget" in measures and "distance/forget" not in measures


def test_a_missing_stored_oracle_is_reported(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.errors import StorageError

    fitted(tiny, OracleDistance())
    trainer = tiny.trainer([GA(), OracleDistance()], **EXACT)
    trainer.expects_oracle = True
    data = tiny.datamodule(order=["safety", "tofu"], unlearn=Recipe(lr=5e-3, steps=3, batch_size=4))
    with pytest.raises(
        StorageError, match=r"retrained without the forget stage, .* was removed from"
    ):
        trainer.fit(tiny.module(), data)


def test_training_resumes_from_a_checkpoint_with_the_same_records(tiny: Tiny) -> None:
    whole = fitted(tiny.below("a"), OracleDistance(1))

    class Stop(Exception):
        pass

    class Stops(OracleDistance):
        def evaluate(self, results: Any, module: CausalLM, step: int) -> None:
            super().evaluate(results, module, step)
            if step == 2 and not (tiny.root / "b" / "stopped").exists():
                (tiny.root / "b" / "stopped").touch()
                raise Stop

    part = tiny.below("b")
    with pytest.raises(Stop):
        fitted_from_checkpoints(part, Stops(1))
    again = fitted_from_checkpoints(part, Stops(1))
    assert again.run_dir is not None and whole.run_dir is not None
    assert measured(again).equals(measured(whole))
    assert (again.run_dir / TRAINING).read_bytes() == (whole.run_dir / TRAINING).read_bytes()


def fitted_from_checkpoints(tiny: Tiny, monitor: OracleDistance) -> StagedTrainer:
    given: dict[str, Any] = {"order": PATH, "unlearn": Recipe(lr=5e-3, steps=3, batch_size=4)}
    tiny.trainer([monitor], **EXACT).fit(tiny.module(), tiny.datamodule(**given, oracle=True))
    trainer = tiny.trainer([NPO(), monitor], checkpoint_steps=1, **EXACT)
    trainer.fit(tiny.module(), tiny.datamodule(**given))
    return trainer


def test_rows_of_eval_sets_are_in_the_key_of_the_run(tiny: Tiny, tmp_path: Path) -> None:
    rows = tiny.data / "math.jsonl"
    one = fitted(tiny, AnswerLikelihood(), eval_sets={"p": EvalSet(source=str(rows))})
    two = fitted(tiny, AnswerLikelihood(), eval_sets={"p": EvalSet(source=str(rows), limit=2)})
    assert two.trained_stages == ["unlearn"] and one.run_dir != two.run_dir
