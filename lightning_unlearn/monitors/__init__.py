"""What is measured during and after unlearning."""

from lightning_unlearn.monitors.accuracy import MathAccuracy
from lightning_unlearn.monitors.answers import AnswerStatistics
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import AnswerLikelihood, LabelLikelihood
from lightning_unlearn.monitors.measurement import Ask, Measurement
from lightning_unlearn.monitors.membership import Membership
from lightning_unlearn.monitors.memorisation import Memorisation
from lightning_unlearn.monitors.oracle import OracleDistance
from lightning_unlearn.monitors.tofu import TOFU

__all__ = [
    "TOFU",
    "AnswerLikelihood",
    "AnswerStatistics",
    "Ask",
    "LabelLikelihood",
    "MathAccuracy",
    "Measurement",
    "Membership",
    "Memorisation",
    "Monitor",
    "OracleDistance",
]
