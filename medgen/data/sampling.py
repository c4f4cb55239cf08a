"""Training patches: paired and unpaired, body-aware, augmented, and the same whenever asked again.

Sample n of a run is a pure function of (seed, n): its case, its place and its augmentation come from a
generator seeded by the two. So a resumed run goes on at sample n without any saved sampler state, loader
workers need no seeding of their own, and two processes together draw what one would.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandAffined, RandFlipd
from monai.transforms.compose import Compose as ComposeType
from torch.utils.data import DataLoader, Dataset

from medgen.data.cache import Cached, Channels
from medgen.data.codecs import encoded
from medgen.data.label_maps import LabelTable
from medgen.data.slabs import fold_batch
from medgen.types import Batch, InputError

AXES = {"x": 0, "y": 1, "z": 2}


class Patches(Dataset):
    """Patches of a cohort, indexed by sample number.

    Args:
        sources, targets: case name → volumes, one a contrast. Paired: the same names on both sides.
        labels: case name → file of its classes, see ``data.labels``; empty, or of every source.
        domains: case name → domain; targets are then taken from another domain than the source's.
        siblings: case name → cases of the same patient on the same grid in other domains; a source that has some gets
            its target among them, from the same place and turned alike ("paired" in the sample).
        paired: take both patches from one case and one place.
        patch: voxels (X, Y, Z); smaller volumes are padded by their edge values.
        slab: axis whose slices ``batches`` folds into channels, see ``data.slabs``; none in 3D.
        centres: case name → voxels (n, 3), one of which ``centred`` of the patches have near their middle; paired,
            or the sources' patches.
        body: share of the other patches centred on a body voxel; the rest lie anywhere.
        match_position: unpaired: centre the target's patch at the same place relative to its body's box.
        flip, rotate, scale, gamma, artefacts: see ``config.Sampling``.
    """

    def __init__(
        self,
        sources: dict[str, Channels],
        targets: dict[str, Channels],
        *,
        paired: bool,
        patch: tuple[int, int, int],
        seed: int,
        labels: dict[str, Path] | None = None,
        domains: dict[str, int] | None = None,
        siblings: dict[str, list[str]] | None = None,
        centres: dict[str, np.ndarray] | None = None,
        centred: float = 0.0,
        slab: int | None = None,
        body: float = 0.9,
        match_position: bool = True,
        flip: tuple[str, ...] = (),
        rotate: float = 0.0,
        scale: float = 0.0,
        gamma: float = 0.0,
        artefacts: tuple[dict[str, Any], ...] = (),
    ) -> None:
        if paired and set(sources) != set(targets):
            raise ValueError(f"paired sampling needs the same cases on both sides; got {sources} and {targets}")
        self.sources, self.targets, self.labels = sources, targets, labels or {}
        self.domains, self.siblings, self.paired, self.seed = domains or {}, siblings or {}, paired, seed
        self.centres, self.centred = centres or {}, centred
        self.patch, self.slab = np.asarray(patch), slab
        self.body, self.match_position, self.gamma = body, match_position, gamma
        self.spatial = _spatial(patch, flip, rotate, scale)
        self.artefacts = _artefacts(artefacts)
        # Turned and shrunk patches need neighbours beyond their edge: crop more, transform into the centre.
        turn = np.deg2rad(min(rotate, 45))
        margin = (1 + scale) * (np.cos(turn) + np.sin(turn))
        # By an even number, or the centres would lie half a voxel apart and patches be smoother than volumes.
        self.crop = self.patch + 2 * np.ceil(self.patch * (margin - 1) / 2).astype(int)
        # What stays inside the volume: the crop, but of a slab no more than its own slices, or a volume's first and
        # last slices would never be seen. How far turning takes a slab's rim out of its slices depends on its width.
        self.inside, self.offset = self.crop.copy(), np.zeros(3, int)
        if slab is not None:
            turned = np.sin(np.deg2rad(min(rotate, 90))) * np.delete(self.patch, slab).max() / 2
            self.crop[slab] += 2 * int(np.ceil(turned))
            self.inside[slab] = self.patch[slab]
            self.offset[slab] = (self.crop[slab] - self.patch[slab]) // 2

    def __getitem__(self, n: int) -> Batch:
        rng = np.random.default_rng([self.seed, n])
        source_name = self._case(sorted(self.sources), n, side=0)
        target_name = source_name if self.paired else self._case(self._partners(source_name, n), n, side=1)
        paired = self.paired or source_name in self.siblings
        source, target = self.sources[source_name], self.targets[target_name]
        # Where a label map lies says little about where its image has something to learn.
        table = source[0].range if isinstance(source[0].range, LabelTable) else None
        start = self._start(target[0] if table else source[0], rng, centres=self.centres.get(source_name))
        start_target = start if paired else self._start(target[0], rng, match=(source[0], start))
        x = encoded([c.range for c in source], [_crop(c.data, start, self.crop) for c in source])
        y = encoded([c.range for c in target], [_crop(c.data, start_target, self.crop) for c in target])
        given = {"x": x, "y": y}
        if self.labels:
            given["labels"] = _crop(np.load(self.labels[source_name], mmap_mode="r"), start, self.crop)[None]
        made = self._augment(given, rng, paired)
        if table:
            made["x"] = table.encode(table.decode(made["x"]))  # what turning has blurred is one label again
        sample = {
            "source": torch.from_numpy(np.ascontiguousarray(made["x"])),
            "target": torch.from_numpy(np.ascontiguousarray(made["y"])),
            "source_case": source_name,
            "target_case": target_name,
        }
        if self.labels:
            sample["labels"] = torch.from_numpy(made["labels"].astype(np.int64))
        if self.domains:
            sample |= {"source_domain": self.domains[source_name], "target_domain": self.domains[target_name]}
            sample["paired"] = paired
        return sample

    def _partners(self, source: str, n: int) -> list[str]:
        """Cases that an unpaired sample's target is taken from: all, or with domains those of another domain."""
        names = sorted(self.targets)
        if not self.domains:
            return names
        names = self.siblings.get(source, names)
        others = sorted({self.domains[name] for name in names} - {self.domains[source]})
        domain = others[np.random.default_rng([self.seed, n, 2]).integers(len(others))]
        return [name for name in names if self.domains[name] == domain]

    def _case(self, names: list[str], n: int, side: int) -> str:
        """Every case once an epoch, in a new order each epoch."""
        epoch, i = divmod(n, len(names))
        return names[np.random.default_rng([self.seed, side, epoch, 1]).permutation(len(names))[i]]

    def _start(
        self,
        case: Cached,
        rng: np.random.Generator,
        match: tuple[Cached, np.ndarray] | None = None,
        centres: np.ndarray | None = None,
    ) -> np.ndarray:
        shape = np.asarray(case.data.shape)
        if centres is not None and rng.random() < self.centred:
            centre = centres[rng.integers(len(centres))] + rng.uniform(-0.2, 0.2, 3) * self.inside
        elif match is not None and self.match_position:
            other, start = match
            low, high = _box(other)
            place = (start + self.crop / 2 - low) / np.maximum(high - low, 1)
            low, high = _box(case)
            centre = low + place * (high - low) + rng.normal(0, 0.05, 3) * (high - low)
        elif rng.random() < self.body and len(case.body):
            # A patch centred somewhere in reach of the voxel, so that the body's rim is seen from both sides.
            centre = case.body[rng.integers(len(case.body))] + rng.uniform(-0.25, 0.25, 3) * self.inside
        else:
            centre = rng.uniform(0, 1, 3) * shape
        start = np.rint(centre - self.crop / 2).astype(int)
        low, high = -self.offset, shape - self.inside - self.offset
        return np.where(low <= high, np.clip(start, low, np.maximum(low, high)), -((self.crop - shape) // 2))

    def _augment(self, patches: dict[str, np.ndarray], rng: np.random.Generator, paired: bool) -> dict[str, np.ndarray]:
        x = patches["x"]
        if self.gamma:
            exponent = 2.0 ** rng.uniform(-self.gamma, self.gamma, (len(x), 1, 1, 1))  # each contrast its own
            x = ((x + 1) / 2) ** exponent.astype(np.float32) * 2 - 1
        patches = patches | {"x": x}
        if self.spatial is not None:
            together = [k for k in patches if paired or k != "y"]
            turned = self._transform({k: patches[k] for k in together}, rng)
            patches = turned if paired else turned | self._transform({"y": patches["y"]}, rng)
        if self.artefacts:
            with torch.random.fork_rng(devices=[]):  # TorchIO draws from torch's global generator
                torch.manual_seed(int(rng.integers(2**62)))
                for transform in self.artefacts:
                    patches["x"] = transform(torch.from_numpy(np.ascontiguousarray(patches["x"]))).numpy()
        return patches

    def _transform(self, patches: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        assert self.spatial is not None
        self.spatial.set_random_state(seed=int(rng.integers(2**31)))
        out = self.spatial(patches)
        return {key: np.asarray(out[key]) for key in patches}


def _spatial(patch: tuple[int, ...], flip: tuple[str, ...], rotate: float, scale: float) -> ComposeType | None:
    keys = ("x", "y", "labels")
    steps: list[Any] = [RandFlipd(keys, prob=0.5, spatial_axis=AXES[a], allow_missing_keys=True) for a in flip]
    if rotate or scale:
        turn = (float(np.deg2rad(rotate)),) * 3
        steps.append(
            RandAffined(
                keys,
                prob=0.8,
                spatial_size=patch,
                rotate_range=turn,
                scale_range=(scale,) * 3,
                padding_mode="border",
                mode=("bilinear", "bilinear", "nearest"),
                allow_missing_keys=True,
            )
        )
    return Compose(steps) if steps else None


def _artefacts(specs: tuple[dict[str, Any], ...]) -> list[Any]:
    if not specs:
        return []
    try:
        import torchio
    except ImportError:
        raise InputError("sampling.artefacts needs TorchIO; install it: pip install 'medgen[artefacts]'") from None

    transforms = []
    for spec in specs:
        transform = getattr(torchio, spec["name"], None)
        if not (isinstance(transform, type) and issubclass(transform, torchio.Transform)):
            raise InputError(f"sampling.artefacts: TorchIO has no transform named {spec['name']!r}")
        try:
            transforms.append(transform(p=spec.get("probability", 0.2), **spec.get("options", {})))
        except (TypeError, ValueError) as error:
            raise InputError(f"sampling.artefacts: {spec['name']}: {error}") from None
    return transforms


def _box(case: Cached) -> tuple[np.ndarray, np.ndarray]:
    if not len(case.body):
        return np.zeros(3), np.asarray(case.data.shape, float)
    return case.body.min(0).astype(float), case.body.max(0).astype(float)


def _crop(data: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    low, high = np.maximum(start, 0), np.minimum(start + size, data.shape)
    cut = np.asarray(data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], np.float32)
    beyond = list(zip(low - start, start + size - high, strict=True))
    return np.pad(cut, beyond, mode="edge") if np.any(beyond) else cut


def batches(
    patches: Patches,
    *,
    batch: int,
    first_step: int,
    steps: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches of steps first_step … steps-1 for process ``rank`` of ``world``.

    Step s of the whole run uses samples s·batch·world … (s+1)·batch·world-1, each process its own part. Slabs come
    folded: (B, C·k, the two other sides).
    """
    numbers: Any = [
        range((step * world + rank) * batch, (step * world + rank + 1) * batch) for step in range(first_step, steps)
    ]
    loader = DataLoader(
        patches,
        batch_sampler=numbers,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
    )
    for found in loader:
        yield found if patches.slab is None else fold_batch(found, patches.slab)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
