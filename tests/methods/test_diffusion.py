"""The losses equal the papers, and samplers with the optimal network of a known density give that density."""

import math

import pytest
import torch
from refusal import refused
from small import make_model, small_settings, write_cohort
from torch import nn

from medgen.checkpoint import load_model
from medgen.config import parse_settings
from medgen.inference.predict import translate_case
from medgen.io.read import read_volume
from medgen.losses.diffusion import alphas_bar
from medgen.losses.likelihood import WIDTH, bits_per_dimension
from medgen.methods.diffusion import Diffusion, Settings
from medgen.training.loop import train
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 1}


def build(sources=0, **more):
    torch.manual_seed(0)
    return Diffusion(Settings(generator=SMALL, **more), DataShape(in_channels=sources, patch=(8, 8, 8)))


class Linear(nn.Module):
    """The optimal network for independent voxels of N(m, s²), and its divisor."""

    divisor = 1

    def __init__(self, predict, mean, sd, schedule="cosine", T=1000):
        super().__init__()
        self.predict, self.mean, self.sd, self.T = predict, mean, sd, T
        self.alphas = alphas_bar(schedule, T)
        self.dummy = nn.Parameter(torch.zeros(1))

    def forward(self, x, timesteps):
        t = timesteps.view(-1, 1, 1, 1, 1)
        a, b = 1 - t / self.T, t / self.T  # x = a x₀ + b ε
        if self.predict != "flow":
            alpha = self.alphas[t.long()]
            a, b = alpha.sqrt(), (1 - alpha).sqrt()
        gain = self.sd**2 * a / (a**2 * self.sd**2 + b**2)
        x0 = self.mean + gain * (x - a * self.mean)
        noise = b * (x - a * self.mean) / (a**2 * self.sd**2 + b**2)
        return {"epsilon": noise, "v": a * noise - b * x0, "flow": noise - x0}[self.predict]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("predict", ["epsilon", "v", "flow"])
@torch.no_grad()
def test_samples_of_the_optimal_network_have_the_density_of_the_data(predict, eta):
    mean, sd = 0.2, 0.15
    method = build(predict=predict, eta=eta, steps=200)
    method.networks["G"] = Linear(predict, mean, sd)
    x = method.sample(2, (16, 16, 16), torch.Generator().manual_seed(0))
    assert x.mean().item() == pytest.approx(mean, abs=0.01) and x.std().item() == pytest.approx(sd, rel=0.05)


@pytest.mark.parametrize("predict", ["epsilon", "v", "flow"])
@torch.no_grad()
def test_the_bound_of_the_optimal_network_is_nearly_the_entropy(predict):
    mean, sd = 0.2, 0.15
    method = build(predict=predict, steps=400)
    method.networks["G"] = Linear(predict, mean, sd)
    x = torch.randn(4, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1)) * sd + mean
    log_p = method.log_likelihood(x, torch.Generator().manual_seed(0))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * sd**2) - math.log2(WIDTH)
    assert bits_per_dimension(log_p, 512).mean().item() == pytest.approx(entropy, rel=0.02)
    method.networks["G"].mean = -0.2
    assert (method.log_likelihood(x, torch.Generator().manual_seed(0)) < log_p).all()


@pytest.mark.parametrize("predict", ["epsilon", "v", "flow"])
def test_the_losses_equal_the_papers(predict):
    method = build(predict=predict)
    x0, seen = torch.rand(2, 1, 8, 8, 8) * 2 - 1, {}

    class Network(nn.Module):
        def forward(self, x, timesteps):
            seen.update(x=x, t=timesteps)
            return torch.zeros_like(x)

    method.networks["G"] = Network()
    torch.manual_seed(5)
    loss = method.step({"target": x0}, lambda *_: None)["G_l2"]
    torch.manual_seed(5)
    noise, u = torch.randn_like(x0), torch.rand(2, 1, 1, 1, 1)
    a, b = 1 - u, u
    if predict != "flow":
        assert torch.equal(seen["t"], (u.flatten() * 1000).long())
        alpha = alphas_bar("cosine", 1000)[(u * 1000).long()]
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
    assert torch.allclose(seen["x"], a * x0 + b * noise, atol=1e-6)
    wanted = {"epsilon": noise, "v": a * noise - b * x0, "flow": noise - x0}[predict]
    assert loss.item() == pytest.approx(wanted.square().mean().item(), rel=1e-5)


@torch.no_grad()
def test_guidance_extrapolates_from_the_hidden_to_the_given_source():
    method = build(sources=2, guidance=1.5)
    x, c = torch.randn(1, 1, 8, 8, 8), torch.randn(1, 2, 8, 8, 8)
    seen = []

    class Network(nn.Module):
        def forward(self, x, timesteps):
            seen.append(x)
            return x[:, 1:2] + x[:, 3:] * 7

    method.networks["G"] = Network()
    guided = method._guided(x, 10, c)
    assert torch.allclose(guided, 2.5 * (c[:, :1] + 7) - 1.5 * 0, atol=1e-5)
    assert torch.equal(seen[0][:, 1:3], c) and (seen[0][:, 3] == 1).all() and (seen[1][:, 1:] == 0).all()


def test_sources_are_hidden_in_their_share_of_the_steps():
    method, shown = build(sources=1, hide_source=0.25), []

    class Network(nn.Module):
        def forward(self, x, timesteps):
            shown.append(x[:, 2, 0, 0, 0])
            assert torch.equal(x[:, 1] != 0, (x[:, 2] == 1))
            return x[:, :1]

    method.networks["G"] = Network()
    torch.manual_seed(0)
    method.step({"target": torch.rand(800, 1, 2, 2, 2), "source": torch.rand(800, 1, 2, 2, 2) + 0.1}, lambda *_: None)
    assert shown[0].mean().item() == pytest.approx(0.75, abs=0.05)


def test_pairs_train_a_translator(tmp_path):
    write_cohort(tmp_path / "c")
    values = {
        "data": {"root": str(tmp_path / "c")},
        "sampling": {"patch": [16, 16, 16]},
        "method": {"name": "diffusion", "generator": SMALL, "steps": 2, "guidance": 1.0},
        "train": {"steps": 2, "validate_every": 2, "validation_cases": 1},
    }
    model = load_model(train(parse_settings(values, "test"), tmp_path / "run", say=lambda _: None))
    assert {"mae"} <= set(model.info.validation)
    scan = read_volume(tmp_path / "c/source/case0.nii.gz")
    a, b = (translate_case(model, [scan])[0] for _ in range(2))
    assert a.data.shape == scan.data.shape and (a.data == b.data).all()
    values["data"]["paired"] = False
    with refused("config-paired-required"):
        train(parse_settings(values, "test"), tmp_path / "unpaired")


def test_a_model_without_sources_generates_any_size():
    settings = small_settings(
        method={"name": "diffusion", "generator": SMALL, "steps": 1}, data={"sources": []}, intensity={}
    )
    method = make_model(settings).method
    with torch.no_grad():
        assert method.sample(1, (8, 12, 16), torch.Generator()).shape == (1, 1, 8, 12, 16)
    with pytest.raises(ValueError, match="multiples of 2"):
        method.sample(1, (8, 9, 8), torch.Generator())
