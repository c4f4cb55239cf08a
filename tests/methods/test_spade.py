import copy

import pytest
import torch
from small import merged
from torch.distributions import Normal, kl_divergence

from medgen.methods.spade import SPADE, Settings
from medgen.types import DataShape

SMALL = dict(generator=dict(filters=4, levels=2, hidden=4, latent=4), adversary=dict(filters=4, layers=1))


def build(in_channels=3, **more):
    return SPADE(Settings(**merged(SMALL, more)), DataShape(in_channels))


def batch(n=2, step=0):
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (n, 16, 16, 16))
    m = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    return {"source": m, "target": torch.rand(n, 1, 16, 16, 16) * 2 - 1, "step": step}


def test_losses_equal_the_paper():
    torch.manual_seed(0)
    method, b = build(weight_l1=3.0), batch()
    for network in method.networks.values():
        network.eval()  # stops the power iteration of spectral norm
    seen = {}
    torch.manual_seed(5)
    losses = method.step(b, lambda k, loss: seen.update({k: loss.detach()}))
    G, D = method.networks["G"], method.networks["D"]
    torch.manual_seed(5)
    mu, log_var = G.encode(b["target"])
    y_hat = G(b["source"], Normal(mu, (log_var / 2).exp()).loc + (log_var / 2).exp() * torch.randn_like(mu))
    real, fake = (D.layers(torch.cat([b["source"], y], 1)) for y in (b["target"], y_hat))
    assert len(real) == 2
    hinge = sum((1 - r[-1]).relu().mean() + (1 + f[-1]).relu().mean() for r, f in zip(real, fake, strict=True)) / 2
    assert losses["D"].item() == pytest.approx(hinge.item(), rel=1e-4)
    gan = -sum(f[-1].mean() for f in fake) / 2
    layers = [(a, c) for r, f in zip(real, fake, strict=True) for a, c in zip(r[:-1], f[:-1], strict=True)]
    features = sum((a - c).abs().mean() for a, c in layers) / 2
    kl = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    l1 = (y_hat - b["target"]).abs().mean()
    assert seen["G"].item() == pytest.approx((gan + 10 * features + 0.05 * kl + 3 * l1).item(), rel=1e-4)


def test_two_time_scales():
    optimizers = build().optimizers()
    assert {k: o.param_groups[0]["lr"] for k, o in optimizers.items()} == {"G": 1e-4, "D": 4e-4}
    assert all(o.param_groups[0]["betas"] == (0.0, 0.9) for o in optimizers.values())


@pytest.mark.parametrize("style", ["head", "everywhere"])
def test_generator_encoder_and_discriminator_all_move_in_each_step(style):
    torch.manual_seed(0)
    method = build(generator={"style": style})
    optimizers = method.optimizers()
    parts = {"G": method.networks["G"].blocks, "E": method.networks["G"].encoder_of_style, "D": method.networks["D"]}

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    for step in range(2):
        before = copy.deepcopy({k: [*n.parameters()] for k, n in parts.items()})
        method.step(batch(step=step), update)
        for k, n in parts.items():
            moved = [bool((a != b).any()) for a, b in zip(before[k], n.parameters(), strict=True)]
            # the last bias of a hinge D has no gradient while all logits lie within the margins
            assert all(moved) or (k == "D" and moved.count(False) <= 2), f"{k}: {moved}"


def test_a_seed_gives_a_style_and_the_style_sets_the_appearance():
    torch.manual_seed(0)
    method, m = build(generator={"style": "everywhere"}), batch(1)["source"]
    method.networks["G"].eval()
    made = []
    for seed in (3, 3, 4):
        method.z = method.draw_style(torch.Generator().manual_seed(seed))
        made.append(method.translate(m))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_two_style_references_give_two_appearances():
    """Of two labels, the first is brighter in half of the images, the second in the others."""
    torch.manual_seed(0)
    generator = dict(hidden=8, latent=2, style="everywhere", style_norm="none", style_grid=1)
    method = build(2, spatial_dims=2, generator=generator, weight_l1=20.0, lr=2e-3)
    optimizers = method.optimizers()

    def image(m, sign):
        return sign * (m[:, :1] - m[:, 1:]) * 0.6 + 0.05 * torch.randn(len(m), 1, 16, 16)

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    for step in range(120):
        organ = torch.zeros(8, 1, 16, 16)
        for one in organ:
            i, j = torch.randint(2, 8, (2,)).tolist()
            one[:, i : i + 6, j : j + 6] = 1
        m = torch.cat([organ, 1 - organ], 1)
        sign = torch.tensor([1.0, -1.0] * 4)[:, None, None, None]
        method.step({"source": m, "target": image(m, sign), "step": step}, update)
    method.networks["G"].eval()
    other, contrast = m[:1].flip(2), {}
    for sign in (1, -1):
        method.z = method.style_of(image(other, sign)).detach()
        y = method.translate(m[:1])
        contrast[sign] = (y[m[:1, :1] == 1].mean() - y[m[:1, :1] == 0].mean()).item()
    assert contrast[1] > 0.5 and contrast[-1] < -0.5, contrast


def test_texture_noise_changes_the_output_and_none_equals_zeros():
    torch.manual_seed(0)
    method, b = build(texture=2), batch()
    method.networks["G"].eval()
    m = b["source"]
    still = method.translate(m)
    assert torch.equal(still, method.translate(torch.cat([m, torch.zeros_like(m[:, :2])], 1)))
    moved = method.translate(torch.cat([m, torch.randn_like(m[:, :2])], 1))
    assert not torch.equal(still, moved)
    losses = [method.step(b, lambda k, loss: None)["G_l1"].item() for _ in range(2)]
    assert losses[0] != losses[1]


def test_without_latent_there_is_no_encoder():
    method = build(generator={"latent": 0})
    assert method.networks["G"].encoder_of_style is None
    assert "kl" not in method.step(batch(), lambda k, loss: None)
