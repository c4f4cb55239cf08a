import pytest
import torch

from medgen.methods.vqvae import VQVAE, Settings
from medgen.types import DataShape


def build():
    torch.manual_seed(0)
    generator = {"filters": 8, "levels": 2, "embeddings": 6, "embedding": 3}
    method = VQVAE(Settings(generator=generator, weight_commitment=0.5), DataShape(in_channels=0))
    torch.nn.init.normal_(method.networks["G"].quantizer.quantizer.embedding.weight)
    return method


def test_the_nearest_entry_and_the_losses_equal_the_paper():
    method, total = build(), []
    x = torch.rand(2, 1, 8, 8, 8) * 2 - 1
    G = method.networks["G"]
    losses = method.step({"target": x}, lambda _, loss: total.append(loss.item()))
    z = G.encoder(x)
    e = G.quantizer.quantizer.embedding.weight
    k = (z.movedim(1, -1)[..., None, :] - e).square().sum(-1).argmin(-1)
    assert torch.equal(method.encode(x), k) and k.shape == (2, 2, 2, 2)
    chosen = e[k].movedim(-1, 1)
    l2, distance = (x - G.decoder(chosen)).square().mean(), (z - chosen).square().mean()
    assert losses["G_l2"].item() == pytest.approx(l2.item(), rel=1e-4)
    assert losses["codebook"].item() == losses["commitment"].item() == pytest.approx(distance.item(), rel=1e-4)
    assert total == [pytest.approx((l2 + 1.5 * distance).item(), rel=1e-4)]
    assert torch.allclose(method.reconstruct(x), G.decoder(chosen).clamp(-1, 1), atol=1e-5)


def test_the_gradient_passes_the_codebook_unchanged():
    """The encoder gets the decoder's gradient at the entries, and entries get none of it."""
    method, x = build(), torch.rand(1, 1, 8, 8, 8)
    G = method.networks["G"]
    z = G.encoder(x)
    e = G.quantizer.quantizer.embed(method.encode(x)).detach().requires_grad_()
    (x - G.decoder(e)).square().mean().backward()
    wanted = torch.autograd.grad(z, list(G.encoder.parameters()), e.grad)
    G.zero_grad()
    settings = method.settings.model_copy(update={"weight_codebook": 0.0, "weight_commitment": 0.0})
    method.settings = settings
    method.step({"target": x}, lambda _, loss: loss.backward())
    for p, g in zip(G.encoder.parameters(), wanted, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-6)
    assert G.quantizer.quantizer.embedding.weight.grad.abs().max() == 0
