"""Values of oracles, the models retrained without the forget stage, by the run they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable

Setting = tuple[object, ...]
Row = tuple[str, str, int, int, Setting, float]


class Oracles:
    """Looks up what an oracle measured.

    Args:
        rows: measure, path, position, seed, setting, value. A null in the setting matches any
            value of a run.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._found: dict[tuple[str, str, int], list[tuple[int, Setting, float]]] = {}
        for measure, path, position, seed, setting, value in rows:
            self._found.setdefault((measure, path, position), []).append((seed, setting, value))

    def measured(self, measure: str) -> bool:
        """Whether any oracle has a value of `measure`."""
        return any(name == measure for name, _, _ in self._found)

    def __len__(self) -> int:
        """Of how many pairs of measure and path there are values."""
        return len(self._found)

    def value(
        self, measure: str, path: str, position: int, setting: Setting, seed: int | None = None
    ) -> float:
        """The oracle's value for a run.

        Args:
            measure: its name.
            path: of the run the oracle is wanted for.
            position: of the forget stage in it.
            setting: the run's sweep values.
            seed: of the run; None for the mean over the oracle's seeds.

        Returns:
            The value of the oracle that names most of the setting; NaN where none matches.
        """
        closest: dict[int, tuple[int, float]] = {}
        for own_seed, own, value in self._found.get((measure, path, position), []):
            if seed in (None, own_seed) and matches(own, setting):
                named = named_in(own)
                if named > closest.get(own_seed, (-1, 0.0))[0]:
                    closest[own_seed] = (named, value)
        values = [value for _, value in closest.values() if not math.isnan(value)]
        return sum(values) / len(values) if values else math.nan


def matches(own: Setting, setting: Setting) -> bool:
    """Whether an oracle with the setting `own` is that of runs with `setting`."""
    return all(a is None or a == b for a, b in zip(own, setting, strict=True))


def named_in(setting: Setting) -> int:
    """How many of its keys a setting says something about."""
    return sum(part is not None for part in setting)
