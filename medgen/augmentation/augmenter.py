"""What makes synthetic cases of a labelled one, chosen by the name of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset, read_case
from medgen.augmentation.dataset.write import relabelled
from medgen.augmentation.lesions.gan import kinds
from medgen.augmentation.lesions.insert import lesion_augmenter
from medgen.augmentation.lesions.library import build_library
from medgen.augmentation.way import Record, Way
from medgen.checkpoint import Model, load_model, read_info
from medgen.data.labels.codec import LabelTable
from medgen.data.labels.names import label_named
from medgen.errors import InputError
from medgen.inference.predict import translate_case
from medgen.inference.synthesize import SHARES, make, unusual
from medgen.io.volume import Volume, to_canonical
from medgen.model_info import ModelInfo
from medgen.qa.out_of_distribution import out_of_distribution

PAINTERS = ("cutpaste", "procedural")  # of lesions, without a model


@dataclass(frozen=True)
class Augmenter:
    """``ways`` to make a case of another, taken in turn. ``model``: name and hash, for the record.

    ``random``: whether a way makes another case at another draw. ``channels`` that it takes; None: any number.
    """

    ways: tuple[Way, ...]
    model: Mapping[str, Any]
    random: bool = True
    channels: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from others: a model that has a hash is the same wherever its folder lies."""
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
    """The augmenter that a name stands for.

    Args:
        model: folder of a translator, of a ``lesion_gan``, or of a model whose source is label maps; or a painter of
            lesions that needs no model: cutpaste or procedural.
        dataset: whose cases will be augmented.
        targets: domains to translate to, of a model of several; none: each in turn.
        host, lesions: see ``lesion_painter``.
        recombine: see ``synthesizer``.

    Raises:
        InputError: no model, one that makes no cases for this dataset, or an unknown target or label.
    """
    if recombine and not ((Path(model) / "model.json").is_file() and read_info(Path(model))[1].label_source):
        raise InputError(
            "option-recombine-not-applicable",
            f"--recombine is for models that make images of label maps, not for {model}; leave it out",
        )
    if model in PAINTERS:
        _refuse_targets(model, targets)
        return lesion_painter(model, dataset, host=host, lesions=lesions)
    if not (Path(model) / "model.json").is_file():
        raise InputError(
            "model-json-missing",
            f"{model} is no model folder (it has no model.json); give RUN/best of a training run, "
            f"{' or '.join(PAINTERS)}",
        )
    _, settings = read_info(Path(model))
    method = settings.method.name
    if method == "lesion_gan" or settings.label_source:
        _refuse_targets(model, targets)
    if method == "lesion_gan":
        return lesion_painter(model, dataset, host=host, lesions=lesions, device=device)
    if host or lesions:
        raise InputError(
            "option-lesion-not-applicable",
            f"--host and --lesion are for lesions, but {model} is a model of {method}; leave them out",
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


def _refuse_targets(model: str, targets: Sequence[str]) -> None:
    if targets:
        raise InputError(
            "option-target-not-applicable",
            f"--target is for a translator to several domains, which {model} is not; leave it out",
        )


def translator(folder: Path, targets: Sequence[str], device: str = "cpu") -> Augmenter:
    """Adds each case as the model translates it, its label untouched: the other contrast or phase.

    Raises:
        InputError: not as many contrasts out as in, so that channels of the dataset would be left without images.
    """
    models = [load_model(folder, device, target=target) for target in (targets or (None,))]
    info, data = models[0].info, models[0].settings.data
    if len(data.sources) != len(data.targets):
        raise InputError(
            "model-target-count-differs",
            f"{folder} makes {', '.join(data.targets)} of {', '.join(data.sources)}, but a case needs all its channels "
            "again; give a model of as many targets as sources",
        )
    about = _about(folder, info) | ({"targets": list(targets)} if targets else {})
    ways = tuple(partial(_translated, model) for model in models)
    return Augmenter(ways, about, random=False, channels=len(data.sources))


def _translated(
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
    """Adds each case with new lesions, after those of other patients' training cases, see ``lesion_augmenter``.

    Args:
        model: cutpaste, procedural, or the folder of a ``lesion_gan``.
        dataset: whose training cases the lesions are learnt from.
        host: label that they go into; None: the model's, or tissue like that around the known ones.
        lesions: labels that are lesions; none: those of the model that the dataset has.

    Raises:
        InputError: labels that are not the dataset's or not the model's, or no lesion to learn from.
    """
    names = {name: value for name, value in dataset.labels.items() if value}
    known: Mapping[str, int] = names
    about: dict[str, Any] = {"name": model}
    channels = None
    if model not in PAINTERS:
        info, settings = read_info(Path(model))
        known, channels = kinds(settings), len(settings.data.sources)
        about = _about(Path(model), info)
        hosts = next(iter((settings.data.class_groups or {}).values()), ())
        host = host or (label_named(hosts[0], names) if len(hosts) == 1 else None)
        lesions = lesions or [name for name in names if label_named(name, known)]
    if not lesions:
        raise InputError(
            "option-lesion-missing",
            f"{model}: say which labels of {dataset.root} ({', '.join(names)}) are lesions, by --lesion",
        )
    lesions = [_label(name, names, dataset) for name in lesions]
    host = host and _label(host, names, dataset)
    for name in lesions:
        if label_named(name, known) is None:
            raise InputError("model-lesion-unknown", f"{model} does not paint {name}; it knows {', '.join(known)}")
    _refuse_faulty(dataset)
    library = build_library(_training(dataset), names, lesions=lesions, host=host)
    about |= {"host": host, "lesions": list(lesions), "library": library.sha256}
    patients = {case.label: case.patient for case in dataset.cases if case.label is not None}
    way = lesion_augmenter(model, library, host=host, device=device, patients=patients)
    return Augmenter((way,), about, channels=channels)


def _label(name: str, names: Mapping[str, int], dataset: LabelledDataset) -> str:
    found = label_named(name, names)
    if found is None:
        raise InputError(
            "labels-name-unknown", f"{name} is no label of {dataset.root} ({', '.join(names)}); name one of these"
        )
    return found


def _refuse_faulty(dataset: LabelledDataset) -> None:
    """Raises InputError with the fault of the first, where every case to learn from has one."""
    faults = [case.fault for case in dataset.cases if case.to_learn_from]
    if all(faults):
        raise InputError(
            "dataset-no-training-case",
            next((f for f in faults if f), f"{dataset.root} has no real training case to learn from"),
        )


def _training(dataset: LabelledDataset) -> Iterator[tuple[list[Volume], Volume, str]]:
    """Images, label and patient of the real training cases; the fault of a bad one is told when its turn comes."""
    for case in dataset.cases:
        if not case.to_learn_from:
            continue
        try:
            images, label = read_case(dataset, case)
        except InputError:
            continue
        if label is not None:
            yield images, label, case.patient


def synthesizer(folder: Path, dataset: LabelledDataset, *, recombine: bool = False, device: str = "cpu") -> Augmenter:
    """Adds each case's label map, bent, with an image made of it.

    Args:
        recombine: the label map is first made one between it and that of another training patient, who is then named
            as a patient of the case too.

    Raises:
        InputError: the model was trained without a label that the dataset has; nobody to recombine with.
    """
    model = load_model(folder, device)
    known = _table(model).labels
    unknown = [name for name, value in dataset.labels.items() if value and label_named(name, known) is None]
    if unknown:
        raise InputError(
            "model-label-unknown",
            f"{folder} knows no label {unknown[0]} ({', '.join(known)}); name the dataset's labels so",
        )
    about, channels = _about(folder, model.info), len(model.settings.data.targets)
    donors = [c for c in dataset.cases if c.label is not None and c.to_learn_from and not c.fault] if recombine else []
    if recombine and len({case.patient for case in donors}) < 2:
        raise InputError(
            "augmentation-single-patient",
            f"{dataset.root} has label maps of one patient, so there is nothing to recombine; add others",
        )
    way = partial(_synthesized, model, dataset, donors)
    return Augmenter((way,), about | ({"recombine": True} if recombine else {}), channels=channels)


def _synthesized(
    model: Model,
    dataset: LabelledDataset,
    donors: Sequence[LabelledCase],
    images: list[Volume],
    label: Volume,
    names: Mapping[str, int],
    rng: np.random.Generator,
) -> tuple[list[Volume], Volume, list[Record]]:
    table = _table(model)
    values = {name: table.labels.get(label_named(name, table.labels) or "", 0) for name in names}

    def filled(stored: Volume, image: Volume) -> Volume:
        return table.filled(to_canonical(stored), to_canonical(image))

    stored = relabelled(label, names, values)
    upright, other = filled(stored, images[0]), None
    operations: list[Record] = [
        {"operation": name, "seed": int(rng.integers(2**62))} for name in ("deform", "style", "texture")
    ]
    if donors:
        mine = {case.patient for case in donors if case.label == label.path}
        others = [case for case in donors if case.patient not in mine]
        donor = others[int(rng.integers(len(others)))]
        beside, shape = read_case(dataset, donor)
        assert shape is not None
        other = filled(relabelled(shape, names, values), beside[0])
        share = round(float(rng.uniform(*SHARES)), 4)
        operations.insert(
            0, {"operation": "recombine", "with": donor.name, "share": share, "patients": [donor.patient]}
        )
    *made, bent = make(model, table, stored, upright, operations, other=other)
    operations[0]["warnings"] = unusual(model, table, upright)
    return made, relabelled(bent, values, names), operations


def _table(model: Model) -> LabelTable:
    table = model.source_code
    assert isinstance(table, LabelTable)
    return table


def _about(folder: Path, info: ModelInfo) -> dict[str, Any]:
    return {"name": str(folder), "method": info.settings["method"]["name"], "step": info.step, "sha256": info.sha256}
