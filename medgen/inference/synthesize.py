"""Make synthetic images from a folder of label maps, with their labels and provenance, reproducibly from seeds.

Each sample depends only on the model, the label map, its image or style image, the seed, the case name and the sample
number, so adding or removing a case does not change the others.
"""

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgen.checkpoint import Model
from medgen.data.cohort.layouts import label_case
from medgen.data.fingerprint import distribution_shift_reasons
from medgen.data.grid import resample, resample_like
from medgen.data.intensity import Range
from medgen.data.labels.codec import LabelTable, describe_labels
from medgen.data.labels.deformation import centred, deform, recombine
from medgen.data.labels.names import NUMBERED, label_names, refuse_other_names
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.inference.cohort.manifest import Manifest, model_description
from medgen.inference.inputs import find_inputs
from medgen.inference.kind import check_translates
from medgen.inference.model_grid import on_model_grid
from medgen.inference.style import ReferenceStyle, draw_style, make_images, reference_style, seed_of
from medgen.io.atomic import write_text
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.io.hashes import sha256
from medgen.io.label_headers import header_names
from medgen.io.names import folded
from medgen.io.paths import case_name
from medgen.io.read import read_volume
from medgen.io.volume import GRID_TOLERANCE, Volume, from_canonical, same_geometry, to_canonical
from medgen.io.write import write_volume

log = logging.getLogger(__name__)
MARK = "synthetic"  # in every file's name
SHARES = (0.2, 0.5)  # weight range of the other label map in a recombined one
HU_WIDTH = 500  # images of a fixed window at least this wide are stored as integers


@dataclass
class Synthetic:
    """Result of one sample. ``status``: made, skipped (made by an earlier run) or failed (see ``error``).

    ``operations``: operations on the label map and the origin of the style, in order. ``output``: the image, of the
    first contrast if there are several. ``output_sha256``: hash of images and labels.
    """

    case: str
    source_case: str
    labels: str
    images: str | None
    style: str | None
    sample: int
    seed: int
    operations: list[dict[str, Any]]
    output: str
    status: str = "failed"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    input_sha256: str = ""
    output_sha256: str = ""


@dataclass(frozen=True)
class Options:
    """Options of a run that apply to every case, see ``synthesize``."""

    out: Path
    images: Path | None
    style: Path | None
    samples: int
    seed: int
    deform: bool
    recombine: bool
    memory_gb: float | None


def synthesize(
    model: Model,
    labels: Path,
    out: Path,
    *,
    images: Path | None = None,
    style: Path | None = None,
    samples: int = 1,
    seed: int = 0,
    deform: bool = False,
    recombine: bool = False,
    memory_gb: float | None = None,
    overwrite: bool = False,
    done: Callable[[Synthetic, int, int], None] = lambda *_: None,
) -> list[Synthetic]:
    """Make images from label maps, each on the grid of its label map.

    Args:
        model: a model trained on label maps, on the device to use.
        labels: a label map or a folder of label maps.
        out: output folder for ``images/CASE_synthetic_N.nii.gz`` (with several contrasts, a folder per contrast),
            ``labels/`` with label maps of the same names (without tissue classes), ``labels.json`` and
            ``manifest.json``.
        images: the real image of each label map, matched by name; used to divide the background into tissue classes.
        style: reference image for style and intensity range; None: a random style per sample.
        samples: number of samples per label map.
        seed: random seed of styles and deformations.
        deform: deform each label map differently for each sample, see ``data.labels.deformation``.
        recombine: first interpolate each label map with another one of the folder, drawn at random.
        memory_gb: memory limit of a whole-volume pass, GiB.
        overwrite: replace the result of another run in ``out``, see ``io.claim``.
        done: called after each sample with its result, its number and the number of samples.

    Returns:
        One entry per sample, failures included.

    Raises:
        InputError: the model translates scans, there is nothing to make, or the output cannot be written.
    """
    check_translates(model)
    if not model.settings.label_source:
        raise InputError(
            "model-translates-scans", f"{model.folder} translates scans, not label maps; use medgen translate"
        )
    paths = find_inputs(labels)
    check_output_is_not_input(out, labels, images, style, model.folder)
    if recombine and len(paths) < 2:
        raise InputError(
            "labels-recombine-needs-two",
            f"{labels} holds one label map, but --recombine needs two; give a folder with more, or omit --recombine",
        )
    options = Options(out, images, style, samples, seed, deform, recombine, memory_gb)
    reference = None if style is None else reference_style(model, style)
    table = model.source_code
    assert isinstance(table, LabelTable)
    _check_names(labels, table)
    results: list[Synthetic] = []
    run = {"command": "synthesize", "model": model.info.sha256, "labels": labels, "images": images, "style": style}
    run |= {"seed": seed, "deform": deform, "recombine": recombine}
    with claimed(out, run, overwrite=overwrite), Manifest(out, model_description(model)) as manifest:
        _write_table(out, table)
        for path in paths:
            known = {folded(r.source_case) for r in results}
            others = [other for other in paths if other != path] if recombine else []
            for entry in _case(model, table, path, others, options, reference, manifest, known):
                results.append(entry)
                if entry.status != "skipped":
                    manifest.add(entry.case, entry)
                done(entry, len(results), len(paths) * samples)
    return results


def _check_names(labels: Path, table: LabelTable) -> None:
    """Raise InputError if the table beside the label maps gives a value of the model another name."""
    try:
        given = label_names(labels)
    except InputError:  # a table of another kind, which is not needed here
        return
    _check_table(given, f"the table beside {labels}", table)


def _check_table(given: Mapping[int, str], whose: str, table: LabelTable) -> None:
    """Raise InputError if names of values are not those of the model.

    A liver would otherwise be painted as the structure that has its number in the model.
    """

    def named(names: Mapping[int, str]) -> dict[int, str]:
        return {value: name for value, name in names.items() if value and not NUMBERED.match(name)}

    refuse_other_names(named(table.names), "the model", named(given), whose)
    if named(given) and not named(table.names):
        log.warning(
            "warning: %s names labels, but the training data of the model had numbers only; check that %s there too",
            *(whose, " and ".join(f"{value} is {name}" for value, name in list(named(given).items())[:2])),
        )


def _write_table(out: Path, table: LabelTable) -> None:
    write_text(out / "labels.json", json.dumps(table.labels, indent=1) + "\n")


def _case(
    model: Model,
    table: LabelTable,
    path: Path,
    others: list[Path],
    options: Options,
    reference: ReferenceStyle | None,
    manifest: Manifest,
    earlier: set[str],
) -> Iterator[Synthetic]:
    """Make the samples of one label map, and yield the entry of each; ``others``: label maps to recombine with."""
    name = label_case(path.resolve())
    folders = model.settings.data.targets if len(model.settings.data.targets) > 1 else ("images",)
    found: tuple[Volume, Volume] | None = None
    for n in range(options.samples):
        started = time.monotonic()
        entry = _entry(name, path, n, options, folders[0])
        outputs = [options.out / folder / f"{entry.case}.nii.gz" for folder in (*folders, "labels")]
        try:
            if folded(name) in earlier:
                raise InputError(
                    "folder-case-twice", f"{path}: another label map has the same case name, {name}; rename one"
                )
            _check_table(header_names(path), f"the header of {path}", table)
            image = _image_of(name, path, options.images)
            entry.images = None if image is None else str(image)
            files = [p for p in (path, image, options.style) if p is not None]
            other = _drawn_other(entry, others) if others else None
            paired = None if other is None else _image_of(label_case(other), other, options.images)
            files += [p for p in (other, paired) if p is not None]
            entry.input_sha256 = sha256(files)
            keys = ("seed", "operations", "output", "input_sha256")
            if manifest.holds(entry.case, {k: getattr(entry, k) for k in keys}, outputs):
                yield _skipped(entry, manifest)
                continue
            found = found or _read(table, path, image)
            entry.warnings = [*found[0].warnings, *label_map_warnings(model, table, found[1])]
            second = None if other is None else _read(table, other, paired)[1]
            made = make(model, table, *found, entry.operations, reference, options.memory_gb, second)
            for file, volume in zip(outputs, made, strict=True):
                write_volume(file, volume)
            entry.output_sha256, entry.status = sha256(outputs), "made"
        except InputError as error:
            entry.error = str(error) if path.name in str(error) else f"{path}: {error}"
        entry.seconds = round(time.monotonic() - started, 2)
        yield entry


def _entry(name: str, path: Path, sample: int, options: Options, folder: str) -> Synthetic:
    """The entry of a sample before it is made, with its operations and their seeds."""
    operations: list[dict[str, Any]] = []
    if options.recombine:
        operations.append({"operation": "recombine", "seed": seed_of("recombine", options.seed, name, sample)})
    if options.deform:
        operations.append({"operation": "deform", "seed": seed_of("deform", options.seed, name, sample)})
    style = {"seed": seed_of("style", options.seed, name, sample)} if options.style is None else {}
    operations.append({"operation": "style", **style})
    operations.append({"operation": "texture", "seed": seed_of("texture", options.seed, name, sample)})
    return Synthetic(
        case=f"{name}_{MARK}_{sample}",
        source_case=name,
        labels=str(path),
        images=None,
        style=None if options.style is None else str(options.style),
        sample=sample,
        seed=options.seed,
        operations=operations,
        output=str(options.out / folder / f"{name}_{MARK}_{sample}.nii.gz"),
    )


def _drawn_other(entry: Synthetic, others: list[Path]) -> Path:
    """Draw the label map to recombine with and its weight, and record both in the entry."""
    (step,) = (step for step in entry.operations if step["operation"] == "recombine")
    rng = np.random.default_rng(step["seed"])
    other = others[int(rng.integers(len(others)))]
    step |= {"with": str(other), "share": round(float(rng.uniform(*SHARES)), 4)}
    return other


def _skipped(entry: Synthetic, manifest: Manifest) -> Synthetic:
    old = manifest.cases[entry.case]
    entry.status, entry.warnings, entry.output_sha256 = "skipped", old["warnings"], old["output_sha256"]
    return entry


def _image_of(name: str, path: Path, images: Path | None) -> Path | None:
    if images is None or not images.is_dir():
        return images
    found = [p for p in find_inputs(images) if case_name(p) == name]
    if not found:
        raise InputError("pair-image-missing", f"{images} holds no image {name} for {path}; add it or omit --images")
    if len(found) > 1:
        raise InputError("pair-image-ambiguous", f"{found[0]} and {found[1].name} both match {path}; keep one of them")
    return found[0]


def _read(table: LabelTable, path: Path, image: Path | None) -> tuple[Volume, Volume]:
    """Read a label map: as stored, and in canonical axes with its background divided into tissue classes."""
    stored = read_volume(path)
    stored = stored.replaced(nearly_whole(stored.data))
    labels, paired = to_canonical(stored), None if image is None else to_canonical(read_volume(image))
    if paired is not None and not same_geometry(labels.geometry, paired.geometry, GRID_TOLERANCE * min(labels.spacing)):
        raise InputError(
            "labels-grid-differs",
            f"{path} has the grid [{labels.geometry.describe()}], its image {image} [{paired.geometry.describe()}]; "
            "give images on the grid of their label maps",
        )
    return stored, table.filled(labels, paired)


def label_map_warnings(model: Model, table: LabelTable, labels: Volume) -> list[str]:
    """Warnings where a label map in canonical axes differs from those of the model's training."""
    scans = [scan.model_dump() for scan in model.info.training_scans[0]]
    found = distribution_shift_reasons(
        describe_labels(labels, table), scans, check_spacing=model.settings.data.spacing is None
    )
    return [f"outside the training distribution: {reason}" for reason in found]


def make(
    model: Model,
    table: LabelTable,
    stored: Volume,
    labels: Volume,
    operations: list[dict[str, Any]],
    reference: ReferenceStyle | None = None,
    memory_gb: float | None = None,
    other: Volume | None = None,
) -> list[Volume]:
    """Make one sample by a list of operations.

    Args:
        stored: the label map as stored in its file.
        labels: the same in canonical axes, with the background divided into tissue classes if the model has them.
        operations: optional "recombine" with its "share", optional "deform", "style" and "texture"; each with a "seed".
        reference: style of a reference image; None: drawn from the seed of "style".
        memory_gb: memory limit of a whole-volume pass, GiB.
        other: the label map to recombine with, prepared like ``labels``.

    Returns:
        The images, then the label map, on the grid of ``stored``.
    """
    seeds: dict[str, int] = {step["operation"]: step.get("seed", 0) for step in operations}
    structures = list(table.labels.values())
    if other is not None:
        (share,) = (step["share"] for step in operations if step["operation"] == "recombine")
        if not np.allclose(other.spacing, labels.spacing, rtol=0.02):
            other = resample(other, labels.spacing, labels=True)
        moved = centred(other.data, *(table.structures(v.data) > 0 for v in (other, labels)))
        labels = labels.replaced(recombine(labels.data, moved, share, labels.spacing, keep=structures))
    if "deform" in seeds:
        labels = labels.replaced(deform(labels.data, labels.spacing, seeds["deform"], keep=structures))
    if reference is None:
        draw_style(model, seeds["style"])
    else:
        model.method.z = reference.z  # type: ignore[attr-defined]
    grid = on_model_grid(labels, model, labels=True)
    images = []
    made = make_images(model, grid.data, table, seeds["texture"], memory_gb)
    for y, target in zip(made, model.target_ranges, strict=True):
        decoded = target.typical if reference is None else reference.range
        y = decoded.decode(target.typical.encode(y)) if reference is not None else y
        y = y if grid is labels else resample_like(grid.replaced(y), labels)
        images.append(_image(from_canonical(y, stored), stored, decoded, model))
    named = stored.replaced(from_canonical(table.structures(labels.data), stored))
    return [*images, named]


def _image(data: np.ndarray, labels: Volume, code: Range, model: Model) -> Volume:
    """An image on the grid of its label map; header fields about label values are reset."""
    whole = model.settings.intensity.target.kind == "window" and code.high - code.low >= HU_WIDTH
    header = copy.deepcopy(labels.header)
    if header is not None:
        header.set_intent("none")
        header["cal_min"] = header["cal_max"] = 0
        header["descrip"] = b"synthetic image, medgen"
        header.set_slope_inter(1, 0)
    return Volume(data, labels.affine, np.dtype(np.int16 if whole else np.float32), header)
