"""Read findings and limits of a conversion from its manifest, for use in an evaluation.

A manifest records warnings about unusual inputs, which only the model can detect, the findings of a segmenter, and the
limits of the checks. A record is used only for the file that the conversion wrote, identified by its hash.
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
NOT_CHECKED = "The structure check could not be done"
HIDDEN = "The input is unusual, or could not be checked; the reason is in the private folder"


def manifest_of_file(file: Path) -> Path:
    """The manifest of a conversion into one file."""
    return file.with_name(f"{case_name(file)}.{MANIFEST}")


def input_findings(warnings: Iterable[str]) -> list[Reason]:
    """Warnings about an input from before its conversion, as findings with status review."""
    return [Reason("input", "review", f"The input is unusual: {text}", by="input") for text in warnings]


def without_input_texts(found: Mapping[str, Any]) -> dict[str, Any]:
    """A result of ``qa.run.judge`` whose reasons quote nothing of the input, for a place that may not name a patient.

    Warnings about an input quote its header and its path.
    """
    quoting = [finding["text"] for finding in found["findings"] if finding["by"] == "input"] + [NOT_CHECKED]

    def told(reason: str) -> str:
        return HIDDEN if any(text in reason for text in quoting) else reason

    return {**found, "reasons": [told(reason) for reason in found["reasons"]]}


def manifest_record(prediction: Path) -> Mapping[str, Any] | None:
    """The manifest record of a converted file, from the manifest beside it or one folder above.

    None without a record, or if the file is not the recorded one: changed since, or written by another program.
    """
    for path in (manifest_of_file(prediction), prediction.parent / MANIFEST, prediction.parent.parent / MANIFEST):
        records = _records(path) if path.is_file() else []
        for record in records:
            if Path(record["output"]).name == prediction.name and _matches(record, prediction):
                return record
        single = [record for record in records if not record.get("contrasts")]
        if single:  # a renamed file is identified by its content
            digest = sha256([prediction])
            for record in single:
                if record["output_sha256"] == digest:
                    return record
    return None


def recorded_findings(record: Mapping[str, Any], prediction: Path, *, segmented: bool) -> list[Reason]:
    """Recorded findings that an evaluation cannot make itself.

    These are warnings about the input and, unless the evaluation has a segmenter (``segmented``), the findings of the
    segmenter.
    """
    found = input_findings(map(str, record.get("warnings") or ()))
    if segmented:
        return found
    contrast = prediction.parent.name
    for finding in record.get("findings") or ():
        if finding["by"] == "segmenter" and finding.get("contrast") in (None, contrast):
            text = finding["text"].removeprefix(f"{contrast}: ") if "contrast" in finding else finding["text"]
            place = Place(*map(tuple, finding["place"].values())) if finding["place"] else None
            found.append(Reason(finding["fault"], finding["status"], text, place, "segmenter"))
    return found


def recorded_limits(records: Sequence[Mapping[str, Any]]) -> list[Thresholds]:
    """The distinct limits of the checks of several conversions; unchecked conversions have none."""
    found = [Thresholds(**record["limits"]) for record in records if record.get("limits") is not None]
    return [limits for n, limits in enumerate(found) if limits not in found[:n]]


def _records(path: Path) -> list[dict[str, Any]]:
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, _: int) -> list[dict[str, Any]]:
    """The records of converted cases. The second argument, the time of the last change, invalidates the cache."""
    try:
        records = [dict(record) for record in json.loads(path.read_text(encoding="utf-8"))["cases"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [of for of in records if isinstance(of.get("output"), str) and of.get("output_sha256")]


def _matches(record: Mapping[str, Any], prediction: Path) -> bool:
    """Whether the hash over the files of all contrasts, each in its own folder, is the recorded one."""
    names = record.get("contrasts") or ()
    files = [prediction.parent.parent / name / prediction.name for name in names] or [prediction]
    try:
        return sha256(files) == record["output_sha256"]
    except InputError:
        return False
