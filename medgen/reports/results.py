"""Evaluation folders on disk → the `System` objects that a report is made of.

A folder holds ``summary.json`` (`medgen.evaluation.summary_file`) beside ``cases.csv``. Every section of the report
appears only if the summary has its key, so folders of older evaluations still make a report.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medgen.errors import InputError
from medgen.evaluation.summary_file import Summary, read_parts
from medgen.io.atomic import as_text
from medgen.io.spreadsheet import read_csv
from medgen.io.text import read_text


@dataclass(frozen=True)
class CaseNumbers:
    """A measured case: its numbers by column of cases.csv (inf where images are identical), its files by role."""

    name: str
    metrics: Mapping[str, float]
    files: Mapping[str, Path]


@dataclass(frozen=True)
class System:
    """One evaluated system: the name it has in this report, its folder, ``summary.json``, its cases."""

    name: str
    folder: Path
    summary: Summary
    cases: Sequence[CaseNumbers]
    damaged: Mapping[str, str] = field(default_factory=dict)  # {part of the summary: why it cannot be read}

    @property
    def unit(self) -> str:
        """HU, or empty: an intensity without unit."""
        return self.summary.unit

    @property
    def digits(self) -> int:
        """Digits after the point for intensities: tenths of a HU, or four significant ones of the data range."""
        span = self.summary.data_range
        return 1 if self.unit or not span else max(0, min(8, 3 - math.floor(math.log10(span))))

    @property
    def has_source(self) -> bool:
        """Whether the unconverted source was measured too."""
        return "source_mae" in self.summary.metrics

    @property
    def has_truth(self) -> bool:
        """Whether there was a truth to compare with."""
        return "mae" in self.summary.metrics

    def pairs(self, name: str) -> list[tuple[float, float]]:
        """(converted, source) of the cases in which both have the measure; infinite ones are among them."""
        found = [
            (case.metrics.get(name, math.nan), case.metrics.get(f"source_{name}", math.nan)) for case in self.cases
        ]
        return [pair for pair in found if not any(map(math.isnan, pair))]


def read_systems(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[System]:
    """The systems of ``folders`` in order, each under its name; by default that of the folder it converted into.

    Raises InputError without folders, for a folder that `evaluate` did not write, and for names that are not
    one for each folder or not different.
    """
    if not folders:
        raise InputError(
            "report-no-results",
            "a report needs at least one folder of results; give what medgen evaluate wrote with --out",
        )
    summaries = [_read_summary(Path(folder)) for folder in folders]
    chosen = _default_names(folders, [summary for summary, _ in summaries]) if names is None else list(names)
    if len(chosen) != len(folders) or len(set(chosen)) != len(chosen):
        raise InputError(
            "report-names-not-unique",
            f"{len(folders)} folders of results need as many different names, not {', '.join(chosen)}",
        )
    parts = zip(chosen, map(Path, folders), summaries, strict=True)
    return [System(name, folder, read, _cases(folder, read), damaged) for name, folder, (read, damaged) in parts]


def _read_summary(folder: Path) -> tuple[Summary, dict[str, str]]:
    path = folder / "summary.json"
    try:
        content = json.loads(read_text(path))
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            "report-results-unreadable",
            f"{path} cannot be read ({error.strerror}); give a folder that medgen evaluate wrote",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError("json-unreadable", f"{path} is not JSON ({error}); evaluate again") from error
    try:
        return read_parts(content)
    except (ValueError, AttributeError) as error:
        raise InputError(
            "report-not-summary",
            f"{path} is not the summary of an evaluation; give a folder that medgen evaluate wrote",
        ) from error


def _default_names(folders: Sequence[Path], summaries: Sequence[Summary]) -> list[str]:
    given = [summary.settings.prediction or "" for summary in summaries]
    for names in (
        [Path(path).name for path in given],
        [Path(folder).resolve().name for folder in folders],
    ):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{index}: {folder}" for index, folder in enumerate(folders, start=1)]


def _cases(folder: Path, summary: Summary) -> list[CaseNumbers]:
    """The cases of the summary with the numbers of cases.csv, which unlike strict JSON knows infinity."""
    path = folder / "cases.csv"
    try:
        rows = {row.pop("case", ""): row for row in read_csv(path)}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            "report-table-unreadable", f"{path} cannot be read ({error}); it belongs beside summary.json"
        ) from error
    return [CaseNumbers(case.case, _numbers(rows.get(as_text(case.case), {})), case.files) for case in summary.cases]


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            numbers[name] = float(text)
        except (TypeError, ValueError):  # an empty cell, or a column of words
            continue
    return numbers
