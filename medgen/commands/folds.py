"""Cross-validation: a model for each fold of the patients, one report over all of them, and their ensemble."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medgen.commands.shared import pick_device
from medgen.data.cohort.layouts import shortened_list
from medgen.errors import InputError
from medgen.io.names import print_line
from medgen.io.paths import NIFTI_ENDINGS, case_name, ending_of
from medgen.settings import Settings
from medgen.types import Case

if TYPE_CHECKING:
    from medgen.data.cohort.read import Cohort

FITTED = "the values of the target images"


def cross_validate(
    settings: Settings, out: Path, *, overwrite: bool = False, say: Callable[[str], None] = print
) -> tuple[list[str], int]:
    """Train a model per fold, translate its held-out patients with it, and evaluate all of them together.

    A restart resumes an interrupted run.

    Args:
        settings: with ``data.folds``, and pairs of one target contrast.
        out: receives ``fold_0``, ``fold_1``, ... (training runs with the translations of their held-out patients),
            ``cases`` (links to the images of all cases), ``results``, ``report.html``, and ``ensemble``, a model folder
            with all models.
        overwrite: replace another run in ``out``.
        say: receives the lines for the user.

    Returns:
        The failures of conversions and evaluation, a line for each case that failed, and the number of cases.

    Raises:
        InputError: the settings cannot be cross-validated, or ``out`` holds another run.
    """
    from medgen.data.cohort.read import read_cohort
    from medgen.data.cohort.read_split import known_cases
    from medgen.data.cohort.split import fold_splits, save_split
    from medgen.io.claim import check_output_is_not_input, claimed
    from medgen.models import model_folder

    check_settings(settings)
    data = settings.data
    assert data.root is not None and data.folds is not None
    start = settings.train.start_from
    check_output_is_not_input(out, data.root, start and model_folder(start))
    read = partial(
        read_cohort,
        data.root,
        sources=data.sources,
        targets=data.targets,
        source_channels=data.source_channels,
        target_channels=data.target_channels,
    )
    found = read(fold=None)
    if own := _own_split(read):
        say(f"warning: {data.root} states {own}, which --folds does not use; to use it, train without --folds")
    if any(any(case.channels) for case in found.cases):
        raise InputError("folds-unsupported", f"{data.root} has channels of 4D files; folds need a file per contrast")
    with TemporaryDirectory() as folder:  # the run's own folder is not claimed before the folds are known
        pairs, content = known_cases(settings, data.cache or Path(folder), say)
    test = 0.0 if any(case.part == "test" for case in found.cases) else data.test
    splits = fold_splits(pairs, data.folds, settings.train.seed, validation=data.validation, test=test)
    held_out = [[case for case in split["validation"] if not case.synthetic] for split in splits]
    _check_grids([case for fold in held_out for case in fold])
    if settings.train.start_from is not None:
        _check_start(settings.train.start_from, {case.name: content[case.name] for fold in held_out for case in fold})
    cases = json.dumps([{part: [case.name for case in split[part]] for part in split} for split in splits])
    dealt = hashlib.sha256(cases.encode()).hexdigest()  # with one case more, other folds are dealt
    about = {"command": "train --folds", "data.root": data.root, "settings": _text(settings)}
    about["the cases of the folds"] = dealt
    if tested := {case.patient for case in splits[0]["test"]}:
        say(f"{len(tested)} patients are held back for testing and are in no fold: {shortened_list(sorted(tested))}")
    if settings.train.minutes is not None:
        say(f"each of the {data.folds} folds trains for up to {settings.train.minutes:g} minutes")
    failures: list[str] = []
    with claimed(out, about, overwrite=overwrite):
        _remove_links(out / "cases")
        for old in sorted(set(out.glob("fold_*")) - {out / f"fold_{k}" for k in range(len(splits))}):
            say(f"warning: {old} is a fold of an earlier run, and not part of this one; delete it")
        for k, split in enumerate(splits):
            counts = f"{len(split['train'])} cases train, {len(held_out[k])} are held out"
            say(f"fold {k + 1} of {len(splits)}: {counts}")
            place = out / f"split_{k}.json"
            save_split(place, split)
            fold = settings.model_copy(update={"data": data.model_copy(update={"folds": None, "split": place})})
            failures += _fold(fold, out, k, held_out[k], overwrite, say)
        write_ensemble([out / f"fold_{k}" / "best" for k in range(len(splits))], out / "ensemble")
        failures += _evaluate(out, settings, [case for fold in held_out for case in fold], len(splits))
    say(f"ensemble of the {len(splits)} models: medgen translate {out / 'ensemble'} INPUT OUTPUT")
    return failures, sum(map(len, held_out))


def _own_split(read: Callable[..., "Cohort"]) -> str:
    """The folds or validation subset that a dataset states, in words; "" for none."""
    try:
        found = read(fold=0)
    except InputError as error:
        if error.code == "split-fold-unknown":
            return "folds of its own"
        raise
    if found.stated:
        return f"folds of its own ({found.stated})"
    return "a validation subset" if any(case.part == "validation" for case in found.cases) else ""


def check_settings(settings: Settings) -> None:
    """Raise InputError if a training with these settings cannot be cross-validated."""
    data, train = settings.data, settings.train
    reasons = {
        "data.root is not set": data.root is None,
        "the method generates images or paints labels": settings.generative or settings.label_source,
        "the method translates between domains": bool(data.domains),
        "data.paired is false": not data.paired,
        "there are several targets": len(data.targets) != 1,
        "data.degradation makes the sources, which held-out cases do not have": data.degradation is not None,
        "inference.grid is model, so translations and targets have other voxels": settings.inference.grid == "model",
        "data.split is set": data.split is not None,
        "train.devices or train.nodes is above 1": train.devices > 1 or train.nodes > 1,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise InputError(
            "folds-unsupported",
            f"folds need pairs of scans with one target, one process and no split of their own, but {found[0]}",
        )


def _check_start(model: Path | str, held_out: Mapping[str, set[str]]) -> None:
    """Raise InputError if the model to start from has seen a held-out case; ``held_out``: {case: image hashes}."""
    from medgen.checkpoint import read_info
    from medgen.models import model_folder

    theirs = read_info(model_folder(model))[0].training_data
    seen = {*theirs.get("ancestors", {}), *theirs.get("images", {})}
    known = [case for case, images in held_out.items() if images & seen]
    if known:
        raise InputError(
            "folds-start-from-seen",
            f"train.start_from={model} was trained or selected with {len(known)} of these {len(held_out)} cases "
            f"({shortened_list(known)}), so no fold could hold them out; start from another model, or from none",
        )


def _check_grids(cases: Sequence[Case]) -> None:
    """Raise InputError, before hours of training, if an image and its truth cannot be compared voxel by voxel."""
    from medgen.io.grids import same_grid
    from medgen.io.read import read_geometry

    other = [c.name for c in cases if not same_grid(read_geometry(c.source[0]), read_geometry(c.target[0]))]
    if other:
        raise InputError(
            "folds-grids",
            f"source and target of {shortened_list(other)} are on different grids, and folds compare translations with "
            "targets voxel by voxel; train without folds, or resample the targets to the grids of their sources first",
        )


def _text(settings: Settings) -> str:
    """What determines the run; a longer schedule is still the same run."""
    return settings.model_dump_json(exclude={"train": {"steps", "minutes"}, "data": {"root", "cache"}})


def _fold(
    settings: Settings, out: Path, k: int, held_out: list[Case], overwrite: bool, say: Callable[[str], None]
) -> list[str]:
    """Train the model of fold ``k`` and translate its held-out cases; return the failures."""
    from medgen.checkpoint import load_model
    from medgen.inference.check import checks_for
    from medgen.inference.cohort.run import convert
    from medgen.training.loop import train

    best = train(settings, out / f"fold_{k}", resume=not overwrite, overwrite=overwrite, say=say)
    model = load_model(best, pick_device("auto"))
    links = [_named(case, out / "cases", settings.data.sources) for case in held_out]
    converted = convert(
        model, links, out / f"fold_{k}" / "converted", format="nifti", checks=checks_for(model), overwrite=True
    )
    for entry in converted:
        if entry.error is None:
            _link(Path(entry.output), out / "cases" / "translated" / Path(entry.output).name)
    return [f"fold {k}: {entry.error}" for entry in converted if entry.error]


def _named(case: Case, folder: Path, sources: Sequence[str]) -> tuple[Path, ...]:
    """The images of a case as files with its name, as conversion and evaluation match files by name; the sources."""
    _named_file(case.target[0], folder / "target", case.name)
    return tuple(
        _named_file(file, folder / "source" / name, case.name) for file, name in zip(case.source, sources, strict=True)
    )


def _named_file(file: Path, folder: Path, name: str) -> Path:
    """A link to ``file``, or a copy where its header may name a data file beside it."""
    from medgen.io.read import read_volume
    from medgen.io.write import write_volume

    if file.is_dir() or ending_of(file) in NIFTI_ENDINGS:
        place = folder / (name + ending_of(file))
        _link(file, place)
    else:
        place = folder / f"{name}.nii.gz"
        write_volume(place, read_volume(file))
    return place


def _remove_links(folder: Path) -> None:
    """Remove the links of an earlier call: their cases may be gone."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            path.unlink()


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(file.resolve())


def write_ensemble(models: Sequence[Path], out: Path) -> None:
    """Write a model folder whose translations are the mean of those of ``models``; an earlier one is replaced."""
    from medgen.checkpoint import ENSEMBLE
    from medgen.io.atomic import atomic_folder, write_text

    names = [f"fold_{k}" for k in range(len(models))]
    for name, model in zip(names, models, strict=True):
        with atomic_folder(out / name) as aside:
            shutil.copytree(model, aside, dirs_exist_ok=True)
    write_text(out / ENSEMBLE, json.dumps({"members": names}) + "\n")


def _evaluate(out: Path, settings: Settings, cases: Sequence[Case], folds: int) -> list[str]:
    """Evaluate the translations of all folds and write the report; return the failures."""
    from medgen.checkpoint import load_model
    from medgen.data.body_mask import looks_like_hu
    from medgen.evaluation.console import console_lines
    from medgen.evaluation.evaluate import evaluate
    from medgen.evaluation.inputs import Inputs, Options
    from medgen.evaluation.suggested_range import fitting_range
    from medgen.inference.check import checks_for
    from medgen.io.read import read_volume
    from medgen.reports.evaluation import write_report

    images = out / "cases"
    made = {case_name(path) for path in (images / "translated").glob("*")}
    if not made:
        return []  # no conversion succeeded, as the failures of the conversions tell
    inputs = Inputs(
        prediction=images / "translated",
        reference=images / "target",
        source=images / "source" / settings.data.sources[0],
        cases=[case.name for case in cases],
        patients={case.name: case.patient for case in cases},
    )
    checks = checks_for(load_model(out / "fold_0" / "best"))
    references = sorted(file for file in (images / "target").iterdir() if case_name(file) in made)
    units = any(looks_like_hu(read_volume(file).data) for file in references)  # a crop may have no air
    data_range = None if units else fitting_range(references)  # for PSNR and SSIM; the report names it
    result = evaluate(inputs, out / "results", Options(checks=checks, data_range=data_range, data_range_origin=FITTED))
    for line in console_lines(result):
        print_line(line)
    note = f"Cross-validation with {folds} folds: each case was translated by a model that has not seen its patient."
    write_report([out / "results"], out / "report.html", title="Cross-validation", notes=[note])
    print_line(f"report: {out / 'report.html'}")
    return [f"{failure.case}: {failure.error}" for failure in result.failures if failure.case in made]
