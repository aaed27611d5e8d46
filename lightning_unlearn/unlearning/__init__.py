"""Unlearning methods, one file each."""

from lightning_unlearn.unlearning.base import Unlearning
from lightning_unlearn.unlearning.ga import GA
from lightning_unlearn.unlearning.model_state_arithmetic import ModelStateArithmetic
from lightning_unlearn.unlearning.negation_then_replay import NegationThenReplay
from lightning_unlearn.unlearning.npo import NPO
from lightning_unlearn.unlearning.path_aware import PathAware
from lightning_unlearn.unlearning.replay import Replay
from lightning_unlearn.unlearning.rewind import Rewind
from lightning_unlearn.unlearning.simnpo import SimNPO
from lightning_unlearn.unlearning.splice import Splice
from lightning_unlearn.unlearning.stage_negation import StageNegation
from lightning_unlearn.unlearning.task_negation import TaskNegation

__all__ = [
    "GA",
    "NPO",
    "ModelStateArithmetic",
    "NegationThenReplay",
    "PathAware",
    "Replay",
    "Rewind",
    "SimNPO",
    "Splice",
    "StageNegation",
    "TaskNegation",
    "Unlearning",
]
