"""GivenAdapters: adapters trained elsewhere, from which ``learn`` starts."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.adapter_files import AdapterFiles, is_adapter, read_adapter
from lightning_unlearn.model.adapter_sums import is_a
from lightning_unlearn.model.model_files import locate
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.model.weights_check import find_file

# Name of the adapter that model.base names: which stages it has learned is not known from it.
UNNAMED = ""


@dataclass(frozen=True)
class GivenAdapters:
    """Adapters that were trained elsewhere, in the order of training.

    The last one gives the weights and the shape of ``learn``. The others are its state after
    earlier stages, for `after`.

    Attributes:
        files: the adapters by the name of the stage after which each is the state; one adapter
            named `UNNAMED` if model.base names it.
        is_stacked: whether each was trained on the merge of those before it. The function is then
            the base plus the sum of all; ``learn`` holds the sum as one LoRA of the summed rank.
    """

    files: dict[str, AdapterFiles]
    is_stacked: bool

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages after which an adapter is the state."""
        return tuple(name for name in self.files if name != UNNAMED)

    @property
    def last(self) -> AdapterFiles:
        """The adapter that was trained last."""
        return list(self.files.values())[-1]

    @property
    def tokenizer(self) -> str | None:
        """Folder or hub name of the last adapter, if it has a tokenizer of its own; else None."""
        found = find_file(self.last.located, "tokenizer_config.json")
        return None if found is None else self.last.located

    @property
    def layers(self) -> set[str]:
        """Last parts of the names of the layers that have an adapter."""
        return {name.rpartition(".")[2] for file in self.files.values() for name in file.modules}

    def lora_config(self) -> dict[str, Any]:
        """Return the arguments of PEFT's LoraConfig for ``learn``."""
        if not self.is_stacked:
            return self.last.lora_config()
        ranks: dict[str, int] = {}
        for adapter in self.files.values():
            for module, (rank, _) in adapter.modules.items():
                ranks[module] = ranks.get(module, 0) + rank
        rank = max(ranks.values())
        pattern = {module: own for module, own in ranks.items() if own != rank}
        return {
            "r": rank,
            # Scale 1: the weights contain the scales.
            "lora_alpha": rank,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": sorted(ranks),
            "fan_in_fan_out": bool(self.last.config.get("fan_in_fan_out")),
        }

    def after(self, stage: str | None = None) -> dict[str, Tensor]:
        """Return the weights of ``learn`` after a stage that was trained elsewhere.

        Args:
            stage: one of `stages`; None for the last one.

        Returns:
            Tensors on the CPU by the names that PEFT gives them. All stages have equal shapes.

        Raises:
            InputError: if a file cannot be read.
        """
        if not self.is_stacked:
            adapter = self.last if stage is None else self.files[stage]
            return adapter.tensors()
        names = list(self.files)
        count = len(names) if stage is None else names.index(stage) + 1
        parts: dict[str, list[Tensor]] = {}
        for place, adapter in enumerate(self.files.values()):
            for name, tensor in adapter.tensors().items():
                parts.setdefault(name, []).append(_part(adapter, name, tensor, place < count))
        # A holds one row per rank, B one column.
        return {
            name: torch.cat(own, dim=0 if is_a(name) else 1).contiguous()
            for name, own in sorted(parts.items())
        }

    def fingerprint(self) -> str:
        """Return a hash of the weights and scales from which ``learn`` starts."""
        # Of states of one adapter, learn starts from the last one alone.
        used = self.files.values() if self.is_stacked else [self.last]
        text = json.dumps([self.is_stacked, *(adapter.fingerprint for adapter in used)])
        return hashlib.sha256(text.encode()).hexdigest()

    def history(self) -> dict[str, str]:
        """Return a hash of each adapter by name of its stage, for the key of unlearning."""
        return {name: self.files[name].fingerprint for name in self.stages}

    def check_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse adapters that do not fit the base model or each other.

        Args:
            expected: shapes of the weights of ``learn`` on the base model, by name.

        Raises:
            InputError: with the name of a weight.
        """
        for adapter in self.files.values():
            _ = adapter.modules  # Refuses weights that are not of LoRA.
            for name in sorted({*adapter.shapes, *([] if self.is_stacked else expected)}):
                found, wanted = adapter.shapes.get(name), expected.get(name)
                if self.is_stacked and found and wanted and len(found) == len(wanted) == 2:
                    ranked = 0 if is_a(name) else 1
                    wanted = tuple(
                        own if place == ranked else size
                        for place, (own, size) in enumerate(zip(found, wanted, strict=True))
                    )
                if found != wanted:
                    raise InputError(
                        f"{adapter.key}: {adapter.name}: found {_shape(found)} for {name}, "
                        f"expected {_shape(wanted)} on the base model. Use the base model on which "
                        "the adapter was trained."
                    )

    def check_values(self, base: Mapping[str, Path]) -> None:
        """Refuse weights that are not finite, or were trained on other weights than the base's.

        Args:
            base: file of each weight of the base model.

        Raises:
            InputError: with the name of the weight.
        """
        for place, adapter in enumerate(self.files.values()):
            adapter.check_numbers()
            # A stacked adapter was trained on the merge of those before it.
            if place == 0 or not self.is_stacked:
                adapter.check_copies(base)

    def notes(self, base: str, dropout: float) -> list[str]:
        """Return notes for the user.

        Args:
            base: name of the base model.
            dropout: dropout of adapters in this run.

        Returns:
            One sentence per note.
        """
        found = []
        # Only the first of stacked adapters was trained on the base model itself.
        trained = list(self.files.values())[: 1 if self.is_stacked else None]
        located = locate(base, "model.base")
        for adapter in trained:
            if adapter.base is not None and not _same(_found_base(adapter), located):
                found.append(
                    f"{adapter.key}: {adapter.name} was trained on {adapter.base} "
                    f"(base_model_name_or_path); here its base is {base}."
                )
        if self.last.dropout != dropout:
            found.append(
                f"{self.last.key}: {self.last.name} was trained with lora_dropout "
                f"{self.last.dropout:g}; here model.lora.dropout, {dropout:g}, is used."
            )
        if self.tokenizer is not None:
            found.append(
                f"{self.last.key}: the tokenizer of {self.last.name}, with its chat template, is "
                "used."
            )
        return found


def find_given(settings: ModelSettings) -> tuple[ModelSettings, GivenAdapters | None]:
    """Find the adapters that the settings name, and the base model below them.

    Args:
        settings: settings of the model; ``base`` may name an adapter.

    Returns:
        The settings with the name of the base model and with all adapters in ``adapters``; and the
        adapters, None if there are none.

    Raises:
        InputError: if an adapter cannot be used, or its base model is not known.
    """
    paths = dict(settings.adapters or {})
    if is_adapter(settings.base):
        if paths:
            raise InputError(
                f"model.base: found the adapter {settings.base} and model.adapters, expected a "
                "base model. Name the adapter in model.adapters too."
            )
        adapter = read_adapter(settings.base, "model.base")
        settings = replace(settings, base=_base_of(adapter), adapters={UNNAMED: settings.base})
        files = {UNNAMED: adapter}
    else:
        files = {
            name: read_adapter(path, "model.base" if name == UNNAMED else f"model.adapters.{name}")
            for name, path in paths.items()
        }
    is_stacked = settings.stacked and len(files) > 1
    if settings.stacked and not is_stacked:
        raise InputError(
            "model.stacked: found true, expected at least two adapters in model.adapters, or false."
        )
    if not files:
        return settings, None
    if settings.lora is None:
        raise InputError(
            "model.lora: found null with an adapter, expected LoRA settings for the adapter that "
            "unlearning adds. To train all weights, merge the adapter into the base model first."
        )
    given = GivenAdapters(files, is_stacked)
    if not is_stacked:
        _check_alike(files)
    return settings, given


def _base_of(adapter: AdapterFiles) -> str:
    """Return the base model of an adapter that model.base names.

    Raises:
        InputError: if it is not known or cannot be used.
    """
    by_hand = (
        "Name the base model yourself: model.base: MODEL, model.adapters: "
        f"{{STAGE: {adapter.name}}}, with STAGE the last stage that the adapter has learned."
    )
    where = f"{adapter.key}: {adapter.name}/adapter_config.json: base_model_name_or_path"
    if adapter.base is None:
        raise InputError(f"{where}: found none, expected the base model. {by_hand}")
    revision = adapter.config.get("revision")
    if revision not in (None, "main"):
        raise InputError(
            f"{where}: found {adapter.base} in revision {revision}, expected main. Download that "
            f"revision. {by_hand}"
        )
    base = _found_base(adapter)
    try:
        # Remote code is not needed to find the model; the base itself is loaded with the setting.
        locate(base, where)
        if Path(base).is_dir() and is_adapter(base):
            raise InputError(f"{where}: found {base}, which is an adapter, expected a model.")
    except InputError as error:
        raise InputError(f"{error} {by_hand}") from None
    return base


def _found_base(adapter: AdapterFiles) -> str:
    """Return the name of an adapter's base; a relative folder may be relative to the adapter."""
    name = str(adapter.base)
    beside = Path(adapter.located) / name
    if not Path(name).expanduser().is_dir() and beside.is_dir():
        return str(beside)
    return name


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    return all(Path(n).is_dir() for n in (one, other)) and Path(one).samefile(other)


def _check_alike(files: Mapping[str, AdapterFiles]) -> None:
    """Refuse adapters that are not states of one adapter.

    Raises:
        InputError: with the first layer in which they differ.
    """
    (first, adapter), *others = files.items()
    for name, other in others:
        for module in sorted({*adapter.modules, *other.modules}):
            one, two = adapter.modules.get(module), other.modules.get(module)
            if one != two:
                raise InputError(
                    f"model.adapters: found {_rank(one)} on {module} in {first} and {_rank(two)} "
                    f"in {name}, expected equal ones: each is the state of one adapter after its "
                    "stage. If each was trained on the merge of those before it, set "
                    "model.stacked: true."
                )


def _rank(module: tuple[int, float] | None) -> str:
    return "no adapter" if module is None else f"rank {module[0]} (scale {module[1]:g})"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no weight" if shape is None else f"the shape {list(shape)}"


def _part(adapter: AdapterFiles, name: str, tensor: Tensor, has_effect: bool) -> Tensor:
    """Return a factor of one of several stacked adapters, B with the scale in it."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    if is_a(name):
        return wide
    module = name.removeprefix("base_model.model.").split(".lora_")[0]
    return wide * (adapter.modules[module][1] if has_effect else 0.0)
