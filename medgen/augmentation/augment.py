"""A labelled dataset and synthetic cases made of its training cases -> a dataset to train a segmenter on."""

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
from medgen.augmentation.dataset.write import DatasetWriter, Written
from medgen.errors import InputError
from medgen.io.claim import apart, claimed
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
    done: Callable[[Written, int, int], None] = lambda *_: None,
    say: Callable[[str], None] = print,
) -> tuple[list[Written], list[Path]]:
    """Write the dataset with ``per_case`` synthetic cases of each real training case; goes on where it was stopped.

    A synthetic case depends on its source, the augmenter, the seed and its number, not on the other cases. Synthetic
    cases that the dataset has already are written too, but none is made of them.

    Args:
        per_case: None: one a way of the augmenter.
        seed: another one gives other cases.
        overwrite: replace another dataset that medgen wrote into ``out``, see ``io.claim``.
        done: called after each case with what became of it, its number and the count.
        say: takes warnings of the dataset as a whole.

    Returns:
        What became of each case, failures included, and the files of the folds.

    Raises:
        InputError: the augmenter does not fit the dataset or the number, ``out`` is not free, or too few cases.
    """
    number = len(augmenter.ways) if per_case is None else per_case
    _check(dataset, augmenter, number)
    apart(out, dataset.root)
    by = dict(augmenter.identity)
    about = {"command": "augment", "dataset": dataset.root, "library of lesions": by.pop("library", None), "by": by}
    about |= {"per case": number, "seed": seed}
    about |= {"format": format, "channels": list(dataset.channels)}
    with claimed(out, about, overwrite=overwrite):
        return _written(DatasetWriter(dataset, out, format), augmenter, number, seed, done, say)


def _written(
    writer: DatasetWriter,
    augmenter: Augmenter,
    number: int,
    seed: int,
    done: Callable[[Written, int, int], None],
    say: Callable[[str], None],
) -> tuple[list[Written], list[Path]]:
    dataset = writer.given
    sources = {case.name for case in dataset.cases if case.to_learn_from}
    total, taken = len(dataset.cases) + number * len(sources), {case.name for case in dataset.cases}
    for case in dataset.cases:
        written = writer.copy(case)
        done(written, len(writer.results), total)
        if case.name not in sources:
            continue
        if written.error:
            total -= number
            continue
        for i, name in enumerate(islice(_free_names(case.name, taken), number)):
            done(_synthetic(writer, case, augmenter, name, i, seed), len(writer.results), total)
    folds = writer.finish()
    for text in writer.warnings:
        say(f"warning: {text}")
    return writer.results, folds


def _check(dataset: LabelledDataset, augmenter: Augmenter, number: int) -> None:
    if augmenter.channels not in (None, len(dataset.channels)):
        raise InputError(
            "dataset-channel-count-differs",
            f"{augmenter.model['name']} takes {augmenter.channels} channels, but {dataset.root} has "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)}); use a model of as many",
        )
    if number < 1 or (not augmenter.random and number > len(augmenter.ways)):
        most = "any number" if augmenter.random else f"up to {len(augmenter.ways)}"
        raise InputError(
            "option-per-case-exceeds",
            f"--per-case {number}: {augmenter.model['name']} makes {most} of each case; choose so",
        )


def _free_names(case: str, taken: set[str]) -> Iterator[str]:
    """CASE__syn000, ...: what it is can be read from the name, and no two cases share one."""
    return (name for i in count() if (name := f"{case}__syn{i:03d}") not in taken)


def _synthetic(
    writer: DatasetWriter, source: LabelledCase, augmenter: Augmenter, name: str, number: int, seed: int
) -> Written:
    """Make and write the case of that number of one real case."""
    record = {"source": source.name, "seed": seed, "number": number, "model": dict(augmenter.model), "operations": []}
    way = augmenter.ways[number % len(augmenter.ways)]

    def make() -> tuple[Sequence[Volume], Volume, Mapping[str, Any]]:
        images, label = writer.read(source)
        assert label is not None
        names = dict(writer.dataset.labels)
        made, drawn, operations = way(images, label, names, _draws(seed, source.name, number))
        return made, drawn, {"operations": operations}

    case = replace(source, name=name, record=record)
    return writer.add(case, lambda: digest(writer.made_of(source), {**record, "model": augmenter.identity}), make)


def _draws(seed: int, case: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(hashlib.sha256(case.encode()).hexdigest()[:16], 16), number])
