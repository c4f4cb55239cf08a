"""Write a labelled dataset again, together with synthetic cases made from its training cases."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.augmenter import Augmenter
from medgen.augmentation.dataset.provenance import digest
from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset
from medgen.augmentation.dataset.write import CaseResult, DatasetWriter
from medgen.errors import InputError
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.io.volume import Volume


def augment(
    dataset: LabelledDataset,
    augmenter: Augmenter,
    out: Path,
    *,
    per_case: int | None = None,
    seed: int = 0,
    format: str = "nnunet",
    overwrite: bool = False,
    done: Callable[[CaseResult, int, int], None] = lambda *_: None,
    say: Callable[[str], None] = print,
) -> tuple[list[CaseResult], list[Path]]:
    """Write the dataset with ``per_case`` synthetic cases per real training case; resume an interrupted run.

    A synthetic case depends only on its source case, the augmenter, the seed and its number, not on the other cases.
    Synthetic cases that the dataset already has are copied, but no cases are made from them.

    Args:
        per_case: synthetic cases per real training case; None: one per transform of the augmenter.
        seed: a different seed gives different cases.
        format: nnunet or decathlon.
        overwrite: replace a different dataset that medgen wrote to ``out``, see ``io.claim``.
        done: called after each case with its result, its number and the total number of cases.
        say: called with each warning about the dataset as a whole.

    Returns:
        The result of each case, including failed ones, and the paths of the fold files.

    Raises:
        InputError: the augmenter does not fit the dataset or ``per_case``, ``out`` is not free, or the dataset has
            too few cases.
    """
    number = len(augmenter.ways) if per_case is None else per_case
    _check(dataset, augmenter, number)
    check_output_is_not_input(out, dataset.root, augmenter.model["name"] if "sha256" in augmenter.model else None)
    identification = dict(augmenter.identity)
    run_settings = {
        "command": "augment",
        "dataset": dataset.root,
        "lesions of the dataset (its images or labels)": identification.pop("library", None),
        "by": identification,
    }
    run_settings |= {"per case": number, "seed": seed}
    run_settings |= {"format": format, "channels": list(dataset.channels)}
    with claimed(out, run_settings, overwrite=overwrite):
        return _write_all(DatasetWriter(dataset, out, format), augmenter, number, seed, done, say)


def _write_all(
    writer: DatasetWriter,
    augmenter: Augmenter,
    number: int,
    seed: int,
    done: Callable[[CaseResult, int, int], None],
    say: Callable[[str], None],
) -> tuple[list[CaseResult], list[Path]]:
    dataset = writer.origin
    sources = {case.name for case in dataset.cases if case.to_learn_from}
    total, used_names = len(dataset.cases) + number * len(sources), {case.name for case in dataset.cases}
    for case in dataset.cases:
        written = writer.copy(case)
        done(written, len(writer.results), total)
        if case.name not in sources:
            continue
        if written.error:
            total -= number
            continue
        for i, name in enumerate(islice(_free_names(case.name, used_names), number)):
            done(_synthetic(writer, case, augmenter, name, i, seed), len(writer.results), total)
    folds = writer.finish()
    for text in writer.warnings:
        say(f"warning: {text}")
    return writer.results, folds


def _check(dataset: LabelledDataset, augmenter: Augmenter, number: int) -> None:
    if augmenter.channels not in (None, len(dataset.channels)):
        raise InputError(
            "dataset-channel-count-differs",
            f"{augmenter.model['name']} needs {augmenter.channels} channels, but {dataset.root} has "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)}); use a model with this number of channels",
        )
    if number < 1 or (not augmenter.random and number > len(augmenter.ways)):
        allowed = "any positive number of" if augmenter.random else f"up to {len(augmenter.ways)}"
        raise InputError(
            "option-per-case-exceeds",
            f"--per-case {number} is out of range: {augmenter.model['name']} can make {allowed} cases per training "
            "case; change --per-case",
        )


def _free_names(case: str, used_names: set[str]) -> Iterator[str]:
    """Yield the unused names CASE__syn000, CASE__syn001, ...; the suffix marks the case as synthetic."""
    return (name for i in count() if (name := f"{case}__syn{i:03d}") not in used_names)


def _synthetic(
    writer: DatasetWriter, source: LabelledCase, augmenter: Augmenter, name: str, number: int, seed: int
) -> CaseResult:
    """Make and write the synthetic case ``number`` of the real case ``source``."""
    record = {"source": source.name, "seed": seed, "number": number, "model": dict(augmenter.model), "operations": []}
    transform = augmenter.ways[number % len(augmenter.ways)]

    def make() -> tuple[Sequence[Volume], Volume, Mapping[str, Any]]:
        images, label = writer.read(source)
        assert label is not None
        names = dict(writer.dataset.labels)
        new_images, new_label, operations = transform(images, label, names, _generator(seed, source.name, number))
        return new_images, new_label, {"operations": operations}

    case = replace(source, name=name, record=record)
    return writer.add(case, lambda: digest(writer.made_of(source), {**record, "model": augmenter.identity}), make)


def _generator(seed: int, case: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(hashlib.sha256(case.encode()).hexdigest()[:16], 16), number])
