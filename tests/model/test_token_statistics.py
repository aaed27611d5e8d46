"""Statistics of label tokens against their definitions in float64, for every family of models."""

from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, random_examples, tiny_module
from torch import nn

from lightning_unlearn import LoRA
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.log_probs import LogitTransform
from lightning_unlearn.model.oracle_states import OracleStates
from lightning_unlearn.model.token_statistics import COLUMNS, TokenStatistics, token_statistics


def naive(logits: torch.Tensor, target: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """Compute the statistics token by token from their definitions."""
    rows = []
    for z, label, other in zip(logits.double(), target.tolist(), aim.double(), strict=True):
        log_p = z.log_softmax(-1)
        p, others = log_p.exp(), torch.cat([z[:label], z[label + 1 :]])
        mean = (p * log_p).sum()
        std = (p * (log_p - mean) ** 2).sum().sqrt()
        log_q = other.log_softmax(-1)
        kl = (log_q.exp() * (log_q - log_p)).sum()
        margin = z[label] - torch.logsumexp(others, 0)
        rows.append(torch.stack([log_p[label], mean, std, margin, z.argmax() == label, kl]))
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 60.0])
def test_of_a_head(scale: float) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 40, bias=False).double()
    nn.init.normal_(head.weight, std=scale / 4)
    hidden = torch.randn(50, 16).double()
    oracle, target = hidden + 0.1 * torch.randn(50, 16), torch.randint(0, 40, (50,))
    got = token_statistics(hidden, target, head, LogitTransform(), oracle)
    wanted = naive(head(hidden), target, head(oracle))
    assert torch.allclose(got.double(), wanted, atol=1e-12 * max(1, scale), rtol=1e-12)
    assert torch.equal(got[:, :5], token_statistics(hidden, target, head, LogitTransform()))


def test_margins_stay_exact_if_the_label_has_all_probability() -> None:
    head = nn.Linear(3, 3, bias=False).double()
    nn.init.eye_(head.weight)
    hidden = torch.tensor([[90.0, 0.0, 0.0], [200.0, 0.0, -5.0], [-200.0, 0.0, 0.0]]).double()
    got = token_statistics(hidden, torch.tensor([0, 0, 0]), head, LogitTransform())
    margin, log_prob = got[:, COLUMNS.index("margin")], got[:, COLUMNS.index("log_prob")]
    others = torch.tensor([2.0, 1.0 + torch.e**-5.0, 2.0], dtype=torch.float64).log()
    assert torch.allclose(margin, hidden[:, 0] - others, rtol=1e-14)
    assert torch.allclose(log_prob, -(-margin).exp().log1p(), rtol=1e-12, atol=0)
    assert log_prob[0] != 0
    assert torch.isfinite(got).all()


def test_the_kl_to_itself_is_zero() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 30), torch.randn(20, 8)
    got = token_statistics(hidden, torch.randint(0, 30, (20,)), head, LogitTransform(), hidden)
    assert got[:, -1].abs().max() == 0


@pytest.mark.parametrize("family", list(FAMILIES))
def test_passes_agree_with_the_models_own_logits(tmp_path: Path, family: str) -> None:
    attention = "eager" if family == "gemma2" else "sdpa"
    module = tiny_module(tmp_path, family, dtype=torch.float64, attn_implementation=attention)
    examples = random_examples(7)
    states = OracleStates()
    for batch, flat in module.evaluator.batches(examples, 3, "statistics and hidden"):
        states.add(batch, flat[:, len(COLUMNS) :])
    with torch.no_grad():
        for batch, flat in module.evaluator.batches(examples, 3, "statistics", states.close().of):
            logits = module.network.hf_model(input_ids=batch.input_ids, use_cache=False).logits
            logits = logits.reshape(-1, logits.shape[-1])[batch.label_positions]
            assert torch.allclose(
                flat, naive(logits, batch.label_ids, logits), atol=1e-9, rtol=1e-9
            )


def test_statistics_are_converted_to_tables_and_selected(tmp_path: Path) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    flat = torch.arange(18.0).reshape(3, 6)
    table = TokenStatistics.scatter(flat, mask)
    assert table.log_prob.tolist() == [[0, 6, 0], [12, 0, 0]] and table.kl is not None
    assert table.kl.tolist() == [[5, 11, 0], [17, 0, 0]]
    assert table.average(table.log_prob).tolist() == [3, 12]
    one = table.rows(torch.tensor([False, True]))
    assert one.margin.tolist() == [[15, 0, 0]] and one.length.tolist() == [1]
    assert TokenStatistics.scatter(flat[:, :5], mask).kl is None


def test_borrowed_weights_are_restored_bit_by_bit(tmp_path: Path) -> None:
    module = tiny_module(tmp_path / "base", lora=LoRA(rank=4))
    for name, parameter in module.adapters.peft_model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    module.adapters.set_active([LEARN, UNLEARN], UNLEARN)
    module.weights.save(LEARN, tmp_path / "learn")
    examples = random_examples(5)

    def scored() -> torch.Tensor:
        return module.evaluator.score(examples, 2).per_token

    own, trained = scored(), [p.requires_grad for p in module.parameters()]
    with module.weights.swapped(tmp_path / "learn", module.seed):
        learn = scored()
    with module.weights.swapped(None, module.seed):
        base = scored()
    with pytest.raises(ZeroDivisionError), module.weights.swapped(None, module.seed):
        1 / 0  # noqa: B018
    assert torch.equal(scored(), own)
    assert [p.requires_grad for p in module.parameters()] == trained
    module.adapters.set_active([LEARN], LEARN)
    assert torch.equal(scored(), learn)
    plain = tiny_module(tmp_path / "plain")
    plain.network.hf_model.load_state_dict(
        {
            k.replace(".base_layer", ""): v
            for k, v in module.network.hf_model.state_dict().items()
            if "lora_" not in k
        }
    )
    assert torch.equal(plain.evaluator.score(examples, 2).per_token, base)


def test_borrowed_weights_of_a_fully_trained_model(tmp_path: Path) -> None:
    module = tiny_module(tmp_path / "base")
    examples = random_examples(5)
    base = module.evaluator.score(examples, 2).per_token
    with torch.no_grad():
        for parameter in module.network.hf_model.parameters():
            parameter.mul_(1.1)
    own = module.evaluator.score(examples, 2).per_token
    module.weights.save(LEARN, tmp_path / "learn")
    with torch.no_grad():
        module.network.hf_model.get_output_embeddings().weight.mul_(1.5)
    with module.weights.swapped(tmp_path / "learn", module.seed):
        assert torch.equal(module.evaluator.score(examples, 2).per_token, own)
    with module.weights.swapped(None, module.seed):
        assert torch.equal(module.evaluator.score(examples, 2).per_token, base)
    assert not torch.equal(module.evaluator.score(examples, 2).per_token, own)
