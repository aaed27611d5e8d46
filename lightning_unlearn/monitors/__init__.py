"""What is measured during and after unlearning."""

from lightning_unlearn.monitors.accuracy import MathAccuracy
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import AnswerLikelihood, LabelLikelihood
from lightning_unlearn.monitors.measurement import Measurement

__all__ = ["AnswerLikelihood", "LabelLikelihood", "MathAccuracy", "Measurement", "Monitor"]
