"""Plan of the history that a path-aware method uses: models that have to be trained first."""

from dataclasses import replace
from typing import Any

from lightning_unlearn.data.batches import count_steps
from lightning_unlearn.data.datamodule import UNLEARN, StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.storage.path_history import Chain, Frozen, HistoryModel, PathHistory
from lightning_unlearn.training.planned_stage import Part, PlannedStage, Result, trainings
from lightning_unlearn.unlearning.path_aware import PathAware


def plan_history(
    model: CausalLM,
    data: StagedDataModule,
    method: PathAware,
    shared: dict[str, Any],
    path: list[PlannedStage],
) -> tuple[list[PlannedStage], Result, list[str]]:
    """Plan the models that a path-aware method uses.

    Args:
        model: the module.
        data: prepared stages and path, with a forget stage.
        method: the method.
        shared: the content that all stages of a run share.
        path: the planned stages of the path.

    Returns:
        The stages to train that are not among those of the path; what the method computes; and
        the keys or hashes of the models that it uses, for the key of the result.

    Raises:
        InputError: if a model cannot be trained, because the base model has learned stages already.
    """
    assert data.forget is not None
    steps = {
        name: count_steps(len(data.training_examples(name)), data.recipe(name))
        for name in data.training_stages
    }
    history = PathHistory(data.prefix, data.forget, steps)
    found = method.result(history)
    terms = dict(found.terms)
    starts_from_sum = any(isinstance(link, Frozen) for chain in terms for link in chain)
    if starts_from_sum or not isinstance(found, HistoryModel):
        # "unlearn" is the difference between the sum and the last model, even if that cancels.
        terms.setdefault(history.end.chain, 0.0)
    planned = {stage.key: stage for stage in path}
    extra: dict[str, PlannedStage] = {}
    search = _Search(model, data, method, shared)
    parts = search.sum_of(tuple(terms.items()))
    for stage in search.stages:
        if stage.key not in planned:
            extra.setdefault(stage.key, replace(stage, history=True))
    # An adapter that was trained on a sum is added to the sum.
    is_model = isinstance(found, HistoryModel) and not any(part.is_update for part in parts)
    used = [part.key or _hash(model, part) for part in parts]
    return list(extra.values()), Result(parts, is_model), sorted(used)


class _Search:
    """Finds the models of a history, and collects the stages that train them."""

    def __init__(
        self,
        model: CausalLM,
        data: StagedDataModule,
        method: PathAware,
        shared: dict[str, Any],
    ) -> None:
        self._given = model.pretrained.given
        self._model = model
        self._data = data
        self._method = method
        self._shared = shared
        self.stages: list[PlannedStage] = []

    def sum_of(self, terms: tuple[tuple[Chain, float], ...]) -> tuple[Part, ...]:
        """Return the parts of a sum, in which each model appears once."""
        found: dict[Chain, Part] = {}
        for chain, coefficient in terms:
            part = self._find(chain)
            for own in (*(self._stage(part).frozen if part.is_update else ()), part):
                known = found.get(own.chain, replace(own, coefficient=0.0))
                total = known.coefficient + coefficient * own.coefficient
                found[own.chain] = replace(known, coefficient=total)
        return tuple(found.values())

    def _stage(self, part: Part) -> PlannedStage:
        return next(stage for stage in self.stages if stage.key == part.key)

    def _trained(self, chain: Chain, stages: list[PlannedStage]) -> Part:
        self.stages += stages
        return Part(chain, 1.0, stages[-1].key, is_update=stages[-1].adapter == UNLEARN)

    def _find(self, chain: Chain) -> Part:
        """Return where a model of the history is from.

        Raises:
            InputError: if it cannot be trained.
        """
        if chain and isinstance(chain[0], Frozen):
            parts = self.sum_of(chain[0].terms)
            used = [[part.key or _hash(self._model, part), part.coefficient] for part in parts]
            shared = {**self._shared, "frozen": sorted(used)}
            return self._trained(chain, trainings(self._data, shared, chain, 1, parts))
        names, learned = tuple(map(str, chain)), self._data.learned
        stages = self._given.stages if self._given is not None else ()
        start = len(learned)
        if names[:start] == learned:
            if trained := trainings(self._data, self._shared, chain, start):
                return self._trained(chain, trained)
            # The state from which the path starts.
            last = None if self._given is None else [*self._given.files][-1]
            return Part(chain, 1.0, given=last)
        if names == learned[: len(names)]:
            if names and names[-1] in stages:
                return Part(chain, 1.0, given=names[-1])
            if not names and stages == learned:
                return Part(chain, 1.0)
        raise InputError(_missing(self._method, names, learned))


def _missing(method: PathAware, names: tuple[str, ...], learned: tuple[str, ...]) -> str:
    """Return why a model of the history cannot be had, as a sentence."""
    who = type(method).__name__
    listed = ", ".join(learned)
    if names == learned[: len(names)]:
        what = f"the model after {names[-1]!r}" if names else f"the model before {learned[0]!r}"
        return (
            f"model.adapters: found no adapter that gives {what}, but {who} uses it, expected the "
            f"adapters of all stages that were trained elsewhere ({listed}), as states of one "
            "adapter. Name them in model.adapters, or use a method that does not see the history, "
            "such as NPO."
        )
    return (
        f"data.learned: found {listed}, but {who} uses the model trained on "
        f"{'-'.join(names) or 'no stage'}, which cannot be trained from a base model that has "
        "learned other stages already, expected a path whose stages are all trained here, or a "
        "method that does not need that model, such as NPO."
    )


def _hash(model: CausalLM, part: Part) -> str:
    given = model.pretrained.given
    if part.given is None or given is None:
        return "base"
    return given.history().get(part.given, given.fingerprint())
