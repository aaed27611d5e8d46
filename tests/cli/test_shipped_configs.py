"""Every value of every shipped file, as YAML reads it, against the intended value."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_unlearn import MathAccuracy, SimNPO
from lightning_unlearn.settings.compose import load_configs
from lightning_unlearn.settings.strict_yaml import read_yaml
from lightning_unlearn.training.from_config import StagedCLI

CONFIGS = Path(__file__).parents[2] / "configs"
DOCS = CONFIGS.parent / "docs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return the leaves by dotted keys; items of a list are numbered from 0."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    leaves: dict[str, Any] = {}
    for name, inner in items:
        here = f"{key}.{name}" if key else str(name)
        nested = isinstance(inner, (dict, list)) and inner
        leaves |= flat(inner, here) if nested else {here: inner}
    return leaves


def monitor(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, **({"init_args": arguments} if arguments else {})}


def pair(source: str, prompt: str | None = None, answer: str | None = None) -> dict[str, Any]:
    columns = {"prompt": prompt, "answer": answer}
    return {"source": source, **{key: name for key, name in columns.items() if name}}


def heldout(name: str, other: str, *columns: str) -> dict[str, str]:
    """Return the keys of a stage of the paper with held-out rows."""
    return pair(f"data/paper/{name}.jsonl", *columns) | {"heldout": f"data/paper/{other}.jsonl"}


def trainer(folder: str, callbacks: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "default_root_dir": folder,
        "store": f"{folder}/store",
        "callbacks": callbacks,
        **more,
    }


# arXiv 2510.16629. Stages: name, file, columns, epochs. Every model: AdamW, 1e-5, batches of 128,
# NPO with beta 0.5, the label's likelihood every few steps, 5 sampled attempts a question, and
# LoRA on q, v, o and all projections of the MLP.
PAPER = {
    "seed_everything": 0,
    "trainer": trainer(
        "runs/paper",
        [
            monitor("NPO", beta=0.5),
            monitor("LabelLikelihood", every_n_steps=5, label="paper"),
            monitor("AnswerLikelihood", every_n_steps=5, limit=400, end_of_turn=False),
            monitor(
                "MathAccuracy",
                num_samples=5,
                max_new_tokens=512,
                instruction=(
                    "Reason step by step. Then write a line with #### and the bare number."
                ),
            ),
        ],
    ),
    "model": {
        "lora": {
            "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        }
    },
    "data": {
        "max_length": 1024,
        "forget": "safety",
        "stages": {
            name: {**columns, "epochs": epochs, "lr": 1e-5, "batch_size": 128}
            for name, columns, epochs in (
                ("inst", pair("data/paper/inst.jsonl"), 10),
                ("tofu", pair("data/paper/tofu.jsonl"), 4),
                ("math", heldout("math", "math_test"), 2),
                ("safety", heldout("safety", "safety_heldout", "prompt", "response"), 2),
            )
        },
        "unlearn": {"epochs": 1, "lr": 1e-5, "batch_size": 128},
    },
}


def model(
    folder: str, base: str, template: str, rank: int, large: bool = False, **more: Any
) -> dict[str, Any]:
    """Return the values of a file of models/; large models have batch 256 and half the rate."""
    larger = {
        "stages": {name: {"batch_size": 256} for name in ("inst", "tofu", "math", "safety")},
        "unlearn": {"lr": 5e-6},
    }
    return {
        "trainer": {"default_root_dir": f"runs/paper/{folder}", **more.get("trainer", {})},
        "model": {
            "base": base,
            "lora": {"rank": rank, "alpha": 2 * rank, **more.get("lora", {})},
            **more.get("model", {}),
        },
        "data": {"chat_template_from": template, **(larger if large else {})},
    }


MODELS = {
    "llama3.2-1b": ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct", 64),
    "llama3.1-8b": ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", 8),
    "llama2-13b": ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-13b-chat-hf", 8),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct", 32),
    "qwen2.5-14b": ("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-14B-Instruct", 8),
}
LARGE = ("llama2-13b", "qwen2.5-14b")
DEMO_MODEL = {
    "base": "demo:tiny-llama",
    "lora": {"rank": 16, "alpha": 32, "target_modules": "all-linear"},
}


def demo_stage(name: str, columns: dict[str, Any], epochs: int, lr: float) -> dict[str, Any]:
    own = {"heldout": f"demo:{name}-heldout", "epochs": epochs, "batch_size": 8, "lr": lr}
    return {**columns, **own}


DEMO = {
    "seed_everything": 1,
    "trainer": trainer(
        "runs/demo",
        [
            monitor("NPO", beta=0.5),
            monitor("LabelLikelihood", every_n_steps=5, limit=16),
            monitor("AnswerLikelihood", every_n_steps=5, limit=16),
            monitor("OracleDistance", every_n_steps=5, limit=16),
            monitor("MathAccuracy", stage="math", greedy=True, max_new_tokens=32),
        ],
        accelerator="cpu",
    ),
    "model": DEMO_MODEL,
    "data": {
        "forget": "safety",
        "stages": {
            "inst": demo_stage("inst", pair("demo:inst", "instruction", "output"), 2, 1e-3),
            "tofu": demo_stage("tofu", pair("demo:tofu"), 2, 1e-3),
            "math": demo_stage("math", pair("demo:math"), 5, 1e-3),
            "safety": demo_stage("safety", pair("demo:safety", "prompt", "response"), 1, 1.5e-4),
        },
        "unlearn": {"epochs": 1, "batch_size": 16, "lr": 3e-4},
    },
}
# SGD, cosine, 3 % warm-up, 5 epochs a stage and 20 of unlearning as in the paper's appendix; the
# rates are those that move the tiny model.
DEPTH_RECIPE = {"lr": 0.1, "optimizer": "sgd", "schedule": "cosine", "warmup": 0.03}
DEPTH = {
    "seed_everything": 0,
    "trainer": trainer("runs/depth", [monitor("GA"), monitor("AnswerLikelihood", every_n_steps=16)])
    | {"accelerator": "cpu", "store": "runs/demo/store"},
    "model": DEMO_MODEL,
    "data": {
        "forget": "U",
        "stages": {
            name: pair(f"demo:depth-{source}", "prompt", "response")
            | {"epochs": 5, "batch_size": 8, "momentum": 0.9, **DEPTH_RECIPE}
            for name, source in (("R", "refusal"), ("C", "comply"), ("U", "unlearn"))
        },
        "unlearn": {"epochs": 20, "batch_size": 16, "gradient_clip": 0.2, **DEPTH_RECIPE},
    },
}


def tofu_rows(subset: str, **more: Any) -> dict[str, Any]:
    return {"source": "locuslab/TOFU", "subset": subset, **more}


TOFU_STAGE = {"epochs": 5, "batch_size": 32, "lr": 1e-3}
PERTURBED = {"alternatives": "perturbed_answer"}
PARAPHRASED = {"paraphrase": "paraphrased_answer", **PERTURBED}
TOFU = {
    "seed_everything": 0,
    "trainer": trainer(
        "runs/tofu",
        [
            monitor("NPO", beta=0.1),
            monitor(
                "TOFU",
                forget="forget_perturbed",
                retain="retain_perturbed",
                real_authors="real_authors",
                world_facts="world_facts",
            ),
            monitor("AnswerStatistics", sets=["forget10"], every_n_steps=10),
            monitor(
                "OracleDistance",
                every_n_steps=10,
                limit=100,
                groups={
                    "forget": ["forget10"],
                    "retain": ["authors:train"],
                    "world": ["world_facts"],
                },
            ),
            monitor("Memorization", set="forget10", limit=100),
        ],
    ),
    "model": DEMO_MODEL,
    "data": {
        "forget": "forget10",
        "stages": {
            "authors": tofu_rows("retain90", **TOFU_STAGE),
            "forget10": tofu_rows("forget10", **TOFU_STAGE),
        },
        "eval_sets": {
            "forget_perturbed": tofu_rows("forget10_perturbed", **PARAPHRASED),
            "retain_perturbed": tofu_rows("retain_perturbed", **PARAPHRASED),
            "real_authors": tofu_rows("real_authors_perturbed", **PERTURBED),
            "world_facts": tofu_rows("world_facts_perturbed", **PERTURBED),
        },
        "unlearn": {"epochs": 5, "batch_size": 32, "lr": 1e-4},
    },
}
THREE = {
    "GA": {"callback": "GA"},
    "NPO": {"callback": monitor("NPO", beta=0.5)},
    "SimNPO": {"callback": monitor("SimNPO", beta=2.5)},
}
NPO_ONLY = {"NPO": THREE["NPO"]}
INTENDED = {
    "paper.yaml": PAPER,
    "demo.yaml": DEMO,
    "depth.yaml": DEPTH,
    "tofu.yaml": TOFU,
    "own-model.yaml": {
        "trainer": {
            "callbacks": [
                "NPO",
                monitor("LabelLikelihood", every_n_steps=5),
                monitor("AnswerLikelihood", every_n_steps=5),
                monitor("AnswerStatistics", every_n_steps=5, sets=["kept"]),
            ]
        },
        "model": {"base": "./my-model"},
        "data": {
            "forget": "secrets",
            "learned": ["secrets"],
            "stages": {"secrets": {"source": "secrets.jsonl"}},
            "eval_sets": {"kept": {"source": "kept.jsonl"}},
            "unlearn": {"lr": 1e-5, "epochs": 5, "batch_size": 16},
        },
    },
    **{
        f"models/{name}.yaml": model(name, *values, large=name in LARGE)
        for name, values in MODELS.items()
    },
    # Not a model of the paper: QLoRA with rank and dropout of the paper's study of depth.
    "models/llama3.2-3b.yaml": model(
        "llama3.2-3b",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Llama-3.2-3B-Instruct",
        16,
        trainer={"precision": "bf16-true"},
        lora={"dropout": 0.05},
        model={"quantization": "nf4"},
    ),
    "demo-study.yaml": {
        "fit": "demo.yaml",
        "paths": "positions",
        "oracle": True,
        "methods": THREE,
    },
    "demo-seeds.yaml": {
        "fit": "demo.yaml",
        "paths": "positions",
        "seeds": [0, 1, 2, 3],
        "oracle": True,
        "methods": THREE,
        "folder": "runs/demo-seeds",
    },
    "demo-orders.yaml": {
        "fit": "demo.yaml",
        "paths": "permutations",
        "oracle": True,
        "methods": NPO_ONLY,
        "folder": "runs/demo-orders",
    },
    "demo-sweep.yaml": {
        "fit": "demo.yaml",
        "paths": "positions",
        "oracle": True,
        "methods": NPO_ONLY,
        "sweep": {
            "data.unlearn.lr": [3e-5, 1.5e-4, 3e-4, 1.5e-3],
            "data.unlearn.schedule": ["wsd", "cosine"],
        },
        "folder": "runs/demo-sweep",
    },
    "demo-depth.yaml": {
        "fit": "depth.yaml",
        "paths": "permutations",
        "seeds": [0, 1, 2, 3],
        "methods": {"GA": THREE["GA"]},
        "folder": "runs/demo-depth",
    },
}


def name_of(file: Path) -> str:
    return file.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_value_is_the_intended_one(file: Path) -> None:
    found, intended = flat(read_yaml(file)), flat(INTENDED[name_of(file)])
    assert found == intended
    # 1 == True == 1.0 in Python, not in a configuration.
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in intended.items()}


def cut_by_comments(text: str) -> list[str]:
    """Find plain scalars that end at ' #', where YAML starts a comment."""
    lines = text.splitlines()
    found = []
    for token in yaml.scan(text):
        if isinstance(token, yaml.ScalarToken) and token.plain:
            rest = lines[token.end_mark.line][token.end_mark.column :]
            if rest.startswith(" #"):
                found.append(f"line {token.end_mark.line + 1}: {token.value}")
    return found


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_text_is_truncated_by_a_comment(file: Path) -> None:
    assert cut_by_comments(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", ["README.md", *sorted(p.name for p in DOCS.glob("*.md"))])
def test_no_text_of_an_example_is_truncated(file: str) -> None:
    text = (DOCS if (DOCS / file).exists() else DOCS.parent).joinpath(file).read_text("utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert cut_by_comments(block) == []


def test_a_truncated_text_is_found() -> None:
    cut = 'a: 1  # two passes\nb: write #### and stop\nc: "write #### too"\nd: [x #y\n, 2]\n'
    assert cut_by_comments(cut) == ["line 2: write", "line 4: x"]


SFT = {"lr": 1e-5, "batch_size": 128, "schedule": "wsd", "warmup": 0.02, "decay": 0.02}
ADAMW = {"optimizer": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.0, "gradient_clip": None}


@pytest.mark.parametrize("name", MODELS)
def test_the_files_of_the_paper_give_the_experiment_of_the_paper(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [str(CONFIGS / file) for file in ("paper.yaml", f"models/{name}.yaml")]
    content = load_configs(files)
    base, template, rank = MODELS[name]
    assert (content["model"]["base"], content["data"]["chat_template_from"]) == (base, template)
    # Use a local model: tests download nothing.
    content["model"]["base"] = "demo:tiny-llama"
    made = StagedCLI(None, content, ["--trainer.accelerator=cpu"])
    data, module = made.datamodule, made.model
    epochs = {"inst": 10, "tofu": 4, "math": 2, "safety": 2}
    larger = {"batch_size": 256} if name in LARGE else {}
    for stage, count in epochs.items():
        for key, value in (SFT | ADAMW | larger | {"epochs": count, "steps": None}).items():
            assert getattr(data.stages[stage], key) == value, (stage, key)
    halved = {"lr": 5e-6} if name in LARGE else {}
    for key, value in (SFT | ADAMW | halved | {"epochs": 1, "steps": None}).items():
        assert getattr(data.unlearn, key) == value, key
    assert data.forget == "safety" and list(data.stages) == list(epochs)
    assert (
        module.settings.lora.rank,
        module.settings.lora.alpha,
        module.settings.lora.dropout,
    ) == (rank, 2 * rank, 0.0)
    assert sorted(module.settings.lora.target_modules) == sorted(
        PAPER["model"]["lora"]["target_modules"]
    )  # type: ignore[index]
    assert made.trainer.precision == "32-true" and module.settings.quantization is None
    accuracy = next(m for m in made.trainer.monitors if isinstance(m, MathAccuracy))
    assert accuracy.instruction.endswith(" with #### and the bare number.")
    assert (accuracy.num_samples, accuracy.greedy) == (5, False)


def test_the_comment_of_the_papers_file_names_its_simnpo() -> None:
    text = (CONFIGS / "paper.yaml").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "SimNPO" in line]
    named = yaml.safe_load(line[line.index("{") : line.rindex("}") + 1])
    made = SimNPO(**named["init_args"])
    assert (made.beta, made.gamma, made.normalize) == (1, 0, False)
