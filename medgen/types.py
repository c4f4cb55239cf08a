"""Types that several packages share: cases, batches, and types of settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medgen.errors import InputError

Count = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Outside = Literal["preserve", "preserve_unchanged", "clip"]  # handling of values beyond a range, see ``data.intensity``


class Section(BaseModel):
    """A section of a config: typed keys, each with a default and a description.

    A nested section may be given in part: its other keys keep the values of the default instance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _partial_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = {key: field.default for key, field in cls.model_fields.items() if isinstance(field.default, Section)}
        partial = {key: values[key] for key in defaults if isinstance(values.get(key), dict)}
        return values | {key: defaults[key].model_dump(exclude_unset=True) | own for key, own in partial.items()}


@dataclass(frozen=True)
class DataShape:
    """Properties of the data that determine a method's networks.

    Attributes:
        in_channels, out_channels: channels of a source and of a target image; for slabs, slices times contrasts.
        classes: number of label classes, background included; None without labels.
        domains: number of data.domains.
        patch: sides of a training patch in voxels, for networks that need them.
    """

    in_channels: int = 1
    out_channels: int = 1
    classes: int | None = None
    domains: int = 0
    patch: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One case of a cohort.

    Attributes:
        patient: all cases of a patient are in the same part of the split.
        source, target: one file per contrast, in the order of data.sources and data.targets; empty if the case lacks
            that side (unpaired cohorts).
        labels: file of the label map.
        part: train, validation or test, if the cohort defines it.
        made_of: for a synthetic case, all patients whose images it contains.
        channels: channel numbers of the sources and of the targets, if they are channels of one 4D file.
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


# Keys of a batch:
# - "source", "target": float tensors (B, C, X, Y, Z) in [-1, 1]; without data.sources there is no "source"
# - "source_case", "target_case": lists of case names
# - "step": number of the step, from 0
# - "labels", with data.labels: int64 (B, 1, X, Y, Z), classes of the source patch, without sources of the target patch
# - "source_domain", "target_domain", with data.domains: int64 (B,), indices in that list
# - "paired", with data.domains: bool (B,), whether both patches show the same place of the same patient
# For 2D methods the slices of a slab are folded into channels: (B, C·k, X, Y), see ``data.slabs``.
Batch = dict[str, Any]

# update(name, loss): zero the gradients, backpropagate, clip, and step the optimizer ``name``.
Update = Callable[[str, Tensor], None]


def slab_axis(patch: Sequence[int]) -> int:
    """The array axis (0, 1, 2: x, y, z) of a patch's smallest side. Raises InputError if there are several."""
    depth = min(patch)
    if list(patch).count(depth) > 1:
        raise InputError(
            "config-slab-side-ambiguous",
            f"sampling.patch={list(patch)} has no single smallest side, which method.spatial_dims=2 needs as the "
            "slice axis; set e.g. [128, 128, 1] for single axial slices or [128, 128, 3] for slabs of three",
        )
    return list(patch).index(depth)
