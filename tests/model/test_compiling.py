"""Compiled layers give the numbers of uncompiled ones in all computations of a model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_examples, tiny_module
from tiny_stages import Tiny

from lightning_unlearn import CausalLM, InputError, LoRA, Recipe
from lightning_unlearn.data.batches import collate
from lightning_unlearn.model import compiling
from lightning_unlearn.model.stage import StageStart

# torch.compile looks at the gradients of all tensors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Do not use programs that other tests have compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend of torch.compile that runs each graph uncompiled and counts the graphs."""

    def __init__(self) -> None:
        self.made = self.run = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.made += 1

        def forward(*values: Any) -> Any:
            self.run += 1
            return graph(*values)

        return forward


def numbers(module: CausalLM, all_of_them: bool) -> torch.Tensor:
    """Return losses of two stages and generated tokens; optionally scores, norms and candidates.

    Args:
        module: without weights yet.
        all_of_them: each kind of forward is traced separately, which takes seconds.
    """
    found: list[float] = []
    for stage in ("tofu", "unlearn"):
        module.start_stage(StageStart(stage, Recipe(lr=1e-2), 2, seed=0, fresh=stage == "tofu"))
        module.configure_model()
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-2)
        for count, seed in ((3, 1), (2, 2)):
            examples = random_examples(count, seed=seed)
            loss = -module.network.log_probs(collate(examples, range(count), 0)).mean.sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        if all_of_them:
            found += module.evaluator.score(random_examples(3), 2).sum.tolist()
            found += module.evaluator.gradient_norms(examples).values()
            scores = module.candidates.score([(7, 8)], [[(9, 10), (9, 11, 12), (13,)]], 4)
            found += scores.sum.flatten().tolist()
        ids = torch.tensor([[7, 8, 9], [10, 11, 12]])
        written = module.network.generate(
            input_ids=ids, max_new_tokens=4, do_sample=False, use_cache=True, pad_token_id=0
        )
        found += written.flatten().tolist()
    return torch.tensor(found, dtype=torch.float64)


def both(
    folder: Path, family: str, all_of_them: bool = True, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers without and with compilation."""
    settings = {"lora": LoRA(rank=4, alpha=8), "num_hidden_layers": 2, **options}
    plain, compiled = (
        numbers(
            tiny_module(folder, family, torch.float64, compile=compiling, **settings), all_of_them
        )
        for compiling in (False, True)
    )
    return plain, compiled


def test_traced_layers_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs()
    monkeypatch.setattr(compiling, "BACKEND", graphs)
    plain, compiled = both(
        tmp_path, "llama", all_of_them=False, lora=LoRA(rank=4, alpha=8, target_modules=["q_proj"])
    )
    torch.testing.assert_close(compiled, plain, rtol=1e-9, atol=1e-9)
    # Each version is there once for all layers, and used again with batches of other shapes.
    assert 0 < graphs.made < compiling.VERSIONS and graphs.run > graphs.made


# PyTorch's compiler warns of parts of PyTorch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.exhaustive
def test_compiled_layers_give_the_same_numbers(tmp_path: Path) -> None:
    compiling.check_compiling(torch.device("cpu"))
    # One model: the compiler takes a minute for it.
    plain, compiled = both(tmp_path, "llama", gradient_checkpointing=True)
    torch.testing.assert_close(compiled, plain, rtol=1e-9, atol=1e-9)


def test_a_missing_compiler_is_reported_before_training(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    with pytest.raises(InputError, match=r"model.compile: found true.* on cpu .*No working C\+\+"):
        tiny.trainer().fit(tiny.module(compile=True), tiny.datamodule(forget=None))
    assert not (tiny.root / "store").exists()
