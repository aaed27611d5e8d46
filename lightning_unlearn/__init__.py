"""Machine unlearning in language models that were trained in stages."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.version import __version__

if TYPE_CHECKING:
    from lightning_unlearn.adapters import LoRA
    from lightning_unlearn.data.datamodule import StagedDataModule
    from lightning_unlearn.data.recipe import Probe, Recipe, Stage
    from lightning_unlearn.logprobs import LogProbs
    from lightning_unlearn.module import CausalLM
    from lightning_unlearn.monitors import (
        TOFU,
        AnswerLikelihood,
        AnswerStatistics,
        Ask,
        LabelLikelihood,
        MathAccuracy,
        Measurement,
        Membership,
        Memorisation,
        Monitor,
        OracleDistance,
    )
    from lightning_unlearn.study.engine import Study
    from lightning_unlearn.study.file import StudySpec
    from lightning_unlearn.token_statistics import TokenStatistics
    from lightning_unlearn.trainer import StagedTrainer
    from lightning_unlearn.unlearning import GA, NPO, SimNPO, Unlearning

__all__ = [
    "GA",
    "NPO",
    "TOFU",
    "AnswerLikelihood",
    "AnswerStatistics",
    "Ask",
    "CausalLM",
    "DivergedError",
    "InputError",
    "LabelLikelihood",
    "LoRA",
    "LogProbs",
    "MathAccuracy",
    "Measurement",
    "Membership",
    "Memorisation",
    "Monitor",
    "OracleDistance",
    "Probe",
    "Recipe",
    "SimNPO",
    "Stage",
    "StagedDataModule",
    "StagedTrainer",
    "Study",
    "StudySpec",
    "TokenStatistics",
    "Unlearning",
    "__version__",
]

# torch, transformers and Lightning take seconds to import: only what is named is loaded.
_HOMES = {
    "LoRA": "adapters",
    "StagedDataModule": "data.datamodule",
    "Probe": "data.recipe",
    "Recipe": "data.recipe",
    "Stage": "data.recipe",
    "LogProbs": "logprobs",
    "CausalLM": "module",
    "TOFU": "monitors",
    "AnswerLikelihood": "monitors",
    "AnswerStatistics": "monitors",
    "Ask": "monitors",
    "LabelLikelihood": "monitors",
    "MathAccuracy": "monitors",
    "Measurement": "monitors",
    "Membership": "monitors",
    "Memorisation": "monitors",
    "Monitor": "monitors",
    "OracleDistance": "monitors",
    "Study": "study.engine",
    "StudySpec": "study.file",
    "TokenStatistics": "token_statistics",
    "StagedTrainer": "trainer",
    "GA": "unlearning",
    "NPO": "unlearning",
    "SimNPO": "unlearning",
    "Unlearning": "unlearning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
