"""Log-likelihoods of a label and its paraphrases, and of every stage's answers."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES
from lightning_unlearn.monitors.results import Results, SomeRows
from lightning_unlearn.monitors.view import ModelView
from lightning_unlearn.settings.forget_labels import BASE, MEAN, ForgetLabel, LabelKind
from lightning_unlearn.settings.forget_labels import LABEL as LABEL_PART
from lightning_unlearn.settings.forget_labels import PARAPHRASES as PARAPHRASES_PART

# Share of the forget answers that begin with the paper's label, from which label "auto" takes it.
LEAST_SHARE = 0.9


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
    """Log-likelihood of a label on the forget prompts; its drop is the forget score.

    The label is the answer of each forget row, with its paraphrase if the stage names a column of
    them ("own"), or the unlearn label of arXiv 2510.16629 with its 19 paraphrases ("paper").

    Metrics, in nats per token, without the assistant header: ``forget/label``,
    ``forget/paraphrases`` (mean over them), and ``forget/mean`` (mean over label and paraphrases),
    whose decrease is the forget score. These are the names for the paper's label; own answers have
    ``forget/own_label`` and so on, given phrases ``forget/phrases_label`` and so on. With
    end-of-turn tokens the names are ``forget/end_label``, ``forget/own_end_label`` and so on. At
    step 0, ``forget/base`` is the label's log-likelihood under the base model, where the path
    trains the forget stage with LoRA.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        label: "own" or "paper"; "auto" takes the paper's label if at least 90 % of the answers of
            the forget stage begin with it, otherwise their own answers.
        phrases: other phrases: the label, then its paraphrases. They need label "auto".
        limit: number of forget prompts, from the first; null for all.
        end_of_turn: count the tokens that end the assistant's turn. The paper's code does not.

    Source: arXiv 2510.16629, section 4 and appendix F.
    """

    is_single = True

    def __init__(
        self,
        every_n_steps: int = 10,
        label: Literal["auto", "own", "paper"] = "auto",
        phrases: list[str] | None = None,
        limit: int | None = None,
        end_of_turn: bool = False,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        if label not in ("auto", "own", "paper"):
            raise InputError(
                f"LabelLikelihood.label: found {label!r}, expected auto, own or paper; other "
                "texts belong in LabelLikelihood.phrases."
            )
        if phrases is not None:
            _check_phrases(label, phrases)
        self.label = label
        self.phrases = None if phrases is None else list(phrases)
        self.end_of_turn = end_of_turn
        self.limit = limit

    def forget_label(self, data: Any) -> ForgetLabel:
        """Return the label that is evaluated, which depends on the forget rows with label "auto".

        Args:
            data: the `StagedDataModule`, with its rows loaded.
        """
        kind: LabelKind
        if self.label != "auto":
            kind = self.label
        elif self.phrases is not None:
            kind = "phrases"
        else:
            begins, total = _begin_with_label(data)
            kind = "paper" if begins >= LEAST_SHARE * total else "own"
        return ForgetLabel(kind, self.end_of_turn)

    def _phrases(self, data: Any) -> tuple[str, ...] | None:
        """Return the phrases that are evaluated; None for own answers."""
        kind = self.forget_label(data).kind
        if kind == "own":
            return None
        return tuple(self.phrases) if self.phrases is not None else (LABEL, *PARAPHRASES)

    def settings_from_data(self, data: Any) -> Mapping[str, Any]:
        """Return the label that "auto" takes, its phrases, and a hash of the rows' paraphrases."""
        kind, phrases = self.forget_label(data).kind, self._phrases(data)
        if phrases is not None:
            return {"label": kind, "phrases": list(phrases)}
        paraphrases = [row.paraphrase for row in data.rows[data.forget]]
        return {"label": kind, "paraphrases": derive_seed(paraphrases)}

    def check(self, data: Any) -> None:
        """Refuse a path without a forget stage, and phrases that the model cannot encode."""
        if data.forget is None:
            raise InputError(
                "LabelLikelihood: found data.forget null, expected a forget stage with prompts to "
                "evaluate; set data.forget, or remove the monitor."
            )
        phrases = self._phrases(data)
        if phrases is None:
            return
        rows, examples = data.eval_rows(data.forget)
        longest = max((data.format.phrase_ids(rows[0], phrase) for phrase in phrases), key=len)
        end = max(example.end for example in examples) if self.end_of_turn else 0
        size = len(longest) + end
        for row, example in zip(rows[: self.limit], examples, strict=False):
            if data.context is not None and len(example.prompt) + size > data.context:
                raise InputError(
                    f"LabelLikelihood: {row.where}: found a prompt of {len(example.prompt)} tokens "
                    f"and a phrase of {size}, expected at most {data.context} together, "
                    "the context of the model; shorten or remove the row, or set shorter phrases "
                    "(LabelLikelihood.phrases)."
                )

    def data_notes(self, model: Any, data: Any) -> list[str]:
        """Return a note on what label "auto" takes, and why."""
        if self.label != "auto" or self.phrases is not None:
            return []
        begins, total = _begin_with_label(data)
        kind = self.forget_label(data).kind
        return [
            f"LabelLikelihood: label auto takes {kind}: {begins} of {total} forget answers "
            f"({begins / total:.0%}) begin with {LABEL!r}; the paper's label needs "
            f"{LEAST_SHARE:.0%}."
        ]

    def measure(self, view: ModelView) -> Mapping[str, Results]:
        """Return the metrics, with one value per forget prompt."""
        data, name = view.data, view.data.forget or ""
        label, phrases = self.forget_label(data), self._phrases(data)
        if phrases is None:
            metrics = self._own(view, name)
        else:
            values = self._of_phrases(view, name, phrases)
            metrics = {LABEL_PART: values[:, 0], MEAN: values.mean(1)}
            if len(phrases) > 1:
                metrics[PARAPHRASES_PART] = values[:, 1:].mean(1)
        if view.base is not None and _starts_unlearning(view):
            metrics[BASE] = (
                answer_log_likelihoods(view.base, name, self.limit, self.end_of_turn)
                if phrases is None
                else self._of_phrases(view.base, name, phrases[:1])[:, 0]
            )
        return {label.metric(part): values for part, values in metrics.items()}

    def _of_phrases(self, view: ModelView, name: str, phrases: tuple[str, ...]) -> Tensor:
        """Compute the log-likelihoods of phrases, nats per token, ``[rows, phrases]``."""
        if not self.end_of_turn:
            return view.phrase_log_probs(name, phrases, self.limit)
        texts = [phrases] * len(view.rows(name, self.limit))
        return view.candidate_scores(name, texts, self.limit).mean

    def _own(self, view: ModelView, name: str) -> dict[str, Results]:
        """Compute the log-likelihoods of the rows' answers and of their paraphrases."""
        own = answer_log_likelihoods(view, name, self.limit, self.end_of_turn)
        rows = view.rows(name, self.limit)
        numbers = [i for i, row in enumerate(rows) if row.paraphrase is not None]
        if not numbers:
            return {LABEL_PART: own, MEAN: own}
        # Rows without a paraphrase need a candidate too.
        texts = [[row.paraphrase or row.answer] for row in rows]
        scores = view.candidate_scores(name, texts, self.limit, self.end_of_turn).mean[:, 0]
        chosen = torch.tensor(numbers, device=own.device)
        mean = own.clone()
        mean[chosen] = (own[chosen] + scores[chosen]) / 2
        return {LABEL_PART: own, PARAPHRASES_PART: SomeRows(chosen, scores[chosen]), MEAN: mean}


def _check_phrases(label: str, phrases: list[str]) -> None:
    """Refuse phrases beside another label, empty phrases, and phrases that are there twice.

    Raises:
        InputError: with the key.
    """
    if label != "auto":
        raise InputError(
            f"LabelLikelihood.phrases: found phrases beside label {label}, which needs none, "
            "expected one of the two; set label: auto or phrases: null."
        )
    if not phrases:
        raise InputError(
            "LabelLikelihood.phrases: found an empty list, expected a label and its paraphrases, "
            "or null."
        )
    seen: dict[str, int] = {}
    for number, phrase in enumerate(phrases, start=1):
        same = " ".join(phrase.split())
        if not same:
            raise InputError("LabelLikelihood.phrases: found an empty phrase, expected text.")
        if same in seen:
            raise InputError(
                f"LabelLikelihood.phrases, number {number}: found {phrase!r}, which repeats number "
                f"{seen[same]}; expected another phrase: the mean over all phrases would count it "
                "twice."
            )
        seen[same] = number


def _begin_with_label(data: Any) -> tuple[int, int]:
    """Count the answers of the forget stage that begin with the paper's label, and all of them."""
    rows = data.rows[data.forget]
    begins = (bool(r.messages) and " ".join(r.answer.split()).startswith(LABEL) for r in rows)
    return sum(begins), len(rows)


def _starts_unlearning(view: ModelView) -> bool:
    """Return whether this is the start of unlearning what adapters have learned on the path.

    Full weights would need a second copy in memory to evaluate the base model.
    """
    module = view.module
    learned = view.data.forget in view.data.training_stages and module.settings.lora is not None
    return learned and module.step == 0 and module.trainer.training


def answer_log_likelihoods(
    view: ModelView, name: str, limit: int | None = None, end_of_turn: bool = True
) -> Tensor:
    """Compute the log-likelihood per token of each answer of a row set.

    Args:
        view: the model.
        name: row set; see `ModelView.rows`.
        limit: number of rows, from the first; None for all.
        end_of_turn: count the tokens that end the turn.

    Returns:
        Nats per token, ``[rows]``, the same on every process.
    """
    found = view.log_probs(name, limit)
    if end_of_turn:
        return found.mean
    examples, device = view.data.row_set(name)[1][:limit], found.mask.device
    lengths = torch.tensor([len(e.answer_without_end) for e in examples], device=device)
    kept = torch.arange(found.mask.shape[1], device=device) < lengths[:, None]
    return LogProbs(found.per_token.where(kept, 0.0), kept).mean


class AnswerLikelihood(Monitor):
    """Log-likelihood of the answers of every stage, ``answers/STAGE``, in nats per token.

    The forget stage is evaluated on the rows that are unlearned. Every other stage is evaluated on
    its held-out rows, or on its training rows if it has no held-out rows. 1 - |change| is the
    paper's TOFU utility.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        limit: number of rows of each stage, from the first; null for all.
        end_of_turn: count the tokens that end the assistant's turn, as training does. The paper's
            code does not.

    Source: arXiv 2510.16629, section 4.
    """

    is_single = True

    def __init__(
        self, every_n_steps: int = 10, limit: int | None = None, end_of_turn: bool = True
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        self.end_of_turn = end_of_turn
        self.limit = limit

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return one metric per stage of the path, with one value per row."""
        stages = [stage for stage in view.data.stages if stage in view.data.path]
        options = self.limit, self.end_of_turn
        return {f"answers/{own}": answer_log_likelihoods(view, own, *options) for own in stages}
