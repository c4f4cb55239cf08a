"""Regression: its terms equal their formulas, and it learns to remove a bright structure."""

import pytest
import torch
from pydantic import ValidationError

from medgen.methods.regression import SMALL, Regression, Settings, away_from_lower, fallen, level_loss, mask_loss
from medgen.types import DataShape

GENERATOR = {"name": "residual_unet", "filters": 8, "levels": 2, "replace": (0.0, 0.1)}


def pair(seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(1, 1, 16, 16, 16, generator=generator) * 0.1
    x = y.clone()
    x[..., 4:9, 4:9, 4:9] += 0.4
    return {"source": x, "target": y, "step": 0}


def test_losses_equal_their_formulas():
    torch.manual_seed(0)
    method = Regression(
        Settings(
            generator=GENERATOR,
            weight_changed=3.0,
            changed_above=0.1,
            weight_coarse=2.0,
            weight_mask=0.5,
            weight_level=0.3,
        ),
        DataShape(),
    )
    total = {}
    batch = pair(0)
    losses = method.step(batch, lambda name, loss: total.update({name: loss}))
    x, y = batch["source"], batch["target"]
    with torch.no_grad():
        y_hat, mask, level = method.networks["G"].with_maps(x)
    weight = torch.where((x - y).abs() > 0.1, 4.0, 1.0)
    blocks = (y_hat - y).reshape(1, 1, 4, 4, 4, 4, 4, 4).mean((3, 5, 7))
    assert losses["G_l1"].item() == pytest.approx((weight * (y_hat - y).abs()).mean().item(), rel=1e-5)
    assert losses["G_coarse"].item() == pytest.approx(blocks.abs().mean().item(), rel=1e-5)
    v, v_y = (method.networks["G"].within(image, x) for image in (x, y))
    fall = torch.where(v - v_y > SMALL, x - y, v - v_y).clamp(min=0)
    expected = losses["G_l1"] + 2.0 * losses["G_coarse"] + 0.5 * mask_loss(mask, x, fall, (0.0, 0.1))
    used = (fall > 0.1) | (mask > 0)
    far = (level - v_y).abs()[used].mean() / 0.1
    assert losses["G_level"].item() == pytest.approx(far.item(), rel=1e-5)
    expected += 0.3 * far
    assert total["G"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_masked_voxels_of_the_target_count_by_their_weight():
    method = Regression(
        Settings(generator={"name": "residual_unet", "filters": 8, "levels": 2}, weight_background=0.25), DataShape()
    )
    batch = pair(0)
    batch["target"][..., 6:] = -1
    losses = method.step(batch, lambda name, loss: None)
    with torch.no_grad():
        error = method.translate(batch["source"]) - batch["target"]
    weight = torch.where(batch["target"] == -1, 0.25, 1.0)
    assert losses["G_l1"].item() == pytest.approx(((error.abs() * weight).sum() / weight.sum()).item(), rel=1e-5)
    blocks, weights = (v.reshape(1, 1, 4, 4, 4, 4, 4, 4).mean((3, 5, 7)) for v in (error * weight, weight))
    assert losses["G_coarse"].item() == pytest.approx((blocks.abs().sum() / weights.sum()).item(), rel=1e-5)


def test_mask_loss_is_least_at_the_share_by_which_voxels_fall():
    fall = torch.tensor([0.0, 0.01, 0.05, 0.5]).repeat(2).reshape(1, 1, 2, 2, 2)
    x, share = fall + 0.05, fall / (fall + SMALL)
    best = mask_loss(torch.logit(share.clamp(1e-6, 1 - 1e-6)), x, fall, (0.0, 0.1))
    for other in (0.0, 1.0, -3.0):
        assert best < mask_loss(torch.full_like(x, other), x, fall, (0.0, 0.1))


def test_the_noise_of_two_scans_is_no_fall():
    """Two scans that differ in noise only: of its half-normal mean, 0.0056, little is left."""
    torch.manual_seed(0)
    method = Regression(Settings(generator=GENERATOR, weight_mask=1.0), DataShape())
    x, y = (0.04 + 0.01 * torch.randn(1, 1, 24, 24, 24) for _ in range(2))
    noisy = (x - y).clamp(min=0).mean()

    def within(x, y):
        return (method.networks["G"].within(image, x) for image in (x, y))

    assert fallen(x, y, *within(x, y)).mean() < 0.4 * noisy
    bright = x.clone()
    bright[..., 8:16, 8:16, 8:16] += 0.1
    fall = fallen(bright, y, *within(bright, y))
    assert fall[..., 9:15, 9:15, 9:15].mean() == pytest.approx(0.1, abs=0.005)
    assert fall[..., :4, :4, :4].mean() < 0.4 * noisy


def test_level_loss_ignores_voxels_without_a_level_and_targets_beyond_the_range():
    target, level = torch.tensor([0.05, 0.05, 0.3, -0.2]), torch.tensor([0.02, 9.0, 0.1, 0.0])
    used = torch.tensor([True, False, True, True])
    assert level_loss(level, target, used, (0.0, 0.1)).item() == pytest.approx(0.3 / 3)
    assert level_loss(level, target, used & False, (0.0, 0.1)) == 0


def test_organs_of_different_levels_get_their_own():
    """Two structures of one brightness and different levels, told apart by what surrounds them."""
    torch.manual_seed(0)
    method = Regression(Settings(generator=GENERATOR, weight_mask=1.0, weight_level=0.5, lr=5e-3), DataShape())
    (optimizer,) = method.optimizers().values()

    def update(name, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def two(seed):
        batch = pair(seed)
        x, y = batch["source"], batch["target"]
        x[..., :8], y[..., :8] = x[..., :8] - 0.5, y[..., :8] - 0.5
        for part, level in ((slice(2, 6), 0.02), (slice(10, 14), 0.08)):
            x[..., 4:9, 4:9, part], y[..., 4:9, 4:9, part] = 0.4, level
        return batch

    for n in range(60):
        method.step(two(n), update)
    with torch.no_grad():
        y_hat = method.translate(two(1000)["source"])[0, 0, 5:8, 5:8]
    assert y_hat[..., 11:13].mean() - y_hat[..., 3:5].mean() > 0.03


def test_learns_to_remove_a_bright_structure():
    torch.manual_seed(0)
    method = Regression(Settings(generator=GENERATOR, weight_mask=1.0, lr=5e-3), DataShape())
    (optimizer,) = method.optimizers().values()

    def update(name, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for n in range(40):
        method.step(pair(n), update)
    held_out = pair(1000)
    with torch.no_grad():
        error = (method.translate(held_out["source"]) - held_out["target"]).abs()
    inside = torch.zeros_like(error, dtype=torch.bool)
    inside[..., 4:9, 4:9, 4:9] = True
    assert error[inside].mean() < 0.1 and error[~inside].mean() < 0.01


def test_keep_background_and_replace_are_refused_together():
    with pytest.raises(ValidationError, match="keep_background"):
        Settings(generator=GENERATOR, keep_background=True)


@pytest.mark.parametrize("name", ["weight_mask", "weight_level"])
def test_weights_of_a_mask_without_one_are_refused(name):
    with pytest.raises(ValidationError, match=f"{name} needs a mask"):
        Settings(**{name: 1.0})


def test_kept_background_is_unchanged_and_has_no_gradient():
    torch.manual_seed(0)
    method = Regression(
        Settings(generator={"name": "residual_unet", "filters": 8, "levels": 2}, keep_background=True), DataShape()
    )
    x, y = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    x[..., :8], y[..., :8] = -1, -1
    y_hat = method.translate(x)
    assert (y_hat[..., :8] == -1).all() and (y_hat[..., 8:] != -1).all()
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: None)
    assert losses["G_l1"].item() == pytest.approx((y_hat - y)[..., 8:].abs().mean().item() / 2, rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_level_is_not_learned_beside_fat(dims):
    organ = torch.full((1, 1, *[7] * dims), 0.04)
    assert away_from_lower(organ, -0.015).all()
    organ[(0, 0, *[3] * dims)] = -0.1
    used = away_from_lower(organ, -0.015)
    assert (~used).sum() == 3**dims and not used[(0, 0, *[2] * dims)] and used[(0, 0, *[1] * dims)]
