"""Models and adapters trained elsewhere with transformers and PEFT are unlearned and measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_stages import Tiny
from trained_elsewhere import mean_log_prob, train_elsewhere
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn import NPO, AnswerLikelihood, Membership, OracleDistance, Recipe
from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.cli.main import main
from lightning_unlearn.storage.records import read_table

ROOT = Path(__file__).parents[2]
STAGES = ("inst", "safety")


def rows_of(tiny: Tiny, name: str) -> list[dict[str, str]]:
    lines = (tiny.data / f"{name}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{"prompt": row["question"], "answer": row["answer"]} for row in rows]


@pytest.fixture(scope="module")
def elsewhere(shared_tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models that have learned inst, then safety: merged, as states of one adapter, stacked."""
    folder = tmp_path_factory.mktemp("elsewhere")
    inst, safety = (rows_of(shared_tiny, name) for name in STAGES)
    base, made = shared_tiny.base, {}
    made["inst"] = train_elsewhere(base, inst, folder / "inst", "adapter", epochs=25)
    more: dict[str, Any] = {"adapter": made["inst"], "epochs": 25}
    made["safety"] = train_elsewhere(base, safety, folder / "safety", "adapter", **more)
    made["merged"] = train_elsewhere(base, safety, folder / "merged", "merged", **more)
    merge(base, made["inst"], folder / "after inst")
    rank = {"r": 2, "lora_alpha": 6}
    made["on top"] = train_elsewhere(
        folder / "after inst", safety, folder / "on top", "adapter", lora=rank, epochs=25
    )
    made["both"] = merge(folder / "after inst", made["on top"], folder / "both")
    return made


def merge(base: str | Path, adapter: str, folder: Path) -> str:
    """Write a model with an adapter merged into it, by PEFT."""
    lm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), adapter)
    lm.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(base)).save_pretrained(folder)
    return str(folder)


def log_prob(folder: str, rows: list[dict[str, str]]) -> float:
    """The mean log-probability per answer token by transformers alone."""
    lm = AutoModelForCausalLM.from_pretrained(folder)
    return mean_log_prob(lm, AutoTokenizer.from_pretrained(folder), rows)


def forms(tiny: Tiny, made: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The same knowledge in every form; the last of each adapter path is a model of its own."""
    states = {name: made[name] for name in STAGES}
    stacked = {"inst": made["inst"], "safety": made["on top"]}
    return {
        "merged": {"base": made["merged"]},
        "adapter": {"base": made["safety"]},
        "states": {"adapters": states},
        "stacked": {"adapters": stacked, "stacked": True},
    }


@pytest.mark.parametrize("form", ["merged", "adapter", "states", "stacked"])
def test_what_was_learned_elsewhere_is_unlearned_at_once(
    tiny: Tiny, elsewhere: dict[str, str], form: str
) -> None:
    """Measured before as transformers measures the merged model, and forgotten after."""
    rows = rows_of(tiny, "safety")
    merged = elsewhere["both" if form == "stacked" else "merged"]
    trainer = tiny.trainer([NPO(), AnswerLikelihood(2), OracleDistance(2)])
    module = tiny.module(**forms(tiny, elsewhere)[form], save_merged=True)
    fast = Recipe(lr=1e-2, epochs=2, batch_size=4)
    data = tiny.datamodule(learned=list(STAGES), order=[], unlearn=fast)
    assert any("name that with oracle: {base: ORACLE}" in n for n in notes(trainer, module, data))
    trainer.fit(module, data)
    assert trainer.trained_stages == ["unlearn"] and trainer.results is not None
    assert trainer.run_dir is not None
    before, after = trainer.results.first_and_last()["answers/safety"]
    known = log_prob(merged, rows)
    assert before == pytest.approx(known, abs=1e-4)
    assert known > log_prob(str(tiny.base), rows) + 2
    assert after < before - 0.1
    assert log_prob(str(trainer.run_dir / "merged"), rows) == pytest.approx(after, abs=1e-4)
    run = json.loads((trainer.run_dir / "run.json").read_text())
    assert (run["path"], run["position"], run["learned"]) == ("inst-safety", 2, list(STAGES))
    assert trainer.run_dir.name == "p2_inst-safety_s0"
    assert (trainer.run_dir / "learn").is_dir() == (form != "merged")
    records = read_table(trainer.run_dir / "records.parquet")
    study = read_records(records)
    assert set(study.runs["forget"]) == {"safety"}
    again = tiny.trainer([NPO(), AnswerLikelihood(2), OracleDistance(2)])
    other = tiny.module(**forms(tiny, elsewhere)[form])
    again.fit(other, tiny.datamodule(learned=list(STAGES), order=[], unlearn=fast))
    assert again.trained_stages == [], "the same key"
    saved = (m.weights.state_dict(name) for m in (module, other) for name in ("learn", "unlearn"))
    learn, unlearn, *others = saved
    for mine, theirs in zip((learn, unlearn), others, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def notes(trainer: Any, module: Any, data: Any) -> list[str]:
    trainer.verbose = False
    trainer.check(module, data)
    found: list[str] = trainer.data_notes(module, data)
    return found


@pytest.mark.parametrize(
    ("learned", "members", "scores", "is_said"),
    [
        (["safety"], None, None, True),
        (["safety"], "safety:train", ["reference"], True),
        (["safety"], None, ["loss"], False),
        (["safety"], "tofu", None, False),
        ([], None, None, False),
    ],
)
def test_a_base_that_has_learned_the_members_is_no_reference_for_membership(
    tiny: Tiny, learned: list[str], members: str | None, scores: list[str] | None, is_said: bool
) -> None:
    """Without the note, an AUC of 0.5 before unlearning looks like rows never learned."""
    monitor = Membership("math:heldout", members, scores=scores)
    found = notes(tiny.trainer([NPO(), monitor]), tiny.module(), tiny.datamodule(learned=learned))
    wanted = "reference compares with model.base, which has learned 'safety"
    assert any(wanted in note for note in found) == is_said


def test_the_files_of_a_run_open_in_peft(tiny: Tiny, elsewhere: dict[str, str]) -> None:
    """As the README says: learn and unlearn together are the model after unlearning."""
    trainer = tiny.trainer([NPO(), AnswerLikelihood()])
    trainer.fit(
        tiny.module(base=elsewhere["safety"]), tiny.datamodule(learned=["safety"], order=[])
    )
    assert trainer.run_dir is not None and trainer.results is not None
    base = AutoModelForCausalLM.from_pretrained(tiny.base)
    model = PeftModel.from_pretrained(base, trainer.run_dir / "learn", adapter_name="learn")
    model.load_adapter(trainer.run_dir / "unlearn", adapter_name="unlearn")
    model.base_model.set_adapter(["learn", "unlearn"])
    found = mean_log_prob(model, AutoTokenizer.from_pretrained(tiny.base), rows_of(tiny, "safety"))
    _, after = trainer.results.first_and_last()["answers/safety"]
    assert found == pytest.approx(after, abs=1e-4)


def test_the_shipped_configuration_runs_with_a_model_and_rows_of_ones_own(
    tiny: Tiny,
    elsewhere: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny.root)
    for name, stage in (("secrets", "safety"), ("kept", "inst")):
        Path(f"{name}.jsonl").write_text((tiny.data / f"{stage}.jsonl").read_text())
    config, small = str(ROOT / "configs" / "own-model.yaml"), ["--trainer.accelerator", "cpu"]
    command = ["fit", "--config", config, "--model.base", elsewhere["safety"], *small]
    assert main([*command, "--data.unlearn.lr", "1e-2"]) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "Path: secrets → unlearn secrets (NPO)" in text
    assert "Learned by the base model: secrets; to train: unlearn." in text
    assert f"Loading the weights of {tiny.base} with the adapter {elsewhere['safety']} ..." in text
    (run,) = Path("runs/NPO").iterdir()
    table = read_table(run / "records.parquet").set_index(["metric", "step"])["value"]
    assert table["answers/secrets", 0] > table["answers/secrets", 5] + 0.5
    assert ("exact_memorization/kept", 5) in table
    assert main(["status", str(run)]) == 0
    assert main(["validate", *command[1:], "--stage", "base"]) == 0
    assert main([*command[:3], "--model.base", "./my-model"]) == 2
    assert "model.base: found './my-model', which is not a folder" in capsys.readouterr().err


def test_the_readme_shows_the_shipped_configuration() -> None:
    from yaml import safe_load

    text = (ROOT / "README.md").read_text().partition("## Your own fine-tuned model")[2]
    shown = text.partition("```yaml\n")[2].partition("```")[0]
    assert len(shown.splitlines()) == 10
    shown, shipped = safe_load(shown), safe_load((ROOT / "configs/own-model.yaml").read_text())
    assert (shown["model"], shown["data"]) == (shipped["model"], shipped["data"])
    names = (
        [c["class_path"] if isinstance(c, dict) else c for c in s["trainer"]["callbacks"]]
        for s in (shown, shipped)
    )
    assert len({tuple(own) for own in names}) == 1
