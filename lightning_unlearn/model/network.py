"""The module through whose forward all training and measuring goes."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.model.compat import cache_arguments
from lightning_unlearn.model.compiling import eager_mode
from lightning_unlearn.model.decoder import decoder_of
from lightning_unlearn.model.log_probs import LogitTransform, at_least_fp32, token_log_probs
from lightning_unlearn.model.token_statistics import token_statistics

Wanted = Literal["log_probs", "statistics", "statistics and hidden"]


class LogProbModel(nn.Module):
    """A causal LM whose forward gives what is asked of chosen tokens instead of logits.

    It is a module of its own because a sharded head is whole only inside the forward of the
    module that was sharded.

    Args:
        lm: a Hugging Face causal LM, with or without PEFT layers injected.
        compiles: its layers are compiled.

    Attributes:
        takes_own_logits: whether logits come from the model's own forward, all at once, for what it
            does to them is not known here.
        is_checked: whether what is computed here was compared with what the model computes.
    """

    def __init__(self, lm: Any, compiles: bool = False) -> None:
        super().__init__()
        self.lm = lm
        self.compiles = compiles
        self.transform = LogitTransform.of(lm.config)
        self.takes_own_logits = decoder_of(lm) is lm
        self.is_checked = False

    def forward(
        self,
        input_ids: Tensor,
        source: Tensor,
        target: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past: Any = None,
        wanted: Wanted = "log_probs",
        oracle: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities of ``target`` at the positions ``source``, or more, or less.

        Args:
            input_ids: token ids, padded on the right, ``[sequences, length]``. No mask is needed
                for that padding: under causal attention nothing before it can see it.
            source: where in the flattened ``input_ids`` the predicting positions are,
                ``[tokens]``.
            target: the token ids predicted there, ``[tokens]``.
            attention_mask: additive 4-D mask, ``[sequences, 1, length, length]``, if attention is
                not plainly causal.
            position_ids: ``[sequences, length]`` if positions do not count from 0.
            past: what attention keeps of tokens before ``input_ids``, a cache of transformers; it
                grows by ``input_ids``. None for nothing before and nothing kept.
            wanted: "log_probs"; "statistics" for the table of `token_statistics`, without
                gradient; "statistics and hidden" for that and, right of it, the hidden states that
                go into the projection.
            oracle: hidden states of the oracle, ``[tokens, width]``, for the KL among the
                statistics.

        Returns:
            ``[tokens]``, ``[tokens, columns]`` or ``[tokens, columns + width]``, nats; see
            `at_least_fp32`.
        """
        trunk = self.lm if self.takes_own_logits else decoder_of(self.lm)
        with eager_mode(self.compiles and (past is not None or attention_mask is not None)):
            output = trunk(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **cache_arguments(trunk, past),
            )
        own = self.takes_own_logits
        states: Tensor = output.logits if own else output.last_hidden_state
        hidden = states.reshape(-1, states.shape[-1]).index_select(0, source)
        head = nn.Identity() if own else self.lm.get_output_embeddings()
        transform = LogitTransform() if own else self.transform
        if wanted != "log_probs":
            table = token_statistics(hidden, target, head, transform, oracle)
            return table if wanted == "statistics" else torch.cat([table, hidden.to(table)], dim=-1)
        return token_log_probs(hidden, target, head, transform)

    def generate(self, **options: Any) -> Tensor:
        """Tokens that the model writes; as of ``generate`` of transformers."""
        with eager_mode(self.compiles):
            written: Tensor = self.lm.generate(**options)
        return written

    def own_log_probs(self, input_ids: Tensor) -> Tensor:
        """Log-probabilities of the tokens after the first by the model's own logits.

        Args:
            input_ids: ``[sequences, length]``.

        Returns:
            ``[sequences, length - 1]``, nats; see `at_least_fp32`.
        """
        with eager_mode(self.compiles):
            logits: Tensor = self.lm(input_ids=input_ids, use_cache=False).logits[:, :-1]
        logits = logits.to(at_least_fp32(logits.dtype))
        return logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
