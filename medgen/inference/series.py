"""Select the DICOM series to convert in a folder of mixed studies: one per study and folder, or by rules."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os.path import commonpath
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medgen.config import MOST_YAML, read_yaml
from medgen.errors import InputError
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.dicom.elements import numbers, texts
from medgen.io.dicom.index import Index
from medgen.io.dicom.series import CAPTURE, UNPLACED, Series, choose, grouped, series_key
from medgen.io.dicom.stack import why_no_volume
from medgen.io.names import folded, one_line
from medgen.io.text import read_text

log = logging.getLogger(__name__)
Pattern = Annotated[str, Field(max_length=500)]


ODD = (UNPLACED, "multi-frame", "mosaic")  # series that cannot be converted but may be the only ones of a study
SCANNERS = ("CT", "MR", "PT")
# Values of ContrastBolusAgent that mean: no contrast medium.
NO_AGENT = re.compile(
    r"([-/.0\s]*$|n$|.*(?<![\d.,])0+([.,]0+)?\s*(ml|cc)\b|"
    r"(none|no(?![\W_]+(reaction|adverse|complication|side|allerg))|non(?![\W_]*ion)|not|nil|nein|w/?o|without|ohne|"
    r"kein\w*|nativ\w*|sans|sin|sem|senza|zonder|utan|uden|bez|unenhanced|plain|n/?a)(\b|_|$))",
    re.IGNORECASE,
)


class Rule(BaseModel):
    """Conditions on a series; an omitted key is not tested.

    Patterns are regular expressions that match anywhere in the text, ignoring case. Ranges include both ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: str | None = None
    description: Pattern | None = Field(None, description="matches SeriesDescription or ProtocolName")
    study: Pattern | None = Field(None, description="matches StudyDescription")
    body_part: Pattern | None = None
    kernel: Pattern | None = None
    phase: Pattern | None = Field(
        None, description="matches ContrastBolusAgentPhase, SeriesDescription or ProtocolName"
    )
    contrast: bool | None = Field(None, description="whether a contrast agent is named")
    slice_thickness: tuple[float, float] | None = Field(None, description="mm")
    slices: tuple[int, int] | None = None

    @field_validator("slice_thickness", "slices")
    @classmethod
    def _in_order(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and limits[0] > limits[1]:
            raise ValueError(f"[{limits[0]:g}, {limits[1]:g}] fits nothing; give the lower limit first")
        return limits

    def fits(self, series: Series) -> bool:
        """Whether a series meets all conditions. A condition on a value that the header lacks is not met."""
        header = series.header
        patterns = (
            (self.description, ("SeriesDescription", "ProtocolName")),
            (self.study, ("StudyDescription",)),
            (self.body_part, ("BodyPartExamined",)),
            (self.kernel, ("ConvolutionKernel",)),
            (self.phase, ("ContrastBolusAgentPhase", "SeriesDescription", "ProtocolName")),
        )
        for pattern, keywords in patterns:
            values = [text for keyword in keywords for text in texts(header, keyword)]
            if pattern is not None and not any(re.search(pattern, text, re.IGNORECASE) for text in values):
                return False
        if self.modality is not None and series.modality.upper() != self.modality.upper():
            return False
        agent = not NO_AGENT.match(texts(header, "ContrastBolusAgent")[0].strip())
        if self.contrast is not None and agent != self.contrast:
            return False
        thickness = numbers(header, "SliceThickness", 1)
        for limits, value in ((self.slice_thickness, thickness), (self.slices, [len(series.slices)])):
            if limits is not None and (value is None or not limits[0] <= value[0] <= limits[1]):
                return False
        return True


class Rules(BaseModel):
    """``include``: the first rule that fits any series of a study applies; ``exclude``: series never selected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: list[Rule] = Field(min_length=1)
    exclude: list[Rule] = []
    every: bool = Field(False, description="select all series that fit a rule of include, not one per study")

    def pick(self, found: Sequence[Series]) -> list[Series]:
        """Select the series to convert from those of one study and folder; several if the rules are ambiguous."""
        left = [s for s in found if not any(rule.fits(s) for rule in self.exclude)]
        if self.every:
            return [s for s in left if any(rule.fits(s) for rule in self.include)]
        return next((fitting for rule in self.include if (fitting := [s for s in left if rule.fits(s)])), [])


@dataclass(frozen=True)
class Found:
    """A scan among mixed studies: its name, its folder, and its series or a ``fault`` that says why none was selected.

    ``passed``: descriptions of other series of the study that were ignored because they are not scans.
    """

    case: str
    folder: Path
    series: Series | None
    fault: str | None = None
    passed: tuple[str, ...] = ()


def load_rules(path: Path) -> Rules:
    """Read rules from a YAML file. Raises InputError if it is not valid."""
    try:
        rules = Rules.model_validate(read_yaml(read_text(path, MOST_YAML)))
        for rule in (*rules.include, *rules.exclude):
            for pattern in (rule.description, rule.study, rule.body_part, rule.kernel, rule.phase):
                re.compile(pattern or "")
    except InputError:
        raise
    except OSError as error:
        raise InputError("file-unreadable", f"{path} cannot be read ({error.strerror}); check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            "rules-invalid", f"{path}: {place or 'the file'}: {first['msg']}; see docs/how-to/choose_series.md"
        ) from error
    except re.error as error:
        raise InputError(
            "rules-invalid",
            f"{path}: {error.pattern!r} is not a valid regular expression ({error}); see docs/how-to/choose_series.md",
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            "rules-not-yaml", f"{path} is not a valid YAML file of rules ({reason}); see docs/how-to/choose_series.md"
        ) from error
    return rules


def made_by_medgen(header: Mapping[str, Any]) -> bool:
    """Whether an image belongs to a series made by medgen."""
    return texts(header, "SeriesDescription")[0].startswith(NOTICE)


def check_choice(series: str | None, rules: Rules | None) -> None:
    """Raise InputError for --series together with --rules, because one of them would be ignored."""
    if series is not None and rules is not None:
        raise InputError(
            "option-rules-with-series", "--rules and --series both select DICOM series; omit one of the two"
        )


def find_series(source: Path, index: Index, selected: str | None = None, rules: Rules | None = None) -> list[Found]:
    """Find the scans of an indexed folder, ordered by folder and name.

    Localisers, secondary captures and images without a position are ignored and noted in the scan; series made by
    medgen are ignored. Each study and folder gives one scan: the only series, the one named by ``selected`` (as in
    ``read_series``), or the one selected by ``rules``. If there is none or several, the scan has a fault, except that
    rules may select none. A file that cannot be read is a fault of every scan in its folder, because it may be a slice
    of any of them; in a folder without scans it is a scan with a fault.
    """
    studies: dict[tuple[str, str, Path], list[Series]] = {}
    for series in grouped(index.images):
        if not made_by_medgen(series.header):
            folder = Path(commonpath([str(file.parent) for file in series.files]))
            patient, study, _ = series_key(series.header)
            studies.setdefault((patient, study, folder), []).append(series)
    scans: list[Found] = []
    reported: set[Path] = set()
    torn = _torn(studies)
    for (*_, folder), members in studies.items():
        only_study = sum(place == folder for *_, place in studies) == 1
        places = {folder, *(file.parent for series in members for file in series.files)}
        broken = [index.faults[file] for file in index.faults if file.parent in places]
        broken_files = [file for file in index.faults if file.parent in places]
        faults = broken + [torn[series.uid] for series in members if series.uid in torn]
        found = _scans_of_study(folder, members, only_study, faults[0] if faults else None, selected, rules)
        reported.update(broken_files if found else ())
        scans += found
    scans += [
        Found(file.name, file.parent, None, message) for file, message in index.faults.items() if file not in reported
    ]
    return sorted(_with_unique_names(scans, source), key=lambda scan: (scan.folder, scan.case))


def _torn(studies: Mapping[tuple[str, str, Path], Sequence[Series]]) -> dict[str, str]:
    """Faults, by UID, of series whose slices have several PatientIDs or studies and are one volume only together.

    A correction in the archive that reached a part of the slices gives such series; each part alone looks like a scan.
    Two scans of the same UID (some anonymisers reuse them) are no volume together, and are left alone.
    """
    pieces: dict[str, list[tuple[tuple[str, str, Path], Series]]] = {}
    for key, members in studies.items():
        for series in members:
            if not series.remark:
                pieces.setdefault(series.uid, []).append((key, series))
    faults = {}
    for uid, found in pieces.items():
        if len({key[:2] for key, _ in found}) > 1 and not why_no_volume([s for _, one in found for s in one.slices]):
            patients, each = {key[0] for key, _ in found}, [len(one.slices) for _, one in found]
            differs = "PatientID" if len(patients) > 1 else "StudyInstanceUID"
            faults[uid] = (
                f"{found[0][1].files[0].parent} holds one series ({uid}) whose slices have different values of "
                f"{differs} ({' and '.join(map(str, each))} slices); together they are one scan: correct {differs} "
                "in all of them"
            )
    return faults


def _scans_of_study(
    folder: Path, series: list[Series], only_study: bool, fault: str | None, selected: str | None, rules: Rules | None
) -> list[Found]:
    """The scans of the series of one study and folder; ``only_study``: the folder holds no other study."""
    usable = [s for s in series if not s.remark]
    usable = usable or [s for s in series if s.remark == CAPTURE and not why_no_volume(s.slices) and len(s.slices) > 2]
    if not usable and selected is None:
        least = {"mosaic": 1}  # each image of a mosaic is a volume
        odd = [
            s for s in series if s.remark in ODD and s.modality in SCANNERS and len(s.slices) >= least.get(s.remark, 3)
        ]
        return [
            Found(_case(folder, s, only_study), folder, None, why_no_volume(s.slices)) for s in odd[:1] if rules is None
        ]
    try:
        picked = rules.pick(usable) if rules is not None else [choose(series, selected, folder)]
        if rules is not None and not rules.every and len(picked) > 1:
            listing = "; ".join(one.describe() for one in picked)
            raise InputError(
                "rules-several-series",
                f"{folder}: {len(picked)} series match the rule that decides; narrow it, or set every: true to convert "
                f"all: {listing}",
            )
        if rules is not None and not picked:
            unchosen = "; ".join(one.describe() for one in usable) or "no scan"
            log.warning("warning: %s: the rules select none of its series: %s", folder, one_line(unchosen))
    except InputError as error:
        return [Found(_case(folder, series[0], only_study), folder, None, str(error))]
    single = only_study and len(picked) == 1
    passed = [s.describe() for s in series if s.remark and s not in picked]
    return [
        Found(_case(folder, s, single), folder, s, fault or s.lacking or None, tuple(filter(None, (s.beside, *passed))))
        for s in picked
    ]


def _case(folder: Path, series: Series, single: bool) -> str:
    """Name a case after its folder; with several scans in it, also by patient, series number and a hash of the UIDs."""
    if single:
        return folder.name
    patient = re.sub(r"[^A-Za-z0-9._-]+", "-", str(series.header.get("PatientID", ""))).strip("-.")[:64]
    number = str(series.header.get("SeriesNumber", ""))
    digest = sha256(f"{' '.join(series_key(series.header))} {series.part}".encode()).hexdigest()[:8]
    return "_".join(part for part in (folder.name[:64], patient, number, digest) if part)


def _with_unique_names(scans: list[Found], source: Path) -> list[Found]:
    """Add the names of the parent folders to cases that have the same name."""
    counts = Counter(folded(scan.case) for scan in scans)
    renamed = []
    for scan in scans:
        if counts[folded(scan.case)] > 1 and scan.folder.is_relative_to(source):
            above = scan.folder.relative_to(source).parts[:-1]
            scan = replace(scan, case="_".join((*above, scan.case))[-120:])
        renamed.append(scan)
    return renamed
