import torch

from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.networks.noise import draw_noise


def test_noise_changes_the_output_and_its_absence_repeats_it():
    torch.manual_seed(0)
    settings = GeneratorSettings(name="unet", filters=4, levels=2)
    G = build_generator(settings, spatial_dims=3, in_channels=1, out_channels=1, noise=3)
    x = torch.randn(2, 1, 8, 8, 8)
    z = draw_noise(x, 3)
    assert z.shape == (2, 3, 1, 1, 1)
    assert torch.equal(G(x), G(x)) and torch.equal(G(x), G(x, torch.zeros_like(z)))
    assert not torch.equal(G(x, z), G(x))
