"""Machine unlearning in language models that were trained in stages."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.version import __version__

if TYPE_CHECKING:
    from lightning_unlearn.data.datamodule import StagedDataModule
    from lightning_unlearn.data.recipes import EvalSet, Recipe, RowSource, Stage
    from lightning_unlearn.model.causal_lm import CausalLM
    from lightning_unlearn.model.log_probs import LogProbs
    from lightning_unlearn.model.settings import LoRA, Oracle
    from lightning_unlearn.model.token_statistics import TokenStatistics
    from lightning_unlearn.monitors import (
        TOFU,
        AnswerLikelihood,
        AnswerStatistics,
        LabelLikelihood,
        MathAccuracy,
        Membership,
        Memorization,
        ModelView,
        Monitor,
        OracleDistance,
        RowRequest,
    )
    from lightning_unlearn.storage.path_history import PathHistory
    from lightning_unlearn.study.runner import Study
    from lightning_unlearn.study.spec import StudySpec
    from lightning_unlearn.training.trainer import StagedTrainer
    from lightning_unlearn.unlearning import (
        GA,
        NPO,
        ModelStateArithmetic,
        NegationThenReplay,
        PathAware,
        Replay,
        Rewind,
        SimNPO,
        Splice,
        StageNegation,
        TaskNegation,
        Unlearning,
    )

__all__ = [
    "GA",
    "NPO",
    "TOFU",
    "AnswerLikelihood",
    "AnswerStatistics",
    "CausalLM",
    "DivergedError",
    "EvalSet",
    "InputError",
    "LabelLikelihood",
    "LoRA",
    "LogProbs",
    "MathAccuracy",
    "Membership",
    "Memorization",
    "ModelStateArithmetic",
    "ModelView",
    "Monitor",
    "NegationThenReplay",
    "Oracle",
    "OracleDistance",
    "PathAware",
    "PathHistory",
    "Recipe",
    "Replay",
    "Rewind",
    "RowRequest",
    "RowSource",
    "SimNPO",
    "Splice",
    "Stage",
    "StageNegation",
    "StagedDataModule",
    "StagedTrainer",
    "Study",
    "StudySpec",
    "TaskNegation",
    "TokenStatistics",
    "Unlearning",
    "__version__",
]

# The module of each public name. torch, transformers and Lightning take seconds to import, so a
# module is imported when one of its names is used for the first time.
_MODULES = {
    "LoRA": "model.settings",
    "Oracle": "model.settings",
    "StagedDataModule": "data.datamodule",
    "EvalSet": "data.recipes",
    "Recipe": "data.recipes",
    "RowSource": "data.recipes",
    "Stage": "data.recipes",
    "LogProbs": "model.log_probs",
    "CausalLM": "model.causal_lm",
    "TOFU": "monitors",
    "AnswerLikelihood": "monitors",
    "AnswerStatistics": "monitors",
    "RowRequest": "monitors",
    "LabelLikelihood": "monitors",
    "MathAccuracy": "monitors",
    "ModelView": "monitors",
    "Membership": "monitors",
    "Memorization": "monitors",
    "Monitor": "monitors",
    "OracleDistance": "monitors",
    "Study": "study.runner",
    "StudySpec": "study.spec",
    "TokenStatistics": "model.token_statistics",
    "StagedTrainer": "training.trainer",
    "GA": "unlearning",
    "NPO": "unlearning",
    "NegationThenReplay": "unlearning",
    "PathAware": "unlearning",
    "PathHistory": "storage.path_history",
    "SimNPO": "unlearning",
    "StageNegation": "unlearning",
    "ModelStateArithmetic": "unlearning",
    "Replay": "unlearning",
    "Rewind": "unlearning",
    "Splice": "unlearning",
    "TaskNegation": "unlearning",
    "Unlearning": "unlearning",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
