"""Training patches: paired or unpaired, centred on the body, augmented, and reproducible.

Sample n of a run is a pure function of (seed, n): case, position and augmentation come from a generator seeded with
both. So a resumed run continues at sample n without saved sampler state, loader workers need no seeds of their own, and
two processes together draw the same samples as one.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from medgen.data.cache import Cached, Channels, mapped
from medgen.data.degradation import Draw
from medgen.data.intensity import Range, encode_channels
from medgen.data.labels.codec import LabelTable
from medgen.data.random_affine import AffineTransform, RandomAffine, cut_patch
from medgen.data.slabs import fold_batch
from medgen.errors import InputError
from medgen.settings import Degradation
from medgen.types import Batch

AXES = {"x": 0, "y": 1, "z": 2}


class Patches(Dataset):
    """Patches of a cohort, indexed by sample number.

    Args:
        sources, targets: case name → volumes, one per contrast. Paired: the same names on both sides. Without sources,
            samples have a "target" only.
        labels: case name → file of its class map, see ``data.labels.training``; empty, or one for every source, or
            without sources for every target.
        domains: case name → domain; the target is then taken from a domain other than the source's.
        siblings: case name → cases of the same patient on the same grid in other domains; a source with siblings gets
            its target from them, with the same position, flips, rotation and scale ("paired" in the sample).
        paired: take both patches from the same case and position.
        patch: size in voxels (X, Y, Z); smaller volumes are padded with their edge values.
        slab: axis whose slices ``batches`` folds into channels, see ``data.slabs``; None in 3D.
        centres: case name → voxels (n, 3); a share ``foreground_fraction`` of patches is centred near one of them.
            Unpaired, this applies to source patches only.
        body: share of the other patches that is centred near a body voxel; the rest lie anywhere.
        match_position: unpaired: centre the target patch at the same position relative to the body's bounding box.
        degradation: paired: make each source patch from the target's, see ``data.degradation``.
        flip, rotate, scale, gamma, noise, dose, artefacts: see ``settings.Sampling``.
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
        foreground_fraction: float = 0.0,
        slab: int | None = None,
        body: float = 0.9,
        match_position: bool = True,
        degradation: Degradation | None = None,
        flip: tuple[str, ...] = (),
        rotate: float = 0.0,
        scale: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        dose: float = 0.0,
        artefacts: tuple[dict[str, Any], ...] = (),
    ) -> None:
        if paired and set(sources) != set(targets):
            differing = sorted(set(sources) ^ set(targets))
            raise ValueError(f"paired sampling needs the same cases as sources and targets; {differing} have only one")
        self.sources, self.targets, self.labels = sources, targets, labels or {}
        self.domains, self.siblings, self.paired, self.seed = domains or {}, siblings or {}, paired, seed
        self.centres, self.foreground_fraction = centres or {}, foreground_fraction
        self.patch, self.slab = np.asarray(patch), slab
        self.body, self.match_position, self.gamma, self.noise = body, match_position, gamma, noise
        self.dose, self.degradation = dose, degradation
        self.spatial = RandomAffine(tuple(AXES[a] for a in flip), rotate, scale)
        # Margin that keeps a rotated patch inside the volume; none along a slab's axis, to sample its end slices too.
        angle = np.deg2rad(min(rotate, 45))
        margin = (1 + scale) * (np.cos(angle) + np.sin(angle)) - 1
        self.inside = self.patch + 2 * np.ceil(self.patch * margin / 2).astype(int)
        if slab is not None:
            self.inside[slab] = self.patch[slab]
        self.artefacts = _artefacts(artefacts, fixed=paired or bool(self.labels or self.siblings))

    def __getitem__(self, n: int) -> Batch:
        rng = np.random.default_rng([self.seed, n])
        if not self.sources:
            return self._target_alone(n, rng)
        source_name = self._case(sorted(self.sources), n, side=0)
        target_name = source_name if self.paired else self._case(self._partners(source_name, n), n, side=1)
        paired = self.paired or source_name in self.siblings
        source, target = self.sources[source_name], self.targets[target_name]
        # The body mask of a label map says little about where its image is informative: use the target's body.
        table = source[0].range if isinstance(source[0].range, LabelTable) else None
        start = self._start(target[0] if table else source[0], rng, centres=self.centres.get(source_name))
        start_target = start if paired else self._start(target[0], rng, match=(source[0], start))
        exponent = self._gamma_exponent(len(source), rng)
        turn = self.spatial.draw(rng)
        turn_target = turn if paired else self.spatial.draw(rng)
        spacing = source[0].spacing
        worse = None if self.degradation is None else Draw(self.degradation, spacing, rng)
        x = self._cut(source, start, turn, spacing, worse)
        y = self._cut(target, start_target, turn_target, spacing if paired else target[0].spacing)
        if self.dose:
            x = _with_dose(x, y, rng.uniform(1 - self.dose, 1 + self.dose))
        x = x if table else self._with_artefacts(_with_gamma(x, exponent), spacing, rng)
        if self.noise:
            added = self._noise(rng)
            x, y = _with_noise(x, added), _with_noise(y, added if paired else self._noise(rng))
        sample = {
            "source": torch.from_numpy(np.ascontiguousarray(x)),
            "target": torch.from_numpy(np.ascontiguousarray(y)),
            "source_case": source_name,
            "target_case": target_name,
        }
        if self.labels:
            sample["labels"] = self._classes(source_name, start, turn, spacing)
        if self.domains:
            sample |= {"source_domain": self.domains[source_name], "target_domain": self.domains[target_name]}
            sample["paired"] = paired
        return sample

    def _target_alone(self, n: int, rng: np.random.Generator) -> Batch:
        name = self._case(sorted(self.targets), n, side=1)
        target = self.targets[name]
        start, turn = self._start(target[0], rng, centres=self.centres.get(name)), self.spatial.draw(rng)
        y = self._cut(target, start, turn, target[0].spacing)
        y = _with_noise(y, self._noise(rng)) if self.noise else y
        sample = {"target": torch.from_numpy(np.ascontiguousarray(y)), "target_case": name}
        return sample | ({"labels": self._classes(name, start, turn, target[0].spacing)} if self.labels else {})

    def _classes(self, name: str, start: np.ndarray, turn: AffineTransform, spacing: tuple[float, ...]) -> torch.Tensor:
        """Classes (1, X, Y, Z) of a patch."""
        cut = cut_patch(mapped(self.labels[name]), start, self.patch, turn, spacing, labels=True)
        return torch.from_numpy(cut[None].astype(np.int64))

    def _partners(self, source: str, n: int) -> list[str]:
        """Candidate targets of an unpaired sample: all cases or, with domains, the cases of one other domain."""
        names = sorted(self.targets)
        if not self.domains:
            return names
        names = self.siblings.get(source, names)
        others = sorted({self.domains[name] for name in names} - {self.domains[source]})
        domain = others[np.random.default_rng([self.seed, n, 2]).integers(len(others))]
        return [name for name in names if self.domains[name] == domain]

    def _case(self, names: list[str], n: int, side: int) -> str:
        """Case of sample n: every case once per epoch, in a new order each epoch."""
        epoch, i = divmod(n, len(names))
        return names[_order(self.seed, side, epoch, len(names))[i]]

    def _start(
        self,
        case: Cached,
        rng: np.random.Generator,
        match: tuple[Cached, np.ndarray] | None = None,
        centres: np.ndarray | None = None,
    ) -> np.ndarray:
        shape = np.array(case.data.shape)
        if centres is not None and rng.random() < self.foreground_fraction:
            centre = centres[rng.integers(len(centres))] + rng.uniform(-0.2, 0.2, 3) * self.inside
        elif match is not None and self.match_position:
            other, start = match
            low, high = other.box
            relative = (start + self.patch / 2 - low) / np.maximum(high - low, 1)
            low, high = case.box
            centre = low + relative * (high - low) + rng.normal(0, 0.05, 3) * (high - low)
        elif rng.random() < self.body and len(case.body):
            # Shift the centre away from the voxel, so that patches show the body surface from both sides.
            centre = case.body[rng.integers(len(case.body))] + rng.uniform(-0.25, 0.25, 3) * self.inside
        else:
            centre = rng.uniform(0, 1, 3) * shape
        start = np.rint(centre - self.patch / 2).astype(int)
        inset = np.where(self.inside <= shape, self.inside - self.patch, 0) // 2  # 0 where the volume is too small
        low, high = inset, shape - self.patch - inset
        inside = np.minimum(np.maximum(start, low), np.maximum(low, high))
        return np.where(low <= high, inside, -((self.patch - shape) // 2))

    def _cut(
        self,
        case: Channels,
        start: np.ndarray,
        turn: AffineTransform,
        spacing: tuple[float, ...],
        worse: Draw | None = None,
    ) -> np.ndarray:
        """Encoded patch (C, X, Y, Z); all contrasts get the same transform and degradation."""
        is_label_map = isinstance(case[0].range, LabelTable)
        reach = 0 if worse is None else worse.margin
        size = self.patch + 2 * reach
        cuts = [
            cut_patch(
                c.data, start - reach, size, turn, spacing, labels=is_label_map,
                background=c.range.background if isinstance(c.range, Range) else None,
            )
            for c in case
        ]  # fmt: skip
        if worse is not None:
            masked = [c.range.background if isinstance(c.range, Range) else None for c in case]
            cuts = [worse(cut, background) for cut, background in zip(cuts, masked, strict=True)]
        return encode_channels([c.range for c in case], cuts)

    def _gamma_exponent(self, contrasts: int, rng: np.random.Generator) -> np.ndarray | None:
        return 2.0 ** rng.uniform(-self.gamma, self.gamma, (contrasts, 1, 1, 1)) if self.gamma else None

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        """Gaussian noise (X, Y, Z) of random strength, white or with a random correlation of neighbouring voxels."""
        noise = rng.standard_normal(tuple(self.patch), dtype=np.float32)
        if rng.random() < 0.5:
            noise = ndimage.gaussian_filter(noise, rng.uniform(0.3, 1.0))
            noise /= noise.std()
        return noise * np.float32(rng.uniform(0, self.noise))

    def _with_artefacts(self, x: np.ndarray, spacing: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
        if not self.artefacts:
            return x
        import torchio

        image = torchio.ScalarImage(tensor=torch.from_numpy(np.ascontiguousarray(x)), affine=np.diag([*spacing, 1.0]))
        with torch.random.fork_rng(devices=[]):  # TorchIO draws from torch's global generator
            torch.manual_seed(int(rng.integers(2**62)))
            for transform in self.artefacts:
                image = transform(image)
        return np.asarray(image.data)


def _with_noise(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Add noise (X, Y, Z) to every contrast; -1, a masked background or air, stays."""
    return np.where(x <= -1, x, np.clip(x + noise, -1, 1))


def _with_dose(x: np.ndarray, y: np.ndarray, factor: float) -> np.ndarray:
    """Multiply what x has more than y; values at an end of the window, a masked background or clipped, stay."""
    return np.where(np.abs(x) >= 1, x, np.clip(y + np.float32(factor) * (x - y), -1, 1))


def _with_gamma(x: np.ndarray, exponent: np.ndarray | None) -> np.ndarray:
    """Apply a gamma curve to encoded intensities, with one exponent per contrast."""
    return x if exponent is None else ((x + 1) / 2) ** exponent.astype(np.float32) * 2 - 1


def _artefacts(specs: tuple[dict[str, Any], ...], *, fixed: bool) -> list[Any]:
    """Build TorchIO's transforms; ``fixed``: refuse spatial ones, which would misalign source and target or labels."""
    if not specs:
        return []
    try:
        import torchio
    except ImportError:
        raise InputError(
            "dependency-missing", "sampling.artefacts needs TorchIO; install it: pip install 'medgen[artefacts]'"
        ) from None

    transforms = []
    for spec in specs:
        transform = getattr(torchio, spec["name"], None)
        if not (isinstance(transform, type) and issubclass(transform, torchio.Transform)):
            raise InputError(
                "config-artefact-unknown",
                f"sampling.artefacts: TorchIO has no transform named {spec['name']!r}; correct its name",
            )
        if fixed and issubclass(transform, torchio.SpatialTransform):
            raise InputError(
                "config-artefact-spatial",
                f"sampling.artefacts: {spec['name']} would misalign the source with its target or "
                "labels; use sampling.flip, rotate and scale, which transform both",
            )
        try:
            transforms.append(transform(p=spec.get("probability", 0.2), **spec.get("options", {})))
        except (TypeError, ValueError) as error:
            raise InputError(
                "config-artefact-invalid",
                f"sampling.artefacts: {spec['name']} has invalid options; correct them: {error}",
            ) from None
    return transforms


@lru_cache(maxsize=16)
def _order(seed: int, side: int, epoch: int, cases: int) -> list[int]:
    return np.random.default_rng([seed, side, epoch, 1]).permutation(cases).tolist()


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
    """Yield the batches of steps first_step … steps-1 for process ``rank`` of ``world``.

    Step s of the run uses samples s·batch·world … (s+1)·batch·world-1, divided among the processes. Slabs are folded
    to (B, C·k, the two other sides).
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
    for loaded in loader:
        yield loaded if patches.slab is None else fold_batch(loaded, patches.slab)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
