"""What model.json holds: settings, ranges, grid, fingerprints of the training data, versions."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medgen.data.fingerprint import QUANTILES
from medgen.types import Outside, Section


class RangeInfo(Section):
    low: float
    high: float
    outside: Outside = "clip"
    background: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "RangeInfo":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must lie below high {self.high}")
        return self


class TableInfo(Section):
    """See ``data.labels.intensity.LabelTable``."""

    labels: dict[str, PositiveInt]
    tissues: int = Field(ge=0)
    smoothing: float = Field(ge=0)


class ScanInfo(Section):
    quantiles: list[float] = Field(min_length=len(QUANTILES), max_length=len(QUANTILES))
    extent: tuple[float, float, float]
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class ModelInfo(Section):
    """What ``model.json`` holds; anything else in it is refused."""

    format: int
    settings: dict[str, Any]
    source_range: list[RangeInfo | TableInfo] = Field(
        min_length=1, description="of each source contrast, or the table of the label maps"
    )
    target_range: list[RangeInfo] = Field(min_length=1, description="of each target contrast")
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    training_scans: list[Annotated[list[ScanInfo], Field(min_length=1)]] = Field(
        min_length=1, description="of each source contrast, the looks of its scans, see data.fingerprint"
    )
    training_targets: list[list[ScanInfo]] = Field(
        [], description="the same of each target contrast; empty without one side to translate to, or in another code"
    )
    training_data: dict[str, Any] = Field(description="case names and a hash over the files")
    step: int
    validation: dict[str, float] = Field(description="scores at the time of writing")
    curve: list[dict[str, float]] = Field(description="validation scores so far")
    health: list[str] = Field(description="what was wrong with the training then, see health.diagnose")
    versions: dict[str, str]
    commit: str | None
    weights_sha256: str
    sha256: str = Field("", description="of all the above, so that a changed range or spacing is noticed")

    def plain(self) -> dict[str, Any]:
        """As ``model.json`` has it: without target looks where there are none, as in models from before they were."""
        return self.model_dump(mode="json", exclude=set() if self.training_targets else {"training_targets"})

    def hash(self) -> str:
        text = json.dumps({k: v for k, v in self.plain().items() if k != "sha256"}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
