"""The transformer: what it sees, its cache, its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core import formulation
from zoo_core.errors import UserError
from zoo_vqgan.gpt import GPT, parameter_groups
from zoo_vqgan.kv_cache import KeyValueCache

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def small(**options: int | float) -> GPT:
    torch.manual_seed(0)
    network = GPT(**{"vocabulary": 20, "block_size": 12, "layers": 3, "heads": 2, "dim": 16, **options}).eval()
    for parameter in network.parameters():  # what starts at 0 or is tiny would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def tokens(num: int = 12, batch: int = 2) -> Tensor:
    return torch.randint(20, (batch, num), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("parameters", "sizes"),
    [
        (304_932_864, {"vocabulary": 1024, "block_size": 512, "layers": 24, "heads": 16, "dim": 1024}),
        (1_410_640_896, {"vocabulary": 16384, "block_size": 256, "layers": 48, "heads": 24, "dim": 1536}),
    ],
    ids=["faces", "imagenet"],
)
def test_published_sizes_have_the_official_number_of_parameters(parameters: int, sizes: dict[str, int]) -> None:
    with torch.device("meta"):
        network = GPT(**sizes)
    assert sum(value.numel() for value in network.state_dict().values()) == parameters


def test_it_starts_as_the_paper_does() -> None:
    torch.manual_seed(0)
    network = GPT(vocabulary=100, block_size=8, layers=1, heads=4, dim=64)
    for weight in (network.tok_emb.weight, network.head.weight, network.blocks[0].attn.proj.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not network.pos_emb.any() and not network.blocks[0].mlp[0].bias.any()
    assert network.head.weight is not network.tok_emb.weight


def test_a_token_sees_itself_and_those_before() -> None:
    network, one = small(), tokens()
    other = one.clone()
    other[:, 7] = (other[:, 7] + 1) % 20
    difference = (network(one) - network(other)).abs().amax((0, 2))
    assert not difference[:7].any() and bool((difference[7:] > 0).all())


@pytest.mark.parametrize("outputs", [0, 1, 3])
def test_the_plain_formulation_is_the_same(outputs: int) -> None:
    network = small()

    def run() -> tuple[Tensor, list[Tensor]]:
        logits = network(tokens(), outputs=outputs)
        return logits, torch.autograd.grad(logits.square().mean(), list(network.parameters()))

    fused = run()
    with formulation.plain():
        plain = run()
    torch.testing.assert_close(fused, plain, **CLOSE)


def test_few_outputs_are_the_last_of_all() -> None:
    network = small()
    whole = network(tokens())
    for outputs in (1, 5, 11):
        torch.testing.assert_close(network(tokens(), outputs=outputs), whole[:, -outputs:], **CLOSE)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("steps", [(1,) * 12, (5, 1, 4, 2), (6, 6)])
def test_the_cache_answers_as_the_whole_pass(steps: tuple[int, ...], plain: bool) -> None:
    network, cache = small(), KeyValueCache(12)
    whole = network(tokens())
    for _ in range(2):  # the second time in used buffers
        with formulation.plain() if plain else torch.no_grad():
            parts = [network(part, cache=cache) for part in tokens().split(steps, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
        cache.clear()


def test_a_full_block_is_a_sentence() -> None:
    network, cache = small(), KeyValueCache(12)
    with pytest.raises(UserError, match="block holds 12 tokens, the sequence has 13"):
        network(tokens(13))
    network(tokens(12), cache=cache)
    with pytest.raises(UserError, match="the sequence has 13"):
        network(tokens(1), cache=cache)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(UserError, match="16 channels .* 3 heads"):
        small(heads=3)


def test_dropouts_act_in_training_only() -> None:
    for kind in ("embedding_dropout", "residual_dropout", "attention_dropout"):
        network = small(**{kind: 0.5})
        assert torch.equal(network(tokens()), network(tokens()))
        assert not torch.equal(network.train()(tokens()), network(tokens()))


def test_only_weights_of_linear_layers_decay() -> None:
    network = small()
    decaying, others = parameter_groups(network, 0.25)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.25, 0)
    assert len(decaying["params"]) == 3 * 6 + 1 and all(p.ndim == 2 for p in decaying["params"])
    both = decaying["params"] + others["params"]
    assert {id(p) for p in both} == {id(p) for p in network.parameters()}
    assert any(p is network.tok_emb.weight for p in others["params"])
