import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.data.cache import Cached
from medgen.data.intensity import Range
from medgen.data.patches import Patches, batches
from medgen.data.random_affine import AffineTransform, cut_patch

PATCH = (8, 8, 8)
FOLDER = tempfile.TemporaryDirectory()


def volume(seed, shape=(24, 20, 16), body=((6, 18), (5, 15), (4, 12))):
    """HU that encode their position, x + 100 y + 10000 z, so a patch shows where it was sampled."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*b) for b in body)] = True
    data = (x + 100 * y + 10000 * z + 0.25 * seed).astype(np.float32)
    path = Path(FOLDER.name) / f"{len(list(Path(FOLDER.name).iterdir()))}.npy"
    np.save(path, data)
    return Cached(path, np.argwhere(mask).astype(np.int32), Range(0, 500_000), (1.0, 1.0, 1.0), {})


def cohort(n=4):
    return {f"case{i}": (volume(i),) for i in range(n)}


def make(paired=True, **more):
    sources = cohort()
    targets = sources if paired else {f"other{i}": (volume(10 + i),) for i in range(3)}
    return Patches(sources, targets, paired=paired, patch=PATCH, seed=1, **more)


def place(patch):
    """Corner voxel of an unaugmented patch, from its content."""
    value = round(float(Range(0, 500_000).decode(patch.numpy())[0, 0, 0, 0]))
    return value % 100, value // 100 % 100, value // 10000


def test_sample_n_is_always_the_same():
    first, second = make(flip=("x", "y"), rotate=10, gamma=0.3), make(flip=("x", "y"), rotate=10, gamma=0.3)
    second[3]  # earlier draws do not matter
    for n in (0, 7, 100):
        assert torch.equal(first[n]["source"], second[n]["source"])
    assert not torch.equal(first[0]["source"], first[4]["source"])


def test_paired_patches_are_the_same_place_also_when_augmented():
    for n in range(20):
        sample = make(flip=("x", "y", "z"), rotate=15, scale=0.1)[n]
        assert sample["source_case"] == sample["target_case"]
        torch.testing.assert_close(sample["source"], sample["target"])
        assert sample["source"].shape == (1, *PATCH)


def test_flips_mirror_the_named_axis():
    plain, flipped = make(), make(flip=("x",))
    pairs = [(plain[n]["source"], flipped[n]["source"]) for n in range(40)]
    same = sum(torch.equal(a, b) for a, b in pairs)
    mirrored = sum(torch.equal(a.flip(1), b) for a, b in pairs)
    assert same + mirrored == 40 and 8 < mirrored < 32


def test_every_case_is_drawn_once_per_epoch():
    patches = make()
    for epoch in range(3):
        names = [patches[4 * epoch + i]["source_case"] for i in range(4)]
        assert sorted(names) == sorted(cohort())


def test_unpaired_sides_are_sampled_independently():
    patches = make(paired=False)
    seen = {(patches[n]["source_case"], patches[n]["target_case"]) for n in range(60)}
    assert len(seen) > 8  # of 12


def test_body_share():
    inside = 0
    patches = make(body=1.0)
    for n in range(50):
        corner = np.array(place(patches[n]["source"]))
        centre = corner + 4
        inside += all(lo - 3 <= c <= hi + 3 for c, (lo, hi) in zip(centre, ((6, 18), (5, 15), (4, 12)), strict=True))
    assert inside == 50


def test_matched_position_follows_the_body():
    """The same relative position in another patient's body, wherever that body is in its volume."""
    sources = {"a": (volume(0, (40, 40, 40), ((2, 22), (2, 22), (2, 22))),)}
    targets = {"b": (volume(0, (40, 40, 40), ((18, 38), (18, 38), (18, 38))),)}
    patches = Patches(sources, targets, paired=False, patch=PATCH, seed=0, body=1.0)
    shift = [np.subtract(place(s["target"]), place(s["source"])) for s in (patches[n] for n in range(60))]
    assert np.abs(np.mean(shift, 0) - 14).max() < 3  # 16, less where patches are held inside the volume


def test_small_volumes_are_padded():
    small = {"a": (volume(0, (5, 20, 6), ((0, 5), (0, 20), (0, 6))),)}
    assert Patches(small, small, paired=True, patch=PATCH, seed=0)[0]["source"].shape == (1, *PATCH)


def test_label_maps_of_images_alone_follow_their_flips_and_place(tmp_path):
    """Classes that encode x, as the images encode their position."""
    targets = {"a": (volume(0),)}
    x = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None], (24, 20, 16))
    np.save(tmp_path / "a.npy", x)
    options = dict(paired=False, patch=PATCH, seed=1, flip=("x", "y"), labels={"a": tmp_path / "a.npy"})
    patches, flipped = Patches({}, targets, **options), set()
    for n in range(8):
        sample = patches[n]
        position = Range(0, 500_000).decode(sample["target"].numpy())[0]
        assert sample["labels"].dtype == torch.int64 and sample["labels"].shape == (1, *PATCH)
        assert np.array_equal(sample["labels"].numpy()[0], np.rint(position % 100))
        flipped.add(bool(position[0, 0, 0] % 100 > position[-1, 0, 0] % 100))
    assert flipped == {True, False}


def test_two_processes_draw_the_samples_of_one():
    patches = make()
    whole = list(batches(patches, batch=2, first_step=3, steps=5))
    parts = [list(batches(patches, batch=1, first_step=3, steps=5, rank=r, world=2)) for r in range(2)]
    for step in range(2):
        both = torch.cat([parts[r][step]["source"] for r in range(2)])
        assert torch.equal(both, whole[step]["source"])


def test_resumed_sample_stream_continues_where_it_stopped():
    patches = make()
    whole = list(batches(patches, batch=2, first_step=0, steps=5))
    rest = list(batches(patches, batch=2, first_step=3, steps=5))
    assert len(rest) == 2
    assert torch.equal(rest[0]["source"], whole[3]["source"])


def test_workers_draw_the_same_samples():
    patches = make(rotate=10)
    alone = next(batches(patches, batch=2, first_step=0, steps=2))
    helped = next(batches(patches, batch=2, first_step=0, steps=2, workers=1))
    assert torch.equal(alone["source"], helped["source"])


def test_torchio_artefacts_touch_the_source_only_and_leave_the_global_generator():
    pytest.importorskip("torchio")
    patches = make(artefacts=({"name": "RandomNoise", "probability": 1.0, "options": {"std": 0.5}},))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    sample, again = patches[0], patches[0]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(sample["source"], again["source"])
    assert (sample["source"] - sample["target"]).std() > 0.01


def test_loader_workers_get_names_not_voxels():
    big = volume(0, (60, 60, 60))
    assert (
        len(pickle.dumps(Patches({"a": (big,)}, {"a": (big,)}, paired=True, patch=PATCH, seed=0)))
        < big.data.nbytes / 10
    )


def test_unknown_artefact_is_refused():
    pytest.importorskip("torchio")
    with refused("config-artefact-unknown", names="RandomNose"):
        make(artefacts=({"name": "RandomNose"},))


def test_contrasts_of_a_case_share_position_and_rotation_but_not_gamma():
    both = {"a": (volume(0), volume(400_000))}
    plain = Patches(both, both, paired=True, patch=PATCH, seed=0, flip=("x",), rotate=15)[0]
    assert plain["source"].shape == plain["target"].shape == (2, *PATCH)
    shift = plain["source"][1] - plain["source"][0]
    torch.testing.assert_close(shift, torch.full(PATCH, 0.4), atol=1e-4, rtol=0)
    bent = Patches(both, both, paired=True, patch=PATCH, seed=0, gamma=0.5)[0]
    exponents = torch.log((bent["source"] + 1) / 2) / torch.log((bent["target"] + 1) / 2)
    assert exponents.flatten(1).std(1).max() < 1e-3 < (exponents[0] - exponents[1]).abs().min()


def test_slabs_come_folded_and_reach_the_first_and_the_last_slice():
    for rotate in (0, 10):
        patches = Patches(cohort(), cohort(), paired=True, patch=(8, 8, 1), slab=2, seed=0, rotate=rotate, body=0.5)
        assert patches[0]["source"].shape == (1, 8, 8, 1)
        assert next(batches(patches, batch=2, first_step=0, steps=1))["source"].shape == (2, 1, 8, 8)
        seen = {int(patches._start(volume(0), np.random.default_rng(n))[2]) for n in range(300)}
        assert seen == set(range(16))


def test_a_rotated_slab_uses_neighbouring_slices_not_edge_replication():
    """Sagittal slabs of HU that grow along x: rotated, they must hold more values than that of their own slice."""
    sources = {"a": (volume(0, (40, 40, 40), ((10, 30),) * 3),)}
    patches = Patches(sources, sources, paired=True, patch=(1, 16, 16), slab=0, seed=0, rotate=20, body=1.0)
    decoded = [Range(0, 500_000).decode(patches[n]["source"].numpy()) for n in range(30)]
    gradient = np.array([np.linalg.lstsq(plane_of(d), d.ravel(), rcond=None)[0] for d in decoded])
    lengths = np.abs(gradient[:, :2]).max(1)
    assert len(set(np.round(lengths, 2))) > 10  # rotated differently
    residue = [np.abs(plane_of(d) @ g - d.ravel()).max() for g, d in zip(gradient, decoded, strict=True)]
    assert max(residue) < 50  # a plane through a linear volume, nowhere replicated (z counts 10000 a voxel)


def plane_of(patch):
    u, v = np.meshgrid(np.arange(patch.shape[2]), np.arange(patch.shape[3]), indexing="ij")
    return np.stack([u.ravel(), v.ravel(), np.ones(u.size)], 1)


def blob(spacing, sides=96.0, sigma=8.0):
    """A Gaussian ball in mm in the middle of a cube of ``sides`` mm, and the same as labels of radius 2 sigma."""
    mm = np.reshape(spacing, (3, 1, 1, 1))
    shape = tuple(int(sides / s) for s in spacing)
    apart = (((np.indices(shape) - np.reshape(shape, (3, 1, 1, 1)) / 2 + 0.5) * mm) ** 2).sum(0)
    stem = Path(FOLDER.name) / f"ball{spacing}"
    np.save(f"{stem}.npy", (2000 * np.exp(-apart / (2 * sigma**2)) - 1000).astype(np.float32))
    np.save(f"{stem}.labels.npy", (apart < (2 * sigma) ** 2).astype(np.uint8))
    case = Cached(Path(f"{stem}.npy"), np.array([shape], np.int32) // 2, Range(-1000, 1000), spacing, {})
    return (case,), Path(f"{stem}.labels.npy")


def axes_in_mm(weight, spacing):
    """Longest to shortest of the axes along which the patch has more than one voxel."""
    many = np.array(weight.shape) > 1
    places = (np.indices(weight.shape).reshape(3, -1) * np.reshape(spacing, (3, 1)))[many]
    weight = weight.ravel() / weight.sum()
    places = places - (places * weight).sum(1, keepdims=True)
    lengths = np.sqrt(np.linalg.eigvalsh((places * weight) @ places.T))
    return lengths[-1] / lengths[0]


@pytest.mark.parametrize(
    ("spacing", "slab"),
    [
        ((2.0, 2.0, 2.0), None),
        ((1.5, 1.5, 4.0), None),
        ((3.0, 1.5, 1.5), None),
        ((1.6, 2.5, 2.0), None),
        ((1.5, 1.5, 4.0), 2),
        ((4.0, 1.0, 2.0), 0),
        ((1.0, 4.0, 2.0), 1),
    ],
)
def test_a_rotated_ball_stays_a_ball_in_mm(spacing, slab):
    """At any voxel size, in 3D and in slabs, of images and of labels."""
    case, labels = blob(spacing)
    patch = [1 if axis == slab else int(64 / s) for axis, s in enumerate(spacing)]
    options = {"paired": True, "patch": patch, "seed": 0, "rotate": 25.0, "body": 1.0, "slab": slab, "flip": ("x",)}
    patches = Patches({"a": case}, {"a": case}, labels={"a": labels}, **options)
    samples = [patches[n] for n in range(4)]
    for sample in samples:
        image, named = sample["source"][0].numpy() + 1, sample["labels"][0].numpy()
        assert axes_in_mm(np.where(image > 0.2, image, 0), spacing) < 1.02
        assert axes_in_mm(named.astype(float), spacing) < 1.08  # of whole voxels of up to a third of the radius
        assert ((image > 2 * np.exp(-2)) == (named > 0)).mean() > 0.98  # labels and image are rotated together
    assert len({float(s["source"].mean()) for s in samples}) > 2


def test_scaling_is_along_the_axes_and_the_same_at_any_voxel_size():
    sizes = []
    for spacing in ((2.0, 2.0, 2.0), (2.0, 2.0, 4.0)):
        case, _ = blob(spacing)
        patches = Patches(
            {"a": case}, {"a": case}, paired=True, patch=[int(64 / s) for s in spacing], seed=0, scale=0.3
        )
        found = [np.where(p > 0.2, p, 0) for p in (patches[n]["source"][0].numpy() + 1 for n in range(6))]
        sizes.append([p.sum() * np.prod(spacing) for p in found])
    np.testing.assert_allclose(*sizes, rtol=0.03)
    assert np.ptp(sizes[0]) / np.mean(sizes[0]) > 0.2


def test_thin_patches_are_rotated_with_their_neighbouring_slices():
    """A patch much wider than deep needs more slices than its own; otherwise its edge would be replicated."""
    shape = (60, 60, 60)
    path = Path(FOLDER.name) / "ramp.npy"
    np.save(path, np.broadcast_to(np.arange(60, dtype=np.float32), shape))
    case = (Cached(path, np.array([[30, 30, 30]]), Range(0, 100), (1.0, 1.0, 1.0), {}),)
    patches = Patches({"a": case}, {"a": case}, paired=True, patch=(40, 40, 6), seed=0, rotate=20.0, body=1.0)
    for n in range(6):
        values = Range(0, 100).decode(patches[n]["source"][0].numpy()).astype(float)
        inside = (values > 0.5) & (values < 58.5)
        bends = [np.abs(np.diff(np.where(inside, values, np.nan), 2, axis)) for axis in range(3)]
        assert max(np.nanmax(bend) for bend in bends) < 1e-3


@pytest.mark.parametrize("paired", [True, False])
def test_artefacts_act_in_mm_and_do_not_move_a_source_off_its_target(paired):
    torchio = pytest.importorskip("torchio")
    spatial = ({"name": "RandomAffine", "probability": 1.0},)
    if paired:
        with refused("config-artefact-spatial", names="RandomAffine"):
            make(artefacts=spatial)
        return
    seen = []
    patches = make(paired=False, artefacts=spatial)
    patches.artefacts = [lambda image: seen.append(image.spacing) or image]
    patches[0]
    assert seen == [(1.0, 1.0, 1.0)] and torchio.SpatialTransform


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 8, 5)])
def test_the_identity_transform_changes_no_voxel(size):
    """Rotation and patch have one centre; otherwise the patch would be the mean of neighbours."""
    data, start = np.random.default_rng(0).normal(0, 100, (24, 20, 16)), np.array([3, 5, 9])
    patch = cut_patch(data, start, np.array(size), AffineTransform(np.eye(3)), (1.0, 2.0, 3.0))
    expected = cut_patch(data, start, np.array(size), AffineTransform(), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(patch, expected, atol=1e-4)


def test_patches_are_centred_on_the_given_voxels():
    centres = {"case0": np.array([[12, 10, 8]]), "case1": np.array([[10, 9, 7], [14, 12, 9]])}
    patches = make(centres=centres, foreground_fraction=1.0, body=0.0)
    near, far = [], []
    for n in range(80):
        sample = patches[n]
        middle = np.array(place(sample["source"])) + 4
        known = centres.get(sample["source_case"])
        if known is None:
            far.append(np.abs(middle - [12, 10, 8]).max())
        else:
            near.append(np.abs(known - middle).max(1).min())
    assert max(near) <= 3 < max(far)  # a quarter of the patch and rounding; cases without a centre are sampled anywhere


def test_without_centres_the_random_draws_are_unchanged():
    for n in range(5):
        assert torch.equal(make()[n]["source"], make(centres={}, foreground_fraction=0.5)[n]["source"])


def test_dose_scales_the_difference_of_a_pair_by_one_factor():
    sources, targets = {"a": (volume(0),)}, {"a": (volume(40_000),)}
    share = {k: v for k, v in (("paired", True), ("patch", PATCH), ("seed", 1))}
    plain, scaled = Patches(sources, targets, **share), Patches(sources, targets, dose=0.5, **share)
    factors = []
    for n in range(6):
        (x, y), (more, same) = ((s[n]["source"], s[n]["target"]) for s in (plain, scaled))
        torch.testing.assert_close(same, y)
        factor = (more - y) / (x - y)
        assert factor.max() - factor.min() < 1e-2
        factors.append(factor.mean())
    assert 0.5 <= min(factors) < 0.95 < 1.05 < max(factors) <= 1.5


def test_noise_is_the_same_in_both_of_a_pair_and_not_in_others():
    plain, noisy = make()[0], make(noise=0.01)[0]
    added = noisy["source"] - plain["source"]
    assert 0 < added.std() < 0.01
    torch.testing.assert_close(noisy["target"] - plain["target"], added, atol=1e-6, rtol=0)
    plain, noisy = make(paired=False)[0], make(paired=False, noise=0.01)[0]
    assert not torch.allclose(noisy["target"] - plain["target"], noisy["source"] - plain["source"], atol=1e-4)
    assert max(make(noise=0.9)[n]["source"].abs().max() for n in range(4)) <= 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0)])
def test_turned_patches_of_a_masked_image_have_no_rim_of_mixed_values(spacing):
    grids = np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij")
    data = np.where(sum(g**2 for g in grids) < 0.5, 500.0, 0.0).astype(np.float32)
    for seed in range(3):
        turn = AffineTransform(Rotation.random(random_state=seed).as_matrix() * 1.15)
        start, size = np.array([4, 4, 4]), np.array([24, 24, 24])
        patch = cut_patch(data, start, size, turn, spacing, background=0.0)
        np.testing.assert_allclose(patch[patch != 0], 500, rtol=1e-5)
        plain = cut_patch(data, start, size, turn, spacing)
        assert ((plain > 1) & (plain < 499)).any() and np.abs((patch > 0).mean() - (plain >= 250).mean()) < 0.01


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 0.5, 6.0)])
def test_a_masked_background_stays_exact_in_turned_patches(spacing):
    """A spline rings: nothing outside would be exactly 0, and background would be encoded as dark tissue."""
    shape = tuple(int(60 / s) for s in spacing)
    centre = (np.array(shape) - 1)[:, None, None, None] / 2
    away = np.sqrt((((np.indices(shape) - centre) * np.array(spacing)[:, None, None, None]) ** 2).sum(0))
    data = np.where(away < 15, 500 + 200 * np.random.default_rng(0).random(shape), 0).astype(np.float32)
    turn = AffineTransform(Rotation.from_euler("xyz", (12, -8, 15), degrees=True).as_matrix())
    patch = cut_patch(data, np.zeros(3, int), np.array(shape), turn, spacing)
    voxel = np.linalg.norm(spacing)
    assert (patch[away > 15 + voxel] == 0).all() and (patch[away < 15 - voxel] >= 500).all()
    assert patch.max() <= data.max()
