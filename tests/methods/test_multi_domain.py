import pytest
import torch

from medgen.methods.multi_domain import MultiDomain, Settings
from medgen.types import DataShape

SMALL = dict(
    generator=dict(filters=4, blocks=1, kernel=3),
    adversary=dict(filters=4, layers=1),
    classifier_filters=4,
    classifier_layers=1,
)


def build(in_channels=1, **more):
    return MultiDomain(Settings(**SMALL, **more), DataShape(in_channels, domains=3))


def batch(n=2):
    torch.manual_seed(0)
    x, y = torch.rand(2, n, 1, 16, 16, 16) * 2 - 1
    c_x, c = torch.tensor([0, 2]), torch.tensor([1, 0])
    return {"source": x, "target": y, "source_domain": c_x, "target_domain": c, "step": 0}


def test_losses_are_equations_4_to_6():
    torch.manual_seed(0)
    method = build(weight_identity=3.0)
    b, seen = batch(), {}
    losses = method.step(b, lambda k, loss: seen.update({k: loss.detach()}))
    G, D, C = (method.networks[k] for k in ("G", "D", "C"))
    G = G.network

    def planes(c):
        out = torch.zeros(2, 3, 16, 16, 16)
        out[0, c[0]], out[1, c[1]] = 1, 1
        return out

    def classes(images, c):
        p = C(images)[0].mean((2, 3, 4)).softmax(1)
        return -(p[0, c[0]].log() + p[1, c[1]].log()) / 2

    x, y, c_x, c = b["source"], b["target"], b["source_domain"], b["target_domain"]
    y_hat = G(torch.cat([x, planes(c)], 1))
    back, same = G(torch.cat([y_hat, planes(c_x)], 1)), G(torch.cat([x, planes(c_x)], 1))
    gan = 0.5 * (D(y_hat)[0] - 1).square().mean()
    l1 = torch.nn.functional.l1_loss
    expected = gan + classes(y_hat, c) + 10 * l1(back, x) + 3 * l1(same, x)
    assert seen["G"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses["C"].item() == pytest.approx(((classes(x, c_x) + classes(y, c)) / 2).item(), rel=1e-4)


def test_target_decides_the_translation():
    torch.manual_seed(0)
    method = build()
    x = batch()["source"]
    found = []
    for target in range(3):
        method.target = target
        found.append(method.translate(x))
        assert torch.equal(found[-1], method.networks["G"](x, torch.tensor([target, target])))
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_unequal_input_and_output_channels_are_refused():
    with pytest.raises(ValueError, match="equal numbers of input and output channels; got 2 and 1"):
        build(in_channels=2)


def test_each_domain_has_a_branch_that_is_trained_on_real_and_fake():
    torch.manual_seed(0)
    method = build(branches=True, weight_identity=3.0)
    b, seen = batch(), {}
    losses = method.step(b, lambda k, loss: seen.update({k: loss.detach()}))
    G, D = method.networks["G"], method.networks["D"].network
    y, c = b["target"], b["target_domain"]
    y_hat = G(b["source"], c)
    real, fake = D(y)[0], D(y_hat)[0]
    assert real.shape[1] == 3
    assert losses["G_gan"].item() == pytest.approx(
        0.5 * torch.stack([(fake[i, c[i]] - 1).square().mean() for i in range(2)]).mean().item(), rel=1e-4
    )
    expected = [(real[i, c[i]] - 1).square().mean() + fake[i, c[i]].square().mean() for i in range(2)]
    assert losses["D"].item() == pytest.approx(0.5 * sum(expected).item() / 2, rel=1e-4)


def test_images_of_the_same_patient_have_an_l1_term():
    torch.manual_seed(0)
    method = build(weight_l1=5.0, weight_cycle=0.0)
    b, seen = batch() | {"paired": torch.tensor([False, True])}, {}
    losses = method.step(b, lambda k, loss: seen.update({k: loss.detach()}))
    y_hat = method.networks["G"](b["source"], b["target_domain"])
    assert losses["l1"].item() == pytest.approx((y_hat - b["target"])[1].abs().mean().item() / 2, rel=1e-4)
    assert "cycle" not in losses
    expected = losses["G_gan"] + losses["class"] + 5 * losses["l1"]
    assert seen["G"].item() == pytest.approx(expected.item(), rel=1e-4)
