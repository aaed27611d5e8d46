"""Log-likelihoods of the unlearn label, of its paraphrases, and of every stage's answers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES
from lightning_unlearn.monitors.view import ModelView


def check_limit(monitor: Monitor, limit: int | None) -> None:
    """Refuse a limit below 1.

    Raises:
        InputError: with the name of the monitor.
    """
    if limit is not None and limit < 1:
        raise InputError(
            f"{type(monitor).__name__}.limit: found {limit}, expected at least 1, or null for all."
        )


class LabelLikelihood(Monitor):
    """Log-likelihood of the unlearn label and its paraphrases on the forget prompts.

    Metrics, in nats per token, without assistant header and end token: ``forget/label``,
    ``forget/paraphrases`` (mean over them), and ``forget/mean`` (mean over label and paraphrases),
    whose decrease is the paper's forget score.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        label: start of the answers that are unlearned.
        paraphrases: paraphrases of the label; without them, ``forget/paraphrases`` is omitted.
        limit: number of forget prompts, from the first; null for all.

    Source: arXiv 2510.16629, section 4 and appendix F.
    """

    is_single = True

    def __init__(
        self,
        every_n_steps: int = 10,
        label: str = LABEL,
        paraphrases: list[str] = list(PARAPHRASES),  # noqa: B006  (copied, never modified)
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        seen: dict[str, str] = {}
        for number, phrase in enumerate([label, *paraphrases]):
            key = f"LabelLikelihood.paraphrases, number {number}" if number else "the label"
            same = " ".join(phrase.split())
            if not same:
                raise InputError("LabelLikelihood: found an empty phrase, expected text.")
            if same in seen:
                raise InputError(
                    f"{key}: found {phrase!r}, which repeats {seen[same]}; expected another "
                    "phrase: the mean over all phrases would count it twice."
                )
            seen[same] = key
        self.label = label
        self.paraphrases = list(paraphrases)
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse a path without a forget stage, and phrases that the model cannot encode."""
        if data.forget is None:
            raise InputError(
                "LabelLikelihood: found data.forget null, expected a forget stage with prompts to "
                "evaluate; set data.forget, or remove the monitor."
            )
        rows, examples = data.measured(data.forget)
        phrases = (self.label, *self.paraphrases)
        longest = max((data.format.phrase_ids(rows[0], phrase) for phrase in phrases), key=len)
        for row, example in zip(rows[: self.limit], examples, strict=False):
            if data.context is not None and len(example.prompt) + len(longest) > data.context:
                raise InputError(
                    f"LabelLikelihood: {row.where}: found a prompt of {len(example.prompt)} tokens "
                    f"and a phrase of {len(longest)}, expected at most {data.context} together, "
                    "the context of the model; shorten or remove the row, or set shorter phrases "
                    "as label and paraphrases of LabelLikelihood."
                )

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return the three metrics, with one value per forget prompt."""
        phrases = (self.label, *self.paraphrases)
        values = view.phrases(view.data.forget or "", phrases, self.limit)
        metrics = {"forget/label": values[:, 0], "forget/mean": values.mean(1)}
        if self.paraphrases:
            metrics["forget/paraphrases"] = values[:, 1:].mean(1)
        return metrics


class AnswerLikelihood(Monitor):
    """Log-likelihood of the answers of every stage, ``answers/STAGE``, in nats per token.

    The forget stage is evaluated on the rows that are unlearned. Every other stage is evaluated on
    its held-out rows, or on its training rows if it has no held-out rows. 1 - |change| is the
    paper's TOFU utility.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        limit: number of rows of each stage, from the first; null for all.

    Source: arXiv 2510.16629, section 4.
    """

    is_single = True

    def __init__(self, every_n_steps: int = 10, limit: int | None = None) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        self.limit = limit

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return one metric per stage of the path, with one value per row."""
        stages = [stage for stage in view.data.stages if stage in view.data.path]
        return {f"answers/{stage}": view.log_probs(stage, self.limit).mean for stage in stages}
