"""The folder of one run: adapters, records, curves, and what the run was."""

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
from lightning_unlearn.storage.entry_status import read_note
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

# Where in a run's folder its row of the HParams tab is.
FINAL = "final"


class RunLogger(TensorBoardLogger):
    """TensorBoard for a run of several fits: one event file, closed when the run is over.

    Args:
        folder: where it goes.
        method: label of the method whose measures are charted and summed up; None for none.
        forget: the stage that is unlearned.
        settings: gives what the run's row of the HParams tab says besides its results.
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
        """Write points of curves, and remember the first and last value of the method's."""
        super().log_metrics(metrics, step)
        for tag, value in metrics.items():
            if self._method is not None and tag.startswith(f"{self._method}/"):
                if step and not self._step:
                    # Every monitor has looked at step 0, so it is known what there is to chart.
                    self._arrange()
                self._step = max(self._step, step or 0)
                measure = tag.removeprefix(f"{self._method}/")
                self._ends[measure] = (self._ends.get(measure, (value,))[0], value)

    def _arrange(self) -> None:
        if self._method is not None and self._forget is not None:
            charts = charts_of(self._method, self._ends, self._forget)
            if charts:
                self.experiment.add_custom_scalars({self._method: charts})

    def finalize(self, status: str) -> None:
        """Only flush: Lightning says this after every stage."""
        if self._experiment is not None:
            self.experiment.flush()

    def save(self) -> None:
        """Nothing: the run's settings are in config.yaml and run.json."""

    def close(self) -> None:
        """The run is over."""
        if self._experiment is None or self._is_closed:
            return
        self._is_closed = True
        self.experiment.close()
        if self._method is not None:
            self._sum_up()

    def _sum_up(self) -> None:
        """Write the run's row of the HParams tab.

        In a folder of its own: every curve beside it would be a column.
        """
        now = time.time()
        values = final_values(self._ends, self._forget, bool(self._step))
        points = [(self._step, scalar(tag, value)) for tag, value in values.items()]
        row = [(0, summary) for summary in session(self._settings())]
        file = self._folder / FINAL / f"{EVENTS}.{int(now):010d}.{FINAL}"
        with _writing(self._folder):
            write_events(file, now, [*row, *points])


def stage_logger(folder: Path) -> RunLogger:
    """A logger that writes into a folder."""
    return RunLogger(folder)


class RunFolder:
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
        self._config: str | None = None

    def check(self) -> None:
        """Refuse a place where the folder can't be made; nothing is written.

        Raises:
            InputError: if a part of the path is a file.
            StorageError: if it can't be written.
        """
        with _writing(self.folder):
            self._free(self.folder)
            place = next(place for place in self.folder.absolute().parents if place.exists())
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))

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
            for place in (self.folder, self.folder / FINAL):
                for events in place.glob(f"{EVENTS}.*"):
                    events.unlink()
            records.write_text(self.folder / ABOUT, _json({**self.about, "finished": False}))
            self._config = config
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
        """A logger that writes into the folder, with charts of what is forgotten and kept.

        When it is closed, it sums the run up for the HParams tab.
        """
        if datamodule.forget is None:
            return stage_logger(self.folder)

        def settings() -> dict[str, Any]:
            return self._settings(datamodule)

        return RunLogger(self.folder, self.about["method"], datamodule.forget, settings)

    def _settings(self, data: StagedDataModule) -> dict[str, Any]:
        """What may differ between runs: names, then keys of the configuration.

        A trained stage is one text, for its recipe is seldom what runs differ in.
        """
        # As texts, for each value is to have a box that filters by it.
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
        """The base model, where there is a configuration that names it."""
        content = read_value(self._config) if self._config is not None else None
        model = content.get("model") if isinstance(content, dict) else None
        return model.get("base") if isinstance(model, dict) else None

    def _content(self) -> dict[str, Any]:
        """What the last step of the walk was made from."""
        try:
            file = Path(self.about["store"]) / self.about["key"] / MANIFEST
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["content"]
        except (KeyError, OSError, ValueError):
            return {}
        return content

    def close(self, stages: list[tuple[str, Path]]) -> None:
        """Fill the folder from the store's entries and mark the run finished.

        Args:
            stages: name and store folder of every step of the walk.

        Raises:
            StorageError: if it can't be written.
        """
        with _writing(self.folder):
            parts = self._fill(stages)
            told = [
                {**stage, **_made(entry)}
                for stage, (_, entry) in zip(self.about["stages"], stages, strict=True)
            ]
            files = describe_files(self.folder, parts)
            about = {**self.about, "stages": told, "finished": True, "files": files}
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
        # Copying a folder gives a list of what failed: source, target and reason.
        of_copy = error.args[0][0][-1] if isinstance(error, shutil.Error) else None
        reason = of_copy or getattr(error, "strerror", None) or error
        raise StorageError(
            f"trainer.default_root_dir: {folder} can't be written: {reason}. What is in the store "
            "is intact; make room, or name another folder or another trainer.run_name."
        ) from error


def _made(entry: Path) -> dict[str, Any]:
    """How an entry of the store was made: steps, what ended it, and on which machine."""
    details = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["details"]
    names = ("steps", "of", "ended", "machine")
    return {name: details[name] for name in names if details.get(name) is not None}


def _given_up(about: dict[str, Any]) -> bool:
    """Whether a run was left unfinished and nobody is at it: what it had is in the store."""
    if about.get("finished") is not False or "store" not in about:
        return False
    notes = [read_note(Path(about["store"]), stage["key"]) for stage in about["stages"]]
    return not any(note is not None and note.state == "running" for note in notes)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(seal_values(values), indent=2, sort_keys=True) + "\n"
