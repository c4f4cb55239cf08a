"""What a conversion knew of a case and only it could know, carried by its manifest into an evaluation.

A manifest tells of an odd input, which only the model can recognise, of what a segmenter found, and by which limits the
conversion was checked. It counts only for the very file that the conversion wrote, known by its hash.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.io.hashes import sha256
from medgen.io.paths import case_name
from medgen.qa.case import Place, Reason
from medgen.qa.limits import Thresholds

MANIFEST = "manifest.json"


def beside(file: Path) -> Path:
    """The manifest of a conversion into one file."""
    return file.with_name(f"{case_name(file)}.{MANIFEST}")


def input_findings(warnings: Iterable[str]) -> list[Reason]:
    """What was odd about an input before it was converted, as findings that ask for review."""
    return [Reason("input", "review", f"The input is odd: {text}", by="input") for text in warnings]


def record_of(prediction: Path) -> Mapping[str, Any] | None:
    """The record of the case whose output this file is, from the manifest beside it or one folder above.

    None where there is none, or where it is of another file than this one (written since, or by something else).
    """
    for path in (beside(prediction), prediction.parent / MANIFEST, prediction.parent.parent / MANIFEST):
        records = _records(path) if path.is_file() else []
        for record in records:
            if Path(record["output"]).name == prediction.name and _is_of(record, prediction):
                return record
        single = [record for record in records if not record.get("contrasts")]
        if single:  # a file that was renamed is known by its content
            mine = sha256([prediction])
            for record in single:
                if record["output_sha256"] == mine:
                    return record
    return None


def known_of(record: Mapping[str, Any], prediction: Path, *, segmented: bool) -> list[Reason]:
    """Findings that an evaluation cannot make itself; those of a segmenter where it has none (``segmented``)."""
    found = input_findings(map(str, record.get("warnings") or ()))
    if segmented:
        return found
    contrast = prediction.parent.name
    for one in record.get("findings") or ():
        if one["by"] == "segmenter" and one.get("contrast") in (None, contrast):
            text = one["text"].removeprefix(f"{contrast}: ") if "contrast" in one else one["text"]
            place = Place(*map(tuple, one["place"].values())) if one["place"] else None
            found.append(Reason(one["fault"], one["status"], text, place, "segmenter"))
    return found


def recorded_limits(records: Sequence[Mapping[str, Any]]) -> list[Thresholds]:
    """The limits by which the conversions were checked, each once; those of unchecked ones are none."""
    found = [Thresholds(**record["limits"]) for record in records if record.get("limits") is not None]
    return [limits for n, limits in enumerate(found) if limits not in found[:n]]


def _records(path: Path) -> list[dict[str, Any]]:
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, _: int) -> list[dict[str, Any]]:
    """The cases that were converted; the file is read again once it has changed."""
    try:
        records = [dict(record) for record in json.loads(path.read_text(encoding="utf-8"))["cases"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [of for of in records if isinstance(of.get("output"), str) and of.get("output_sha256")]


def _is_of(record: Mapping[str, Any], prediction: Path) -> bool:
    """By the hash over the files of all contrasts that were made, each in its folder."""
    names = record.get("contrasts") or ()
    files = [prediction.parent.parent / name / prediction.name for name in names] or [prediction]
    try:
        return sha256(files) == record["output_sha256"]
    except InputError:
        return False
