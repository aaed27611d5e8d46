"""``lightning-unlearn plan``: estimate the needs of a fit configuration."""

from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.planning.settings import on_cpu, sharing, take_settings
from lightning_unlearn.settings.compose import (
    load_configs,
    merge,
    split_config_arguments,
    with_place,
)


def plan(arguments: list[str]) -> int:
    """Print the memory, work, time and disk space that a fit configuration needs.

    Args:
        arguments: arguments of the command.

    Returns:
        Exit code: 0 if the run fits into the memory of the GPUs, else 1.

    Raises:
        InputError: for a mistake in the configuration or the options.
    """
    files, others = split_config_arguments(arguments)
    content = load_configs(files)
    if "methods" in content:
        raise InputError(
            "plan: found a study file, expected a fit configuration, such as the file that the key "
            "fit of the study file names."
        )
    machine, content, changes = take_settings(others, content)
    # These modules are slow to import.
    from lightning_unlearn.planning.estimate import estimate
    from lightning_unlearn.planning.model_shapes import config_folder
    from lightning_unlearn.planning.render import text
    from lightning_unlearn.training.from_config import StagedCLI

    try:
        shared = sharing(content, machine.gpus)
        base, oracle = (_base(content.get(key)) for key in ("model", "oracle"))
        with config_folder(base) as folder, config_folder(oracle) as of_oracle:
            if folder != base:
                content = merge(content, {"model": {"base": folder}})
            if of_oracle != oracle:
                content = merge(content, {"oracle": {"base": of_oracle}})
            made = StagedCLI(None, on_cpu(content), [])
            found = estimate(made.trainer, made.model, made.datamodule, machine, shared)
            print(text(found, base, oracle))
    except InputError as error:
        raise InputError(with_place(error, files, changes)) from error
    return 0 if found.fits else 1


def _base(value: Any) -> str:
    """Return the name of a model in a configuration; "" if it is wrong or missing."""
    return str(value.get("base") or "") if isinstance(value, dict) else ""
