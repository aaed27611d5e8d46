"""Path-aware methods on two processes, each with a whole model or with a part of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from process_runs import STRATEGIES, run_script
from tiny_stages import Tiny

from lightning_unlearn import (
    AnswerLikelihood,
    InputError,
    NegationThenReplay,
    OracleDistance,
    Rewind,
    Splice,
    StageNegation,
)
from lightning_unlearn.distributed.strategy import FSDP2

ORDER = ["tofu", "safety", "math"]


def outcomes(tiny: Tiny, strategy: str | None) -> list[Any]:
    """Trained stages, and means of all metrics, of each method with and without adapters."""
    several: dict[str, Any] = {}
    if strategy is not None:
        several = {"devices": 2, "strategy": STRATEGIES[strategy]()}
    found = []
    for lora in (True, False):
        changes: dict[str, Any] = {} if lora else {"lora": None}
        module = tiny.module(**changes)
        oracle = tiny.datamodule(order=ORDER, oracle=True)
        tiny.trainer([], precision="64-true", **several).fit(module, oracle)
        methods = [NegationThenReplay(0.5), Splice(1), Rewind()] if lora else [StageNegation(0.5)]
        for method in methods:
            # The oracle is swapped in and out while the adapter of a higher rank is in place.
            monitors = [AnswerLikelihood(), OracleDistance()]
            trainer = tiny.trainer([method, *monitors], precision="64-true", **several)
            data = tiny.datamodule(order=ORDER)
            trainer.fit(module, data)
            assert trainer.results is not None
            found.append((trainer.trained_stages, trainer.results.steps))
            measured = trainer.validate(tiny.module(**changes), data)
            found.append(sorted(measured.items()))
    return found


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
from tiny_stages import Tiny
from test_path_aware_processes import outcomes

if __name__ == "__main__":
    root = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    found = {{strategy: outcomes(root.below(strategy), strategy) for strategy in ("ddp", "fsdp2")}}
    rank = torch.distributed.get_rank()
    (root.root / f"found-{{rank}}.json").write_text(json.dumps(found))
"""


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_equal_one(tiny: Tiny) -> None:
    script = tiny.root / "script.py"
    tests = [str(Path(__file__).parents[1] / name) for name in ("distributed", "helpers", "")]
    script.write_text(SCRIPT.format(tests=tests))
    run_script(script, tiny.settings(), seconds=600)
    one = json.loads(json.dumps(outcomes(tiny.below("one"), None)))
    for rank in range(2):
        for found in json.loads((tiny.root / f"found-{rank}.json").read_text()).values():
            assert flat(found) == pytest.approx(flat(one), abs=1e-9)


def flat(values: Any) -> list[Any]:
    if not isinstance(values, list):
        return [values]
    return [leaf for value in values for leaf in flat(value)]


def test_a_sum_of_adapters_is_refused_with_tensor_parallelism(tiny: Tiny) -> None:
    strategy = FSDP2(tensor_parallel_size=2)
    trainer = tiny.trainer([StageNegation()], strategy=strategy, devices=2)
    wanted = r"tensor_parallel_size: found 2 with StageNegation, .* another rank .*, expected 1"
    with pytest.raises(InputError, match=wanted):
        trainer.fit(tiny.module(), tiny.datamodule(order=ORDER))
    assert not (tiny.root / "runs").exists()
