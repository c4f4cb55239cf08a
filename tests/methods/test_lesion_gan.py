"""Requirements of the lesion GAN's parts; learning and resuming are tested for every method."""

import copy

import pytest
import torch
from small import merged

from medgen.methods.lesion_gan import (
    LesionGAN,
    Settings,
    critic_input,
    find_healthy_hole,
    hide,
    local_mean,
    masked_mean,
)
from medgen.types import DataShape

SMALL = dict(generator=dict(filters=4, levels=2, norm="none"), adversary=dict(filters=4, layers=1))


def build(classes=4, **more):
    return LesionGAN(Settings(**merged(SMALL, more)), DataShape(classes=classes))


def scene(batch=2, side=16, seed=0):
    """Noise around -0.4 in a host (class 1), with a lesion of class 2 in the first and of class 3 in the second."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, side, side, side, generator=generator) * 0.05 - 0.4
    labels = torch.ones(batch, 1, side, side, side, dtype=torch.int64)
    labels[:, :, :2] = 0
    labels[0, :, 5:9, 5:9, 5:9] = 2
    labels[1:, :, 6:10, 6:10, 6:10] = 3
    x[labels == 2] += 0.6
    x[labels == 3] -= 0.3
    return x, labels


def steps(method, count, **more):
    x, labels = scene()
    optimizers = method.optimizers()

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    found = []
    for n in range(count):
        torch.manual_seed(n)
        found.append(method.step({"source": x, "labels": labels, "step": n, **more}, update))
    return found


def test_the_generator_does_not_see_voxels_under_the_mask():
    x, labels = scene()
    hole, healthy = (labels >= 2).float(), (labels == 1).float()
    other = torch.where(hole > 0, torch.full_like(x, 0.9), x)
    for a, b in ((x, other),):
        first, second = (hide(v, hole, healthy, find_healthy_hole(v, hole, healthy, 0)[1]) for v in (a, b))
        assert torch.equal(first, second)
    assert torch.equal(first[hole == 0], x[hole == 0])
    inner = first[hole > 0]
    assert abs(float(inner.mean()) + 0.4) < 0.02  # the host's mean
    assert 0.03 < float(inner.std()) < 0.07  # and its noise


def test_healthy_holes_have_the_lesions_shape_and_lie_in_the_host():
    x, labels = scene()
    hole, healthy = (labels >= 2).float(), (labels == 1).float()
    for step in range(5):
        there, _ = find_healthy_hole(x, hole, healthy, step)
        assert ((there > 0) <= (healthy > 0)).all()
        assert 0 < there[0].sum() <= hole[0].sum()
    assert torch.equal(find_healthy_hole(x, hole, healthy, 3)[0], find_healthy_hole(x, hole, healthy, 3)[0])
    both, alone = find_healthy_hole(x, hole, healthy, 3)[0][1:], find_healthy_hole(x[1:], hole[1:], healthy[1:], 3)[0]
    assert torch.equal(both, alone)  # several processes together equal one


def test_painting_and_removal_change_nothing_outside_the_mask():
    torch.manual_seed(0)
    method = build()
    steps(method, 2)
    x, labels = scene(seed=1)
    for y in (method.paint(x, labels), method.paint(x, labels, fresh=True), method.remove(x, labels)):
        assert torch.equal(y[labels < 2], x[labels < 2])
        assert (y[labels >= 2] != x[labels >= 2]).any()


def test_untrained_painting_gives_healthy_tissue():
    """A residual generator starts with the local mean of the surroundings and the noise of the voxels in the hole."""
    method = build(classes=3)
    x = scene(1)[0]
    x = torch.full_like(x, -0.4) + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    labels = torch.ones(x.shape, dtype=torch.int64)
    labels[..., 6:10, 6:10, 6:10] = 2
    y = method.paint(x, labels, fresh=True)
    a, b = x[labels == 2], y[labels == 2]
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.95


def test_noise_and_kind_change_the_lesion():
    torch.manual_seed(0)
    method = build(noise=2)
    steps(method, 3)
    x, labels = scene(1)
    z = torch.randn(2, 1, 2, 1, 1, 1)
    assert (method.paint(x, labels, z[0]) != method.paint(x, labels, z[1]))[labels == 2].any()
    other = torch.where(labels == 2, 3, labels)
    assert (method.paint(x, labels) != method.paint(x, other))[labels == 2].any()


def test_it_learns_to_paint_and_to_remove_each_kind_of_lesion():
    torch.manual_seed(0)
    method = build(generator={"pointwise_features": 8}, lr=5e-3, weight_gan=0.0, weight_gan_lesion=0.0)
    found = steps(method, 60)
    late = torch.stack([losses["paint"].detach() for losses in found[-10:]]).mean()  # a single step is noise
    assert late < 0.3 * found[0]["paint"]
    x, labels = scene(seed=3)
    painted, removed = method.paint(x, labels), method.remove(x, labels)
    assert painted[labels == 2].mean() > 0.0 and painted[labels == 3].mean() < -0.5
    assert (removed[labels >= 2].mean() + 0.4).abs() < 0.1


def test_without_a_host_all_tissue_is_healthy_without_background():
    x, labels = scene()
    labels = torch.where(labels == 1, 0, labels)
    x[:, :, :4] = -1
    healthy = build().healthy(x, labels)
    assert not healthy[:, :, :4].any() and not healthy[labels >= 2].any()
    assert healthy[:, :, 4:][labels[:, :, 4:] < 2].all()


def test_a_batch_without_lesions_gives_finite_losses():
    method = build()
    x, labels = scene()
    losses = method.step({"source": x, "labels": labels.clamp_max(1), "step": 0}, lambda key, loss: loss.backward())
    assert all(torch.isfinite(v) for v in losses.values())
    assert losses["paint"] == losses["remove"] == losses["diversity"] == 0


def test_the_lesions_critic_sees_no_more_than_the_rim():
    x, labels = scene()
    maps = torch.cat([(labels >= 2).float()] * 2, 1)
    shown = critic_input("D_L", x, maps)[:, :1]
    assert not shown[0, :, 12:].any() and torch.equal(shown[labels >= 2], x[labels >= 2])
    assert shown[0, 0, 4, 6, 6] == x[0, 0, 4, 6, 6]
    assert torch.equal(critic_input("D", x, maps)[:, :1], x)


def test_local_mean_counts_the_mask_alone():
    x = torch.arange(7.0).view(1, 1, 7, 1, 1).expand(1, 1, 7, 7, 7)
    mask = torch.zeros_like(x)
    mask[:, :, 2:4] = 1
    assert local_mean(x, mask)[0, 0, 3, 3, 3] == pytest.approx(2.5)
    assert masked_mean(x, mask) == pytest.approx(2.5)


def test_lesion_gan_works_on_slices():
    torch.manual_seed(0)
    method = build(spatial_dims=2)
    x, labels = (v[..., 7] for v in scene())
    losses = method.step({"source": x, "labels": labels, "step": 0}, lambda key, loss: loss.backward())
    assert all(torch.isfinite(v) for v in losses.values())
    assert method.paint(x, labels).shape == x.shape


def test_translate_with_classes_repaints_the_known_lesions():
    torch.manual_seed(0)
    method = build()
    steps(method, 2)
    x, labels = scene()
    given = torch.cat([x, labels.float()], 1)
    kept = copy.deepcopy(given)
    assert torch.equal(method.translate(given), method.paint(x, labels)) and torch.equal(given, kept)
    assert torch.equal(method.translate(torch.cat([x, labels.clamp_max(1).float()], 1)), x)


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="equal numbers of input and output channels; got 1 and 2"):
        LesionGAN(Settings(), DataShape(out_channels=2, classes=3))
    with pytest.raises(ValueError, match="2 classes contain no lesion"):
        build(classes=2)
    with pytest.raises(ValueError, match="not its negative"):
        Settings(generator={"residual": "negative"})
    assert Settings.needs_classes
