"""Settings of a model: the arguments of `CausalLM`, and the shape of its adapters."""

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_unlearn.errors import InputError

# Every linear layer but the output projection.
ALL = "all-linear"

Quantization = Literal["nf4"]


@dataclass
class LoRA:
    """Shape of the LoRA adapters.

    Attributes:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapters' inputs while training.
        target_modules: "all-linear" (all but the output projection), or a list of module names,
            such as [q_proj, v_proj, o_proj, gate_proj, up_proj, down_proj].
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | list[str] = field(default="all-linear")

    def check(self) -> None:
        """Refuse values that PEFT cannot build.

        Raises:
            InputError: naming the key.
        """
        if self.rank < 1:
            raise InputError(
                f"model.lora.rank: found {self.rank}, expected at least 1. To train all weights "
                "instead of adapters, set model.lora: null."
            )
        if not 0 < self.alpha < math.inf:
            raise InputError(f"model.lora.alpha: found {self.alpha}, expected a positive number.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.lora.dropout: found {self.dropout}, expected [0, 1).")
        if not self.target_modules:
            raise InputError(
                "model.lora.target_modules: found an empty list, expected module names."
            )
        if isinstance(self.target_modules, str) and self.target_modules != ALL:
            try:
                re.compile(self.target_modules)
            except (re.error, RecursionError, OverflowError) as error:
                raise InputError(
                    f"model.lora.target_modules: found {self.target_modules!r}, which is no "
                    f"regular expression ({error}), expected one, {ALL}, or a list of module names."
                ) from None

    def key(self) -> dict[str, Any]:
        """Return the values that decide what training does, for the key of the stage store."""
        values = asdict(self)
        # Whole numbers from Python are the numbers that YAML gives.
        values |= {"alpha": float(self.alpha), "dropout": float(self.dropout)}
        if isinstance(self.target_modules, list):
            values["target_modules"] = sorted(self.target_modules)
        return values


@dataclass
class Oracle:
    """A retrained model that exists already, to compare with.

    Attributes:
        base: model folder, hub name, or the folder of a LoRA adapter in PEFT's format, on the base
            model that its adapter_config.json names. It has the tokenizer of model.base; its
            architecture and size may differ.
        quantization: nf4 keeps it in 4 bits a weight.
        attn_implementation: as in transformers; null for model.attn_implementation.
        trust_remote_code: run code that comes with the oracle.
    """

    base: str
    quantization: Quantization | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """The arguments of `CausalLM`, which documents them."""

    base: str
    lora: LoRA | None = field(default_factory=LoRA)
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    save_merged: bool = False
    attn_implementation: str = "sdpa"
    compile: bool = False
    trust_remote_code: bool = False
    adapters: dict[str, str] | None = None
    stacked: bool = False
