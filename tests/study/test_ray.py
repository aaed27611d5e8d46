"""Studies on a Ray cluster of two real nodes on this machine, one of which is lost."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from study_runs import METHODS, outcome, spec_of, studied
from tiny_stages import Tiny

from lightning_unlearn import GA, InputError
from lightning_unlearn.storage.entry_status import read_status
from lightning_unlearn.study.executors.ray import RayExecutor
from lightning_unlearn.study.runner import Study

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
# Ray does not close its files and sockets.
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.filterwarnings("default")]

TESTS = Path(__file__).parents[1]
SOUGHT = (TESTS / "study", TESTS / "helpers", TESTS, TESTS.parent)
LOST = "NODE_IS_LOST"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a head node without worker nodes; each node runs one task at a time."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, SOUGHT)))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The processes of Ray inherit this variable.
        patch.setenv(LOST, str(tmp_path_factory.mktemp("ray") / "lost"))
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        yield found
        found.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Any]:
    """Start the cluster, without a driver."""
    yield head
    ray.shutdown()


class Waits(GA):
    """GA that waits in its second step until a node is lost."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        end = time.monotonic() + 240
        while pl_module.step == 1 and not Path(os.environ[LOST]).exists():
            assert time.monotonic() < end, "no node was lost"
            time.sleep(0.02)


def running(tiny: Tiny) -> set[int]:
    """Return the processes that are running a task."""
    store = tiny.root / "store"
    notes = [read_status(store, file.stem) for file in store.glob("status/*.json")]
    return {note.pid for note in notes if note is not None and note.state == "running"}


@pytest.mark.exhaustive
def test_a_cluster_gives_the_results_of_one_process_also_if_a_node_is_lost(
    tiny: Tiny, cluster: Any
) -> None:
    alone, together = tiny.below("alone"), tiny.below("together")
    methods = {label: METHODS[label] for label in ("NPO", "Breaks")}
    methods["Waits"] = {"callback": {"class_path": "test_ray.Waits"}}
    specs = []
    for place in (alone, together):
        place.root.mkdir()
        specs.append(spec_of(place, methods=methods, oracle=True))
    lost, is_lost = cluster.add_node(num_cpus=1), Path(os.environ[LOST])
    seen: list[set[int]] = []

    def lose_a_node() -> None:
        end = time.monotonic() + 240
        # Two running tasks mean that both nodes are in use.
        while len(found := running(together)) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        seen.append(found)
        cluster.remove_node(lost, allow_graceful=False)
        is_lost.touch()

    killer = threading.Thread(target=lose_a_node)
    killer.start()
    executor = RayExecutor(specs[1], cluster.address)
    assert executor.workers == 2
    with (tiny.root / "said").open("w", encoding="utf-8") as said:
        study = Study(specs[1], executor, Console(file=said, width=500), figures=False)
        result = study.run()
    killer.join()
    text = (tiny.root / "said").read_text()
    assert len(seen[0]) == 2, "the node was not lost while it worked"
    assert [label.split("/")[0] for label in result.failed] == ["Breaks"] * 2, text
    studied(specs[0], alone)
    assert outcome(together) == outcome(alone)


def test_errors_of_planning_and_requests_that_no_node_can_fulfill(tiny: Tiny, cluster: Any) -> None:
    fit = tiny.fit()
    fit["data"]["forget"] = "nothing"
    spec = spec_of(tiny, fit=fit)
    with pytest.raises(InputError, match=r"^data\.forget: found 'nothing', expected one of the"):
        Study(spec, RayExecutor(spec, cluster.address), Console(quiet=True)).run()
    message = (
        "gpus_per_worker: found 1, expected at most 0, the largest number of GPUs of a machine"
    )
    with pytest.raises(InputError, match=message):
        RayExecutor(spec, cluster.address, gpus=1)


def test_no_cluster_is_an_error_of_the_input(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"^ray: found no cluster at '127.0.0.1:1'"):
        RayExecutor(spec_of(tiny), "127.0.0.1:1")
