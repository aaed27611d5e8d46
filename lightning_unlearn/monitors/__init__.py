"""Monitors: evaluations before, during and after unlearning."""

from lightning_unlearn.monitors.answer_statistics import AnswerStatistics
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import AnswerLikelihood, LabelLikelihood
from lightning_unlearn.monitors.math_accuracy import MathAccuracy
from lightning_unlearn.monitors.membership import Membership
from lightning_unlearn.monitors.memorization import Memorization
from lightning_unlearn.monitors.oracle_distance import OracleDistance
from lightning_unlearn.monitors.tofu import TOFU
from lightning_unlearn.monitors.view import ModelView, RowRequest

__all__ = [
    "TOFU",
    "AnswerLikelihood",
    "AnswerStatistics",
    "LabelLikelihood",
    "MathAccuracy",
    "Membership",
    "Memorization",
    "ModelView",
    "Monitor",
    "OracleDistance",
    "RowRequest",
]
