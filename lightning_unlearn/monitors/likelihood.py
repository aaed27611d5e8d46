"""Log-likelihoods: of the unlearn label and its paraphrases, and of every stage's answers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES
from lightning_unlearn.monitors.view import ModelView


def check_limit(monitor: Monitor, limit: int | None) -> None:
    """Refuse a limit that leaves nothing to measure.

    Raises:
        InputError: naming the monitor.
    """
    if limit is not None and limit < 1:
        raise InputError(
            f"{type(monitor).__name__}.limit: found {limit}, expected at least 1, or null for all."
        )


class LabelLikelihood(Monitor):
    """Log-likelihood of the unlearn label and its paraphrases on the forget prompts.

    Measures, in nats per token, assistant header and end token excluded: ``forget/label``,
    ``forget/paraphrases`` (mean over them), and ``forget/mean`` (mean over label and paraphrases),
    whose drop is the paper's forget score.

    Args:
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        label: start of the answers that are unlearned.
        paraphrases: other ways to say it; none leaves ``forget/paraphrases`` out.
        limit: only the first so many forget prompts; null for all.

    Source: arXiv 2510.16629, section 4 and appendix F.
    """

    is_single = True

    def __init__(
        self,
        every_n_steps: int = 10,
        label: str = LABEL,
        paraphrases: list[str] = list(PARAPHRASES),  # noqa: B006  (copied, never changed)
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
                    f"{key}: found {phrase!r}, which is {seen[same]} again; expected other words, "
                    "or the mean over all phrases would count it twice."
                )
            seen[same] = key
        self.label = label
        self.paraphrases = list(paraphrases)
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse a path without a forget stage, and phrases that are none of the model's tokens."""
        if data.forget is None:
            raise InputError(
                "LabelLikelihood: it looks at the forget prompts, and data.forget is null."
            )
        rows, examples = data.eval_rows(data.forget)
        phrases = (self.label, *self.paraphrases)
        longest = max((data.format.phrase_ids(rows[0], phrase) for phrase in phrases), key=len)
        for row, example in zip(rows[: self.limit], examples, strict=False):
            if data.context is not None and len(example.prompt) + len(longest) > data.context:
                raise InputError(
                    f"LabelLikelihood: {row.where}: found a prompt of {len(example.prompt)} tokens "
                    f"and a phrase of {len(longest)}, expected both within the {data.context} that "
                    "the model takes; shorten or remove the row, or set shorter ones as label and "
                    "paraphrases of LabelLikelihood."
                )

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """The three measures, one value per forget prompt."""
        phrases = (self.label, *self.paraphrases)
        values = view.phrase_log_probs(view.data.forget or "", phrases, self.limit)
        measures = {"forget/label": values[:, 0], "forget/mean": values.mean(1)}
        if self.paraphrases:
            measures["forget/paraphrases"] = values[:, 1:].mean(1)
        return measures


class AnswerLikelihood(Monitor):
    """Log-likelihood of the answers of every stage, ``answers/STAGE``, in nats per token.

    The forget stage is measured on the rows that are unlearned; every other one on its held-out
    rows if it has them, else on its training rows. 1 - |change| is the paper's TOFU utility.

    Args:
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        limit: only the first so many rows of each stage; null for all.

    Source: arXiv 2510.16629, section 4.
    """

    is_single = True

    def __init__(self, every_n_steps: int = 10, limit: int | None = None) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        self.limit = limit

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """One measure per stage of the path, one value per row."""
        stages = [stage for stage in view.data.stages if stage in view.data.path]
        return {f"answers/{stage}": view.log_probs(stage, self.limit).mean for stage in stages}
