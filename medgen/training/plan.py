"""Choose the settings of a training from a cohort: what was found, what was chosen, and why.

A plan is a config that comes with medgen, with values that follow from the data in place of some of its own, and a
comment at each of these. It is an ordinary YAML file for ``medgen train``. Depth, width, patch and batch follow from
the size of the volumes and from the memory of the machine (`medgen.training.plan_size`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medgen.config import config_file, parse_settings
from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.data.cohort.layouts import shortened_list
from medgen.data.cohort.read import read_cohort
from medgen.errors import InputError
from medgen.io.grids import same_grid
from medgen.io.read import read_geometry, read_volume
from medgen.io.text import read_text
from medgen.io.volume import Geometry, Volume, to_canonical
from medgen.qa.measures.misalignment import misalignment
from medgen.training.plan_size import Machine, patch_for, size_for, this_machine
from medgen.types import Case

LOOKED_AT = 8  # cases whose voxels are read
MEASURED = 4  # pairs whose alignment is measured
VARIES = 0.1  # relative difference of spacings from which all scans are resampled to one
MASKED_WEIGHT = 0.2  # of masked voxels of targets whose sources are not masked, as in mr_t2w_to_adc_regression
MASKED = 0.2  # share of voxels of exactly 0, from which they are a masked background
REMOVED_HU, REMOVED_ML = (150.0, 100.0), 5.0  # contrast medium: above the first in the source, below in the target
FEW = 5  # cases below which one is held out for validation


@dataclass(frozen=True)
class Facts:
    """What was found in a cohort. Spacings and extents are in mm, on RAS axes.

    ``removal``: contrast medium is in the sources and not in the targets. ``apart``: pairs that are misaligned.
    ``unmeasured``: pairs whose alignment was tried and could not be measured.
    """

    root: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cases: int
    patients: int
    pairs: int
    hu: tuple[bool, bool]
    masked: tuple[bool, bool]
    removal: bool
    spacing: tuple[float, float, float]
    varies: bool
    voxels: tuple[int, int, int]
    one_grid: bool
    apart: tuple[str, ...]
    unmeasured: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def paired(self) -> bool:
        return self.pairs > 0

    def lines(self) -> list[str]:
        """What was found, a line each."""
        kinds = [("CT in HU" if hu else "no HU") for hu in self.hu]
        mm = " x ".join(f"{s:.3g}" for s in self.spacing)
        size = " x ".join(map(str, self.voxels))
        return [
            f"{self.cases} cases of {self.patients} patients, {self.pairs} with both "
            f"{'+'.join(self.sources)} and {'+'.join(self.targets)}",
            "; ".join(
                f"{side}: {kind}" + (", masked background" if masked else "")
                for side, kind, masked in zip(("sources", "targets"), kinds, self.masked, strict=True)
            ),
            f"median spacing {mm} mm" + (", which varies between scans" if self.varies else ""),
            f"median size {size} voxels at that spacing",
            *(["pairs lie on one grid" if self.one_grid else "pairs lie on different grids"] if self.paired else []),
            *(["contrast medium is in the sources and not in the targets"] if self.removal else []),
            *([f"misaligned pairs: {shortened_list(self.apart)}"] if self.apart else []),
            *(
                [f"pairs whose alignment could not be measured: {shortened_list(self.unmeasured)}; look at them"]
                if self.unmeasured
                else []
            ),
            *(f"warning: {text}" for text in self.warnings),
        ]


def look(root: Path, sources: tuple[str, ...] = ("source",), targets: tuple[str, ...] = ("target",)) -> Facts:
    """Read a cohort: all headers, and the voxels of up to `LOOKED_AT` cases.

    Raises:
        InputError: no cases, or an image that cannot be read.
    """
    cohort = read_cohort(root, sources=sources, targets=targets, fold=None)
    cases = [case for case in cohort.cases if not case.synthetic and case.part != "test"]
    pairs = [case for case in cases if case.source and case.target]
    if not pairs and not (any(c.source for c in cases) and any(c.target for c in cases)):
        raise InputError(
            "plan-one-side",
            f"{root} has only {'sources' if any(c.source for c in cases) else 'targets'} "
            f"({', '.join(sources if any(c.source for c in cases) else targets)}); add the other images, or name them "
            "with --sources and --targets",
        )
    used = pairs or cases
    grids = [_canonical(read_geometry(file)) for case in used for file in (case.target or case.source)[:1]]
    spacings = np.array([grid.spacing for grid in grids])
    spacing = np.median(spacings, axis=0)
    varies = bool((np.abs(spacings / spacing - 1) > VARIES).any())
    extents = np.array([np.multiply(grid.shape, grid.spacing) for grid in grids])
    voxels = np.maximum(1, np.rint(np.median(extents, axis=0) / spacing)).astype(int)
    one_grid = all(
        same_grid(read_geometry(case.target[0]), read_geometry(file)) for case in pairs for file in case.source
    )
    some_s, some_t = (_spread([case for case in used if getattr(case, side)]) for side in ("source", "target"))
    images = [to_canonical(read_volume(case.source[0])) for case in some_s]
    truths = [to_canonical(read_volume(case.target[0])) for case in some_t]
    units = [looks_like_hu(v.data) for v in images], [looks_like_hu(v.data) for v in truths]
    hu = _most(units[0]), _most(units[1])
    mixed = _mixed("source", some_s, units[0]) + _mixed("target", some_t, units[1])
    removed = list(map(_removed, images, truths)) if pairs and one_grid and all(hu) else []
    removal = _most(removed)
    mixed += _unlike_removal(some_s, removed) if removal else []
    found = [(case.name, misalignment(*_pair(case))) for case in _spread(pairs, MEASURED)]
    return Facts(
        root=root,
        sources=sources,
        targets=targets,
        cases=len(cases),
        patients=len({case.patient or case.name for case in cases}),
        pairs=len(pairs),
        hu=hu,
        masked=(
            not hu[0] and _most([_masked(v.data) for v in images]) and all(map(_all_masked, some_s)),
            not hu[1] and _most([_masked(v.data) for v in truths]),
        ),
        removal=removal,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        varies=varies,
        voxels=(int(voxels[0]), int(voxels[1]), int(voxels[2])),
        one_grid=one_grid,
        apart=tuple(name for name, moved in found if moved is not None and moved.median > moved.limit),
        unmeasured=tuple(name for name, moved in found if moved is None),
        warnings=(*cohort.warnings, *mixed),
    )


def plan(facts: Facts, hours: float | None = None, *, folds: int | None = None, machine: Machine | None = None) -> str:
    """The YAML text of a config for these facts, with a comment at each choice.

    Args:
        hours: time for training, of all folds together; None: the number of steps of the config that the plan rests on.
        folds: parts of the patients for cross-validation; None: one training.
        machine: what the training will run on; None: this machine.

    Raises:
        InputError: ``folds`` without pairs, or more folds than patients.
    """
    machine = this_machine() if machine is None else machine
    _check_folds(facts, folds)
    base, why = _base(facts)
    values: dict[str, Any] = yaml.safe_load(read_text(config_file(base)))
    reasons: dict[str, str] = {}

    def choose(section: str, key: str, value: Any, reason: str) -> None:
        values.setdefault(section, {})[key] = value
        reasons[f"{section}.{key}"] = reason

    own, values["data"] = values["data"], {}
    choose("data", "root", str(facts.root), f"{facts.cases} cases of {facts.patients} patients")
    choose("data", "sources", list(facts.sources), "the input")
    choose("data", "targets", list(facts.targets), "the output")
    choose("data", "paired", facts.paired, f"{facts.pairs} cases have both images")
    if facts.removal:
        choose("data", "removes_contrast", True, "sources are enhanced and targets are not: the check looks for it")
    few = facts.patients < FEW
    share = 0.0 if facts.patients == 1 else round(min(0.5, 1.01 / facts.patients), 3) if few else 0.15
    held_out = "one patient" if few else "15 % of the patients, at least one"
    choose("data", "validation", share, held_out if share else "a single patient: nothing can be held out")
    about_folds = "one model; 5 would train five, and translate each patient by one that has not seen it"
    if folds is not None:
        about_folds = (
            f"{folds} models, each patient is translated by one that has not seen it, and all form an ensemble"
        )
    choose("data", "folds", folds, about_folds)
    choose("data", "align", "refuse" if facts.one_grid or not facts.paired else "resample", _about_grids(facts))
    if facts.removal:
        values["data"]["spacing"] = own["spacing"]
    _choose_grid(facts, machine, values, choose)
    _choose_codecs(facts, values, choose)
    if "keep_background" in values["method"]:
        both = all(facts.masked)
        choose("method", "keep_background", both, "masked images" if both else "not both sides are masked")
    if values["method"]["name"] == "regression" and not any(facts.hu) and facts.masked == (False, True):
        choose("method", "weight_background", MASKED_WEIGHT, "the mask of the targets leaves out tissue")
    if hours is not None:
        about = "the time given" if folds is None else f"the time given, for each of {folds} folds"
        minutes = max(0.1, round(60 * hours / (folds or 1), 1))
        choose("train", "minutes", minutes, f"{about}; the learning rate falls to 0 at its end")
        choose("train", "steps", 1_000_000, "not reached: train.minutes ends the run")
    parse_settings(values, "plan")  # raises if a choice is not valid
    head = [f"Plan for {facts.root}, on the config {base}: {why}.", *facts.lines()]
    if facts.apart:
        head.append("register the misaligned pairs, or use method reggan, which learns the deformation")
    return "".join(f"# {line}\n" for line in head) + _written(values, reasons)


def _base(facts: Facts) -> tuple[str, str]:
    """The config that a plan rests on, and why."""
    if not facts.paired:
        kind = "ct_contrast_cut" if all(facts.hu) else "mr_t1_to_t2_cut"
        return kind, "no case has both images, so the translation is learned from unpaired scans"
    if facts.removal:
        return "ct_contrast_regression", "pairs of CT with and without contrast medium"
    return "mr_t1_to_t2_regression", "pairs: regression has the lowest error"


def _check_folds(facts: Facts, folds: int | None) -> None:
    if folds is not None and not facts.paired:
        raise InputError(
            "plan-folds-unpaired",
            f"{facts.root} has no case with both images, so folds cannot be evaluated; leave --folds out",
        )
    if folds is not None and facts.patients < folds:
        raise InputError(
            "folds-too-many", f"{facts.root} has {facts.patients} patients, fewer than {folds} folds; use fewer folds"
        )


def _about_grids(facts: Facts) -> str:
    if not facts.paired:
        return "unpaired images need no common grid"
    return "pairs lie on one grid" if facts.one_grid else "sources are resampled to the grids of the targets"


def _choose_grid(
    facts: Facts, machine: Machine, values: dict[str, Any], choose: Callable[[str, str, Any, str], None]
) -> None:
    if facts.removal:
        choose("train", "start_from", "ct-noncontrast", "the model for this task that comes with medgen")
        values["method"]["lr"] = 6e-4
        return  # the spacing, the patch and the network of that model
    if facts.varies or not facts.one_grid:
        choose("data", "spacing", "median", "spacings differ: every scan is resampled to the median one")
    else:
        choose("data", "spacing", None, "all scans have one spacing, which is kept")
    generator = values["method"]["generator"]
    if generator["name"] != "residual_unet":
        choose("sampling", "patch", patch_for(facts.voxels), _about_patch(facts, machine.patch_voxels))
        return  # memory of an adversarial training is not estimated
    size = size_for(facts.voxels, facts.cases, machine, generator, len(facts.sources), len(facts.targets))
    choose("sampling", "patch", size.patch, _about_patch(facts, size.most_voxels))
    choose("sampling", "batch", size.batch, f"{size.about_batch}; about {size.memory_gb:.2g} of {machine.about}")
    generator |= {"levels": size.levels, "filters": size.filters}
    about = f"levels: {2**size.levels} voxels become 1, and the smallest side of the patch {size.coarsest}"
    choose("method", "generator", generator, f"{about}; filters: {size.about_filters}")


def _about_patch(facts: Facts, most: int) -> str:
    return f"of {' x '.join(map(str, facts.voxels))} voxels; at most {most ** (1 / 3):.0f}³ voxels"


def _choose_codecs(facts: Facts, values: dict[str, Any], choose: Callable[[str, str, Any, str], None]) -> None:
    if facts.removal or (all(facts.hu) and not facts.paired):
        return  # the windows of the config are for CT
    for side, hu, masked in zip(("source", "target"), facts.hu, facts.masked, strict=True):
        if hu:
            choose("intensity", side, {"kind": "window", "low": -1000, "high": 1000}, "CT: HU are absolute")
            continue
        codec: dict[str, Any] = {"kind": "percentile", "high": 99.5}
        codec |= {"background": 0} if masked else {}
        codec |= {"follow": True} if side == "target" and not any(facts.hu) and facts.paired else {}
        choose("intensity", side, codec, "no units: the range of each scan")
    if any(facts.hu):
        values["sampling"] |= {"gamma": 0.0}


def _canonical(grid: Geometry) -> Geometry:
    return to_canonical(Volume(np.broadcast_to(np.float32(0), grid.shape), grid.affine)).geometry


def _spread(cases: list[Case], most: int = LOOKED_AT) -> list[Case]:
    """Up to ``most`` cases, evenly spread over all."""
    return [cases[i] for i in sorted({round(k) for k in np.linspace(0, len(cases) - 1, min(most, len(cases)))})]


def _mixed(side: str, cases: list[Case], hu: list[bool]) -> list[str]:
    """A warning if some of the images that were read look like CT in HU, and others do not."""
    others = [case.name for case, own in zip(cases, hu, strict=True) if not own]
    if not others or len(others) == len(cases):
        return []
    return [
        f"of {len(cases)} {side} images that were read, those of {shortened_list(others)} have no air in HU, unlike "
        "the others: they may lack the offset of -1024 or may not be CT; inspect them, and correct or remove them"
    ]


def _unlike_removal(cases: list[Case], removed: list[bool]) -> list[str]:
    """A warning about pairs without contrast medium in the source or with it in the target, unlike most."""
    others = [case.name for case, own in zip(cases, removed, strict=True) if not own]
    if not others:
        return []
    return [
        f"of {len(cases)} pairs that were read, {shortened_list(others)} show no contrast medium in the source that "
        "the target lacks, unlike the others: source and target may be exchanged"
    ]


def _most(flags: list[bool]) -> bool:
    return Counter(flags).most_common(1)[0][0] if flags else False


def _masked(data: np.ndarray) -> bool:
    return float((data == 0).mean()) > MASKED


def _all_masked(case: Case) -> bool:
    """Whether the further source contrasts of a case are masked too."""
    return all(_masked(read_volume(file).data) for file in case.source[1:])


def _removed(source: Volume, target: Volume) -> bool:
    """Whether a volume of tissue is enhanced in the source and not in the target, both in HU on one grid."""
    if source.data.shape != target.data.shape:
        return False
    fall = (source.data > REMOVED_HU[0]) & (target.data < REMOVED_HU[1]) & (target.data > 0) & body_mask(source.data)
    return float(fall.sum() * np.prod(source.spacing)) / 1000 > REMOVED_ML


def _pair(case: Case) -> tuple[Volume, Volume]:
    return read_volume(case.source[0]), read_volume(case.target[0])


def _written(values: dict[str, Any], reasons: dict[str, str]) -> str:
    """YAML with one key a line, inner mappings in one line, and the reasons as comments."""
    lines = []
    for section, content in values.items():
        lines.append(f"{section}:")
        for key, value in content.items():
            text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
            text = text.removesuffix("...\n").strip()
            reason = reasons.get(f"{section}.{key}")
            lines.append(f"  {key}: {text}" + (f"  # {reason}" if reason else ""))
    return "\n".join(lines) + "\n"
