import pytest
import torch
from torch.nn import functional as nnf

from medgen.methods.ac_gan import ACGAN, Settings
from medgen.types import DataShape

GENERATOR = {"filters": 4, "levels": 2, "latent": 3}
ADVERSARY = {"filters": 4, "layers": 1, "norm": "none", "spectral_norm": False}


def build(**more):
    torch.manual_seed(0)
    settings = Settings(generator=GENERATOR, adversary=ADVERSARY, **more)
    return ACGAN(settings, DataShape(in_channels=0, classes=3, patch=(16, 16, 16)))


def batch():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.rand(4, 1, 16, 16, 16, generator=generator) * 2 - 1, torch.zeros(4, 1, 16, 16, 16).long()
    for n in range(4):
        labels[n, 0, : 2 * n + 1, :4, :4] = 1
        labels[n, 0, 8 : 8 + n, :5] = 2
    return {"target": x, "labels": labels, "step": 0}


def test_volumes_are_the_voxels_of_each_structure():
    assert build().volumes(batch()["labels"]).tolist() == [[16, 0], [48, 80], [80, 160], [112, 240]]


@pytest.mark.parametrize("condition", ["volume", "class"])
def test_the_losses_equal_the_paper(condition):
    method, total, given = build(condition=condition, classes=4, weight_gan=2.0, weight_condition=3.0), {}, batch()
    G, D, x = method.networks["G"], method.networks["D"], given["target"]
    torch.manual_seed(5)
    losses = method.step(given, lambda key, loss: total.update({key: loss.item()}))
    torch.manual_seed(5)
    z = torch.randn(4, 3)
    c = G.condition(method.volumes(given["labels"]))
    fake = G(z, c)

    def error(image):
        told = D.told(image)
        return nnf.cross_entropy(told, torch.arange(4)) if condition == "class" else (told - c).square().mean()

    d = nnf.softplus(-D(x)[0]).mean() + nnf.softplus(D(fake)[0]).mean()
    assert total["D"] == pytest.approx((2 * d + 3 * (error(x) + error(fake))).item(), rel=1e-4)
    assert total["G"] == pytest.approx((2 * nnf.softplus(-D(fake)[0]).mean() + 3 * error(fake)).item(), rel=1e-4)
    assert losses["condition"].item() == pytest.approx(error(fake).item(), rel=1e-4)


def test_without_classes_it_is_refused():
    with pytest.raises(ValueError, match=r"data\.labels"):
        ACGAN(Settings(generator=GENERATOR), DataShape(in_channels=0, patch=(16, 16, 16)))
