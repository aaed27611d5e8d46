"""A base model must match its files, or it is refused before anything is written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_stages import Tiny
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_unlearn import GA, InputError, Study, StudySpec
from lightning_unlearn.model.pretrained import (
    check_weights,
    load_causal_lm,
    load_config,
    weight_files,
)
from lightning_unlearn.model.weights_check import INDEX, WEIGHTS

Weights = dict[str, Tensor]


@pytest.fixture
def base(tiny: Tiny) -> Path:
    """Create a model folder in which the output projection is not tied to the embedding."""
    folder = tiny.root / "base"
    shutil.copytree(tiny.base, folder)
    weights = load_file(folder / WEIGHTS)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    change_config(folder, tie_word_embeddings=False)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    weights = {n: w.contiguous() for n, w in change(load_file(folder / WEIGHTS)).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def refused(tiny: Tiny, base: Path, train: bool = True, **trainer: Any) -> str:
    """Return the message of `fit` about a base model; check that no file was written."""
    before = sorted(tiny.root.rglob("*"))
    with pytest.raises(InputError) as raised:
        module = tiny.module(base=str(base))
        made = tiny.trainer([GA()], **trainer)
        made.check(module, tiny.datamodule(), train)
    assert sorted(tiny.root.rglob("*")) == before
    return str(raised.value)


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {n: w for n, w in weights.items() if n not in names}


def headless(weights: Weights) -> Weights:
    """Return the weights that `save_pretrained` of `AutoModel` writes."""
    return {n.removeprefix("model."): w for n, w in weights.items() if n != "lm_head.weight"}


def renamed(weights: Weights) -> Weights:
    return {n.replace("q_proj", "query"): w for n, w in weights.items()}


def without_layer(number: int) -> Callable[[Weights], Weights]:
    return lambda weights: {n: w for n, w in weights.items() if f".{number}." not in n}


DOWN = "model.layers.0.mlp.down_proj.weight"
PARTS: list[tuple[str, Callable[[Weights], Weights], str]] = [
    ("one weight", without(DOWN), rf"1 missing \({DOWN}\).* written by save_pretrained of"),
    ("no head", headless, r"1 missing \(lm_head\.weight\).*The output projection is missing"),
    ("first layer", without_layer(0), r"9 missing \(model\.layers\.0\.input_layernorm\.weight, "),
    (
        "last layer",
        without_layer(1),
        r"9 missing.*The files have 1 layers: if this is .*set num_hidden_layers ",
    ),
    ("names", renamed, r"2 missing \(.*q_proj\.weight\); 2 not in the model \(.*query\.weight\)"),
    (
        "classifier",
        lambda w: {**without("lm_head.weight")(w), "score.weight": torch.zeros(2, 32)},
        r"1 missing \(lm_head\.weight\); 1 not in the model \(score\.weight\)",
    ),
    (
        "value head",
        lambda w: {**w, "v_head.weight": torch.zeros(1, 32)},
        r"1 not in the model \(v_head\.weight\).*If the model is right without them",
    ),
    (
        "shape",
        lambda w: {**w, "model.norm.weight": torch.ones(3)},
        r"1 of another shape \(model\.norm\.weight is \[3\], expected \[32\]\)",
    ),
]


OPENING: dict[str, Any] = {"attention": "sdpa", "trust_remote_code": False}


@pytest.mark.parametrize(("change", "expected"), [p[1:] for p in PARTS], ids=[p[0] for p in PARTS])
def test_files_that_do_not_match_the_model(
    tiny: Tiny, base: Path, change: Callable[[Weights], Weights], expected: str
) -> None:
    change_weights(base, change)
    message = refused(tiny, base)
    assert message.startswith(f"model.base: {base}: its files do not match the model that")
    assert "Missing weights are not replaced by random numbers" in message
    assert re.search(expected, message), message
    # Other ways of loading raise the same error.
    for options in ({}, {"dtype": torch.bfloat16}):
        with pytest.raises(InputError, match=expected):
            load_causal_lm(str(base), **{"dtype": torch.float32, **options}, **OPENING)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            1,
            r"9 not in the model \(model\.layers\.1\..*The files have 2 layers: if this is",
        ),
        (
            3,
            r"9 missing \(model\.layers\.2\..*have 2 layers: if .* model, set num_hidden_layers \(",
        ),
        (10**9, r"found num_hidden_layers: 1000000000 in config\.json and 21 weights"),
    ],
)
def test_more_or_fewer_layers_than_the_files(
    tiny: Tiny, base: Path, layers: int, expected: str
) -> None:
    change_config(base, num_hidden_layers=layers)
    assert re.search(expected, refused(tiny, base))
    # As advised.
    change_config(base, num_hidden_layers=2)
    tiny.trainer([GA()]).check(tiny.module(base=str(base)), tiny.datamodule())


def test_tied_weights_are_stored_once(tiny: Tiny) -> None:
    assert "lm_head.weight" not in load_file(tiny.base / WEIGHTS)
    tiny.trainer([GA()]).check(tiny.module(), tiny.datamodule())


def test_a_headless_model_may_be_a_tied_one(tiny: Tiny, base: Path) -> None:
    change_weights(base, headless)
    change_config(base, tie_word_embeddings=True)
    tiny.trainer([GA()]).check(tiny.module(base=str(base)), tiny.datamodule())


def test_weights_without_the_models_prefix_are_read(tiny: Tiny, base: Path) -> None:
    """transformers maps the names of a model without head to those of one with a head."""
    head = load_file(base / WEIGHTS)["lm_head.weight"]
    change_weights(base, lambda w: {**headless(w), "lm_head.weight": head})
    ours = load_causal_lm(str(base), torch.float32, **OPENING).state_dict()
    assert torch.equal(ours["lm_head.weight"], head)


@pytest.mark.parametrize(
    ("value", "dtype", "precision", "expected"),
    [
        (float("nan"), torch.float32, "32-true", "found nan in "),
        (float("inf"), torch.bfloat16, "bf16-true", "found inf in "),
        (float("-inf"), torch.float32, "32-true", "found -inf in "),
        (-1e5, torch.float32, "16-true", "found -1e+05 in "),
    ],
)
@pytest.mark.parametrize("weight", [DOWN, "model.norm.weight"])
def test_weights_that_are_not_finite(
    tiny: Tiny,
    base: Path,
    weight: str,
    value: float,
    dtype: torch.dtype,
    precision: str,
    expected: str,
) -> None:
    def spoil(weights: Weights) -> Weights:
        damaged = {n: w.to(dtype) for n, w in weights.items()}
        damaged[weight].view(-1)[-1] = value
        return damaged

    change_weights(base, spoil)
    message = refused(tiny, base, precision=precision)
    assert message.startswith(f"model.base: {base}: {expected}{weight}")
    if precision == "16-true":
        tiny.trainer([GA()]).check(tiny.module(base=str(base)), tiny.datamodule())


def test_masks_of_older_files_need_not_be_finite(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9)).save_pretrained(
        tmp_path
    )
    masks = {
        "transformer.h.0.attn.masked_bias": torch.tensor(float("-inf")),
        "transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9).tril(),
    }
    change_weights(tmp_path, lambda w: {**w, **masks})
    config = load_config(str(tmp_path), False)
    check_weights(str(tmp_path), config, torch.float16, **OPENING, numbers=True)
    change_weights(tmp_path, lambda w: {**w, "transformer.h.0.attn.masked_bias": torch.ones(8)})
    with pytest.raises(
        InputError, match=r"1 not in the model \(transformer\.h\.0\.attn\.masked_bias\)"
    ):
        check_weights(str(tmp_path), config, torch.float32, **OPENING, numbers=False)


CONTENTS = {
    "empty": (b"", "found an empty file, expected weights as safetensors"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "found a Git LFS pointer instead of the file (git lfs pull downloads it)",
    ),
    "garbage": (b"\x07" * 999, "found a file that can't be read (Error while deserializing"),
    "cut": (None, "found a file that can't be read (Error while deserializing"),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("is_shard", [False, True])
def test_weight_files_that_cannot_be_read(
    tiny: Tiny, base: Path, kind: str, is_shard: bool
) -> None:
    file = shards(base)[1] if is_shard else base / WEIGHTS
    content, expected = CONTENTS[kind]
    file.write_bytes(file.read_bytes()[:-7] if content is None else content)
    assert refused(tiny, base).startswith(f"model.base: {file}: {expected}")


def shards(base: Path) -> list[Path]:
    """Write the weights into two files, with an index."""
    weights = load_file(base / WEIGHTS)
    (base / WEIGHTS).unlink()
    names = sorted(weights)
    parts = {f"model-{i}.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({n: weights[n] for n in part}, base / file, metadata={"format": "pt"})
    places = {n: file for file, part in parts.items() for n in part}
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return [base / file for file in parts]


def test_weights_in_several_files(tiny: Tiny, base: Path) -> None:
    before = load_causal_lm(str(base), torch.float32, **OPENING).state_dict()
    files = shards(base)
    tiny.trainer([GA()]).check(tiny.module(base=str(base)), tiny.datamodule())
    after = load_causal_lm(str(base), torch.float32, **OPENING).state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    files[1].rename(base / "elsewhere")
    assert refused(tiny, base).endswith(
        f"found no model-1.safetensors, which {INDEX} lists; download the model again."
    )
    shutil.copy(files[0], files[1])
    assert re.search(
        rf"found no \S+ in model-1\.safetensors, where {INDEX} lists it", refused(tiny, base)
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_invalid_index(tiny: Tiny, base: Path, text: str) -> None:
    shards(base)
    (base / INDEX).write_text(text)
    assert refused(tiny, base).startswith(f"model.base: {base / INDEX}: found ")


def test_all_readers_use_the_same_of_two_sets_of_files(tiny: Tiny, base: Path) -> None:
    """If both sets exist, transformers reads the single file; so do readers of shards."""
    content = (base / WEIGHTS).read_bytes()
    shards(base)
    (base / WEIGHTS).write_bytes(content)
    assert set(weight_files(str(base)).values()) == {base / WEIGHTS}


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{{{", "version https://git-lfs.github.com", "\0", "[" * 99999]
)
def test_settings_that_are_not_json_objects(tiny: Tiny, base: Path, file: str, text: str) -> None:
    (base / file).write_text(text)
    message = refused(tiny, base)
    assert message.startswith(f"model.base: {base / file}: found ")
    assert message.endswith("expected a JSON object. Download or copy the file again.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": "32"}, "hidden_size.*expected int, got str"),
        ({"hidden_size": None}, "hidden_size.*expected int, got NoneType"),
        ({"hidden_size": 0}, "of another shape"),
        ({"hidden_size": 10**12}, "of another shape"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"num_attention_heads": 3}, "not a multiple of the number of attention heads"),
        ({"num_key_value_heads": 3}, "of another shape"),
        ({"num_hidden_layers": -1}, "found num_hidden_layers: -1 in config.json and 21 weights"),
        ({"rope_parameters": []}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "zzz", "rope_theta": 1.0}}, "KeyError: 'zzz'"),
        ({"hidden_act": "zzz"}, "KeyError: 'zzz'"),
        ({"model_type": 3}, "has model type `3`"),
        ({"model_type": "t5"}, "can't be loaded as a causal language model: Unrecognized config"),
        ({"tie_word_embeddings": "x"}, "tie_word_embeddings.*expected bool, got str"),
        ({"dtype": "zzz"}, "has no attribute 'zzz'"),
        ({"pad_token_id": 99999}, "Padding_idx must be within num_embeddings"),
        ({"quantization_config": "x"}, "model.base: found .*'str' object has no attribute"),
        ({"vocab_size": 1023}, "of another shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_settings_of_wrong_types_and_values(
    tiny: Tiny, base: Path, change: dict[str, Any], expected: str
) -> None:
    change_config(base, **change)
    message = refused(tiny, base)
    assert message.startswith("model.base: ")
    assert re.search(expected, message), message
    assert len(message) < 900


def test_settings_of_a_tokenizer_of_wrong_types(tiny: Tiny, base: Path) -> None:
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": 7, "eos_token": 5}')
    assert "which has no tokenizer that can be loaded: AttributeError" in refused(tiny, base)


@pytest.mark.parametrize("has_model", [True, False])
def test_a_folder_with_an_adapter(tiny: Tiny, base: Path, has_model: bool) -> None:
    """transformers applies it to the model; to ignore it silently would give another model."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.2)
    peft.save_pretrained(base)
    if not has_model:
        (base / "config.json").unlink()
    message = refused(tiny, base)
    if not has_model:
        # The adapter names its own folder as its base.
        start = f"model.base: {base}/adapter_config.json: base_model_name_or_path: found an adapter"
        assert message.startswith(start)
        return
    assert message.startswith(f"model.base: found a model and an adapter in {base} (adapter_conf")
    # As advised.
    adapter, merged = tiny.root / "adapter", tiny.root / "merged"
    adapter.mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (base / file).rename(adapter / file)
    tiny.trainer([GA()]).check(tiny.module(base=str(base)), tiny.datamodule())
    alone = AutoModelForCausalLM.from_pretrained(base)
    PeftModel.from_pretrained(alone, adapter).merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    module = tiny.module(base=str(merged))
    tiny.trainer([GA()]).check(module, tiny.datamodule())
    module.configure_model()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        ours, theirs = (
            m(input_ids=ids).logits for m in (module.network.hf_model.eval(), peft.eval())
        )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_every_command_that_loads_a_model_refuses(tiny: Tiny, base: Path) -> None:
    change_weights(base, without(DOWN))
    assert DOWN in refused(tiny, base, train=False), "validate"
    for oracle in (False, True):
        with pytest.raises(InputError, match=DOWN):
            tiny.trainer([GA()]).fit(
                tiny.module(base=str(base), lora=None), tiny.datamodule(oracle=oracle)
            )
    assert not (tiny.root / "runs").exists() and not (tiny.root / "store").exists()
    plan = {**tiny.fit(), "model": {"base": str(base)}}
    with pytest.raises(InputError, match=DOWN):
        Study(StudySpec("study", plan, {"GA": {"callback": "GA"}})).run()
    assert not (tiny.root / "study").exists()


def test_missing_stored_weights(tiny: Tiny) -> None:
    """Full fine-tuning loads full models from the store."""
    module = tiny.module(lora=None)
    module.configure_model()
    module.weights.save("learn", tiny.root / "learn")
    change_weights(tiny.root / "learn", without(DOWN))
    with pytest.raises(InputError, match=DOWN):
        module.weights.load("learn", tiny.root / "learn")
