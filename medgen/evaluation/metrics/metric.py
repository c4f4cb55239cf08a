"""How a metric is declared, and the pair of images that its functions are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError

Array = NDArray[Any]
T = TypeVar("T")
LARGEST = 1e17  # of a voxel: sums of squares in single precision stay finite


class Pair:
    """A true volume and a converted one (X, Y, Z), with what metrics compute of them and share.

    Args:
        reference, prediction: on one grid, in one unit (HU for CT).
        data_range: span of values the modality can take (4095 for HU in 12 bits); the generic PSNR and SSIM need it.
        spacing: mm along each axis, for the gradient error; None leaves it out.

    Raises:
        InputError: values whose squares overflow.
    """

    def __init__(
        self,
        reference: Array,
        prediction: Array,
        *,
        data_range: float = float("nan"),
        spacing: Sequence[float] | None = None,
    ) -> None:
        for name, image in (("reference", reference), ("prediction", prediction)):
            if image.size and (largest := float(np.abs([image.min(), image.max()]).max())) > LARGEST:
                raise InputError(
                    "metric-values-overflow",
                    f"the {name} has values of up to {largest:.2g}: their squares overflow; check its unit",
                )
        self.reference, self.prediction, self.data_range, self.spacing = reference, prediction, data_range, spacing
        self._kept: dict[Any, tuple[Sequence[Array], Any]] = {}

    def kept(self, make: Callable[..., T], *given: Array) -> T:
        """``make(pair, *given)``, computed at the first call and kept with the pair: several masks share a map."""
        key = (make, *map(id, given))
        if key not in self._kept:
            self._kept[key] = given, make(self, *given)  # holding ``given`` keeps its id from being used again
        result: T = self._kept[key][1]
        return result


@dataclass(frozen=True)
class Metric:
    """A metric: how it is named and shown, and how it is computed.

    An image-pair metric has ``within`` or ``map``. Metrics of segmentations and the slice jump have neither: each of
    `segmentation.segmentation_scores` and `slice_continuity.relative_slice_jump` computes its own.

    ``name``: of its column. ``label``: in reports. ``unit``: "*" stands for that of the images. ``digits``: after the
    point; None: those of the unit. ``better``: which direction; None: neither. ``about``: one line of explanation.
    ``profile``: whose definition it follows, see `challenges.PROFILES`.
    ``needs``: what it needs beside the prediction, in words.
    ``places``: beginnings of its columns in cases.csv, of `catalogue.PLACES`; "" is the mask or the whole volume.
    ``columns``: "first" is a column of every cases.csv and on the report's first page, "always" of every cases.csv,
    "measured" only where a case has a number.
    ``map``: (pair) → its value in every voxel (X, Y, Z), or None where it cannot be computed.
    ``within``: (pair, mask or None) → its value there, or None; by default the mean of the map.
    ``by_label``: (pair, labels) → {label: value}; by default the mean of the map, else ``within`` label by label.
    """

    name: str
    label: str
    unit: str
    digits: int | None
    better: Literal["higher", "lower"] | None
    about: str
    profile: str = "generic"
    needs: Sequence[str] = ("truth",)
    places: Sequence[str] = ("", "body_")
    columns: Literal["first", "always", "measured"] = "measured"
    map: Callable[[Pair], Array | None] | None = None
    within: Callable[[Pair, Array | None], float | None] | None = None
    by_label: Callable[[Pair, Array], Mapping[int, float]] | None = None

    @property
    def column(self) -> str:
        """Its column of cases.csv, without a place: metrics of a challenge carry its name."""
        return self.name if self.profile == "generic" else f"{self.profile}_{self.name}"

    @property
    def of_pairs(self) -> bool:
        """Whether it compares two images voxel by voxel."""
        return self.map is not None or self.within is not None
