"""Check that the files of a model contain the weights that its config.json describes."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.errors import InputError

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
ADAPTER = "adapter_config.json"
AGAIN = "Download or copy the file again."
# What to do with an adapter that cannot be used as one.
MERGE = (
    "To merge an adapter into its model in Python and name MERGED in model.base: PeftModel"
    ".from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), ADAPTER).merge_and_unload()"
    ".save_pretrained(MERGED); AutoTokenizer.from_pretrained(MODEL).save_pretrained(MERGED)."
)
# Start of the pointer that a clone without Git LFS has instead of a large file.
_POINTER = b"version https://git-lfs"
# Elements that are checked together: 64 MiB in fp32.
_BLOCK = 2**24
_NAMED = 3
_MASK = re.compile(r"\b(attn|attention)\.(masked_)?bias$")


def find_file(located: str, file: str) -> Path | None:
    """Find a file of a model; download it if it is on the hub.

    Args:
        located: folder, or hub name.
        file: name of the file.

    Returns:
        Path of the file; None if there is no such file.
    """
    from transformers.utils import cached_file

    found = cached_file(
        located,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found is not None else None


def describe_content(file: Path) -> str | None:
    """Detect a file that is empty or a Git LFS pointer instead of weights or settings.

    Args:
        file: an existing file.

    Returns:
        A phrase that follows "found"; None for any other content.
    """
    with file.open("rb") as handle:
        start = handle.read(len(_POINTER))
    if not start:
        return "an empty file"
    if start == _POINTER:
        return "a Git LFS pointer instead of the file (git lfs pull downloads it)"
    return None


def check_json(folder: Path, names: Iterable[str], key: str) -> None:
    """Refuse files of a model that are not JSON objects.

    Args:
        folder: folder of the model.
        names: names of files, which may be missing.
        key: YAML key, for messages.

    Raises:
        InputError: with the path of the file.
    """
    for file in (folder / name for name in names):
        if not file.is_file():
            continue
        try:
            found = describe_content(file)
            content = None if found else json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            found = f"invalid JSON ({error})"
        if found is None and not isinstance(content, dict):
            found = f"a JSON {'null' if content is None else type(content).__name__}"
        if found is not None:
            raise InputError(f"{key}: {file}: found {found}, expected a JSON object. {AGAIN}")


@contextmanager
def opened(file: Path, key: str) -> Iterator[Any]:
    """Open a safetensors file.

    Args:
        file: path of the file.
        key: YAML key, for messages.

    Raises:
        InputError: if it is not a safetensors file, is truncated, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        found = describe_content(file)
        if found is None:
            with safe_open(file, framework="pt") as handle:
                yield handle
    except (OSError, SafetensorError) as error:
        found = f"a file that can't be read ({error})"
    if found is not None:
        raise InputError(f"{key}: {file}: found {found}, expected weights as safetensors. {AGAIN}")


def read_index(file: Path, key: str) -> dict[str, str]:
    """Read the index of a model: the file of each weight.

    Args:
        file: the index.
        key: YAML key, for messages.

    Returns:
        Names of files by name of the weight.

    Raises:
        InputError: if the index has no valid weight_map.
    """
    check_json(file.parent, [file.name], key)
    names = json.loads(file.read_text(encoding="utf-8")).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise InputError(
            f"{key}: {file}: found no weight_map with names of files, expected one. {AGAIN}"
        )
    return names


def check_depth(config: Any, count: int, name: str, key: str) -> None:
    """Refuse a number of layers that is below 1 or above the number of weights.

    It runs before the model is created, which could otherwise have millions of layers.

    Args:
        config: configuration of the model.
        count: number of weights in its files.
        name: name of the model.
        key: YAML key, for messages.

    Raises:
        InputError: with both numbers.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and not 0 < layers <= count:
        raise InputError(
            f"{key}: {name}: found num_hidden_layers: {layers} in config.json and {count} weights "
            "in its files, expected at least one layer, with weights for each. Correct config.json."
        )


def check_loaded(info: Mapping[str, Any], config: Any, name: str, key: str) -> None:
    """Refuse a model whose files lack weights or contain weights that it does not use.

    transformers would fill missing weights with random numbers.

    Args:
        info: loading information of transformers (``output_loading_info``).
        config: configuration of the model.
        name: name of the model.
        key: YAML key, for messages.

    Raises:
        InputError: with the names of the weights.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted((n, list(a), list(b)) for n, a, b in info["mismatched_keys"])
    other = [str(text).strip().splitlines()[0] for text in info.get("error_msgs") or ()]
    if not (missing or unexpected or mismatched or other):
        return
    shapes = [f"{n} is {found}, expected {wanted}" for n, found, wanted in mismatched]
    parts = [
        f"{len(names)} {what} ({_few(names)})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "not in the model"),
            (shapes, "of another shape"),
            (other, "not readable"),
        )
        if names
    ]
    raise InputError(
        f"{key}: {name}: its files do not match the model that config.json describes "
        f"({type(config).__name__}): {'; '.join(parts)}. Missing weights are not replaced by "
        "random numbers, and no weights are ignored. "
        f"{_remedy(missing, unexpected, bool(shapes or other), config)}"
    )


def without_masks(unexpected: Iterable[str], files: Mapping[str, Path], key: str) -> set[str]:
    """Return the names of weights, without those of causal masks.

    Files of GPT-2's time contain the masks of the attention, which the model computes again.

    Args:
        unexpected: names that the model does not have.
        files: files by name of the weight.
        key: YAML key, for messages.
    """
    rest = set(unexpected)
    for name in filter(_MASK.search, unexpected):
        if name in files:
            with opened(files[name], key) as handle:
                shape = handle.get_slice(name).get_shape()
            if shape in ([], [1]) or (len(shape) == 4 and shape[:2] == [1, 1]):
                rest.discard(name)
    return rest


def _few(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _remedy(missing: list[str], unexpected: list[str], other: bool, config: Any) -> str:
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    numbers = {n for n in map(_layer, missing or unexpected) if n is not None}
    one_sided = bool(missing) != bool(unexpected) and not other
    if (
        one_sided
        and isinstance(layers, int)
        and all(_layer(n) is not None for n in missing or unexpected)
    ):
        present = min(numbers) if missing else max(numbers) + 1
        if set(range(min(present, layers), max(present, layers))) == numbers:
            return (
                f"The files have {present} layers: if this is the right model, set "
                f"num_hidden_layers (now {layers}) in config.json to {present}."
            )
    if missing and not unexpected and all("head" in n or "embed_out" in n for n in missing):
        return (
            "The output projection is missing: save the model with AutoModelForCausalLM; or, if "
            "it is the embedding, set tie_word_embeddings: true in config.json."
        )
    if unexpected and not missing and not other:
        return (
            "If the model is right without them, load it with AutoModelForCausalLM and save it to "
            "another folder with save_pretrained."
        )
    return (
        "Use files and config.json of one model, written by save_pretrained of "
        "AutoModelForCausalLM."
    )


def _layer(name: str) -> int | None:
    found = re.search(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.", name)
    return int(found[1]) if found else None


def check_numbers(files: Mapping[str, Path], dtype: torch.dtype, name: str, key: str) -> None:
    """Read all weights and refuse those that are not finite, or overflow in the precision.

    Args:
        files: files by name of the weight.
        dtype: dtype of the loaded weights.
        name: name of the model.
        key: YAML key, for messages.

    Raises:
        InputError: with the name of the weight.
    """
    largest = torch.finfo(dtype).max
    wanted = without_masks(files, files, key)
    for file in sorted({files[weight] for weight in wanted}):
        with opened(file, key) as handle:
            for weight in sorted(wanted & set(handle.keys())):
                for part in _parts(handle, weight):
                    low, high = (value.item() for value in part.aminmax())
                    if -largest <= low and high <= largest:
                        continue
                    found = high if -largest <= low else low
                    if abs(found) < float("inf"):
                        raise InputError(
                            f"{key}: {name}: found {found:.3g} in {weight}, expected at most "
                            f"{largest:.3g}, the largest number of trainer.precision. Set "
                            "trainer.precision: bf16-true or 32-true."
                        )
                    raise InputError(
                        f"{key}: {name}: found {found} in {weight} ({file.name}), expected finite "
                        "numbers. The model diverged before it was saved: use an earlier one."
                    )


def _parts(handle: Any, weight: str) -> Iterator[Tensor]:
    """Yield a weight of a safetensors file in parts, if its dtype is a floating-point one."""
    source = handle.get_slice(weight)
    shape = source.get_shape()
    if not shape:
        parts: Iterable[Tensor] = [handle.get_tensor(weight)]
    elif 0 in shape:
        return
    else:
        count = max(1, _BLOCK // torch.Size(shape[1:]).numel())
        parts = (source[start : start + count] for start in range(0, shape[0], count))
    for part in parts:
        if not part.is_floating_point():
            return
        # PyTorch has no minimum and maximum for dtypes of 8 bits.
        yield part.float() if part.element_size() == 1 else part


def adapter_error(name: str, key: str, has_model: bool) -> InputError:
    """Return the error for an adapter in a model's folder, which transformers would apply to it.

    Args:
        name: name of the model.
        key: YAML key, for messages.
        has_model: whether the folder also has a model.
    """
    found = "a model and an adapter" if has_model else "an adapter without its model"
    return InputError(
        f"{key}: found {found} in {name} ({ADAPTER}), expected only a model. Move {ADAPTER} and "
        "adapter_model.safetensors into a separate folder ADAPTER and name the model; to start "
        "from both, name the model in model.base and the adapter in model.adapters: "
        f"{{STAGE: ADAPTER}}. {MERGE}"
    )
