"""Identity of a callback: its attributes after construction, its code, the files it reads."""

import functools
import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch import callbacks as known
from tiny_stages import Tiny, results
from torch import nn

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    InputError,
    LogProbs,
    SimNPO,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.storage.callback_identity import (
    callback_identity,
    changes_training,
    constructed,
)

PATH = ["tofu", "safety"]


class Counts(Unlearning):
    """Method that counts its calls, keeps a growing tensor, and uses both in its loss."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.calls = 0
        self.seen: list[float] = []
        self._sum = torch.zeros(2)

    def loss(self, policy: LogProbs, reference: LogProbs) -> torch.Tensor:
        self.calls += 1
        self.seen.append(self.calls / 7)
        self._sum = self._sum + self.calls
        self._generator = torch.Generator()
        return self.beta * (1 + self._sum.mean() + sum(self.seen)) * policy.sum


class Grows(Callback):
    """Callback that raises the learning rate at each step of each stage."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps += 1
        for group in pl_module.optimizers().param_groups:
            group["lr"] = 1e-3 * self.steps


def fit(tiny: Tiny, *callbacks: Callback, order: list[str] = PATH) -> StagedTrainer:
    trainer = tiny.trainer(list(callbacks))
    trainer.fit(tiny.module(), tiny.datamodule(order=order))
    return trainer


def test_values_that_a_callback_learns_are_not_in_its_identity(tiny: Tiny) -> None:
    method, other = Counts(), Grows()
    trainer = fit(tiny, method, other, AnswerLikelihood())
    assert trainer.trained_stages == [*PATH, "unlearn"] and method.calls == 3 and other.steps == 3
    trainer.validate(tiny.module(), tiny.datamodule(order=PATH))
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    assert trainer.trained_stages == []
    again = fit(tiny, method, other, AnswerLikelihood())
    assert again.trained_stages == [] and again.run_dir == trainer.run_dir


def test_a_stage_starts_with_callbacks_as_constructed(tiny: Tiny) -> None:
    """A resumed run equals an uninterrupted one, even if callbacks count steps."""
    whole, parts = tiny.below("whole"), tiny.below("parts")
    expected = fit(whole, Counts(), Grows()).run_dir
    fit(parts, Counts(), Grows(), order=["tofu", "inst", "safety"])
    method, other = Counts(), Grows()
    resumed = fit(parts, method, other)
    assert resumed.trained_stages == ["safety", "unlearn"]
    assert expected is not None and resumed.run_dir is not None
    assert results(resumed.run_dir) == results(expected)
    # A callback of an earlier run starts as constructed too.
    elsewhere = fit(tiny.below("elsewhere"), method, other).run_dir
    assert elsewhere is not None and results(elsewhere) == results(expected)


def test_attributes_that_the_user_sets_later_are_in_the_identity(tiny: Tiny) -> None:
    method = Counts()
    trainer = fit(tiny, method)
    method.beta = 2.0
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    assert trainer.trained_stages == ["unlearn"]
    assert callback_identity(method) == callback_identity(Counts(2.0))
    assert fit(tiny, Counts(2.0)).trained_stages == []


def test_a_shared_list_stays_the_same_object(tiny: Tiny) -> None:
    class Collects(Callback):
        def __init__(self, seen: list[str]) -> None:
            self.seen = seen

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.seen.append(pl_module.stage)

    seen: list[str] = []
    fit(tiny, GA(), Collects(seen))
    assert seen == ["unlearn"]


def keys(tiny: Tiny, *callbacks: Callback) -> list[str]:
    # Some of them write to a logger.
    trainer, module = tiny.trainer(list(callbacks), logger=True), tiny.module()
    data = tiny.datamodule(order=PATH)
    trainer.check(module, data)
    return [stage.key for stage in trainer.plan(module, data)]


class Watches(known.LearningRateMonitor):
    """Subclass of an observer, which may change training."""


class OnlyWatches(Callback):
    changes_training = False

    def __init__(self, places: list[str]) -> None:
        self.places = places


def test_callbacks_that_do_not_change_training_are_in_no_key(tiny: Tiny) -> None:
    plain = keys(tiny, GA())
    onlookers: list[Callback] = [
        known.LearningRateMonitor(),
        known.DeviceStatsMonitor(),
        known.ModelSummary(max_depth=3),
        known.RichModelSummary(),
        known.Timer("00:01:00:00"),
        known.ThroughputMonitor(lambda batch: 1),
        OnlyWatches(["a"]),
    ]
    for callback in onlookers:
        assert keys(tiny, GA(), callback) == plain, callback
    for bar in (known.RichProgressBar(), known.TQDMProgressBar(), known.ProgressBar()):
        assert not changes_training(bar)
    others: list[Callback] = [
        known.EarlyStopping("loss"),
        known.EarlyStopping("loss", patience=4),
        Watches(),
        Grows(),
    ]
    found = [keys(tiny, GA(), callback)[-1] for callback in others]
    assert len({plain[-1], *found}) == len(others) + 1


@pytest.fixture
def project(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a user's folder with a method that imports helpers in many ways."""
    folder = tiny.root / "project"
    (folder / "tools" / "deep").mkdir(parents=True)
    files = {
        "own_helped.py": (
            "import json\nimport numpy\nimport own_first\nfrom tools import second\n"
            "from lightning_unlearn import Unlearning\n"
            "class Helped(Unlearning):\n"
            "    uses_reference = False\n"
            "    def loss(self, policy, reference):\n"
            "        from tools.deep.fourth import four\n"
            "        return four() * policy.sum\n"
        ),
        "own_first.py": "import importlib\nsixth = importlib.import_module('own_sixth')\n",
        "own_sixth.py": "six = 6\n",
        "tools/__init__.py": "",
        "tools/second.py": "from .third import three\nfrom . import deep\n",
        "tools/third.py": "try:\n    import own_missing\nexcept ImportError:\n    three = 3\n",
        "tools/deep/__init__.py": "",
        "tools/deep/fourth.py": "from ..fifth import *\ndef four():\n    return 4\n",
        "tools/fifth.py": "five = 5\n",
        "own_unrelated.py": "seven = 7\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def imported_afresh() -> dict[str, Any]:
    """Compute the identity of the project's method as a new process would."""
    for name in [n for n in sys.modules if n.startswith(("own_", "tools"))]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return callback_identity(importlib.import_module("own_helped").Helped())


def test_every_file_of_the_project_that_a_method_imports_is_in_its_identity(project: Path) -> None:
    first = imported_afresh()
    for file in sorted(project.rglob("*.py")):
        text = file.read_text()
        file.write_text(text + "# edited\n")
        assert (imported_afresh() != first) == (file.name != "own_unrelated.py"), file
        file.write_text(text)
    assert imported_afresh() == first


def test_the_identity_is_that_of_the_code_that_runs(project: Path) -> None:
    """Edits of a file after its import, as in a notebook, do not run."""
    helped = importlib.import_module("own_helped")
    first = callback_identity(helped.Helped())
    for name in ("own_helped.py", "own_sixth.py", "tools/second.py"):
        file = project / name
        file.write_text(file.read_text() + "import own_unrelated\n# edited\n")
        assert callback_identity(helped.Helped()) == first, name
    # A module that is imported later is read at that time.
    (project / "tools" / "fifth.py").write_text("five = 6.0\n")
    later = callback_identity(helped.Helped())
    assert later != first
    again = importlib.reload(helped)
    assert callback_identity(again.Helped()) not in (first, later)


def test_formulas_of_this_package_are_in_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an edit of this package, the store must not return older results."""
    from lightning_unlearn.storage import code_files

    before = [callback_identity(one()) for one in (NPO, AnswerLikelihood)]
    real = code_files._hash

    def edited(name: str) -> list[dict[str, Any]]:
        def hashed(content: bytes, file: Path) -> str:
            return real(content, file) + ("x" if file.name == name else "")

        monkeypatch.setattr(code_files, "_hash", hashed)
        for table in (code_files._known, code_files._loaded, code_files._read.cache_clear):
            table() if callable(table) else table.clear()  # type: ignore[operator]
        return [callback_identity(one()) for one in (NPO, AnswerLikelihood)]

    assert edited("objectives.py")[0] != before[0]
    after = edited("npo.py")
    assert after[0] != before[0] and after[1] == before[1]
    assert edited("nothing.py") == before
    monkeypatch.setattr(code_files, "__version__", "9.9")
    assert edited("nothing.py")[1] != before[1]


def test_code_without_a_file_is_hashed() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "typed_in", "Unlearning": Unlearning}
        exec(f"class Own(Unlearning):\n def loss(self, policy, reference):\n  {text}", space)
        return callback_identity(space["Own"]())

    assert made("return policy.sum") == made("return policy.sum")
    different = ["return policy.sum", "return policy.mean", "return 2 * policy.sum"]
    nested = ["return (lambda: policy.sum)()", "return (lambda: policy.mean)()"]
    assert len({str(made(text)) for text in different + nested}) == 5


class Reads(Unlearning):
    """Method that reads the files it declares."""

    def __init__(self, retain: str, more: Any = ()) -> None:
        super().__init__()
        self.retain = retain
        self.more = more

    @property
    def depends_on(self) -> Any:  # type: ignore[override]
        return [self.retain, *self.more]

    def loss(self, policy: LogProbs, reference: LogProbs) -> torch.Tensor:
        return policy.sum


def test_files_that_a_method_declares_are_in_its_identity(tiny: Tiny) -> None:
    rows, folder = tiny.root / "rows.jsonl", tiny.root / "folder"
    (folder / "below").mkdir(parents=True)
    rows.write_text("1")
    (folder / "below" / "words").write_text("a")
    made = lambda: callback_identity(Reads(str(rows), [folder]))  # noqa: E731
    states = [made()]
    assert made() == states[0]
    rows.write_text("2")
    states.append(made())
    (folder / "below" / "words").write_text("b")
    states.append(made())
    (folder / "below" / "words").rename(folder / "below" / "others")
    states.append(made())
    (folder / "new").write_text("")
    states.append(made())
    assert len({str(state) for state in states}) == 5
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    assert made() == states[-1]


def test_unlearning_runs_again_after_a_declared_file_changes(tiny: Tiny) -> None:
    rows = tiny.root / "rows.jsonl"
    rows.write_text("1")
    method = Reads(str(rows))
    trainer = fit(tiny, method)
    rows.write_text("2")
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    assert trainer.trained_stages == ["unlearn"]


@pytest.mark.parametrize(
    ("retain", "message"),
    [
        ("missing.jsonl", r"Reads\.depends_on: found 'missing\.jsonl', which can't be read \(No"),
        (3, r"Reads\.depends_on: found 3, expected paths"),
    ],
)
def test_a_missing_declared_file_is_reported(tiny: Tiny, retain: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.callbacks: {message}"):
        fit(tiny, Reads(retain))
    assert not (tiny.root / "runs").exists() and not (tiny.root / "store").exists()


class Keeps(GA):
    """Method with a private attribute of any type."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self._value = value


class Thing:
    """Class with attributes and without a repr."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.me = self


def array(last: float) -> Any:
    values = np.zeros(5000)
    values[2500] = last
    return values


def module(weight: float) -> nn.Module:
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.zeros_(layer.bias)
    return layer


DIFFERENT: dict[str, Callable[[float], Any]] = {
    "array": array,
    "tensor": lambda x: torch.from_numpy(array(x)),
    "table": lambda x: pd.DataFrame({"a": array(x)}),
    "column": lambda x: pd.Series(array(x)),
    "pattern": lambda x: re.compile("a" * 300 + str(x)),
    "flags": lambda x: re.compile("a", int(x) * re.IGNORECASE),
    "closure": lambda x: lambda y: x * y,
    "default": lambda x: lambda y=x: y,
    "keyword": lambda x: lambda *, y=x: y,
    "partial": lambda x: functools.partial(max, x),
    "method": lambda x: Thing(x).__init__,
    "object": lambda x: Thing(x),
    "deep": lambda x: {"a": [({x}, Thing(Thing([x])))]},
    "keys": lambda x: {x: 1, "x": 2},
    "generator": lambda x: torch.Generator().manual_seed(int(x)),
    "module": module,
    "path": lambda x: Path(str(x)),
    "set": lambda x: {x, "b", None},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_values_are_described_by_content(name: str) -> None:
    make = DIFFERENT[name]
    one, same, other = (callback_identity(Keeps(make(x))) for x in (0.0, 0.0, 1.0))
    assert one == same
    assert one != other


def test_a_value_without_readable_content_is_refused() -> None:
    assert callback_identity(Keeps(threading.Lock())) == callback_identity(Keeps(threading.Lock()))
    with pytest.raises(InputError, match=r"Keeps\._value\[0\] is of type object, expected"):
        constructed(Keeps([object()]))


def test_a_deleted_callback_is_forgotten() -> None:
    from lightning_unlearn.storage import callback_identity

    method = SimNPO()
    constructed(method)
    number = id(method)
    assert number in callback_identity._KNOWN
    del method
    assert number not in callback_identity._KNOWN
