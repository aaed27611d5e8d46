"""The plan: simulated values against real tensors, closed forms and PyTorch's own tracker."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from simulated import SHAPE, TINY, files

from lightning_unlearn import (
    GA,
    NPO,
    CausalLM,
    LoRA,
    MathAccuracy,
    Recipe,
    Stage,
    StagedDataModule,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.cli.main import main
from lightning_unlearn.demo import resolve
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.optimizer import make_optimizer
from lightning_unlearn.planning import estimate, model_shapes
from lightning_unlearn.planning.micro_batch_search import find_largest
from lightning_unlearn.planning.model_shapes import CONFIGS, INSTRUCTED, config_folder
from lightning_unlearn.planning.settings import on_cpu
from lightning_unlearn.planning.simulation import Measured, Simulation, _batch
from lightning_unlearn.settings.compose import load_configs
from lightning_unlearn.training.from_config import StagedCLI

RECIPE = Recipe(lr=1e-3, batch_size=8)


# From the pages of the models on the hub.
PARAMETERS = {
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
}


# File: (base, stage and unlearning rates, stage and unlearning batches, rank, alpha), as in table 1
# of arXiv 2510.16629; the last one is of its study of depth.
PAPER = {
    "llama3.2-1b": ("meta-llama/Llama-3.2-1B", 1e-5, 1e-5, 128, 128, 64, 128),
    "llama3.1-8b": ("meta-llama/Llama-3.1-8B", 1e-5, 1e-5, 128, 128, 8, 16),
    "llama2-13b": ("meta-llama/Llama-2-13b-hf", 1e-5, 5e-6, 256, 128, 8, 16),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B", 1e-5, 1e-5, 128, 128, 32, 64),
    "qwen2.5-14b": ("Qwen/Qwen2.5-14B", 1e-5, 5e-6, 256, 128, 8, 16),
    "llama3.2-3b": ("meta-llama/Llama-3.2-3B", 1e-5, 1e-5, 128, 128, 16, 32),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_known_models_have_the_right_number_of_parameters(name: str) -> None:
    with config_folder(name) as folder:
        module = CausalLM(folder)
        lm = module.pretrained.empty(torch.float32)
    assert sum(p.numel() for p in lm.parameters()) == PARAMETERS[INSTRUCTED.get(name, name)]
    assert not Path(folder).exists()
    config = module.pretrained.config
    rope, heads = config.rope_parameters, config.num_attention_heads
    assert (getattr(config, "head_dim", None) or config.hidden_size // heads) in (64, 128)
    if "Qwen" in name:
        assert lm.model.layers[0].self_attn.q_proj.bias is not None
        assert rope["rope_theta"] == 1e6
        assert module.pretrained.context_length == (32768 if "Instruct" in name else 131072)
    elif "Llama-3" in name:
        assert (rope["rope_type"], rope["rope_theta"]) == ("llama3", 5e5)
        assert rope["factor"] == (8.0 if "3.1" in name else 32.0)
    else:
        assert (rope["rope_theta"], module.pretrained.context_length) == (1e4, 4096)
    assert config.rms_norm_eps == (1e-6 if "1.5B" in name else 1e-5)


def _real(lora: LoRA | None, precision: str = "32-true") -> CausalLM:
    module = CausalLM(TINY, lora)
    vars(module)["_trainer"] = SimpleNamespace(precision=precision)
    module.configure_model()
    vars(module)["_trainer"] = None
    if lora is None:
        module.network.hf_model.requires_grad_(True)
    return module


def _bytes(tensors: Any) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


class Prefers(Unlearning):
    """A method with alternates."""

    uses_reference = False

    def loss_with_alternates(
        self, policy: Any, reference: Any, alternates: Any, alternates_reference: Any
    ) -> torch.Tensor:
        loss: torch.Tensor = policy.sum - alternates.sum
        return loss


def test_the_plan_counts_retain_rows_and_alternates(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    plain, retain, kl, pairs = (
        simulation.train("unlearning", RECIPE, method, 2, 24, False)
        for method in (GA(), GA(1.0), GA(1.0, "kl"), Prefers())
    )
    assert retain.flops == 2 * plain.flops
    # The optimizer step has few operations; the reference adds a forward without gradient.
    assert pairs.flops == pytest.approx(2 * plain.flops, rel=0.01)
    assert 2.2 * plain.flops < kl.flops < 3 * plain.flops
    # Retain rows follow the forget rows; alternates are computed together with them.
    assert retain.memory["activations"] < 1.2 * plain.memory["activations"]
    assert pairs.memory["activations"] > 1.8 * plain.memory["activations"]


@pytest.mark.parametrize(
    ("lora", "precision"),
    [
        (LoRA(8, 16), "32-true"),
        (None, "bf16-true"),
        pytest.param(LoRA(8, 16), "bf16-true", marks=pytest.mark.slow),
        pytest.param(None, "32-true", marks=pytest.mark.slow),
    ],
)
def test_weights_gradients_and_optimizer_equal_those_of_the_real_model(
    simulate: Callable[..., Simulation], lora: LoRA | None, precision: str
) -> None:
    simulation = simulate(lora=lora, precision=precision)
    found = simulation.train("learning", RECIPE, None, 2, 32, accumulates=True)
    module = _real(lora, precision)
    (optimizer,), _ = module.configure_optimizers()
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [v for state in optimizer.state.values() for v in state.values()]
    assert found.memory["parameters"] == _bytes(module.parameters())
    assert found.memory["gradients"] == _bytes(trained)
    assert found.memory["optimizer"] == _bytes(states)
    assert found.memory["other"] == _bytes(module.buffers())
    assert found.memory["gathered"] == found.exchanged == 0
    if lora is not None:
        assert {p.dtype for p in trained} == {state.dtype for state in states} == {torch.float32}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_equal_those_of_a_real_forward(
    simulate: Callable[..., Simulation], checkpointing: bool
) -> None:
    simulation = simulate(gradient_checkpointing=checkpointing)
    found = simulation.train("learning", RECIPE, None, 4, 256, accumulates=False)
    module = CausalLM(TINY, LoRA(8, 16), gradient_checkpointing=checkpointing)
    module.configure_model()
    module.train()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module.network.log_probs(_batch(4, 256)).sum.sum()
    own = {t.untyped_storage()._cdata for t in [*module.parameters(), *module.buffers()]}
    held = _bytes([t for t in kept if t.untyped_storage()._cdata not in own])
    activations = found.memory["activations"]
    assert loss.requires_grad
    # At the peak the kept activations exist together with the tensors of the operation at the peak:
    # the logits of a chunk, or the layer that is computed again.
    logits = 4 * 255 * module.pretrained.config.vocab_size * 4
    assert held <= activations
    assert activations <= held * 1.1 + 4 * logits


def test_the_total_equals_that_of_the_real_step(simulate: Callable[..., Simulation]) -> None:
    from torch.distributed._tools.mem_tracker import MemTracker

    class Tracker(MemTracker):
        def _track_module_params_and_buffers(
            self, module: Any, install_grad_hooks: bool = True
        ) -> Any:
            # Frozen parameters refuse hooks.
            return super()._track_module_params_and_buffers(module, False)

    simulation = simulate()
    found = simulation.train("learning", RECIPE, None, 2, 64, accumulates=False)
    module = _real(LoRA(8, 16))
    (optimizer,), _ = module.configure_optimizers()
    for parameter in (p for p in module.parameters() if p.requires_grad):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    module.train()
    tracker = Tracker()
    tracker.track_external(module, optimizer)  # type: ignore[arg-type]
    with tracker:
        batch = _batch(2, 64)
        (-module.network.log_probs(batch).per_token).mean().backward()
        optimizer.step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert found.peak == pytest.approx(peak["Total"], rel=0.05)


def test_the_sharded_total_equals_that_of_pytorchs_tracker(
    simulate: Callable[..., Simulation],
) -> None:
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    simulation = simulate(processes=4)
    found = simulation.train("learning", RECIPE, None, 2, 64, accumulates=False)
    network = simulation.network
    with simulation._prepared():
        optimizer = make_optimizer(network.parameters(), RECIPE)
        for parameter in (p for p in network.parameters() if p.requires_grad):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        tracker = FSDPMemTracker(network, optimizer)
        with tracker, torch.enable_grad():
            (-network.log_probs(_batch(2, 64)).per_token).mean().backward()
            optimizer.step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert found.peak == pytest.approx(peak["Total"], rel=0.02)
    alone = simulate().train("learning", RECIPE, None, 2, 64, accumulates=False)
    quarter = alone.memory["parameters"] / 4
    assert found.memory["parameters"] == pytest.approx(quarter, rel=0.02)
    assert found.memory["gathered"] > 0 and found.exchanged > 0
    assert found.flops == alone.flops


def untied(folder: Path) -> str:
    config = json.loads((resolve(TINY) / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"tie_word_embeddings": False})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return str(folder)


def test_each_layer_is_sent_as_often_as_it_is_needed(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    simulation = simulate(processes=4, base=untied(tmp_path))
    found = simulation.train("learning", RECIPE, None, 2, 64, accumulates=False)
    sizes = {n: p.numel() * p.element_size() for n, p in simulation.network.named_parameters()}
    layers = sum(size for name, size in sizes.items() if ".layers." in name)
    trained = simulation.parameters(LEARN)
    # Layers are gathered before their forward and their backward pass. The frozen embedding and the
    # rest stay gathered in between, so they are sent once.
    expected = 0.75 * (sum(sizes.values()) + layers + trained)
    assert found.exchanged == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-true", marks=pytest.mark.slow)]
)
def test_attention_scores_are_not_stored(
    simulate: Callable[..., Simulation], precision: str
) -> None:
    simulation = simulate(precision=precision, on_gpu=True)
    config = simulation.network.hf_model.config
    assert config.num_key_value_heads < config.num_attention_heads
    held = [
        simulation.train("learning", RECIPE, None, 2, length, accumulates=False).memory
        for length in (256, 512)
    ]
    # Scores would grow with the square of the length: by 25 of 33 MB here.
    assert held[1]["activations"] <= 2.01 * held[0]["activations"]


def test_the_work_of_a_forward_equals_its_closed_form(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(lora=None)
    found = simulation.evaluate(2, 64)
    lm, config = simulation.network.hf_model, simulation.network.hf_model.config
    layers = [m for m in lm.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
    width = config.num_attention_heads * config.head_dim
    expected = 2 * 2 * 64 * sum(m.weight.numel() for m in layers)
    expected += config.num_hidden_layers * 4 * 2 * 64 * 64 * width
    expected += 2 * 2 * 63 * lm.get_output_embeddings().weight.numel()
    # The rotary angles add a small product.
    assert expected <= found.flops <= expected * 1.01


def test_phases_and_settings_change_the_values_as_expected(
    simulate: Callable[..., Simulation],
) -> None:
    def learn(**options: Any) -> Measured:
        simulation = simulate(**options)
        return simulation.train("learning", RECIPE, None, 4, 128, accumulates=False)

    simulation = simulate()
    plain = learn()
    unlearning = simulation.train("unlearning", RECIPE, NPO(), 4, 128, accumulates=False)
    assert unlearning.flops > plain.flops
    assert unlearning.memory["optimizer"] == plain.memory["optimizer"]
    spared = learn(gradient_checkpointing=True)
    assert spared.memory["activations"] < plain.memory["activations"]
    assert spared.flops > plain.flops
    momentum = Recipe(lr=1e-3, optimizer="sgd", momentum=0.9)
    sgd = simulation.train("learning", momentum, None, 4, 128, accumulates=False)
    assert 0 < sgd.memory["optimizer"] < plain.memory["optimizer"]


def test_gradient_norms_keep_the_activations_that_training_computes_again(
    simulate: Callable[..., Simulation],
) -> None:
    simulation = simulate(gradient_checkpointing=True)
    spared = simulation.train("learning", RECIPE, None, 1, 128, accumulates=False)
    norms = simulation.gradient_norms(128)
    assert norms.memory["activations"] > 1.5 * spared.memory["activations"]


@pytest.mark.parametrize("lora", [SHAPE, None], ids=["lora", "full"])
def test_an_evaluation_of_the_oracle_keeps_the_models_own_weights(
    simulate: Callable[..., Simulation], lora: LoRA | None
) -> None:
    simulation = simulate(lora=lora)
    whole, adapter = simulation.parameters(), simulation.parameters(LEARN)
    assert simulation.swapped() == (whole if lora is None else 2 * adapter)


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("usable", [5, 40, 100, 333, 2000])
@pytest.mark.parametrize("first", [1, 4, 32])
def test_the_largest_micro_batch_fits(usable: int, first: int, patient: bool) -> None:
    def peak(size: int) -> int:
        return max(30, 10 + 9 * size, 11 * size - 4)

    sizes = [1, 2, 4, 8, 16, 32]
    deadline = float("inf") if patient else 0.0
    found = find_largest(sizes, {first: peak(first)}, peak, usable, deadline)
    best = max((n for n in sizes if peak(n) <= usable), default=0)
    assert found.size <= best and (found.size > 0) == (best > 0)
    if patient:
        assert (found.size, found.tried) == (best, True)


@pytest.mark.parametrize(("greedy", "samples"), [(True, 1), (False, 5)])
def test_all_samples_of_a_batch_are_generated_together(greedy: bool, samples: int) -> None:
    monitor = MathAccuracy(num_samples=5, greedy=greedy)
    trainer = StagedTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[monitor]
    )
    data = StagedDataModule({"math": Stage(source="demo:math")}, eval_batch_size=4)
    forward = Measured({"parameters": 7, "activations": 3}, 0, 0, 0.0)
    found = estimate._generated(trainer, CausalLM(TINY), data, 2, forward, 64)
    assert found is not None and found.sequences == 4 * samples
    config = CausalLM(TINY).pretrained.config
    pairs = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert found.cache == pairs * 2 * 4 * samples * 64 and found.peak == found.cache + 7


@pytest.mark.parametrize("model", PAPER)
def test_settings_equal_those_of_the_paper(model: str) -> None:
    base, lr, unlearn_lr, batch, unlearn_batch, rank, alpha = PAPER[model]
    content = load_configs(files(model))
    assert content["model"]["base"] == base
    with config_folder(base) as folder:
        content["model"]["base"] = folder
        made = StagedCLI(None, on_cpu(content), [])
    lora, data = made.model.settings.lora, made.datamodule
    assert lora is not None and (lora.rank, lora.alpha) == (rank, alpha)
    assert {"q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} == set(
        lora.target_modules
    )
    assert {stage.lr for stage in data.stages.values()} == {lr}
    assert {stage.batch_size for stage in data.stages.values()} == {batch}
    assert [stage.epochs for stage in data.stages.values()] == [10, 4, 2, 2]
    unlearn = data.unlearn
    assert (unlearn.lr, unlearn.batch_size, unlearn.epochs) == (unlearn_lr, unlearn_batch, 1)
    assert data.chat_template_from is not None
    assert data.chat_template_from.startswith(base.removesuffix("-hf"))
    # The study of depth uses QLoRA in bf16.
    packed = model == "llama3.2-3b"
    assert made.trainer.precision == ("bf16-true" if packed else "32-true")
    assert made.model.settings.quantization == ("nf4" if packed else None)
    for recipe in (*data.stages.values(), unlearn):
        assert (recipe.schedule, recipe.warmup, recipe.decay) == ("wsd", 0.02, 0.02)
        assert (recipe.betas, recipe.weight_decay) == ((0.9, 0.999), 0.0)


# Models that differ in more than their shape.
TO_PLAN = ("llama3.2-3b", "qwen2.5-14b", "llama3.2-1b")


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=() if m in TO_PLAN else pytest.mark.slow) for m in PAPER],
)
def test_every_model_is_planned(
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "PATIENCE", 0.0)
    base = PAPER[model][0]
    shallow = {**CONFIGS[base], "num_hidden_layers": 2}
    monkeypatch.setitem(model_shapes.CONFIGS, base, shallow)
    configs = [part for file in files(model) for part in ("--config", file)]
    if base == "Qwen/Qwen2.5-14B":
        more = tmp_path.with_suffix(".yaml")
        asks = {"class_path": "Membership", "init_args": {"nonmembers": "math:heldout"}}
        more.write_text(json.dumps({"trainer": {"callbacks": [asks, {"class_path": "NPO"}]}}))
        configs += ["--config", str(more)]
    options = ["--gpus", "4", "--throughput", "100", "--rows", "inst=1,tofu=1,math=1,safety=1"]
    options += ["--data.max_length", "64"]
    assert main(["plan", *configs, *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{base}: ")
    name, key = ("DDP", "ddp") if model == "llama3.2-3b" else ("FSDP2", "fsdp2")
    assert f"4 x 80 GiB, {name} (assumed; set trainer.strategy: {key})" in printed
    assert ("base in NF4" in printed) == (name == "DDP")
    assert "Optimizer steps: inst 10, tofu 4, math 2, safety 2, unlearn 1." in printed
    assert "learning   unlearning   evaluation" in printed
    assert ("Gradient norms, one row at a time:" in printed) == (base == "Qwen/Qwen2.5-14B")
    assert not list(tmp_path.iterdir())
    assert not torch.distributed.is_initialized()
