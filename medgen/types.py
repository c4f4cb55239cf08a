"""Data that packages hand to each other: cases and batches, and the types of settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

Count = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Outside = Literal[
    "preserve", "preserve_unchanged", "clip"
]  # what becomes of values beyond a range, see ``data.intensity``


class Section(BaseModel):
    """A section of a config: typed keys, each with a default and a description.

    A section within it may be given in part: the other keys keep the values of its default instance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _partial_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = {key: field.default for key, field in cls.model_fields.items() if isinstance(field.default, Section)}
        partial = {key: values[key] for key in defaults if isinstance(values.get(key), dict)}
        return values | {key: defaults[key].model_dump(exclude_unset=True) | given for key, given in partial.items()}


@dataclass(frozen=True)
class DataShape:
    """What the data decide about a method's networks.

    ``in_channels``, ``out_channels``: of a source and a target image; of slabs, slices times contrasts. ``classes``: of
    the labels, background included; None without labels. ``domains``: number of data.domains.
    """

    in_channels: int = 1
    out_channels: int = 1
    classes: int | None = None
    domains: int = 0


@dataclass(frozen=True)
class Case:
    """One entry of a cohort. ``patient`` decides the split.

    ``source`` and ``target`` hold one file a contrast, in the order of data.sources and data.targets, or are
    empty (unpaired cohorts). ``part``: train, validation or test, where the cohort states it. ``made_of``: of a
    synthetic case, all patients whose images are in it. ``channels``: of sources and targets that are channels of one
    4D file, the number of each channel.
    """

    name: str
    patient: str
    source: tuple[Path, ...] = ()
    target: tuple[Path, ...] = ()
    labels: Path | None = None
    part: str = ""
    made_of: frozenset[str] = frozenset()
    channels: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def synthetic(self) -> bool:
        return bool(self.made_of)


# "source" and "target": float tensors (B, C, X, Y, Z) in [-1, 1]; "source_case", "target_case": list of names;
# "step": number of the step, from 0; with data.labels "labels": int64 (B, 1, X, Y, Z), classes of the source patch;
# with data.domains "source_domain", "target_domain": int64 (B,), places in that list, and "paired": bool (B,), whether
# both patches show one patient's same place.
# For 2D methods slabs are folded: (B, C·k, X, Y), see ``data.slabs``.
Batch = dict[str, Any]

# update(name, loss): zero grad, backward, clip and step of the optimizer called ``name``.
Update = Callable[[str, Tensor], None]
