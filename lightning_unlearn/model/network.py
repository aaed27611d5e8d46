"""LogProbModel: the one forward of training and evaluation."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.data.batches import Batch
from lightning_unlearn.model import hf_config
from lightning_unlearn.model.compat import cache_arguments
from lightning_unlearn.model.compiling import eager_mode
from lightning_unlearn.model.decoder import decoder_of
from lightning_unlearn.model.log_probs import (
    LogitTransform,
    LogProbs,
    at_least_fp32,
    token_log_probs,
)
from lightning_unlearn.model.token_statistics import token_statistics

Output = Literal["log_probs", "statistics", "statistics and hidden"]


class LogProbModel(nn.Module):
    """A causal LM whose forward returns values of chosen tokens instead of logits.

    It is a module of its own because FSDP2 gathers a sharded output projection only inside the
    forward of the module that was sharded.

    Args:
        hf_model: a Hugging Face causal LM, with or without PEFT layers injected.
        is_compiled: whether its layers are compiled.

    Attributes:
        hf_model: as given; gives logits and hidden states.
        takes_own_logits: whether logits come from the model's own forward, all at once, because
            what the model does to them is not known here.
        is_verified: whether what is computed here was compared with what the model computes.
    """

    def __init__(self, hf_model: Any, is_compiled: bool = False) -> None:
        super().__init__()
        self.hf_model = hf_model
        self.is_compiled = is_compiled
        self.transform = LogitTransform.of(hf_model.config)
        self.takes_own_logits = decoder_of(hf_model) is hf_model
        self.is_verified = False

    @property
    def context_length(self) -> int:
        """The longest sequence that the model takes, in tokens."""
        return hf_config.context_length(self.hf_model.config)

    @property
    def vocabulary_size(self) -> int | None:
        """Rows of the model's embedding, one for each token id; None if it does not say."""
        return hf_config.vocabulary_size(self.hf_model.config)

    @property
    def result_dtype(self) -> torch.dtype:
        """The type of the values that the forward returns; see `at_least_fp32`."""
        return at_least_fp32(self.hf_model.dtype)

    def forward(
        self,
        input_ids: Tensor,
        label_positions: Tensor,
        label_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        output: Output = "log_probs",
        oracle: Tensor | None = None,
    ) -> Tensor:
        """Compute log-probabilities of label tokens, or their statistics.

        Args:
            input_ids: token ids, padded on the right, ``[sequences, length]``. No mask is needed
                for that padding: under causal attention nothing before it can see it.
            label_positions: positions in the flattened ``input_ids`` that predict a label,
                ``[tokens]``.
            label_ids: the token ids predicted there, ``[tokens]``.
            attention_mask: additive 4-D mask, ``[sequences, 1, length, length]``, if attention is
                not plainly causal.
            position_ids: ``[sequences, length]`` if positions do not count from 0.
            past_key_values: a cache of transformers with keys and values of the tokens before
                ``input_ids``; it grows by ``input_ids``. None for no tokens before, and no cache.
            output: "log_probs"; "statistics" for the table of `token_statistics`, without
                gradient; "statistics and hidden" for that and, right of it, the hidden states that
                go into the projection.
            oracle: hidden states of the oracle, ``[tokens, width]``, for the KL among the
                statistics.

        Returns:
            ``[tokens]``, ``[tokens, columns]`` or ``[tokens, columns + width]``, nats; see
            `at_least_fp32`.
        """
        own = self.takes_own_logits
        trunk = self.hf_model if own else decoder_of(self.hf_model)
        is_special = past_key_values is not None or attention_mask is not None
        with eager_mode(self.is_compiled and is_special):
            found = trunk(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **cache_arguments(trunk, past_key_values),
            )
        states: Tensor = found.logits if own else found.last_hidden_state
        hidden = states.reshape(-1, states.shape[-1]).index_select(0, label_positions)
        head = nn.Identity() if own else self.hf_model.get_output_embeddings()
        transform = LogitTransform() if own else self.transform
        if output != "log_probs":
            table = token_statistics(hidden, label_ids, head, transform, oracle)
            return table if output == "statistics" else torch.cat([table, hidden.to(table)], dim=-1)
        return token_log_probs(hidden, label_ids, head, transform)

    def log_probs(self, batch: Batch) -> LogProbs:
        """Compute log-probabilities of a batch's label tokens, with gradient if it is enabled."""
        flat = self(batch.input_ids, batch.label_positions, batch.label_ids)
        return LogProbs.scatter(flat, batch.mask)

    def generate(self, **options: Any) -> Tensor:
        """Return tokens that the model generates; as ``generate`` of transformers."""
        with eager_mode(self.is_compiled):
            tokens: Tensor = self.hf_model.generate(**options)
        return tokens

    def log_probs_from_logits(self, input_ids: Tensor) -> Tensor:
        """Compute log-probabilities of all tokens but the first from the model's own logits.

        Args:
            input_ids: ``[sequences, length]``.

        Returns:
            ``[sequences, length - 1]``, nats; see `at_least_fp32`.
        """
        with eager_mode(self.is_compiled):
            logits: Tensor = self.hf_model(input_ids=input_ids, use_cache=False).logits[:, :-1]
        logits = logits.to(at_least_fp32(logits.dtype))
        return logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
