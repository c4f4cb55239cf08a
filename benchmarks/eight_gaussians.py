"""Every generative objective on eight Gaussians in two dimensions: modes found, and samples on modes.

    python benchmarks/eight_gaussians.py [NAME ...] [--steps 1500] [--seeds 3]

The losses, couplings and schedules are those of medgen; encoders, generators and discriminators are small dense
networks. The data lie on a circle of radius 1 around eight centres with a standard deviation of 0.05. A sample is on a
mode if it is within 3 standard deviations of a centre (99 % of the data are). A mode is found if at least 1 % of the
samples are on it (12.5 % of the data are). Prints the median over the seeds of each number, and the seconds of a run.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from medgen.losses.diffusion import (
    alphas_bar,
    image_of_noise,
    image_of_velocity,
    noisy,
    step_back,
    times,
    velocity,
)
from medgen.losses.kl import kl_loss, kl_of_normals, kl_per_unit
from medgen.losses.likelihood import gaussian_log_density
from medgen.losses.mmd import mmd
from medgen.losses.pyramid import nearest
from medgen.methods.nice import Scale
from medgen.networks.blocks.minibatch import minibatch_features
from medgen.networks.codebook import in_ball
from medgen.networks.flow import ActNorm, Chain, Coupling, Flow, Layer, PointwiseConvolution
from medgen.networks.ladder import combined

MODES, RADIUS, SD = 8, 1.0, 0.05
BATCH, HIDDEN, LATENT, SAMPLES = 128, 64, 2, 2000
ANGLES = torch.arange(MODES) * 2 * math.pi / MODES
CENTRES = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
Sampler = Callable[[int], Tensor]


def data(n: int = BATCH) -> tuple[Tensor, Tensor]:
    """Points (n, 2) and the numbers of their modes (n,)."""
    mode = torch.randint(MODES, (n,))
    return CENTRES[mode] + SD * torch.randn(n, 2), mode


def mlp(inputs: int, outputs: int, hidden: int = HIDDEN) -> nn.Sequential:
    layers = [nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


class Optimizer:
    """Adam for the parameters of some modules, whose rate falls to zero in the second half; a call is an update."""

    def __init__(self, modules: list[nn.Module], steps: int, rate: float = 1e-3, beta: float = 0.9) -> None:
        self.adam = torch.optim.Adam([p for m in modules for p in m.parameters()], rate, (beta, 0.99))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda n: min(1.0, 2 * (1 - n / steps)))

    def __call__(self, loss: Tensor) -> None:
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.schedule.step()


class Critic(nn.Module):
    """D: points (n, 2) → logits (n, outputs), with features of the batch."""

    def __init__(self, inputs: int = 2, minibatch: str = "none") -> None:
        super().__init__()
        self.body = mlp(inputs, HIDDEN)
        self.features = None if minibatch == "none" else minibatch_features(minibatch, HIDDEN)  # type: ignore[arg-type]
        self.last = nn.Linear(HIDDEN + (self.features.added if self.features else 0), 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = nnf.leaky_relu(self.body(x), 0.2)
        h = self.features(h[..., None])[..., 0] if self.features else h
        return [self.last(h)]


def gan(
    objective: str,
    *,
    minibatch: str = "none",
    r1: float = 0.0,
    penalty: float = 0.0,
    clip: float = 0.0,
    critic_steps: int = 1,
) -> Callable[[int], Sampler]:
    """A GAN with one of ``losses.adversarial``'s objectives and penalties."""

    def train(steps: int) -> Sampler:
        G, D = mlp(LATENT, 2), Critic(minibatch=minibatch)
        update_g, update_d = Optimizer([G], steps, beta=0.5), Optimizer([D], steps, beta=0.5)
        for n in range(steps):
            x, fake = data()[0], G(torch.randn(BATCH, LATENT))
            loss = discriminator_loss(objective, D(x), D(fake.detach()))
            loss = loss + r1 * r1_penalty(D, x) if r1 else loss
            update_d(loss + penalty * gradient_penalty(D, x, fake) if penalty else loss)
            with torch.no_grad():
                for p in D.parameters() if clip else ():
                    p.clamp_(-clip, clip)
            if (n + 1) % critic_steps == 0:
                update_g(generator_loss(objective, D(fake)))
        return lambda n: G(torch.randn(n, LATENT))

    return train


def bigan(unary: bool) -> Callable[[int], Sampler]:
    def train(steps: int) -> Sampler:
        G, E, D = mlp(LATENT, 2), mlp(2, LATENT), Critic(2 + LATENT)
        alone = [Critic(2), Critic(LATENT)] if unary else []
        update_g, update_d = Optimizer([G, E], steps, beta=0.5), Optimizer([D, *alone], steps, beta=0.5)

        def score(x: Tensor, z: Tensor) -> list[Tensor]:
            return [D(torch.cat([x, z], 1))[0], *(critic(part)[0] for critic, part in zip(alone, (x, z), strict=False))]

        for _ in range(steps):
            x, z = data()[0], torch.randn(BATCH, LATENT)
            code, fake = E(x), G(z)
            update_d(discriminator_loss("non_saturating", score(x, code.detach()), score(fake.detach(), z)))
            real = [-logits for logits in score(x, code)]
            update_g(generator_loss("non_saturating", score(fake, z)) + generator_loss("non_saturating", real))
        return lambda n: G(torch.randn(n, LATENT))

    return train


def ac_gan(steps: int) -> Sampler:
    """The condition is the mode."""
    G, D, C = mlp(LATENT + MODES, 2), Critic(), mlp(2, MODES)
    update_g, update_d = Optimizer([G], steps, beta=0.5), Optimizer([D, C], steps, beta=0.5)

    def made(mode: Tensor) -> Tensor:
        return G(torch.cat([torch.randn(len(mode), LATENT), nnf.one_hot(mode, MODES).float()], 1))

    for _ in range(steps):
        x, mode = data()
        fake = made(mode)
        told = nnf.cross_entropy(C(x), mode) + nnf.cross_entropy(C(fake.detach()), mode)
        update_d(discriminator_loss("non_saturating", D(x), D(fake.detach())) + told)
        update_g(generator_loss("non_saturating", D(fake)) + nnf.cross_entropy(C(fake), mode))
    return lambda n: made(torch.randint(MODES, (n,)))


def vae(steps: int) -> Sampler:
    E, G, log_s = mlp(2, 2 * LATENT), mlp(LATENT, 2), nn.ParameterList([torch.tensor(-1.0)])
    update = Optimizer([E, G, log_s], steps, 3e-3)
    for _ in range(steps):
        x = data()[0]
        mu, log_var = E(x).chunk(2, 1)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        update(-gaussian_log_density(x, G(z), log_s[0]).sum(1).mean() + kl_per_unit(mu, log_var).sum(1).mean())
    return lambda n: G(torch.randn(n, LATENT))


def hierarchical_vae(steps: int) -> Sampler:
    """Two codes: z₂ ~ N(0, 1), z₁ ~ p(z₁ | z₂); the image sees both."""
    E2, E1, P, G = mlp(2, 2 * LATENT), mlp(2, 2 * LATENT), mlp(LATENT, 2 * LATENT), mlp(2 * LATENT, 2)
    log_s = nn.ParameterList([torch.tensor(-1.0)])
    update = Optimizer([E2, E1, P, G, log_s], steps, 3e-3)

    def moments(out: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = out.chunk(2, 1)
        return mu, 5 * (log_var / 5).tanh()

    def drawn(mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.randn_like(mu) * (0.5 * log_var).exp()

    for n in range(steps):
        x = data()[0]
        top = moments(E2(x))
        z2 = drawn(*top)
        prior = moments(P(z2))
        lower = combined(*moments(E1(x)), *prior)
        zero = torch.zeros_like(z2)
        kl = kl_of_normals(*top, zero, zero).sum(1) + kl_of_normals(*lower, *prior).sum(1)
        mean = G(torch.cat([z2, drawn(*lower)], 1))
        warm = min(1.0, 5 * (n + 1) / steps)
        update(-gaussian_log_density(x, mean, log_s[0]).sum(1).mean() + warm * kl.mean())

    def sample(n: int) -> Tensor:
        z2 = torch.randn(n, LATENT)
        return G(torch.cat([z2, drawn(*moments(P(z2)))], 1))

    return sample


def wae(steps: int) -> Sampler:
    E, G = mlp(2, LATENT, 128), mlp(LATENT, 2, 128)
    update = Optimizer([E, G], steps, 3e-3)
    for _ in range(steps):
        x = data()[0]
        z = E(x)
        update((x - G(z)).square().sum(1).mean() + mmd(z, torch.randn_like(z)))
    return lambda n: G(torch.randn(n, LATENT))


def aae(steps: int) -> Sampler:
    E, G, D = mlp(2, LATENT), mlp(LATENT, 2), mlp(LATENT, 1)
    update, update_d = Optimizer([E, G], steps, 3e-3, beta=0.5), Optimizer([D], steps, 3e-3, beta=0.5)
    for _ in range(steps):
        x = data()[0]
        z = E(x)
        update_d(discriminator_loss("non_saturating", [D(torch.randn_like(z))], [D(z.detach())]))
        update((x - G(z)).square().sum(1).mean() + 0.03 * generator_loss("non_saturating", [D(z)]))
    return lambda n: G(torch.randn(n, LATENT))


def vae_gan(steps: int) -> Sampler:
    E, G, D = mlp(2, 2 * LATENT), mlp(LATENT, 2), Critic()
    update, update_d = Optimizer([E, G], steps, beta=0.5), Optimizer([D], steps, beta=0.5)
    for _ in range(steps):
        x = data()[0]
        mu, log_var = E(x).chunk(2, 1)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        fake = G(torch.cat([z.detach(), torch.randn_like(z)]))
        update_d(discriminator_loss("hinge", D(torch.cat([x, x])), D(fake.detach())))
        update(0.1 * generator_loss("hinge", D(fake)) + (G(z) - x).abs().mean() + 0.01 * kl_loss(mu, log_var))
    return lambda n: G(torch.randn(n, LATENT))


def vqvae(steps: int) -> Sampler:
    """16 entries, with the shares of the entries among the data as the prior."""
    E, G, book = mlp(2, LATENT), mlp(LATENT, 2), nn.Embedding(16, LATENT)
    book.weight.data.mul_(0.3)
    update = Optimizer([E, G, book], steps, 3e-3)
    for _ in range(steps):
        x = data()[0]
        z = E(x)
        e = book(nearest(z.detach(), book.weight.detach(), 2.0))
        fit = nnf.mse_loss(e, z.detach()) + 0.25 * nnf.mse_loss(z, e.detach())
        update((x - G(z + (e - z).detach())).square().mean() + fit)
    k = nearest(E(data(4000)[0]), book.weight, 2.0)
    return lambda n: G(book(k[torch.randint(len(k), (n,))]))


def flow(kind: str) -> Callable[[int], Sampler]:
    def train(steps: int) -> Sampler:
        layers: list[Layer] = []
        for n in range(8):
            odd = bool(n % 2)
            if kind == "nice":
                layers.append(Coupling(2, part="interleaved", odd=odd, scaling="none", filters=HIDDEN))
            elif kind == "realnvp":
                layers += [ActNorm(2), Coupling(2, part="channels", odd=odd, scaling="tanh", filters=HIDDEN)]
            else:
                coupling = Coupling(2, part="channels", odd=True, scaling="sigmoid", filters=HIDDEN)
                layers += [ActNorm(2), PointwiseConvolution(2), coupling]
        layers += [Scale((2, 1, 1, 1))] if kind == "nice" else []
        f = Flow([Chain(layers)], levels=0, prior="logistic" if kind == "nice" else "normal")
        update = Optimizer([f], steps)
        for _ in range(steps):
            update(-f.log_density(data()[0].view(-1, 2, 1, 1, 1)).mean())
        generator = torch.Generator().manual_seed(0)
        return lambda n: f.eval().draw(n, 2, (1, 1, 1), generator, 1.0).flatten(1)

    return train


def diffusion(predict: str) -> Callable[[int], Sampler]:
    def train(steps: int) -> Sampler:
        network, T = mlp(2 + 9, 2, 128), 1000
        alphas = alphas_bar("cosine", T)
        update = Optimizer([network], steps, 2e-3)

        def said(x: Tensor, t: Tensor) -> Tensor:
            waves = torch.cat([(t / T * math.pi * 2**k)[:, None] for k in range(4)], 1)
            return network(torch.cat([x, t[:, None] / T, waves.sin(), waves.cos()], 1))

        for _ in range(steps):
            x0 = data()[0]
            noise, u = torch.randn_like(x0), torch.rand(BATCH, 1)
            if predict == "flow":
                update((said((1 - u) * x0 + u * noise, u[:, 0] * T) - (noise - x0)).square().mean())
                continue
            t = (u * T).long()
            alpha = alphas[t]
            wanted = noise if predict == "epsilon" else velocity(x0, noise, alpha)
            update((said(noisy(x0, noise, alpha), t[:, 0].float()) - wanted).square().mean())

        def sample(n: int) -> Tensor:
            x, K = torch.randn(n, 2), 50
            if predict == "flow":
                for i in range(K, 0, -1):
                    x = x - said(x, torch.full((n,), i / K * T)) / K
                return x
            at = times(T, K)
            image = image_of_noise if predict == "epsilon" else image_of_velocity
            for t, before in zip(at, [*at[1:], None], strict=True):
                x0 = image(x, said(x, torch.full((n,), float(t))), alphas[t]).clamp(-1.5, 1.5)
                earlier = alphas.new_ones(()) if before is None else alphas[before]
                x = step_back(x, x0, alphas[t], earlier, 0.0, torch.zeros_like(x))
            return x

        return sample

    return train


def imle(steps: int) -> Sampler:
    G = mlp(LATENT, 2)
    update = Optimizer([G], steps)
    for _ in range(steps):
        x, z = data()[0], torch.randn(4 * BATCH, LATENT)
        made = G(z)
        update((made[nearest(x, made.detach(), 2.0)] - x).square().sum(1).mean())
    return lambda n: G(torch.randn(n, LATENT))


def glo(mapped: bool) -> Callable[[int], Sampler]:
    """Codes of 512 points; samples of their normal distribution, or (GLANN) of a mapping learnt by IMLE."""

    def train(steps: int) -> Sampler:
        points, G = data(512)[0], mlp(LATENT, 2)
        Z, T = nn.Embedding(512, LATENT), mlp(LATENT, LATENT)
        Z.weight.data = in_ball(Z.weight.data)
        update, codes, update_t = Optimizer([G], steps), torch.optim.Adagrad(Z.parameters(), 0.1), Optimizer([T], steps)
        for _ in range(steps):
            rows = torch.randint(512, (BATCH,))
            codes.zero_grad()
            update((G(Z(rows)) - points[rows]).abs().sum(1).mean())
            codes.step()
            Z.weight.data = in_ball(Z.weight.data)
            if mapped:
                made, z = T(torch.randn(4 * BATCH, LATENT)), Z.weight.detach()[rows]
                update_t((made[nearest(z, made.detach(), 2.0)] - z).square().sum(1).mean())
        z = Z.weight.detach()
        factor = torch.linalg.cholesky(z.T.cov() + 1e-6 * torch.eye(LATENT))
        if mapped:
            return lambda n: G(in_ball(T(torch.randn(n, LATENT))))
        return lambda n: G(in_ball(z.mean(0) + torch.randn(n, LATENT) @ factor.T))

    return train


OBJECTIVES: dict[str, Callable[[int], Sampler]] = {
    "gan, minimax": gan("minimax"),
    "gan, non-saturating": gan("non_saturating"),
    "gan, maximum likelihood": gan("maximum_likelihood"),
    "gan, maximum likelihood, R1": gan("maximum_likelihood", r1=1.0),
    "gan, least squares": gan("least_squares"),
    "gan, hinge": gan("hinge"),
    "gan, Wasserstein, clipped": gan("wasserstein", clip=0.1, critic_steps=3),
    "gan, Wasserstein, gradient penalty": gan("wasserstein", penalty=0.1, critic_steps=3),
    "gan, non-saturating, R1": gan("non_saturating", r1=0.1),
    "gan, non-saturating, spread of the batch": gan("non_saturating", minibatch="std"),
    "gan, non-saturating, minibatch discrimination": gan("non_saturating", minibatch="discrimination"),
    "ac_gan": ac_gan,
    "bigan": bigan(False),
    "bigan, unary terms": bigan(True),
    "vae": vae,
    "hierarchical_vae": hierarchical_vae,
    "wae": wae,
    "aae": aae,
    "vae_gan": vae_gan,
    "vqvae": vqvae,
    "nice": flow("nice"),
    "realnvp": flow("realnvp"),
    "glow": flow("glow"),
    "diffusion, epsilon": diffusion("epsilon"),
    "diffusion, v": diffusion("v"),
    "diffusion, flow": diffusion("flow"),
    "glo": glo(False),
    "imle": imle,
    "glann": glo(True),
}


def scores(points: Tensor) -> tuple[int, float]:
    """Modes found of 8, and the share of the points on modes."""
    distances, mode = torch.cdist(points, CENTRES).min(1)
    on = distances < 3 * SD
    found = torch.bincount(mode[on], minlength=MODES) >= len(points) / 100
    return int(found.sum()), float(on.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of rows; all if none")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [name for name in OBJECTIVES if not options.names or name.startswith(tuple(options.names))]
    print(f"| objective | modes of {MODES} | samples on modes | seconds |\n|---|---|---|---|")
    print("| (the data) | {} | {:.0%} | |".format(*scores(data(SAMPLES)[0])))
    for name in chosen:
        runs = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            started = time.monotonic()
            sampler = OBJECTIVES[name](options.steps)
            with torch.no_grad():
                runs.append((*scores(sampler(SAMPLES)), time.monotonic() - started))
        modes, on, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {name} | {modes:.0f} | {on:.0%} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
