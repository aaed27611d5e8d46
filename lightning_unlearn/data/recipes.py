"""Rows and training settings of a stage: plain dataclasses, filled from YAML or Python."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from lightning_unlearn.data.columns import template_columns
from lightning_unlearn.errors import InputError
from lightning_unlearn.schedules import ScheduleName

Optimizer = Literal["adamw", "sgd"]

# Larger values are typing errors: such a plan would take days and fill the memory.
LARGEST = {"epochs": 10**6, "steps": 10**9, "batch_size": 10**6}


@dataclass
class Recipe:
    """How a stage is trained; also the recipe of unlearning.

    Attributes:
        lr: peak learning rate.
        epochs: passes over the rows.
        steps: optimizer steps, instead of epochs; may end inside a pass.
        batch_size: sequences of one optimizer step, over all processes and micro-batches.
        schedule: "wsd" (warm-up, stable, decay), "cosine" or "constant".
        warmup: share of the steps with rising learning rate (wsd, cosine).
        decay: share of the steps with falling learning rate (wsd).
        optimizer: "adamw" or "sgd".
        betas: AdamW's decay rates.
        momentum: momentum of SGD.
        weight_decay: decoupled for AdamW, L2 for SGD.
        gradient_clip: largest norm of the gradient of a step; null for no clipping.
    """

    lr: float = 1e-5
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 128
    schedule: ScheduleName = "wsd"
    warmup: float = 0.02
    decay: float = 0.02
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float | None = None

    def check(self, key: str) -> None:
        """Refuse values that cannot train.

        Args:
            key: YAML key of this recipe, for the message.

        Raises:
            InputError: with the key, the value found and the value expected.
        """

        def refuse(name: str, expected: str) -> None:
            value = getattr(self, name)
            found = "null" if value is None else value
            raise InputError(f"{key}.{name}: found {found}, expected {expected}.")

        for name, kind in (("schedule", ScheduleName), ("optimizer", Optimizer)):
            if getattr(self, name) not in get_args(kind):
                refuse(name, f"one of {', '.join(get_args(kind))}")
        if not 0 < self.lr < math.inf:
            refuse("lr", "a positive number")
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if value is None or (name == "epochs" and self.steps is not None):
                continue
            if value < 1 and name == "batch_size":
                refuse(name, "at least 1 sequence")
            if value < 1:
                refuse(name, "at least 1: a stage of 0 steps trains nothing; remove it instead")
            if value > largest:
                refuse(name, f"at most {largest}")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                refuse(name, "a share between 0 and 1")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            refuse("warmup", f"warmup + decay (here {self.decay}) of at most 1")
        if not 0 <= self.weight_decay < math.inf:
            refuse("weight_decay", "a finite number, 0 or more")
        if not all(0 <= beta < 1 for beta in self.betas):
            refuse("betas", "two numbers in [0, 1)")
        if not 0 <= self.momentum < 1:
            refuse("momentum", "a number in [0, 1)")
        if self.gradient_clip is not None and not 0 < self.gradient_clip < math.inf:
            refuse("gradient_clip", "a positive norm, or null")

    def key(self) -> dict[str, Any]:
        """Return the values that change training, for the key of the stage store.

        Values without effect are omitted, such as epochs if steps are given.
        """
        values = asdict(self)
        unused = {"epochs"} if self.steps is not None else {"steps"}
        unused |= {"betas"} if self.optimizer == "sgd" else {"momentum"}
        unused |= {"wsd": set(), "cosine": {"decay"}, "constant": {"warmup", "decay"}}[
            self.schedule
        ]
        # An integer from Python gives the same key as the float from YAML.
        for f in fields(Recipe):
            if f.type in (float, float | None) and values[f.name] is not None:
                values[f.name] = float(values[f.name])
        values["betas"] = [float(beta) for beta in self.betas]
        return {f.name: values[f.name] for f in fields(Recipe) if f.name not in unused}


@dataclass
class Stage(Recipe):
    """A stage: its rows, and its training settings.

    Attributes:
        source: .json, .jsonl, .csv or .parquet file (the text formats also as .gz or .zst), a
            pattern of files such as ``part-*.jsonl``, a folder that ``save_to_disk`` of `datasets`
            wrote, ``demo:NAME`` for an embedded corpus, or the name of a data set on the Hugging
            Face hub.
        heldout: rows that are evaluated and not trained on, given like ``source``. Without them,
            the stage is evaluated on its training rows.
        prompt: column of the prompt; or a list of columns, which a blank line joins. Empty values
            are skipped.
        answer: column of the answer.
        prompt_template: text with {COLUMN} for columns, instead of ``prompt``.
        system: column of a system message.
        messages: column of a chat (list of role and content, or of from and value), instead of
            prompt and answer. Its last message is the answer, everything before is the prompt.
        text: column of plain text, instead of prompt and answer. Every token is learned, without a
            chat template, in windows of ``max_length`` tokens.
        stride: tokens that a window of ``text`` adds to the one before; the rest of the window
            repeats earlier tokens as context. null for windows that overlap in one token.
        packing: join all texts, with the end-of-text token between them, before they are cut into
            windows.
        paraphrase: column with a paraphrase of the answer, which `LabelLikelihood` evaluates on the
            forget stage; rows that are empty or repeat the answer there have none.
        subset: configuration name of a hub data set.
        split: split of a hub data set, or of a saved folder with several splits.
        heldout_split: split of ``heldout``, such as test.
        limit: use only the first rows of ``source``.
        heldout_limit: use only the first rows of ``heldout``.
    """

    source: str = ""
    heldout: str | None = None
    prompt: str | list[str] = "question"
    answer: str = "answer"
    prompt_template: str | None = None
    system: str | None = None
    messages: str | None = None
    text: str | None = None
    stride: int | None = None
    packing: bool = False
    paraphrase: str | None = None
    subset: str | None = None
    split: str = "train"
    heldout_split: str = "train"
    limit: int | None = None
    heldout_limit: int | None = None

    def reading(self) -> dict[str, Any]:
        """Return the values that determine the rows of the stage."""
        trained = {f.name for f in fields(Recipe)}
        return {k: v for k, v in asdict(self).items() if k not in trained}

    def check(self, key: str) -> None:
        """Refuse values that cannot train, and a stage without rows; see `Recipe.check`."""
        super().check(key)
        _check_source(self.source, key)
        _check_columns(self, key)
        if self.text is None and (self.stride is not None or self.packing):
            name = "stride" if self.stride is not None else "packing"
            raise InputError(
                f"{key}.{name}: found {getattr(self, name)} without text, expected a stage of "
                "plain text; set text to its column."
            )
        if self.text is not None and self.paraphrase is not None:
            raise InputError(
                f"{key}.paraphrase: found {self.paraphrase!r} beside text, expected a stage of "
                "prompts and answers; set paraphrase to null."
            )
        if self.stride is not None and self.stride < 1:
            raise InputError(f"{key}.stride: found {self.stride}, expected 1 or more, or null.")
        _check_limit(self.limit, f"{key}.limit")
        _check_limit(self.heldout_limit, f"{key}.heldout_limit")


@dataclass
class EvalSet:
    """Rows that are evaluated and never trained on, except by a method whose retain rows they are.

    Attributes:
        source: as in a stage.
        prompt: column of the prompt, or a list of columns, as in a stage.
        answer: column of the correct answer.
        prompt_template: text with {COLUMN} for columns, instead of ``prompt``.
        system: column of a system message.
        messages: column of a chat, instead of prompt and answer, as in a stage.
        text: column of plain text, instead of prompt and answer, as in a stage.
        paraphrase: column with a paraphrase of the correct answer. Rows that are empty or repeat
            the answer there are counted, and left out of metrics of paraphrases only.
        alternatives: column with a list of wrong answers; or a list of columns of answers, one of
            which may have the correct one. Rows without a wrong answer are counted, and left out of
            metrics of wrong answers only.
        subset: configuration name of a hub data set.
        split: split of a hub data set.
        limit: use only the first rows.
    """

    source: str = ""
    prompt: str | list[str] = "question"
    answer: str = "answer"
    prompt_template: str | None = None
    system: str | None = None
    messages: str | None = None
    text: str | None = None
    paraphrase: str | None = None
    alternatives: str | list[str] | None = None
    subset: str | None = None
    split: str = "train"
    limit: int | None = None

    def check(self, key: str) -> None:
        """Refuse an evaluation set without rows.

        Args:
            key: YAML key of this evaluation set, for the message.

        Raises:
            InputError: with the key.
        """
        _check_source(self.source, key)
        _check_columns(self, key)
        _check_limit(self.limit, f"{key}.limit")
        for name in ("paraphrase", "alternatives"):
            if self.text is not None and getattr(self, name) is not None:
                raise InputError(
                    f"{key}.{name}: found {getattr(self, name)!r} beside text, expected rows of "
                    f"prompts and answers; set {name} to null."
                )
        if self.alternatives is not None and not self.alternatives:
            raise InputError(
                f"{key}.alternatives: found {self.alternatives!r}, expected a column, a list of "
                "columns, or null."
            )


@dataclass
class RowSource:
    """Rows that are no stage of their own: retain rows, or alternates to the forget answers.

    Attributes:
        source: as in a stage.
        prompt: column of the prompt, or a list of columns, as in a stage.
        answer: column of the answer.
        prompt_template: text with {COLUMN} for columns, instead of ``prompt``.
        system: column of a system message.
        messages: column of a chat, instead of prompt and answer, as in a stage.
        text: column of plain text, instead of prompt and answer, as in a stage.
        subset: configuration name of a hub data set.
        split: split of a hub data set, or of a saved folder with several splits.
        limit: use only the first rows.
    """

    source: str = ""
    prompt: str | list[str] = "question"
    answer: str = "answer"
    prompt_template: str | None = None
    system: str | None = None
    messages: str | None = None
    text: str | None = None
    subset: str | None = None
    split: str = "train"
    limit: int | None = None

    def check(self, key: str) -> None:
        """Refuse a source without rows.

        Args:
            key: YAML key of the source, for the message.

        Raises:
            InputError: with the key.
        """
        _check_source(self.source, key)
        _check_columns(self, key)
        _check_limit(self.limit, f"{key}.limit")


def _check_columns(rows: Stage | EvalSet | RowSource, key: str) -> None:
    """Refuse columns that exclude each other, and a template that names none."""
    if rows.text is not None and rows.messages is not None:
        raise InputError(
            f"{key}.text: found it beside messages, expected one of them; set one to null."
        )
    for name in ("prompt_template", "system"):
        if rows.text is not None and getattr(rows, name) is not None:
            raise InputError(
                f"{key}.{name}: found it beside text, which has no prompt; set {name} or text to "
                "null."
            )
    if rows.messages is not None and rows.prompt_template is not None:
        raise InputError(
            f"{key}.prompt_template: found it beside messages, expected one of them; set one to "
            "null."
        )
    if rows.prompt_template is not None:
        template_columns(rows.prompt_template, f"{key}.prompt_template")
    if not rows.prompt:
        raise InputError(f"{key}.prompt: found {rows.prompt!r}, expected a column or several.")


def _check_limit(limit: int | None, key: str) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"{key}: found {limit}, expected 1 or more, or null for all rows.")


def _check_source(source: str, key: str) -> None:
    if not source:
        raise InputError(
            f"{key}.source: found nothing, expected a file (.json, .jsonl, .csv, .parquet), "
            "a name like demo:math, or a data set of the Hugging Face hub."
        )


def check_row_sets(
    stages: Mapping[str, Stage], eval_sets: Mapping[str, EvalSet], reserved: tuple[str, str]
) -> None:
    """Refuse stages and evaluation sets whose names or settings cannot be used.

    Args:
        stages: stages by name.
        eval_sets: evaluation sets by name.
        reserved: names that neither may have.

    Raises:
        InputError: with the first name or key that cannot be used.
    """
    if not stages:
        raise InputError("data.stages: found none, expected at least one stage.")
    groups: dict[str, Mapping[str, Stage | EvalSet]] = {"stages": stages, "eval_sets": eval_sets}
    for kind, names in groups.items():
        for name, rows in names.items():
            if not name or name in reserved or not all(c.isalnum() or c == "_" for c in name):
                raise InputError(
                    f"data.{kind}: found the name {name!r}, expected letters, digits and "
                    f"underscores, and neither {reserved[0]!r} nor {reserved[1]!r}: folders and "
                    "curves have these names."
                )
            rows.check(f"data.{kind}.{name}")
    if both := sorted(set(stages) & set(eval_sets)):
        raise InputError(
            f"data.eval_sets: found the name {both[0]!r}, which a stage has; choose another."
        )
