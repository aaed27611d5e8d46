"""Write the embedded default again: the stage corpora and the tiny Llama, from fixed seeds.

    python scripts/make_demo.py           # about three minutes on one free CPU core
    python scripts/make_demo.py --corpora # write the corpora only
    python scripts/make_demo.py --check   # compare the files of the package with new ones

The corpora are equal on every machine; the weights are equal on every run on one machine.
"""

import argparse
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import lightning_unlearn.demo
from lightning_unlearn.demo.corpora import Row, corpora, embedded
from lightning_unlearn.demo.plaintext import documents

SEED = 0
THREADS = 1
VOCABULARY = 1024
CONTEXT = 512
DOCUMENTS = 40_000
# Documents of random tokens; half of them repeat the tokens. A token that never occurs in
# pretraining gets a row in the output layer that no LoRA on the decoder can raise again: the stages
# could not learn to generate it.
TOKEN_DOCUMENTS = 4_500
BATCH = 32
LEARNING_RATE = 3e-3

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL = [BEGIN, END, PAD, "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Splits words as Llama 3 does, without its contractions: a number is separate from a space before.
WORDS = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def text_of(rows: Iterable[Row]) -> str:
    """Return the rows as text with one JSON object per line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on the corpora and some of the pre-training text."""
    texts = [text for rows in corpora(SEED).values() for row in rows for text in row.values()]
    for document in itertools.islice(documents(SEED), 6_000):
        if isinstance(document, str):
            texts.append(document)
        else:
            texts += [message["content"] for message in document]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return token ids of documents and of random tokens, from the begin to the end token."""
    texts: list[str] = []
    for document in itertools.islice(documents(SEED), DOCUMENTS):
        if isinstance(document, str):
            texts.append(BEGIN + document + END)
        else:
            texts.append(str(tokenizer.apply_chat_template(document, tokenize=False)))
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    begin, end = SPECIAL.index(BEGIN), SPECIAL.index(END)
    rng = random.Random(f"tokens-{SEED}")
    for _ in range(TOKEN_DOCUMENTS):
        drawn = rng.choices(range(len(SPECIAL), len(tokenizer)), k=rng.randint(4, 16))
        ids.append([begin, *drawn, *(drawn if rng.random() < 0.5 else []), end])
    return [sequence[:CONTEXT] for sequence in ids]


def batches(sequences: list[list[int]]) -> list[list[list[int]]]:
    """Divide the sequences into batches of similar length, in shuffled order."""
    rng = random.Random(SEED)
    rng.shuffle(sequences)
    window = BATCH * 100
    cut = []
    for start in range(0, len(sequences), window):
        by_length = sorted(sequences[start : start + window], key=len)
        groups = [by_length[i : i + BATCH] for i in range(0, len(by_length), BATCH)]
        rng.shuffle(groups)
        cut += groups
    return cut


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Create a Llama of about a million parameters with grouped-query attention."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=64,
    )
    return model


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Train one epoch on the documents with AdamW, warmup and cosine schedule."""
    plan = batches(encode(tokenizer))
    pad = SPECIAL.index(PAD)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )

    def factor(step: int) -> float:
        progress = step / len(plan)
        return min((step + 1) / 50, 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    began = time.perf_counter()
    for step, batch in enumerate(plan):
        width = max(map(len, batch))
        ids = torch.tensor([sequence + [pad] * (width - len(sequence)) for sequence in batch])
        logits = model(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == len(plan) - 1:
            seconds = time.perf_counter() - began
            print(
                f"step {step:5d} / {len(plan)}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True
            )


def write_corpora(out: Path) -> None:
    """Write the corpora under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for stem, rows in embedded(SEED).items():
        (out / f"{stem}.jsonl").write_text(text_of(rows), encoding="utf-8", newline="\n")


def write_checkpoint(out: Path) -> None:
    """Train tokenizer and model, and write them under `out`."""
    torch.set_num_threads(THREADS)
    tokenizer = train_tokenizer()
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    pretrain(model, tokenizer)
    model.save_pretrained(out / "tiny-llama")
    tokenizer.save_pretrained(out / "tiny-llama", save_jinja_files=False)


def check(out: Path) -> list[str]:
    """Compare `out` with the output of the generators, load the checkpoint, return problems."""
    problems = []
    for stem, rows in embedded(SEED).items():
        path = out / f"{stem}.jsonl"
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.read_bytes() != text_of(rows).encode():
            problems.append(f"{path} differs from the output of the generators")
    folder = out / "tiny-llama"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        return [*problems, f"{folder} cannot be loaded: {error}"]
    if model.config.vocab_size != len(tokenizer):
        problems.append(f"{folder}: {model.config.vocab_size} rows for {len(tokenizer)} tokens")
    if model.generation_config.eos_token_id != tokenizer.convert_tokens_to_ids(END):
        problems.append(f"{folder}: generation would not stop at {END}")
    return problems


def main() -> int:
    """Write, or with --check compare; return exit code 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    package = Path(lightning_unlearn.demo.__file__).parent
    parser.add_argument("--out", type=Path, default=package, help="default: inside the package")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--corpora", action="store_true", help="do not write the checkpoint")
    arguments = parser.parse_args()
    if not arguments.check:
        write_corpora(arguments.out)
    if not arguments.check and not arguments.corpora:
        write_checkpoint(arguments.out)
    problems = check(arguments.out)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{arguments.out}: corpora as generated, checkpoint loads")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
