import pytest
import torch

from medgen.networks.dcgan import CodeGenerator, DCGANSettings, FixedBatchNorm


def test_reference_norm_uses_the_statistics_of_the_reference_batch():
    torch.manual_seed(0)
    norm, x = FixedBatchNorm(3, 4, virtual=False), torch.randn(6, 3, 2, 3, 4) * 2 + 1
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain = torch.nn.functional.batch_norm(x[:4], None, None, norm.weight, norm.bias, training=True)
    assert torch.allclose(norm(x)[:4], plain, atol=1e-4)
    mean, var = x[:4].mean((0, 2, 3, 4)), x[:4].var((0, 2, 3, 4), correction=0)
    wanted = torch.nn.functional.batch_norm(x[4:], mean, var, norm.weight, norm.bias)
    assert torch.allclose(norm(x)[4:], wanted, atol=1e-4)


def test_virtual_norm_uses_the_reference_batch_and_the_image_itself():
    """For each image: batch norm of a batch that is the reference batch and this image."""
    torch.manual_seed(0)
    norm, x = FixedBatchNorm(3, 4, virtual=True), torch.randn(6, 3, 2, 3, 4) * 2 + 1
    for n in (4, 5):
        union = torch.cat([x[:4], x[n : n + 1]])
        wanted = torch.nn.functional.batch_norm(union, None, None, training=True)[4]
        assert torch.allclose(norm(x)[n], wanted, atol=1e-4)


@pytest.mark.parametrize("norm", ["group", "batch", "instance", "none", "reference", "virtual"])
def test_images_depend_on_the_others_of_their_batch_with_batch_norm_only(norm):
    torch.manual_seed(0)
    settings = DCGANSettings(filters=4, levels=2, latent=3, norm=norm, reference=2)
    G = CodeGenerator(settings, channels=2, patch=(8, 8, 12))
    z = torch.randn(3, 3)
    assert G(z).shape == (3, 2, 8, 8, 12) and G(z).abs().max() <= 1
    same = torch.allclose(G(z)[:1], G(torch.cat([z[:1], 5 * z[1:]]))[:1], atol=1e-5)
    assert same == (norm != "batch")
    assert (G.reference is not None) == (norm in ("reference", "virtual"))
