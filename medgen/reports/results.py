"""Read evaluation folders into the `System` objects from which a report is made.

A folder has ``summary.json`` (`medgen.evaluation.summary_file`) and ``cases.csv``. A section of the report appears only
if the summary has its key, so that folders of older evaluations still give a report.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medgen.errors import InputError
from medgen.evaluation.summary_file import Summary, read_parts
from medgen.io.atomic import escape_invalid_utf8
from medgen.io.spreadsheet import read_csv
from medgen.io.text import read_text


@dataclass(frozen=True)
class CaseNumbers:
    """An evaluated case: its numbers by column of cases.csv (may be infinite), and its files by role."""

    name: str
    metrics: Mapping[str, float]
    files: Mapping[str, Path]


@dataclass(frozen=True)
class System:
    """One evaluated system: its name in the report, its folder, the content of ``summary.json``, its cases."""

    name: str
    folder: Path
    summary: Summary
    cases: Sequence[CaseNumbers]
    damaged: Mapping[str, str] = field(default_factory=dict)  # {part of the summary: why it cannot be read}

    @property
    def unit(self) -> str:
        """HU, or empty for intensities without a unit."""
        return self.summary.unit

    @property
    def digits(self) -> int:
        """Decimal digits of intensities: one for HU, else enough for four significant digits of the data range."""
        span = self.summary.data_range
        return 1 if self.unit or not span else max(0, min(8, 3 - math.floor(math.log10(span))))

    @property
    def has_source(self) -> bool:
        """Whether the unconverted source was evaluated too."""
        return "source_mae" in self.summary.metrics

    @property
    def has_truth(self) -> bool:
        """Whether there was a truth for comparison."""
        return "mae" in self.summary.metrics

    def pairs(self, name: str) -> list[tuple[float, float]]:
        """Return (converted, source) of the cases in which both have the metric, including infinite values."""
        found = [
            (case.metrics.get(name, math.nan), case.metrics.get(f"source_{name}", math.nan)) for case in self.cases
        ]
        return [pair for pair in found if not any(map(math.isnan, pair))]


def read_systems(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[System]:
    """Read the systems of ``folders``, in order; the default name is that of the folder of converted images.

    Raises InputError if there are no folders, if one is given twice, if a folder was not written by `evaluate`, or if
    ``names`` does not have one unique name per folder.
    """
    if not folders:
        raise InputError(
            "report-no-results",
            "a report needs at least one folder of results; give an output folder of medgen evaluate",
        )
    places = [Path(folder).resolve() for folder in folders]
    if twice := next((str(place) for place in places if places.count(place) > 1), None):
        raise InputError("report-folder-twice", f"{twice} is given twice; give one folder of results for each system")
    summaries = [_read_summary(Path(folder)) for folder in folders]
    chosen = _default_names(folders, [summary for summary, _ in summaries]) if names is None else list(names)
    if len(chosen) != len(folders) or len(set(chosen)) != len(chosen):
        raise InputError(
            "report-names-not-unique",
            f"{len(folders)} folders of results need the same number of different names, not {', '.join(chosen)}",
        )
    parts = zip(chosen, map(Path, folders), summaries, strict=True)
    return [
        System(name, folder, summary_read, _cases(folder, summary_read), damaged)
        for name, folder, (summary_read, damaged) in parts
    ]


def _read_summary(folder: Path) -> tuple[Summary, dict[str, str]]:
    path = folder / "summary.json"
    try:
        content = json.loads(read_text(path))
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            "report-results-unreadable",
            f"{path} cannot be read ({error.strerror}); give an output folder of medgen evaluate",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError("json-unreadable", f"{path} is not valid JSON ({error}); repeat the evaluation") from error
    try:
        return read_parts(content)
    except (ValueError, AttributeError) as error:
        raise InputError(
            "report-not-summary",
            f"{path} is not the summary of an evaluation; give an output folder of medgen evaluate",
        ) from error


def _default_names(folders: Sequence[Path], summaries: Sequence[Summary]) -> list[str]:
    predictions = [summary.settings.prediction or "" for summary in summaries]
    for names in (
        [Path(path).name for path in predictions],
        [Path(folder).resolve().name for folder in folders],
    ):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{index}: {folder}" for index, folder in enumerate(folders, start=1)]


def _cases(folder: Path, summary: Summary) -> list[CaseNumbers]:
    """Return the cases of the summary with the numbers of cases.csv, which can be infinite, unlike those of JSON."""
    path = folder / "cases.csv"
    try:
        rows = {row.pop("case", ""): row for row in read_csv(path)}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            "report-table-unreadable", f"{path} cannot be read ({error}); it must be in the same folder as summary.json"
        ) from error
    return [
        CaseNumbers(case.case, _numbers(rows.get(escape_invalid_utf8(case.case), {})), case.files)
        for case in summary.cases
    ]


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            numbers[name] = float(text)
        except (TypeError, ValueError):  # an empty cell, or a text column
            continue
    return numbers
