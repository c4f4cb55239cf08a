"""Which DICOM series below a folder of mixed studies are scans to convert: one a study and folder, or by rules."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os.path import commonpath
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgen.config import MOST_YAML, read_yaml
from medgen.errors import InputError
from medgen.io.dicom.header import numbers
from medgen.io.dicom.index import Index
from medgen.io.dicom.references import NOTICE
from medgen.io.dicom.series import CAPTURE, UNPLACED, Series, choose, grouped, owners
from medgen.io.dicom.stack import why_no_volume
from medgen.io.names import folded
from medgen.io.text import read_text

Pattern = Annotated[str, Field(max_length=500)]


ODD = (UNPLACED, "multi-frame", "mosaic")  # series that cannot be converted and yet may be all that a study has
SCANNERS = ("CT", "MR", "PT")


class Rule(BaseModel):
    """What a series must be; what is left out does not matter. Patterns are regular expressions, found anywhere in
    upper or lower case; ranges include both ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: str | None = None
    description: Pattern | None = Field(None, description="in SeriesDescription or ProtocolName")
    study: Pattern | None = Field(None, description="in StudyDescription")
    body_part: Pattern | None = None
    kernel: Pattern | None = None
    phase: Pattern | None = Field(None, description="in ContrastBolusAgentPhase, SeriesDescription or ProtocolName")
    contrast: bool | None = Field(None, description="whether a contrast agent is named")
    slice_thickness: tuple[float, float] | None = Field(None, description="mm")
    slices: tuple[int, int] | None = None

    def fits(self, series: Series) -> bool:
        """Whether a series is what the rule describes; what its header does not say, it is not."""
        header = series.header
        texts = (
            (self.description, ("SeriesDescription", "ProtocolName")),
            (self.study, ("StudyDescription",)),
            (self.body_part, ("BodyPartExamined",)),
            (self.kernel, ("ConvolutionKernel",)),
            (self.phase, ("ContrastBolusAgentPhase", "SeriesDescription", "ProtocolName")),
        )
        for pattern, keywords in texts:
            words = [str(header.get(keyword, "")) for keyword in keywords]
            if pattern is not None and not any(re.search(pattern, text, re.IGNORECASE) for text in words):
                return False
        if self.modality is not None and series.modality.upper() != self.modality.upper():
            return False
        agent = str(header.get("ContrastBolusAgent", "")).strip().upper() not in ("", "NONE", "NO")
        if self.contrast is not None and agent != self.contrast:
            return False
        thickness = numbers(header, "SliceThickness", 1)
        for limits, value in ((self.slice_thickness, thickness), (self.slices, [len(series.slices)])):
            if limits is not None and (value is None or not limits[0] <= value[0] <= limits[1]):
                return False
        return True


class Rules(BaseModel):
    """``include``: the first rule that any series of a study fits decides; ``exclude``: what is never taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: list[Rule] = Field(min_length=1)
    exclude: list[Rule] = []
    every: bool = Field(False, description="take all that fit a rule of include, not one a study")

    def pick(self, found: Sequence[Series]) -> list[Series]:
        """Of the series of one study and folder, those to convert; several where the rules do not decide."""
        left = [s for s in found if not any(rule.fits(s) for rule in self.exclude)]
        if self.every:
            return [s for s in left if any(rule.fits(s) for rule in self.include)]
        return next((fitting for rule in self.include if (fitting := [s for s in left if rule.fits(s)])), [])


@dataclass(frozen=True)
class Found:
    """A scan among mixed studies: its name, its folder, its series, or why none was chosen. ``passed``: what of the
    study was passed over beside it, for it is no scan."""

    case: str
    folder: Path
    series: Series | None
    fault: str | None = None
    passed: tuple[str, ...] = ()


def load_rules(path: Path) -> Rules:
    """Rules of a YAML file; InputError where it is none."""
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
    except (ValueError, re.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            "rules-not-yaml", f"{path} is not YAML with rules ({reason}); see docs/how-to/choose_series.md"
        ) from error
    return rules


def ours(header: Mapping[str, Any]) -> bool:
    """Whether an image is of a series that medgen made."""
    return str(header.get("SeriesDescription", "")).startswith(NOTICE)


def check_choice(series: str | None, rules: Rules | None) -> None:
    """Refuse two ways of choosing at once: one would be passed over without a word."""
    if series is not None and rules is not None:
        raise InputError(
            "option-rules-with-series", "--rules and --series both choose a study's series; leave one of the two out"
        )


def find_series(source: Path, index: Index, wanted: str | None = None, rules: Rules | None = None) -> list[Found]:
    """The scans of an indexed folder, ordered by folder and name.

    Localisers, secondary captures, images without a place and series that medgen made are passed over, with a word in
    the scan. In each study and folder there is
    one scan: the only series, the one ``wanted`` names (as in ``read_series``), or the one ``rules`` pick. Where
    that is none or several, the scan carries the fault; by rules, none is no fault. A file that cannot be read is a
    fault of every scan of its folder, as it may be a slice of any, or of its own where there is none.
    """
    units: dict[tuple[str, str, Path], list[Series]] = {}
    for series in grouped(index.images):
        if not ours(series.header):
            folder = Path(commonpath([str(file.parent) for file in series.files]))
            patient, study, _ = owners(series.header)
            units.setdefault((patient, study, folder), []).append(series)
    scans: list[Found] = []
    told: set[Path] = set()
    for (*_, folder), members in units.items():
        lonely = sum(place == folder for *_, place in units) == 1
        places = {folder, *(file.parent for series in members for file in series.files)}
        broken = [file for file in index.faults if file.parent in places]
        found = _of_unit(folder, members, lonely, index.faults[broken[0]] if broken else None, wanted, rules)
        told.update(broken if found else ())
        scans += found
    scans += [Found(file.name, file.parent, None, said) for file, said in index.faults.items() if file not in told]
    return sorted(_told_apart(scans, source), key=lambda scan: (scan.folder, scan.case))


def _of_unit(
    folder: Path, series: list[Series], lonely: bool, fault: str | None, wanted: str | None, rules: Rules | None
) -> list[Found]:
    usable = [s for s in series if not s.remark]
    usable = usable or [s for s in series if s.remark == CAPTURE and not why_no_volume(s.slices) and len(s.slices) > 2]
    if not usable and wanted is None:
        least = {"mosaic": 1}  # each image of it is a volume
        odd = [
            s for s in series if s.remark in ODD and s.modality in SCANNERS and len(s.slices) >= least.get(s.remark, 3)
        ]
        return [
            Found(_case(folder, s, lonely), folder, None, why_no_volume(s.slices)) for s in odd[:1] if rules is None
        ]
    try:
        picked = rules.pick(usable) if rules is not None else [choose(series, wanted, folder)]
        if rules is not None and not rules.every and len(picked) > 1:
            choose(picked, None, folder)
    except InputError as error:
        return [Found(_case(folder, series[0], lonely), folder, None, str(error))]
    single = lonely and len(picked) == 1
    passed = [s.describe() for s in series if s.remark and s not in picked]
    return [
        Found(_case(folder, s, single), folder, s, fault or s.lacking or None, tuple(filter(None, (s.beside, *passed))))
        for s in picked
    ]


def _case(folder: Path, series: Series, single: bool) -> str:
    """The folder's name; with several scans in it, patient, series number and a hash of the UIDs besides."""
    if single:
        return folder.name
    patient = re.sub(r"[^A-Za-z0-9._-]+", "-", str(series.header.get("PatientID", ""))).strip("-.")[:64]
    number = str(series.header.get("SeriesNumber", ""))
    told = sha256(f"{' '.join(owners(series.header))} {series.part}".encode()).hexdigest()[:8]
    return "_".join(part for part in (folder.name[:64], patient, number, told) if part)


def _told_apart(scans: list[Found], source: Path) -> list[Found]:
    """Folders of one name below different ones get their parents' names too."""
    counts = Counter(folded(scan.case) for scan in scans)
    renamed = []
    for scan in scans:
        if counts[folded(scan.case)] > 1 and scan.folder.is_relative_to(source):
            above = scan.folder.relative_to(source).parts[:-1]
            scan = replace(scan, case="_".join((*above, scan.case))[-120:])
        renamed.append(scan)
    return renamed
