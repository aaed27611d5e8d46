"""AdapterFiles: a LoRA adapter in PEFT's format, on disk or on the hub."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.weights_check import (
    ADAPTER,
    AGAIN,
    MERGE,
    check_json,
    find_file,
    opened,
)

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
# Keys of adapter_config.json that the new PEFT configuration takes.
_USED = (
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
)
# Keys that describe the file, or that act only when an adapter is created or trained.
_NO_EFFECT = (
    "peft_type",
    "peft_version",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "init_lora_weights",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
)
# Initializations that leave the base weights as they are.
_PLAIN_STARTS = (None, True, False, "default", "gaussian", "eva", "orthogonal")
_COPY = ".base_layer.weight"
_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")


@dataclass(frozen=True)
class AdapterFiles:
    """A LoRA adapter on disk or on the hub.

    Attributes:
        key: YAML key that names it, for messages.
        name: folder or hub name, as the key has it.
        located: folder or hub name, for `find_file`.
        config: content of adapter_config.json.
        weights: the safetensors file.
    """

    key: str
    name: str
    located: str
    config: dict[str, Any]
    weights: Path

    @property
    def base(self) -> str | None:
        """Name of the model on which it was trained; None if the file does not say."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def dropout(self) -> float:
        """Dropout with which it was trained."""
        return float(self.config.get("lora_dropout") or 0)

    def lora_config(self) -> dict[str, Any]:
        """Return the arguments of PEFT's LoraConfig that determine its function."""
        return {name: self.config[name] for name in _USED if self.config.get(name) is not None}

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        with opened(self.weights, self.key) as handle:
            names = handle.keys()
            return {name: tuple(handle.get_slice(name).get_shape()) for name in names}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its weights by the names that PEFT gives them, without copies of the base.

        PEFT also writes the base's embedding or output projection if it has an adapter.

        Raises:
            InputError: if the file cannot be read.
        """
        return {n: shape for n, shape in self._shapes.items() if not n.endswith(_COPY)}

    @cached_property
    def modules(self) -> dict[str, tuple[int, float]]:
        """Rank and scale by name of the layer; the scale is the factor of B A.

        Raises:
            InputError: if the file holds no weights, or weights that are not of LoRA.
        """
        found = {}
        for name, shape in sorted(self.shapes.items()):
            part = _FACTOR.fullmatch(name)
            if part is None:
                raise InputError(
                    f"{self.key}: {self.weights}: found {name}, expected only weights of LoRA "
                    f"(lora_A, lora_B). {MERGE}"
                )
            if part[3] == "A":
                found[part[1]] = (shape[0], self._scale(part[1], shape[0]))
        if not found:
            raise InputError(
                f"{self.key}: {self.weights}: found no weights, expected some. {AGAIN}"
            )
        return found

    def _scale(self, module: str, rank: int) -> float:
        pattern: dict[str, float] = self.config.get("alpha_pattern") or {}
        # PEFT takes the first key that matches the end of the name.
        key = next((k for k in pattern if re.fullmatch(rf"(.*\.)?({k})", module)), None)
        alpha = float(self.config["lora_alpha"] if key is None else pattern[key])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def tensors(self) -> dict[str, Tensor]:
        """Return its weights by the names that PEFT gives them, on the CPU.

        Raises:
            InputError: if the file cannot be read.
        """
        with opened(self.weights, self.key) as handle:
            return {name: handle.get_tensor(name) for name in sorted(self.shapes)}

    def check_copies(self, files: Mapping[str, Path]) -> None:
        """Refuse an adapter that was trained on other weights than the base model's.

        Args:
            files: file of each weight of the base model.

        Raises:
            InputError: with the name of the weight.
        """
        for name in sorted(set(self._shapes) - set(self.shapes)):
            with opened(self.weights, self.key) as handle:
                copy = handle.get_tensor(name)
            # The output projection may be tied to the embedding, which has another name.
            if not any(_equal(copy, weight, file, self.key) for weight, file in files.items()):
                raise InputError(
                    f"{self.key}: {self.weights}: found {name}, which differs from the weights of "
                    f"the base model, expected an equal copy. {MERGE}"
                )

    def check_numbers(self) -> None:
        """Refuse weights that are not finite.

        Raises:
            InputError: with the name of the weight.
        """
        for name, tensor in self.tensors().items():
            if not torch.isfinite(tensor).all():
                found = tensor[~torch.isfinite(tensor)].flatten()[0].item()
                raise InputError(
                    f"{self.key}: {self.weights}: found {found} in {name}, expected finite "
                    "numbers. The adapter diverged before it was saved: use an earlier one."
                )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its function: ranks, scales and weights."""
        digest = hashlib.sha256(json.dumps(self.modules, sort_keys=True).encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _equal(copy: Tensor, weight: str, file: Path, key: str) -> bool:
    """Return whether a weight of a model is a tensor, in the dtype of the tensor."""
    with opened(file, key) as handle:
        if handle.get_slice(weight).get_shape() != list(copy.shape):
            return False
        return torch.equal(handle.get_tensor(weight).to(copy.dtype), copy)


def is_adapter(name: str) -> bool:
    """Return whether a name is that of an adapter alone: a folder, or a repository of the hub."""
    if name.startswith("demo:") or not name:
        return False
    folder = Path(name).expanduser()
    if folder.is_dir():
        return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()
    if _looks_like_path(name):
        return False
    return _find(name, ADAPTER) is not None and _find(name, "config.json") is None


def read_adapter(name: str, key: str) -> AdapterFiles:
    """Find an adapter and read its configuration.

    Args:
        name: folder or hub name.
        key: YAML key, for messages.

    Raises:
        InputError: if there is no adapter, or if it is more than plain LoRA in safetensors.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and (_looks_like_path(name) or not name):
        raise InputError(
            f"{key}: found {name!r}, which is not a folder, expected a folder with a LoRA adapter "
            f"({ADAPTER}, {WEIGHTS}), or a hub name."
        )
    located = str(folder) if folder.is_dir() else name
    file = _find(located, ADAPTER)
    if file is None:
        model = _find(located, "config.json") is not None
        remedy = " It holds a whole model, which model.base can name." if model else ""
        raise InputError(
            f"{key}: found {name} without {ADAPTER}, expected a LoRA adapter in PEFT's format "
            f"({ADAPTER}, {WEIGHTS}).{remedy}"
        )
    check_json(file.parent, [file.name], key)
    config = json.loads(file.read_text(encoding="utf-8"))
    _check_config(config, f"{key}: {name}/{ADAPTER}")
    weights = _find(located, WEIGHTS)
    if weights is None and _find(located, PICKLED) is not None:
        raise InputError(
            f"{key}: found {PICKLED} in {name}, which is a pickle and may run code, expected "
            f"{WEIGHTS}. Convert it in Python, if you trust it: PeftModel.from_pretrained("
            "AutoModelForCausalLM.from_pretrained(MODEL), ADAPTER).save_pretrained(CONVERTED)"
        )
    if weights is None:
        raise InputError(f"{key}: found {name} without {WEIGHTS}, expected it. {AGAIN}")
    return AdapterFiles(key, name, located, config, weights)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()


def _find(located: str, file: str) -> Path | None:
    try:
        return find_file(located, file)
    except Exception:  # Not the name of a repository; the caller says what is expected.
        return None


def _check_config(config: dict[str, Any], where: str) -> None:
    """Refuse an adapter that is more than plain LoRA.

    Raises:
        InputError: with the key of adapter_config.json.
    """
    from peft import LoraConfig

    kind, task = config.get("peft_type"), config.get("task_type")
    if kind != "LORA":
        raise InputError(f"{where}: found peft_type: {kind}, expected LORA. {MERGE}")
    if task not in (None, "CAUSAL_LM"):
        raise InputError(f"{where}: found task_type: {task}, expected CAUSAL_LM.")
    plain = LoraConfig().to_dict()
    for name, value in config.items():
        if name in ("r", "lora_alpha"):
            bad = isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0
        elif name == "init_lora_weights":
            bad = value not in _PLAIN_STARTS
        else:
            known = name in _USED or name in _NO_EFFECT
            bad = not known and bool(value) and value != plain.get(name)
        if bad:
            shown = json.dumps(value)
            raise InputError(f"{where}: found {name}: {shown}, expected plain LoRA. {MERGE}")
    if missing := [name for name in ("r", "lora_alpha", "target_modules") if not config.get(name)]:
        raise InputError(f"{where}: found no {missing[0]}, expected one. {AGAIN}")
