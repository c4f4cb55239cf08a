from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from refusal import refused
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small import SMALL_METHOD, make_model, merged, small_settings

from medgen.inference import predict
from medgen.inference.passes import pass_bytes, translate_array, use_whole
from medgen.inference.predict import translate_case, translate_volume
from medgen.io.volume import Volume
from medgen.model_info import RangeInfo
from medgen.networks import memory
from medgen.networks.blocks import diffusion
from medgen.networks.blocks.diffusion import scan_within_structures
from medgen.networks.memory import peak_bytes, weight_bytes

MODEL = make_model()
IDENTITY = make_model(train=False)


def scan(shape=(19, 22, 17), seed=0):
    rng = np.random.default_rng(seed)
    return np.rint(rng.uniform(-1024, 1500, shape)).astype(np.float32)


def affine(spacing=(2.0, 2.0, 2.0), angles=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    matrix[:3, 3] = (-31, 12, 400)
    return matrix


def test_an_untrained_residual_model_returns_the_scan_metal_and_air_included():
    volume = Volume(scan() * 10, affine(), np.dtype(np.int16))
    out = translate_volume(IDENTITY, volume)
    np.testing.assert_allclose(out.data, volume.data, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    shape=st.tuples(*[st.integers(3, 24)] * 3),
)
def test_geometry_is_the_inputs_for_every_orientation(axes, signs, angles, shape):
    volume = Volume(scan(shape), affine(angles=angles))
    orientation = np.array(list(zip(axes, signs, strict=True)), float)
    turned = Volume(
        apply_orientation(volume.data, orientation),
        volume.affine @ inv_ornt_aff(orientation, shape),
        np.dtype(np.int16),
    )
    out = translate_volume(MODEL, turned)
    assert out.data.shape == turned.data.shape
    assert np.array_equal(out.affine, turned.affine)
    assert out.dtype == turned.dtype


@pytest.mark.parametrize(
    "orientation", [[(0, 1), (1, 1), (2, 1)], [(2, 1), (0, -1), (1, 1)], [(1, -1), (2, 1), (0, -1)]]
)
def test_the_same_scan_stored_otherwise_gives_the_same_image(orientation):
    volume = Volume(scan((16, 20, 24)), affine())
    orientation = np.array(orientation, float)
    turned = Volume(
        apply_orientation(volume.data, orientation),
        volume.affine @ inv_ornt_aff(orientation, volume.data.shape),
    )
    a, b = translate_volume(MODEL, volume), translate_volume(MODEL, turned)
    np.testing.assert_allclose(apply_orientation(a.data, orientation), b.data, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 40, 2), (16, 16, 16), (17, 33, 18)])
@pytest.mark.parametrize("window", ["whole", "patch"])
@pytest.mark.parametrize("generator", ["unet", "resnet"])
def test_any_size_goes_through(shape, window, generator):
    method = merged(SMALL_METHOD, {"generator": {"name": generator, "blocks": 1}})
    model = make_model(small_settings(inference={"window": window}, method=method))
    assert translate_array(model, np.zeros((1, *shape), np.float32)).shape == (1, *shape)


def test_windows_with_overlap_agree_with_one_pass_inside():
    """Batch norm does not look at the window, so only the padding at window borders differs; blending hides it."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, 40, 40, 40)).astype(np.float32)
    whole = translate_array(make_model(small_settings(inference={"window": "whole"})), x)
    tiled = translate_array(make_model(small_settings(inference={"window": "patch", "overlap": 0.75})), x)
    change = np.abs(whole - x).mean()
    assert change > 1e-3
    assert np.abs(whole - tiled).mean() < 0.15 * change


def test_auto_window_depends_on_memory_and_norm():
    network = MODEL.generator
    need = pass_bytes(network, (1, 1, 64, 64, 64)) / 2**30
    assert use_whole("auto", network, (1, 1, 64, 64, 64), need * 1.1)
    assert not use_whole("auto", network, (1, 1, 64, 64, 64), need * 0.9)
    with refused("inference-memory-exceeded", names="inference.memory_gb"):
        use_whole("whole", network, (1, 1, 64, 64, 64), need * 0.9)
    instance = make_model(small_settings(method=merged(SMALL_METHOD, {"generator": {"norm": "instance"}}))).generator
    assert not use_whole("auto", instance, (1, 1, 8, 8, 8), 100)


def test_pass_bytes_counts_every_layer():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU())
    assert pass_bytes(network, (1, 1, 10, 10, 10)) == 2 * 4 * 1000 * 4


def test_other_spacing_is_resampled_there_and_back():
    volume = Volume(scan((30, 30, 30)) / 2, affine((1.0, 1.0, 1.0)))
    model = make_model(small_settings(inference={"transfer": "difference"}), train=False)
    out = translate_volume(model, volume)
    np.testing.assert_allclose(out.data, volume.data, atol=2e-3)  # a change of nothing keeps every detail
    smoothed = translate_volume(make_model(small_settings(inference={"transfer": "image"}), train=False), volume)
    assert np.abs(smoothed.data - volume.data).max() > 100  # the image itself went through the coarse grid


def test_other_spacing_is_refused_or_ignored_as_the_config_says():
    volume = Volume(scan((16, 16, 16)), affine((1.0, 1.0, 1.0)))
    with refused("volume-spacing-differs", names="inference.spacing"):
        translate_volume(make_model(small_settings(inference={"spacing": "refuse"})), volume)
    out = translate_volume(make_model(small_settings(inference={"spacing": "ignore"}), train=False), volume)
    np.testing.assert_allclose(out.data, volume.data, atol=2e-3)


def test_integers_stay_for_hu_but_not_for_a_target_of_small_range():
    volume = Volume(scan(), affine(), np.dtype(np.int16))
    assert translate_volume(MODEL, volume).dtype == np.int16
    small = make_model()
    small.info = small.info.model_copy(update={"target_range": [RangeInfo(low=0, high=1)]})
    assert translate_volume(small, volume).dtype == np.float32


CONTRASTS = {"sources": ["t1", "flair"], "targets": ["t2"]}
TWO = make_model(small_settings(data=CONTRASTS))
TWO_TARGETS = {"sources": ["t1", "flair"], "targets": ["t2", "pd"]}


@settings(max_examples=15, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    shape=st.tuples(*[st.integers(3, 20)] * 3),
)
def test_geometry_of_several_contrasts_is_the_first_ones(axes, signs, angles, shape):
    orientation = np.array(list(zip(axes, signs, strict=True)), float)
    turned = [
        Volume(
            apply_orientation(scan(shape, seed), orientation),
            affine(angles=angles) @ inv_ornt_aff(orientation, shape),
            np.dtype(np.int16),
        )
        for seed in (0, 1)
    ]
    (out,) = translate_case(TWO, turned)
    assert out.data.shape == turned[0].data.shape
    assert np.array_equal(out.affine, turned[0].affine) and out.dtype == np.int16


@pytest.mark.parametrize("transfer", ["difference", "image"])
@pytest.mark.parametrize("spacing", [2.0, 1.0])
def test_an_untrained_residual_model_returns_each_contrast_with_what_lies_beyond_its_range(spacing, transfer):
    scans = [Volume(scan((16, 16, 16), seed), affine((spacing,) * 3)) for seed in (0, 1)]
    model = make_model(small_settings(data=TWO_TARGETS, inference={"transfer": transfer}), train=False)
    for before, after in zip(scans, translate_case(model, scans), strict=True):
        np.testing.assert_allclose(after.data, before.data, atol=2e-3)


def test_every_contrast_affects_the_output():
    a, b, other = (Volume(scan(seed=seed), affine()) for seed in (0, 1, 2))
    assert not np.array_equal(translate_case(TWO, [a, b])[0].data, translate_case(TWO, [a, other])[0].data)


def test_contrasts_on_different_grids_or_too_few():
    a, b = Volume(scan(), affine()), Volume(scan((19, 22, 18)), affine())
    with refused("pair-grid-differs", names=("19 x 22 x 17", "19 x 22 x 18")):
        translate_case(TWO, [a, b])
    with refused("model-image-count-differs", names="t1, flair"):
        translate_case(TWO, [a])
    bent = make_model(small_settings(data={**CONTRASTS, "align": "resample"}))
    assert translate_case(bent, [a, b])[0].data.shape == (19, 22, 17)


def slabs(patch=(16, 16, 3), train=True, **sections):
    method = merged({**SMALL_METHOD, "spatial_dims": 2}, sections.pop("method", {}))
    return make_model(small_settings(method=method, sampling={"patch": patch}, **sections), train=train)


SLABS = {
    k: [slabs(patch) for patch in ((16, 16, k), (k, 16, 24), (24, k, 16))] + [slabs((16, 16, k), data=CONTRASTS)]
    for k in (1, 2, 3)
}


@settings(max_examples=40, deadline=None)
@given(
    depth=st.sampled_from([1, 2, 3]),
    which=st.integers(0, 3),
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
)
def test_geometry_is_the_inputs_for_slabs_too(depth, which, axes, signs, angles, shape):
    model, orientation = SLABS[depth][which], np.array(list(zip(axes, signs, strict=True)), float)
    turned = [
        Volume(
            apply_orientation(scan(shape, seed), orientation),
            affine(angles=angles) @ inv_ornt_aff(orientation, shape),
            np.dtype(np.int16),
        )
        for seed in range(len(model.settings.data.sources))
    ]
    (out,) = translate_case(model, turned)
    assert out.data.shape == turned[0].data.shape
    assert np.array_equal(out.affine, turned[0].affine) and out.dtype == np.int16


@pytest.mark.parametrize("patch", [(16, 16, 1), (16, 16, 4), (3, 16, 16), (16, 2, 16)])
@pytest.mark.parametrize("window", ["whole", "patch"])
def test_untrained_residual_slabs_return_the_scan(patch, window):
    model = slabs(patch, train=False, inference={"window": window})
    x = np.random.default_rng(0).uniform(-1, 1, (1, 21, 19, 22)).astype(np.float32)
    np.testing.assert_allclose(translate_array(model, x), x, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_overlapping_slabs_are_averaged(axis, batch):
    """Against slab after slab by hand: slice i is the mean of its outputs in the slabs around i - 1, i and i + 1."""
    patch = [16, 16, 16]
    patch[axis] = 3
    model = slabs(tuple(patch), inference={"batch": batch, "window": "whole"})
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 16)).astype(np.float32)
    slices = np.moveaxis(x[0], axis, 0)
    padded = np.concatenate([slices[:1], slices, slices[-1:]])
    with torch.no_grad():
        made = [model.method.translate(torch.from_numpy(padded[i : i + 3])[None])[0].numpy() for i in range(16)]
    expected = np.stack(
        [np.mean([made[j][i - j + 1] for j in (i - 1, i, i + 1) if 0 <= j < 16], axis=0) for i in range(16)]
    )
    np.testing.assert_allclose(translate_array(model, x)[0], np.moveaxis(expected, 0, axis), atol=1e-5)


def test_slices_too_large_for_one_pass_go_through_in_windows():
    model = slabs(inference={"overlap": 0.75})
    x = np.random.default_rng(0).uniform(-1, 1, (1, 40, 40, 5)).astype(np.float32)
    whole, tiled = translate_array(model, x), translate_array(model, x, memory_gb=1e-6)
    change = np.abs(whole - x).mean()
    assert 0 < np.abs(whole - tiled).mean() < 0.2 * change


def test_input_is_untouched():
    volume = Volume(scan(), affine())
    kept = volume.data.copy()
    translate_volume(MODEL, volume)
    assert np.array_equal(volume.data, kept)


def test_mirrored_translations_are_averaged_along_every_axis_asked_for():
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 24, 8)).astype(np.float32)
    plain = make_model()
    settings = plain.settings.model_copy(
        update={"inference": plain.settings.inference.model_copy(update={"mirror": ("x", "z")})}
    )
    mirrored = replace(plain, settings=settings)
    once = {flip: np.flip(translate_array(plain, np.flip(x, flip)), flip) for flip in [(), (1,), (3,), (1, 3)]}
    assert not np.allclose(once[()], once[(1,)])
    np.testing.assert_allclose(translate_array(mirrored, x), np.mean(list(once.values()), 0), atol=1e-6)
    kept = x.copy()
    translate_array(mirrored, x)
    assert np.array_equal(kept, x)


def test_contrasts_at_45_degrees_stay_on_one_another():
    """Their headers differ by rounding, which must not choose other axes for the second."""
    at = affine(angles=(0, 0, 45))
    model = make_model(small_settings(data=TWO_TARGETS), train=False)
    for seed in range(8):
        rounded = at + np.random.default_rng(seed).normal(0, 1e-7, (4, 4)) * [[1], [1], [1], [0]]
        second = Volume(scan((16, 16, 16), 1), rounded)
        made = translate_case(model, [Volume(scan((16, 16, 16)), at), second])[1]
        np.testing.assert_allclose(made.data, second.data, atol=2e-3)


WIDE = {"source": {"low": -5000, "high": 5000}, "target": {"low": -5000, "high": 5000}}


def unchanged(**sections):
    model = make_model(small_settings(intensity=WIDE, **sections), train=False)
    model.info = model.info.model_copy(update={"target_range": [RangeInfo(low=-5000, high=5000)]})
    return model


RAMPS = {
    "image": unchanged(),
    "difference": unchanged(inference={"transfer": "difference"}),
    "windows": unchanged(inference={"window": "patch", "overlap": 0.25}),
    "mirrored": unchanged(sampling={"patch": (16, 16, 16), "flip": ("x", "y")}, inference={"mirror": ("x", "y")}),
    "slices": unchanged(method={**SMALL_METHOD, "spatial_dims": 2}, sampling={"patch": (16, 16, 1)}),
    "slabs": unchanged(method={**SMALL_METHOD, "spatial_dims": 2}, sampling={"patch": (4, 16, 16)}),
}


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(RAMPS)),
    spacing=st.tuples(*[st.floats(0.5, 7)] * 3),
    angles=st.tuples(*[st.sampled_from([0, 45, 90, -180]) | st.floats(-180, 180)] * 3),
    tilt=st.sampled_from([0, 0.27, -0.47]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    sides=st.tuples(*[st.floats(1, 24)] * 3),
    origin=st.tuples(*[st.floats(-3000, 3000)] * 3),
)
def test_a_ramp_in_world_millimetres_comes_back_at_its_place(name, spacing, angles, tilt, flips, sides, origin):
    """1 HU per mm along a world axis: exact to a thousandth of a mm, except where the edge is repeated."""
    volume_axes = np.array(affine(spacing, angles))
    volume_axes[:3, 2] += volume_axes[:3, 1] / spacing[1] * spacing[2] * tilt
    volume_axes[:3, :3] *= flips
    volume_axes[:3, 3] = origin
    shape = [max(1, int(side / s)) for side, s in zip(sides, spacing, strict=True)]
    at = np.stack([*np.indices(shape), np.ones(shape)])
    world = np.tensordot(volume_axes, at, 1)[:3] - np.reshape(origin, (3, 1, 1, 1))
    ramp = world.sum(0) / np.sqrt(3)
    (out,) = translate_case(RAMPS[name], [Volume(ramp, volume_axes)])
    steps = np.linalg.norm(volume_axes[:3, :3], axis=0)
    margins = 2.5 * np.maximum(2.0, steps) / steps
    inside = [(i >= m) & (i <= n - 1 - m) for i, m, n in zip(at[:3], margins, shape, strict=True)]
    error = np.abs(out.data - ramp)
    assert error[np.logical_and.reduce(inside)].max(initial=0) < 2e-3
    assert error.max() < 0.51 * (np.maximum(2, steps) * 1.5).sum()  # at most a voxel's repeat on each axis


@pytest.mark.parametrize("spacing", [(0.9, 0.7, 2.6), (4.0, 4.0, 4.0), (2.0, 2.0, 2.0)])
def test_structures_are_replaced_on_the_scans_own_grid(spacing):
    """With a mask of 1 everywhere the output is the scan less its smoothed excess over the level, voxel by voxel."""
    method = {"name": "regression", "generator": {"name": "residual_unet", "filters": 4, "levels": 2}}
    method["generator"]["replace"] = (-0.1, 0.1)
    model = make_model(small_settings(method=method, inference={"transfer": "difference"}), train=False)
    with torch.no_grad():
        model.generator.last.bias.copy_(torch.tensor([40.0, 0.0]))
    volume = Volume(scan(), affine(spacing), np.dtype(np.int16))
    out = translate_volume(model, volume).data
    inside = (volume.data > -1000) & (volume.data < 1000)
    x = torch.from_numpy(np.clip(volume.data / 1000, -1, 1).astype(np.float32))
    finer = [2.0 / s for s in spacing]  # the model's grid is 2 mm
    v = scan_within_structures(x.numpy(), model.generator.slope, finer, [slice(0, n) for n in x.shape])
    expected = np.clip(1000 * (x.numpy() - np.maximum(v, 0)), -1000, 1000)
    np.testing.assert_allclose(out[inside], expected[inside], atol=0.1)  # HU; spacings are rounded
    assert np.array_equal(out[~inside], volume.data[~inside])


@pytest.mark.parametrize("removes", [True, False])
def test_ribs_that_the_network_takes_for_vessels_come_back(monkeypatch, removes):
    """Of a model that removes contrast medium from CT; the rule itself is tested in qa/measures/test_trunk_wall."""
    method = {"name": "regression", "generator": {"name": "residual_unet", "filters": 4, "levels": 2}}
    method["generator"]["replace"] = (-0.1, 0.1)
    settings = small_settings(method=method, inference={"transfer": "difference"}, data={"removes_contrast": removes})
    model = make_model(settings, train=False)
    with torch.no_grad():
        model.generator.last.bias.copy_(torch.tensor([40.0, 0.0]))
    volume = Volume(scan(), affine((2.0, 2.0, 2.0)), np.dtype(np.float32))
    plain = translate_volume(model, volume).data
    rib = np.zeros(plain.shape, bool)
    rib[3:6, 4:7, 5:9] = True
    monkeypatch.setattr(predict, "ribs_taken_for_vessels", lambda source, output, spacing: rib)
    out = translate_volume(model, volume).data
    assert np.abs(plain - volume.data)[rib].max() > 20
    kept = rib if removes else np.zeros_like(rib)
    np.testing.assert_allclose(out[kept], volume.data[kept], atol=1e-3)
    np.testing.assert_array_equal(out[~kept], plain[~kept])


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.2), (1.0, 0.4, 6.0)])
def test_smoothing_by_tiles_equals_that_of_the_whole_scan(monkeypatch, spacing):
    method = {"name": "regression", "generator": {"name": "residual_unet", "filters": 4, "levels": 2}}
    method["generator"]["replace"] = (-0.1, 0.1)
    model = make_model(small_settings(method=method, inference={"transfer": "difference"}), train=False)
    torch.nn.init.normal_(model.generator.last.weight)
    volume = Volume(scan((40, 30, 70)), affine(spacing), np.dtype(np.int16))
    whole = translate_volume(model, volume).data
    monkeypatch.setattr(diffusion, "TILE", 16)
    np.testing.assert_allclose(translate_volume(model, volume).data, whole, atol=0.05)
    assert np.abs(whole - volume.data).max() > 20


@pytest.mark.parametrize("window", ["patch", "whole"])
def test_bfloat16_rounds_mask_and_level_only(window):
    method = {"name": "regression", "generator": {"name": "residual_unet", "filters": 4, "levels": 2}}
    method["generator"]["replace"] = (-0.1, 0.1)
    outs = []
    for precision in ("32-true", "bf16-mixed"):
        inference = {"transfer": "difference", "precision": precision, "window": window}
        model = make_model(small_settings(method=method, inference=inference), train=False)
        torch.manual_seed(0)
        torch.nn.init.normal_(model.generator.last.weight)
        outs.append(translate_volume(model, Volume(scan(), affine())).data)
    assert np.abs(outs[0] - scan()).max() > 20
    assert 0 < np.abs(outs[1] - outs[0]).max() < 10 and np.abs(outs[1] - outs[0]).mean() < 0.5


def test_a_mask_that_is_not_a_number_is_not_taken_for_no_change():
    method = {"name": "regression", "generator": {"name": "residual_unet", "filters": 4, "levels": 2}}
    method["generator"]["replace"] = (-0.1, 0.1)
    model = make_model(small_settings(method=method, inference={"transfer": "difference"}), train=False)
    torch.nn.init.constant_(model.generator.last.bias, float("nan"))
    assert np.isnan(translate_volume(model, Volume(scan(), affine(), np.dtype(np.float32))).data).any()


def test_windows_have_the_size_of_inference_patch():
    seen = []
    model = make_model(small_settings(inference={"patch": [24, 16, 20], "window": "patch"}))
    model.generator.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[2:])))
    translate_volume(model, Volume(scan((40, 40, 40)), affine()))
    assert set(seen) == {(24, 16, 20)}


def test_an_even_layout_looks_at_the_body_only_and_leaves_the_air_as_it_is():
    """A mask of 1 everywhere: voxels above the level change, whether their window was shifted or others left out."""
    method = {"name": "regression", "generator": {"name": "residual_unet", "filters": 4, "levels": 2}}
    method["generator"]["replace"] = (-0.1, 0.1)
    rng, outs, calls = np.random.default_rng(0), [], []
    air = rng.normal(-990, 20, (90, 40, 40)).astype(np.float32)
    air[50:62, 12:30, 10:28] = 300
    for layout in ("fixed", "even"):
        inference = {"transfer": "difference", "window": "patch", "layout": layout}
        model = make_model(small_settings(method=method, inference=inference), train=False)
        with torch.no_grad():
            model.generator.last.bias.copy_(torch.tensor([40.0, 0.0]))
        seen = []
        model.generator.first.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(output)))
        outs.append(translate_volume(model, Volume(air, affine(), np.dtype(np.float32))).data)
        calls.append(sum(seen))
    assert calls[1] < calls[0] / 3
    np.testing.assert_allclose(outs[1], outs[0], atol=0.01)
    np.testing.assert_allclose(outs[1][:40], air[:40], atol=1e-3)
    assert np.abs(outs[1] - air)[air > 0].min() > 200


def test_larger_windows_of_an_even_layout_stay_within_the_memory():
    seen, x = [], np.zeros((1, 20, 20, 20), np.float32)
    model = make_model(small_settings(inference={"window": "patch", "overlap": 0.25, "layout": "even"}))
    need = peak_bytes(model.generator, (1, 1, 16, 16, 16)) + weight_bytes(model.generator)
    model.generator.register_forward_hook(lambda _, x, y: None if x[0].is_meta else seen.append(tuple(y.shape[2:])))
    translate_array(model, x)
    assert set(seen) == {(20, 20, 20)}
    seen.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SMALL_GB", 0)
        translate_array(model, x, memory_gb=need * 1.1 / 2**30)
    assert set(seen) == {(16, 16, 16)}


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SRA"])
def test_a_scan_in_any_memory_order_gives_the_same_and_is_left_as_it_was(axes):
    turn = nib.orientations.axcodes2ornt(axes)
    one = Volume(scan((19, 40, 33)), affine())
    data, matrix = one.data, one.affine
    turned = Volume(apply_orientation(data, turn), matrix @ inv_ornt_aff(turn, data.shape))
    expected = apply_orientation(translate_volume(MODEL, one).data, turn)
    for order in "CF":
        copied = replace(turned, data=np.array(turned.data, order=order))
        out = translate_volume(MODEL, copied).data
        assert np.array_equal(copied.data, turned.data) and np.array_equal(out, expected)


@settings(max_examples=15, deadline=None)
@given(
    spacing=st.tuples(*[st.sampled_from([0.9, 1.5, 2.0, 2.7, 4.0])] * 3),
    transfer=st.sampled_from(["image", "difference"]),
    seed=st.integers(0, 5),
)
def test_a_mask_of_the_scan_is_that_of_the_output_at_any_spacing(spacing, transfer, seed):
    """keep_background on a scan of another spacing than the model's 2 mm: exact, and no dark rim inside the mask."""
    values = {
        "method": {"name": "regression", "keep_background": True, "generator": {"filters": 4, "levels": 2}},
        "intensity": {
            side: {"kind": "percentile", "background": 0.0, "low": None, "high": None, "outside": "clip"}
            for side in ("source", "target")
        },
        "inference": {"transfer": transfer},
    }
    model = make_model(small_settings(**values), train=False)
    model.info.target_range[0] = RangeInfo(low=300.0, high=900.0, background=0.0)
    shape = tuple(int(48 / s) for s in spacing)
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(g**2 for g in grids) < 0.5
    tissue = np.random.default_rng(seed).uniform(300, 900, shape)
    data = np.where(inside, tissue, 0).astype(np.float32)
    out = translate_volume(model, Volume(data, affine(spacing), np.dtype(np.float32))).data
    assert (out[~inside] == 0).all()
    assert (out[inside] != 0).all()
    rim = inside & ~ndimage.binary_erosion(inside)
    assert out[rim].mean() == pytest.approx(out[inside].mean(), abs=30)
