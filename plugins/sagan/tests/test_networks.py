"""What SAGAN's parts promise, without golden arrays."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo_core.errors import UserError
from zoo_core.interfaces import Attention, Site
from zoo_core.rng import Rng
from zoo_sagan.attention import NonLocalAttention
from zoo_sagan.convert import load_official, official_values
from zoo_sagan.discriminator import Discriminator
from zoo_sagan.generator import Generator
from zoo_sagan.norm import norms
from zoo_sagan.spectral import Layers, u_moves_in_eval

SIZES = [32, 64, 128, 256, 512]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small_generator(**options) -> Generator:
    return Generator(**{"resolution": 32, "num_classes": 3, "channels": 4, "latent_dim": 8} | options)


def small_discriminator(**options) -> Discriminator:
    return Discriminator(**{"resolution": 32, "num_classes": 3, "channels": 4} | options)


def us(network: nn.Module) -> torch.Tensor:
    return torch.cat([value for name, value in network.state_dict().items() if name.endswith(".u")])


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("norm", ["tables", "tables-torch", "projected"])
@pytest.mark.parametrize(
    ("resolution", "num_classes", "attention", "of_generator", "of_discriminator"),
    [
        (128, 1000, 32, 42_078_852, 39_463_618),  # the official networks
        (128, 1000, 64, 42_017_412, 39_448_258),  # PyTorch-StudioGAN's, as are the next two
        (64, 100, 32, 12_811_396, 19_650_242),
        (32, 10, 16, 4_386_308, 1_075_586),
    ],
)
def test_published_parameter_counts(resolution, num_classes, attention, of_generator, of_discriminator, norm):
    options = {"resolution": resolution, "num_classes": num_classes, "attention_resolution": attention}
    with torch.device("meta"):
        assert count(Generator(norm=norm, **options)) == of_generator
        assert count(Discriminator(**options)) == of_discriminator


@pytest.mark.parametrize("resolution", SIZES)
def test_every_size_draws_and_judges_images_of_its_size(resolution):
    generator = Generator(resolution=resolution, channels=1)
    image = generator(torch.randn(2, 128))
    assert image.shape == (2, 3, resolution, resolution)
    assert image.abs().max() <= 1
    assert Discriminator(resolution=resolution, channels=1)(image).shape == (2, 1)


@pytest.mark.parametrize("init", ["xavier", "orthogonal"])
@pytest.mark.parametrize("spectral_norm", ["official", "torch", "none"])
def test_every_choice_builds_on_the_meta_device(spectral_norm, init):
    options = {"resolution": 512, "num_classes": 1000, "spectral_norm": spectral_norm, "init": init}
    with torch.device("meta"):
        for network in (Generator(norm="projected", **options), Discriminator(**options)):
            assert all(value.is_meta for value in network.state_dict().values())


@pytest.mark.parametrize("spectral_norm", ["official", "torch", "none"])
@pytest.mark.parametrize("norm", ["tables", "projected"])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_gradients_reach_every_parameter(num_classes, norm, spectral_norm):
    generator = small_generator(num_classes=num_classes, norm=norm, spectral_norm=spectral_norm)
    discriminator = small_discriminator(num_classes=num_classes, spectral_norm=spectral_norm)
    for network in (generator, discriminator):
        nn.init.ones_(network.attention.gamma)  # at its initial 0 no gradient passes into the attention
    label = torch.tensor([0, 1, 2, 0]) if num_classes else None
    discriminator(generator(torch.randn(4, 8), label), label).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            if network is generator and name.endswith("conv1.bias"):
                continue  # the batch norm after it takes it out, so its true gradient is 0
            assert parameter.grad.abs().sum() > 0, name


def test_labels_change_the_image_and_the_logit():
    generator, discriminator = small_generator().eval(), small_discriminator().eval()
    z, other = torch.randn(2, 8), torch.tensor([1, 1])
    nn.init.normal_(generator.blocks[0].norm1.gamma)
    image = generator(z, torch.tensor([1, 2]))
    same = (image == generator(z, other)).flatten(1).all(1)
    assert same.tolist() == [True, False]
    same = discriminator(image, torch.tensor([1, 2])) == discriminator(image, other)
    assert same.flatten().tolist() == [True, False]


def test_a_label_is_demanded_or_refused():
    z, label = torch.randn(2, 8), torch.tensor([0, 1])
    image = torch.zeros(2, 3, 32, 32)
    for call in (
        lambda: small_generator()(z),
        lambda: small_generator(num_classes=0)(z, label),
        lambda: small_discriminator()(image),
        lambda: small_discriminator(num_classes=0)(image, label),
    ):
        with pytest.raises(UserError, match="label"):
            call()


def test_evaluation_moves_nothing_and_depends_on_no_other_image():
    generator = small_generator().train()
    for _ in range(3):
        generator(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))
    generator.eval()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    images = generator.sample(5, rng=Rng.of("test", rows=range(5)))
    alone = torch.cat([generator.sample(1, rng=Rng.of("test", rows=range(row, row + 1))) for row in range(5)])
    torch.testing.assert_close(images, alone, rtol=0, atol=1e-5)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_u_moves_in_training_and_in_evaluation_only_on_request():
    generator = small_generator(num_classes=0)
    z = torch.randn(2, 8)
    start = us(generator)
    generator.train()(z)
    moved = us(generator)
    assert not torch.equal(start, moved)
    generator.eval()(z)
    assert torch.equal(us(generator), moved)
    u_moves_in_eval(generator)
    generator(z)
    assert not torch.equal(us(generator), moved)


def test_u_holds_still_on_fakes():
    discriminator = small_discriminator(num_classes=0).train()
    image = torch.randn(2, 3, 32, 32)
    start = us(discriminator)
    with discriminator.on_fakes():
        first = discriminator(image)
        with discriminator.on_fakes():
            discriminator(image)
        discriminator(image)
    assert torch.equal(us(discriminator), start)
    with pytest.raises(RuntimeError, match="interrupted"), discriminator.on_fakes():
        raise RuntimeError("interrupted")
    assert torch.equal(discriminator(image), first)  # the same u as the fakes had, and only now it moves
    assert not torch.equal(us(discriminator), start)


def test_two_passes_from_one_u_can_both_be_differentiated_after_it_moved():
    discriminator = small_discriminator(num_classes=0).train()
    image = torch.randn(2, 3, 32, 32)
    with discriminator.on_fakes():
        fake = discriminator(image)
    (fake - discriminator(image)).sum().backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad.abs().max() < 1e-4, name  # equal passes, opposite signs


@pytest.mark.parametrize("spectral_norm", ["official", "torch"])
def test_spectral_norm_converges_to_the_largest_singular_value(spectral_norm):
    layers = Layers(spectral_norm)
    for layer in (layers.conv(5, 6, 3), layers.linear(7, 4), layers.embedding(9, 5)):
        for _ in range(300):
            weight = layer.normalised()
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        torch.testing.assert_close(weight, layer.weight / largest, rtol=1e-4, atol=1e-6)


def test_the_torch_flavour_is_torchs_own_spectral_norm():
    ours = Layers("torch").conv(3, 5, 3)
    theirs = nn.Conv2d(3, 5, 3, padding=1)
    theirs.load_state_dict({"weight": ours.weight.detach(), "bias": ours.bias.detach()})
    theirs = nn.utils.spectral_norm(theirs)
    theirs.weight_u.copy_(ours.spectral.u)
    theirs.weight_v.copy_(ours.spectral.v)
    x = torch.randn(2, 3, 6, 6)
    for network in (ours, theirs):
        network.train()(x)
        network(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight_orig.grad)
    torch.testing.assert_close(ours.spectral.u, theirs.weight_u)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


class Average(Attention):
    """A foreign attention: the mean of the map."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site

    def forward(self, x, context=None):
        return x.mean((1, 2), keepdim=True).expand_as(x)


def test_a_foreign_attention_takes_the_place_of_the_papers():
    generator = Generator(resolution=64, channels=32, attention=Average)
    discriminator = Discriminator(resolution=64, channels=32, attention=Average, attention_heads=4)
    assert generator.attention.mixer.site == Site(dim=64, heads=2, resolution=32)
    assert discriminator.attention.mixer.site == Site(dim=32, heads=4, resolution=32)
    image = generator(torch.randn(2, 128))
    before = discriminator(image)
    nn.init.ones_(discriminator.attention.gamma)
    assert not torch.allclose(discriminator(image), before)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Generator(resolution=48), "48"),
        (lambda: Discriminator(resolution=48), "48"),
        (lambda: Generator(resolution=64, attention_resolution=24), "choose 8, 16, 32 or 0"),
        (lambda: Discriminator(resolution=32, attention_resolution=4), "choose 8, 16 or 0"),
        (lambda: small_generator(norm="table"), 'did you mean "tables"'),
        (lambda: small_generator(norm_decay=1.0), "norm_decay"),
        (lambda: small_discriminator(spectral_norm="offical"), 'did you mean "official"'),
        (lambda: small_discriminator(init="xaver"), 'did you mean "xavier"'),
        (lambda: small_generator(channels=0), "channels"),
        (lambda: small_generator(attention=Average, attention_heads=3), "attention_heads=3"),
        (lambda: NonLocalAttention(Site(8, 1, 4), key_ratio=0), "key_ratio"),
        (lambda: NonLocalAttention(Site(8, 1, 4, context_dim=2)), "context"),
    ],
)
def test_a_wrong_option_is_named(wrong, says):
    with pytest.raises(UserError, match=says):
        wrong()


@pytest.mark.parametrize(
    ("name", "decay", "unbiased", "last_decay"), [("tables", 0.999, False, 0.9999), ("projected", 0.9, True, 0.9)]
)
def test_moving_statistics_follow_the_published_rule(name, decay, unbiased, last_decay):
    x = torch.randn(3, 2, 4, 4) * 2 + 1
    label = torch.tensor([0, 1, 1])
    for norm, rate, corrected in (
        (norms(name).block(2, 3, Layers()), decay, unbiased),
        (norms(name).final(2), last_decay, True),
        (norms(name, decay=0.5).final(2), 0.5, True),
    ):
        norm.train()(x, label)
        torch.testing.assert_close(norm.mean, (1 - rate) * x.mean((0, 2, 3)), rtol=1e-4, atol=1e-7)
        var = x.var((0, 2, 3), unbiased=corrected)
        torch.testing.assert_close(norm.var, rate + (1 - rate) * var, rtol=1e-6, atol=0)


def test_conditional_norms_scale_by_the_label():
    x = torch.randn(3, 2, 4, 4)
    label = torch.tensor([0, 2, 2])
    normal = F.batch_norm(x, None, None, training=True, eps=1e-5)
    tables = norms("tables").block(2, 3, Layers())
    nn.init.normal_(tables.gamma)
    nn.init.normal_(tables.beta)
    expected = normal * tables.gamma[label][:, :, None, None] + tables.beta[label][:, :, None, None]
    torch.testing.assert_close(tables(x, label), expected)

    normal = F.batch_norm(x, None, None, training=True, eps=1e-4)
    projected = norms("projected").block(2, 3, Layers("torch")).train()
    one_hot = F.one_hot(label, 3).float()
    ours = projected(x, label)
    gain, shift = projected.gain.eval()(one_hot), projected.shift.eval()(one_hot)  # u and v as the forward left them
    torch.testing.assert_close(ours, normal * (1 + gain[:, :, None, None]) + shift[:, :, None, None])


@pytest.mark.parametrize("make", [small_generator, small_discriminator])
def test_official_variables_survive_the_round_trip(make):
    network, other = make(), make()
    variables = {name: value.numpy() for name, value in official_values(network).items()}
    prefix = next(iter(variables))
    load_official(other, variables | {f"{prefix}/Adam_1": 0, "model/global_step": 1, "model/beta1_power": 1})
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("make", [small_generator, small_discriminator])
def test_a_checkpoint_that_does_not_fit_is_refused(make):
    network, other = make(), make()
    before = other.state_dict()
    variables = official_values(network)
    name = list(variables)[-1]
    lacking = {key: value for key, value in variables.items() if key != name}
    letter = name.removeprefix("model/")[0]
    for wrong, says in (
        (lacking, f"Missing key.*{list(before)[-1]}"),
        (variables | {name: torch.zeros(2, 2, 2)}, f"size mismatch for {list(before)[-1]}"),
        (variables | {f"model/{letter}_block9/w": torch.zeros(1)}, f"Unexpected key.*{letter}_block9"),
    ):
        with pytest.raises(RuntimeError, match=says):
            load_official(other, wrong)
    with pytest.raises(UserError, match="twice"):
        load_official(other, variables | {name.removeprefix("model/"): variables[name]})
    with pytest.raises(UserError, match="default options"):
        official_values(make(spectral_norm="torch"))


def test_bfloat16_autocast_trains():
    generator, discriminator = small_generator(num_classes=0), small_discriminator(num_classes=0)
    z = torch.randn(4, 8)
    exact = discriminator.eval()(generator(z))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = discriminator(generator(z))
    logits.float().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in generator.parameters())
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max() + 0.05
