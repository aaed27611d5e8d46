"""OracleModel: an oracle that is a model of its own (``oracle.base``), and its checks."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.datamodule import ORACLE, StagedDataModule
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.adapters import CONFIG, LEARN, WEIGHTS, Adapters
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.settings import LoRA, ModelSettings, Oracle
from lightning_unlearn.model.stage import StageStart
from lightning_unlearn.training.stage_trainer import StageTrainer

# Keys of an adapter's configuration that change its values, and the only value that is supported.
PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}
OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


class OracleModel:
    """An oracle that is a model of its own, without its weights in memory.

    Args:
        settings: the key ``oracle`` of the configuration.
        model: settings of the model that is compared with it.

    Attributes:
        settings: the argument `settings`.
        adapter: folder of the adapter on its base; None for a whole model.

    Raises:
        InputError: if there is no such model.
    """

    def __init__(self, settings: Oracle, model: ModelSettings) -> None:
        self.settings = settings
        folder = Path(settings.base).expanduser()
        is_adapter = (folder / CONFIG).is_file() and not (folder / "config.json").is_file()
        self.adapter = folder if is_adapter else None
        base, lora = read_adapter(folder) if is_adapter else (settings.base, model.lora)
        if lora is None and settings.quantization is not None:
            # Only models with adapters can be quantized; this one has no effect.
            lora = LoRA(rank=1)
        self._options: dict[str, Any] = {
            "base": base,
            "lora": lora,
            "quantization": settings.quantization,
            "attn_implementation": settings.attn_implementation or model.attn_implementation,
            "trust_remote_code": settings.trust_remote_code,
        }
        self._checked: set[Any] = set()
        with about_oracle():
            self._closed = CausalLM(**self._options)
        if not is_adapter and lora is not None and settings.quantization is None:
            # Adapters without effect: gradient norms are those of the weights that the run trains.
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
        load = {} if self.adapter is None else {LEARN: self.adapter}
        module.start_stage(StageStart(ORACLE, fresh=True, load=load))
        return module

    def identity(self) -> dict[str, Any]:
        """Return what the oracle's values depend on, for the key of the stage store."""
        with about_oracle():
            found = {
                "model": self._closed.pretrained.fingerprint(),
                "attention": self._options["attn_implementation"],
            }
        if self.settings.quantization is not None:
            found["quantization"] = self.settings.quantization
        if self.adapter is not None:
            weights = (self.adapter / WEIGHTS).read_bytes()
            found["adapter"] = hashlib.sha256(weights).hexdigest()
            found["lora"] = self._options["lora"].key()
        return found

    def check(self, trainer: StageTrainer, model: CausalLM, data: StagedDataModule) -> None:
        """Refuse an oracle that cannot be compared with the model; see `check_oracle`."""
        precision, strategy = str(trainer.precision), trainer.strategy
        # The trials of a study share a model and its oracle.
        wanted = precision, type(strategy)
        if wanted not in self._checked:
            own = self._closed
            with about_oracle():
                own.checks.files(precision)
                own.checks.device(precision, strategy.root_device)
                own.checks.quantization(trainer)
                if isinstance(strategy, FSDP2):
                    _refuse_tensor_parallel(strategy)
                    own.checks.layers(strategy.layer_classes)
            self._check_adapter()
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

    def _check_adapter(self) -> None:
        """Refuse an adapter whose weights are not those of its configuration, or not finite."""
        if self.adapter is None:
            return
        from safetensors.torch import load_file

        pretrained, key = self._closed.pretrained, f"oracle.base: {self.settings.base}"
        try:
            weights = load_file(self.adapter / WEIGHTS)
            with about_oracle():
                hf_model = pretrained.empty(torch.float32)
                adapters = Adapters.attach(hf_model, self._options["lora"], pretrained.name)
            shapes = {name: tensor.to("meta") for name, tensor in weights.items()}
            adapters.load_state_dict(LEARN, shapes, key)
        except InputError as error:
            text = str(error).removeprefix(f"{key}: ")
            raise InputError(
                f"{key}: found an adapter that does not fit {pretrained.name}, the base model "
                f"that its {CONFIG} names: {text}"
            ) from error
        except Exception as error:  # A damaged file may raise anything.
            raise InputError(
                f"{key}: found a {WEIGHTS} that cannot be read: {' '.join(str(error).split())}"
            ) from error
        for name, tensor in weights.items():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"{key}: found numbers in {name} that are not finite, expected finite ones. "
                    "Use another copy of the adapter."
                )

    def _check_vocabulary(self, model: CausalLM) -> None:
        own, other = self._closed.pretrained.vocabulary_size, model.pretrained.vocabulary_size
        if own != other:
            raise InputError(
                f"oracle.base: found {self.settings.base} with an embedding of {own} tokens, "
                f"expected {other}, as model.base ({model.settings.base}) has: distributions of "
                "the next token are compared. Name a model retrained from the same base."
            )

    def _has_tokenizer(self) -> bool:
        folder = Path(self._options["base"]).expanduser()
        return not folder.is_dir() or any((folder / name).is_file() for name in OF_TOKENIZER)

    def notes(self, model: CausalLM) -> list[str]:
        """Return what the user should know about the oracle, as sentences."""
        base, found = self.settings.base, []
        if not self._has_tokenizer():
            found.append(
                f"oracle.base: {base} has no tokenizer, so its tokens are taken for those of "
                "model.base."
            )
        own, other = self._closed.pretrained, model.pretrained
        if self.adapter is None and own.fingerprint() == other.fingerprint():
            found.append(
                f"oracle.base: {base} has the same weights as model.base, so the distance of "
                "model.base to the oracle is 0."
            )
        elif self.adapter is None and self._options["lora"] is None and model.settings.lora:
            found.append(
                f"oracle.base: model.lora does not fit {base}, so gradient norms of the oracle "
                "are those of all its weights."
            )
        return found


def read_adapter(folder: Path) -> tuple[str, LoRA]:
    """Read the configuration of an adapter in PEFT's format.

    Args:
        folder: folder with adapter_config.json.

    Returns:
        Name of its base model, and its shape.

    Raises:
        InputError: if it is no LoRA adapter, or one with parts that are not supported.
    """
    key = f"oracle.base: {folder / CONFIG}"
    try:
        values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rank, alpha = int(values["r"]), float(values["lora_alpha"])
        targets, base = values["target_modules"], values["base_model_name_or_path"]
        assert isinstance(targets, str | list)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise InputError(
            f"{key}: found a file without r, lora_alpha, target_modules or "
            "base_model_name_or_path, expected the configuration of a LoRA adapter as PEFT "
            "writes it."
        ) from None
    for name, plain in PLAIN.items():
        if values.get(name, plain) not in (plain, None):
            raise InputError(
                f"{key}: found {name} {json.dumps(values[name])}, expected {json.dumps(plain)}. "
                "Merge the adapter with PEFT (merge_and_unload, then save_pretrained), and name "
                "the merged model."
            )
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{key}: found no base_model_name_or_path, expected the model that the adapter was "
            "trained on. Write its folder or hub name into the file."
        )
    if values.get("use_rslora"):
        alpha *= rank**0.5
    lora = LoRA(rank, alpha, 0.0, targets)
    with about_oracle():
        lora.check()
    return base, lora


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
        keys = r"\bmodel\.(base|quantization|attn_implementation|trust_remote_code)\b"
        raise InputError(re.sub(keys, r"oracle.\1", str(error))) from error
