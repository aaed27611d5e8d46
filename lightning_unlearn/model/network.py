"""LogProbModel: the module whose forward all training and evaluation uses."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_unlearn.data.batches import Batch
from lightning_unlearn.model import hf_config
from lightning_unlearn.model.adapters import UNLEARN, switched_off
from lightning_unlearn.model.compat import cache_arguments
from lightning_unlearn.model.compiling import eager_mode
from lightning_unlearn.model.decoder import decoder_of
from lightning_unlearn.model.log_probs import (
    LogitTransform,
    LogProbs,
    at_least_fp32,
    token_kl,
    token_log_probs,
)
from lightning_unlearn.model.token_statistics import token_statistics

Output = Literal["log_probs", "statistics", "statistics and hidden", "hidden", "kl"]


class LogProbModel(nn.Module):
    """A causal LM whose forward returns log-probabilities or statistics of chosen tokens.

    It is a separate module, because FSDP2 gathers a sharded output projection only inside the
    forward of the module that was sharded.

    Args:
        hf_model: a Hugging Face causal LM, with or without PEFT layers.
        is_compiled: whether its layers are compiled.

    Attributes:
        hf_model: the causal LM; it computes logits and hidden states.
        takes_own_logits: whether to use the logits of the model's own forward, all at once. It is
            True if the model transforms its logits in an unknown way.
        is_verified: whether the log-probabilities were compared with those of the model itself.
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
        """The longest sequence that the model supports, in tokens."""
        return hf_config.context_length(self.hf_model.config)

    @property
    def vocabulary_size(self) -> int | None:
        """Number of rows of the embedding, one per token id; None if it is not in the config."""
        return hf_config.vocabulary_size(self.hf_model.config)

    @property
    def result_dtype(self) -> torch.dtype:
        """Dtype of the values that the forward returns; see `at_least_fp32`."""
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
        oracle_head: nn.Module | None = None,
    ) -> Tensor:
        """Compute log-probabilities or statistics of label tokens.

        Args:
            input_ids: token ids, padded on the right, ``[sequences, length]``. This padding needs
                no mask: in causal attention, no earlier token attends to it.
            label_positions: indices in the flattened ``input_ids`` that predict a label,
                ``[tokens]``.
            label_ids: the token ids predicted there, ``[tokens]``.
            attention_mask: additive 4-D mask, ``[sequences, 1, length, length]``, if attention is
                not plainly causal.
            position_ids: ``[sequences, length]`` if positions do not count from 0.
            past_key_values: cache of transformers with keys and values of the tokens before
                ``input_ids``; the forward adds those of ``input_ids``. None for no earlier tokens
                and no cache.
            output: "log_probs"; "statistics" for the table of `token_statistics`, without
                gradient; "statistics and hidden" for the table and, right of it, the hidden states
                that the projection receives; "hidden" for these alone; "kl" for KL(reference ||
                model) with the model without the adapter ``unlearn`` as reference.
            oracle: hidden states of the oracle, ``[tokens, width]``, for the KL among the
                statistics; those of the reference for "kl".
            oracle_head: gives its logits for them; see `token_statistics`.

        Returns:
            ``[tokens]``, ``[tokens, columns]`` or ``[tokens, columns + width]``, nats; see
            `at_least_fp32`. Hidden states have the dtype of the model.
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
        return self._of_hidden(hidden, label_ids, output, oracle, oracle_head)

    def _of_hidden(
        self,
        hidden: Tensor,
        label_ids: Tensor,
        output: Output,
        oracle: Tensor | None,
        oracle_head: nn.Module | None,
    ) -> Tensor:
        """Compute the output of `forward` from the hidden states at label positions."""
        own = self.takes_own_logits
        head = nn.Identity() if own else self.hf_model.get_output_embeddings()
        transform = LogitTransform() if own else self.transform
        if output == "log_probs":
            return token_log_probs(hidden, label_ids, head, transform)
        if output == "hidden":
            return hidden
        if output == "kl":
            assert oracle is not None

            def before_unlearning(rows: Tensor) -> Tensor:
                with switched_off(head, UNLEARN):
                    logits: Tensor = head(rows)
                return logits

            return token_kl(hidden, oracle, head, before_unlearning, transform)
        table = token_statistics(hidden, label_ids, head, transform, oracle, oracle_head)
        return table if output == "statistics" else torch.cat([table, hidden.to(table)], dim=-1)

    def log_probs(self, batch: Batch) -> LogProbs:
        """Compute log-probabilities of a batch's label tokens, with gradient if it is enabled."""
        flat = self(batch.input_ids, batch.label_positions, batch.label_ids)
        return LogProbs.scatter(flat, batch.mask)

    def kl_to_reference(self, batch: Batch) -> Tensor:
        """Compute KL(reference || model) of the next-token distributions at label tokens.

        The reference is the model before unlearning: the same network in eval mode, without the
        adapter ``unlearn``. No second model is in memory; it costs a forward without gradient.

        Args:
            batch: any rows.

        Returns:
            ``[sequences, longest answer]``, nats, 0 where masked; with gradient if it is enabled.
        """
        rows = batch.input_ids, batch.label_positions, batch.label_ids
        reference = self._hidden_before_unlearning(batch)
        flat = self(*rows, output="kl", oracle=reference)
        return LogProbs.scatter(flat, batch.mask).per_token

    @torch.no_grad()
    def _hidden_before_unlearning(self, batch: Batch) -> Tensor:
        """Compute the hidden states at label positions of the model without ``unlearn``."""
        rows = batch.input_ids, batch.label_positions, batch.label_ids
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with switched_off(self.hf_model, UNLEARN):
                hidden: Tensor = self(*rows, output="hidden")
        finally:
            for module, mode in modes.items():
                module.training = mode
        return hidden

    def generate(self, **options: Any) -> Tensor:
        """Generate tokens; arguments and result are those of ``generate`` of transformers."""
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
