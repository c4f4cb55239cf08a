"""From settings to volumes ready for training: cohort, split, checks, alignment, cache, fingerprint."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.config import Settings
from medgen.data.align import align
from medgen.data.cache import Cached, cached
from medgen.data.codecs import Range, typical_range
from medgen.data.cohort import check_pairs, load_split, read_cohort, save_split, split_cases
from medgen.io.volume import Volume, read_volume
from medgen.types import Case, InputError


@dataclass(frozen=True)
class Prepared:
    """What the loop trains and validates on.

    ``sources``, ``targets``: training volumes by case name. ``validation``: (case name, source, its truth or
    None). ``real_targets``: real target volumes for validation without truth. Ranges are the training cases'
    typical ones; ``scans`` describe the training sources; ``record`` goes into the model folder.
    """

    sources: dict[str, Cached]
    targets: dict[str, Cached]
    validation: list[tuple[str, Cached, Cached | None]]
    real_targets: dict[str, Cached]
    source_range: Range
    target_range: Range
    spacing: tuple[float, float, float]
    scans: list[dict[str, Any]]
    record: dict[str, Any]


def prepare(settings: Settings, out: Path, *, resume: bool = False, say: Callable[[str], None] = print) -> Prepared:
    """Read, split, check and cache the cohort; writes ``out/split.json``, or keeps to it with ``resume``.

    Raises:
        InputError: no root given, nothing to train on, grids that disagree, unreadable volumes.
    """
    data = settings.data
    if data.root is None:
        raise InputError("data.root is not set; give the cohort folder, e.g. data.root=COHORT")
    cohort = read_cohort(
        data.root,
        source_channel=data.source_channel,
        target_channel=data.target_channel,
        patient_pattern=data.patient_pattern,
    )
    if data.paired:
        cases = [c for c in cohort.cases if c.source and c.target]
        alone = [c.name for c in cohort.cases if bool(c.source) != bool(c.target)]
        if alone and cases:
            say(f"warning: {len(alone)} cases have no partner and are left out: {', '.join(alone[:10])}")
        if data.align == "refuse":
            check_pairs(cases)
    else:
        cases = [c for c in cohort.cases if c.source or c.target]
    _refuse_empty(cases, data.paired, data.root)
    recorded = out / "split.json" if resume and (out / "split.json").exists() else data.split
    if recorded is not None:  # a resumed run keeps its patients apart as it began, whatever came to the folder
        split = load_split(recorded, cases)
    else:
        split = split_cases(cases, validation=data.validation, test=data.test, seed=settings.train.seed)
    save_split(out / "split.json", split)
    train, held = split["train"], split["validation"]
    _refuse_empty(train, data.paired, data.root)
    say(f"{len(train)} cases to train on, {len(held)} to validate, {len(split['test'])} kept for tests")

    if not held:
        say("warning: no patient is kept back, so the scores below are those of training cases")
    folder = data.cache or out / "cache"
    sources = {c.name: _source(c, settings, folder, say) for c in train if c.source}
    targets = {c.name: _target(c.target, settings, folder, say) for c in train if c.target}
    validation = []
    watched = [c for c in held if c.source] or [c for c in train if c.source]
    for case in watched[: settings.train.validation_cases]:
        truth = _target(case.target, settings, folder, say) if data.paired and case.target else None
        validation.append((case.name, _source(case, settings, folder, say), truth))
    real = {c.name: _target(c.target, settings, folder, say) for c in held if c.target} or targets
    return Prepared(
        sources,
        targets,
        validation,
        real,
        typical_range([c.range for c in sources.values()]),
        typical_range([c.range for c in targets.values()]),
        _one_spacing({**sources, **targets}, settings),
        [c.look for c in sources.values()],
        _record(train, held),
    )


def _refuse_empty(train: list[Case], paired: bool, root: Path) -> None:
    if paired and not train:
        raise InputError(
            f"{root}: no case has both a source and a target, so there is nothing to train on; "
            "set data.paired=false and an unpaired method, or check the folder's names"
        )
    for side in ("source", "target"):
        if not any(getattr(case, side) for case in train):
            raise InputError(f"{root}: no {side} images to train on; check the folder {side}/")


def _source(case: Case, settings: Settings, folder: Path, say: Callable[[str], None]) -> Cached:
    assert case.source is not None
    codec = settings.codec.source.model_dump(exclude={"follow"})
    if settings.data.paired and settings.data.align != "refuse" and case.target:
        stat = case.target.stat()
        key = f"{settings.data.align} {case.target.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        moved = _aligned(case, settings.data.align, say)
        return cached(folder, case.source, codec, spacing=settings.data.spacing, make=moved, key=key)
    return cached(folder, case.source, codec, spacing=settings.data.spacing)


def _aligned(case: Case, method: str, say: Callable[[str], None]) -> Callable[[], Volume]:
    def make() -> Volume:
        assert case.source is not None and case.target is not None
        volume, residual = align(read_volume(case.source), read_volume(case.target), method=method)
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in residual.items())
        say(f"{case.name}: source aligned ({method}): {shown}")
        return volume

    return make


def _target(path: Path | None, settings: Settings, folder: Path, say: Callable[[str], None]) -> Cached:
    assert path is not None
    codec = settings.codec.target.model_dump(exclude={"follow"})
    return cached(folder, path, codec, spacing=settings.data.spacing)


def _one_spacing(volumes: dict[str, Cached], settings: Settings) -> tuple[float, float, float]:
    spacings = np.array([c.spacing for c in volumes.values()])
    middle = np.median(spacings, 0)
    odd = [name for name, c in volumes.items() if not np.allclose(c.spacing, middle, rtol=0.05)]
    if odd:
        shown = " × ".join(f"{s:.3g}" for s in volumes[odd[0]].spacing)
        usual = " × ".join(f"{s:.3g}" for s in middle)
        raise InputError(
            f"case {odd[0]} has voxels of {shown} mm where most have {usual} mm ({len(odd)} cases differ); "
            "set data.spacing to bring all to one grid"
        )
    if settings.data.spacing is not None:
        middle = np.asarray(settings.data.spacing)
    x, y, z = (float(s) for s in middle)
    return x, y, z


def _record(train: list[Case], held: list[Case]) -> dict[str, Any]:
    """Names of the cases and a hash over the names, sizes and first MiB of their files."""
    digest = hashlib.sha256()
    for case in train:
        for path in (case.source, case.target):
            if path is not None:
                with open(path, "rb") as file:
                    digest.update(json.dumps([path.name, path.stat().st_size]).encode() + file.read(2**20))
    return {
        "training": [c.name for c in train],
        "validation": [c.name for c in held],
        "sha256": digest.hexdigest(),
    }
