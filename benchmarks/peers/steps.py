"""Training steps as the papers' code does them: one pass for each image, and every loss from passes of its own."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Adam, AdamW


def set_gradients(network: nn.Module, wanted: bool) -> None:
    for p in network.parameters():
        p.requires_grad_(wanted)


class CycleGAN:
    """Networks G, F, D_X and D_Y; least squares, weights 2 (adversarial), 10 (cycle) and 5 (identity).

    The pool of earlier translations is left out: it returns what it gets until it holds 50 images.
    """

    def __init__(self, G: nn.Module, F: nn.Module, D_X: nn.Module, D_Y: nn.Module) -> None:
        self.G, self.F, self.D_X, self.D_Y = G, F, D_X, D_Y
        self.adam_g = Adam(itertools.chain(G.parameters(), F.parameters()), 2e-4, (0.5, 0.999))
        self.adam_d = Adam(itertools.chain(D_X.parameters(), D_Y.parameters()), 2e-4, (0.5, 0.999))

    def step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        set_gradients(self.D_X, False)
        set_gradients(self.D_Y, False)
        y_fake, x_fake = self.G(x), self.F(y)
        cycle = (self.F(y_fake) - x).abs().mean() + (self.G(x_fake) - y).abs().mean()
        g_gan = 0.5 * ((self.D_Y(y_fake)[-1] - 1) ** 2).mean()
        f_gan = 0.5 * ((self.D_X(x_fake)[-1] - 1) ** 2).mean()
        identity = (self.G(y) - y).abs().mean() + (self.F(x) - x).abs().mean()
        self.adam_g.zero_grad()
        (2 * (g_gan + f_gan) + 10 * cycle + 5 * identity).backward()
        self.adam_g.step()

        set_gradients(self.D_X, True)
        set_gradients(self.D_Y, True)
        losses = []
        for D, real, fake in ((self.D_Y, y, y_fake.detach()), (self.D_X, x, x_fake.detach())):
            losses.append(0.5 * ((D(real)[-1] - 1) ** 2).mean() + 0.5 * (D(fake)[-1] ** 2).mean())
        self.adam_d.zero_grad()
        (losses[0] + losses[1]).backward()
        self.adam_d.step()
        found = {"cycle": cycle, "G_gan": g_gan, "F_gan": f_gan, "identity": identity}
        return {name: float(v.detach()) for name, v in {**found, "D_Y": losses[0], "D_X": losses[1]}.items()}


class Pix2Pix:
    """Networks G and D; non-saturating loss, L1 with weight 100."""

    def __init__(self, G: nn.Module, D: nn.Module, lr: float) -> None:
        self.G, self.D = G, D
        self.adam_g, self.adam_d = (Adam(n.parameters(), lr, (0.5, 0.999)) for n in (G, D))

    def step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        y_fake = self.G(x)
        set_gradients(self.D, True)
        real, fake = self.D(torch.cat([x, y], 1))[-1], self.D(torch.cat([x, y_fake.detach()], 1))[-1]
        d = 0.5 * (nnf.softplus(-real).mean() + nnf.softplus(fake).mean())
        self.adam_d.zero_grad()
        d.backward()
        self.adam_d.step()

        set_gradients(self.D, False)
        gan = nnf.softplus(-self.D(torch.cat([x, y_fake], 1))[-1]).mean()
        l1 = (y_fake - y).abs().mean()
        self.adam_g.zero_grad()
        (gan + 100 * l1).backward()
        self.adam_g.step()
        return {"D": float(d.detach()), "G_gan": float(gan.detach()), "G_l1": float(l1.detach())}


class Regression:
    """L1 and the L1 distance between means over 4³ voxels."""

    def __init__(self, G: nn.Module) -> None:
        self.G = G
        self.adam = AdamW(G.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=1e-4)

    def step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        error = self.G(x) - y
        l1, coarse = error.abs().mean(), nnf.avg_pool3d(error, 4).abs().mean()
        self.adam.zero_grad()
        (l1 + 0.5 * coarse).backward()
        self.adam.step()
        return {"G_l1": float(l1.detach()), "G_coarse": float(coarse.detach())}
