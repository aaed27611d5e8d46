"""Curves, read from the event files as TensorBoard reads them."""

import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.metadata import (  # type: ignore[import-untyped]
    parse_session_start_info_plugin_data,
)
from tiny_stages import WATCHED, Tiny

from lightning_unlearn import NPO, AnswerLikelihood, LabelLikelihood, MathAccuracy, StagedTrainer
from lightning_unlearn.analysis.divergence import divergences
from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.monitors import OracleDistance
from lightning_unlearn.storage.event_files import charts_of, final_values, scalar, write_events
from lightning_unlearn.storage.records import read_table
from lightning_unlearn.storage.seals import seal_values
from lightning_unlearn.study.live_curves import DivergenceCurves
from lightning_unlearn.study.plan import StudyPlan
from lightning_unlearn.study.runner import Study, StudyResult
from lightning_unlearn.study.spec import StudySpec

PATH = ["math", "safety"]


def fitted(tiny: Tiny, name: str | None = None) -> StagedTrainer:
    method = NPO()
    if name is not None:
        method.name = name
    monitors = [LabelLikelihood(2), AnswerLikelihood(2), MathAccuracy(max_new_tokens=3)]
    trainer = tiny.trainer([method, *monitors], logger=True)
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    return trainer


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    (file,) = run.glob("events.out.tfevents.*")
    return points(file)


def points(place: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(place), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def layout(run: Path) -> Any:
    events = EventAccumulator(str(run))
    events.Reload()
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    (found,) = events.Tensors("custom_scalars__config__")
    return Layout.FromString(found.tensor_proto.string_val[0])


def check(trainer: StagedTrainer) -> dict[str, list[tuple[int, float]]]:
    """Check that the points of all curves are exactly the recorded values, each one once."""
    assert trainer.run_dir is not None and trainer.method is not None
    seen = curves(trainer.run_dir)
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in read_table(trainer.run_dir / "records.parquet").itertuples():
        expected.setdefault(f"{trainer.method.name}/{row.metric}", []).append((row.step, row.value))
    for row in read_table(trainer.run_dir / "training.parquet").itertuples():
        expected.setdefault(f"train/{row.stage}/loss", []).append((row.step, row.loss))
        expected.setdefault(f"train/{row.stage}/lr", []).append((row.step, row.lr))
    assert set(seen) == set(expected)
    for tag, points in expected.items():
        assert [step for step, _ in seen[tag]] == [step for step, _ in points], tag
        assert [v for _, v in seen[tag]] == pytest.approx([v for _, v in points], rel=1e-6), tag
    return seen


def test_curves_are_the_records(tiny: Tiny) -> None:
    seen = check(fitted(tiny))
    assert set(seen) == {
        "NPO/forget/label",
        "NPO/forget/paraphrases",
        "NPO/forget/mean",
        "NPO/forget/base",
        "NPO/answers/math",
        "NPO/answers/safety",
        "NPO/accuracy/math",
        "NPO/truncated/math",
        *(f"train/{stage}/{what}" for stage in (*PATH, "unlearn") for what in LINES),
    }
    assert [step for step, _ in seen["NPO/forget/label"]] == [0, 2, 3]


LINES = ("loss", "lr")


def test_a_second_run_does_not_double_points(tiny: Tiny) -> None:
    first = fitted(tiny)
    before = check(first)
    second = fitted(tiny)
    assert second.trained_stages == [] and second.run_dir == first.run_dir
    assert check(second) == before


def test_the_layout_shows_the_measured_metrics(tiny: Tiny) -> None:
    trainer = fitted(tiny, name="NPO+0.5")
    assert trainer.run_dir is not None
    (category,) = layout(trainer.run_dir).category
    assert category.title == "NPO+0.5"
    tags = list(check(trainer))
    hits: Counter[str] = Counter()
    for chart in category.chart:
        for pattern in chart.multiline.tag:
            found = [tag for tag in tags if re.match(pattern, tag)]
            assert found, f"{chart.title}: {pattern} shows nothing"
            hits.update(found)
    shown = ("forget/label", "forget/paraphrases", "answers/math", "accuracy/math")
    assert hits == Counter(f"NPO+0.5/{measure}" for measure in shown)


def test_probes_have_a_chart_each_and_paths_the_same_ones() -> None:
    measures = ["forget/mean", "answers/b", "answers/a", "answers/f"]
    measures += [f"{kind}/{probe}" for kind in ("distance", "kl", "overshoot") for probe in "xy"]
    charts = charts_of("M", [*measures, "margin/x"], "f")
    assert {title: patterns for title, (_, patterns) in charts.items()} == {
        "utility: answers of the other stages": ["M/answers/(a|b)$"],
        "distance to the oracle: x": ["M/distance/(x)$"],
        "distance to the oracle: y": ["M/distance/(y)$"],
        "KL from the oracle: x": ["M/kl/(x)$"],
        "KL from the oracle: y": ["M/kl/(y)$"],
        "share below the oracle: x": ["M/overshoot/(x)$"],
        "share below the oracle: y": ["M/overshoot/(y)$"],
    }
    assert charts_of("M", [*measures[:1], *reversed(measures[1:4]), *measures[4:]], "f") == charts


def test_final_values_are_finite_and_need_two_steps_where_they_are_changes() -> None:
    ends = {"forget/mean": (-1.0, -3.0), "answers/a": (-1.0, math.nan), "answers/f": (0.0, 0.0)}
    ends |= {"accuracy/a": (0.5, 0.25), "distance/forget": (4.0, math.inf), "kl/x": (1.0, 1.0)}
    assert final_values(ends, "f", True) == {
        "final/forget score paper": 2.0,
        "final/accuracy a": 0.25,
    }
    assert final_values(ends, "f", False) == {"final/accuracy a": 0.25}


def test_an_interrupted_run_has_its_curves_once(tiny: Tiny) -> None:
    """The curves of an interrupted run are written again and do not appear twice."""
    first = fitted(tiny)
    assert first.run_dir is not None
    about = json.loads((first.run_dir / "run.json").read_text())
    entry = first.store.folder / about["stages"][-1]["key"]
    entry.rename(entry.with_name("gone"))
    (first.run_dir / "run.json").write_text(json.dumps(seal_values({**about, "finished": False})))
    second = fitted(tiny)
    assert second.trained_stages == ["unlearn"]
    check(second)


def row(run: Path) -> dict[str, Any]:
    """Return the row of a run in the HParams tab."""
    (file,) = (run / "final").iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert "_hparams_/session_end_info" in events.summary_metadata
    assert "_hparams_/experiment" not in events.summary_metadata
    told = parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in told.items()}


def test_a_finished_run_and_a_replayed_one_have_the_same_row(tiny: Tiny) -> None:
    first = fitted(tiny)
    assert first.run_dir is not None
    said, values = row(first.run_dir), points(first.run_dir / "final")
    assert {name: said[name] for name in ("method", "path", "position", "seed")} == {
        "method": "NPO",
        "path": "math-safety",
        "position": "2",
        "seed": "0",
    }
    assert said["data.unlearn.lr"] == pytest.approx(2e-3) and said["data.unlearn.epochs"] == 1
    assert said["data.unlearn.batch_size"] == 4 and said["model.lora.rank"] == 4
    assert said["trainer.callbacks.beta"] == 0.5 and "lr 0.005" in said["stage math"]
    expected = scores(read_table(first.run_dir / "records.parquet")).iloc[0]
    assert {tag: point for tag, ((_, point),) in values.items()} == pytest.approx(
        {
            "final/forget score paper": expected["forget_score"],
            "final/utility math": expected["math utility"],
            "final/accuracy math": points(first.run_dir)["NPO/accuracy/math"][-1][1],
            "final/label paper": points(first.run_dir)["NPO/forget/label"][-1][1],
        }
    )
    assert {step for ((step, _),) in values.values()} == {3}
    (first.run_dir / "run.json").unlink()
    second = fitted(tiny)
    assert second.trained_stages == [] and second.run_dir == first.run_dir
    assert row(first.run_dir) == said and points(first.run_dir / "final") == values


def test_an_oracle_has_a_row_but_no_charts(tiny: Tiny) -> None:
    trainer = tiny.trainer([LabelLikelihood(2), OracleDistance(2)], logger=True)
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH, oracle=True))
    assert trainer.run_dir is not None
    assert set(points(trainer.run_dir / "final")) == {"final/label paper"}
    said = row(trainer.run_dir)
    assert (said["method"], said["path"]) == ("oracle", "math")
    assert not any(name.startswith(("data.unlearn", "trainer.callbacks")) for name in said)
    events = EventAccumulator(str(trainer.run_dir))
    events.Reload()
    assert "custom_scalars__config__" not in events.Tags()["tensors"]


ORDERS = [["tofu", "math", "safety"], ["tofu", "safety", "math"], ["safety", "tofu", "math"]]
PROBED = [
    *WATCHED,
    {"class_path": "OracleDistance", "init_args": {"every_n_steps": 2, "kl": False}},
]


def studied(tiny: Tiny, only: str | None = None, **changes: Any) -> tuple[StudyResult, str]:
    monitors = changes.pop("monitors", WATCHED)
    given: dict[str, Any] = {
        "name": "small",
        "fit": tiny.fit(monitors, logger=changes.pop("logger", True)),
        "methods": {"GA": {"callback": {"class_path": "GA"}}},
        "paths": ORDERS,
    }
    tiny.root.mkdir(exist_ok=True)
    with (tiny.root / "said").open("w", encoding="utf-8") as said:
        spec = StudySpec(**{**given, **changes})
        study = Study(spec, console=Console(file=said, width=500), figures=False)
        result = study.run(only)
    assert result.failed == {}
    return result, (tiny.root / "said").read_text()


def written(folder: Path) -> dict[str, bytes]:
    files = [file for file in (folder / "divergence").rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "monitors",
    [
        pytest.param(WATCHED, id="answers"),
        pytest.param(PROBED, id="oracle distance", marks=pytest.mark.slow),
    ],
)
def test_the_divergence_curves_equal_those_of_the_report(tiny: Tiny, monitors: list[Any]) -> None:
    result, _ = studied(tiny, monitors=monitors, seeds=[0, 7])
    examples = read_records(read_table(result.folder / "examples.parquet"), "examples")
    measure = "log_likelihood/forget" if monitors is PROBED else "answers/safety"
    (report,) = divergences(examples, measure)
    for place, seed in enumerate([0, 7]):
        seen = points(result.folder / "divergence" / "GA" / f"s{seed}")
        pairs = ["p1 to p2", "p1 to p3", "p2 to p3"]
        assert sorted(seen) == [f"GA/divergence/{pair}" for pair in pairs]
        for pair, expected in zip(pairs, report.paths[:, place], strict=True):
            found = [value for _, value in seen[f"GA/divergence/{pair}"]]
            assert found == pytest.approx(expected.tolist(), rel=1e-6)
        assert {step for curve in seen.values() for step, _ in curve} == {0, 2, 3}
    (category,) = layout(result.folder / "divergence").category
    (chart,) = category.chart
    assert (category.title, chart.title) == ("divergence between paths", "GA")
    assert [pattern for pattern in chart.multiline.tag] == ["GA/divergence/.*$"]


@pytest.mark.slow
def test_a_resumed_study_writes_the_curves_of_an_undisturbed_one(tiny: Tiny) -> None:
    result, _ = studied(tiny, only="path=1")
    assert written(result.folder) == {}
    studied(tiny, only="path=2")
    assert len(written(result.folder)) == 2
    studied(tiny)
    before = written(result.folder)
    assert len(before) == 4
    studied(tiny)
    assert written(result.folder) == before
    # As after a kill between two curves, and with a curve of another study in the folder.
    lost = next(name for name in before if "/GA/" in name)
    (result.folder / lost).unlink()
    strange = result.folder / "divergence" / "GA" / "s0" / "events.out.tfevents.1.0"
    write_events(strange, 0.0, [(0, scalar("GA/divergence/strange", 1.0))])
    studied(tiny)
    assert written(result.folder) == before


@pytest.mark.slow
def test_without_tensorboard_there_are_no_curves(tiny: Tiny) -> None:
    result, _ = studied(tiny, logger=False)
    assert not (result.folder / "divergence").exists()


@pytest.mark.slow
def test_curves_that_cannot_be_written_cause_one_warning(tiny: Tiny) -> None:
    folder = tiny.root / "study"
    folder.mkdir()
    (folder / "divergence").write_text("in the way")
    result, said = studied(tiny)
    assert len(result.runs) == 3
    told = f"{folder / 'divergence'}: the curves of the distance between paths cannot be written: "
    assert said.count(told) == 1


def test_a_damaged_table_of_examples_does_not_end_the_study(tiny: Tiny) -> None:
    result, _ = studied(tiny, only="path=1")
    plan_file = json.loads((result.folder / "study.json").read_text())
    plan = StudyPlan.read(plan_file)
    studied(tiny, only="path=2")
    for file in (result.folder / "divergence").rglob("events*"):
        file.unlink()
    key = plan.trials[0].keys[-1]
    (Path(plan.store) / key / "examples.parquet").write_bytes(b"PAR1")
    said: list[str] = []
    curves = DivergenceCurves(plan, said.append)
    curves.begin()
    curves.add(key)
    assert len(said) == 1 and "curves of the distance between paths cannot be written" in said[0]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Start TensorBoard for a folder; yield its address, or skip the test if it cannot start."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    with (folder.parent / "served").open("w+") as output:
        options = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
        server = subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT)
        try:
            for _ in range(300):
                found = re.search(r"http://127.0.0.1:\d+", Path(output.name).read_text())
                if found or server.poll() is not None:
                    break
                time.sleep(0.2)
            if not found:
                pytest.skip("TensorBoard can't start here.")
            yield found[0]
        finally:
            server.terminate()
            server.wait(30)


def asked(address: str, question: dict[str, Any] | None = None) -> Any:
    data = json.dumps(question).encode() if question is not None else None
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as got:
        return json.loads(got.read())


@pytest.mark.slow
def test_a_running_tensorboard_shows_charts_and_a_table_of_all_methods(tiny: Tiny) -> None:
    methods = {name: {"callback": {"class_path": name}} for name in ("GA", "NPO")}
    sweep = {"data.unlearn.lr": [1e-3, 2e-3]}
    result, _ = studied(tiny, methods=methods, paths=ORDERS[:2], sweep=sweep, oracle=True)
    with served(result.folder) as address:
        for _ in range(150):
            found = asked(
                f"{address}/experiment/defaultExperimentId/data/plugin/hparams/session_groups",
                {"startIndex": 0, "sliceSize": 99, "allowedStatuses": ["STATUS_SUCCESS"]},
            )
            if len(found.get("sessionGroups", [])) == len(result.runs):
                break
            time.sleep(0.2)
        experiment = asked(f"{address}/data/plugin/hparams/experiment", {})
        charts = asked(f"{address}/data/plugin/custom_scalars/layout")
    assert len(found["sessionGroups"]) == 4 * 2 + 1
    methods_seen = Counter(group["hparams"]["method"] for group in found["sessionGroups"])
    assert methods_seen == {"GA": 4, "NPO": 4, "oracle": 1}
    differing = {info["name"] for info in experiment["hparamInfos"] if info["differs"]}
    assert {"method", "path", "position", "data.unlearn.lr"} <= differing
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == [
        "final/forget score paper",
        "final/label paper",
        "final/utility math",
        "final/utility tofu",
    ]
    titles = [category["title"] for category in charts["category"]]
    assert titles == ["GA", "NPO", "divergence between paths"]
