"""Construction of trainer, model and data from a configuration, with LightningCLI."""

import argparse
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# These imports let the parser find short names such as NPO as class_path.
import lightning_unlearn.monitors
import lightning_unlearn.unlearning  # noqa: F401
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError, own_place, visible
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.settings import Oracle
from lightning_unlearn.settings.compose import MissingValue, read_arguments, set_key
from lightning_unlearn.settings.diagnosis import diagnose, find_class
from lightning_unlearn.settings.strict_yaml import read_argument, write_yaml
from lightning_unlearn.training.trainer import StagedTrainer
from lightning_unlearn.unlearning.base import Unlearning

# Lightning's arguments, and the keys of a recipe that replace them.
REPLACED = {
    "max_epochs": "data.stages.STAGE.epochs",
    "min_epochs": "data.stages.STAGE.epochs",
    "max_steps": "data.stages.STAGE.steps",
    "min_steps": "data.stages.STAGE.steps",
    "accumulate_grad_batches": "data.stages.STAGE.batch_size and data.micro_batch_size",
    "gradient_clip_val": "data.stages.STAGE.gradient_clip",
    "limit_train_batches": "data.stages.STAGE.steps or .limit",
}
ADVICE = {
    f"trainer.{name}": f"trainer.{name}: this key is not supported; set {instead} instead."
    for name, instead in {**REPLACED, "seed": "seed_everything", "oracle": "oracle"}.items()
}
LARGEST_SEED = 2**32 - 1


@dataclass
class FitFile:
    """The keys of a configuration for ``fit``; no object of this class is ever created."""

    trainer: StagedTrainer
    model: CausalLM
    data: StagedDataModule
    oracle: Oracle | None = None
    seed_everything: int = 0


@dataclass
class ValidateFile(FitFile):
    """The keys of a configuration for ``validate``."""

    stage: str | None = None


class StagedCLI(LightningCLI):
    """LightningCLI with one seed for everything; it raises errors instead of printing them.

    Args:
        command: "fit" or "validate"; None parses and creates the objects without running them.
        content: configuration merged from files.
        arguments: command-line arguments, which override the files.
        remarks: lines that --print_config prints as comments before the configuration.
    """

    def __init__(
        self,
        command: str | None,
        content: dict[str, Any],
        arguments: list[str],
        remarks: Sequence[str] = (),
    ) -> None:
        self._command, self._remarks = command, remarks
        keys = ValidateFile if command == "validate" else FitFile
        try:
            self._content, options = _with_arguments(content, arguments)
        except MissingValue as error:
            # If the key does not exist, report that and not its missing value.
            unknown = diagnose(set_key({}, error.key.split("."), None), keys, ADVICE)
            raise unknown if unknown and "unknown key" in str(unknown) else error from None
        self._content = _with_learned(self._content)
        # The parser's own --print_config cannot print every default.
        self._prints = "--print_config" in options
        options = [option for option in options if option != "--print_config"]
        # Diagnose before parsing: the parser accepts null for every type, and is slow.
        if "--help" not in options and (mistake := diagnose(self._content, keys, ADVICE)):
            raise mistake
        config = ["--config", json.dumps(self._content)] if self._content else []
        with warnings.catch_warnings():
            # LightningCLI 2.6 uses names that jsonargparse 4.49 deprecated.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
            self.trainer: StagedTrainer
            super().__init__(
                CausalLM,
                StagedDataModule,
                trainer_class=StagedTrainer,
                save_config_callback=None,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=[*([command] if command else []), *config, *options],
                run=command is not None,
                parser_kwargs={
                    "prog": "lightning-unlearn",
                    "exit_on_error": False,
                    "allow_abbrev": False,
                },
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the trainer's methods that are commands, with the arguments set by this class."""
        return {"fit": {"model", "datamodule"}, "validate": {"model", "datamodule"}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed: always an integer, because a run without one cannot be repeated."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of all random numbers."
        )

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seed_everything: found {seed}, expected 0 to {LARGEST_SEED}.")
        seed_everything(seed, workers=True, verbose=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the trainer's seed to ``seed_everything``, and its oracle to ``oracle``."""
        parser.add_argument(
            "--oracle",
            type=Oracle | None,
            default=None,
            help="A retrained model that exists already, which monitors compare with.",
        )
        parser.link_arguments("seed_everything", "trainer.seed")
        parser.link_arguments("oracle", "trainer.oracle")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments.

        Raises:
            InputError: for a mistake that `diagnose` did not find.
        """
        try:
            self.config = parser.parse_args(args)
        except (argparse.ArgumentError, TypeError, ValueError) as error:
            raise InputError(" ".join(str(error).split())) from None

    def before_instantiate_classes(self) -> None:
        """Print the configuration and exit, if --print_config was given."""
        if self._prints:
            remarks = "".join(f"# {visible(line)}\n" for line in self._remarks)
            print(remarks + self.config_text(), end="")
            raise SystemExit(0)

    def instantiate_classes(self) -> None:
        """Create model, data and trainer."""
        with as_input_error():
            self.config_init = self.parser.instantiate(self.config)
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
            self.trainer = self.instantiate_trainer()  # type: ignore[assignment]

    def config_text(self, config: Any = None) -> str:
        """Return a complete configuration as YAML; None stands for the parsed configuration."""
        if config is None:
            config = self.config.get(str(self.subcommand), self.config)
        parser = self._parser(self.subcommand)
        # Go through JSON, where text and numbers differ: the parser writes another YAML version.
        text = parser.dump(_plain(config.clone()), skip_unset=False, format="json")
        return write_yaml(json.loads(text), parser.dump_header or [])


def _with_arguments(
    content: dict[str, Any], arguments: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Apply the command-line arguments to a configuration.

    An unlearning method added on the command line replaces the method of the files.

    Args:
        content: configuration merged from files.
        arguments: command-line arguments.

    Returns:
        The changed configuration, and the arguments that change nothing, such as --print_config.
    """
    options: list[str] = []
    changed: Any = content
    from_files = len(_callbacks(content))
    for key, value in read_arguments(arguments):
        if value is None or key.split("=")[0] == "print_config":
            options.append(f"--{key}" if value is None else f"--{key}={value}")
            continue
        changed = set_key(changed, key.split("."), read_argument(value))
        if key == "trainer.callbacks":
            from_files = 0
        if key == "trainer.callbacks+":
            specs = _callbacks(changed)
            if any(map(_is_method, specs[from_files:])):
                kept = [spec for spec in specs[:from_files] if not _is_method(spec)]
                specs, from_files = [*kept, *specs[from_files:]], len(kept)
                changed = set_key(changed, ["trainer", "callbacks"], specs)
    return changed, options


def _with_learned(content: Any) -> Any:
    """Set data.learned to the stages of model.adapters, if a configuration does not set it."""
    parts = content if isinstance(content, dict) else {}
    model, data = parts.get("model"), parts.get("data")
    adapters = model.get("adapters") if isinstance(model, dict) else None
    if not isinstance(adapters, dict) or not isinstance(data, dict):
        return content
    if data.get("learned") is not None:
        return content
    return set_key(content, ["data", "learned"], [str(name) for name in adapters])


def _callbacks(content: Any) -> list[Any]:
    """Return the entries of trainer.callbacks of a configuration, always as a list."""
    trainer = content.get("trainer") if isinstance(content, dict) else None
    found = trainer.get("callbacks") if isinstance(trainer, dict) else None
    return found if isinstance(found, list) else [] if found is None else [found]


def _is_method(spec: Any) -> bool:
    """Return whether a callback entry of a configuration file is an unlearning method."""
    name = spec.get("class_path") if isinstance(spec, dict) else spec
    found = find_class(name, Callback) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, Unlearning)


def _plain(value: Any) -> Any:
    """Replace members of enumerations by their YAML values; return the configuration."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Namespace):
        for key, item in vars(value).items():
            setattr(value, key, _plain(item))
    return value


def is_method(spec: Any) -> bool:
    """Return whether a parsed callback is an unlearning method."""
    if not isinstance(spec, Namespace):
        return isinstance(spec, Unlearning)
    module, _, name = spec.class_path.rpartition(".")
    found = getattr(__import__(module, fromlist=[name]), name)
    return isinstance(found, type) and issubclass(found, Unlearning)


@contextmanager
def as_input_error() -> Iterator[None]:
    """Convert the errors that constructors raise for wrong settings into InputError.

    Raises:
        InputError: for a setting that Lightning or a callback refuses. An InputError of this
            package that the parser wrapped in another exception is raised itself.
    """
    try:
        yield
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        cause: BaseException = error
        while not isinstance(cause, InputError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        text = " ".join(str(cause).split())
        if (own := own_place(cause)) is not None:
            description = f"{type(cause).__name__}: {text}".rstrip(": ")
            raise InputError(f"trainer.callbacks: {own}: {description}.") from error
        key = _key_of(text)
        if key is None and isinstance(error, TypeError):
            raise
        raise InputError(f"{key or 'trainer'}: {text}") from error


# Patterns of Lightning's messages, and the trainer's key that each is about; None takes the match.
_ABOUT = {
    r"(?:^|invalid |`)(accelerator|strategy|devices|precision)": None,
    r"\(?(devices|num_nodes|profiler|plugin)\b": None,
    r"gpu backend|torch_xla": "accelerator",
    r"transformer_engine": "precision",
}


def _key_of(text: str) -> str | None:
    """Return the trainer's key that one of Lightning's messages is about; None if unknown."""
    for pattern, name in _ABOUT.items():
        if found := re.search(pattern, text, re.IGNORECASE):
            return f"trainer.{(name or found[1]).lower()}".replace("plugin", "plugins")
    return None
