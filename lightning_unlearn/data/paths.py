"""Paths: orders of training stages."""

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
    """Return the path of the configuration; by default the written order.

    Args:
        stages: names of all stages, in written order.
        forget: the stage to unlearn; None for none.
        order: the path as a list of names.
        position: position of the forget stage, from 1; the others keep their written order.
        permutation: number of the order among all orders, from 1.

    Returns:
        Names of the stages, in the order of training.

    Raises:
        InputError: if there is no such path, or two of the arguments give one.
    """
    given = {"order": order, "position": position, "permutation": permutation}
    chosen = [f"data.{name}" for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(
            f"{' and '.join(chosen)}: found {len(chosen)} keys that choose the path, expected one; "
            "remove the others."
        )
    if position is not None:
        if forget is None:
            raise InputError(
                f"data.position: found {position} with data.forget null, expected a forget stage; "
                "set data.forget."
            )
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
    """Check a path.

    Args:
        stages: names of all stages.
        forget: the stage to unlearn; None for none.
        order: names of stages.
        key: YAML key of the order, for messages.

    Returns:
        The same names.

    Raises:
        InputError: if the path is empty, has an unknown stage or one stage twice, or omits the
            forget stage.
    """
    if not order:
        raise InputError(f"{key}: found an empty list, expected names of stages.")
    for position, name in enumerate(order):
        if name not in stages:
            raise InputError(
                f"{key}: found the unknown stage {name!r}, expected some of {', '.join(stages)}."
            )
        if name in order[:position]:
            raise InputError(f"{key}: found {name!r} twice, expected each stage once.")
    if forget is not None and forget not in order:
        raise InputError(
            f"{key}: found {', '.join(order)}, expected a path with the forget stage {forget!r}, "
            "which is to be unlearned."
        )
    return tuple(order)


def all_paths(
    stages: Sequence[str], forget: str | None, kind: Literal["positions", "permutations"]
) -> list[tuple[str, ...]]:
    """Return all paths of a kind.

    Args:
        stages: names of all stages, in written order.
        forget: the stage to unlearn; None for none.
        kind: "positions" moves the forget stage from first to last; the other stages keep their
            written order. "permutations" gives every order.

    Raises:
        InputError: if the kind is "positions" and there is no forget stage.
    """
    if kind == "permutations":
        return list(itertools.permutations(stages))
    if forget is None:
        raise InputError(
            "paths: found positions with data.forget null, expected a forget stage to move; set "
            "data.forget, or paths: permutations."
        )
    others = [name for name in stages if name != forget]
    return [(*others[:i], forget, *others[i:]) for i in range(len(others) + 1)]
