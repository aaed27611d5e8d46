"""Errors of a GPU on a simulated GPU: all tensors are on the device of the computation."""

import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import CUDAAccelerator
from pretend_gpu import DIFFERENT, GENERATOR, GPU, OnGPU, gpu
from tiny_stages import Tiny

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    AnswerStatistics,
    InputError,
    LabelLikelihood,
    MathAccuracy,
    Membership,
    Memorization,
    OracleDistance,
    StagedTrainer,
)
from lightning_unlearn.model import generation
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.verify import verify_log_probs
from lightning_unlearn.storage.records import read_table

PATH = ["math", "safety"]
# Measures that jump where a likelihood passes another.
JUMPS = ("accuracy/", "truncated/", "verbatim/", "knowledge", "auc/", "privleak/", "overshoot/")


def test_the_simulated_gpu_refuses_mixed_devices() -> None:
    with gpu():
        layer = torch.nn.Linear(3, 2).to("cuda")
        x = torch.ones(2, 3, device="cuda")
        assert isinstance(layer.weight, OnGPU) and layer.weight.device == GPU
        with pytest.raises(RuntimeError, match=DIFFERENT):
            layer(torch.ones(2, 3))
        with pytest.raises(RuntimeError, match=DIFFERENT):
            torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")]
        with pytest.raises(RuntimeError, match=GENERATOR):
            x.normal_(generator=torch.Generator())
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            x.numpy()
        # And does what it does.
        assert x[torch.tensor([0])].device == (x + torch.tensor(1.0)).device == GPU
        layer(x).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.cpu().tolist() == [[2.0] * 3] * 2
        with torch.device("cuda"):
            assert torch.arange(3).device == GPU
    assert not isinstance(torch.ones(1), OnGPU)


class Where(Callback):
    """Record the devices of the tensors of model and optimizer at every step."""

    fails_at: int | None = None

    def __init__(self) -> None:
        self.devices: set[str] = set()

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if module.stage == "unlearn" and module.step == self.fails_at:
            raise ZeroDivisionError

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        moments = [s["exp_avg"] for s in module.optimizers().optimizer.state.values()]
        every = [*module.parameters(), *module.buffers(), *moments]
        self.devices |= {tensor.device.type for tensor in every}


def all_monitors() -> list[Any]:
    """Return all kinds of monitors, also with an oracle."""
    return [
        NPO(),
        LabelLikelihood(every_n_steps=2, limit=3),
        AnswerLikelihood(every_n_steps=2, limit=4),
        AnswerStatistics(every_n_steps=0, limit=4),
        OracleDistance(every_n_steps=2, limit=4),
        MathAccuracy(num_samples=2, max_new_tokens=4, limit=3),
        Membership(nonmembers="math:heldout", limit=4),
        Memorization(set="safety", max_new_tokens=4, limit=3),
    ]


def run(
    tiny: Tiny, callbacks: list[Any], trainer: dict[str, Any], module: dict[str, Any]
) -> StagedTrainer:
    """Run a path, and before it its oracle if a monitor uses one."""
    for oracle in (True, False) if any(isinstance(c, OracleDistance) for c in callbacks) else (0,):
        data = tiny.datamodule(order=PATH, oracle=bool(oracle))
        own = tiny.trainer(callbacks, **trainer)
        own.fit(tiny.module(**module), data)
    return own


def values(trainer: StagedTrainer) -> dict[tuple[Any, ...], float]:
    """Return losses and means of a run, without metrics of generated tokens."""
    assert trainer.run_dir is not None
    steps = read_table(trainer.run_dir / "records.parquet")[["metric", "step", "value"]]
    losses = read_table(trainer.run_dir / "training.parquet")[["stage", "step", "loss"]]
    rows = [*steps.itertuples(index=False, name=None), *losses.itertuples(index=False, name=None)]
    return {tuple(key): value for *key, value in rows if not str(key[0]).startswith(JUMPS)}


SETTINGS: list[Any] = [
    pytest.param([NPO(), LabelLikelihood(every_n_steps=2, limit=3)], {}, {}, 1e-4, id="adapters"),
    pytest.param(
        all_monitors(), {}, {"save_merged": True}, 1e-4, id="monitors", marks=pytest.mark.slow
    ),
    pytest.param(
        [NPO(), AnswerLikelihood(every_n_steps=2)],
        {"precision": "bf16-true"},
        {"gradient_checkpointing": True},
        0.1,
        id="16 bits",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        [NPO(), OracleDistance(every_n_steps=2, limit=3)],
        {},
        {"lora": None},
        1e-4,
        id="all weights",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("callbacks", "trainer", "module", "near"), SETTINGS)
def test_a_path_on_a_gpu_equals_that_on_the_cpu(
    tiny: Tiny,
    callbacks: list[Any],
    trainer: dict[str, Any],
    module: dict[str, Any],
    near: float,
) -> None:
    where = Where()
    with gpu():
        own = values(run(tiny.below("gpu"), [*callbacks, where], trainer, module))
    assert where.devices == {"cuda"}
    other = values(run(tiny.below("cpu"), callbacks, trainer, module))
    assert len(own) > 10 and own == pytest.approx(other, abs=near)


@pytest.mark.slow
def test_a_resumed_stage_has_its_state_on_the_gpu(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments of the optimizer and the reference of the method are loaded to the device."""
    watched = [NPO(), LabelLikelihood(every_n_steps=1, limit=3)]
    data = {"order": ["safety"]}
    with gpu():
        whole = tiny.below("whole").trainer(watched)
        whole.fit(tiny.module(), tiny.datamodule(**data))
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(Where, "fails_at", 2)
            stopped = tiny.trainer([*watched, Where()], checkpoint_steps=1)
            stopped.fit(tiny.module(), tiny.datamodule(**data))
        where = Where()
        resumed = tiny.trainer([*watched, where], checkpoint_steps=1)
        resumed.fit(tiny.module(), tiny.datamodule(**data))
    assert where.devices == {"cuda"} and resumed.trained_stages == ["unlearn"]
    assert values(resumed) == values(whole)


def test_answers_are_drawn_with_deterministic_algorithms(tiny: Tiny) -> None:
    """A GPU has no deterministic cumulative sum."""
    given = [NPO(), MathAccuracy(num_samples=2, max_new_tokens=4, limit=2)]
    with gpu():
        try:
            torch.use_deterministic_algorithms(True)
            sums = generation._running_sums(torch.ones(2, 3, device="cuda"))
            assert sums.device == GPU and sums.tolist() == [[1.0, 2.0, 3.0]] * 2
            trainer = tiny.trainer(given, deterministic=True)
            trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
        finally:
            torch.use_deterministic_algorithms(False)
    assert trainer.results is not None
    assert ("accuracy/math", 3) in {(m, s) for s, m, _ in trainer.results.steps}


@pytest.mark.parametrize(("precision", "known"), [("32-true", False), ("bf16-mixed", True)])
def test_a_check_allows_for_the_rounding_of_products(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, precision: str, known: bool
) -> None:
    """A GPU multiplies all rows of a matrix and some of them with different kernels."""
    module = tiny.module()
    module.trainer = tiny.trainer(precision=precision)
    module.configure_model()
    own = LogProbModel.log_probs_from_logits
    monkeypatch.setattr(LogProbModel, "log_probs_from_logits", lambda *given: own(*given) * 1.005)
    with (
        nullcontext()
        if known
        else pytest.raises(InputError, match="gives different log-probabilities")
    ):
        verify_log_probs(module.evaluator, module.settings.base)
    assert module.network.takes_own_logits != known


def test_an_unused_gpu_is_not_reported(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.trainer(accelerator="cpu")
