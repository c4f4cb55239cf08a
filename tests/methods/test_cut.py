import copy

import pytest
import torch
from small import merged

from medgen.losses.patchnce import sample_places
from medgen.methods.cut import CUT, Settings, coin
from medgen.networks.generator import features
from medgen.types import DataShape

SMALL = dict(
    generator=dict(filters=4, blocks=1, kernel=3), adversary=dict(filters=4, layers=1), nce_patches=16, nce_width=8
)


def build(in_channels=1, **more):
    return CUT(Settings(**merged(SMALL, more)), DataShape(in_channels))


def images(seed=0, dims=3):
    torch.manual_seed(seed)
    return torch.rand(2, 1, 1, *(16,) * dims) * 2 - 1


def by_hand(method, x, y_hat, step=0):
    """Eq. 4: mean over layers and places of the cross-entropy, each query alone."""
    G, H = method.networks["G"], method.networks["H"]
    terms = []
    f, g = features(G, x, method.layers), features(G, y_hat, method.layers)
    places = sample_places(f, method.settings.nce_patches, step)
    for v, z in zip(H(f, places), H(g, places), strict=True):
        odds = torch.exp(z[0] @ v[0].T / method.settings.temperature)
        terms.append(-(odds.diag() / odds.sum(1)).log().mean())
    return torch.stack(terms).mean()


def test_losses_are_equation_5():
    x, y = images()
    method = build()
    seen = {}
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: seen.update({k: loss.detach()}))
    G, D = method.networks["G"], method.networks["D"]
    mse = torch.nn.functional.mse_loss
    fake, real = D(G(x))[0], D(y)[0]
    d = 0.5 * (mse(real, torch.ones_like(real)) + mse(fake, torch.zeros_like(fake)))  # the authors halve D's loss
    assert losses["D"].item() == pytest.approx(d.item(), rel=1e-4)
    gan = mse(fake, torch.ones_like(fake))
    nce = (by_hand(method, x, G(x)) + by_hand(method, y, G(y))) / 2
    assert seen["G"].item() == pytest.approx((gan + nce).item(), rel=1e-4)


def test_paper_layers():
    """Image, both halvings, blocks 1 and 5, as 0, 4, 8, 12, 16 of the authors' code."""
    method = build(generator={"blocks": 9})
    G = method.networks["G"]
    x = images()[0]
    shapes = [tuple(f.shape[1:3]) for f in features(G, x, method.layers)]
    assert method.layers == (0, 2, 3, 4, 8)
    assert shapes == [(1, 16), (8, 8), (16, 4), (16, 4), (16, 4)]


@pytest.mark.parametrize("dims", [2, 3])
def test_fastcut_compares_the_mirrored_features_mirrored_back(dims):
    x, y = images(dims=dims)
    method = build(spatial_dims=dims, nce_identity=False, flip_equivariance=True, weight_nce=10)
    G = method.networks["G"]
    image = build(spatial_dims=dims, nce_layers=(0,))  # features of the image itself differ only by the mirroring
    assert image.nce(x, x.flip(2), True, 0).item() == pytest.approx(image.nce(x, x, False, 0).item(), rel=1e-5)
    assert image.nce(x, x.flip(2), False, 0).item() != pytest.approx(image.nce(x, x, False, 0).item(), rel=1e-3)
    seen = {s: method.step({"source": x, "target": y, "step": s}, lambda *_: None)["D"].item() for s in range(8)}
    mirrored = {s: coin(s) for s in range(8)}
    assert set(mirrored.values()) == {True, False}
    for s, value in seen.items():
        fake = G(x.flip(2) if mirrored[s] else x)
        real, fake = method.networks["D"](y)[0], method.networks["D"](fake)[0]
        expected = 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()
        assert value == pytest.approx(expected.item(), rel=1e-4)


def test_projector_learns_with_the_generator_and_only_from_queries():
    x, y = images()
    method = build(weight_gan=0.0, nce_identity=False)
    before = copy.deepcopy(method.networks["H"].state_dict())
    optimizers = method.optimizers()

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    method.step({"source": x, "target": y, "step": 0}, update)
    assert any(not torch.equal(before[k], v) for k, v in method.networks["H"].state_dict().items())


@pytest.mark.parametrize("generator", ["unet", "resnet"])
@pytest.mark.parametrize("residual", [False, True])
def test_cut_works_with_any_generator(generator, residual):
    x, y = images()
    method = build(generator={"name": generator, "levels": 2, "residual": residual, "full_resolution_filters": 2})
    losses = method.step({"source": x, "target": y, "step": 0}, lambda *_: None)
    assert all(torch.isfinite(v) for v in losses.values())
    assert method.layers == ((0, 2, 3, 4) if generator == "resnet" else (0, 1, 2))


def test_layers_beyond_the_encoder_are_refused():
    with pytest.raises(ValueError, match="layers"):
        build(nce_layers=(0, 40))
    with pytest.raises(ValueError, match="channels"):
        build(in_channels=2)


def test_sincut_keeps_the_target_by_l1():
    x, y = images()
    method = build(nce_identity=False, weight_identity=1.0)
    losses = method.step({"source": x, "target": y, "step": 0}, lambda *_: None)
    expected = (method.networks["G"](y) - y).abs().mean()
    assert losses["identity"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_kept_background_is_unchanged():
    torch.manual_seed(0)
    method = build(keep_background=True)
    x = torch.rand(1, 1, 16, 16, 16)
    x[..., :8] = -1
    made = method.translate(x)
    assert (made[..., :8] == -1).all() and (made[..., 8:] != -1).all()
    seen = []
    method.adversaries["D"].generator_loss = lambda fake: seen.append(fake) or fake.mean()
    method.step({"source": x, "target": x, "step": 0}, lambda k, loss: None)
    assert (seen[0][..., :8] == -1).all()
