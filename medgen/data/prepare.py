"""From settings to prepared data: read the cohort, split it, check it, and cache its aligned volumes."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.cache import Channels, on_threads
from medgen.data.case_reader import CaseReader, Side, reference_image
from medgen.data.cohort.modality import label_map_warnings, mask_warnings, modality_warnings
from medgen.data.cohort.read import Cohort, check_pairs
from medgen.data.cohort.read_split import Content, read_split
from medgen.data.intensity import Range, typical_range
from medgen.data.labels.classes import check_class_count, class_maps, class_names, patch_centres
from medgen.data.labels.codec import LabelTable
from medgen.data.prepared import ModelData, PatchData, Prepared, ValidationCase, ValidationData
from medgen.errors import InputError
from medgen.io.grids import canonical_geometry
from medgen.io.hashes import sha256
from medgen.io.read import read_geometry
from medgen.settings import Settings
from medgen.types import Case


def prepare(settings: Settings, out: Path, *, resume: bool = False, say: Callable[[str], None] = print) -> Prepared:
    """Read, split, check and cache the cohort. Writes ``out/split.json``, or with ``resume`` reuses it.

    Args:
        settings: with ``data.root`` set.
        out: run folder; holds the cache unless ``data.cache`` is set.
        say: receives the lines for the user.

    Raises:
        InputError: data.root is not set, nothing to train on, grids that differ, or unreadable volumes.
    """
    data = settings.data
    if data.root is None:
        raise InputError("config-root-missing", "data.root is not set; give the cohort folder, e.g. data.root=COHORT")
    folder = data.cache or out / "cache"
    cohort, split, content = read_split(settings, out, folder, resume=resume, say=say)
    if settings.label_source:
        check_class_count(cohort, settings)
    train, held_out = split["train"], [c for c in split["validation"] if not c.synthetic or c.part == "validation"]
    _check_not_empty(train, settings)
    if not held_out:
        say("warning: no patient is held out, so validation uses training cases")
    settings = _with_median_spacing(settings, train)
    domains = _domains([case for part in split.values() for case in part], settings)
    table = LabelTable(cohort.label_values, data.tissues, data.tissue_smoothing) if settings.label_source else None
    reader = CaseReader(settings, folder, table, say)
    patches = _patch_data(train, domains, cohort, reader)
    validation = _validation_data(train, held_out, domains, patches.targets, cohort, reader)
    training_data = _training_data(train, held_out, cohort, settings, content)
    test_images = {image: case.name for case in split["test"] for image in content[case.name]}
    return Prepared(patches, validation, _model_data(patches, table, training_data, settings), test_images)


def _with_median_spacing(settings: Settings, train: list[Case]) -> Settings:
    """Replace data.spacing = median by the median over the training cases, from headers."""
    if settings.data.spacing != "median":
        return settings
    side: Side = "target" if settings.data.paired or settings.generative else "source"
    images = [reference_image(c, side, settings) for c in train if getattr(c, side)]
    sizes = [canonical_geometry(read_geometry(path)).spacing for path in images]
    x, y, z = (float(s) for s in np.median(sizes, 0))
    data = settings.data.model_copy(update={"spacing": (x, y, z)})
    return settings.model_copy(update={"data": data})


def _check_not_empty(train: list[Case], settings: Settings) -> None:
    data = settings.data
    for domain in data.domains:
        if not any(case.name.startswith(f"{domain}/") for case in train):
            raise InputError(
                "cohort-domain-no-training",
                f"{data.root}: no patient of domain {domain} is left for training; add patients or lower "
                "data.validation and data.test",
            )
    if data.paired and not train:
        raise InputError(
            "cohort-no-pairs",
            f"{data.root}: no case has both a source and a target, so there is nothing to train on; "
            "set data.paired=false and use an unpaired method, or check the file names",
        )
    for side, names in (("source", data.sources), ("target", data.targets)):
        if names and not any(getattr(case, side) for case in train):
            folders = " and ".join(f"{name}/" for name in names)
            raise InputError("cohort-side-empty", f"{data.root}: no {side} images to train on; check {folders}")


def _domains(cases: list[Case], settings: Settings) -> dict[str, int]:
    """Case name → index of its domain, which is the folder part of the name; empty without data.domains."""
    domains = settings.data.domains
    return {c.name: domains.index(c.name.partition("/")[0]) for c in cases} if domains else {}


def _patch_data(train: list[Case], domains: dict[str, int], cohort: Cohort, reader: CaseReader) -> PatchData:
    settings = reader.settings
    labels = class_maps(train, cohort, settings, reader.folder) if settings.data.labels else {}
    centres = patch_centres(labels, cohort, settings)
    siblings = _siblings(train, settings)
    sources = _channels([c for c in train if c.source], "source", reader)
    targets = _channels([c for c in train if c.target], "target", reader)
    for warnings in (label_map_warnings, modality_warnings, mask_warnings):
        for text in warnings(settings, sources, targets):
            reader.say(f"warning: {text}")
    return PatchData(sources, targets, labels, centres, domains, siblings)


def _channels(cases: list[Case], side: Side, reader: CaseReader) -> dict[str, Channels]:
    """The volumes of one side of the cases; several are cached at once, and their messages come in order."""

    def read(case: Case) -> tuple[Channels, list[str]]:
        lines: list[str] = []
        return getattr(replace(reader, say=lines.append), side)(case), lines

    found = {}
    for case, (channels, lines) in zip(cases, on_threads(read, cases), strict=True):
        found[case.name] = channels
        for line in lines:
            reader.say(line)
    return found


def _siblings(train: list[Case], settings: Settings) -> dict[str, list[str]]:
    """Case name → cases of the same patient in other domains, for patients with several.

    Raises:
        InputError: their grids differ, or no patient has two domains.
    """
    if not settings.data.paired_domains:
        return {}
    by_patient: dict[str, list[Case]] = {}
    for case in train:
        by_patient.setdefault(case.name.partition("/")[2], []).append(case)
    check_pairs(
        Case(patient, "", (case.source[0],), (cases[0].source[0],))
        for patient, cases in by_patient.items()
        for case in cases[1:]
    )
    siblings = {
        case.name: [other.name for other in cases if other is not case]
        for cases in by_patient.values()
        for case in cases
        if len(cases) > 1
    }
    if not siblings:
        raise InputError(
            "cohort-no-domain-pairs",
            f"{settings.data.root}: no patient has two domains, so there are no pairs to learn from; set "
            "data.paired_domains to false, or give all scans of a patient the same file name",
        )
    return siblings


def _validation_data(
    train: list[Case],
    held_out: list[Case],
    domains: dict[str, int],
    targets: dict[str, Channels],
    cohort: Cohort,
    reader: CaseReader,
) -> ValidationData:
    """``targets``: the training targets, used as real images in addition to the held-out ones."""
    settings = reader.settings
    side = "target" if settings.generative else "source"
    candidates = [c for c in held_out if getattr(c, side)] or [c for c in train if getattr(c, side)]
    first = candidates[: settings.train.validation_cases]
    labels = class_maps(first, cohort, settings, reader.folder) if settings.method.needs_classes else {}
    cases = []
    for case, domain, partner in _validation_pairs(candidates, domains, settings):
        truths = reader.target(partner) if partner else ()
        sources = (reader.degraded if settings.data.degradation else reader.source)(case) if case.source else ()
        cases.append(ValidationCase(case.name, sources, truths, domain, labels.get(case.name)))
    real_targets: dict[int | None, list[Channels]] = {}
    for name, channels in (_channels([c for c in held_out if c.target], "target", reader) | targets).items():
        real_targets.setdefault(domains.get(name), []).append(channels)
    return ValidationData(cases, real_targets)


def _validation_pairs(
    cases: list[Case], domains: dict[str, int], settings: Settings
) -> list[tuple[Case, int | None, Case | None]]:
    """Cases to translate, each with its target domain and the case whose target is the truth, if there is one.

    With domains, the selection is spread over all pairs of a case and another domain. With data.paired_domains it is
    limited to pairs with a known truth, if there are any.
    """
    most = settings.train.validation_cases
    if not domains:
        known = settings.data.paired or settings.generative
        return [(case, None, case if known else None) for case in cases[:most]]
    names = settings.data.domains
    by_name = {case.name: case for case in cases} if settings.data.paired_domains else {}
    pairs = [
        (c, d, by_name.get(f"{names[d]}/{c.name.partition('/')[2]}"))
        for c in cases
        for d in range(len(names))
        if d != domains[c.name]
    ]
    pairs = [pair for pair in pairs if pair[2]] or pairs
    check_pairs(Case(c.name, "", c.source, partner.source) for c, _, partner in pairs if partner)
    return [pairs[i * len(pairs) // most] for i in range(min(most, len(pairs)))]


def _model_data(
    patches: PatchData, table: LabelTable | None, training_data: dict[str, Any], settings: Settings
) -> ModelData:
    sources, targets = patches.sources, patches.targets
    return ModelData(
        source_range=[table] if table else _typical_ranges(sources),
        target_range=_typical_ranges(targets),
        spacing=_common_spacing([*sources.items(), *targets.items()], settings),
        training_scans=_fingerprints(sources),
        training_targets=_fingerprints(targets) if settings.generative or _comparable_with_targets(settings) else [],
        training_data=training_data,
    )


def _typical_ranges(cases: dict[str, Channels]) -> list[Range]:
    contrasts = zip(*cases.values(), strict=True)
    return [typical_range([c.range for c in contrast if isinstance(c.range, Range)]) for contrast in contrasts]


def _fingerprints(cases: dict[str, Channels]) -> list[list[dict[str, Any]]]:
    return [[c.fingerprint for c in contrast] for contrast in zip(*cases.values(), strict=True)]


def _comparable_with_targets(settings: Settings) -> bool:
    """Whether a new scan can be compared with the training targets: one target side, in the source's units (HU).

    Percentiles of two contrasts are alike by construction, so they do not tell a source from a target.
    """
    source, target = (
        c.model_dump(exclude={"follow", "outside"}) for c in (settings.intensity.source, settings.intensity.target)
    )
    differ = source != target or source["kind"] != "window"
    return not (settings.data.domains or settings.label_source or settings.data.degradation or differ)


def _common_spacing(volumes: list[tuple[str, Channels]], settings: Settings) -> tuple[float, float, float]:
    """The model's voxel spacing in mm. Raises InputError if a case deviates by more than 5 %."""
    middle = np.median([channels[0].spacing for _, channels in volumes], 0)
    deviating = [(name, c[0].spacing) for name, c in volumes if not np.allclose(c[0].spacing, middle, rtol=0.05)]
    if deviating:
        own = " × ".join(f"{s:.3g}" for s in deviating[0][1])
        usual = " × ".join(f"{s:.3g}" for s in middle)
        raise InputError(
            "cohort-spacing-differs",
            f"case {deviating[0][0]} has a voxel spacing of {own} mm, but most cases have {usual} mm "
            f"({len(deviating)} cases differ); set data.spacing to resample all to one spacing",
        )
    if settings.data.spacing is not None:
        middle = np.asarray(settings.data.spacing)
    x, y, z = (float(s) for s in middle)
    return x, y, z


def _label_maps(cases: list[Case], cohort: Cohort, settings: Settings) -> dict[str, str]:
    """Hash of the label maps that training and validation use, and of their table; empty without labels."""
    if not (settings.data.labels or settings.label_source):
        return {}
    digest = hashlib.sha256(json.dumps(sorted(cohort.label_values.items())).encode())
    for case in cases:
        for path in case.source if settings.label_source else filter(None, [case.labels]):
            digest.update(f"{case.name} {sha256([path])} ".encode())
    return {"label_maps": digest.hexdigest()}


def _files_hash(cases: list[Case], settings: Settings) -> str:
    """Hash over the names, sizes and first MiB of the files of cases."""
    digest = hashlib.sha256()
    for case in cases:
        labels = [case.labels] if settings.data.labels and case.labels is not None else []
        for path in (*case.source, *case.target, *labels):
            with open(path, "rb") as file:
                digest.update(json.dumps([path.name, path.stat().st_size]).encode() + file.read(2**20))
    return digest.hexdigest()


def _training_data(
    train: list[Case], held_out: list[Case], cohort: Cohort, settings: Settings, content: Content
) -> dict[str, Any]:
    """Names of the cases, hashes of their files (`_files_hash`), and the classes if used.

    ``images``: content hash → case, to recognise a training scan under another name.
    """
    names = class_names(cohort, settings) if settings.data.labels else []
    return {
        "training": [c.name for c in train],
        "validation": [c.name for c in held_out],
        "images": {h: case.name for case in (*train, *held_out) for h in sorted(content[case.name])},
        "sha256": _files_hash(train, settings),
        "validation_sha256": _files_hash(held_out, settings),  # content hashes do not see a mirrored or moved image
        **_label_maps([*train, *held_out], cohort, settings),
    } | ({"classes": len(names), "labels": {name: i for i, name in enumerate(names)}} if names else {})
