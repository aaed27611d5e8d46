"""An oracle that is a model of its own: the same values as the stored oracle of equal weights."""

import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from study_runs import spec_of, studied
from tiny_models import tiny_lm
from tiny_stages import Tiny
from transformers import AutoConfig, AutoTokenizer

from lightning_unlearn import (
    NPO,
    TOFU,
    CausalLM,
    EvalSet,
    InputError,
    LoRA,
    Membership,
    ModelView,
    Monitor,
    Oracle,
    OracleDistance,
    Recipe,
    RowRequest,
    StagedTrainer,
)
from lightning_unlearn.metrics import KLToOracle
from lightning_unlearn.monitors.oracle_view import OracleView
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table

PATH = ["safety", "math"]
EXACT: dict[str, Any] = {"precision": "64-true"}
ADAPTERS = LoRA(rank=4, alpha=8)


def given(tiny: Tiny, **changes: Any) -> dict[str, Any]:
    """Data with a set for TOFU: three steps of unlearning."""
    file = tiny.root / "tofu-rows.jsonl"
    rows = [json.loads(line) for line in (tiny.data / "tofu.jsonl").read_text().splitlines()][:4]
    wrong = ["In the town of Port pencil.", "Nowhere."]
    rows = [{**row, "paraphrase": f"Born: {row['answer']}", "wrong": wrong} for row in rows]
    tiny.root.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"paraphrase": "paraphrase", "alternatives": "wrong"}
    sets = {"asked": EvalSet(str(file), **columns), "kept": EvalSet(str(file), limit=3, **columns)}
    unlearn = Recipe(lr=5e-3, steps=3, batch_size=4)
    return {"order": PATH, "unlearn": unlearn, "eval_sets": sets, **changes}


def watch() -> list[Monitor]:
    """All monitors that compare with the oracle; two sizes of one row set."""
    return [
        OracleDistance(2, limit=5),
        TOFU("asked", "kept", max_new_tokens=2),
        Membership("asked", members="math:train", limit=4),
    ]


def unlearned(tiny: Tiny, oracle: Any = None, *more: Monitor, **options: Any) -> StagedTrainer:
    options = {**EXACT, **options}
    order = options.pop("order", PATH)
    made = Oracle(**oracle) if isinstance(oracle, dict) else oracle
    trainer = tiny.trainer([NPO(), *(more or watch())], oracle=made, **options)
    trainer.fit(tiny.module(lora=ADAPTERS), tiny.datamodule(**given(tiny, order=order)))
    return trainer


def values(trainer: StagedTrainer, file: str = EXAMPLES) -> pd.Series:
    assert trainer.run_dir is not None
    table = read_table(trainer.run_dir / file)
    keys = [name for name in ("step", "metric", "example") if name in table.columns]
    return table.set_index(keys)["value"].sort_index()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Tiny) -> Any:
    """A run compared with the stored oracle, and that oracle as an adapter and merged."""
    tiny = Tiny(shared_tiny.base, shared_tiny.data, tmp_path_factory.mktemp("stored"))
    oracle = tiny.trainer([], **EXACT)
    module = tiny.module(lora=ADAPTERS)
    oracle.fit(module, tiny.datamodule(**given(tiny), oracle=True))
    assert oracle.run_dir is not None
    module.weights.save_merged(tiny.root / "merged")
    return tiny, unlearned(tiny), oracle.run_dir / "learn", tiny.root / "merged"


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_all_values_equal_those_of_the_stored_oracle(stored: Any, form: str) -> None:
    tiny, first, adapter, merged = stored
    folder = adapter if form == "adapter" else merged
    other = unlearned(tiny.below(form), {"base": str(folder)})
    for file in (EXAMPLES, STEPS):
        expected, found = values(first, file), values(other, file)
        assert list(found.index) == list(expected.index)
        kinds = {index[1] for index in found.index}
        assert {"kl/forget", "overshoot/retain", "distance/heldout"} <= kinds
        if file == STEPS:
            assert {"tofu/forget_quality", "privleak/loss", "privleak/gradient_norm"} <= kinds
        if form == "merged":
            # Its gradient is that of a fresh adapter on the merged weights.
            kept = [index for index in found.index if index[1] != "privleak/gradient_norm"]
            found, expected = found[kept], expected[kept]
        assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-9)


def test_a_study_compares_all_runs_with_the_oracle(stored: Any) -> None:
    tiny, merged = stored[0].below("study"), str(stored[3])
    watched = [{"class_path": "OracleDistance", "init_args": {"limit": 3}}]
    fit = {**tiny.fit(watched, **EXACT), "oracle": {"base": merged}}
    result, said = studied(spec_of(tiny, "GA", fit=fit, seeds=[0, 1], paths=[PATH]), tiny)
    assert said.count("oracle: measured") == 1 and "cannot measure" not in said
    records = read_table(result.folder / STEPS)
    rows = records[records["metric"] == "distance/forget"]
    runs = rows.groupby(["method", "path", "seed"])["step"].unique()
    assert len(runs) == 2 and all(set(steps) == {0, 3} for steps in runs)
    assert set(records["method"]) == {"GA"}


def test_the_oracle_leaves_memory_before_training(
    stored: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, merged = stored[0].below("freed"), str(stored[3])
    seen: list[Any] = []
    real = OracleView.release

    def release(self: OracleView, module: CausalLM) -> Any:
        seen.append(weakref.ref(self.module.network.hf_model))
        return real(self, module)

    class Looks(NPO):
        def loss(self, policy: Any, reference: Any) -> Any:
            assert [network() is None for network in seen] == [True]
            return super().loss(policy, reference)

    monkeypatch.setattr(OracleView, "release", release)
    oracle = Oracle(merged)
    trainer = tiny.trainer([Looks(), OracleDistance(1, limit=3)], oracle=oracle, **EXACT)
    trainer.fit(tiny.module(lora=ADAPTERS), tiny.datamodule(**given(tiny, order=["safety"])))
    assert len(seen) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"oracle: measured \S+merged, which is in memory no more. Kept for the KL: ", said
    )
    found = values(trainer)
    assert len(found.loc[:, "kl/forget"]) == 4 * 3
    assert not list((tiny.root / "store" / "drafts").iterdir())


def test_another_architecture_is_compared(stored: Any, tmp_path: Path) -> None:
    """Its width, its logit scale and its layers are its own; the KL is that of the whole tables."""
    tiny = stored[0].below("granite")
    config = AutoConfig.from_pretrained(tiny.base)
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lm = tiny_lm("granite", vocab_size=1024, hidden_size=24, dtype=torch.float64, **ids)
    lm.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny.base).save_pretrained(tmp_path)
    trainer = unlearned(tiny, {"base": str(tmp_path)}, OracleDistance(limit=2), order=["safety"])
    model = tiny.module(lora=ADAPTERS)
    model.configure_model()
    model.double()
    assert trainer.run_dir is not None
    model.weights.load("learn", trainer.run_dir / "learn")
    rows = tiny.datamodule(**given(tiny, order=["safety"]))
    rows.load_rows(model.pretrained.tokenizer(), 128)
    found = values(trainer)
    for number, example in enumerate(rows.row_set("safety")[1][:2]):
        ids = torch.tensor([[*example.prompt, *example.answer]])
        with torch.no_grad():
            both = [hf(ids, use_cache=False).logits[0] for hf in (model.network.hf_model, lm)]
        own, aim = (t[len(example.prompt) - 1 : -1].log_softmax(-1) for t in both)
        label = torch.tensor(example.answer)[:, None]
        gap = (own - aim).gather(-1, label).mean().item()
        kl = (aim.exp() * (aim - own)).sum(-1).mean().item()
        assert found[0, "kl/forget", number] == pytest.approx(kl, abs=1e-9)
        assert found[0, "distance/forget", number] == pytest.approx(gap**2, abs=1e-9)


class Asks(Monitor):
    """A monitor of a user, which does not say what it requests of the oracle."""

    uses_oracle = True

    def measure(self, view: ModelView) -> dict[str, Any]:
        assert view.oracle is not None
        gap = view.log_probs("safety", 2).mean - view.oracle.log_probs("safety", 2).mean
        return {"gap/safety": gap, "own_kl/safety": view.measure(KLToOracle(), "safety", 2)}

    def requests(self, data: Any) -> list[RowRequest]:
        return [RowRequest("safety", 2, kl=True)]


class Forgets(Asks):
    def measure(self, view: ModelView) -> dict[str, Any]:
        assert view.oracle is not None
        return {"there/safety": view.oracle.log_probs("safety", 2).mean}

    def requests(self, data: Any) -> list[RowRequest]:
        return []

    def measure_oracle(self, oracle: ModelView) -> None:
        oracle.log_probs("safety", 1)


def test_monitors_of_users_need_no_change_or_are_told(stored: Any) -> None:
    tiny, merged = stored[0].below("asks"), {"base": str(stored[3])}
    found = values(unlearned(tiny, merged, Asks(), OracleDistance(limit=2), order=["safety"]))
    for number in (0, 1):
        gap, distance = found[3, "gap/safety", number], found[3, "distance/forget", number]
        assert gap**2 == pytest.approx(distance, abs=1e-9)
        assert found[3, "own_kl/safety", number] == found[3, "kl/forget", number]
    with pytest.raises(InputError, match="values of the oracle which were not measured before"):
        unlearned(tiny, merged, Forgets(), order=["safety"])


def test_a_stopped_run_resumes_with_the_same_values(stored: Any) -> None:
    tiny, merged = stored[0].below("stops"), Oracle(str(stored[3]))

    def run(method: NPO, name: str) -> pd.Series:
        callbacks = [method, OracleDistance(1, limit=2)]
        part = tiny.below(name)
        trainer = part.trainer(callbacks, oracle=merged, checkpoint_steps=1, **EXACT)
        trainer.fit(part.module(lora=ADAPTERS), part.datamodule(**given(tiny, order=["safety"])))
        return values(trainer)

    class Stops(NPO):
        def loss(self, policy: Any, reference: Any) -> Any:
            if not (tiny.root / "stopped").exists() and self.calls == 2:
                (tiny.root / "stopped").touch()
                raise KeyError("stop")
            self.calls += 1
            return super().loss(policy, reference)

        calls = 0

    with pytest.raises(KeyError, match="stop"):
        run(Stops(), "cut")
    assert run(Stops(), "cut").equals(run(Stops(), "whole"))


def test_validate_compares_with_the_oracle(stored: Any) -> None:
    tiny, first, _, merged = stored
    trainer = tiny.trainer([NPO(), OracleDistance(limit=5)], oracle=Oracle(str(merged)), **EXACT)
    means = trainer.validate(tiny.module(lora=ADAPTERS), tiny.datamodule(**given(tiny)))
    last = values(first, STEPS)[3]
    assert means["kl/forget"] == pytest.approx(last["kl/forget"], abs=1e-9)


def test_a_study_does_not_train_oracles_too(stored: Any) -> None:
    tiny, merged = stored[0].below("two"), str(stored[3])
    fit = {**tiny.fit(), "oracle": {"base": merged}}
    message = "oracle: found true with oracle.base " + merged
    with pytest.raises(InputError, match=re.escape(message)):
        studied(spec_of(tiny, "GA", fit=fit, oracle=True), tiny)


def test_values_that_are_not_finite_are_refused(stored: Any, tmp_path: Path) -> None:
    """Finite weights, whose products are not."""
    tiny, folder = stored[0].below("infinite"), tmp_path / "oracle"
    shutil.copytree(tiny.base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    trainer = tiny.trainer([NPO(), OracleDistance(limit=2)], oracle=Oracle(str(folder)))
    data = tiny.datamodule(**given(tiny, order=["safety"]))
    with pytest.raises(InputError, match=r"^oracle\.base: "):
        trainer.fit(tiny.module(), data)
    assert not (tiny.root / "runs").exists() and not list((tiny.root / "store").glob("*/manifest*"))
