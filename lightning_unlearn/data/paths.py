"""Paths: orders of training stages."""

import itertools
from collections.abc import Sequence
from typing import Literal

from lightning_unlearn.errors import InputError

# Why no oracle can be trained if the base model has learned the forget stage, and what to do.
NO_ORACLE = (
    "model.base has learned the forget stage, so no oracle can be trained from it. Train one from "
    "a model that has not learned it, and name that with oracle: {base: ORACLE}."
)


def choose_path(
    stages: Sequence[str],
    forget: str | None,
    order: Sequence[str] | None,
    position: int | None,
    permutation: int | None,
    learned: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the path of the configuration; by default the written order.

    Args:
        stages: names of all stages, in written order.
        forget: the stage to unlearn; None for none.
        order: the stages to train as a list of names.
        position: position of the forget stage, from 1; the others keep their written order.
        permutation: number of the order among all orders of the stages to train, from 1.
        learned: stages that the base model has learned; every path begins with them.

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
        return _by_position(stages, forget, position, learned)
    if permutation is not None:
        return _by_permutation(stages, forget, permutation, learned)
    default = [name for name in stages if name not in learned]
    return check_order(stages, forget, default if order is None else order, learned=learned)


def _by_position(
    stages: Sequence[str], forget: str | None, position: int, learned: Sequence[str]
) -> tuple[str, ...]:
    """Return the path with the forget stage at a position; see `choose_path`."""
    if forget is None:
        raise InputError(
            f"data.position: found {position} with data.forget null, expected a forget stage; "
            "set data.forget."
        )
    if forget in learned:
        raise InputError(
            f"data.position: found {position} with {forget!r} in data.learned, expected null: "
            "what model.base has learned cannot be moved; remove data.position."
        )
    paths, begin = all_paths(stages, forget, "positions", learned), len(learned)
    if not begin < position <= begin + len(paths):
        after = " after the learned ones" if learned else ""
        raise InputError(
            f"data.position: found {position}, expected {begin + 1} to {begin + len(paths)} "
            f"(there are {len(stages) - begin} stages{after})."
        )
    return paths[position - begin - 1]


def _by_permutation(
    stages: Sequence[str], forget: str | None, permutation: int, learned: Sequence[str]
) -> tuple[str, ...]:
    """Return the path of a number; see `choose_path`."""
    paths = all_paths(stages, forget, "permutations", learned)
    if len(learned) == len(stages):
        raise InputError(
            f"data.permutation: found {permutation}, but data.learned has all stages, so there "
            "is nothing to order; remove data.permutation."
        )
    if not 1 <= permutation <= len(paths):
        raise InputError(
            f"data.permutation: found {permutation}, expected 1 to {len(paths)} "
            f"({len(stages) - len(learned)} stages have {len(paths)} orders)."
        )
    return paths[permutation - 1]


def check_forget(stages: Sequence[str], forget: str | None, oracle: bool) -> None:
    """Check the forget stage.

    Args:
        stages: names of all stages.
        forget: the forget stage; None for none.
        oracle: whether an oracle is trained.

    Raises:
        InputError: if the stage is unknown, or an oracle is trained without one.
    """
    if forget is not None and forget not in stages:
        raise InputError(
            f"data.forget: found {forget!r}, expected one of the stages {', '.join(stages)}."
        )
    if oracle and forget is None:
        raise InputError(
            "data.oracle: found true with data.forget null, expected a forget stage to omit; set "
            "data.forget, or data.oracle: false."
        )


def check_order(
    stages: Sequence[str],
    forget: str | None,
    order: Sequence[str],
    key: str = "data.order",
    learned: Sequence[str] = (),
) -> tuple[str, ...]:
    """Check a path.

    Args:
        stages: names of all stages.
        forget: the stage to unlearn; None for none.
        order: names of the stages to train.
        key: YAML key of the order, for messages.
        learned: stages that the base model has learned.

    Returns:
        The learned stages, then those to train.

    Raises:
        InputError: if the path is empty, has an unknown stage or one stage twice, or omits the
            forget stage.
    """
    if not order and not learned:
        raise InputError(
            f"{key}: found an empty list, expected names of stages. Stages that model.base has "
            "learned already belong in data.learned."
        )
    for position, name in enumerate(order):
        if name not in stages:
            raise InputError(
                f"{key}: found the unknown stage {name!r}, expected some of {', '.join(stages)}."
            )
        if name in order[:position]:
            raise InputError(f"{key}: found {name!r} twice, expected each stage once.")
        if name in learned:
            raise InputError(
                f"{key}: found {name!r}, which is also in data.learned, expected only stages that "
                f"model.base has not learned. Remove {name!r} from one of the two."
            )
    path = (*learned, *order)
    if forget is not None and forget not in path:
        raise InputError(
            f"{key}: found {', '.join(order) or 'an empty list'}, expected a path with the forget "
            f"stage {forget!r}, which is to be unlearned. If model.base has learned {forget!r} "
            f"already, set data.learned: [{forget}]."
        )
    return path


def check_learned(
    stages: Sequence[str], forget: str | None, learned: Sequence[str], oracle: bool
) -> None:
    """Check the stages that the base model has learned.

    Args:
        stages: names of all stages.
        forget: the stage to unlearn; None for none.
        learned: names of the learned stages.
        oracle: whether an oracle is to be trained.

    Raises:
        InputError: if a stage is unknown or appears twice, or if no oracle can be trained because
            the base model has learned the forget stage.
    """
    for place, name in enumerate(learned):
        if name not in stages:
            raise InputError(
                f"data.learned: found {name!r}, expected names of data.stages: "
                f"{', '.join(stages)}. Add {name!r} to data.stages, with the rows that model.base "
                "has learned as its source."
            )
        if name in learned[:place]:
            raise InputError(f"data.learned: found {name!r} twice, expected each stage once.")
    if oracle and forget in learned:
        raise InputError(
            f"data.oracle: found true with {forget!r} in data.learned, expected false: {NO_ORACLE}"
        )


def all_paths(
    stages: Sequence[str],
    forget: str | None,
    kind: Literal["positions", "permutations"],
    learned: Sequence[str] = (),
) -> list[tuple[str, ...]]:
    """Return all paths of a kind.

    Args:
        stages: names of all stages, in written order.
        forget: the stage to unlearn; None for none.
        kind: "positions" moves the forget stage from first to last; the other stages keep their
            written order. "permutations" gives every order.
        learned: stages that the base model has learned; every path begins with them.

    Raises:
        InputError: if the kind is "positions" and there is no forget stage that can be moved.
    """
    rest = [name for name in stages if name not in learned]
    if kind == "permutations":
        return [(*learned, *order) for order in itertools.permutations(rest)]
    if forget is None:
        raise InputError(
            "paths: found positions with data.forget null, expected a forget stage to move; set "
            "data.forget, or paths: permutations."
        )
    if forget in learned:
        raise InputError(
            f"paths: found positions, but the forget stage {forget!r} is in data.learned and "
            "cannot be moved, expected orders of the stages to train: paths: permutations, or "
            "lists such as paths: [[]] to train none."
        )
    others = [name for name in rest if name != forget]
    return [(*learned, *others[:i], forget, *others[i:]) for i in range(len(others) + 1)]
