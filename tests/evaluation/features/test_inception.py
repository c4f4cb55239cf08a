"""The FID network: counts known of the published one, weights through a file, and what makes a number FID."""

import numpy as np
import pytest
import torch
from refusal import refused
from torch.nn import functional

from medgen.evaluation.features import inception
from medgen.evaluation.features.inception import Inception, InceptionV3


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return InceptionV3().state_dict()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(state, path)
    return path


def test_the_network_is_the_published_one_by_its_counts(state):
    # torchvision documents 27,161,264 parameters, of which 3,326,696 are the auxiliary head's; 8 classes more here.
    # The standard file loads with 566 entries: 94 convolutions of 6 tensors each, and the classifier's 2.
    network = InceptionV3()
    assert sum(p.numel() for p in network.parameters()) == 27_161_264 - 3_326_696 + 8 * 2049
    assert len(state) == 566
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6e.branch7x7dbl_2.conv.weight": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.bn.running_var": (384,),
        "fc.weight": (1008, 2048),
    }.items():
        assert tuple(state[name].shape) == shape


def random_statistics(state):
    """Batch norms that scale and shift, so that a wrong order of maps or another ε cannot cancel."""
    torch.manual_seed(1)
    made = {key: value.clone() for key, value in state.items()}
    for key, value in made.items():
        if key.endswith("running_mean") or key.endswith("bn.bias"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var") or key.endswith("bn.weight"):
            value.uniform_(0.5, 1.5)
    return made


def published(state, x, *, fid):
    """Inception v3 written down from pytorch-fid's and torchvision's definitions, on functions and names of weights
    alone."""

    def c(x, name, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var, weight, bias = (
            state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, weight, bias, eps=1e-3))

    def average(x):
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=not fid)

    def a(x, p):
        five = c(c(x, p + ".branch5x5_1"), p + ".branch5x5_2", 1, 2)
        double = c(c(c(x, p + ".branch3x3dbl_1"), p + ".branch3x3dbl_2", 1, 1), p + ".branch3x3dbl_3", 1, 1)
        return torch.cat([c(x, p + ".branch1x1"), five, double, c(average(x), p + ".branch_pool")], 1)

    def b(x, p):
        double = c(c(c(x, p + ".branch3x3dbl_1"), p + ".branch3x3dbl_2", 1, 1), p + ".branch3x3dbl_3", 2)
        return torch.cat([c(x, p + ".branch3x3", 2), double, functional.max_pool2d(x, 3, 2)], 1)

    def seven(x, p):
        one = c(c(c(x, p + ".branch7x7_1"), p + ".branch7x7_2", 1, (0, 3)), p + ".branch7x7_3", 1, (3, 0))
        two = c(x, p + ".branch7x7dbl_1")
        for number, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            two = c(two, f"{p}.branch7x7dbl_{number}", 1, padding)
        return torch.cat([c(x, p + ".branch1x1"), one, two, c(average(x), p + ".branch_pool")], 1)

    def d(x, p):
        long = c(c(c(x, p + ".branch7x7x3_1"), p + ".branch7x7x3_2", 1, (0, 3)), p + ".branch7x7x3_3", 1, (3, 0))
        parts = [c(c(x, p + ".branch3x3_1"), p + ".branch3x3_2", 2), c(long, p + ".branch7x7x3_4", 2)]
        return torch.cat([*parts, functional.max_pool2d(x, 3, 2)], 1)

    def e(x, p, pool):
        one, two = c(x, p + ".branch3x3_1"), c(c(x, p + ".branch3x3dbl_1"), p + ".branch3x3dbl_2", 1, 1)
        parts = [c(x, p + ".branch1x1")]
        for from_, name in ((one, "branch3x3_2"), (two, "branch3x3dbl_3")):
            parts += [c(from_, f"{p}.{name}a", 1, (0, 1)), c(from_, f"{p}.{name}b", 1, (1, 0))]
        return torch.cat([*parts, c(pool(x), p + ".branch_pool")], 1)

    x = c(c(c(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1)
    x = functional.max_pool2d(x, 3, 2)
    x = functional.max_pool2d(c(c(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    for block in "bcd":
        x = a(x, f"Mixed_5{block}")
    x = b(x, "Mixed_6a")
    for block in "bcde":
        x = seven(x, f"Mixed_6{block}")
    x = e(d(x, "Mixed_7a"), "Mixed_7b", average)
    x = e(x, "Mixed_7c", (lambda v: functional.max_pool2d(v, 3, 1, 1)) if fid else average)
    return functional.adaptive_avg_pool2d(x, 1).flatten(1)


@pytest.mark.parametrize("fid", [True, False])
def test_the_network_is_wired_as_the_published_one(state, fid):
    varied = random_statistics(state)
    network = InceptionV3(fid_pools=fid).eval()
    network.load_state_dict(varied)
    x = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.inference_mode():
        made, expected, other = network(x), published(varied, x, fid=fid), published(varied, x, fid=not fid)
    scale = expected.std()
    assert (made - expected).abs().max() < 1e-4 * scale
    assert (made - other).abs().max() > 1e-2 * scale  # the comparison detects a difference


def test_the_maps_have_the_sizes_of_the_published_network():
    sizes = {}
    network = InceptionV3().eval()
    for name in ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"):
        getattr(network, name).register_forward_hook(
            lambda m, i, o, name=name: sizes.update({name: tuple(o.shape[1:])})
        )
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)
    assert sizes == {
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }


@pytest.mark.parametrize("fid", [True, False])
def test_pools_are_fids_or_torchvisions(fid):
    network = InceptionV3(fid_pools=fid).eval()
    ones = torch.ones(1, 1, 5, 5)
    corner = inception._mean_pool(ones, network.Mixed_5b.padded)[0, 0, 0, 0]
    assert corner == pytest.approx(1 if fid else 4 / 9)  # the padding counts in torchvision's average
    assert [network.Mixed_7b.max_pool, network.Mixed_7c.max_pool] == [False, fid]


def test_rows_are_the_networks_of_slices_to_minus_one_and_one(weights, state):
    extractor = Inception(weights, window=(-160, 240), per_plane=1)
    volume = np.random.default_rng(0).uniform(-300, 400, (12, 12, 12))
    made = extractor(volume, (1, 1, 1))
    assert made.shape == (3, 2048) and made.dtype == np.float64
    network = InceptionV3().eval()
    network.load_state_dict(state)
    shown = volume[0].T[::-1, ::-1]  # one of 12 slices: the first, as it is displayed
    grey = torch.from_numpy(np.clip((shown + 160) / 400, 0, 1)).float()[None, None]
    image = functional.interpolate(grey, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    with torch.inference_mode():
        expected = network(image.expand(1, 3, 299, 299))[0].double().numpy()
    np.testing.assert_allclose(made[0], expected, rtol=1e-3, atol=1e-5)

    p = extractor.probabilities(made)
    expected = torch.softmax(torch.from_numpy(made) @ state["fc.weight"].double().T, 1).numpy()
    np.testing.assert_allclose(p, expected, atol=1e-12)


def test_only_the_published_hash_is_standard(weights, monkeypatch):
    extractor = Inception(weights)
    assert not extractor.standard and len(extractor.weights) == 64
    assert inception.STANDARD.startswith(inception.URL[-12:-4])  # torch.hub's convention for file names
    monkeypatch.setattr(inception, "STANDARD", extractor.weights)
    assert Inception(weights).standard


def test_a_torchvision_file_loads_with_its_own_pools(state, tmp_path):
    path = tmp_path / "torchvision.pth"
    own = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}  # as its oldest files
    own |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000), "AuxLogits.fc.weight": torch.zeros(2)}
    torch.save(own, path)
    network = Inception(path).network
    assert network.fc.weight.shape[0] == 1000 and network.Mixed_5b.padded and not network.Mixed_7c.max_pool
    assert torch.equal(network.Mixed_7c.branch1x1.conv.weight, state["Mixed_7c.branch1x1.conv.weight"])


def test_absent_and_wrong_weights_are_refused(state, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with refused("weights-missing", names="fid_weights/pt_inception"):
        Inception()
    with refused("weights-not-pytorch"):
        Inception(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with refused("weights-not-pytorch"):
        Inception(tmp_path / "text.pth")
    torch.save({k: v for k, v in state.items() if "Mixed_6c" not in k}, tmp_path / "part.pth")
    with refused("weights-key-missing", names="Mixed_6c"):
        Inception(tmp_path / "part.pth")


def test_the_cache_of_torch_hub_is_looked_at(weights, tmp_path, monkeypatch):
    cached = tmp_path / "checkpoints" / inception.URL.rsplit("/", 1)[1]
    cached.parent.mkdir()
    cached.symlink_to(weights)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert Inception().weights == Inception(weights).weights


def test_a_fetched_file_of_another_content_is_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "URL", weights.as_uri())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with refused("weights-not-fetched"):
        Inception("hub")
    monkeypatch.setattr(inception, "STANDARD", Inception(weights).weights)
    assert Inception("hub").standard
