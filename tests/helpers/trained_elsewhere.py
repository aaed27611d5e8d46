"""Models trained on given rows by plain transformers and PEFT, without code of this package."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

Form = Literal["full", "merged", "adapter"]
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
RANDOM: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}


def train_elsewhere(
    base: str | Path,
    rows: Sequence[dict[str, str]],
    folder: Path,
    form: Form = "merged",
    *,
    lora: dict[str, Any] | None = None,
    adapter: str | Path | None = None,
    epochs: int = 20,
    lr: float = 1e-2,
    seed: int = 0,
) -> str:
    """Train a model on rows of one question and one answer, and write it.

    Args:
        base: folder of a Hugging Face model with a chat template.
        rows: with the keys "prompt" and "answer"; all of them are one batch.
        folder: where to write.
        form: "full" trains and writes all weights; "merged" trains an adapter and writes a model
            with the adapter merged; "adapter" writes the adapter alone, in PEFT's format.
        lora: arguments of ``LoraConfig`` besides those of `LORA`.
        adapter: folder of an adapter to train further; None starts a new one.
        epochs: number of optimizer steps.
        lr: constant learning rate of AdamW.
        seed: seed of a new adapter.

    Returns:
        The path of the folder; "full" and "merged" are models with their tokenizer.
    """
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(str(base))
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    if form != "full" and adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    elif form != "full":
        config = LoraConfig(**{**LORA, "task_type": "CAUSAL_LM", **(lora or {})})
        model = get_peft_model(model, config)
    batch = encode(tokenizer, rows)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    for _ in range(epochs):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if form == "merged":
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    if form != "adapter":
        tokenizer.save_pretrained(folder)
    return str(folder)


def encode(tokenizer: Any, rows: Sequence[dict[str, str]]) -> dict[str, torch.Tensor]:
    """Tokenize rows as transformers expects them: answers are labels, all else is masked."""
    inputs, labels = [], []
    for row in rows:
        asked = [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        answer = [*answer, tokenizer.eos_token_id]
        inputs.append([*prompt, *answer])
        labels.append([*[-100] * len(prompt), *answer])
    longest = max(map(len, inputs))

    def padded(sequences: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([s + [value] * (longest - len(s)) for s in sequences])

    return {
        "input_ids": padded(inputs, 0),
        "attention_mask": padded([[1] * len(s) for s in inputs], 0),
        "labels": padded(labels, -100),
    }


def mean_log_prob(model: Any, tokenizer: Any, rows: Sequence[dict[str, str]]) -> float:
    """Mean log-probability per answer token under a model, computed by transformers alone."""
    with torch.no_grad():
        return -float(model(**encode(tokenizer, rows)).loss)


def random_adapter(
    base: str | Path, folder: Path, seed: int = 0, on: Any = None, **config: Any
) -> str:
    """Write an adapter of random weights, which change the logits much.

    Args:
        base: the model that it names.
        folder: where to write.
        seed: of the weights.
        on: the model on which it is; None for the base.
        config: arguments of LoraConfig besides those of `RANDOM`.

    Returns:
        The path of the folder.
    """
    lm = AutoModelForCausalLM.from_pretrained(str(base)) if on is None else on
    peft = get_peft_model(lm, LoraConfig(**{**RANDOM, "task_type": "CAUSAL_LM", **config}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    with warnings.catch_warnings():
        # PEFT copies an embedding or an output projection with an adapter into the file.
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`")
        # PEFT 0.20 looks for the description of a base that was never on a disk.
        warnings.filterwarnings("ignore", "Could not find a config file")
        peft.save_pretrained(folder)
    return str(folder)
