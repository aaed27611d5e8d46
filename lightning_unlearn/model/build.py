"""From settings to a network: the base model, adapters on it, sharded and compiled if asked for."""

import torch

from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.model import base_dropout
from lightning_unlearn.model.adapters import LEARN, Adapters
from lightning_unlearn.model.attention import fuse_in_fp32
from lightning_unlearn.model.compat import compute_experts_in_fp64, enable_gradient_checkpointing
from lightning_unlearn.model.compiling import compile_layers
from lightning_unlearn.model.decoder import decoder_layers
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.pretrained import PretrainedModel
from lightning_unlearn.model.settings import ModelSettings


def build_network(
    settings: ModelSettings, pretrained: PretrainedModel, placement: Placement
) -> tuple[LogProbModel, Adapters | None]:
    """Load a base model and prepare it for training.

    Args:
        settings: settings of the model.
        pretrained: the base model.
        placement: placement of the model.

    Returns:
        The network; and its adapters, of which "learn" is active and trainable, or None.
    """
    if placement.is_sharded:
        hf_model = pretrained.empty(placement.weight_dtype)
    else:
        hf_model = pretrained.open(placement)
    hf_model.config.use_cache = False
    if silenced := base_dropout.silence(hf_model):
        placement.warn(
            f"model.base: dropout of {len(silenced)} layers ({silenced[0]}), which is not in "
            "config.json, is set to zero."
        )
    if placement.weight_dtype == torch.float64:
        compute_experts_in_fp64(hf_model)
    if settings.attn_implementation == "sdpa":
        fuse_in_fp32(hf_model)
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(hf_model)
    adapters = None
    if settings.lora is not None:
        adapters = pretrained.attach_adapters(hf_model, pretrained.location)
        adapters.set_active([LEARN], LEARN)
    network = LogProbModel(hf_model, settings.compile)
    if placement.is_sharded:
        layers = decoder_layers(hf_model, placement.layer_classes)
        placement.shard(network, hf_model, layers, network.result_dtype)
        placement.materialize(network, hf_model)
        pretrained.load_into(hf_model, placement)
    if settings.compile:
        compile_layers(decoder_layers(hf_model, placement.layer_classes))
    return network, adapters
