"""Synthetic CT cohort: abdomen and lower chest for each seed, with and without contrast, with labels.

The anatomy (``medgen.phantom.anatomy``) is built once per patient; ``render`` simulates a scan in any phase, with noise
and bias (``medgen.phantom.ct_physics``). No data of real patients are used.
"""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.claim import claimed
from medgen.phantom.anatomy.build import Anatomy, build_anatomy
from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import stream
from medgen.phantom.anatomy.tissues import PHASES
from medgen.phantom.ct_physics import add_scan
from medgen.phantom.randomised import random_grid, random_scan

__all__ = [
    "LABELS",
    "PHASES",
    "Anatomy",
    "Patient",
    "build_anatomy",
    "make_patient",
    "render",
    "write_cohort",
]

SCANS = 3  # of each randomised patient, on one grid
GENERATOR = 1  # increase when a seed gives a different patient
Progress = Callable[[int, int, str], None]  # done, total, case name


@dataclass(frozen=True)
class Patient:
    """Two scans of one anatomy on one grid (X, Y, Z): float32 HU, uint8 labels, affine voxel -> RAS mm."""

    contrast: np.ndarray
    noncontrast: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    phase: str
    info: dict[str, Any] = field(default_factory=dict)


def render(anatomy: Anatomy, phase: str, *, noise_free: bool = False) -> np.ndarray:
    """Simulate a scan in a phase ("none", "arterial", "portal_venous", "late"); returns HU (X, Y, Z) float32.

    Noise and bias are drawn independently for each phase and depend only on the seed.
    """
    hu = anatomy.mixture(phase)
    if noise_free:
        return hu
    sigma = stream(anatomy.seed, "dose").uniform(9.5, 15)
    return add_scan(hu, anatomy.spacing, stream(anatomy.seed, f"scan {phase}"), float(sigma))


def make_patient(
    seed: int,
    *,
    size: tuple[int, int, int] = (160, 128, 96),
    spacing: float | tuple[float, float, float] = 2.5,
    phase: str = "portal_venous",
    noise_free: bool = False,
    lesions: bool = True,
) -> Patient:
    """Create the patient of a seed, scanned with and without contrast.

    Args:
        seed: 0 or more.
        size: voxels along each axis, at least 8; the field of view is centred at the first lumbar vertebra.
        spacing: mm, above 0 and below 100.
        phase: phase of the contrast scan.
        noise_free: omit noise and bias; contrast minus noncontrast is then the iodine enhancement.
        lesions: add cysts and tumours.

    Raises:
        InputError: an argument is out of range or the phase is unknown.
    """
    grid, step = checked(seed, size, spacing, phase)
    anatomy = build_anatomy(seed, grid, step, lesions)
    affine = scan_affine(seed, grid, step)
    info = {"seed": seed, "phase": phase, "noise_free": noise_free, **anatomy.info}
    return Patient(
        render(anatomy, phase, noise_free=noise_free),
        render(anatomy, "none", noise_free=noise_free),
        anatomy.labels,
        affine,
        phase,
        info,
    )


def checked(seed: int, size: Any, spacing: Any, phase: str) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return size and spacing as tuples of three. Raises InputError for arguments out of range."""
    grid = tuple(int(n) for n in size)
    step = tuple(float(s) for s in (spacing if np.ndim(spacing) else (spacing,) * 3))
    if len(grid) != 3 or min(grid) < 8:
        raise InputError(
            "phantom-size-range", f"size is {size}, but must be three whole numbers of at least 8 (voxels)"
        )
    if len(step) != 3 or not all(0 < s < 100 for s in step):
        raise InputError(
            "phantom-spacing-range", f"spacing is {spacing}, but must be one or three numbers above 0 and below 100 mm"
        )
    if phase not in PHASES:
        raise InputError(
            "phantom-phase-unknown",
            f"phase {phase!r} is unknown; choose one of {', '.join(PHASES)}; for a cohort also mixed or all",
        )
    if seed < 0:
        raise InputError("phantom-seed-negative", f"seed is {seed}, but must not be negative")
    return grid, step  # type: ignore[return-value]


def scan_affine(seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Return an axis-aligned RAS affine; its origin varies between patients like a table position."""
    centre = stream(seed, "table").uniform((-12, -20, -400), (12, 20, 100)).round(1)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre - (np.array(size) - 1) / 2 * np.array(spacing)
    return affine


def write_cohort(
    out: Path,
    *,
    patients: int = 16,
    seed: int = 0,
    size: tuple[int, int, int] = (160, 128, 96),
    spacing: float | tuple[float, float, float] = 2.5,
    phase: str = "portal_venous",
    unpaired: bool = False,
    noise_free: bool = False,
    randomise: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Write a cohort: ``source/CASE.nii.gz`` with contrast, ``target/CASE.nii.gz`` without (int16 HU),
    ``labels/CASE.nii.gz`` (uint8), ``labels.json`` ({structure: value}) and ``patients.json`` (settings, and
    each patient's parameters).

    Cases are named patient_000, patient_001, ... A patient depends only on ``seed`` and its number, not on the number
    of patients or workers. Existing cases with the same settings are kept, so that an interrupted call can be resumed.

    Args:
        out: output folder.
        patients: number of patients; with ``unpaired``, for each of source and target, or for each phase.
        seed: of the cohort, 0 or more.
        size, spacing, noise_free: see ``make_patient``.
        phase: one of ``PHASES``; "mixed": arterial, portal_venous or late, drawn for each patient; "all": a folder for
            each of ``PHASES`` instead of source and target, with scans of the same patients and independent noise.
        unpaired: use different patients: the first ``patients`` for the source and the others for the target, or, with
            "all", assign patients to the phases in turn.
        randomise: patients and scanners as varied as possible, for training networks that must work on any scan, see
            ``phantom.randomised``. Each has three scans, CASE_0 to CASE_2, whose scanner and phase differ; field of
            view and spacing are drawn for each patient, with at most as many voxels as ``size``. ``spacing`` and
            ``phase`` are not used.
        workers: processes; None: 2.
        progress: called as ``progress(done, total, case)`` after each case.
        overwrite: replace another cohort written by medgen.

    Raises:
        InputError: an argument is out of range, or ``out`` holds another cohort or cannot be written.
    """
    if randomise and (unpaired or noise_free or phase == "all"):
        raise InputError(
            "phantom-randomise-conflict", "randomise writes pairs with noise; leave unpaired, noise-free and phases out"
        )
    first = PHASES[1] if phase in ("mixed", "all") else phase
    grid, step = checked(seed, size, spacing, first)
    if patients < 1:
        raise InputError("phantom-patients-range", f"patients is {patients}, but must be at least 1")
    if workers is not None and workers < 1:
        raise InputError("phantom-workers-range", f"workers is {workers}, but must be at least 1")
    settings = {
        "generator": GENERATOR,
        "seed": seed,
        "size": list(grid),
        "spacing": list(step),
        "phase": phase,
        "noise_free": noise_free,
        "unpaired_patients": patients if unpaired else None,
    }
    if randomise:
        settings["randomise"] = True
    total = patients * len(scans_of(phase)) if unpaired else patients
    out = Path(out)
    with claimed(out, {"command": "phantom", **settings}, overwrite=overwrite):
        try:
            done = prepare(out, settings, total)
            jobs = [job(out, settings, number, patients) for number in range(total)]
            pending = [j for j in jobs if not (j["case"] in done and all(p.exists() for p in files_of(j).values()))]
            finished = total - len(pending)
            for case, record in run(pending, 2 if workers is None else workers):
                done[case] = record
                write_json(out / "patients.json", {"settings": settings, "patients": dict(sorted(done.items()))})
                if randomise:  # several scans of each patient: a split must keep them together
                    scans = {f"{name}_{k}": {"patient": name} for name in sorted(done) for k in range(SCANS)}
                    write_json(out / "provenance.json", {"real": scans, "synthetic": {}})
                finished += 1
                if progress:
                    progress(finished, total, case)
        except OSError as error:
            raise InputError(
                "output-not-writable", f"{out} cannot be written ({error.strerror or error}); choose another folder"
            ) from error


def prepare(out: Path, settings: dict[str, Any], total: int) -> dict[str, Any]:
    """Create the folders; return the records of existing cases."""
    record = out / "patients.json"
    parts = [*scans_of(settings["phase"]), "labels"]
    done: dict[str, Any] = {}
    if record.exists():
        try:
            old = json.loads(record.read_text())
            done = dict(old["patients"]) if old["settings"] == settings else {}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "phantom-record-foreign", f"{record} is not the record of a phantom cohort; choose another folder"
            ) from error
        if len(done) > total:
            raise InputError(
                "phantom-too-many-cases",
                f"{out} has {len(done)} cases, more than the requested {total}; delete it or choose another folder",
            )
    for part in parts:
        (out / part).mkdir(parents=True, exist_ok=True)
    write_json(out / "labels.json", LABELS)
    write_json(record, {"settings": settings, "patients": done})
    return done


def scans_of(phase: str) -> dict[str, str]:
    """Return {folder: phase} for the images of a cohort."""
    return {name: name for name in PHASES} if phase == "all" else {"source": phase, "target": "none"}


def job(out: Path, settings: dict[str, Any], number: int, patients: int) -> dict[str, Any]:
    """Return the arguments of ``write_case`` for one case."""
    seed = int(np.random.SeedSequence([settings["seed"], number]).generate_state(1)[0])
    phase = settings["phase"]
    if phase == "mixed":
        phase = str(stream(seed, "phase").choice(PHASES[1:]))
    scans = scans_of(phase)
    if settings["unpaired_patients"]:
        side = list(scans)[number % len(scans) if phase == "all" else number // patients]
        scans = {side: scans[side]}
    return {
        "out": out,
        "case": f"patient_{number:03d}",
        "scans": scans,
        "seed": seed,
        "size": settings["size"],
        "spacing": settings["spacing"],
        "phase": phase,
        "noise_free": settings["noise_free"],
        "randomise": settings.get("randomise", False),
    }


def files_of(work: dict[str, Any]) -> dict[str, Path]:
    """Return {folder: file} for the images and the label map of a case; for each scan of a randomised patient."""
    if work["randomise"]:
        parts = [(part, k) for part in (*work["scans"], "labels") for k in range(SCANS)]
        return {f"{part} {k}": work["out"] / part / f"{work['case']}_{k}.nii.gz" for part, k in parts}
    return {part: work["out"] / part / f"{work['case']}.nii.gz" for part in [*work["scans"], "labels"]}


def run(jobs: list[dict[str, Any]], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield case name and record of each finished job; uses worker processes if there are several jobs and workers."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(write_case, jobs)
        return
    # Workers only use numpy and scipy, which are safe to fork; spawn would need a guarded __main__ and import torch.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        waiting = [pool.submit(write_case, j) for j in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def write_case(work: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write the images and the label map of one case; return its name and record."""
    if work["randomise"]:
        return write_randomised(work)
    seed, noise_free = work["seed"], work["noise_free"]
    anatomy = build_anatomy(seed, work["size"], work["spacing"])
    affine = scan_affine(seed, work["size"], work["spacing"])
    files = files_of(work)
    for part, phase in work["scans"].items():
        hu = render(anatomy, phase, noise_free=noise_free)
        write_nifti(files[part], np.rint(hu).astype(np.int16), affine)
    write_nifti(files["labels"], anatomy.labels, affine)
    record = {"seed": seed, "phase": work["phase"], "noise_free": noise_free, **anatomy.info}
    return work["case"], {"sides": list(work["scans"]), **record}


def write_randomised(work: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """``write_case`` for a randomised patient: grid, scanners and phases of its scans follow from its seed."""
    size, spacing = random_grid(work["seed"], work["size"])
    affine, files = scan_affine(work["seed"], size, spacing), files_of(work)
    scans = random_scan(work["seed"], size, spacing, draws=SCANS)
    for k, scan in enumerate(scans):
        for part, hu in (("source", scan.contrast), ("target", scan.noncontrast)):
            write_nifti(files[f"{part} {k}"], np.rint(hu).clip(-1024, 4000).astype(np.int16), affine)
        write_nifti(files[f"labels {k}"], scan.labels, affine)
    record = {"seed": work["seed"], "size": list(size), "spacing": list(spacing)}
    return work["case"], {"sides": list(work["scans"]), **record, "phases": [scan.info["phase"] for scan in scans]}


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file atomically; equal arrays give equal bytes."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    replace_file(path, gzip.compress(image.to_bytes(), 3, mtime=0))


def write_json(path: Path, content: Any) -> None:
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
