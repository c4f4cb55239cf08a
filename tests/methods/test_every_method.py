"""Requirements on every method in medgen/methods: which networks learn or stay fixed, and from which loss.

Every objective and stabiliser works in every method by config key alone.
"""

import copy

import pytest
import torch
from small import known, merged, paired_only, translates

from medgen.methods import method_class, method_names, settings_class
from medgen.types import DataShape

SMALL = dict(
    generator=dict(filters=4, levels=2, blocks=1, kernel=3, hidden=4, latent=4, norm="instance"),
    adversary=dict(filters=4, layers=1),
    classifier_filters=4,
    classifier_layers=1,
    steps=2,
    candidates=4,
    prior=dict(width=8, depth=1),
)

DOMAINS = {"source_domain": torch.tensor([0]), "target_domain": torch.tensor([1]), "paired": torch.tensor([True])}


def build(name, **more):
    torch.manual_seed(0)
    settings = settings_class(name)
    shape = DataShape(classes=3, domains=2)
    if not translates(name):
        shape = DataShape(in_channels=0, classes=3 if settings.needs_labels else None, patch=(16, 16, 16))
    return method_class(name)(settings(**known(settings, merged(SMALL, more))), shape)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(1, 1, 16, 16, 16, generator=generator) * 2 - 1 for _ in range(2))
    labels = torch.ones(1, 1, 16, 16, 16, dtype=torch.int64)
    labels[..., 5:9, 5:9, 5:9] = 2
    named = {"source_case": ["a"], "target_case": ["b"], "labels": labels}
    return {"source": x, "target": y, "step": 0} | named | DOMAINS


def weights(method):
    return {k: torch.cat([p.detach().flatten().clone() for p in n.parameters()]) for k, n in method.networks.items()}


def owned(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", method_names())
def test_every_network_learns_in_a_step(name):
    method = build(name)
    optimizers = method.optimizers()
    for seed in range(2):  # a residual generator's inner layers begin to learn at the second step
        before = weights(method)

        def update(key, loss):
            optimizers[key].zero_grad()
            loss.backward()
            optimizers[key].step()

        method.step(batch(seed), update)
        after = weights(method)
        assert all((before[k] != after[k]).any() for k in before), "a network that never moves"


@pytest.mark.parametrize("name", method_names())
def test_each_update_moves_only_what_its_optimizer_owns(name):
    method = build(name)
    optimizers = method.optimizers()
    parameters = {id(p): p for n in method.networks.values() for p in n.parameters()}
    assert set().union(*map(owned, optimizers.values())) == set(parameters), "a weight without an optimizer"
    assert sum(len(owned(o)) for o in optimizers.values()) == len(parameters), "a weight with two optimizers"

    def update(key, loss):
        for p in parameters.values():
            p.grad = None
        loss.backward()
        mine = owned(optimizers[key])
        for i, p in parameters.items():
            if i not in mine:
                assert p.grad is None, f"the update of {key} reaches a weight of another network"
        assert any(parameters[i].grad is not None and parameters[i].grad.abs().max() > 0 for i in mine)
        optimizers[key].step()

    method.step(batch(), update)


@pytest.mark.parametrize("name", method_names())
def test_losses_are_named_finite_scalars(name):
    method = build(name)
    losses = method.step(batch(), lambda key, loss: None)
    assert losses and all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())


@pytest.mark.parametrize("name", method_names())
def test_gan_gradient_reaches_the_generator(name):
    """With every other weight at zero the adversarial loss alone must move the generator."""
    keys = settings_class(name).model_fields
    if "weight_gan" not in keys:
        pytest.skip("no adversarial loss")
    others = {k: 0.0 for k in keys if k.startswith("weight_") and k != "weight_gan"}
    method = build(name, **others)
    seen = {}

    def update(key, loss):
        loss.backward()
        if key == "G":
            generator = method.networks[method.generator]
            seen["G"] = max(float(p.grad.abs().max()) for p in generator.parameters() if p.grad is not None)

    method.step(batch(), update)
    assert seen["G"] > 0


@pytest.mark.parametrize("name", [n for n in method_names() if translates(n)])
def test_translate_keeps_the_grid_and_the_input(name):
    method = build(name)
    x = batch()["source"]
    kept = copy.deepcopy(x)
    assert method.translate(x).shape == x.shape
    assert torch.equal(x, kept)


KEYS = {
    "minimax": dict(objective="minimax"),
    "non_saturating": dict(objective="non_saturating"),
    "maximum_likelihood": dict(objective="maximum_likelihood"),
    "least_squares": dict(objective="least_squares"),
    "hinge": dict(objective="hinge"),
    "wasserstein, clipped": dict(objective="wasserstein", weight_clip=0.05, optimizer="rmsprop"),
    "wasserstein, gradient penalty": dict(objective="wasserstein", gradient_penalty=10.0),
    "spectral norm": dict(spectral_norm=True, norm="none"),
    "R1": dict(r1=10.0, r1_every=1),
    "consistency": dict(consistency=10.0),
    "label smoothing": dict(objective="least_squares", label_smoothing=0.1),
    "two time scales": dict(lr=4e-4),
    "pool": dict(pool=4),
    "spread of the batch": dict(minibatch="std"),
    "minibatch discrimination": dict(minibatch="discrimination"),
    "augmentation": dict(augment=("flip", "translate", "cutout", "intensity")),
    "two scales": dict(scales=2),
    "antialias": dict(antialias=True),
    "all at once": dict(
        objective="hinge", spectral_norm=True, norm="none", r1=1.0, r1_every=1, consistency=1.0,
        augment=("flip",), pool=2, scales=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("name", [n for n in method_names() if "adversary" in settings_class(n).model_fields])
def test_all_networks_learn(name, keys):
    method = build(name, adversary=keys)
    optimizers = method.optimizers()
    before = weights(method)

    def update(key, loss):
        assert torch.isfinite(loss)
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    for seed in range(2):
        method.step(batch(seed), update)
    after = weights(method)
    assert all((before[k] != after[k]).any() for k in before)
    for adversary in method.adversaries.values():
        assert all(torch.isfinite(v) for v in adversary.health.values()) and adversary.diversity() > 0


@pytest.mark.parametrize("name", method_names())
def test_critic_steps_delay_generator_updates(name):
    if "adversary" not in settings_class(name).model_fields:
        pytest.skip("no discriminator")
    method = build(name, adversary={"critic_steps": 3})
    updated = [[], [], []]
    for n in range(3):
        method.step({**batch(), "step": n}, lambda key, loss, n=n: updated[n].append(key))
    assert ["G" in keys for keys in updated] == [False, False, True]
    assert all("D" in keys for keys in updated)


@pytest.mark.parametrize("name", [n for n in method_names() if translates(n) and not paired_only(n)])
def test_structure_losses_in_every_unpaired_method(name):
    method = build(name, preserve=dict(weight_gradient=1.0, weight_mind=1.0, weight_segmentation=1.0))
    b = batch()
    b["labels"] = (b["source"] > 0).long()
    losses = method.step(b, lambda key, loss: loss.backward())
    assert {"gradient", "mind", "segmentation", "S"} <= set(losses)
    assert all(p.grad is not None for p in method.networks["S"].parameters())


GENERATIVE = [n for n in method_names() if not translates(n)]


@pytest.mark.parametrize("name", GENERATIVE)
@torch.no_grad()
def test_samples_codes_and_likelihoods_have_their_shapes_and_depend_on_the_seed_alone(name):
    method = build(name)
    method.networks[method.generator].eval()
    x = torch.cat([batch(seed)["target"] for seed in range(2)])
    kept = x.clone()
    if hasattr(method, "sample"):
        a, again, b = (method.sample(2, (16, 16, 16), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert a.shape == x.shape and a.abs().max() <= 1
        assert torch.equal(a, again) and not torch.equal(a, b) and not torch.equal(a[0], a[1])
    if hasattr(method, "encode"):
        assert len(method.encode(x)) == 2
    if hasattr(method, "reconstruct"):
        assert method.reconstruct(x).shape == x.shape
    if hasattr(method, "log_likelihood"):
        bits = method.log_likelihood(x, torch.Generator().manual_seed(0))
        assert bits.shape == (2,) and bits.isfinite().all()
    assert hasattr(method, "sample") or hasattr(method, "reconstruct")
    assert torch.equal(x, kept)
