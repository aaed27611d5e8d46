"""States on disk: reading returns every bit that was written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.distributed.state_files import (
    attributes,
    optimizer_state,
    read_state,
    restore_optimizer,
    write_state,
)

CPU = torch.device("cpu")


def through(folder: Path, state: Any) -> Any:
    write_state(folder, state)
    return read_state(folder, CPU)


def same(one: Any, other: Any) -> bool:
    """Compare values, their types, and every bit of tensors."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        bits = [t.contiguous().view(-1).view(torch.uint8) for t in (one, other)]
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(
            same(a, b) for pair in pairs for a, b in zip(*pair, strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


PLAIN = [
    None,
    True,
    3,
    -1e-300,
    float("inf"),
    "text of {1: 'tensor'}",
    [],
    {},
    (),
    set(),
    [1, (2, [3.0, None]), {"a": (True,)}],
    {1: "int", "1": "text", (2, "b"): "tuple", None: 0, 2.5: 1},
    {"tensor": "state.0", "pairs": [], "set": {1}, "tuple": ()},
    {"deep": {"deeper": {7: {"x", "y"}}}},
    {1, "a", None, (2, 3)},
]


@pytest.mark.parametrize("state", PLAIN, ids=map(str, range(len(PLAIN))))
def test_plain_values_read_back_as_written(tmp_path: Path, state: Any) -> None:
    assert same(through(tmp_path, state), state)


def test_tensors_read_back_bit_by_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, generator=generator)
    state = {
        "fp32": values,
        "bf16": values.bfloat16(),
        "fp64": values.double(),
        "ints": torch.arange(5),
        "flags": values > 0,
        "scalar": torch.tensor(7.5),
        "empty": torch.zeros(0, 2),
        "odd": torch.tensor([float("nan"), -0.0, float("inf")]),
        "turned": values.t(),
        0: [values[0], (values[:, 1], {"in": values[1:]})],
    }
    assert same(through(tmp_path, state), {**state})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


def test_tensors_that_share_memory_read_back_separately(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    found = through(tmp_path, {"a": values, "b": values, "part": values[2:4]})
    found["a"].zero_()
    assert torch.equal(found["b"], values) and torch.equal(found["part"], values[2:4])
    assert torch.equal(values, torch.arange(6.0))


def test_equal_paths_of_two_tensors_are_not_confused(tmp_path: Path) -> None:
    one, two, three, four = (torch.tensor([float(n)]) for n in range(4))
    state = {1: one, "1": two, "a": {"b": three}, "a.b": four}
    assert same(through(tmp_path, state), state)


def test_parameters_read_back_as_plain_tensors(tmp_path: Path) -> None:
    found = through(tmp_path, [nn.Parameter(torch.ones(2))])
    assert same(found, [torch.ones(2)]) and not found[0].requires_grad


class Other:
    """An object that cannot be written."""


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (Other(), "state is of type Other"),
        ({"a": [1, Other()]}, r"state\.a\.1 is of type Other"),
        ({"a": ({"b": len},)}, r"state\.a\.0\.b is of type builtin_function_or_method"),
        ({"a": {Other}}, r"state\.a\.0 is of type type"),
        ({"a": torch.Generator()}, r"state\.a is of type Generator"),
        (b"bytes", "state is of type bytes"),
    ],
)
def test_other_values_are_refused_with_their_path(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        write_state(tmp_path, state)
    assert list(tmp_path.iterdir()) == []


def test_reading_runs_no_code(tmp_path: Path) -> None:
    write_state(tmp_path, {"a": (1, torch.ones(1))})
    values = json.loads((tmp_path / "state.json").read_text())
    assert values == {"pairs": [["a", {"tuple": [1, {"tensor": "0 state.a.1"}]}]]}


def test_attributes_omit_values_that_never_change() -> None:
    owner = Other()
    weights = torch.ones(2)
    vars(owner).update(count=3, _seen=[1, (2,)], weights=weights, call=print, own=owner, name="n")
    expected = {"count": 3, "_seen": [1, (2,)], "weights": weights, "own": owner}
    assert attributes(owner, ("name",)) == expected


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_an_optimizer_resumes_bit_by_bit(tmp_path: Path, name: str, kind: torch.dtype) -> None:
    def make() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3).to(kind)
        return model, OPTIMIZERS[name](list(model.parameters()))

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            values = torch.randn(8, 4, generator=torch.Generator().manual_seed(number)).to(kind)
            optimizer.zero_grad()
            model(values).float().pow(2).sum().backward()
            optimizer.step()

    whole, optimizer = make()
    steps(whole, optimizer, range(7))
    first, optimizer = make()
    steps(first, optimizer, range(4))
    write_state(tmp_path, optimizer_state(optimizer))
    second, fresh = make()
    second.load_state_dict(first.state_dict())
    for group in fresh.param_groups:
        group["lr"] = 0.5
    restore_optimizer(fresh, read_state(tmp_path, CPU))
    # The settings are not restored: a schedule sets the learning rate of each step.
    assert all(group["lr"] == 0.5 for group in fresh.param_groups)
    for group in fresh.param_groups:
        group["lr"] = 0.01
    steps(second, fresh, range(4, 7))
    assert same(dict(second.state_dict()), dict(whole.state_dict()))
