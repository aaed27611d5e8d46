"""The folder of one run: adapters, records, curves, and what the run was."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError

from lightning_unlearn import records
from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.notes import read_note
from lightning_unlearn.runs import ABOUT, sizes


class RunLogger(TensorBoardLogger):
    """TensorBoard for a run of several fits: one event file, closed when the run is over."""

    def finalize(self, status: str) -> None:
        """Only flush: Lightning says this after every stage."""
        if self._experiment is not None:
            self.experiment.flush()

    def save(self) -> None:
        """Nothing: the run's settings are in config.yaml and run.json."""

    def close(self) -> None:
        """The run is over."""
        if self._experiment is not None:
            self.experiment.close()


def stage_logger(folder: Path) -> RunLogger:
    """A logger that writes into a folder."""
    return RunLogger(folder, name="", version="", default_hp_metric=False)


class RunDirectory:
    """Where a run's results go.

    A second run with the same settings finds its folder again; one with other settings never
    overwrites it, but goes to a folder of the same name and a number.

    Args:
        folder: wanted place.
        about: what the run is; ``about["key"]`` tells runs apart.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about

    def open(self, config: str | None) -> None:
        """Make the folder.

        Args:
            config: the configuration as YAML, kept as config.yaml.

        Raises:
            InputError: if it can't be made there.
            StorageError: if it can't be written.
        """
        with _writing(self.folder):
            wanted, number = self.folder, 1
            while not self._free(self.folder):
                number += 1
                self.folder = wanted.with_name(f"{wanted.name}_{number}")
            self.folder.mkdir(parents=True, exist_ok=True)
            # Curves are made anew from the records; those of an interrupted run would overlay them.
            for events in self.folder.glob("events.out.tfevents.*"):
                events.unlink()
            records.write_text(self.folder / ABOUT, _json({**self.about, "finished": False}))
            if config is not None:
                records.write_text(self.folder / "config.yaml", config)

    def _free(self, folder: Path) -> bool:
        """Whether a folder may be this run's: it is new, the same run's, or of one given up."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            raise InputError(
                f"trainer.default_root_dir: {folder} can't be made, because a part of that path "
                "is a file; name another folder."
            ) from None
        except ValueError:
            return False
        if not isinstance(about, dict):
            return False
        return about.get("key") == self.about["key"] or _given_up(about)

    def tensorboard(self, datamodule: StagedDataModule) -> RunLogger:
        """A logger that writes into the folder, with a layout of forget against utility."""
        logger = stage_logger(self.folder)
        if datamodule.forget is not None:
            method = self.about["method"]
            others = [stage for stage in datamodule.path if stage != datamodule.forget]
            tag = re.escape(method)
            utility = "|".join(others)
            layout = {
                f"{method}: forget against utility": {
                    "forget: label and paraphrases": [
                        "Multiline",
                        [f"{tag}/forget/(label|paraphrases)$"],
                    ],
                    "utility: answers of the other stages": [
                        "Multiline",
                        [f"{tag}/answers/({utility})$"],
                    ],
                    "utility: accuracy": ["Multiline", [f"{tag}/accuracy/.*$"]],
                }
            }
            with _writing(self.folder):
                logger.experiment.add_custom_scalars(layout)
        return logger

    def close(self, stages: list[tuple[str, Path]]) -> None:
        """Fill the folder from the store's entries and mark the run finished.

        Args:
            stages: name and store folder of every step of the walk.

        Raises:
            StorageError: if it can't be written.
        """
        with _writing(self.folder):
            parts = self._fill(stages)
            about = {**self.about, "finished": True, "files": sizes(self.folder, parts)}
            records.write_text(self.folder / ABOUT, _json(about))

    def _fill(self, stages: list[tuple[str, Path]]) -> list[str]:
        """Copy adapters and records; returns what is then there."""
        trained = [(name, entry) for name, entry in stages if name != ORACLE]
        # The last one counts: "learn" has gone through all stages.
        weights = {UNLEARN if name == UNLEARN else "learn": entry for name, entry in trained}
        for which, entry in weights.items():
            target = self.folder / which
            if target.exists():
                shutil.rmtree(target)
            shutil.copytree(entry / which, target)
        parts = list(weights)
        final, last = stages[-1]
        identity = {k: self.about[k] for k in ("path", "position", "method", "seed")}
        for file in (records.STEPS, records.EXAMPLES):
            if (last / file).is_file():
                table = records.read_table(last / file)
                columns: dict[str, Any] = {k: [v] * len(table) for k, v in identity.items()}
                columns["stage"] = [final] * len(table)
                columns |= {name: table[name].tolist() for name in table.columns}
                records.replace(self.folder / file, partial(records.write_table, columns=columns))
                parts.append(file)
        history: dict[str, list[Any]] = {"stage": [], "step": [], "loss": [], "lr": []}
        for _, entry in trained:
            table = records.read_table(entry / records.TRAINING)
            for name, values in history.items():
                values += table[name].tolist()
        records.replace(
            self.folder / records.TRAINING, lambda draft: records.write_table(draft, history)
        )
        return [*parts, records.TRAINING]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A folder that can't be written is a mistake of the user's, or a full disk.

    Raises:
        StorageError: in place of what the system says.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"trainer.default_root_dir: {folder} can't be written: {reason}. What is in the store "
            "is intact; make room, or name another folder or another trainer.name."
        ) from error


def _given_up(about: dict[str, Any]) -> bool:
    """Whether a run was left unfinished and nobody is at it: what it had is in the store."""
    if about.get("finished") is not False or "store" not in about:
        return False
    notes = [read_note(Path(about["store"]), stage["key"]) for stage in about["stages"]]
    return not any(note is not None and note.state == "running" for note in notes)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
