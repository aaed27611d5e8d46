"""Keys of the store entries of a path, under changes of arguments."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tiny_stages import Tiny

from lightning_unlearn import NPO, LabelLikelihood
from lightning_unlearn.data.batches import derive_seed

PATH = ["tofu", "math", "safety"]


class Plans:
    """Keys of the path [tofu, math, safety, unlearn] under changes of arguments."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self._plain: dict[str, list[str]] = {}

    def keys(
        self,
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        trainer: dict[str, Any] | None = None,
    ) -> list[str]:
        module = self.tiny.module(**(model or {}))
        datamodule = self.tiny.datamodule(**{"order": PATH, **(data or {})})
        given = {"callbacks": [NPO(), LabelLikelihood()], **(trainer or {})}
        made = self.tiny.trainer(**given)
        if made.world_size == 1:
            made.check(module, datamodule)
        else:
            datamodule.load_rows(module.pretrained.tokenizer(), module.pretrained.context_length)
        return [stage.key for stage in made.plan(module, datamodule)]

    def changed(self, **changes: Any) -> tuple[int, ...]:
        """Which steps get another key under changes of model, data or trainer."""
        plain = self._plain.setdefault("", []) or self.keys()
        self._plain[""] = plain
        found = self.keys(**changes)
        return tuple(n for n, (a, b) in enumerate(zip(plain, found, strict=True)) if a != b)

    def with_stage(self, name: str = "math", **changes: Any) -> dict[str, Any]:
        """The data with one stage changed."""
        stages = self.tiny.stages()
        return {"data": {"stages": {**stages, name: replace(stages[name], **changes)}}}

    def file(self, name: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
        """A copy of a file of rows, each edited."""
        rows = [json.loads(line) for line in (self.tiny.data / name).read_text().splitlines()]
        file = self.tiny.root / f"{derive_seed(name, edit(rows[0]))}.jsonl"
        file.write_text("".join(json.dumps(edit(row)) + "\n" for row in rows))
        return str(file)
