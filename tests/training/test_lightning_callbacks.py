"""Lightning's callbacks, loggers and accelerators: those that work, and what replaces others."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks as lightning
import pytest
from cli_runs import Workplace, make_workplace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar, TQDMProgressBar
from tiny_stages import Tiny

from lightning_unlearn import GA, NPO, InputError, LabelLikelihood, StagedTrainer
from lightning_unlearn.training.progress import StageProgress


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> StagedTrainer:
    folders = {"store": str(folder / "store"), "default_root_dir": str(folder)}
    given = {"accelerator": "cpu", "logger": False, **folders, **options}
    return StagedTrainer(callbacks=list(callbacks), **given)


class Finetuning(lightning.BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None: ...

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None: ...


REFUSED: list[tuple[Callable[[], Callback], str]] = [
    (
        lambda: lightning.GradientAccumulationScheduler({1: 2}),
        "micro_batch_size to accumulate grad",
    ),
    (lightning.BatchSizeFinder, "lightning-unlearn plan prints the largest"),
    (lightning.LearningRateFinder, r"set data\.stages\.STAGE\.lr"),
    (lambda: lightning.ModelPruning("l1_unstructured"), r"set model\.lora\.target_modules"),
    (Finetuning, r"set model\.lora\.target_modules"),
    (lightning.ModelCheckpoint, "the store keeps every stage"),
    (lambda: lightning.OnExceptionCheckpoint("x"), "the store keeps every stage"),
    (lambda: lightning.StochasticWeightAveraging(0.1), "average weights in your own method"),
]


@pytest.mark.parametrize(("make", "instead"), REFUSED)
def test_callbacks_that_are_not_supported(
    tmp_path: Path, make: Callable[[], Callback], instead: str
) -> None:
    callback = make()
    name = type(callback).__name__
    text = rf"^trainer\.callbacks: found {name}, which is not supported: .*{instead}"
    with pytest.raises(InputError, match=text):
        trainer(tmp_path, callback)


@pytest.mark.parametrize("kind", [lightning.LearningRateMonitor, lightning.DeviceStatsMonitor])
def test_callbacks_that_need_a_logger(tmp_path: Path, kind: type[Callback]) -> None:
    if kind is lightning.DeviceStatsMonitor and importlib.util.find_spec("psutil") is None:
        pytest.skip("needs psutil")
    with pytest.raises(InputError, match=rf"{kind.__name__}, which writes to a logger, but"):
        trainer(tmp_path, kind())
    assert trainer(tmp_path, kind(), logger=True).tensorboard


def test_the_users_progress_bar_replaces_the_default_one(tmp_path: Path) -> None:
    for bar in (RichProgressBar(), TQDMProgressBar()):
        made = trainer(tmp_path, bar)
        assert made.progress_bar_callback is bar and made.run_callbacks.progress is None
        hidden = trainer(tmp_path, bar, enable_progress_bar=False)
        assert hidden.progress_bar_callback is None
        shown = StageProgress()
        # A study adds its own bar like this.
        assert trainer(tmp_path, shown, bar).progress_bar_callback is shown
    assert isinstance(trainer(tmp_path).progress_bar_callback, StageProgress)
    with pytest.raises(
        InputError, match=r"found 2 progress bars \(RichProgressBar and TQDM.*at most one"
    ):
        trainer(tmp_path, RichProgressBar(), TQDMProgressBar())


class Watch(Callback):
    """A callback that records the metrics it finds in callback_metrics."""

    changes_training = False

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        if pl_module.stage == "unlearn":
            value = trainer.callback_metrics["forget/label"].item()
            self._seen.append((pl_module.step, value))


def test_supported_callbacks_work_together(tiny: Tiny, tmp_path: Path) -> None:
    watch, rule = Watch(), EarlyStopping("forget/label", patience=100, mode="max")
    made = trainer(
        tmp_path,
        *(
            GA(),
            LabelLikelihood(every_n_steps=1),
            watch,
            rule,
            RichProgressBar(),
            lightning.Timer(),
        ),
        *(lightning.ModelSummary(), lightning.LearningRateMonitor()),
        logger=True,
    )
    made.fit(tiny.module(), tiny.datamodule(order=["safety"]))
    assert made.results is not None
    label = [(n, value) for n, m, value in made.results.steps if m == "forget/label"]
    assert watch._seen == label[1:] and len(label) > 2
    # The rule ran at every evaluation, including the first one: all later values are lower.
    assert rule.best_score.item() == pytest.approx(label[0][1])
    assert rule.wait_count == len(label) - 1


def test_early_stopping_stops_unlearning(tiny: Tiny, tmp_path: Path) -> None:
    rule = EarlyStopping("forget/label", patience=1, mode="max")
    made = trainer(
        tmp_path, GA(), LabelLikelihood(every_n_steps=1), rule, enable_progress_bar=False
    )
    made.fit(tiny.module(), tiny.datamodule(order=["safety"]))
    assert made.results is not None
    assert [n for n, m, _ in made.results.steps if m == "forget/label"] == [0, 1]


def test_early_stopping_on_an_unknown_metric(tiny: Tiny, tmp_path: Path) -> None:
    made = trainer(tmp_path, GA(), LabelLikelihood(), EarlyStopping("forget/lable"))
    text = r"EarlyStopping\.monitor: found 'forget/lable', expected a metric of a monitor \(forg"
    with pytest.raises(InputError, match=text):
        made.fit(tiny.module(), tiny.datamodule(order=["safety"]))


class Number(NPO):
    def __init__(self, first: float = 1.0, second: float = 1.0) -> None:
        super().__init__()
        self.first = first
        self.weights = [1.0, second]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NPO(float("nan")), r"NPO\.beta: found nan"),
        (lambda: NPO(float("inf")), r"NPO\.beta: found inf"),
        (lambda: Number(first=float("nan")), r"Number\.first: found nan, expected a number"),
        (lambda: Number(second=float("nan")), r"Number\.weights: found nan, expected a number"),
    ],
)
def test_numbers_of_a_method_are_checked_before_training(
    tmp_path: Path, make: Callable[[], Callback], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        trainer(tmp_path, make())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trainer.accelerator", "tpu"], "trainer.accelerator: Requirement 'torch_xla"),
        (["--trainer.precision", "transformer-engine"], "trainer.precision: Requirement 'transfo"),
        (["--trainer.profiler", "nope"], "trainer.profiler: "),
        (["--trainer.num_nodes", "0"], "trainer.num_nodes: "),
        (["--trainer.devices", "[]"], "trainer.devices: "),
        (
            ["--trainer.plugins", "nope"],
            "trainer.plugins: found 'nope', expected null, or plugin objects",
        ),
        (["--trainer.run_name", "x" * 300], "trainer.run_name: found a name of 300 bytes (xxxx"),
        (["--trainer.store", ""], "trainer.store: found '', expected the name of a folder."),
        (["--trainer.store", "null"], "trainer.store: found null, expected text."),
        (
            ["--trainer.store", "a\0b"],
            "trainer.store: found 'a\\x00b', which has a control character",
        ),
        (
            ["--trainer.default_root_dir", "\x1b[3m"],
            "trainer.default_root_dir: found '\\x1b[3m', w",
        ),
    ],
)
def test_wrong_settings_of_the_trainer_are_reported_with_their_key(
    place: Workplace, arguments: list[str], text: str
) -> None:
    if "torch_xla" in text and importlib.util.find_spec("torch_xla"):
        pytest.skip("has torch_xla")
    assert place.fit(*arguments).startswith(text)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("WandbLogger", "wandb", "wandb"),
        ("CometLogger", "comet_ml", "comet-ml"),
        ("MLFlowLogger", "mlflow", "mlflow"),
    ],
)
def test_a_logger_whose_package_is_missing(
    place: Workplace, name: str, module: str, package: str
) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"has {module}")
    assert place.fit("--trainer.logger", name) == (
        f"trainer.logger: {name} needs the package {module} (pip install {package})."
    )
