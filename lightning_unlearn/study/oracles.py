"""Oracles of a study: trained by it, or named by its fit configuration."""

from lightning_unlearn.errors import InputError
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.training.trainer import StagedTrainer


def without_oracle(trainer: StagedTrainer) -> list[str]:
    """Return a note on the monitors that need an oracle, for a study without oracles."""
    names = [type(monitor).__name__ for monitor in trainer.monitors if monitor.uses_oracle]
    if not names:
        return []
    return [
        f"{' and '.join(names)}: cannot measure the distance to the oracle, because this study "
        "trains no oracles. Set oracle to true, or name a retrained model with oracle.base in the "
        "fit configuration."
    ]


def check_oracle(spec: StudySpec, trainer: StagedTrainer) -> None:
    """Refuse a study that would train oracles beside the one that its fit configuration names.

    Raises:
        InputError: naming both keys.
    """
    if spec.oracle and trainer.oracle is not None:
        raise InputError(
            f"oracle: found true with oracle.base {trainer.oracle.base} in the fit configuration, "
            "expected one of the two. Set oracle to false to compare all runs with that model, or "
            "remove oracle from the fit configuration to train the oracles."
        )
