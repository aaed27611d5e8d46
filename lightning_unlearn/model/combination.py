"""Combination: give a model the sum of stored models, without a second model in memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.distributed.tensors import local_slices
from lightning_unlearn.model.adapter_sums import module_of, scales, summed, truncated
from lightning_unlearn.model.adapters import LEARN, UNLEARN, Adapters
from lightning_unlearn.model.model_files import weight_files
from lightning_unlearn.model.stage import Term
from lightning_unlearn.model.weights import ModelWeights


def load_model(weights: ModelWeights, term: Term, seed: int) -> None:
    """Give a model the weights of one stored model.

    Args:
        weights: weights of the model. With adapters, "learn" becomes the stored model and "unlearn"
            is without effect.
        term: the stored model; its coefficient is not used.
        seed: seed of the run.
    """
    adapters = weights.adapters
    if adapters is None:
        if term.folder is not None:
            weights.load(LEARN, term.folder)
        else:
            weights.pretrained.load_into(weights.network.hf_model, weights.placement)
        return
    adapters.reset(UNLEARN, seed)
    if term.folder is None and term.given is None:
        adapters.reset(LEARN, seed)
    else:
        adapters.load_state_dict(LEARN, _tensors(weights, term))


def freeze_sum(weights: ModelWeights, terms: Sequence[Term], seed: int) -> None:
    """Give "learn" the sum of stored models, at any rank; without adapters, all weights.

    Args:
        weights: weights of the model.
        terms: the stored models with their coefficients, which sum to 1.
        seed: seed of the run.
    """
    adapters = weights.adapters
    if adapters is None:
        _sum_all(weights, terms)
        return
    adapters.reset(LEARN, seed)
    of_learn, of_unlearn = (scales(adapters.peft_model, name) for name in (LEARN, UNLEARN))
    ratios = {module: of_unlearn.get(module, own) / own for module, own in of_learn.items()}
    parts = []
    for term in terms:
        if term.coefficient and (term.folder is not None or term.given is not None):
            tensors = _tensors(weights, term)
            own = _rescaled(tensors, ratios) if term.is_update else tensors
            parts.append((term.coefficient, own))
    if parts:
        adapters.exchange(LEARN, summed(parts))


def load_sum(
    weights: ModelWeights, terms: Sequence[Term], rank: int | None, seed: int
) -> float | None:
    """Give a model the sum of stored models.

    With adapters, "unlearn" becomes the difference between the sum and "learn", whose weights do
    not change. Without adapters, all weights become the sum, computed in fp64 tensor by tensor.

    Args:
        weights: weights of the model.
        terms: the stored models with their coefficients, which sum to 1. The present model is one
            of them, if only with the coefficient 0.
        rank: rank of "unlearn"; None for the sum of the ranks of the terms.
        seed: seed of the run.

    Returns:
        The relative error of `truncated`; None if ``rank`` is None.
    """
    if weights.adapters is None:
        _sum_all(weights, terms)
        return None
    return _sum_adapters(weights, weights.adapters, terms, rank, seed)


def _sum_adapters(
    weights: ModelWeights, adapters: Adapters, terms: Sequence[Term], rank: int | None, seed: int
) -> float | None:
    adapters.reset(UNLEARN, seed)
    peft_model = adapters.peft_model
    # Every "unlearn" has one scale; "learn" has that of a given adapter, if there is one.
    scale = next(iter(scales(peft_model, UNLEARN).values()))
    ratios = {module: own / scale for module, own in scales(peft_model, LEARN).items()}
    parts = []
    for term in terms:
        coefficient = term.coefficient - term.is_present
        if coefficient and (term.folder is not None or term.given is not None):
            tensors = _tensors(weights, term)
            own = tensors if term.is_update else _rescaled(tensors, ratios)
            parts.append((coefficient, own))
    if not parts:
        return None if rank is None else 0.0
    product, lost = summed(parts), None
    if rank is not None:
        product, lost = truncated(product, rank)
    adapters.exchange(UNLEARN, product)
    return lost


def _tensors(weights: ModelWeights, term: Term) -> dict[str, Tensor]:
    """Return the weights of "learn" of a stored model, on the CPU."""
    if term.folder is None:
        given = weights.pretrained.given
        assert given is not None
        return given.after(term.given)
    assert weights.adapters is not None
    return weights.adapters.read(term.folder)


def _rescaled(tensors: Mapping[str, Tensor], ratios: Mapping[str, float]) -> dict[str, Tensor]:
    """Return weights whose factor B contains the ratio of two scales."""
    found = {}
    for name, tensor in tensors.items():
        ratio = ratios[module_of(name)]
        is_b = "lora_B" in name or "lora_embedding_B" in name
        found[name] = ratio * tensor if is_b and ratio != 1 else tensor
    return found


@torch.no_grad()
def _sum_all(weights: ModelWeights, terms: Sequence[Term]) -> None:
    """Give all weights of a model without adapters the sum; a process computes its own shard."""
    from torch.distributed.tensor import DTensor

    hf_model, pretrained = weights.network.hf_model, weights.pretrained
    weights.are_changed = True
    targets: dict[str, Any] = dict(hf_model.named_parameters())
    targets |= {
        name: value
        for name, value in hf_model.state_dict().items()
        if name in dict(hf_model.named_buffers()) and value.is_floating_point()
    }
    readers = []
    for term in terms:
        if not term.coefficient:
            continue
        name = str(term.folder) if term.folder is not None else pretrained.name
        whole = None if term.folder is None else str(term.folder)

        def read_whole(whole: str | None = whole) -> Any:
            return pretrained.load(weights.placement.weight_dtype, whole).state_dict()

        readers.append((term.coefficient, _reader(name, set(targets), read_whole)))
    for name, target in targets.items():
        own = target.to_local() if isinstance(target, DTensor) else target
        cut = local_slices(target) if isinstance(target, DTensor) else (slice(None),)
        total = torch.zeros(own.shape, dtype=torch.float64)
        for coefficient, read in readers:
            total += coefficient * read(name, cut).double()
        own.copy_(total)


def _reader(
    name: str, wanted: set[str], read_whole: Callable[[], dict[str, Tensor]]
) -> Callable[[str, tuple[slice, ...]], Tensor]:
    """Return a function that reads a part of a weight of a stored model."""
    from safetensors import safe_open

    files = weight_files(name)
    if wanted <= set(files):
        opened: dict[Path, Any] = {
            file: safe_open(file, framework="pt") for file in set(files.values())
        }

        def read_slice(key: str, cut: tuple[slice, ...]) -> Tensor:
            values: Tensor = opened[files[key]].get_slice(key)[cut if len(cut) > 1 else cut[0]]
            return values

        return read_slice
    # The files have other names of weights than the model.
    state = read_whole()
    return lambda key, cut: state[key][cut]
