"""Read the cohort of a run and split it, as stated, recorded or drawn; report all excluded cases."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from medgen.data.cohort.content import content_hashes
from medgen.data.cohort.layouts import shortened_list
from medgen.data.cohort.patients import merge_by_images
from medgen.data.cohort.read import Cohort, check_pairs, read_cohort, with_patients
from medgen.data.cohort.split import load_split, real_cases, save_split, split_cases, stated_parts
from medgen.data.cohort.stacked import split_channels
from medgen.errors import InputError
from medgen.settings import Settings
from medgen.types import Case

Content = dict[str, set[str]]  # case -> content hashes of its images


def read_split(
    settings: Settings, out: Path, folder: Path, *, resume: bool, say: Callable[[str], None]
) -> tuple[Cohort, dict[str, list[Case]], Content]:
    """Return the cohort, its usable cases by subset, and the hashes of their images; write ``out/split.json``.

    Args:
        settings: of the run.
        out: output folder of the run.
        folder: cache folder.
        resume: use the split recorded in ``out``, even if the cohort has new cases.
        say: called with each line for the user.

    Raises:
        InputError: no usable cases, grids that differ, or an impossible split.
    """
    data = settings.data
    recorded = out / "split.json" if resume and (out / "split.json").exists() else data.split
    cohort = _read(settings, folder, None if recorded else data.fold, say)
    cases, content = _by_content(cohort, _usable(cohort, settings, say), settings, folder, say)
    if not cases:
        raise InputError(
            "cohort-no-pairs",
            f"{data.root}: no case has both a source and a target, so there is nothing to train on; "
            "set data.paired=false and use an unpaired method, or check data.sources, data.targets, the channel "
            "numbers (data.source_channels, data.target_channels) and the folder names",
        )
    if recorded is not None:
        split = load_split(recorded, cases)
        moved = [case.name for part in ("train", "validation") for case in split[part] if case.part == "test"]
        if moved:
            raise InputError(
                "split-test-cases-moved",
                f"{recorded} has {shortened_list(moved)} in training or validation, but the data set states that they "
                "are test cases; correct one of the two" + (", or start a new run" if resume else ""),
            )
    else:
        # A stated test set may have no targets; no other is drawn then.
        test = 0.0 if any(case.part == "test" for case in cohort.cases) else data.test
        seed, where = settings.train.seed, str(data.root)
        split = split_cases(cases, validation=data.validation, test=test, seed=seed, where=where)
    save_split(out / "split.json", split)
    _tell_split(cases, split, recorded, cohort.stated, say)
    return cohort, split, content


def known_cases(settings: Settings, folder: Path, say: Callable[[str], None]) -> tuple[list[Case], dict[str, set[str]]]:
    """The usable cases of a cohort, with one patient for all that share an image, and {case: hashes of its images}.

    ``folder``: see ``read_split``.
    """
    cohort = _read(settings, folder, None, say)
    return _by_content(cohort, _usable(cohort, settings, say), settings, folder, say)


def _read(settings: Settings, folder: Path, fold: int | None, say: Callable[[str], None]) -> Cohort:
    """Read the cohort, report its warnings, and write the channels of 4D files to separate files in ``folder``."""
    data = settings.data
    assert data.root is not None
    cohort = read_cohort(
        data.root,
        sources=data.sources,
        targets=data.targets,
        domains=data.domains,
        source_channels=data.source_channels,
        target_channels=data.target_channels,
        patient_pattern=data.patient_pattern,
        fold=fold,
    )
    for text in cohort.warnings:
        say(f"warning: {text}")
    for name, absent in cohort.missing.items():
        say(f"warning: case {name} lacks {' and '.join(absent)}; its incomplete side (source or target) is ignored")
    cases = split_channels(cohort.cases, folder / "channels")
    for text in _padded_numbers(c.patient for c in cases):
        say(f"warning: {text}")
    if settings.label_source:
        cases = [replace(c, source=(c.labels,) if c.labels else ()) for c in cases]
    return replace(cohort, cases=cases)


def _padded_numbers(patients: Iterable[str]) -> list[str]:
    """Warnings about patients whose numbers differ in leading zeros only, which table programs remove."""
    found: dict[str, set[str]] = {}
    for patient in patients:
        if patient.isdecimal():
            found.setdefault(patient.lstrip("0"), set()).add(patient)
    twice = [sorted(names) for names in found.values() if len(names) > 1]
    return [
        f"patients {' and '.join(names)} count as different; if they are one, write the number in one way"
        for names in twice
    ]


def _usable(cohort: Cohort, settings: Settings, say: Callable[[str], None]) -> list[Case]:
    """Return the cases that the method can use; check their grids and report excluded cases."""
    data = settings.data
    if data.paired:
        cases = [c for c in cohort.cases if c.source and c.target]
        incomplete = [c.name for c in cohort.cases if bool(c.source) != bool(c.target) and c.part != "test"]
        if incomplete and cases:
            say(f"warning: {len(incomplete)} cases without source or target are excluded: {', '.join(incomplete[:10])}")
        if halves := [c.name for c in cohort.cases if bool(c.source) != bool(c.target) and c.part == "test"]:
            say(f"{len(halves)} test cases without source or target are not used: {shortened_list(halves)}")
        grids = cases
    else:
        cases = cohort.cases
        grids = [replace(c, source=(), labels=None) for c in cases]
        grids += [replace(c, target=(), labels=c.labels if data.labels else None) for c in cases if c.source]
    if data.align == "refuse":
        check_pairs(case for case in grids if case.part != "test")
    # Test cases without a target are not among them, but their patients must not be trained on either.
    tested = {p for p, part in stated_parts(real_cases(cohort.cases), str(data.root)).items() if part == "test"}
    moved = [case.name for case in real_cases(cases) if case.patient in tested and case.part != "test"]
    if moved:
        say(f"warning: {shortened_list(moved)} are of patients with test cases, and so test cases too")
    return [replace(case, part="test") if case.patient in tested else case for case in cases]


def _by_content(
    cohort: Cohort, cases: list[Case], settings: Settings, folder: Path, say: Callable[[str], None]
) -> tuple[list[Case], dict[str, set[str]]]:
    """Assign cases that share an image to one patient; return the cases and {case: hashes of its images}.

    Otherwise a scan with two names could be in both the training and the validation set. Records of synthetic cases are
    also matched by content.
    """
    images = {c.name: [*([] if settings.label_source else c.source), *c.target] for c in cases}
    hashes = content_hashes((file for files in images.values() for file in files), folder)
    content = {name: {h for file in files if (h := hashes[file])} for name, files in images.items()}
    one_side = bool(settings.data.domains) or settings.data.sources == settings.data.targets
    for text in _content_warnings([] if settings.label_source else cases, hashes, one_side):
        say(f"warning: {text}")
    known = {c.name: cohort.records.by_images(cohort.known[c.name], sorted(content[c.name])) for c in cases}
    renamed = [case.name for case in cases if known[case.name].synthetic and not case.synthetic]
    if renamed:
        say(f"warning: {shortened_list(renamed)} are synthetic: provenance.json lists their images under other names")
    cases = with_patients(cases, known)
    merged, pairs = merge_by_images((c.name, c.patient, sorted(content[c.name])) for c in cases if not c.synthetic)
    for one, other in pairs:
        say(
            f"warning: cases {one} and {other} have the same image and count as one patient; remove one of them if it "
            "is a duplicate"
        )
    made = [frozenset(merged.get(patient, patient) for patient in case.made_of) for case in cases]
    return [
        replace(c, patient=merged.get(c.patient, c.patient), made_of=of) for c, of in zip(cases, made, strict=True)
    ], content


def _content_warnings(cases: list[Case], hashes: Mapping[Path, str | None], one_side: bool) -> list[str]:
    """Warn about images that teach nothing: of one value, or a source and a target that are the same image."""
    # With domains, or the same folder for both, a scan is source and target; with channels, both are in one file.
    pairs = [] if one_side else [c for c in cases if not (any(c.channels) and set(c.source) & set(c.target))]
    same = [c.name for c in pairs if {hashes[f] for f in c.source} & {hashes[f] for f in c.target} - {None, ""}]
    files = dict.fromkeys(file for c in cases for file in (*c.source, *c.target))
    empty = [file.name for file in files if hashes[file] is None]
    texts = []
    if same:
        texts.append(
            f"source and target of {shortened_list(same)} are the same image: right for a scan that needs no change, "
            "such as one without contrast medium; otherwise a wrong copy, so replace one of them"
        )
    if empty:
        texts.append(f"no content in {shortened_list(empty)}: one value everywhere; export them again")
    return texts


def _tell_split(
    cases: list[Case], split: dict[str, list[Case]], recorded: Path | None, stated: str, say: Callable[[str], None]
) -> None:
    """Report the number of cases in each subset, and the cases that are not used."""
    used = {part: [case for case in split[part] if not case.synthetic or case.part == part] for part in split}
    counts = {"train": len(split["train"])} | {part: len(used[part]) for part in ("validation", "test")}
    made = sum(case.synthetic for case in split["train"])
    trained = f"{counts['train']} training cases" + (f" ({made} synthetic)" if made else "")
    where = f" ({stated})" if stated and not recorded else ""
    say(f"{trained}, {counts['validation']} validation cases, {counts['test']} test cases{where}")
    unused = [case.name for part in ("validation", "test") for case in split[part] if case not in used[part]]
    if unused:
        say(
            f"warning: {len(unused)} synthetic cases belong to held-out patients and are not used: "
            f"{shortened_list(unused)}"
        )
    moved = [case.name for part in split for case in split[part] if case.synthetic and case.part not in ("", part)]
    if moved:
        say(
            f"warning: {len(moved)} synthetic cases were moved to the subset of their patients: {shortened_list(moved)}"
        )
    placed = {case.name for part in split.values() for case in part}
    left = [case for case in cases if case.name not in placed]
    mixed = [case.name for case in left if case.synthetic and not recorded]
    if mixed:
        say(
            f"warning: {len(mixed)} synthetic cases contain images of held-out patients and are not used: "
            f"{shortened_list(mixed)}"
        )
    real = {case.patient for case in cases if not case.synthetic}
    # A sample of a generative model is a patient of its own, made of the images that the model was trained on.
    shown = {case.name: case.made_of - {case.name.rpartition("/")[2]} for case in split["train"] if case.synthetic}
    absent = [name for name, patients in shown.items() if real and patients - real]
    if absent:
        say(
            f"warning: {len(absent)} synthetic cases contain images of patients who have no real case here "
            f"({shortened_list(absent)}), and are trained on; remove them if these patients are held out elsewhere"
        )
    unnamed = [case.name for case in left if recorded or not case.synthetic]
    if unnamed:
        say(f"warning: {len(unnamed)} cases are in no subset of {recorded or 'the split'}: {shortened_list(unnamed)}")
