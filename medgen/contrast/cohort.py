"""Pairs for training from unpaired CTs and their label maps: contrast phases simulated on non-contrast CTs, with known
truth, and the unenhanced twins of contrast CTs."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen import __version__
from medgen.contrast.enhancement import PHASES, unknown_words, uptake_of
from medgen.contrast.inputs import Pair, find_pairs, read_pair
from medgen.contrast.simulate import simulate
from medgen.contrast.unenhanced import unenhanced
from medgen.data.cohort.patients import PROVENANCE
from medgen.errors import InputError, reason
from medgen.io.atomic import write_text
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.io.hashes import sha256
from medgen.io.volume import Volume
from medgen.io.write import write_volume

NOTHING_ENHANCED = (
    "none of its labels is known to take up contrast medium, so source and target are the same image; give English "
    "names of structures with --label-table"
)


@dataclass
class Simulated:
    """Result of one case: the phases that were written, or the error."""

    case: str
    phases: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()  # labels whose structure takes up no contrast medium, or is not known
    enhanced: tuple[str, ...] = ()  # labels that do, as "name (tissue)"
    unknown: dict[str, Any] | None = None  # with ``reverse``: the record of `unenhanced`
    warnings: tuple[str, ...] = ()
    error: str | None = None


def simulate_cohort(
    images: Path,
    labels: Path,
    out: Path,
    *,
    phases: Sequence[str] = PHASES,
    table: Path | str | None = None,
    seed: int = 0,
    excreted: bool = False,
    oral: bool = False,
    reverse: bool = False,
    overwrite: bool = False,
    done: Callable[[Simulated, int, int], None] = lambda *_: None,
    warn: Callable[[str], None] = lambda _: None,
) -> list[Simulated]:
    """Write ``source/CASE_PHASE.nii.gz`` (with contrast medium), ``target/`` (the CT) and ``labels/`` for each CT.

    Args:
        images: a CT in HU without contrast medium, or a folder of them; with ``reverse``, with contrast medium.
        labels: the label map on the same grid, or a folder of label maps with the names of the images.
        out: cohort folder for ``data.root``; its ``provenance.json`` keeps all phases of all scans of a patient on one
            side of a split. Patients are identified as in training (``provenance.json`` of ``images``, names).
        phases: of `PHASES`.
        table: names of the label values, see `label_names.names_of_labels`.
        seed: of all draws; a case depends on the seed and its name alone.
        excreted, oral: see `simulate`.
        reverse: the images are CTs with contrast medium; write ``source/CASE.nii.gz`` (the CT itself) and ``target/``
            (its twin without contrast medium, see `unenhanced`) instead.
        overwrite: replace the result of another call.
        done: called after each case.
        warn: called with each warning about the folders as a whole.

    Returns:
        One entry per image. A case that fails stops no other.

    Raises:
        InputError: unknown phase, no images, or a folder that cannot be used.
    """
    for phase in phases:
        if phase not in PHASES:
            raise InputError("phase-unknown", f"phase {phase!r} is unknown; choose from {', '.join(PHASES)}")
    pairs, unused = find_pairs(images, labels)
    check_output_is_not_input(out, images, labels, table)
    settings = {"command": "simulate-contrast", "images": images, "labels": labels, "reverse": reverse}
    if not reverse:
        settings |= {"phases": list(phases), "seed": seed, "excreted": excreted, "oral": oral}
    results: list[Simulated] = []
    records: dict[str, dict[str, Any]] = {"real": {}, "synthetic": {}}
    with claimed(out, settings, overwrite=overwrite):
        for warning in unused:
            warn(warning)
        for number, pair in enumerate(pairs, start=1):
            case = pair.case
            result = Simulated(case)
            try:
                scan = read_pair(pair, labels, table, reverse=reverse)
                ct, values, present = scan.ct, scan.values, scan.names
                result.warnings = scan.warnings
                _add_names(out / "labels.json", pair, {name: value for value, name in present.items()})
                uptakes = {name: uptake_of(name) for name in present.values()}
                result.warnings += tuple(
                    f"label {name} is left unchanged: the meaning of {' '.join(unknown)} is not known; if it takes up "
                    "contrast medium, rename the label, for example to the organ"
                    for name in uptakes
                    if (unknown := unknown_words(name))
                )
                result.unchanged = tuple(name for name, uptake in uptakes.items() if uptake is None)
                result.enhanced = tuple(f"{name} ({uptake.tissue})" for name, uptake in uptakes.items() if uptake)
                if not result.enhanced:
                    result.warnings += (NOTHING_ENHANCED,)
                if reverse:
                    twin = unenhanced(ct.data, values, present, ct.spacing)
                    pairs_of = {case: (ct.data, twin.plain, {"name": "unenhanced", **twin.record})}
                    result.unknown = twin.record
                else:
                    pairs_of = _simulated(case, ct, values, present, phases, seed, excreted, oral)
                    result.phases = tuple(phases)
                for name, (source, target, operation) in pairs_of.items():
                    files = _written(out, name, source, target, values, ct.affine)
                    records["synthetic" if pair.shows else "real"][name] = _record(pair, operation) | {"files": files}
            except (InputError, ArithmeticError, MemoryError) as error:
                result.error = reason(error)
            results.append(result)
            write_text(
                out / PROVENANCE,
                json.dumps({"medgen": __version__, **records}, indent=1) + "\n",
            )
            done(result, number, len(pairs))
    return results


Pairs = dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]  # name → source, target (HU), operation


def _simulated(
    case: str,
    ct: Volume,
    values: np.ndarray,
    names: dict[int, str],
    phases: Sequence[str],
    seed: int,
    excreted: bool,
    oral: bool,
) -> Pairs:
    """A pair for each phase."""
    case_seed = int.from_bytes(hashlib.sha256(f"{seed}:{case}".encode()).digest()[:7], "little")
    found: Pairs = {}
    for phase in phases:
        simulation = simulate(ct.data, values, names, ct.spacing, phase, case_seed, excreted=excreted, oral=oral)
        operation = {"name": "simulate-contrast", **simulation.record}
        found[f"{case}_{phase}"] = simulation.contrast, simulation.contrast - simulation.iodine, operation
    return found


def _written(
    out: Path, name: str, source: np.ndarray, target: np.ndarray, labels: np.ndarray, affine: np.ndarray
) -> dict[str, str]:
    """Write a pair with its labels; returns the hashes of the files."""
    files = []
    for part, data in (("source", source), ("target", target), ("labels", labels)):
        files.append(out / part / f"{name}.nii.gz")
        whole = np.rint(data)
        kinds = (np.uint8, np.uint16) if part == "labels" else (np.int16, np.int32)
        kind = kinds[0] if np.iinfo(kinds[0]).min <= whole.min() and whole.max() <= np.iinfo(kinds[0]).max else kinds[1]
        write_volume(files[-1], Volume(whole.astype(kind), affine))
    return {str(f.relative_to(out)): sha256([f]) for f in files}


def _record(pair: Pair, operation: dict[str, Any]) -> dict[str, Any]:
    """Entry of a pair in provenance.json; one of a synthetic CT also names the patients whose images that contains."""
    others = sorted(pair.shows - {pair.patient})
    operation = operation | ({"patients": others} if others else {})
    return {"patient": pair.patient, "source": pair.case, "operations": [operation]}


def _add_names(table: Path, pair: Pair, names: dict[str, int]) -> None:
    """Add the structures of a case to the cohort's table. Raises InputError if it has a name under another value."""
    known: dict[str, int] = json.loads(table.read_text()) if table.is_file() else {}
    differing = [name for name, value in names.items() if known.get(name, value) != value]
    if differing:
        raise InputError(
            "labels-table-differs",
            f"{pair.label_map}: {differing[0]} is {names[differing[0]]} here and {known[differing[0]]} in the cohort's "
            "other label maps; give all of them one table",
        )
    write_text(table, json.dumps(known | names, indent=1) + "\n")
