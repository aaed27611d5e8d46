"""Folder of one run: adapters, records, curves, and the description of the run."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.settings.strict_yaml import read_value
from lightning_unlearn.storage import records
from lightning_unlearn.storage.entry_status import read_status
from lightning_unlearn.storage.event_files import (
    EVENTS,
    charts_of,
    final_values,
    scalar,
    session,
    write_events,
)
from lightning_unlearn.storage.integrity import describe_files
from lightning_unlearn.storage.run_folders import ABOUT, MANIFEST
from lightning_unlearn.storage.seals import seal_values

# Subfolder of a run's folder with the run's row of TensorBoard's HParams tab.
FINAL = "final"


class RunLogger(TensorBoardLogger):
    """TensorBoard logger of a run with several fits: one event file, closed after the last fit.

    Args:
        folder: folder of the event file.
        method: label of the method; its metrics get charts and a row of the HParams tab. None
            for neither.
        forget: name of the forget stage.
        settings: returns the settings in the run's row of the HParams tab.
    """

    def __init__(
        self,
        folder: Path,
        method: str | None = None,
        forget: str | None = None,
        settings: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self._folder = folder
        self._method = method
        self._forget = forget
        self._settings = settings
        self._ends: dict[str, tuple[float, float]] = {}
        self._step = 0
        self._is_closed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write points of curves, and keep the first and last value of each of the method's."""
        super().log_metrics(metrics, step)
        for tag, value in metrics.items():
            if self._method is not None and tag.startswith(f"{self._method}/"):
                if step and not self._step:
                    # Every monitor evaluates step 0, so all metrics of the charts are known now.
                    self._define_charts()
                self._step = max(self._step, step or 0)
                metric = tag.removeprefix(f"{self._method}/")
                self._ends[metric] = (self._ends.get(metric, (value,))[0], value)

    def _define_charts(self) -> None:
        if self._method is not None and self._forget is not None:
            charts = charts_of(self._method, self._ends, self._forget)
            if charts:
                self.experiment.add_custom_scalars({self._method: charts})

    def finalize(self, status: str) -> None:
        """Flush the event file but keep it open: Lightning calls this after every stage."""
        if self._experiment is not None:
            self.experiment.flush()

    def save(self) -> None:
        """Write nothing: the run's settings are in config.yaml and run.json."""

    def close(self) -> None:
        """Close the event file, and write the run's row of the HParams tab."""
        if self._experiment is None or self._is_closed:
            return
        self._is_closed = True
        self.experiment.close()
        if self._method is not None:
            self._write_hparams()

    def _write_hparams(self) -> None:
        """Write the run's row of the HParams tab.

        The row has its own folder, because TensorBoard makes a column of every curve beside it.
        """
        now = time.time()
        values = final_values(self._ends, self._forget, bool(self._step))
        points = [(self._step, scalar(tag, value)) for tag, value in values.items()]
        row = [(0, summary) for summary in session(self._settings())]
        file = self._folder / FINAL / f"{EVENTS}.{int(now):010d}.{FINAL}"
        with _writing(self._folder):
            write_events(file, now, [*row, *points])


def stage_logger(folder: Path) -> RunLogger:
    """Return a logger that writes curves into a folder."""
    return RunLogger(folder)


class RunFolder:
    """Folder of the results of a run.

    A second run with the same settings uses the same folder. A run with other settings never
    overwrites it: its folder has the same name and a number.

    Args:
        folder: path of the folder, without a number.
        about: description of the run; ``about["key"]`` identifies the run.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        self._config: str | None = None

    def check(self) -> None:
        """Check that the folder can be created, without writing anything.

        Raises:
            InputError: if a part of the path is a file.
            StorageError: if the parent folder cannot be written.
        """
        with _writing(self.folder):
            self._free(self.folder)
            place = next(place for place in self.folder.absolute().parents if place.exists())
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))

    def open(self, config: str | None) -> None:
        """Create the folder.

        Args:
            config: the configuration as YAML, written to config.yaml; None for no such file.

        Raises:
            InputError: if a part of the path is a file.
            StorageError: if the folder cannot be written.
        """
        with _writing(self.folder):
            wanted, number = self.folder, 1
            while not self._free(self.folder):
                number += 1
                self.folder = wanted.with_name(f"{wanted.name}_{number}")
            self.folder.mkdir(parents=True, exist_ok=True)
            # The curves are written again from the records; curves of an interrupted run would
            # appear twice.
            for place in (self.folder, self.folder / FINAL):
                for events in place.glob(f"{EVENTS}.*"):
                    events.unlink()
            records.write_text(self.folder / ABOUT, _json({**self.about, "finished": False}))
            self._config = config
            if config is not None:
                records.write_text(self.folder / "config.yaml", config)

    def _free(self, folder: Path) -> bool:
        """Return whether this run may use a folder.

        It may if the folder is new, belongs to the same run, or to an abandoned run.
        """
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            raise InputError(
                f"trainer.default_root_dir: found {folder}, which cannot be created because a "
                "part of the path is a file. Set trainer.default_root_dir to another folder."
            ) from None
        except ValueError:
            return False
        if not isinstance(about, dict):
            return False
        return about.get("key") == self.about["key"] or _is_abandoned(about)

    def tensorboard(self, datamodule: StagedDataModule) -> RunLogger:
        """Return a logger that writes into the folder, with charts of forgetting and utility.

        When the logger is closed, it writes the run's row of the HParams tab.
        """
        if datamodule.forget is None:
            return stage_logger(self.folder)

        def settings() -> dict[str, Any]:
            return self._settings(datamodule)

        return RunLogger(self.folder, self.about["method"], datamodule.forget, settings)

    def _settings(self, data: StagedDataModule) -> dict[str, Any]:
        """Return the settings in which runs may differ: names, then keys of the configuration.

        The recipe of a trained stage is one text, because runs seldom differ in it.
        """
        # Write values as text: TensorBoard then shows one checkbox per value as a filter.
        named = {key: self.about[key] for key in ("method", "path", "position", "seed")}
        found = {key: str(value) for key, value in named.items() if value is not None}
        content = self._content()
        parts = {
            "data.unlearn": {} if data.oracle else data.unlearn.key(),
            "model.lora": content.get("lora") or {},
            "trainer.callbacks": {
                name: value
                for name, value in content.get("method", {}).get("parameters", {}).items()
                if not name.startswith("_")
            },
            "trainer": {"precision": content.get("precision")},
            "model": {"base": self._base()},
        }
        if "quantization" in content:
            parts["model"]["quantization"] = content["quantization"]
        for name in data.training_stages:
            stage = data.stages[name]
            recipe = {"source": stage.source, "limit": stage.limit, **stage.key()}
            pairs = [f"{key} {value}" for key, value in recipe.items() if value is not None]
            found[f"stage {name}"] = ", ".join(pairs)
        keys = {f"{part}.{key}": value for part, own in parts.items() for key, value in own.items()}
        return {**found, **keys}

    def _base(self) -> str | None:
        """Return the base model that the configuration names; None without a configuration."""
        content = read_value(self._config) if self._config is not None else None
        model = content.get("model") if isinstance(content, dict) else None
        return model.get("base") if isinstance(model, dict) else None

    def _content(self) -> dict[str, Any]:
        """Return the content of the run's last stage; {} if its manifest cannot be read."""
        try:
            file = Path(self.about["store"]) / self.about["key"] / MANIFEST
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["content"]
        except (KeyError, OSError, ValueError):
            return {}
        return content

    def close(self, stages: list[tuple[str, Path]]) -> None:
        """Fill the folder from the entries of the store, and mark the run as finished.

        Args:
            stages: name and store folder of every planned stage.

        Raises:
            StorageError: if the folder cannot be written.
        """
        with _writing(self.folder):
            parts = self._fill(stages)
            described = [
                {**stage, **_details(entry)}
                for stage, (_, entry) in zip(self.about["stages"], stages, strict=True)
            ]
            files = describe_files(self.folder, parts)
            history = [
                {**stage, **_details(Path(self.about["store"]) / stage["key"])}
                for stage in self.about.get("history", ())
            ]
            self.about |= {"history": history} if history else {}
            about = {**self.about, "stages": described, "finished": True, "files": files}
            records.write_text(self.folder / ABOUT, _json(about))

    def _fill(self, stages: list[tuple[str, Path]]) -> list[str]:
        """Copy adapters and records; return the names of the copied files and folders."""
        trained = [(name, entry) for name, entry in stages if name != ORACLE]
        # The last entry is used: its "learn" adapter was trained on all stages.
        weights = {UNLEARN if name == UNLEARN else "learn": entry for name, entry in trained}
        if trained and (trained[-1][1] / "learn").is_dir():
            # The entry of unlearning has "learn" too: the given adapter if nothing was trained
            # before, or the result of a path-aware method.
            weights["learn"] = trained[-1][1]
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
    """Convert the system's errors about a folder into StorageError.

    Raises:
        StorageError: if the folder cannot be written, for example because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # An error of copying a folder is a list of failures: source, target and reason.
        of_copy = error.args[0][0][-1] if isinstance(error, shutil.Error) else None
        reason = of_copy or getattr(error, "strerror", None) or error
        raise StorageError(
            f"trainer.default_root_dir: {folder} cannot be written: {reason}. The store is "
            "intact. Free disk space, or set another trainer.default_root_dir or trainer.run_name."
        ) from error


def _details(entry: Path) -> dict[str, Any]:
    """Read how a store entry was made: its steps, what ended or approximated it, and where."""
    details = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["details"]
    names = ("steps", "of", "ended", "rank_error", "machine")
    return {name: details[name] for name in names if details.get(name) is not None}


def _is_abandoned(about: dict[str, Any]) -> bool:
    """Return whether a run is unfinished and no process works on it; its stages are stored."""
    if about.get("finished") is not False or "store" not in about:
        return False
    notes = [read_status(Path(about["store"]), stage["key"]) for stage in about["stages"]]
    return not any(note is not None and note.state == "running" for note in notes)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(seal_values(values), indent=2, sort_keys=True) + "\n"
