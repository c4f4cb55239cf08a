"""Training patches per second, warm and in the first epoch, compared with MONAI and TorchIO.

The crops are random, so the results that must be equal are the encoded whole volumes that both crop from.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd, ScaleIntensityRanged
from scans import cohort
from timing import compare, largest_difference, size

from medgen.data.cache import Cached, cached, on_threads
from medgen.data.patches import Patches

BOTH = ["source", "target"]
CASES, SIDE = size((8, 64), (2, 16))
SHAPE, MM = size(((160, 128, 96), 2.5), ((40, 32, 24), 10.0))
WINDOW: dict[str, Any] = {"kind": "window", "low": -1000, "high": 1000}
WARM = size(200, 8)  # patches of a call


def files(root: Path) -> list[dict[str, Path]]:
    return [{side: root / side / path.name for side in BOTH} for path in sorted((root / "source").iterdir())]


def ours(root: Path, cache: Path, side: int | tuple[int, ...] = SIDE) -> Patches:
    """Pairs of a cohort, as training caches and draws them."""
    sides: dict[str, dict[str, tuple[Cached, ...]]] = {side: {} for side in BOTH}
    paths = [(name, path) for case in files(root) for name, path in case.items()]
    entries = on_threads(lambda item: cached(cache / item[0], item[1], WINDOW, spacing=None), paths)
    for (name, path), entry in zip(paths, entries, strict=True):
        sides[name][path.name] = (entry,)
    patch = (side,) * 3 if isinstance(side, int) else side
    return Patches(sides["source"], sides["target"], paired=True, patch=patch, seed=0)  # type: ignore[arg-type]


def monai(root: Path, side: int | tuple[int, ...] = SIDE, *, cache: bool) -> CacheDataset | Dataset:
    steps = [
        LoadImaged(BOTH),
        EnsureChannelFirstd(BOTH),
        ScaleIntensityRanged(BOTH, a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True),
        RandSpatialCropd(BOTH, roi_size=side, random_size=False),
    ]
    if cache:
        return CacheDataset(files(root), Compose(steps), progress=False, num_workers=2)
    return Dataset(files(root), Compose(steps))


def torchio(root: Path, patches: int, *, cache: bool) -> tio.Queue:
    """A queue of patches; ``cache``: of subjects in memory, else it reads each file once for ``patches`` patches."""
    encode = torchio_encoding()
    subjects = [tio.Subject({side: tio.ScalarImage(path) for side, path in case.items()}) for case in files(root)]
    if cache:
        subjects = [encode(subject) for subject in subjects]
    data = tio.SubjectsDataset(subjects, transform=None if cache else encode)
    return tio.Queue(data, patches * CASES, patches, tio.UniformSampler(SIDE), num_workers=0)


def torchio_encoding() -> tio.Transform:
    return tio.Compose([tio.Clamp(-1000, 1000), tio.RescaleIntensity((-1, 1), in_min_max=(-1000, 1000))])


def whole_differ(root: Path, folder: Path) -> dict[str, float]:
    """How much the encoded first volume of medgen differs from that of each peer."""
    whole = ours(root, folder, SHAPE)
    sample = next(whole[n]["source"] for n in range(CASES) if whole[n]["source_case"] == files(root)[0]["source"].name)
    encode = torchio_encoding()
    peers = {
        "MONAI": monai(root, SHAPE, cache=False)[0]["source"].as_tensor(),
        "TorchIO": encode(tio.ScalarImage(files(root)[0]["source"])).data,
    }
    return {name: largest_difference(sample, y) for name, y in peers.items()}


def warm(root: Path, folder: Path, apart: dict[str, float]) -> None:
    patches, cached_pairs = ours(root, folder), monai(root, cache=True)
    number = iter(range(10**9))

    def take() -> int:
        return sum(len(patches[next(number)]["source"]) for _ in range(WARM))

    def take_monai() -> int:
        return sum(len(cached_pairs[n % CASES]["source"]) for n in range(WARM))

    def drawn_by(queue: tio.Queue) -> int:
        return sum(len(queue[n]["source"][tio.DATA]) for n in range(WARM))

    in_memory, from_files = (torchio(root, WARM // CASES, cache=cache) for cache in (True, False))
    peers = {
        "MONAI CacheDataset, RandSpatialCrop": take_monai,
        "TorchIO Queue, subjects in memory": lambda: drawn_by(in_memory),
        f"TorchIO Queue, {WARM // CASES} patches per file": lambda: drawn_by(from_files),
    }
    for name, peer in peers.items():
        row = f"a {SIDE}³ training pair, warm ({name})"
        differ = apart[name.split()[0]]
        compare(__file__, row, take, peer, tolerance=1e-5, difference=lambda *_, d=differ: d, count=WARM, rounds=3)


def first_epoch(root: Path, folder: Path, apart: dict[str, float]) -> None:
    """One patch of every case, from files that were never read before."""

    def take() -> int:
        shutil.rmtree(folder, ignore_errors=True)
        patches = ours(root, folder)
        return sum(len(patches[n]["source"]) for n in range(CASES))

    def take_monai(cache: bool) -> int:
        pairs = monai(root, cache=cache)
        return sum(len(pairs[n]["source"]) for n in range(CASES))

    def take_torchio() -> int:
        queue = torchio(root, 1, cache=False)
        return sum(len(queue[n]["source"][tio.DATA]) for n in range(CASES))

    peers = {
        "MONAI CacheDataset": lambda: take_monai(True),
        "MONAI Dataset": lambda: take_monai(False),
        "TorchIO Queue": take_torchio,
    }
    for name, peer in peers.items():
        row = f"a {SIDE}³ training pair, first epoch from .nii.gz ({name})"
        differ = apart[name.split()[0]]
        compare(__file__, row, take, peer, tolerance=1e-5, difference=lambda *_, d=differ: d, count=CASES, rounds=3)


def main() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        root = cohort(Path(name) / "cohort", CASES, SHAPE, MM)
        apart = whole_differ(root, Path(name) / "cache")
        warm(root, Path(name) / "cache", apart)
        first_epoch(root, Path(name) / "first", apart)


if __name__ == "__main__":
    main()
