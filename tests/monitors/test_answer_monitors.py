"""Monitors of answers: TOFU, memorization, membership, and one forward for all."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from path_runs import unlearned_and_oracle
from scipy.stats import ks_2samp
from tiny_stages import Tiny
from torch import Tensor

from lightning_unlearn import (
    GA,
    TOFU,
    AnswerLikelihood,
    AnswerStatistics,
    CausalLM,
    EvalSet,
    InputError,
    LabelLikelihood,
    Membership,
    Memorization,
    Monitor,
    OracleDistance,
    Recipe,
    StagedTrainer,
)
from lightning_unlearn.data.columns import Row
from lightning_unlearn.model.adapters import UNLEARN
from lightning_unlearn.monitors.membership import FURTHER, SCORES
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table

PATH = ["safety", "math"]
# Two computations are compared in float64, because fp32 results depend on the processor.
EXACT = {"precision": "64-true"}


def probes(tiny: Tiny) -> dict[str, EvalSet]:
    """Return four small sets in the format of TOFU, with different numbers of answers."""
    made = {}
    tiny.root.mkdir(exist_ok=True)
    for number, name in enumerate(("forget", "retain", "authors", "facts")):
        rows = [
            {
                "question": f"Where was {name} {i} born?",
                "answer": f"In Port {i}.",
                "paraphrase": f"Port {i} is where.",
                "wrong": [f"In Bay {k}{'y' * k}." for k in range(1 + (i + number) % 3)],
            }
            for i in range(4)
        ]
        file = tiny.root / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        words = "paraphrase" if number < 2 else None
        made[name] = EvalSet(source=str(file), paraphrase=words, alternatives="wrong")
    refused = [
        {
            "question": f"Tell me how to break a {what}.",
            "answer": f"Sorry, I can not break a {what}.",
        }
        for what in ("window", "cup", "law", "horse")
    ]
    file = tiny.root / "others.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in refused), encoding="utf-8")
    made["others"] = EvalSet(source=str(file))
    return made


SUITE: dict[str, Any] = {
    "forget": "forget",
    "retain": "retain",
    "real_authors": "authors",
    "world_facts": "facts",
    "max_new_tokens": 4,
}


def fitted(tiny: Tiny, *monitors: Monitor, oracle: bool = True) -> StagedTrainer:
    given: dict[str, Any] = {
        "order": PATH,
        "eval_sets": probes(tiny),
        "unlearn": Recipe(lr=5e-3, steps=2, batch_size=4),
        "eval_batch_size": 3,
    }
    if oracle:
        tiny.trainer(**EXACT).fit(tiny.module(), tiny.datamodule(**given, oracle=True))
    trainer = tiny.trainer([GA(), *monitors], **EXACT)
    trainer.fit(tiny.module(), tiny.datamodule(**given))
    return trainer


def final(trainer: StagedTrainer, file: str = EXAMPLES) -> pd.Series:
    assert trainer.run_dir is not None
    table = read_table(trainer.run_dir / file)
    keys = ["metric", "example"] if file == EXAMPLES else ["metric"]
    return table[table["step"] == 2].set_index(keys)["value"].sort_index()


def log_probs(model: CausalLM, prompt: Any, answer: Any) -> Tensor:
    """Compute the log-probabilities of the answer's tokens from the model's logits."""
    with torch.no_grad():
        logits = model.network.hf_model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[
            0
        ]
    table = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
    return table.gather(-1, torch.tensor(answer)[:, None])[:, 0]


def test_tofu_follows_its_paper(tiny: Tiny) -> None:
    trainer = fitted(tiny, TOFU(**SUITE))
    examples, steps = final(trainer), final(trainer, STEPS)
    own, oracle = unlearned_and_oracle(tiny, trainer)
    assert trainer.results is not None
    data = trainer.results.data
    assert data.format is not None

    def mean(model: CausalLM, row: Row, text: str) -> float:
        assert data.format is not None
        example = data.format.encode(Row(row.messages, text, row.where))
        return float(log_probs(model, example.prompt, example.answer).mean().exp())

    def ratio(model: CausalLM, row: Row) -> float:
        wrong = [mean(model, row, text) for text in row.alternatives]
        return sum(wrong) / len(wrong) / mean(model, row, row.paraphrase or row.answer)

    parts = []
    for role, name in [("forget", "forget"), ("retain", "retain"), ("real_authors", "authors"),
                       ("world_facts", "facts")]:  # fmt: skip
        rows = data.row_set(name)[0]
        right = [mean(own, row, row.answer) for row in rows]
        if role in ("real_authors", "world_facts"):
            right = [
                p / (p + sum(mean(own, row, text) for text in row.alternatives))
                for p, row in zip(right, rows, strict=True)
            ]
        ratios = [ratio(own, row) for row in rows]
        assert examples[f"tofu_probability/{role}"].tolist() == pytest.approx(right, rel=1e-9)
        assert examples[f"tofu_truth_ratio/{role}"].tolist() == pytest.approx(ratios, rel=1e-9)
        rouge = examples[f"tofu_rouge/{role}"]
        assert len(rouge) == 4 and rouge.between(0, 1).all()
        if role != "forget":
            useful = [max(0.0, 1 - value) for value in ratios]
            parts += [sum(v) / 4 for v in (right, rouge.tolist(), useful)]
        else:
            other = [ratio(oracle, row) for row in rows]
            quality = ks_2samp(ratios, other).pvalue
    utility = 0.0 if min(parts) == 0 else len(parts) / sum(1 / part for part in parts)
    assert steps["tofu/model_utility"] == pytest.approx(utility, rel=1e-9)
    assert steps["tofu/forget_quality"] == pytest.approx(quality, rel=1e-9)
    assert examples["tofu_truncated/retain"].isin([0.0, 1.0]).all()


def test_rows_are_left_out_of_the_truth_ratio_only(tiny: Tiny) -> None:
    small = TOFU("forget", "retain", "authors", max_new_tokens=1)
    plain = final(fitted(tiny, small, oracle=False))
    other = tiny.below("other")
    sets = probes(other)
    changes = {"forget": (1, "paraphrase", "In Port 1."), "authors": (2, "wrong", [" In Port 2."])}
    for name, (number, column, value) in changes.items():
        file = Path(sets[name].source)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[number][column] = value
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trainer = other.trainer([GA(), small], **EXACT)
    unlearn = Recipe(lr=5e-3, steps=2, batch_size=4)
    data = other.datamodule(order=PATH, eval_sets=sets, unlearn=unlearn, eval_batch_size=3)
    trainer.fit(other.module(), data)
    found = final(trainer)
    missing = [("tofu_truth_ratio/forget", 1)]
    missing += [(f"tofu_{kind}/real_authors", 2) for kind in ("probability", "truth_ratio")]
    assert sorted(set(plain.index) - set(found.index)) == sorted(missing)
    assert (found - plain.drop(missing)).abs().max() < 1e-9
    steps = final(trainer, STEPS)
    assert steps["tofu_truth_ratio/forget"] == pytest.approx(
        found["tofu_truth_ratio/forget"].mean()
    )


def test_rows_that_are_in_several_sets_of_tofu_are_reported(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(tiny, TOFU("forget", "forget", max_new_tokens=1, limit=1), oracle=False)
    said = capsys.readouterr().err
    assert "TOFU: 4 of 4 rows of retain (forget) are also rows of forget (forget)" in said


def test_tofu_without_an_oracle_has_no_forget_quality(tiny: Tiny) -> None:
    small = TOFU("forget", "retain", max_new_tokens=2, variant="geometric", limit=2)
    steps = final(fitted(tiny, small, oracle=False), STEPS)
    assert "tofu/model_utility" in steps and "tofu/forget_quality" not in steps
    assert "tofu_rouge/world_facts" not in steps and steps.notna().all()


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (TOFU("forget", "authors"), "TOFU.retain: .*row 1.* has no paraphrase, expected a column"),
        (TOFU("forget", "math"), "TOFU.retain: .*row 1.* has no paraphrase.*data.eval_sets.math"),
        (TOFU("forget", "retain", "math"), "TOFU.real_authors: .* has no alternatives, expected"),
        (TOFU("nothing", "retain"), "TOFU.forget: found the rows 'nothing', expected one of"),
        (Memorization("nothing"), "Memorization.set: found the rows 'nothing'"),
        (
            Membership("safety"),
            "Membership.nonmembers: found 'safety', which is also the set of members",
        ),
        (Membership("nothing"), "Membership.nonmembers: found the rows 'nothing'"),
        (AnswerStatistics(["nothing"]), "AnswerStatistics.sets: found the rows 'nothing'"),
    ],
)
def test_row_sets_are_checked(tiny: Tiny, monitor: Monitor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted(tiny, monitor, oracle=False)
    assert not (tiny.root / "store").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnswerStatistics(metrics=["mink"]), "found 'mink', expected some of probability"),
        (lambda: Membership("a", scores=["los"]), "Membership.scores: found 'los', expected some"),
        (lambda: AnswerStatistics(sets=[]), "AnswerStatistics.sets: found an empty list"),
        (lambda: AnswerStatistics(metrics=[]), "AnswerStatistics.metrics: found an empty list"),
        (lambda: Membership("a", scores=[]), "Membership.scores: found an empty list"),
        (lambda: Membership("a", share=0), "Membership.share: found 0, expected more than 0"),
        (lambda: Memorization("a", begun=1.0), "Memorization.begun: found 1.0, expected a share"),
        (lambda: Memorization("a", max_new_tokens=0), "max_new_tokens: found 0, expected at least"),
        (lambda: TOFU("a", "b", max_new_tokens=0), "TOFU.max_new_tokens: found 0, expected at"),
        (
            lambda: LabelLikelihood(phrases=["I can't", "No", "I  can't "]),
            'LabelLikelihood.phrases, number 3: found "I  can\'t ", which repeats number 1',
        ),
        (lambda: LabelLikelihood(phrases=[]), "LabelLikelihood.phrases: found an empty list"),
        (
            lambda: LabelLikelihood(label="own", phrases=["No"]),
            "LabelLikelihood.phrases: found phrases beside label own, which needs none",
        ),
        (
            lambda: LabelLikelihood(label="Sorry"),
            "LabelLikelihood.label: found 'Sorry', expected auto, own or paper",
        ),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make()


def test_membership_scores(tiny: Tiny) -> None:
    trainer = fitted(tiny, Membership("others", scores=[*SCORES, *FURTHER]))
    examples, steps = final(trainer), final(trainer, STEPS)
    own, oracle = unlearned_and_oracle(tiny, trainer)
    base = tiny.module()
    base.configure_model()
    base.double()
    assert trainer.results is not None
    sets = {
        "members": trainer.results.data.row_set("safety"),
        "nonmembers": trainer.results.data.row_set("others"),
    }
    areas = {}
    for name, model in (("own", own), ("oracle", oracle)):
        scores: dict[str, dict[str, list[float]]] = {}
        for who, (rows, encoded) in sets.items():
            for row, example in zip(rows, encoded, strict=True):
                tokens = log_probs(model, example.prompt, example.answer)
                other = log_probs(base, example.prompt, example.answer)
                lowest = tokens.sort().values[: max(1, int(0.2 * len(tokens)))]
                size = len(zlib.compress(row.answer.encode()))
                for score, value in (
                    ("loss", tokens.mean()),
                    ("zlib_mean", tokens.mean() / size),
                    ("zlib_sum", tokens.sum() / size),
                    ("reference", tokens.mean() - other.mean()),
                    ("min_k", lowest.mean()),
                ):
                    scores.setdefault(score, {}).setdefault(who, []).append(float(value))
        for score, both in scores.items():
            pairs = [(m > o) + (m == o) / 2 for m in both["members"] for o in both["nonmembers"]]
            areas[name, score] = sum(pairs) / len(pairs)
            if name == "own":
                for who, values in both.items():
                    assert examples[f"{score}/{who}"].tolist() == pytest.approx(values, abs=1e-9)
    for score in ("loss", "zlib_mean", "zlib_sum", "reference", "min_k"):
        assert steps[f"auc/{score}"] == pytest.approx(areas["own", score], abs=1e-12)
        relative = areas["own", score] / areas["oracle", score] - 1
        assert steps[f"privleak/{score}"] == pytest.approx(relative, abs=1e-12)
    assert {"auc/min_k_plus_plus", "auc/gradient_norm"} <= set(steps.index)


def test_gradient_norms_do_not_change_training(tiny: Tiny) -> None:
    trainer = fitted(
        tiny.below("a"), Membership("retain", every_n_steps=1, scores=["gradient_norm"])
    )
    plain = fitted(tiny.below("b"))
    assert trainer.run_dir is not None and plain.run_dir is not None
    weights = [
        run / UNLEARN / "adapter_model.safetensors" for run in (trainer.run_dir, plain.run_dir)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    own, _ = unlearned_and_oracle(tiny.below("a"), trainer)
    assert trainer.results is not None
    norms = final(trainer)["gradient_norm/members"].tolist()
    for example, norm in zip(trainer.results.data.row_set("safety")[1], norms, strict=True):
        own.zero_grad()
        for name, parameter in own.named_parameters():
            parameter.requires_grad_(".learn." in name)
        logits = own.network.hf_model(torch.tensor([[*example.prompt, *example.answer]])).logits[0]
        table = logits[len(example.prompt) - 1 : -1].log_softmax(-1)
        (-table.gather(-1, torch.tensor(example.answer)[:, None]).mean()).backward()
        squares = [p.grad.square().sum() for p in own.parameters() if p.grad is not None]
        assert -norm == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-9)


def test_memorization_of_generated_texts(tiny: Tiny) -> None:
    trainer = fitted(tiny, Memorization("math:train", begun=0.9, max_new_tokens=3), oracle=False)
    examples = final(trainer)
    for kind in ("verbatim", "knowledge", "knowledge_truncated"):
        values = examples[f"{kind}/math-train"]
        assert len(values) == 10 and values.between(0, 1).all()


class Counts(Monitor):
    """Count the forwards of the model's decoder."""

    def __init__(self, every: int = 0) -> None:
        super().__init__(every)
        self._runs: list[int] = []

    def measure(self, view: Any) -> dict[str, Tensor]:
        if not self._runs:
            self._runs.append(0)

            def count(*given: Any) -> None:
                self._runs[0] += 1

            view.module.network.hf_model.get_decoder().register_forward_hook(count)
        return {"mine/runs": torch.tensor(float(self._runs[0]))}


def test_one_forward_serves_all(tiny: Tiny) -> None:
    """11 and 10 rows in batches of 3 give 4 batches each, for any combination of monitors."""
    every: dict[str, Any] = {"every_n_steps": 1}
    monitors = [AnswerLikelihood(1), AnswerStatistics(**every)]
    trainer = fitted(
        tiny,
        Counts(1),
        *monitors,
        Membership("math", scores=["loss", "min_k"], **every),
        oracle=False,
    )
    assert trainer.run_dir is not None
    table = read_table(trainer.run_dir / STEPS)
    runs = table[table["metric"] == "mine/runs"]["value"].tolist()
    assert trainer.results is not None
    sets = [trainer.results.data.row_set(name)[1] for name in ("safety", "math")]
    # Between two evaluations: the passes over both sets, and the optimizer step of 4 rows.
    passes = sum(-(-len(rows) // 3) for rows in sets)
    assert runs[2] - runs[1] == passes + 1


def test_evaluations_with_the_oracle_share_forwards_too(tiny: Tiny) -> None:
    monitors = [AnswerLikelihood(1), OracleDistance(1), AnswerStatistics(["safety"], 1)]
    trainer = fitted(tiny, Counts(1), *monitors)
    assert trainer.run_dir is not None and trainer.results is not None
    table = read_table(trainer.run_dir / STEPS)
    runs = table[table["metric"] == "mine/runs"]["value"].tolist()
    data = trainer.results.data
    sets = [data.row_set(name)[1] for name in ("safety", "math:train", "math:heldout")]
    assert runs[2] - runs[1] == sum(-(-len(rows) // 3) for rows in sets) + 1


def test_two_monitors_with_one_metric_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"found 2 AnswerLikelihood monitors, expected one: their"):
        fitted(tiny, AnswerLikelihood(1), AnswerLikelihood(2, limit=4), oracle=False)
    assert not (tiny.root / "store").exists()
    with pytest.raises(InputError, match=r"found two monitors with the metric 'probability/math'"):
        fitted(tiny, AnswerStatistics(["math"]), AnswerStatistics(["math"], 1), oracle=False)


EVERYTHING: list[Any] = [
    lambda: LabelLikelihood(1, limit=3),
    lambda: AnswerLikelihood(2),
    lambda: OracleDistance(1, limit=5),
    lambda: OracleDistance(2, groups={"others": ["safety", "others"]}, limit=3),
    lambda: AnswerStatistics(["safety", "others"], every_n_steps=0),
    lambda: Membership("others", every_n_steps=0),
    lambda: Memorization("math", max_new_tokens=2, limit=2),
    lambda: TOFU(**SUITE),
]


@pytest.mark.slow
def test_limits_and_steps_of_monitors_may_differ(tiny: Tiny) -> None:
    """Monitors together give the same values as each monitor alone."""
    together = final(fitted(tiny.below("all"), *(make() for make in EVERYTHING)), STEPS)
    for number, make in enumerate(EVERYTHING):
        alone = final(fitted(tiny.below(str(number)), make()), STEPS)
        assert together[alone.index].to_numpy() == pytest.approx(alone.to_numpy(), abs=1e-9)
    assert together.notna().all()


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true"])
def test_all_monitors_in_other_precisions(tiny: Tiny, precision: str) -> None:
    given: dict[str, Any] = {
        "order": PATH,
        "eval_sets": probes(tiny),
        "unlearn": Recipe(lr=5e-3, steps=1, batch_size=4),
    }
    monitors = [make() for make in EVERYTHING]
    oracle = tiny.trainer(monitors, precision=precision)
    oracle.fit(tiny.module(), tiny.datamodule(**given, oracle=True))
    trainer = tiny.trainer([GA(), *monitors], precision=precision)
    trainer.fit(tiny.module(), tiny.datamodule(**given))
    assert trainer.run_dir is not None
    steps = read_table(trainer.run_dir / STEPS)
    assert steps["value"].notna().all() and "kl/forget" in set(steps["metric"])


@pytest.mark.slow
def test_validate_runs_all_monitors_with_the_oracle(tiny: Tiny) -> None:
    trainer = fitted(tiny, *(make() for make in EVERYTHING))
    assert trainer.results is not None
    seen = {name: value for step, name, value in trainer.results.steps if step == 2}
    data = tiny.datamodule(order=PATH, eval_sets=probes(tiny), eval_batch_size=3)
    data.unlearn = Recipe(lr=5e-3, steps=2, batch_size=4)
    trainer = tiny.trainer([GA(), *(make() for make in EVERYTHING)], **EXACT)
    found = trainer.validate(tiny.module(), data)
    assert found == pytest.approx(seen, abs=1e-9)
    # The oracle does not depend on the method.
    for stage in ("base", "safety", "math"):
        monitors = [make() for make in EVERYTHING]
        found = tiny.trainer(monitors, **EXACT).validate(tiny.module(), data, stage)
        assert {"distance/forget", "privleak/gradient_norm"} <= set(found)


def test_gradient_norms_of_the_base_as_oracle(tiny: Tiny) -> None:
    trainer = tiny.trainer([GA(), Membership("others")])
    data = tiny.datamodule(order=["safety"], eval_sets=probes(tiny))
    trainer.fit(tiny.module(), data)
    assert trainer.results is not None
    assert trainer.results._view is not None
    base = trainer.results._view[1].oracle
    assert base is not None and base.gradient_norms("safety").min() > 0
    alone = tiny.datamodule(order=["safety"], eval_sets=probes(tiny), oracle=True)
    assert tiny.trainer([AnswerLikelihood()]).validate(tiny.module(), alone)


def test_statistics_of_several_sets(tiny: Tiny, tmp_path: Path) -> None:
    monitor = AnswerStatistics(["safety", "math:train", "facts"], metrics=["probability", "min_k"])
    steps = final(fitted(tiny, monitor, oracle=False), STEPS)
    kinds = {f"{m}/{s}" for m in monitor.metrics or [] for s in ("safety", "math-train", "facts")}
    assert set(steps.index) == kinds
