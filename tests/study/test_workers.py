"""Studies in several processes: the same results, also if a process dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from rich.console import Console
from study_runs import outcome, spec_of, studied
from tiny_stages import Tiny

from lightning_unlearn import InputError
from lightning_unlearn.storage.entry_status import read_status
from lightning_unlearn.study.executors.local import LocalExecutor, share_gpus
from lightning_unlearn.study.plan import FILE
from lightning_unlearn.study.runner import Study, StudyResult
from lightning_unlearn.study.spec import StudySpec

TESTS = Path(__file__).parents[1]
SOUGHT = (TESTS / "study", TESTS / "helpers", TESTS, TESTS.parent)
pytestmark = pytest.mark.long

# Number of unlearning steps that no machine finishes during a test.
LONG = 40_000
HEADS: list["subprocess.Popen[str]"] = []


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let workers find the methods of the tests, limit their threads, and end them afterwards."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, SOUGHT)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    while HEADS:
        head = HEADS.pop()
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGKILL)
            head.communicate()


def worked(spec: StudySpec, tiny: Tiny, workers: LocalExecutor) -> tuple[StudyResult, str]:
    """Run a study with workers; return its result and its output."""
    tiny.root.mkdir(exist_ok=True)
    with (tiny.root / "said").open("w", encoding="utf-8") as said:
        result = Study(spec, workers, Console(file=said, width=500), figures=False).run()
    return result, (tiny.root / "said").read_text()


class Suicidal(Callback):
    """A method that kills its process in the first unlearning step of one path."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.stage == "unlearn" and trainer.results.data.path[0] == "tofu":
            os.kill(os.getpid(), signal.SIGKILL)


class Murderous(LocalExecutor):
    """An executor that kills the worker of a task after some time, a given number of times."""

    times = 1

    def _start(self, number: int) -> Any:
        process = super()._start(number)
        make = process.make

        def make_and_die(key: str) -> Any:
            if self.times > 0 and number == 1:
                type(self).times -= 1
                threading.Timer(0.05, process.kill).start()
            return make(key)

        process.make = make_and_die  # type: ignore[method-assign]
        return process


@pytest.mark.slow
def test_workers_give_the_results_of_one_process_also_if_one_is_killed(tiny: Tiny) -> None:
    alone, together = tiny.below("alone"), tiny.below("together")
    options: dict[str, Any] = {"oracle": True}
    studied(spec_of(alone, "GA", "Breaks", **options), alone)
    spec = spec_of(together, "GA", "Breaks", **options)
    result, said = worked(spec, together, Murderous(spec, 2))
    assert outcome(together) == outcome(alone)
    assert [label.split("/")[0] for label in result.failed] == ["Breaks"] * 2
    assert "Breaks/p2_tofu-safety_s0: out of [memory]" in said
    assert 'raise RuntimeError("out of [memory]")' in said
    assert Murderous.times == 0


@pytest.mark.slow
def test_a_task_that_kills_every_worker_fails_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Murderous, "times", 0)
    spec = spec_of(tiny, "GA", fit=tiny.fit([{"class_path": "test_workers.Suicidal"}]))
    result, said = worked(spec, tiny, LocalExecutor(spec, 1))
    assert list(result.failed) == ["GA/p2_tofu-safety_s0"]
    assert said.count("the worker died (SIGKILL); its output is in") == 1
    assert said.count("(3 attempts failed)") == 1
    assert "✓ [2/6] tofu-safety (seed 0)" in said
    assert "✓ [6/6] GA/p1_safety-tofu_s0" in said


@pytest.mark.slow
def test_errors_of_planning_are_the_same_from_a_worker(tiny: Tiny) -> None:
    fit = tiny.fit()
    fit["data"]["stages"]["tofu"]["batch_size"] = 7
    fit["data"]["micro_batch_size"] = 2
    spec = spec_of(tiny, fit=fit)
    message = r"^data\.stages\.tofu\.batch_size: found 7, which is not divisible by "
    with pytest.raises(InputError, match=message):
        worked(spec, tiny, LocalExecutor(spec, 2))
    with pytest.raises(InputError, match=message):
        studied(spec, tiny)
    assert [file.name for file in tiny.root.iterdir()] == ["said"]


def test_gpus_are_distributed_over_the_workers() -> None:
    def shares(*arguments: Any) -> list[str | None]:
        return [share.get("CUDA_VISIBLE_DEVICES") for share in share_gpus(*arguments)]

    assert shares([], 2, None) == shares([], 2, 0) == [None, None]
    assert shares(["0", "1", "2"], 2, None) == ["0", "1"]
    assert shares(["4", "5", "6", "7"], 2, 2) == ["4,5", "6,7"]
    assert shares(["GPU-a", "GPU-b"], 2, 1) == ["GPU-a", "GPU-b"]
    assert shares(["0"], 2, 0) == ["", ""]
    with pytest.raises(InputError, match="workers: found 2, expected at most 1, the number of"):
        share_gpus(["0"], 2, None)
    with pytest.raises(
        InputError, match=r"gpus_per_worker: found 2 for 2 workers, expected at most"
    ):
        share_gpus(["0", "1", "2"], 2, 2)
    with pytest.raises(InputError, match=r"expected at most 0 GPUs in all \(none\)"):
        share_gpus([], 1, 1)


def study_file(tiny: Tiny, name: str, **changes: Any) -> Path:
    """Write a study file whose unlearning takes a while."""
    tiny.root.mkdir(exist_ok=True)
    fit = tiny.fit()
    fit["data"]["unlearn"] |= {"steps": LONG, "lr": 1e-6}
    fit["trainer"]["callbacks"] = [{"class_path": "AnswerLikelihood"}]
    methods = {"GA": {"callback": "GA"}}
    content = {"fit": fit, "methods": methods, "paths": [["safety"], ["tofu", "safety"]]}
    file = tiny.root / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**content, **changes}))
    return file


def started(file: Path, *arguments: str) -> "subprocess.Popen[str]":
    head = subprocess.Popen(
        [sys.executable, "-m", "lightning_unlearn", "study", "--config", str(file), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Python handles Ctrl-C unless it was started with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    HEADS.append(head)
    return head


def until(happened: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def unlearning(tiny: Tiny) -> list[int]:
    """Return the processes that are unlearning."""
    store, pids = tiny.root / "store", []
    for file in store.glob("status/*.json"):
        note = read_status(store, file.stem)
        if note is not None and note.state == "running" and note.total == LONG and note.step:
            pids.append(note.pid)
    return pids


# A process needs seconds to import torch; both signals are handled alike with and without workers.
@pytest.mark.parametrize(
    ("number", "workers", "code"),
    [
        pytest.param(signal.SIGINT, 0, 130, id="ctrl-c-0", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, 143, id="sigterm-2", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 2, 129, id="sighup-2", marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_after_the_step_and_the_message_says_how_to_resume(
    tiny: Tiny, number: int, workers: int, code: int
) -> None:
    head = started(study_file(tiny, "long"), "--workers", str(workers))
    until(lambda: len(unlearning(tiny)) == max(1, workers))
    at_work = unlearning(tiny)
    os.kill(head.pid, number)
    _, said = head.communicate(timeout=300)
    assert head.returncode == code, said
    assert "Run the same command again to resume." in said and "Traceback" not in said
    until(lambda: not any(alive(pid) for pid in at_work), 120)
    kept = list((tiny.root / "store" / "checkpoints").iterdir())
    logs = {log.name: log.read_text()[-2000:] for log in tiny.root.glob("**/worker-*.log")}
    states = [file.read_text() for file in (tiny.root / "store" / "status").glob("*.json")]
    assert len(kept) == max(1, workers), (said, logs, states)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(tiny: Tiny) -> None:
    head = started(study_file(tiny, "long"), "--workers", "2")
    until(lambda: len(unlearning(tiny)) == 2)
    at_work = unlearning(tiny)
    os.killpg(head.pid, signal.SIGKILL)
    head.communicate(timeout=300)
    until(lambda: not any(alive(pid) for pid in at_work), 120)
    # They stopped after a step and wrote a checkpoint.
    assert len(list((tiny.root / "store" / "checkpoints").iterdir())) == 2
    assert (tiny.root / "study" / FILE).is_file()


@pytest.mark.slow
def test_a_worker_may_have_several_processes(tiny: Tiny) -> None:
    """With DDP inside each worker, all processes of a worker follow the same requests."""
    alone, together = tiny.below("alone"), tiny.below("together")
    ddp = {"devices": 2, "strategy": "ddp"}
    for place, executor in ((alone, None), (together, 1)):
        place.root.mkdir()
        spec = spec_of(place, "GA", fit=place.fit(**ddp))
        if executor is None:
            content = {"fit": spec.fit, "methods": spec.methods, "paths": spec.paths}
            content["figures"] = False
            file = place.root / "small.yaml"
            file.write_text(yaml.safe_dump(content, sort_keys=False))
            head = started(file)
            _, said = head.communicate(timeout=600)
            assert head.returncode == 0, said
        else:
            result, said = worked(spec, place, LocalExecutor(spec, executor))
            assert not result.failed, said
    found, expected = outcome(together), outcome(alone)
    assert found == expected
