"""Fixtures of the tests of planning."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lightning.pytorch.plugins import Precision
from simulated import SHAPE, TINY

from lightning_unlearn import LoRA
from lightning_unlearn.distributed.strategy import HalfBase
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.planning.simulation import Simulation


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulation]]:
    made: list[Simulation] = []

    def make(
        processes: int = 1,
        lora: LoRA | None = SHAPE,
        precision: str = "32-true",
        base: str = TINY,
        on_gpu: bool = False,
        **options: Any,
    ) -> Simulation:
        settings = ModelSettings(base, lora, **options)
        plugin = HalfBase("bf16-true") if precision == "bf16-true" else Precision()
        shared = processes > 1
        made.append(Simulation(settings, precision, plugin, processes, shared, on_gpu=on_gpu))
        return made[-1]

    yield make
    for simulation in made:
        simulation.close()
