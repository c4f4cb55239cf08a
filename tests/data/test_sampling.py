import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from medgen.data.cache import Cached
from medgen.data.codecs import Range
from medgen.data.sampling import Patches, batches
from medgen.types import InputError

PATCH = (8, 8, 8)
FOLDER = tempfile.TemporaryDirectory()


def volume(seed, shape=(24, 20, 16), body=((6, 18), (5, 15), (4, 12))):
    """HU that tell their own place: x + 100 y + 10000 z, so a patch reveals where it was taken."""
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
    second[3]  # what was drawn before does not matter
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


def test_every_case_once_an_epoch():
    patches = make()
    for epoch in range(3):
        names = [patches[4 * epoch + i]["source_case"] for i in range(4)]
        assert sorted(names) == sorted(cohort())


def test_unpaired_sides_go_their_own_ways():
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
    """The same relative place of another patient's body, wherever that body lies."""
    sources = {"a": (volume(0, (40, 40, 40), ((2, 22), (2, 22), (2, 22))),)}
    targets = {"b": (volume(0, (40, 40, 40), ((18, 38), (18, 38), (18, 38))),)}
    patches = Patches(sources, targets, paired=False, patch=PATCH, seed=0, body=1.0)
    shift = [np.subtract(place(s["target"]), place(s["source"])) for s in (patches[n] for n in range(60))]
    assert np.abs(np.mean(shift, 0) - 14).max() < 3  # 16, less where patches are held inside the volume


def test_small_volumes_are_padded():
    small = {"a": (volume(0, (5, 20, 6), ((0, 5), (0, 20), (0, 6))),)}
    assert Patches(small, small, paired=True, patch=PATCH, seed=0)[0]["source"].shape == (1, *PATCH)


def test_two_processes_draw_what_one_would():
    patches = make()
    whole = list(batches(patches, batch=2, first_step=3, steps=5))
    parts = [list(batches(patches, batch=1, first_step=3, steps=5, rank=r, world=2)) for r in range(2)]
    for step in range(2):
        both = torch.cat([parts[r][step]["source"] for r in range(2)])
        assert torch.equal(both, whole[step]["source"])


def test_resumed_stream_goes_on_where_it_stopped():
    patches = make()
    whole = list(batches(patches, batch=2, first_step=0, steps=5))
    rest = list(batches(patches, batch=2, first_step=3, steps=5))
    assert len(rest) == 2
    assert torch.equal(rest[0]["source"], whole[3]["source"])


def test_workers_draw_the_same():
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
    with pytest.raises(InputError, match="RandomNose"):
        make(artefacts=({"name": "RandomNose"},))


def test_contrasts_of_a_case_share_place_and_turn_but_not_the_gamma():
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
        seen = {int(patches._start(volume(0), np.random.default_rng(n))[2] + patches.offset[2]) for n in range(300)}
        assert seen == set(range(16))


def test_a_turned_slab_sees_its_neighbours_not_its_own_edge():
    """Sagittal slabs of HU that grow along x: turned, they must hold more than their own slice's one value."""
    sources = {"a": (volume(0, (40, 40, 40), ((10, 30),) * 3),)}
    patches = Patches(sources, sources, paired=True, patch=(1, 16, 16), slab=0, seed=0, rotate=20, body=1.0)
    decoded = [Range(0, 500_000).decode(patches[n]["source"].numpy()) for n in range(30)]
    gradient = np.array([np.linalg.lstsq(plane_of(d), d.ravel(), rcond=None)[0] for d in decoded])
    lengths = np.abs(gradient[:, :2]).max(1)
    assert len(set(np.round(lengths, 2))) > 10  # turned differently
    residue = [np.abs(plane_of(d) @ g - d.ravel()).max() for g, d in zip(gradient, decoded, strict=True)]
    assert max(residue) < 50  # a plane through a linear volume, nowhere replicated (z counts 10000 a voxel)


def plane_of(patch):
    u, v = np.meshgrid(np.arange(patch.shape[2]), np.arange(patch.shape[3]), indexing="ij")
    return np.stack([u.ravel(), v.ravel(), np.ones(u.size)], 1)


@pytest.mark.parametrize("patch", [(8, 8, 8), (7, 8, 5)])
def test_turning_by_nothing_leaves_the_voxels_where_they_are(patch):
    """Crop and patch share their centre, or the patch would be the mean of neighbours."""
    data = np.random.default_rng(0).normal(0, 100, (24, 20, 16)).astype(np.float32)
    path = Path(FOLDER.name) / f"noise{patch}.npy"
    np.save(path, data)
    entry = (Cached(path, np.zeros((0, 3), np.int32), Range(-1000, 1000), (1.0, 1.0, 1.0), {}),)
    patches = Patches({"a": entry}, {"a": entry}, paired=True, patch=patch, seed=0, scale=0.3)
    patches.spatial.transforms[0].prob = 0.0
    found = Range(-1000, 1000).decode(patches[0]["source"].numpy()).ravel()
    assert np.abs(found[:, None] - data.ravel()).min(1).max() < 0.01


def test_patches_are_centred_where_asked():
    centres = {"case0": np.array([[12, 10, 8]]), "case1": np.array([[10, 9, 7], [14, 12, 9]])}
    patches = make(centres=centres, centred=1.0, body=0.0)
    near, far = [], []
    for n in range(80):
        sample = patches[n]
        middle = np.array(place(sample["source"])) + 4
        known = centres.get(sample["source_case"])
        if known is None:
            far.append(np.abs(middle - [12, 10, 8]).max())
        else:
            near.append(np.abs(known - middle).max(1).min())
    assert max(near) <= 3 < max(far)  # a quarter of the patch and rounding; cases without a place lie anywhere


def test_without_centres_the_draws_are_what_they_were():
    for n in range(5):
        assert torch.equal(make()[n]["source"], make(centres={}, centred=0.5)[n]["source"])
