"""Unlearning methods, one file each."""

from lightning_unlearn.unlearning.base import Unlearning
from lightning_unlearn.unlearning.ga import GA
from lightning_unlearn.unlearning.npo import NPO
from lightning_unlearn.unlearning.simnpo import SimNPO

__all__ = ["GA", "NPO", "SimNPO", "Unlearning"]
