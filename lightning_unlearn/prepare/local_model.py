"""Answers of a Hugging Face model on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.prepare.requests import Reply, Request, Usage


class LocalModel:
    """A model of this machine; one call at a time.

    For thousands of long answers a server such as vLLM with `--endpoint` is many times faster.

    Args:
        name: model folder, hub name or `demo:NAME`.

    Raises:
        InputError: it can't be opened, or its tokenizer has no chat template.
    """

    concurrency = 1

    def __init__(self, name: str) -> None:
        import torch

        from lightning_unlearn.model.pretrained import PretrainedModel
        from lightning_unlearn.model.settings import ModelSettings

        pretrained = PretrainedModel(ModelSettings(base=name))
        if pretrained.given is not None:
            raise InputError(f"--local-model: found the adapter {name}, expected a whole model.")
        self._tokenizer = pretrained.tokenizer()
        if self._tokenizer.chat_template is None:
            raise InputError(
                f"--local-model: found {name}, whose tokenizer has no chat template, expected an "
                "instruct model."
            )
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._fingerprint = pretrained.fingerprint()
        self._model = pretrained.load(self._dtype).eval().to(self._device)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model by its content, and its precision."""
        return {"local model": self._fingerprint, "dtype": str(self._dtype).removeprefix("torch.")}

    def generate(self, request: Request) -> Reply:
        """Write one answer; the same request gives the same answer on the same machine."""
        import torch

        messages = [dict(message) for message in request.messages]
        ids = self._tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            enable_thinking=False,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"].to(self._device)
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        room = request.sampling.max_tokens if limit is None else limit - ids.shape[1]
        if room < 1:
            reason = f"too long for the model: {ids.shape[1]} tokens, expected fewer than {limit}"
            return Reply("", Usage(0, 0), "skip", reason)
        most = min(room, request.sampling.max_tokens)
        temperature = request.sampling.temperature
        sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(int(request.key(self.identity)[:15], 16))
            written = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                **(sampled if temperature > 0 else {"do_sample": False}),
            )[0, ids.shape[1] :]
        text = self._tokenizer.decode(written, skip_special_tokens=True).strip()
        usage = Usage(ids.shape[1], len(written))
        if not text:
            return Reply("", usage, "skip", "an empty answer")
        ended = int(written[-1]) in _ends(self._model, self._tokenizer)
        return Reply(text, usage, "stop" if ended or len(written) < most else "length")


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that end an answer."""
    found = model.generation_config.eos_token_id
    ids = found if isinstance(found, list) else [found]
    return {number for number in [*ids, tokenizer.eos_token_id] if number is not None}
