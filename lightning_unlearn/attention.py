"""Which implementation of attention can be used where."""

import importlib.util

import torch

from lightning_unlearn.errors import InputError

FLASH = "flash_attention_"
# The packages that transformers takes them from.
PACKAGES = {"2": "flash_attn", "3": "flash_attn_interface"}


def check_attention(
    name: str, precision: str, device: torch.device, trust_remote_code: bool
) -> None:
    """Refuse an implementation of attention that would fail at the first forward, or be replaced.

    Where a package of flash attention is missing, transformers may take code from the hub instead.

    Args:
        name: of transformers, such as "sdpa".
        precision: of the Trainer.
        device: of this process.
        trust_remote_code: run code that comes from the hub.

    Raises:
        InputError: naming what is missing.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    found = f"model.attention: found {name}"
    if "/" in name:
        if not trust_remote_code:
            raise InputError(
                f"{found}, which is code from the hub, expected sdpa, eager or "
                "flash_attention_2; or set model.trust_remote_code: true to run it."
            )
        return
    known = sorted({"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()})
    if name not in known:
        usual = [n for n in known if not n.startswith("paged")]
        raise InputError(f"{found}, expected one of {', '.join(usual)}.")
    if not name.startswith(FLASH):
        return
    if device.type == "cpu":
        raise InputError(f"{found}, which runs on a GPU only, expected sdpa or eager on a CPU.")
    package = PACKAGES.get(name.removeprefix(FLASH))
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(
            f"{found}, but the package {package} is not installed, expected sdpa, which needs "
            "none and runs PyTorch's own flash attention on a GPU; or install it "
            "(pip install flash-attn --no-build-isolation for version 2)."
        )
    if precision in ("32-true", "64-true"):
        raise InputError(
            f"{found} with trainer.precision {precision}, but it computes in 16 bits only, "
            "expected trainer.precision bf16-true or bf16-mixed, or model.attention sdpa."
        )
