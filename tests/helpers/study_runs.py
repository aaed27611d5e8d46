"""Studies of tiny stages, run in this process."""

from typing import Any

from rich.console import Console
from tiny_stages import Tiny, digests
from torch import Tensor

from lightning_unlearn import LogProbs, Unlearning
from lightning_unlearn.storage.records import EXAMPLES, STEPS
from lightning_unlearn.storage.run_folders import ABOUT
from lightning_unlearn.study.runner import Study, StudyResult
from lightning_unlearn.study.spec import StudySpec

PATHS = [["tofu", "safety"], ["safety", "tofu"]]


TABLES = ("report/table.md", "report/table.csv", STEPS, EXAMPLES)


class Breaks(Unlearning):
    """Raises in its second step."""

    uses_reference = False

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        self._calls += 1
        if self._calls == 2:
            raise RuntimeError("out of [memory]")
        return policy.sum


def method(name: str, **unlearn: Any) -> dict[str, Any]:
    return {"callback": {"class_path": name}, "unlearn": unlearn}


METHODS = {
    "GA": method("GA"),
    "NPO": method("NPO"),
    "Breaks": method("study_runs.Breaks"),
    "Diverges": method("GA", lr=1e30),
}


def spec_of(tiny: Tiny, *methods: str, **changes: Any) -> StudySpec:
    given: dict[str, Any] = {
        "name": "small",
        "fit": tiny.fit(),
        "methods": {label: METHODS[label] for label in methods or ("GA", "NPO")},
        "paths": PATHS,
    }
    return StudySpec(**{**given, **changes})


def studied(
    spec: StudySpec, tiny: Tiny, only: str | None = None, figures: bool = False
) -> tuple[StudyResult, str]:
    """Run a study, and what it said; figures would take longer than the study."""
    tiny.root.mkdir(exist_ok=True)
    with (tiny.root / "said").open("w", encoding="utf-8") as said:
        result = Study(spec, console=Console(file=said, width=500), figures=figures).run(only)
    return result, (tiny.root / "said").read_text()


def outcome(tiny: Tiny) -> dict[str, dict[str, str]]:
    """Everything that two equal studies share."""
    folder = tiny.root / "study"
    runs = [file.parent for file in folder.rglob(ABOUT)]
    found = {str(run.relative_to(folder)): digests(run, "learn", "unlearn") for run in runs}
    found["tables"] = digests(folder, *TABLES)
    assert len(found["tables"]) == len(TABLES)
    return found
