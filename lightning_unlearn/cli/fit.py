"""``lightning-unlearn fit`` and ``validate``: run the trainer and print the results."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_unlearn.errors import visible
from lightning_unlearn.report import terminal
from lightning_unlearn.report.sections.cautions import cautions_of
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table
from lightning_unlearn.training.from_config import StagedCLI


class FitCLI(StagedCLI):
    """Runs the two commands with the trainer's methods of the same names."""

    def fit(self, **kwargs: Any) -> None:
        """Train and unlearn, write the configuration to the run's folder, and print results."""
        self.trainer.config_text = self.config_text()
        self.trainer.fit(**kwargs)
        if not self.trainer.is_global_zero:
            return
        results = self.trainer.results
        if results is not None and results.steps:
            ends = results.first_and_last()
            if self.datamodule.oracle:
                _print_means({name: last for name, (_, last) in ends.items()})
            else:
                self._print_ends(ends)
        for line in (
            f"Written to {self.trainer.run_dir}",
            f"Page: lightning-unlearn report {self.trainer.run_dir}",
            f"Curves: tensorboard --logdir {self.trainer.default_root_dir}",
        ):
            print(visible(line))

    def _print_ends(self, ends: dict[str, tuple[float, float]]) -> None:
        """Print the curves of the run and the metrics before and after unlearning."""
        out = Console()
        assert self.trainer.run_dir is not None, "made by fit"
        table_of_steps = read_table(self.trainer.run_dir / STEPS)
        if (drawn := terminal.curves(table_of_steps)) is not None:
            out.print(drawn)
        table, left_out = terminal.ends_table(ends)
        out.print(table)
        if left_out:
            out.print(f"{left_out} They are in {STEPS}.", highlight=False)
        for line in cautions_of(table_of_steps, read_table(self.trainer.run_dir / EXAMPLES)):
            print(visible(line))

    def validate(self, **kwargs: Any) -> None:
        """Evaluate without training, and print the means of the metrics."""
        means = self.trainer.validate(**kwargs)
        if self.trainer.is_global_zero:
            _print_means(means)


def _print_means(means: dict[str, float]) -> None:
    table = Table("metric", "mean")
    for name, value in means.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


def run(
    command: str, content: dict[str, Any], arguments: list[str], remarks: Sequence[str] = ()
) -> None:
    """Run ``fit`` or ``validate``.

    Args:
        command: "fit" or "validate".
        content: configuration merged from files.
        arguments: command-line arguments.
        remarks: lines that --print_config prints as comments before the configuration.

    Raises:
        InputError: for a mistake in the configuration or the arguments.
    """
    FitCLI(command, content, arguments, remarks)
