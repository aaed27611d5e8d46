"""Sums of LoRA adapters as one adapter of a higher rank, and adapters of another rank in a model.

The products B A are added, not their factors: c1 B1 A1 + c2 B2 A2 = [c1 B1, c2 B2] [A1; A2].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_PREFIX = "base_model.model."


def is_a(name: str) -> bool:
    """Return whether a weight is the factor A, by the name that PEFT gives it."""
    return ".lora_A." in name or name.endswith(".lora_embedding_A")


def partner(name: str) -> str:
    """Return the name of the factor B that belongs to a factor A."""
    return name.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")


def module_of(name: str) -> str:
    """Return the name of the layer of a weight, by the name that PEFT gives the weight."""
    return name.removeprefix(_PREFIX).split(".lora_")[0]


def summed(parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Add adapters of equal scale.

    Args:
        parts: coefficients and weights by the names that PEFT gives them, on the CPU.

    Returns:
        The weights of one adapter of the same scale, whose ranks are the sums of the ranks.
    """
    found: dict[str, list[Tensor]] = {}
    for coefficient, weights in parts:
        for name, tensor in weights.items():
            found.setdefault(name, []).append(tensor if is_a(name) else coefficient * tensor)
    # A has one row per rank, B one column.
    return {
        name: torch.cat(own, dim=0 if is_a(name) else 1).contiguous()
        for name, own in sorted(found.items())
    }


def truncated(weights: Mapping[str, Tensor], rank: int) -> tuple[dict[str, Tensor], float]:
    """Return the best approximation of an adapter with a given rank, layer by layer.

    By singular value decomposition, which keeps the largest singular values of each layer's update
    B A (Eckart and Young 1936). The dense update is never computed: with
    B = Q1 R1 and A^T = Q2 R2, the decomposition is that of the small matrix R1 R2^T.

    Args:
        weights: by the names that PEFT gives them, on the CPU.
        rank: largest rank of a layer.

    Returns:
        The weights; and the relative error, the Frobenius norm of what is lost divided by that of
        the update, over all layers; 0 if no layer has a higher rank.
    """
    found: dict[str, Tensor] = {}
    lost = total = 0.0
    for name in sorted(filter(is_a, weights)):
        a, b = weights[name], weights[partner(name)]
        if a.shape[0] <= rank:
            found[name], found[partner(name)] = a, b
            # Norm of B A from the Gram matrices of the factors.
            total += float(((b.double().T @ b.double()) * (a.double() @ a.double().T)).sum())
            continue
        # The large factors in their own precision, the small matrix in fp64.
        q1, r1 = torch.linalg.qr(b)
        q2, r2 = torch.linalg.qr(a.T)
        u, values, vh = torch.linalg.svd(r1.double() @ r2.double().T, full_matrices=False)
        squares = values.square()
        lost, total = lost + float(squares[rank:].sum()), total + float(squares.sum())
        root = values[:rank].sqrt()
        found[partner(name)] = (q1 @ (u[:, :rank] * root).to(b.dtype)).contiguous()
        found[name] = ((root[:, None] * vh[:rank]).to(a.dtype) @ q2.T).contiguous()
    return found, (lost / total) ** 0.5 if total else 0.0


def scales(peft_model: Any, name: str) -> dict[str, float]:
    """Return the factor of B A in each layer that has an adapter, by name of the layer."""
    from peft.tuners.lora import LoraLayer

    return {
        module.removeprefix(_PREFIX): layer.scaling[name]
        for module, layer in peft_model.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.scaling
    }


class Exchange:
    """An adapter of a model, exchanged for one of other ranks for a while.

    The own modules are kept as they are, so a sharded model has them back unchanged. The new ones
    are whole on every process.

    Args:
        peft_model: a ``PeftModel``.
        name: the adapter.
        weights: weights by the names that PEFT gives them; the scale is that of the own adapter.
        dtype: dtype of the new weights.
        device: device of the new weights.
    """

    # What a layer keeps for each adapter.
    _TABLES = (
        "r",
        "lora_alpha",
        "scaling",
        "lora_dropout",
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "use_dora",
        "use_rslora",
        "lora_bias",
    )

    def __init__(
        self,
        peft_model: Any,
        name: str,
        weights: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        from peft.tuners.lora import LoraLayer

        self._name = name
        self._model = peft_model
        self._config = config = peft_model.peft_config[name]
        self._own: list[tuple[Any, dict[str, Any]]] = []
        scale = config.lora_alpha / config.r
        modules = {
            module.removeprefix(_PREFIX): layer
            for module, layer in peft_model.named_modules()
            if isinstance(layer, LoraLayer)
        }
        had = {module for module, layer in modules.items() if name in layer.scaling}
        ranks = {module_of(key): len(weights[key]) for key in weights if is_a(key)}
        for module, layer in modules.items():
            taken: dict[str, Any] = {}
            for table in self._TABLES:
                own = getattr(layer, table, None)
                if own is not None and name in own:
                    taken[table] = own[name]
                    del own[name]
            self._own.append((layer, taken))
            if module in ranks:
                # A given adapter may have another scale in each layer.
                own_scale = taken.get("scaling", scale)
                self._put(layer, module, weights, own_scale, dtype, device)
        peft_model.peft_config[name] = _described(config, ranks, scale, had == set(ranks))

    def _put(
        self,
        layer: Any,
        module: str,
        weights: Mapping[str, Tensor],
        scale: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        name, before = self._name, f"{_PREFIX}{module}."
        kept: Any
        if (a := weights.get(f"{before}lora_embedding_A")) is not None:
            b = weights[f"{before}lora_embedding_B"]
            layer.lora_embedding_A[name] = _parameter(a, dtype, device)
            layer.lora_embedding_B[name] = _parameter(b, dtype, device)
        else:
            a, b = weights[f"{before}lora_A.weight"], weights[f"{before}lora_B.weight"]
            # Layers of adapters that compute in 16 bits are of a class of their own.
            kept = type(next(iter(layer.lora_A.values()), nn.Linear(1, 1)))
            for table, values in ((layer.lora_A, a), (layer.lora_B, b)):
                part = nn.Linear(1, 1, bias=False, device="meta")
                part.__class__ = kept if issubclass(kept, nn.Linear) else nn.Linear
                part.out_features, part.in_features = values.shape
                part.weight = _parameter(values, dtype, device)
                table[name] = part
        layer.r[name], layer.lora_alpha[name] = len(a), scale * len(a)
        layer.scaling[name] = scale
        layer.lora_dropout[name] = nn.Identity()
        layer.use_dora[name] = layer.use_rslora[name] = layer.lora_bias[name] = False

    def undo(self) -> None:
        """Put the own adapter back."""
        for layer, taken in self._own:
            for table in self._TABLES:
                found: Any = getattr(layer, table, None)
                if found is not None and self._name in found:
                    del found[self._name]
                if table in taken:
                    found[self._name] = taken[table]
        self._model.peft_config[self._name] = self._config


def _parameter(values: Tensor, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(values.to(device, dtype), requires_grad=False)


def _described(own: Any, ranks: Mapping[str, int], scale: float, same_layers: bool) -> Any:
    """Return PEFT's configuration of an adapter with other ranks."""
    import copy

    config = copy.copy(own)
    rank = max(ranks.values())
    config.r, config.lora_alpha = rank, scale * rank
    others = {module: count for module, count in ranks.items() if count != rank}
    config.rank_pattern = others
    config.alpha_pattern = {module: scale * count for module, count in others.items()}
    if not same_layers:
        config.target_modules, config.exclude_modules = set(ranks), None
    return config
