"""Augmenters: the functions that make synthetic cases from labelled ones, chosen by the name of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.case_transform import CaseTransform, Record
from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset, read_case
from medgen.augmentation.dataset.write import relabelled
from medgen.augmentation.lesions.gan import kinds
from medgen.augmentation.lesions.insert import lesion_augmenter
from medgen.augmentation.lesions.library import build_library
from medgen.checkpoint import ENSEMBLE, Model, load_model, read_info
from medgen.data.labels.codec import LabelTable
from medgen.data.labels.names import label_named
from medgen.errors import InputError
from medgen.inference.kind import check_keeps_grid, check_translates
from medgen.inference.predict import translate_case
from medgen.inference.synthesize import SHARES, label_map_warnings, make
from medgen.io.volume import Volume, to_canonical
from medgen.model_info import ModelInfo
from medgen.models import model_folder
from medgen.qa.out_of_distribution import out_of_distribution

PAINTERS = ("cutpaste", "procedural")  # lesion painters that need no model


@dataclass(frozen=True)
class Augmenter:
    """The functions that make synthetic cases, and what is recorded about them.

    Attributes:
        ways: case transforms; the synthetic cases of one source case use them in turn.
        model: name and hash of the model, for the record.
        random: whether a transform makes a different case with a different random state.
        channels: number of channels that the transforms need; None: any number.
    """

    ways: tuple[CaseTransform, ...]
    model: Mapping[str, Any]
    random: bool = True
    channels: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The part of ``model`` that identifies it. A hash replaces the name, so a model folder may be moved."""
        return {key: value for key, value in self.model.items() if key != "name" or "sha256" not in self.model}


def augmenter_for(
    model: str,
    dataset: LabelledDataset,
    *,
    targets: Sequence[str] = (),
    host: str | None = None,
    lesions: Sequence[str] = (),
    recombine: bool = False,
    device: str = "cpu",
) -> Augmenter:
    """Return the augmenter for a model folder or for a lesion painter that needs no model.

    Args:
        model: folder of a translation model, of a ``lesion_gan``, or of a model whose source is label maps; or the
            name of a lesion painter that needs no model: cutpaste or procedural.
        dataset: the dataset to augment.
        targets: target domains of a multi-domain translation model; empty: all of them in turn.
        host, lesions: see ``lesion_painter``.
        recombine: see ``synthesizer``.

    Raises:
        InputError: ``model`` is no model, it cannot augment this dataset, or a target or label is unknown.
    """
    model = model if model in PAINTERS else str(model_folder(model))
    if recombine and not ((Path(model) / "model.json").is_file() and read_info(Path(model))[1].label_source):
        raise InputError(
            "option-recombine-not-applicable",
            f"--recombine applies only to models that make images from label maps, which {model} is not; leave it out",
        )
    if model in PAINTERS:
        _reject_targets(model, targets)
        return lesion_painter(model, dataset, host=host, lesions=lesions)
    if (Path(model) / ENSEMBLE).is_file():
        read_info(Path(model))  # says what takes ensembles
    if not (Path(model) / "model.json").is_file():
        raise InputError(
            "model-json-missing",
            f"{model} is not a model folder: it has no model.json; give RUN/best of a training run, "
            f"{' or '.join(PAINTERS)}",
        )
    _, settings = read_info(Path(model))
    method = settings.method.name
    if method == "lesion_gan" or settings.label_source:
        _reject_targets(model, targets)
    if method == "lesion_gan":
        return lesion_painter(model, dataset, host=host, lesions=lesions, device=device)
    if host or lesions:
        raise InputError(
            "option-lesion-not-applicable",
            f"--host and --lesion apply only to lesion painters, but {model} is a {method} model; leave them out",
        )
    if settings.label_source:
        return synthesizer(Path(model), dataset, recombine=recombine, device=device)
    if settings.method.needs_classes:
        raise InputError(
            "model-method-unsuitable",
            f"{model} is a model of {method}, which needs label maps as input and cannot augment a dataset; give a "
            "translator",
        )
    return translator(Path(model), targets or settings.data.domains, device)


def _reject_targets(model: str, targets: Sequence[str]) -> None:
    if targets:
        raise InputError(
            "option-target-not-applicable",
            f"--target applies only to multi-domain translation models, which {model} is not; leave it out",
        )


def translator(folder: Path, targets: Sequence[str], device: str = "cpu") -> Augmenter:
    """Return an augmenter that translates each case, for example to another contrast phase, and keeps its label.

    Raises:
        InputError: the model has not as many targets as sources, so some channels would get no image, or its outputs
            lie on another grid than the label map.
    """
    models = [load_model(folder, device, target=target) for target in (targets or (None,))]
    check_translates(models[0])
    info, data = models[0].info, models[0].settings.data
    if len(data.sources) != len(data.targets):
        raise InputError(
            "model-target-count-differs",
            f"{folder} makes {', '.join(data.targets)} from {', '.join(data.sources)}, but a synthetic case needs "
            "an image for every channel; give a model with as many targets as sources",
        )
    check_keeps_grid(models[0])
    model_record = _model_record(folder, info) | ({"targets": list(targets)} if targets else {})
    ways = tuple(partial(_translate, model) for model in models)
    return Augmenter(ways, model_record, random=False, channels=len(data.sources))


def _translate(
    model: Model, images: list[Volume], label: Volume, names: Mapping[str, int], rng: np.random.Generator
) -> tuple[list[Volume], Volume, list[Record]]:
    data = model.settings.data
    operation = {
        "operation": "translate",
        "from": list(data.sources),
        "to": [model.target] if model.target else list(data.targets),
        "warnings": out_of_distribution(model, images),
    }
    return translate_case(model, images), label, [operation]


def lesion_painter(
    model: str, dataset: LabelledDataset, *, host: str | None, lesions: Sequence[str], device: str = "cpu"
) -> Augmenter:
    """Return an augmenter that inserts new lesions modelled on those of other patients, see ``lesion_augmenter``.

    Args:
        model: cutpaste, procedural, or the folder of a ``lesion_gan``.
        dataset: its real training cases provide the lesion library.
        host: label of the organ to insert lesions into; None: the host of the model, or unlabelled tissue like that
            around the lesions of the library.
        lesions: labels that are lesions; empty: those of the model that the dataset also has.

    Raises:
        InputError: a label that the dataset or the model does not have, or no lesion in the training cases.
    """
    names = {name: value for name, value in dataset.labels.items() if value}
    known: Mapping[str, int] = names
    model_record: dict[str, Any] = {"name": model}
    channels = None
    if model not in PAINTERS:
        info, settings = read_info(Path(model))
        known, channels = kinds(settings), len(settings.data.sources)
        model_record = _model_record(Path(model), info)
        hosts = next(iter((settings.data.class_groups or {}).values()), ())
        host = host or (label_named(hosts[0], names) if len(hosts) == 1 else None)
        lesions = lesions or [name for name in names if label_named(name, known)]
    if not lesions:
        raise InputError(
            "option-lesion-missing",
            f"{model}: it is not known which labels of {dataset.root} ({', '.join(names)}) are lesions; "
            "name them with --lesion",
        )
    lesions = [_label(name, names, dataset) for name in lesions]
    host = host and _label(host, names, dataset)
    for name in lesions:
        if label_named(name, known) is None:
            raise InputError("model-lesion-unknown", f"{model} cannot paint {name}; choose from {', '.join(known)}")
    _require_usable_case(dataset)
    library = build_library(_training_cases(dataset), names, lesions=lesions, host=host)
    model_record |= {"host": host, "lesions": list(lesions), "library": library.sha256}
    patients = {file: case.patient for case in dataset.cases for file in (*case.images, case.label) if file is not None}
    transform = lesion_augmenter(model, library, host=host, device=device, patients=patients)
    return Augmenter((transform,), model_record, channels=channels)


def _label(name: str, names: Mapping[str, int], dataset: LabelledDataset) -> str:
    found = label_named(name, names)
    if found is None:
        raise InputError(
            "labels-name-unknown", f"{name} is not a label of {dataset.root}; choose from {', '.join(names)}"
        )
    return found


def _require_usable_case(dataset: LabelledDataset) -> None:
    """Raise InputError with the first case's fault if every real training case has a fault."""
    faults = [case.fault for case in dataset.cases if case.to_learn_from]
    if all(faults):
        raise InputError(
            "dataset-no-training-case",
            next((f for f in faults if f), f"{dataset.root} has no real training case; add at least one"),
        )


def _training_cases(dataset: LabelledDataset) -> Iterator[tuple[list[Volume], Volume, str]]:
    """Yield images, label and patient of the readable real training cases.

    Unreadable cases are skipped here; their fault is reported when the dataset is written. Raises InputError with the
    first fault if no case is readable.
    """
    fault, readable = None, False
    for case in dataset.cases:
        if not case.to_learn_from:
            continue
        try:
            images, label = read_case(dataset, case)
        except InputError as error:
            fault = fault or error
            continue
        readable = True
        if label is not None:
            yield images, label, case.patient
    if fault is not None and not readable:
        raise fault


def synthesizer(folder: Path, dataset: LabelledDataset, *, recombine: bool = False, device: str = "cpu") -> Augmenter:
    """Return an augmenter that deforms each case's label map and makes an image from it.

    Args:
        recombine: first interpolate between the label map and that of another training patient, who is then recorded
            as a patient of the synthetic case too.

    Raises:
        InputError: the model was trained without one of the dataset's labels, or there is no other patient to
            recombine with.
    """
    model = load_model(folder, device)
    known = _label_table(model).labels
    unknown = [name for name, value in dataset.labels.items() if value and label_named(name, known) is None]
    if unknown:
        raise InputError(
            "model-label-unknown",
            f"{folder} was trained without the label {unknown[0]}; give the labels of the dataset the names that the "
            f"model knows: {', '.join(known)}",
        )
    model_record, channels = _model_record(folder, model.info), len(model.settings.data.targets)
    donors = [c for c in dataset.cases if c.label is not None and c.to_learn_from and not c.fault] if recombine else []
    if recombine and len({case.patient for case in donors}) < 2:
        raise InputError(
            "augmentation-single-patient",
            f"{dataset.root} has label maps of fewer than two training patients, but --recombine needs two; add cases "
            "of other patients or leave --recombine out",
        )
    transform = partial(_synthesize, model, dataset, donors)
    return Augmenter((transform,), model_record | ({"recombine": True} if recombine else {}), channels=channels)


def _synthesize(
    model: Model,
    dataset: LabelledDataset,
    donors: Sequence[LabelledCase],
    images: list[Volume],
    label: Volume,
    names: Mapping[str, int],
    rng: np.random.Generator,
) -> tuple[list[Volume], Volume, list[Record]]:
    table = _label_table(model)
    values = {name: table.labels.get(label_named(name, table.labels) or "", 0) for name in names}

    def filled(stored: Volume, image: Volume) -> Volume:
        return table.filled(to_canonical(stored), to_canonical(image))

    stored = relabelled(label, names, values)
    canonical, other = filled(stored, images[0]), None
    operations: list[Record] = [
        {"operation": name, "seed": int(rng.integers(2**62))} for name in ("deform", "style", "texture")
    ]
    if donors:
        own_files = {label.path} if label.path else {image.path for image in images}
        own_patients = {case.patient for case in donors if own_files.intersection((case.label, *case.images))}
        other_cases = [case for case in donors if case.patient not in own_patients]
        donor = other_cases[int(rng.integers(len(other_cases)))]
        donor_images, donor_label = read_case(dataset, donor)
        assert donor_label is not None
        other = filled(relabelled(donor_label, names, values), donor_images[0])
        share = round(float(rng.uniform(*SHARES)), 4)
        operations.insert(
            0, {"operation": "recombine", "with": donor.name, "share": share, "patients": [donor.patient]}
        )
    *new_images, deformed = make(model, table, stored, canonical, operations, other=other)
    operations[0]["warnings"] = label_map_warnings(model, table, canonical)
    return new_images, relabelled(deformed, values, names), operations


def _label_table(model: Model) -> LabelTable:
    table = model.source_code
    assert isinstance(table, LabelTable)
    return table


def _model_record(folder: Path, info: ModelInfo) -> dict[str, Any]:
    return {"name": str(folder), "method": info.settings["method"]["name"], "step": info.step, "sha256": info.sha256}
