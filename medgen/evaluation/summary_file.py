"""The content of ``summary.json``: evaluation writes this model, reports read it.

Intensities are in the unit of the images (HU for CT), PSNR in dB, distances in mm, volumes in ml. Parts that were not
measured are absent. Intervals are 95 % intervals (low, high). None: undefined, or infinite, which JSON cannot store.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medgen.io.hashes import sha256

Number = int | float | None
Ends = tuple[Number, Number] | None  # of an interval


class Part(BaseModel):
    """A part of the summary; unknown keys are ignored, so that newer files can be read."""

    model_config = ConfigDict(frozen=True)


class Row(Part):
    """A row of a table: its fields, and a number for each column that was measured."""

    model_config = ConfigDict(extra="allow")

    def number(self, column: str) -> Number:
        """Return the value of a column, None if it was not measured."""
        value: Number = (self.model_extra or {}).get(column)
        return value


class Statistics(Part):
    """Mean and standard deviation of the ``n`` finite values, and median including the ``infinite`` infinite values."""

    mean: Number = None
    median: Number = None
    std: Number = None
    n: int = 0
    infinite: int = 0
    mean_interval: Ends = None
    median_interval: Ends = None


class Region(Row):
    """Means over the ``cases`` that have the region: columns of regions.csv, see `medgen.evaluation.regions`."""

    region: str = ""
    cases: int | None = None
    mean_prediction: Number = None
    mean_reference: Number = None
    mean_source: Number = None
    mae: Number = None
    source_mae: Number = None
    error: Number = None
    abs_error: Number = None
    fraction: Number = None


class Point(Part):
    """A point of a Bland-Altman plot, one per case."""

    case: str = ""
    mean: Number = None
    difference: Number = None


class Agreement(Part):
    """Bland and Altman's limits of agreement of a region's mean intensity."""

    bias: Number = None
    lower: Number = None
    upper: Number = None
    bias_interval: Ends = None
    lower_interval: Ends = None
    upper_interval: Ends = None
    sd: Number = None
    n: int | None = None
    points: list[Point] = []


class SegmentationCase(Row):
    """Scores of one label in one case."""

    case: str
    label: str


class Segmentation(Part):
    """{label: {score: statistics}}, and the same for each case."""

    tolerance_mm: Number = None
    labels: dict[str, dict[str, Statistics]] = {}
    cases: list[SegmentationCase] = []


class Finding(Part):
    """A reason for a verdict, see `medgen.qa.case.Reason`; ``place``: {"low", "high"} corners in mm (RAS)."""

    fault: str = ""
    status: str | None = None
    text: str
    by: str = ""
    place: dict[str, list[float]] | None = None


class StructureCase(Part):
    """The verdict on a case, as returned by `medgen.qa.run.judge`."""

    case: str
    status: str | None = None
    reasons: list[str] = []
    values: dict[str, Any] = {}
    findings: list[Finding] = []
    excused: list[str] = []
    regions: dict[str, list[Number]] = {}


class Lesions(Part):
    """Numbers of lesions that were kept, lost and new, over all cases."""

    kept: int
    lost: int
    sensitivity: Number = None
    new: int
    new_per_volume: Number = None
    volumes: int


class Structure(Part):
    """The structure check of all cases."""

    counts: dict[str, int] = {}
    lesions: Lesions | None = None
    cases: list[StructureCase] = []
    thresholds: dict[str, Any] | None = None


class Distance(Part):
    """A distance between sets of images, see `medgen.evaluation.distribution.scores`."""

    metric: str
    value: Number = None
    standard_error: Number = None
    deviation: Number = None
    source_value: Number = None
    extractor: str | None = None
    weights: str | None = None
    preprocessing: str | None = None
    reference_rows: int | None = None
    prediction_rows: int | None = None
    reference_volumes: int | None = None
    prediction_volumes: int | None = None
    notes: list[str] = []


class ClosestPair(Part):
    """A converted volume and the training volume nearest to it."""

    synthetic: str
    training: str
    distance: Number = None
    p_value: Number = None
    flagged: bool = False
    files: dict[str, Path] = {}


class Memorisation(Part):
    """Whether converted volumes are copies of training volumes."""

    p_value: Number = None
    flagged: bool = False
    closest: list[ClosestPair] = []
    note: str = ""


class DownstreamRow(Part):
    """Results of one label in one protocol, see `medgen.downstream.summary.summarise`."""

    protocol: str
    label: str = ""
    dice_mean: Number = None
    interval: Ends = None
    n: int | None = None
    hd95: Number = None
    assd: Number = None
    surface_dice: Number = None
    infinite: int | None = None
    distances: int | None = None
    gain: Number = None
    gain_interval: Ends = None
    gain_p: Number = None
    sd_of_runs: Number = None


class Downstream(Part):
    """Performance of segmentation networks trained on the images."""

    rows: list[DownstreamRow] = []
    folds: int | None = None
    seeds: list[int] = []
    training: dict[str, Any] = {}
    note: str = ""


class Provenance(Part):
    """Short texts about the model and the conversion, from its manifest."""

    model: dict[str, Any] = {}
    conversion: dict[str, Any] = {}


class Settings(Part):
    """What was measured and how; unknown settings are shown unchanged."""

    model_config = ConfigDict(extra="allow")

    reference: str | None = None
    prediction: str | None = None
    source: str | None = None
    labels: str | None = None
    mask: str | None = None
    prediction_labels: str | None = None
    lesions: str | None = None
    real_cohort: str | None = None
    training_images: str | None = None
    profile: str | None = None
    measured_in: str | None = None
    profile_mask: str | None = None
    tolerance_mm: Number = None
    thresholds: dict[str, Any] | None = None
    segmenter: str | None = None
    structures_that_take_up_contrast: list[str] = []


class CaseFailure(Part):
    """A case that could not be measured."""

    case: str
    error: str


class Case(Row):
    """A measured case with its numbers of cases.csv, except infinite ones."""

    case: str
    patient: str | None = None
    files: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    regions: list[dict[str, Any]] = []
    warnings: list[str] = []


def file_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """{role: hash of its file}, 16 hexadecimal digits, by which a report tells files that were changed or exchanged."""
    return {role: sha256([path])[:16] for role, path in files.items()}


class Summary(Part):
    """The whole ``summary.json``."""

    medgen: str = "–"
    finished: str = ""
    seconds: Number = None
    number_of_cases: int = 0
    number_of_failures: int = 0
    unit: str = ""
    data_range: Number = None
    data_range_origin: str = ""
    profile: str = "generic"
    settings: Settings = Settings()
    metrics: dict[str, Statistics] = {}
    regions: dict[str, Region] = {}
    agreement: dict[str, Agreement] = {}
    segmentation: Segmentation = Segmentation()
    structure: Structure = Structure()
    provenance: Provenance = Provenance()
    distribution: list[Distance] = []
    memorisation: Memorisation | None = None
    downstream: Downstream = Downstream()
    failures: list[CaseFailure] = []
    warnings: list[str] = []
    cases: list[Case]

    def to_json(self) -> str:
        """Return strict JSON of the fields that were set; NaN and infinite numbers are null."""
        return json.dumps(_strict(self.model_dump(exclude_unset=True)), indent=1, allow_nan=False) + "\n"


def read_parts(content: Mapping[str, Any]) -> tuple[Summary, dict[str, str]]:
    """Return the summary of all valid parts, and {part: error} of the invalid parts, which are omitted.

    Raises:
        ValueError: a summary without cases.
    """
    present = {key: value for key, value in content.items() if value is not None}
    try:
        return Summary.model_validate(present), {}
    except ValidationError as error:
        errors_by_part = {
            str(detail["loc"][0]): f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()
        }
    return Summary.model_validate(
        {key: value for key, value in present.items() if key not in errors_by_part}
    ), errors_by_part


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
