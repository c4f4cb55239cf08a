import pytest
import torch
from torch.nn import functional as nnf

from medgen.losses.adversarial import discriminator_loss
from medgen.methods.bigan import BiGAN, Settings
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 2, "latent": 3}


def build(**more):
    torch.manual_seed(0)
    settings = Settings(generator=SMALL, discriminator={"filters": 4, "levels": 2}, hidden=8, **more)
    return BiGAN(settings, DataShape(in_channels=0, patch=(8, 8, 8)))


@pytest.mark.parametrize("unary", [False, True])
def test_the_losses_equal_the_paper(unary):
    method, total = build(unary=unary, weight_l1=2.0), {}
    x = torch.rand(4, 1, 8, 8, 8) * 2 - 1
    G, D = method.networks["G"], method.networks["D"].eval()  # eval: no power iterations of spectral norm
    torch.manual_seed(5)
    losses = method.step({"target": x, "step": 0}, lambda key, loss: total.update({key: loss.item()}))
    torch.manual_seed(5)
    code = G.encoder(x)
    z = torch.randn_like(code)
    real, fake = D(x, code), D(G.decoder(z), z)
    assert len(real) == len(fake) == (3 if unary else 1)

    def mean(scores, sign):
        return sum(nnf.softplus(sign * score).mean() for score in scores) / len(scores)

    assert losses["D"].item() == pytest.approx((mean(real, -1) + mean(fake, 1)).item(), rel=1e-4)
    gan, l1 = mean(fake, -1) + mean(real, 1), (x - G.decoder(code)).abs().mean()
    assert total["G"] == pytest.approx((gan + 2 * l1).item(), rel=1e-4)


def test_unary_scores_see_one_part_of_a_pair():
    D = build(unary=True).networks["D"].eval()
    x, other, z, drawn = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 1, 8, 8, 8), torch.randn(2, 3), torch.randn(2, 3)
    pair, x_alone, z_alone = D(x, z)
    assert torch.equal(D(x, drawn)[1], x_alone) and not torch.equal(D(x, drawn)[2], z_alone)
    assert torch.equal(D(other, z)[2], z_alone) and not torch.equal(D(other, z)[1], x_alone)
    assert not torch.equal(D(x, drawn)[0], pair) and not torch.equal(D(other, z)[0], pair)


def test_the_best_discriminator_has_the_odds_of_the_two_joint_densities():
    """Three images, two codes: pairs of E and of G with these counts; D is a table of logits (proposition 1)."""
    of_e, of_g = torch.tensor([[4, 1], [2, 2], [1, 6]]), torch.tensor([[1, 3], [3, 3], [5, 1]])
    assert of_e.sum() == of_g.sum() == 16
    logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    real, fake = (torch.arange(6).repeat_interleave(counts.flatten()) for counts in (of_e, of_g))
    optimizer = torch.optim.SGD([logits], 4.0)
    for _ in range(400):
        optimizer.zero_grad()
        discriminator_loss("non_saturating", [logits[real]], [logits[fake]]).backward()
        optimizer.step()
    p_e, p_g = of_e.flatten() / 16, of_g.flatten() / 16
    torch.testing.assert_close(logits.detach().exp(), (p_e / p_g).double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits.detach().sigmoid(), (p_e / (p_e + p_g)).double(), rtol=1e-3, atol=1e-4)
