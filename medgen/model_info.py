"""The content of model.json: settings, ranges, grid, fingerprints of the training data, versions."""

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
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class TableInfo(Section):
    """See ``data.labels.codec.LabelTable``."""

    labels: dict[str, PositiveInt]
    tissues: int = Field(ge=0)
    smoothing: float = Field(ge=0)


class ScanInfo(Section):
    quantiles: list[float] = Field(min_length=len(QUANTILES), max_length=len(QUANTILES))
    extent: tuple[float, float, float]
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class ModelInfo(Section):
    """The content of ``model.json``; unknown keys are refused."""

    format: int
    settings: dict[str, Any]
    source_range: list[RangeInfo | TableInfo] = Field(
        description="intensity range of each source contrast, or the table of the label maps; empty without sources"
    )
    target_range: list[RangeInfo] = Field(min_length=1, description="intensity range of each target contrast")
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    training_scans: list[Annotated[list[ScanInfo], Field(min_length=1)]] = Field(
        description="for each source contrast, the fingerprints of its scans, see data.fingerprint"
    )
    training_targets: list[list[ScanInfo]] = Field(
        [], description="the same for each target contrast; empty with domains, label maps, or another intensity code"
    )
    training_data: dict[str, Any] = Field(description="case names, and hashes of their files")
    step: int
    validation: dict[str, float] = Field(description="validation scores when the model was saved")
    curve: list[dict[str, float]] = Field(description="validation scores up to this step")
    health: list[str] = Field(description="training problems at that time, see gan_health.diagnose")
    versions: dict[str, str]
    commit: str | None
    weights_sha256: str
    sha256: str = Field("", description="hash over all other keys, so that a modified range or spacing is detected")

    def plain(self) -> dict[str, Any]:
        """The values of ``model.json``; empty ``training_targets`` are omitted, as in models that predate the key."""
        return self.model_dump(mode="json", exclude=set() if self.training_targets else {"training_targets"})

    def hash(self) -> str:
        """SHA-256 over all values but ``sha256`` itself."""
        text = json.dumps({k: v for k, v in self.plain().items() if k != "sha256"}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
