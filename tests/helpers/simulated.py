"""Simulations of training steps."""

import json
from pathlib import Path
from typing import Any

from lightning_unlearn import LoRA

ROOT = Path(__file__).parents[2]


TINY = "demo:tiny-llama"


SHAPE = LoRA(8, 16)


def files(model: str) -> list[str]:
    return [str(ROOT / "configs" / name) for name in ("paper.yaml", f"models/{model}.yaml")]


def strategy(**options: Any) -> str:
    return json.dumps(
        {"class_path": "lightning_unlearn.distributed.strategy.FSDP2", "init_args": options}
    )
