"""De-identified conversions: the output folder names nobody; what does so lies in a private folder elsewhere.

The private folder (readable by its owner only) holds the key, the manifest, the index of DICOM headers and the report:
all that names inputs. The output folder gets the series, under names made with the key, and ``deidentification.csv``.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread

from medgen.errors import InputError
from medgen.inference.inputs import Scan
from medgen.io.atomic import write_text
from medgen.io.deidentification.deidentify import Deidentifier, read_key, refuse_drawn
from medgen.io.dicom.series import owners
from medgen.io.paths import ENDINGS, has_ending
from medgen.io.spreadsheet import csv_line
from medgen.io.volume import Volume

REPORT = "deidentification.csv"
COLUMNS = ("tag", "attribute", "change", "places", "cases")
NAMING = ("manifest.json", "manifest.journal", "dicom_index.sqlite", "report.html")  # of a run that names inputs


@dataclass(frozen=True)
class Private:
    """The private ``folder`` of a run, and what takes identity out."""

    folder: Path
    deidentifier: Deidentifier

    @property
    def dates(self) -> str:
        """What becomes of dates: shifted or removed."""
        return "dates shifted" if self.deidentifier.shift_dates else "dates removed"

    def named(self, scan: Scan) -> Scan:
        """The scan under a name that tells nothing: folders are named after patients."""
        series = scan.series  # its UID does not change with what else lies in the folder, as case names do
        told = scan.case if series is None else " ".join((*owners(series.header), series.part))
        return replace(scan, case=f"case_{self.deidentifier.pseudonym('case', told)}")

    def check(self, targets: Sequence[Path]) -> None:
        """Refuse other formats than DICOM."""
        for target in targets:
            if has_ending(target, ENDINGS):
                raise InputError(
                    "deidentify-not-dicom",
                    f"{target} would not be DICOM; --deidentify takes DICOM and writes DICOM, nothing else",
                )

    def check_pixels(self, volumes: Sequence[Volume]) -> None:
        """Refuse, before any work, series whose first image may show a name; writing looks at every image."""
        for volume in volumes:
            if volume.frames:
                refuse_drawn(dcmread(volume.frames[0][0], stop_before_pixels=True, force=True))

    def tell(self, output: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Write ``deidentification.csv``: which attribute was changed how, in how many places of how many cases."""
        places: Counter[str] = Counter()
        cases: Counter[str] = Counter()
        for record in records:
            changes = (record.get("changes") or {}) if record.get("status") != "failed" else {}
            places.update(changes)
            cases.update(changes.keys())
        rows = [(*told.split(), places[told], cases[told]) for told in sorted(places)]
        write_text(output / REPORT, "".join(map(csv_line, [COLUMNS, *rows])))


def opened(
    source: Path, output: Path, folder: Path | None, shift_dates: bool = False, wanted: bool = True
) -> Private | None:
    """The private folder of a run into ``output``, made with a random key where it is new; None if not ``wanted``.

    Args:
        folder: where; None is ``OUTPUT-private`` beside the output.

    Raises:
        InputError: options that ask for it without being ``wanted``; a private folder in source or output or around
            them; an output folder of a run of the other kind.
    """
    if not wanted:
        if folder is not None or shift_dates:
            raise InputError(
                "deidentify-option-missing", "--identity-dir and --shift-dates say how to de-identify; add --deidentify"
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
                f"{folder} lies in {other} or holds it; keep the private folder apart with --identity-dir",
            )
    for name in NAMING:
        if (output / name).exists():
            raise InputError(
                "deidentify-output-names-inputs",
                f"{output} holds {name}, which names inputs; choose another output for --deidentify",
            )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{folder} cannot be made ({error.strerror}); choose another --identity-dir"
        ) from None
    if os.name == "posix" and folder.stat().st_mode & 0o077:
        raise InputError(
            "deidentify-private-folder-open",
            f"{folder} is open to others, and what it will hold names patients; chmod 700 it",
        )
    return Private(folder, Deidentifier(read_key(folder / "key"), shift_dates))
