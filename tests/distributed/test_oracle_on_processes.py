"""An oracle of its own gives the same values in one process, in two, and sharded over two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from process_runs import STRATEGIES, assert_same, run_script
from tiny_models import tiny_lm
from tiny_stages import Tiny
from transformers import AutoTokenizer

from lightning_unlearn import NPO, AnswerStatistics, Membership, Oracle, OracleDistance, Recipe

SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
from tiny_stages import Tiny
from test_oracle_on_processes import compared

if __name__ == "__main__":
    root = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    for strategy in ("ddp", "fsdp2"):
        assert compared(root, strategy).is_dir()
"""


def compared(root: Tiny, strategy: str | None = None) -> Path:
    """Compare with an oracle of another width; return the folder of the run."""
    tiny = root.below(strategy or "one")
    options: dict[str, Any] = {"precision": "64-true", "oracle": Oracle(str(root.root / "oracle"))}
    if strategy is not None:
        options |= {"devices": 2, "strategy": STRATEGIES[strategy]()}
    # Two sizes of one row set: which process has which row depends on the size.
    monitors = [OracleDistance(1, limit=5), AnswerStatistics(sets=["safety"])]
    monitors.append(Membership("math:heldout", limit=3))
    trainer = tiny.trainer([NPO(), *monitors], **options)
    unlearn = Recipe(lr=2e-3, steps=3, batch_size=4)
    data = tiny.datamodule(order=["math", "safety"], unlearn=unlearn, eval_batch_size=2)
    trainer.fit(tiny.module(), data)
    assert trainer.run_dir is not None
    return trainer.run_dir


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_equal_one(tiny: Tiny) -> None:
    tied = {"hidden_size": 24, "vocab_size": 1024, "tie_word_embeddings": True}
    tiny_lm("llama", dtype=torch.float64, **tied).save_pretrained(tiny.root / "oracle")
    AutoTokenizer.from_pretrained(tiny.base).save_pretrained(tiny.root / "oracle")
    script = tiny.root / "script.py"
    tests = [str(Path(__file__).parents[1] / name) for name in ("distributed", "helpers", "")]
    script.write_text(SCRIPT.format(tests=tests))
    output = run_script(script, tiny.settings(), seconds=600)
    assert output.count("oracle: measured") == 2, output
    alone = compared(tiny)
    for strategy in ("ddp", "fsdp2"):
        (run,) = (tiny.root / strategy / "runs" / "NPO").iterdir()
        assert_same(alone, run, 1e-9)
