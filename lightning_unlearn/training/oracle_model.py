"""OracleModel: an oracle that is a model of its own (``oracle.base``), and its checks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.datamodule import ORACLE, StagedDataModule
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.pretrained import PretrainedModel
from lightning_unlearn.model.settings import LoRA, ModelSettings, Oracle
from lightning_unlearn.model.stage import StageStart
from lightning_unlearn.training.stage_trainer import StageTrainer

BY_HAND = re.compile(r" Name the base model yourself: .*$")
OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


class OracleModel:
    """An oracle that is a model of its own, without its weights in memory.

    Args:
        settings: the key ``oracle`` of the configuration.
        model: settings of the model that is compared with it.

    Attributes:
        settings: the argument `settings`.

    Raises:
        InputError: if there is no such model.
    """

    def __init__(self, settings: Oracle, model: ModelSettings) -> None:
        self.settings = settings
        self._checked: set[Any] = set()
        self._options: dict[str, Any] = {
            "base": settings.base,
            # An adapter has its own shape; these only let it be one.
            "lora": LoRA(rank=1),
            "quantization": settings.quantization,
            "attn_implementation": settings.attn_implementation or model.attn_implementation,
            "trust_remote_code": settings.trust_remote_code,
        }
        with about_oracle():
            self._closed = CausalLM(**self._options)
        if self._closed.pretrained.given is None and settings.quantization is None:
            self._take_shape(model.lora)

    def _take_shape(self, lora: LoRA | None) -> None:
        """Put adapters without effect on a whole model, so that gradient norms are comparable.

        They are then those of the weights that the run trains.
        """
        self._options["lora"] = None if lora is None else replace(lora, dropout=0.0)
        self._closed = CausalLM(**self._options)
        try:
            self._closed.checks.adapters()
        except InputError:
            self._options["lora"] = None
            self._closed = CausalLM(**self._options)

    @property
    def model_settings(self) -> ModelSettings:
        """Settings with which the oracle is loaded."""
        return self._closed.settings

    def open(self) -> CausalLM:
        """Return a module that loads the oracle as soon as it is configured."""
        module = CausalLM(**self._options)
        module.start_stage(StageStart(ORACLE, fresh=True))
        return module

    def identity(self) -> dict[str, Any]:
        """Return what the oracle's values depend on, for the key of the stage store."""
        with about_oracle():
            found = {**self._weights(), "attention": self._options["attn_implementation"]}
        if self.settings.quantization is not None:
            found["quantization"] = self.settings.quantization
        return found

    def _weights(self) -> dict[str, str]:
        return weights_of(self._closed.pretrained)

    def check(self, trainer: StageTrainer, model: CausalLM, data: StagedDataModule) -> None:
        """Refuse an oracle that cannot be compared with the model; see `check_oracle`."""
        precision, strategy = str(trainer.precision), trainer.strategy
        # The trials of a study share a model and its oracle.
        wanted = precision, type(strategy)
        if wanted not in self._checked:
            own = self._closed
            with about_oracle():
                own.checks.files(precision)
                own.checks.adapters()
                own.checks.device(precision, strategy.root_device)
                own.checks.quantization(trainer)
                if isinstance(strategy, FSDP2):
                    _refuse_tensor_parallel(strategy)
                    own.checks.layers(strategy.layer_classes)
            self._check_vocabulary(model)
            if trainer.is_global_zero:
                with about_oracle():
                    own.checks.files(precision, numbers=True)
            self._checked.add(wanted)
        assert data.format is not None, "rows are loaded before"
        if data.format not in self._checked and self._has_tokenizer():
            with about_oracle():
                tokenizer = self._closed.pretrained.tokenizer()
            check_tokens(self.settings.base, tokenizer, data)
            self._checked.add(data.format)

    def _check_vocabulary(self, model: CausalLM) -> None:
        own, other = self._closed.pretrained.vocabulary_size, model.pretrained.vocabulary_size
        if own != other:
            raise InputError(
                f"oracle.base: found {self.settings.base} with an embedding of {own} tokens, "
                f"expected {other}, as model.base ({model.settings.base}) has: distributions of "
                "the next token are compared. Name a model retrained from the same base."
            )

    def _has_tokenizer(self) -> bool:
        pretrained = self._closed.pretrained
        if pretrained.given is not None and pretrained.given.tokenizer is not None:
            return True
        folder = Path(pretrained.location)
        return not folder.is_dir() or any((folder / name).is_file() for name in OF_TOKENIZER)

    def notes(self, model: CausalLM) -> list[str]:
        """Return what the user should know about the oracle, as sentences."""
        base, found = self.settings.base, []
        if not self._has_tokenizer():
            found.append(
                f"oracle.base: {base} has no tokenizer, so its tokens are taken for those of "
                "model.base."
            )
        if self._weights() == weights_of(model.pretrained):
            found.append(
                f"oracle.base: {base} has the same weights as model.base, so the distance of "
                "model.base to the oracle is 0."
            )
        elif self._options["lora"] is None and model.settings.lora is not None:
            found.append(
                f"oracle.base: model.lora does not fit {base}, so gradient norms of the oracle "
                "are those of all its weights."
            )
        return found


def weights_of(pretrained: PretrainedModel) -> dict[str, str]:
    """Return hashes of a model's weights, and of the adapter that it starts from."""
    found = {"model": pretrained.fingerprint()}
    if pretrained.given is not None:
        found["learn"] = pretrained.given.fingerprint()
    return found


def check_tokens(name: str, tokenizer: Any, data: StagedDataModule) -> None:
    """Refuse an oracle whose tokenizer writes rows as other tokens than the model's.

    Args:
        name: name of the oracle.
        tokenizer: the oracle's tokenizer.
        data: stages and evaluation sets, with their rows loaded.

    Raises:
        InputError: with the first such row.
    """
    form = data.format
    assert form is not None, "rows are loaded before"
    template = SimpleNamespace(chat_template=form.template_source)
    has_chats = form.template_source is not None
    own = ChatFormat(tokenizer, form.max_length, template, name, form.vocabulary, chats=has_chats)
    if own.fingerprint == form.fingerprint:
        return
    tables = (data.rows, data.heldout_rows, data.eval_set_rows)
    for row in (row for table in tables for rows in table.values() for row in rows):
        try:
            if row.messages:
                same = own.encode(row) == form.encode(row)
            else:
                same = own.text_ids(row) == form.text_ids(row)
        except InputError:
            same = False
        if not same:
            raise InputError(
                f"oracle.base: found {name}, whose tokenizer writes {row.where} as other tokens "
                "than the tokenizer of model.base, expected the same tokens: values of single "
                "tokens are compared. Name a model retrained from the same base."
            )


def _refuse_tensor_parallel(strategy: FSDP2) -> None:
    if strategy.tensor_parallel_size > 1:
        raise InputError(
            f"trainer.strategy: found tensor_parallel_size {strategy.tensor_parallel_size} with "
            "oracle.base, expected 1: the oracle is not split by tensor parallelism."
        )


@contextmanager
def about_oracle() -> Iterator[None]:
    """Let messages about the keys of a model name those of the oracle.

    Raises:
        InputError: with the keys of the oracle.
    """
    try:
        yield
    except InputError as error:
        # A model of its own has one adapter at most, and no stages.
        text = BY_HAND.sub(
            " Write the folder or hub name of its base model into that file.", str(error)
        )
        keys = r"\bmodel\.(base|quantization|attn_implementation|trust_remote_code)\b"
        raise InputError(re.sub(keys, r"oracle.\1", text)) from error
