import pytest
import torch

from medgen.methods.vqvae import VQVAE, Settings
from medgen.types import DataShape


def build():
    torch.manual_seed(0)
    generator = {"filters": 8, "levels": 2, "embeddings": 6, "embedding": 3}
    prior = {"width": 16, "depth": 1, "heads": 2, "lr": 0.01}
    method = VQVAE(
        Settings(generator=generator, prior=prior, weight_commitment=0.5), DataShape(in_channels=0, patch=(8, 8, 8))
    )
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
    assert total == [pytest.approx((l2 + 1.5 * distance).item(), rel=1e-4), pytest.approx(losses["nll"].item())]
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


def test_the_prior_sees_only_the_codes_before():
    method, k = build(), torch.randint(6, (1, 2, 2, 2))
    method.networks["G"].eval()
    before = method.logits(k)
    assert before.shape == (1, 8, 6)
    changed = k.clone().view(-1)
    changed[3] = (changed[3] + 1) % 6
    after = method.logits(changed.view(k.shape))
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-5) and not torch.allclose(before[:, 4:], after[:, 4:])


def test_drawn_codes_have_the_probabilities_of_the_prior():
    """The first and second of eight codes, drawn by the sampler, against the products of the transformer's softmax."""
    method, seen = build(), []
    G = method.networks["G"].eval()
    torch.nn.init.normal_(G.prior.to_logits.weight)
    method._entries = lambda k: seen.append(k) or torch.zeros(len(k), 3, 2, 2, 2)
    method.sample(2000, (8, 8, 8), torch.Generator().manual_seed(0))
    k = seen[0].flatten(1)
    first = method.logits(k[:1].view(1, 2, 2, 2))[0, 0].softmax(0)
    shares = torch.bincount(k[:, 0], minlength=6) / len(k)
    assert torch.allclose(shares, first, atol=0.03)
    common = int(shares.argmax())
    rows = k[k[:, 0] == common]
    second = method.logits(rows[:1].view(1, 2, 2, 2))[0, 1].softmax(0)
    assert torch.allclose(torch.bincount(rows[:, 1], minlength=6) / len(rows), second, atol=0.05)


def test_the_prior_learns_codes_that_follow_from_each_other():
    method = build()
    optimizer = method.optimizers()["prior"]
    start = torch.randint(6, (16, 1), generator=torch.Generator().manual_seed(0))
    k = ((start + torch.arange(8)) % 6).view(16, 2, 2, 2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(method.logits(k).flatten(0, 1), k.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 and losses[-1] < 0.5  # the first code of eight remains unknown: log 6 / 8 = 0.22
