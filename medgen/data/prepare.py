"""From settings to volumes ready for training: cohort, split, checks, alignment, cache, fingerprint."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medgen.data.align import align
from medgen.data.cache import Channels, cached
from medgen.data.cohort.read import Cohort, check_pairs
from medgen.data.cohort.read_split import read_split
from medgen.data.intensity import Code, Range, typical_range
from medgen.data.labels.codec import LabelTable, cached_label_map
from medgen.data.labels.names import label_named
from medgen.data.labels.training import cached_labels, part_voxels
from medgen.data.modality import modality_warnings
from medgen.errors import InputError
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.settings import Settings
from medgen.types import Case


@dataclass(frozen=True)
class Prepared:
    """What the loop trains and validates on.

    ``sources``, ``targets``: training volumes by case name, one a contrast. ``validation``: (case name, source, its
    truth or none, the domain to translate it to or None). ``real_targets``: real target volumes for validation
    without truth. Ranges are the training cases' typical ones, one a contrast; ``scans``: the looks of each source
    contrast's training scans, and ``target_scans`` of each target's, see ``_target_scans``; ``record`` goes into
    the model folder. ``labels``: files of the training sources' classes, and ``classes``, their number with the
    background; empty and 0 unless data.labels is set. ``centres``: voxels (n, 3) that patches of a training source
    may be centred on, see sampling.foreground_classes. ``held_labels``: as ``labels``, of the validation cases, for a
    method that needs them. ``domains``: place in data.domains of every case, of the real targets too; empty
    without. ``siblings``: with data.paired_domains the training cases of the same patient in other domains, see
    ``data.patches``.
    """

    sources: dict[str, Channels]
    targets: dict[str, Channels]
    validation: list[tuple[str, Channels, Channels, int | None]]
    real_targets: dict[str, Channels]
    source_range: Sequence[Code]
    target_range: list[Range]
    spacing: tuple[float, float, float]
    scans: list[list[dict[str, Any]]]
    target_scans: list[list[dict[str, Any]]]
    record: dict[str, Any]
    labels: dict[str, Path]
    classes: int
    domains: dict[str, int]
    centres: dict[str, np.ndarray]
    held_labels: dict[str, Path]
    siblings: dict[str, list[str]]


def prepare(settings: Settings, out: Path, *, resume: bool = False, say: Callable[[str], None] = print) -> Prepared:
    """Read, split, check and cache the cohort; writes ``out/split.json``, or keeps to it with ``resume``.

    Raises:
        InputError: no root given, nothing to train on, grids that disagree, unreadable volumes.
    """
    data = settings.data
    if data.root is None:
        raise InputError("config-root-missing", "data.root is not set; give the cohort folder, e.g. data.root=COHORT")
    folder = data.cache or out / "cache"
    cohort, split, content = read_split(settings, out, folder, resume=resume, say=say)
    table = LabelTable(cohort.label_values, data.tissues, data.tissue_smoothing) if settings.label_source else None
    if table is not None:
        _check_classes(cohort, settings)
    train, held = split["train"], [c for c in split["validation"] if not c.synthetic or c.part == "validation"]
    cases = [case for part in split.values() for case in part]
    _refuse_empty(train, settings)
    if not held:
        say("warning: no patient is kept back, so the scores below are those of training cases")
    labels, classes = _labels(train, cohort, settings, folder) if data.labels else ({}, 0)
    centres = _centres(labels, cohort, settings)

    def load_source(case: Case) -> Channels:
        if table is None:
            return _load(case, "source", settings, folder, say)
        options: dict[str, Any] = {"spacing": data.spacing, "movable": data.align == "resample"}
        return (cached_label_map(folder, case.source[0], case.target[0], table, **options),)

    sources = {c.name: load_source(c) for c in train if c.source}
    targets = {c.name: _load(c, "target", settings, folder, say) for c in train if c.target}
    for text in modality_warnings(settings, sources, targets):
        say(f"warning: {text}")
    validation = []
    watched = [c for c in held if c.source] or [c for c in train if c.source]
    shown = watched[: settings.train.validation_cases] if settings.method.needs_classes else []
    held_labels = _labels(shown, cohort, settings, folder)[0] if shown else {}
    domains = {c.name: data.domains.index(c.name.partition("/")[0]) for c in cases} if data.domains else {}
    for case, domain, partner in _to_watch(watched, domains, settings):
        truth = _load(partner, "target", settings, folder, say) if partner else ()
        validation.append((case.name, load_source(case), truth, domain))
    real = {c.name: _load(c, "target", settings, folder, say) for c in held if c.target} or targets
    return Prepared(
        sources,
        targets,
        validation,
        real,
        [table] if table else _typical_ranges(sources),
        _typical_ranges(targets),
        _one_spacing([*sources.items(), *targets.items()], settings),
        _looks(sources),
        _target_scans(targets, settings),
        _record(train, held, cohort, settings, content),
        labels,
        classes,
        domains,
        centres,
        held_labels,
        _siblings(train, settings),
    )


def _siblings(cases: list[Case], settings: Settings) -> dict[str, list[str]]:
    """case → those of its patient in other domains, where it has some; InputError where their grids differ."""
    if not settings.data.paired_domains:
        return {}
    scans: dict[str, list[Case]] = {}
    for case in cases:
        scans.setdefault(case.name.partition("/")[2], []).append(case)
    check_pairs(Case(n, "", (c.source[0],), (mine[0].source[0],)) for n, mine in scans.items() for c in mine[1:])
    found = {c.name: [o.name for o in mine if o is not c] for mine in scans.values() for c in mine if len(mine) > 1}
    if not found:
        raise InputError(
            "cohort-no-domain-pairs",
            f"{settings.data.root}: no patient has two domains, so there are no pairs to learn from; set "
            "data.paired_domains to false, or give the scans of one patient one file name",
        )
    return found


def _to_watch(
    cases: list[Case], domains: dict[str, int], settings: Settings
) -> list[tuple[Case, int | None, Case | None]]:
    """What validation translates, to which domain, and the case whose target is the truth, where there is one.

    With domains a spread over cases and over the domains each can be turned into; with data.paired_domains over those
    that the patient was scanned in, where any patient was scanned in two.
    """
    most = settings.train.validation_cases
    if not domains:
        return [(case, None, case if settings.data.paired else None) for case in cases[:most]]
    names = settings.data.domains
    by_name = {case.name: case for case in cases} if settings.data.paired_domains else {}
    every = [
        (c, d, by_name.get(f"{names[d]}/{c.name.partition('/')[2]}"))
        for c in cases
        for d in range(len(names))
        if d != domains[c.name]
    ]
    every = [known for known in every if known[2]] or every
    check_pairs(Case(c.name, "", c.source, partner.source) for c, _, partner in every if partner)
    return [every[i * len(every) // most] for i in range(min(most, len(every)))]


def _refuse_empty(train: list[Case], settings: Settings) -> None:
    data = settings.data
    for domain in data.domains:
        if not any(case.name.startswith(f"{domain}/") for case in train):
            raise InputError(
                "cohort-domain-no-training", f"{data.root}: no patient of domain {domain} is left to train on; add some"
            )
    if data.paired and not train:
        raise InputError(
            "cohort-no-pairs",
            f"{data.root}: no case has both a source and a target, so there is nothing to train on; "
            "set data.paired=false and an unpaired method, or check the folder's names",
        )
    for side, names in (("source", data.sources), ("target", data.targets)):
        if not any(getattr(case, side) for case in train):
            folders = " and ".join(f"{name}/" for name in names)
            raise InputError(
                "cohort-side-empty", f"{data.root}: no {side} images to train on; check the folder {folders}"
            )


def _load(
    case: Case, side: Literal["source", "target"], settings: Settings, folder: Path, say: Callable[[str], None]
) -> Channels:
    """The cached contrasts of a side, brought together as data.align says: on the target's grid, if paired."""
    data = settings.data
    paths: tuple[Path, ...] = getattr(case, side)
    intensity = getattr(settings.intensity, side).model_dump(exclude={"follow"})
    fixed = _fixed(case, side, settings)
    channels = []
    for path in paths:
        make, key = None, ""
        if data.align != "refuse" and path != fixed:
            stat = fixed.stat()
            key = f"{data.align} {fixed.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            make = _aligned(f"{case.name}: {side}", path, fixed, data.align, say)
        channels.append(cached(folder, path, intensity, spacing=data.spacing, make=make, key=key))
        for text in channels[-1].warnings:
            say(f"warning: {text}")
    return tuple(channels)


def _fixed(case: Case, side: Literal["source", "target"], settings: Settings) -> Path:
    """The file whose grid the contrasts of a side are brought to: the target's, if paired, or their own first's."""
    return case.target[0] if settings.data.paired and case.target else getattr(case, side)[0]


def _aligned(what: str, path: Path, fixed: Path, method: str, say: Callable[[str], None]) -> Callable[[], Volume]:
    def make() -> Volume:
        volume, residual = align(read_volume(path), read_volume(fixed), method=method)
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in residual.items())
        say(f"{what} aligned ({method}): {shown}")
        return volume

    return make


def _labels(train: list[Case], cohort: Cohort, settings: Settings, folder: Path) -> tuple[dict[str, Path], int]:
    """The classes of the training sources: file by case name, and their number."""
    data, names = settings.data, _class_names(cohort, settings)
    _check_classes(cohort, settings)
    values = [0, *sorted(cohort.label_values.values())]
    classes = None if data.class_groups is None else _joined(values, cohort, data.class_groups)
    files = {}
    for case in train:
        if not case.source:
            continue
        if case.labels is None:
            raise InputError(
                "label-missing", f"case {case.name} in {data.root} has no label map; add it or set data.labels to false"
            )
        fixed = _fixed(case, "source", settings)
        movable = data.align == "resample" or fixed in case.source
        options: dict[str, Any] = {"spacing": data.spacing, "movable": movable}
        files[case.name] = cached_labels(folder, case.labels, fixed, values, classes, **options)
    return files, len(names)


def _check_classes(cohort: Cohort, settings: Settings) -> None:
    data, names = settings.data, _class_names(cohort, settings)
    if data.classes != len(names):
        raise InputError(
            "config-classes-differ",
            f"data.classes = {data.classes}, but {data.root} has {len(names)} classes ({', '.join(names)}); "
            f"set data.classes={len(names)}",
        )


def _joined(values: list[int], cohort: Cohort, structures: dict[str, tuple[str, ...]]) -> list[int]:
    """The class of each value: the place of the structure that its label belongs to, from 1, or 0."""
    given = {name: i for i, names in enumerate(structures.values(), start=1) for name in names}
    class_of = {label_named(name, cohort.label_values): i for name, i in given.items()}
    unknown = [name for name in given if label_named(name, cohort.label_values) is None]
    if unknown:
        raise InputError(
            "config-structure-unknown",
            f"data.class_groups names {unknown[0]}, which is no label of {cohort.root} "
            f"({', '.join(cohort.label_values)}); name its labels",
        )
    called = {value: name for name, value in cohort.label_values.items()}
    return [class_of.get(called.get(value, ""), 0) for value in values]


def _centres(labels: dict[str, Path], cohort: Cohort, settings: Settings) -> dict[str, np.ndarray]:
    """Where patches of each case may be centred, see sampling.foreground_classes; of cases that have such a place."""
    wanted, names = settings.sampling.foreground_classes, _class_names(cohort, settings)
    unknown = [name for name in wanted if label_named(name, names) is None]
    if unknown:
        raise InputError(
            "config-centred-class-unknown",
            f"sampling.foreground_classes names {unknown[0]}, which is no class ({', '.join(names)}); name one",
        )
    if not wanted:
        return {}
    numbers = [names.index(label_named(name, names) or name) for name in wanted]
    found = {case: part_voxels(np.load(file, mmap_mode="r"), numbers) for case, file in labels.items()}
    if not any(len(places) for places in found.values()):
        raise InputError(
            "cohort-centred-class-absent",
            f"{settings.data.root}: no training case has {' or '.join(wanted)}, see sampling.foreground_classes",
        )
    return {case: places for case, places in found.items() if len(places)}


def _class_names(cohort: Cohort, settings: Settings) -> list[str]:
    """Class i is the i-th of data.class_groups, or the label with the i-th value."""
    if settings.data.class_groups is not None:
        return ["background", *settings.data.class_groups]
    return ["background", *sorted(cohort.label_values, key=lambda name: cohort.label_values[name])]


def _typical_ranges(cases: dict[str, Channels]) -> list[Range]:
    contrasts = zip(*cases.values(), strict=True)
    return [typical_range([c.range for c in contrast if isinstance(c.range, Range)]) for contrast in contrasts]


def _looks(cases: dict[str, Channels]) -> list[list[dict[str, Any]]]:
    return [[c.fingerprint for c in contrast] for contrast in zip(*cases.values(), strict=True)]


def _target_scans(targets: dict[str, Channels], settings: Settings) -> list[list[dict[str, Any]]]:
    """Looks that a new scan can be compared with: none where domains, labels or another code stand against it."""
    source, target = (
        c.model_dump(exclude={"follow", "outside"}) for c in (settings.intensity.source, settings.intensity.target)
    )
    if settings.data.domains or settings.label_source or source != target:
        return []
    return _looks(targets)


def _one_spacing(volumes: list[tuple[str, Channels]], settings: Settings) -> tuple[float, float, float]:
    middle = np.median([channels[0].spacing for _, channels in volumes], 0)
    odd = [(name, c[0].spacing) for name, c in volumes if not np.allclose(c[0].spacing, middle, rtol=0.05)]
    if odd:
        shown = " × ".join(f"{s:.3g}" for s in odd[0][1])
        usual = " × ".join(f"{s:.3g}" for s in middle)
        raise InputError(
            "cohort-spacing-differs",
            f"case {odd[0][0]} has voxels of {shown} mm where most have {usual} mm ({len(odd)} cases differ); "
            "set data.spacing to bring all to one grid",
        )
    if settings.data.spacing is not None:
        middle = np.asarray(settings.data.spacing)
    x, y, z = (float(s) for s in middle)
    return x, y, z


def _record(
    train: list[Case], held: list[Case], cohort: Cohort, settings: Settings, content: dict[str, set[str]]
) -> dict[str, Any]:
    """Names of the cases and a hash over the names, sizes and first MiB of their files; the classes, if used.

    ``images``: content hash → case, by which a scan is known again under another name.
    """
    digest = hashlib.sha256()
    for case in train:
        labels = [case.labels] if settings.data.labels and case.labels is not None else []
        for path in (*case.source, *case.target, *labels):
            with open(path, "rb") as file:
                digest.update(json.dumps([path.name, path.stat().st_size]).encode() + file.read(2**20))
    names = _class_names(cohort, settings) if settings.data.labels else []
    return {
        "training": [c.name for c in train],
        "validation": [c.name for c in held],
        "images": {h: case.name for case in (*train, *held) for h in sorted(content[case.name])},
        "sha256": digest.hexdigest(),
    } | ({"classes": len(names), "labels": {name: i for i, name in enumerate(names)}} if names else {})
