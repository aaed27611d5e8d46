"""LightningCLI for StagedTrainer, CausalLM and StagedDataModule."""

import argparse
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# Imported so that short names such as NPO are known as class_path.
import lightning_unlearn.monitors
import lightning_unlearn.unlearning  # noqa: F401
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError, own_place
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.settings.compose import MissingValue, read_arguments, set_key
from lightning_unlearn.settings.diagnosis import diagnose, find_class
from lightning_unlearn.settings.strict_yaml import read_argument, write_yaml
from lightning_unlearn.training.trainer import StagedTrainer
from lightning_unlearn.unlearning.base import Unlearning

# Lightning's own arguments that a recipe stands for.
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
    f"trainer.{name}": f"trainer.{name} is not taken: set {instead} instead."
    for name, instead in {**REPLACED, "seed": "seed_everything"}.items()
}
LARGEST_SEED = 2**32 - 1


@dataclass
class FitFile:
    """The keys of a configuration; its values are never made from it."""

    trainer: StagedTrainer
    model: CausalLM
    data: StagedDataModule
    seed_everything: int = 0


@dataclass
class ValidateFile(FitFile):
    """The keys of a configuration for ``validate``."""

    stage: str | None = None


class StagedCLI(LightningCLI):
    """LightningCLI with one seed for everything, and errors that are raised, not printed.

    Args:
        command: "fit" or "validate"; None only parses and makes the objects.
        content: configuration composed from files.
        arguments: command-line arguments, which win over the files.
    """

    def __init__(self, command: str | None, content: dict[str, Any], arguments: list[str]) -> None:
        self._command = command
        keys = ValidateFile if command == "validate" else FitFile
        try:
            self._content, options = _with_arguments(content, arguments)
        except MissingValue as error:
            # What is no key at all takes no value either.
            unknown = diagnose(set_key({}, error.key.split("."), None), keys, ADVICE)
            raise unknown if unknown and "unknown key" in str(unknown) else error from None
        # Not by the parser, which can't write down every default.
        self._prints = "--print_config" in options
        options = [option for option in options if option != "--print_config"]
        # First, for the parser takes null for anything, and is slow.
        if "--help" not in options and (mistake := diagnose(self._content, keys, ADVICE)):
            raise mistake
        config = ["--config", json.dumps(self._content)] if self._content else []
        with warnings.catch_warnings():
            # LightningCLI 2.6 calls parsers of jsonargparse 4.49 and later by older names.
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
        """The trainer's methods that are commands, without the arguments that are given here."""
        return {"fit": {"model", "datamodule"}, "validate": {"model", "datamodule"}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One integer seed; anything else would be a run that can't be repeated."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of everything random."
        )

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seed_everything: found {seed}, expected 0 to {LARGEST_SEED}.")
        seed_everything(seed, workers=True, verbose=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The trainer's seed is that seed."""
        parser.link_arguments("seed_everything", "trainer.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a mistake that `diagnose` does not see is an InputError too."""
        try:
            self.config = parser.parse_args(args)
        except (argparse.ArgumentError, TypeError, ValueError) as error:
            raise InputError(" ".join(str(error).split())) from None

    def before_instantiate_classes(self) -> None:
        """Print the configuration, if that is all that is asked for."""
        if self._prints:
            print(self.config_text(), end="")
            raise SystemExit(0)

    def instantiate_classes(self) -> None:
        """Make model, data and trainer."""
        with told():
            self.config_init = self.parser.instantiate(self.config)
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
            self.trainer = self.instantiate_trainer()  # type: ignore[assignment]

    def config_text(self, config: Any = None) -> str:
        """A whole configuration as YAML; None takes the one that was parsed."""
        if config is None:
            config = self.config.get(str(self.subcommand), self.config)
        parser = self._parser(self.subcommand)
        # Through JSON, which tells text from numbers: the parser's YAML is of another version.
        text = parser.dump(_plain(config.clone()), skip_unset=False, format="json")
        return write_yaml(json.loads(text), parser.dump_header or [])


def _with_arguments(
    content: dict[str, Any], arguments: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """A configuration as the command line changes it.

    An unlearning method that the command line adds takes the place of the files'.

    Args:
        content: composed from files.
        arguments: of the command line.

    Returns:
        The configuration, and the arguments that change none, such as --print_config.
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


def _callbacks(content: Any) -> list[Any]:
    """The callbacks that a configuration names."""
    trainer = content.get("trainer") if isinstance(content, dict) else None
    found = trainer.get("callbacks") if isinstance(trainer, dict) else None
    return found if isinstance(found, list) else [] if found is None else [found]


def _is_method(spec: Any) -> bool:
    """Whether a callback as written in a configuration is an unlearning method."""
    name = spec.get("class_path") if isinstance(spec, dict) else spec
    found = find_class(name, Callback) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, Unlearning)


def _plain(value: Any) -> Any:
    """A configuration in which members of an enumeration are what YAML calls them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Namespace):
        for key, item in vars(value).items():
            setattr(value, key, _plain(item))
    return value


def is_method(spec: Any) -> bool:
    """Whether a parsed callback is an unlearning method."""
    if not isinstance(spec, Namespace):
        return isinstance(spec, Unlearning)
    module, _, name = spec.class_path.rpartition(".")
    found = getattr(__import__(module, fromlist=[name]), name)
    return isinstance(found, type) and issubclass(found, Unlearning)


@contextmanager
def told() -> Iterator[None]:
    """Settings that a constructor refuses are a mistake of the input.

    Raises:
        InputError: for Lightning's refusals, and in place of what the parser makes of our own.
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
            told_type = f"{type(cause).__name__}: {text}".rstrip(": ")
            raise InputError(f"trainer.callbacks: {own}: {told_type}.") from error
        key = _key_of(text)
        if key is None and isinstance(error, TypeError):
            raise
        raise InputError(f"{key or 'trainer'}: {text}") from error


# What Lightning's messages speak of, by the key that it is about.
_ABOUT = {
    r"(?:^|invalid |`)(accelerator|strategy|devices|precision)": None,
    r"\(?(devices|num_nodes|profiler|plugin)\b": None,
    r"gpu backend|torch_xla": "accelerator",
    r"transformer_engine": "precision",
}


def _key_of(text: str) -> str | None:
    """The key of the trainer that a message of Lightning's is about; None if that is not known."""
    for pattern, name in _ABOUT.items():
        if found := re.search(pattern, text, re.IGNORECASE):
            return f"trainer.{(name or found[1]).lower()}".replace("plugin", "plugins")
    return None
