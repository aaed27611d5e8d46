"""Adapters that were trained elsewhere with PEFT: what is loaded, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint, tiny_lm, tiny_tokenizer
from trained_elsewhere import random_adapter
from transformers import AutoModelForCausalLM

from lightning_unlearn import CausalLM, InputError, LoRA
from lightning_unlearn.model import adapter_files, given_adapters
from lightning_unlearn.model.stage import StageStart

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IDS = torch.arange(7, 19)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given")


@pytest.fixture(scope="module")
def base(folder: Path) -> str:
    return tiny_checkpoint(folder / "base")


def logits_of(module: CausalLM, after: str | None = None) -> torch.Tensor:
    """The logits from which a path starts, or those after an earlier stage."""
    module.start_stage(StageStart(fresh=True, after=after))
    module.configure_model()
    with torch.no_grad():
        found: torch.Tensor = module.network.hf_model.eval()(input_ids=IDS).logits
    return found


def by_peft(base: str, *adapters: str) -> torch.Tensor:
    """The same, by transformers and PEFT alone; each adapter is merged before the next is put."""
    lm: Any = AutoModelForCausalLM.from_pretrained(base)
    for adapter in adapters:
        lm = PeftModel.from_pretrained(lm, adapter).merge_and_unload()
    with torch.no_grad():
        logits: torch.Tensor = lm.eval()(input_ids=IDS).logits
    return logits


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.mlp.up_proj": 20}},
    "one layer": {"target_modules": ["v_proj", "o_proj"], "layers_to_transform": [1]},
    "dropout": {"lora_dropout": 0.5, "init_lora_weights": "gaussian"},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_computes_what_peft_computes(base: str, tmp_path: Path, shape: str) -> None:
    """Without any setting of LoRA; the new adapter has a shape of its own."""
    adapter = random_adapter(base, tmp_path / "adapter", **SHAPES[shape])
    module = CausalLM(adapter)
    module.checks.adapters()
    module.checks.files("32-true", numbers=True)
    expected = by_peft(base, adapter)
    assert torch.allclose(logits_of(module), expected, atol=1e-5)
    assert not torch.allclose(expected, by_peft(base), atol=0.1)
    assert module.settings.base == base and module.adapters is not None
    module.adapters.save("learn", tmp_path, module.adapters.state_dict("learn"))
    assert torch.allclose(by_peft(base, str(tmp_path)), expected, atol=1e-5)
    # What monitors take as the base, such as for an oracle without any stage.
    module.adapters.reset("learn", 1)
    with module.weights.swapped(None, 0), torch.no_grad():
        module.adapters.set_active(["learn", "unlearn"], None)
        found = module.network.hf_model.eval()(input_ids=IDS).logits
    assert torch.allclose(found, expected, atol=1e-5)
    rank = module.adapters.peft_model.peft_config["unlearn"].r
    assert rank == LoRA().rank


def test_the_last_of_several_states_is_the_start(base: str, tmp_path: Path) -> None:
    names = ("inst", "safety")
    paths = {name: random_adapter(base, tmp_path / name, n) for n, name in enumerate(names)}
    module = CausalLM(base, adapters=paths)
    module.checks.adapters()
    assert torch.allclose(logits_of(module), by_peft(base, paths["safety"]), atol=1e-5)
    assert torch.allclose(logits_of(module, "inst"), by_peft(base, paths["inst"]), atol=1e-5)
    given = module.pretrained.given
    assert given is not None and given.stages == names
    assert given.fingerprint() == CausalLM(paths["safety"]).pretrained.given.fingerprint()  # type: ignore[union-attr]


def test_stacked_adapters_are_one_of_the_summed_rank(base: str, tmp_path: Path) -> None:
    """Of unequal ranks, scales and layers: the sum of products, exactly as one LoRA."""
    shapes: list[dict[str, Any]] = [
        {},
        {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "up_proj"]},
        {"use_rslora": True, "target_modules": ["v_proj", "embed_tokens"]},
    ]
    names = ("inst", "math", "safety")
    paths = {
        name: random_adapter(base, tmp_path / name, n, **shapes[n]) for n, name in enumerate(names)
    }
    module = CausalLM(base, adapters=paths, stacked=True)
    module.checks.adapters()
    for count, name in enumerate(names, start=1):
        merged = by_peft(base, *list(paths.values())[:count])
        assert torch.allclose(logits_of(module, name), merged, atol=1e-4), name
    assert torch.allclose(logits_of(module), by_peft(base, *paths.values()), atol=1e-4)
    assert module.adapters is not None
    module.adapters.save("learn", tmp_path, module.adapters.state_dict("learn"))
    expected = by_peft(base, *paths.values())
    assert torch.allclose(by_peft(base, str(tmp_path)), expected, atol=1e-4)
    assert (
        module.pretrained.given.fingerprint()
        != CausalLM(  # type: ignore[union-attr]
            base, adapters=dict(reversed(paths.items())), stacked=True
        ).pretrained.given.fingerprint()
    )  # type: ignore[union-attr]


def test_the_base_may_be_beside_the_adapter(base: str, tmp_path: Path) -> None:
    """Relative to the adapter, where it was trained in its own folder."""
    adapter = Path(random_adapter(base, tmp_path / "adapter"))
    edit(adapter, base_model_name_or_path="../model")
    shutil.copytree(base, tmp_path / "model")
    module = CausalLM(str(adapter))
    assert Path(module.settings.base).samefile(tmp_path / "model")
    assert module.pretrained.given is not None
    assert module.pretrained.given.notes(module.settings.base, 0.0) == []


def test_the_tokenizer_of_the_adapter_is_used(base: str, tmp_path: Path) -> None:
    adapter = random_adapter(base, tmp_path / "adapter")
    tiny_tokenizer("{{ 'Own.' }}").save_pretrained(adapter)
    module = CausalLM(adapter)
    assert module.pretrained.tokenizer().chat_template == "{{ 'Own.' }}"
    module.checks.adapters()
    assert module.checks.notes() == [
        f"model.base: the tokenizer of {adapter}, with its chat template, is used."
    ]


def test_an_adapter_of_the_hub_is_found_by_its_files(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the hub holds single files; a name without adapter_config.json is a model."""
    folder = Path(random_adapter(base, tmp_path / "adapter"))

    def cached(located: str, file: str) -> Path | None:
        place = (folder if located == "org/adapter" else Path(located)) / file
        return place if place.exists() else None

    for module in (adapter_files, given_adapters):
        monkeypatch.setattr(module, "find_file", cached)
    assert not adapter_files.is_adapter("org/model")
    found = CausalLM("org/adapter")
    assert torch.allclose(logits_of(found), by_peft(base, str(folder)), atol=1e-5)
    with pytest.raises(InputError, match=r"^model\.adapters\.inst: found org/model without "):
        CausalLM(base, adapters={"inst": "org/model"})


def test_another_base_and_dropout_are_noted(base: str, tmp_path: Path) -> None:
    adapter = random_adapter(base, tmp_path / "adapter", lora_dropout=0.1)
    edit(Path(adapter), base_model_name_or_path="some/model")
    module = CausalLM(base, adapters={"safety": adapter})
    module.checks.adapters()
    assert module.checks.notes() == [
        f"model.adapters.safety: {adapter} was trained on some/model (base_model_name_or_path); "
        f"here its base is {base}.",
        f"model.adapters.safety: {adapter} was trained with lora_dropout 0.1; here "
        "model.lora.dropout, 0, is used.",
    ]


def edit(adapter: Path, **values: Any) -> None:
    """Change keys of adapter_config.json; None removes one."""
    config = json.loads((adapter / CONFIG).read_text())
    config = {key: value for key, value in {**config, **values}.items() if value is not None}
    (adapter / CONFIG).write_text(json.dumps(config))


def change(adapter: Path, edit_weights: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(adapter / WEIGHTS)
    edit_weights(weights)
    save_file(weights, adapter / WEIGHTS)


UP = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
DOWN = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


def with_nan(weights: dict[str, torch.Tensor]) -> None:
    weights[UP][1, 2] = torch.nan


def without_up(weights: dict[str, torch.Tensor]) -> None:
    del weights[UP]


def with_head(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.lm_head.weight"] = torch.zeros(2, 2)


def truncate(adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:900])


def pickled(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")


MERGE = r"To merge an adapter into its model in Python and name MERGED in model\.base: "
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dora": (lambda a: edit(a, use_dora=True), rf"use_dora: true, expected plain LoRA\. {MERGE}"),
    "modules_to_save": (
        lambda a: edit(a, modules_to_save=["lm_head"]),
        r'found modules_to_save: \["lm_head"\], expected plain LoRA',
    ),
    "bias": (lambda a: edit(a, bias="all"), 'found bias: "all", expected plain LoRA'),
    "pissa": (lambda a: edit(a, init_lora_weights="pissa"), 'found init_lora_weights: "pissa", '),
    "experts": (lambda a: edit(a, target_parameters=["w"]), r'found target_parameters: \["w"\]'),
    "newer": (lambda a: edit(a, use_tomorrow=3), r"found use_tomorrow: 3, expected plain LoRA"),
    "ia3": (lambda a: edit(a, peft_type="IA3"), r"found peft_type: IA3, expected LORA"),
    "task": (lambda a: edit(a, task_type="SEQ_CLS"), "found task_type: SEQ_CLS, expected CAUSAL_"),
    "rank": (lambda a: edit(a, r=0), "found r: 0, expected plain LoRA"),
    "no rank": (lambda a: edit(a, r=None), "found no r, expected one"),
    "other rank": (lambda a: edit(a, r=5), rf"found the shape \[4, 48\] for {DOWN}, expected the "),
    "no base": (
        lambda a: edit(a, base_model_name_or_path=None),
        r"base_model_name_or_path: found none, expected the base model\. Name the base model "
        r"yourself: model\.base: MODEL, model\.adapters: \{STAGE: ",
    ),
    "lost base": (
        lambda a: edit(a, base_model_name_or_path="/gone/model"),
        r"base_model_name_or_path: found '/gone/model', which is not a folder, .* Name the base mo",
    ),
    "revision": (lambda a: edit(a, revision="v2"), r" in revision v2, expected main\. Download "),
    "nan": (lambda a: change(a, with_nan), rf"found nan in {UP}, expected finite numbers"),
    "missing": (lambda a: change(a, without_up), rf"found no weight for {UP}, expected the shape "),
    "head": (
        lambda a: change(a, with_head),
        r"found base_model\.model\.lm_head\.weight, expected only weights of LoRA",
    ),
    "truncated": (truncate, r"adapter_model\.safetensors: found a file that can't be read"),
    "empty": (lambda a: (a / WEIGHTS).write_text(""), "found an empty file, expected weights as s"),
    "pickle": (pickled, r"found adapter_model\.bin in .*, which is a pickle and may run code"),
    "no weights": (lambda a: (a / WEIGHTS).unlink(), r"without adapter_model\.safetensors"),
    "no json": (
        lambda a: (a / CONFIG).write_text("{"),
        r"adapter_config\.json: found invalid JSON",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_cannot_be_used_is_refused(
    base: str, folder: Path, tmp_path: Path, fault: str
) -> None:
    if not (folder / "adapter").exists():
        random_adapter(base, folder / "adapter")
    adapter = Path(shutil.copytree(folder / "adapter", tmp_path / "adapter"))
    change_it, expected = FAULTS[fault]
    change_it(adapter)
    with pytest.raises(InputError, match=rf"(?s)^model\.base: .*{expected}") as refused:
        module = CausalLM(str(adapter))
        module.checks.adapters()
        module.checks.files("32-true", numbers=True)
    assert len(str(refused.value)) < 900


def test_settings_that_do_not_fit_the_adapters_are_refused(base: str, tmp_path: Path) -> None:
    one = random_adapter(base, tmp_path / "one")
    two = random_adapter(base, tmp_path / "two", r=2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"base": one, "adapters": {"inst": two}}, "model.base: found the adapter "),
        ({"base": one, "lora": None}, "model.lora: found null with an adapter, expected LoRA set"),
        ({"base": base, "stacked": True}, "model.stacked: found true, expected at least two adap"),
        (
            {"base": base, "adapters": {"inst": one}, "stacked": True},
            "model.stacked: found true, expected at least two adapters",
        ),
        (
            {"base": base, "adapters": {"inst": str(tmp_path / "none")}},
            f"model.adapters.inst: found '{tmp_path}/none', which is not a folder, expected a fol",
        ),
        (
            {"base": base, "adapters": {"inst": base}},
            f"model.adapters.inst: found {base} without adapter_config.json, expected a LoRA adap",
        ),
        (
            {"base": base, "adapters": {"inst": one, "safety": two}},
            "model.adapters: found rank 4 (scale 1.5) on model.layers.0.mlp.down_proj in inst and "
            "rank 2 (scale 3) in safety, expected equal ones",
        ),
    ]
    for settings, expected in cases:
        with pytest.raises(InputError) as refused:
            CausalLM(**settings)
        assert str(refused.value).startswith(expected), str(refused.value)


def test_an_adapter_of_another_model_is_refused(base: str, tmp_path: Path) -> None:
    wide = tiny_lm(hidden_size=48)
    adapter = random_adapter(base, tmp_path / "adapter", on=wide)
    module = CausalLM(base, adapters={"safety": adapter})
    with pytest.raises(InputError, match=r"^model\.adapters\.safety: .* on the base model\. Use "):
        module.checks.adapters()


def test_a_copy_of_other_base_weights_is_refused(base: str, tmp_path: Path) -> None:
    """PEFT writes the output projection if it has an adapter: of another model it is another."""
    other = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        other.lm_head.weight.add_(1)
    adapter = random_adapter(base, tmp_path / "adapter", on=other, target_modules=["lm_head"])
    module = CausalLM(adapter)
    with pytest.raises(InputError, match=r"found .*lm_head.*, which differs from the weights of "):
        module.checks.files("32-true", numbers=True)
