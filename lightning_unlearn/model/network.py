"""The module whose forward all training and evaluation uses."""

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
    """A causal LM whose forward returns log-probabilities or statistics of chosen tokens.

    It is a separate module, because a sharded output projection is gathered only inside the forward
    of the module that was sharded.

    Args:
        lm: a Hugging Face causal LM, with or without PEFT layers.
        compiles: whether its layers are compiled.

    Attributes:
        takes_own_logits: whether to use the logits of the model's own forward, all at once. It is
            True if the model transforms its logits in an unknown way.
        is_checked: whether the log-probabilities were compared with those of the model itself.
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
        """Compute log-probabilities or statistics of ``target`` at the positions ``source``.

        Args:
            input_ids: token ids, padded on the right, ``[sequences, length]``. This padding needs
                no mask: in causal attention, no earlier token attends to it.
            source: indices of the predicting positions in the flattened ``input_ids``,
                ``[tokens]``.
            target: the token ids predicted there, ``[tokens]``.
            attention_mask: additive 4-D mask, ``[sequences, 1, length, length]``, if attention is
                not plainly causal.
            position_ids: ``[sequences, length]`` if positions do not count from 0.
            past: cache of transformers with keys and values of the tokens before ``input_ids``; the
                forward adds those of ``input_ids``. None for no earlier tokens and no cache.
            wanted: "log_probs"; "statistics" for the table of `token_statistics`, without
                gradient; "statistics and hidden" for the table and, right of it, the hidden states
                that the projection receives.
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
        """Generate tokens; arguments and result are those of ``generate`` of transformers."""
        with eager_mode(self.compiles):
            tokens: Tensor = self.lm.generate(**options)
        return tokens

    def own_log_probs(self, input_ids: Tensor) -> Tensor:
        """Compute log-probabilities of all tokens but the first from the model's own logits.

        Args:
            input_ids: ``[sequences, length]``.

        Returns:
            ``[sequences, length - 1]``, nats; see `at_least_fp32`.
        """
        with eager_mode(self.compiles):
            logits: Tensor = self.lm(input_ids=input_ids, use_cache=False).logits[:, :-1]
        logits = logits.to(at_least_fp32(logits.dtype))
        return logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
