"""Optimizer steps of the history that a path-aware method uses."""

from collections.abc import Mapping

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.storage.path_history import Chain, Frozen, Link, PathHistory
from lightning_unlearn.unlearning.path_aware import PathAware


def history_steps(
    method: PathAware, data: StagedDataModule, counts: Mapping[str, int | None]
) -> int | None:
    """Count the optimizer steps that a method adds to those of the path.

    Args:
        method: the method.
        data: stages and path, with a forget stage.
        counts: optimizer steps of each trained stage; None if its rows are unknown.

    Returns:
        The steps of all models of the history, each trained once; None if a stage of them is
        unknown.

    Raises:
        InputError: for a stage or step that the path does not have.
    """
    steps = {name: count for name, count in counts.items() if count is not None}
    if data.forget is None or any(name not in steps for name in data.training_stages):
        return None
    found = method.result(PathHistory(data.prefix, data.forget, steps))
    path: Chain = tuple(Link(name) for name in data.prefix)
    known = {path[: place + 1] for place in range(len(path))}
    total = 0
    chains = [chain for chain, _ in found.terms]
    while chains:
        chain = chains.pop()
        if chain and isinstance(chain[0], Frozen):
            chains += [inner for inner, _ in chain[0].terms]
        for place, link in enumerate(chain):
            prefix = chain[: place + 1]
            is_elsewhere = place < len(data.learned) and prefix == path[: place + 1]
            if isinstance(link, Frozen) or prefix in known or is_elsewhere:
                continue
            known.add(prefix)
            if (*prefix[:-1], Link(link.name)) in known and link.upto is not None:
                continue  # A snapshot of a stage that is trained anyway.
            own = link.upto if link.upto is not None else link.steps
            total += steps[link.name] if own is None else own
    return total
