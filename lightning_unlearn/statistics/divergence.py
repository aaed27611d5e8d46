"""Distances between models."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def squared_distance(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Compute the mean squared difference over examples: the RE distance of two models.

    Args:
        one: log-likelihoods of one model, [..., examples], nats per token.
        other: log-likelihoods of the other model, of the same shape.

    Returns:
        [...], in (nats per token)^2. Examples that are not finite in both models are ignored; NaN
        if there are no others.

    Source: arXiv 2510.16629, definition 2.1.
    """
    with np.errstate(invalid="ignore"):
        squares = (np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2
    known = np.isfinite(squares)
    count = known.sum(axis=-1)
    total = np.where(known, squares, 0.0).sum(axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.float64)


def pairwise_distance(models: ArrayLike) -> NDArray[np.float64]:
    """Compute the RE distance of each pair of models.

    Args:
        models: log-likelihoods, [models, ..., examples], nats per token. The axes in between, such
            as seeds and steps, are not mixed: each model is compared at the same seed and step.

    Returns:
        [pairs, ...], in (nats per token)^2, pairs in the order of `itertools.combinations`.

    Raises:
        InputError: if there is no axis of examples.
    """
    array = np.asarray(models, dtype=np.float64)
    if array.ndim < 2:
        raise InputError(
            f"pairwise distance: found values of shape {array.shape}, expected "
            "[models, ..., examples]"
        )
    pairs = list(itertools.combinations(range(len(array)), 2))
    # One pair at a time: all pairs at once would need memory for every squared difference.
    distances = np.empty((len(pairs), *array.shape[1:-1]))
    for number, (one, other) in enumerate(pairs):
        distances[number] = squared_distance(array[one], array[other])
    return distances
