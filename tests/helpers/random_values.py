"""Random statistics of tokens."""

import torch

from lightning_unlearn.model.token_statistics import TokenStatistics


def random_statistics(lengths: list[int], seed: int = 0) -> TokenStatistics:
    """Statistics of real next-token distributions over six tokens, some of them the label."""
    random = torch.Generator().manual_seed(seed)
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    logps = (torch.randn(len(lengths), width, 6, generator=random) * 2).double().log_softmax(-1)
    label = torch.randint(0, 3, (len(lengths), width, 1), generator=random)
    log_prob = logps.gather(-1, label).squeeze(-1)
    mean = (logps.exp() * logps).sum(-1)
    return TokenStatistics(
        log_prob=log_prob * mask,
        mean=mean * mask,
        std=((logps.exp() * logps.square()).sum(-1) - mean.square()).sqrt() * mask,
        margin=(log_prob - torch.log1p(-log_prob.exp())) * mask,
        top=(logps.argmax(-1) == label.squeeze(-1)).double() * mask,
        mask=mask,
        kl=torch.rand(mask.shape, generator=random).double() * mask,
    )
