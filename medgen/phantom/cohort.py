"""The embedded CT cohort: an abdomen and lower chest per seed, with and without contrast, and its labels.

Anatomy (``medgen.data.anatomy``) is drawn once per patient; ``render`` scans it at any phase, with noise and
bias (``medgen.phantom.ct_physics``). Nothing here is a real person.
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

GENERATOR = 1  # counts changes that make a seed another patient
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
    """HU (X, Y, Z) float32 of a scan at a phase ("none", "arterial", "portal_venous", "late").

    Every phase is a scan of its own: noise and bias are drawn independently, the same for the same seed.
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
    """The patient of a seed, scanned with and without contrast.

    ``size`` in voxels, ``spacing`` in mm; the field of view is centred on the patient at the first lumbar
    vertebra.
    ``noise_free`` leaves out noise and bias: contrast minus noncontrast is then the iodine alone.
    Raises InputError for a size below 8, a spacing not above 0, a negative seed or an unknown phase.
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
    grid = tuple(int(n) for n in size)
    step = tuple(float(s) for s in (spacing if np.ndim(spacing) else (spacing,) * 3))
    if len(grid) != 3 or min(grid) < 8:
        raise InputError("phantom-size-range", f"size {size} must be three numbers of voxels of at least 8.")
    if len(step) != 3 or not all(0 < s < 100 for s in step):
        raise InputError(
            "phantom-spacing-range", f"spacing {spacing} must be one number or three, between 0 and 100 mm."
        )
    if phase not in PHASES:
        raise InputError(
            "phantom-phase-unknown",
            f"phase {phase!r} is unknown; choose one of {', '.join(PHASES)}, for a cohort mixed or all.",
        )
    if seed < 0:
        raise InputError("phantom-seed-negative", f"seed {seed} must not be negative.")
    return grid, step  # type: ignore[return-value]


def scan_affine(seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Axis-aligned RAS affine whose origin differs between patients, as table positions do."""
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
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Write a cohort: ``source/CASE.nii.gz`` with contrast, ``target/CASE.nii.gz`` without (int16 HU),
    ``labels/CASE.nii.gz`` (uint8), ``labels.json`` ({structure: value}) and ``patients.json`` (settings, and
    each patient's parameters).

    ``phase`` may be "mixed": each patient arterial, portal_venous or late; or "all": a folder for each of
    ``PHASES`` in place of source and target, scans of the same patients with noise of their own.
    Cases are patient_000, patient_001, ...; with ``unpaired`` the source holds the first ``patients`` of them
    and the target as many others, or each phase ``patients`` of its own, dealt one phase after the other.
    A patient depends on ``seed`` and its number alone, not on the number of patients or of ``workers``
    (processes; default 2). Cases already there from the same settings are kept, so an interrupted call goes on.
    ``progress(done, total, case)`` is called after each case. ``overwrite``: replace another cohort of medgen's.

    Raises InputError for arguments out of range, a folder that holds another cohort or cannot be written.
    """
    first = PHASES[1] if phase in ("mixed", "all") else phase
    grid, step = checked(seed, size, spacing, first)
    if patients < 1:
        raise InputError("phantom-patients-range", f"patients {patients} must be at least 1.")
    if workers is not None and workers < 1:
        raise InputError("phantom-workers-range", f"workers {workers} must be at least 1.")
    settings = {
        "generator": GENERATOR,
        "seed": seed,
        "size": list(grid),
        "spacing": list(step),
        "phase": phase,
        "noise_free": noise_free,
        "unpaired_patients": patients if unpaired else None,
    }
    total = patients * len(scans_of(phase)) if unpaired else patients
    out = Path(out)
    with claimed(out, {"command": "phantom", **settings}, overwrite=overwrite):
        try:
            done = prepare(out, settings, total)
            jobs = [job(out, settings, number, patients) for number in range(total)]
            wait = [j for j in jobs if not (j["case"] in done and all(p.exists() for p in files_of(j).values()))]
            finished = total - len(wait)
            for case, record in run(wait, 2 if workers is None else workers):
                done[case] = record
                write_json(out / "patients.json", {"settings": settings, "patients": dict(sorted(done.items()))})
                finished += 1
                if progress:
                    progress(finished, total, case)
        except OSError as error:
            raise InputError(
                "output-not-writable", f"{out} cannot be written: {error.strerror or error}; choose another folder."
            ) from error


def prepare(out: Path, settings: dict[str, Any], total: int) -> dict[str, Any]:
    """Make the folders; return the records of cases already there."""
    record = out / "patients.json"
    parts = [*scans_of(settings["phase"]), "labels"]
    done: dict[str, Any] = {}
    if record.exists():
        try:
            old = json.loads(record.read_text())
            done = dict(old["patients"]) if old["settings"] == settings else {}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "phantom-record-foreign", f"{record} is not a record of an embedded cohort; choose another folder."
            ) from error
        if len(done) > total:
            raise InputError(
                "phantom-too-many-cases",
                f"{out} holds {len(done)} cases, more than {total}; remove it or choose another folder.",
            )
    for part in parts:
        (out / part).mkdir(parents=True, exist_ok=True)
    write_json(out / "labels.json", LABELS)
    write_json(record, {"settings": settings, "patients": done})
    return done


def scans_of(phase: str) -> dict[str, str]:
    """The folders of a cohort, and the phase that each holds."""
    return {name: name for name in PHASES} if phase == "all" else {"source": phase, "target": "none"}


def job(out: Path, settings: dict[str, Any], number: int, patients: int) -> dict[str, Any]:
    """What a worker needs to write one case."""
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
    }


def files_of(work: dict[str, Any]) -> dict[str, Path]:
    return {part: work["out"] / part / f"{work['case']}.nii.gz" for part in [*work["scans"], "labels"]}


def run(jobs: list[dict[str, Any]], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Case and record of each job as it is done, by worker processes where that pays."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(write_case, jobs)
        return
    # Workers use numpy and scipy alone, which survive a fork; spawn would need a guarded __main__ and import torch.
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


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    replace_file(path, gzip.compress(image.to_bytes(), 3, mtime=0))


def write_json(path: Path, content: Any) -> None:
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    with atomic_write(path) as aside:
        aside.write_bytes(content)
