"""What a study has to do, counted before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        path: the stages in order.
        method: label of the unlearning method.
    """

    path: Path
    method: str

    def __str__(self) -> str:
        return f"{self.method} {'-'.join(self.path)}"


@dataclass(frozen=True)
class StudyPlan:
    """Paths x methods, and what they share.

    Attributes:
        paths: the paths.
        methods: labels of the methods.
    """

    paths: Sequence[Path]
    methods: Sequence[str]

    @property
    def cells(self) -> list[Cell]:
        """All runs, path by path, so that a path is walked once and then unlearned repeatedly."""
        return [Cell(path, method) for path in self.paths for method in self.methods]

    @property
    def prefixes(self) -> list[Path]:
        """The distinct stage prefixes of all paths, in the order they are first needed."""
        found = (path[:length] for path in self.paths for length in range(1, len(path) + 1))
        return list(dict.fromkeys(found))

    @property
    def stages_apart(self) -> int:
        """Stage trainings if every path were walked from the start."""
        return sum(map(len, self.paths))

    def __str__(self) -> str:
        shared, apart = len(self.prefixes), self.stages_apart
        trainings = f"{shared} stage training{'s' if shared != 1 else ''}"
        if shared < apart:
            trainings += f" instead of {apart}"
        runs = len(self.cells)
        return f"{trainings}, {runs} unlearning{'s' if runs != 1 else ''}"
