"""Objective and stabilisers together: what each key adds to D's and G's loss, computed independently."""

import pytest
import torch

from medgen.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from medgen.losses.adversary import Adversary, AdversarySettings, optimizers

SMALL = dict(filters=4, layers=1, norm="none")
OBJECTIVES = ["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]


def build(objective="least_squares", *, spatial_dims=3, in_channels=1, **more):
    torch.manual_seed(0)
    if objective == "wasserstein":
        more = {"gradient_penalty": 10.0, **more}
    settings = AdversarySettings(objective=objective, **{**SMALL, **more})
    return Adversary(settings, spatial_dims=spatial_dims, in_channels=in_channels)


def images(n=2, dims=3):
    torch.manual_seed(1)
    return torch.rand(2, n, 1, *(16,) * dims) * 2 - 1


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_plain_losses_are_the_objective(objective, scales):
    A = build(objective, scales=scales, gradient_penalty=0.0, spectral_norm=objective == "wasserstein")
    A.network.eval()  # stops the power iteration of spectral norm
    real, fake = images()
    expected = discriminator_loss(objective, A.network(real), A.network(fake))
    assert A.discriminator_loss(real, fake, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert A.generator_loss(fake).item() == pytest.approx(generator_loss(objective, A.network(fake)).item(), rel=1e-5)


@pytest.mark.parametrize("scales", [1, 2])
def test_r1_is_lazy_and_keeps_its_mean_weight(scales):
    A = build(r1=3.0, r1_every=4, scales=scales)
    real, fake = images()
    plain = discriminator_loss("least_squares", A.network(real), A.network(fake))
    assert A.discriminator_loss(real, fake, 1).item() == pytest.approx(plain.item(), rel=1e-6)
    expected = plain + 3 * 4 * r1_penalty(A.network, real)
    assert A.discriminator_loss(real, fake, 8).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("scales", [1, 2])
def test_gradient_penalty_joins_the_loss(scales):
    A = build("wasserstein", gradient_penalty=7.0, scales=scales)
    real, fake = images()
    plain = discriminator_loss("wasserstein", A.network(real), A.network(fake))
    torch.manual_seed(3)
    value = A.discriminator_loss(real, fake, 0)
    torch.manual_seed(3)
    assert value.item() == pytest.approx((plain + 7 * gradient_penalty(A.network, real, fake)).item(), rel=1e-5)


def test_consistency_joins_the_loss():
    A = build(consistency=5.0)
    real, fake = images()
    plain = discriminator_loss("least_squares", A.network(real), A.network(fake))
    torch.manual_seed(3)
    value = A.discriminator_loss(real, fake, 0)
    torch.manual_seed(3)
    from medgen.losses.augment import augment

    moved = augment(real, ("flip", "translate"))
    means = [A.network(v)[0].flatten(1).mean(1) for v in (real, moved)]
    assert value.item() == pytest.approx((plain + 5 * (means[0] - means[1]).square().mean()).item(), rel=1e-5)


def test_augmentation_passes_gradients_to_the_generator():
    A = build(augment=("flip", "translate", "cutout"))
    fake = images()[1].requires_grad_()
    A.generator_loss(fake).backward()
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None for p in A.network.parameters())


def test_spectral_norm_bounds_every_convolution():
    A = build(spectral_norm=True)
    with torch.no_grad():
        for p in A.network.parameters():
            p.mul_(30)
    for _ in range(60):
        A.network(images()[0])
    convolutions = [m for m in A.network.modules() if isinstance(m, torch.nn.Conv3d)]
    assert len(convolutions) == 3
    for m in convolutions:
        assert torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_weight_clip_holds_after_each_update():
    A = build("wasserstein", gradient_penalty=0.0, weight_clip=0.01, optimizer="rmsprop")
    G = torch.nn.Linear(1, 1)
    D = optimizers([G], [A], 1e-3, (0.5, 0.999))["D"]
    assert isinstance(D, torch.optim.RMSprop)
    A.discriminator_loss(*images(), 0).backward()
    D.step()
    largest = max(p.abs().max().item() for p in A.network.parameters())
    assert largest == pytest.approx(0.01)
    assert G.weight.abs().item() != pytest.approx(0.01)


def test_two_time_scales():
    A = build(lr=4e-4)
    found = optimizers([torch.nn.Linear(1, 1)], [A], 1e-4, (0.0, 0.9))
    assert {k: o.param_groups[0]["lr"] for k, o in found.items()} == {"G": 1e-4, "D": 4e-4}


def test_generator_waits_for_the_critic():
    A = build(critic_steps=5)
    assert [A.generators_turn(n) for n in range(10)] == [False] * 4 + [True] + [False] * 4 + [True]


def test_pool_returns_earlier_images():
    A = build(pool=2)
    real, fake = images()
    A.discriminator_loss(real, fake, 0)
    assert len(A.pool.images) == 2


def test_collapse_lowers_diversity():
    A = build()
    assert A.diversity() == 1.0
    for seed in range(8):
        torch.manual_seed(seed)
        real = torch.randn(1, 1, 16, 16, 16).cumsum(2)
        A.discriminator_loss(real, torch.ones_like(real) + 1e-3 * real, seed)
    assert A.diversity() < 0.01
    assert set(A.health) == {"real_accuracy", "fake_accuracy", "saturated", "spread"}


def test_channels_that_are_constant_in_real_images_do_not_count_for_diversity():
    A = build(in_channels=2)
    for seed in range(8):
        torch.manual_seed(seed)
        real, empty = torch.randn(1, 1, 16, 16, 16).cumsum(2), torch.zeros(1, 1, 16, 16, 16)
        A.discriminator_loss(torch.cat([real, empty], 1), torch.cat([real.flip(2), empty], 1), seed)
    assert A.diversity() > 0.5


@pytest.mark.parametrize(
    "keys, reason",
    [
        (dict(objective="hinge", label_smoothing=0.1), "label"),
        (dict(objective="wasserstein", gradient_penalty=0.0), "constrained critic"),
    ],
)
def test_contradictions_are_refused(keys, reason):
    with pytest.raises(ValueError, match=reason):
        build(**keys)


def test_antialiased_discriminator_has_the_same_map_in_2d_and_3d():
    for dims in (2, 3):
        maps = [
            build("hinge", spatial_dims=dims, antialias=a).network(torch.randn(1, 1, *(32,) * dims))[0]
            for a in (False, True)
        ]
        assert all(m.ndim == dims + 2 for m in maps)
        assert abs(maps[0].shape[2] - maps[1].shape[2]) <= 1


@pytest.mark.parametrize("scales", [1, 2])
def test_generator_losses_are_the_objective_and_feature_matching(scales):
    A = build("hinge", scales=scales)
    real, fake = images()
    fake.requires_grad_()
    gan, features = A.generator_losses(real, fake)
    assert gan.item() == pytest.approx(A.generator_loss(fake).item(), rel=1e-6)
    by_hand = [sum((r - f).abs().mean() for r, f in zip(a[:-1], b[:-1], strict=True))
               for a, b in zip(A.network.layers(real), A.network.layers(fake), strict=True)]  # fmt: skip
    assert features.item() == pytest.approx((sum(by_hand) / scales).item(), rel=1e-5)
    (gan + features).backward()
    assert fake.grad.abs().max() > 0 and all(p.grad is None for p in A.network.parameters())


def test_augmentation_is_one_draw_for_truth_and_fake():
    A = build("hinge", augment=("flip", "translate", "cutout"))
    real, _ = images()
    assert A.generator_losses(real, real.clone())[1].item() == pytest.approx(0, abs=1e-6)


def test_channels_that_the_data_keeps_constant_are_no_collapse():
    A = build(in_channels=2)
    for seed in range(3):
        torch.manual_seed(seed)
        real, fake = torch.rand(2, 1, 2, 16, 16, 16)
        real[:, 1], fake[:, 1] = 0, 0  # a label absent from all patches
        A.discriminator_loss(real, fake, 0)
    assert A.diversity() == pytest.approx(1, abs=0.5)
    A = build(in_channels=2)
    for _ in range(3):
        A.discriminator_loss(torch.rand(1, 2, 16, 16, 16), torch.zeros(1, 2, 16, 16, 16), 0)
    assert A.diversity() == 0
