"""De-identified conversions: the output folder names no patient; files that do go to a separate private folder.

The private folder (readable by its owner only) holds all files that name inputs: the key, the manifest, the index of
DICOM headers and the report. The output folder holds the series, under pseudonyms derived from the key, and
``deidentification.csv``.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread

from medgen.data.cohort.layouts import shortened_list
from medgen.errors import InputError
from medgen.inference.inputs import Scan
from medgen.io.atomic import write_text
from medgen.io.deidentification.deidentify import Deidentifier, name_and_birth, read_key, refuse_drawn
from medgen.io.dicom.series import series_key
from medgen.io.names import one_line
from medgen.io.paths import ENDINGS, has_ending
from medgen.io.spreadsheet import csv_line
from medgen.io.volume import Volume

log = logging.getLogger(__name__)
REPORT = "deidentification.csv"
COLUMNS = ("tag", "attribute", "change", "places", "cases")
NAMING = ("manifest.json", "manifest.journal", "dicom_index.sqlite", "report.html")  # files of a run that name inputs


@dataclass(frozen=True)
class Private:
    """The private ``folder`` of a run, and its deidentifier."""

    folder: Path
    deidentifier: Deidentifier

    @property
    def dates(self) -> str:
        """How dates are de-identified, as recorded in the manifest."""
        return "dates shifted" if self.deidentifier.shift_dates else "dates removed"

    def named(self, scan: Scan) -> Scan:
        """The scan with a pseudonym as case name, because folders may be named after patients."""
        series = scan.series  # unlike the case name, its UID does not depend on other files in the folder
        text = scan.case if series is None else " ".join((*series_key(series.header), series.part))
        return replace(scan, case=f"case_{self.deidentifier.pseudonym('case', text)}")

    def check(self, targets: Sequence[Path]) -> None:
        """Refuse output formats other than DICOM. Raises InputError."""
        for target in targets:
            if has_ending(target, ENDINGS):
                raise InputError(
                    "deidentify-not-dicom",
                    f"{target} is not a DICOM output; --deidentify reads and writes DICOM only",
                )

    def check_images(self, volumes: Sequence[Volume]) -> dict[str, str]:
        """Refuse, before any work, series whose first image may show a name; writing checks every image.

        Returns:
            Pseudonyms of the patient ("alias"), and of name ("name") and birth date ("birth") if they are known.
        """
        found: dict[str, str] = {}
        for volume in volumes:
            if volume.frames:
                header = dcmread(volume.frames[0][0], stop_before_pixels=True, force=True)
                refuse_drawn(header)
                known = dict(zip(("name", "birth"), name_and_birth(header), strict=True))
                found |= {what: self.deidentifier.pseudonym(what, text) for what, text in known.items() if text}
                found["alias"] = self.deidentifier.alias(header)
        return found

    def warn_of_shared_ids(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Log a warning for each pseudonym whose series have different names or birth dates of the patient."""
        people: dict[str, list[Mapping[str, Any]]] = {}
        for record in records:
            if record.get("patient") and record.get("status") != "failed":
                people.setdefault(record["patient"]["alias"], []).append(record)
        for alias, series in people.items():
            differs = [
                text
                for what, text in (("name", "names"), ("birth", "birth dates"))
                if len({record["patient"][what] for record in series if what in record["patient"]}) > 1
            ]
            if differs:
                log.warning(
                    "warning: %d series have one PatientID but different %s, and get the pseudonym %s: %s; if they are "
                    "of different patients, give these different IDs and convert again with --overwrite",
                    *(len(series), " and ".join(differs), alias),
                    one_line(shortened_list(sorted(Path(str(record.get("output", ""))).name for record in series))),
                )

    def write_changes(self, output: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Write ``deidentification.csv``: per attribute and kind of change, the number of places and of cases."""
        places: Counter[str] = Counter()
        cases: Counter[str] = Counter()
        for record in records:
            changes = (record.get("changes") or {}) if record.get("status") != "failed" else {}
            places.update(changes)
            cases.update(changes.keys())
        rows = [(*text.split(), places[text], cases[text]) for text in sorted(places)]
        write_text(output / REPORT, "".join(map(csv_line, [COLUMNS, *rows])))


def open_private_folder(
    source: Path,
    output: Path,
    folder: Path | None,
    shift_dates: bool = False,
    deidentify: bool = True,
    overwrite: bool = False,
) -> Private | None:
    """Open the private folder of a run into ``output``; a new one gets a random key. None if not ``deidentify``.

    Args:
        folder: the private folder; None: ``OUTPUT-private`` beside the output.
        deidentify: whether to de-identify.
        overwrite: the output is replaced, so that its key is not needed.

    Raises:
        InputError: options of de-identification although not ``deidentify``; a private folder inside source or output
            or around them; an output folder of a run with the other choice of de-identification, or whose key is
            absent.
    """
    if not deidentify:
        if folder is not None or shift_dates:
            raise InputError(
                "deidentify-option-missing", "--identity-dir and --shift-dates need --deidentify; add it or omit them"
            )
        if (output / REPORT).exists():
            raise InputError(
                "deidentify-output-mixed",
                f"{output} holds de-identified series; add --deidentify or choose another output",
            )
        return None
    folder = Path(f"{os.path.abspath(output)}-private") if folder is None else folder
    place = folder.resolve()
    for other in (source.resolve(), output.resolve()):
        if place.is_relative_to(other) or other.is_relative_to(place):
            raise InputError(
                "deidentify-private-not-apart",
                f"{folder} is inside {other} or contains it; choose a separate private folder with --identity-dir",
            )
    for name in NAMING:
        if (output / name).exists():
            raise InputError(
                "deidentify-output-names-inputs",
                f"{output} holds {name}, which names inputs; choose another output for --deidentify",
            )
    if (output / REPORT).exists() and not os.path.lexists(folder / "key") and not overwrite:
        raise InputError(
            "deidentify-key-missing",
            f"{output} holds series that were de-identified with a key, which {folder} does not have; restore that "
            "folder (--identity-dir), choose another output, or replace the series with --overwrite",
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{folder} cannot be created ({error.strerror}); choose another --identity-dir"
        ) from None
    if os.name == "posix" and folder.stat().st_mode & 0o077:
        raise InputError(
            "deidentify-private-folder-open",
            f"{folder} is accessible to other users but will hold patient names; run chmod 700 on it",
        )
    return Private(folder, Deidentifier(read_key(folder / "key"), shift_dates))
