"""Paths: the orders in which stages are trained."""

import itertools
from collections.abc import Sequence
from typing import Literal

from lightning_unlearn.errors import InputError


def choose_path(
    stages: Sequence[str],
    forget: str | None,
    order: Sequence[str] | None,
    position: int | None,
    permutation: int | None,
) -> tuple[str, ...]:
    """The path that a user names in one of three ways; by none of them the written order.

    Args:
        stages: names of all stages, as they are written.
        forget: the stage to unlearn; None for none.
        order: the path as a list of names.
        position: place of the forget stage, from 1, the others in written order.
        permutation: number of the order among all orders, from 1.

    Raises:
        InputError: for a path that there is not, or that is named twice.
    """
    given = {"order": order, "position": position, "permutation": permutation}
    chosen = [f"data.{name}" for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)}: both choose the path; keep one of them.")
    if position is not None:
        if forget is None:
            raise InputError("data.position: it places the forget stage, and data.forget is null.")
        paths = all_paths(stages, forget, "positions")
        if not 1 <= position <= len(paths):
            raise InputError(
                f"data.position: found {position}, expected 1 to {len(paths)} "
                f"(there are {len(paths)} stages)."
            )
        return paths[position - 1]
    if permutation is not None:
        paths = all_paths(stages, forget, "permutations")
        if not 1 <= permutation <= len(paths):
            raise InputError(
                f"data.permutation: found {permutation}, expected 1 to {len(paths)} "
                f"({len(stages)} stages have {len(paths)} orders)."
            )
        return paths[permutation - 1]
    return check_order(stages, forget, stages if order is None else order)


def check_order(
    stages: Sequence[str], forget: str | None, order: Sequence[str], key: str = "data.order"
) -> tuple[str, ...]:
    """A path, if it can be walked.

    Args:
        stages: names of all stages.
        forget: the stage to unlearn; None for none.
        order: names of stages.
        key: YAML key of the order, for messages.

    Returns:
        The same names.

    Raises:
        InputError: if it is empty, names an unknown stage or one stage twice, or leaves the
            forget stage out.
    """
    if not order:
        raise InputError(f"{key}: found an empty list, expected names of stages.")
    for place, name in enumerate(order):
        if name not in stages:
            raise InputError(
                f"{key}: found the unknown stage {name!r}, expected some of {', '.join(stages)}."
            )
        if name in order[:place]:
            raise InputError(f"{key}: found {name!r} twice; a path visits a stage once.")
    if forget is not None and forget not in order:
        raise InputError(
            f"{key}: found {', '.join(order)}, which leaves out the forget stage "
            f"{forget!r}: nothing would be there to unlearn."
        )
    return tuple(order)


def all_paths(
    stages: Sequence[str], forget: str | None, kind: Literal["positions", "permutations"]
) -> list[tuple[str, ...]]:
    """Many paths through the stages.

    Args:
        stages: names of all stages, as they are written.
        forget: the stage to unlearn; None for none.
        kind: "positions" moves the forget stage from first to last among the others, which
            keep their written order; "permutations" gives every order.

    Raises:
        InputError: "positions" without a forget stage.
    """
    if kind == "permutations":
        return list(itertools.permutations(stages))
    if forget is None:
        raise InputError("paths: positions: it moves the forget stage, and data.forget is null.")
    others = [name for name in stages if name != forget]
    return [(*others[:place], forget, *others[place:]) for place in range(len(others) + 1)]
