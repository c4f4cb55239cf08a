"""Declaration of a metric, and the pair of images that metrics are computed from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError

Array = NDArray[Any]
T = TypeVar("T")
MAX_MAGNITUDE = 1e17  # largest absolute voxel value for which sums of squares stay finite in single precision


class Pair:
    """A reference volume and a converted one (X, Y, Z), with a cache of intermediate results that metrics share.

    Args:
        reference, prediction: on the same grid, in the same unit (HU for CT).
        data_range: range of possible values (4095 for HU in 12 bits); required by the generic PSNR and SSIM.
        spacing: mm along each axis, for the gradient error; None omits that metric.

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
            if image.size and (largest := float(np.abs([image.min(), image.max()]).max())) > MAX_MAGNITUDE:
                raise InputError(
                    "metric-values-overflow",
                    f"the {name} has values of up to {largest:.2g}, whose squares overflow; check its unit",
                )
        self.reference, self.prediction, self.data_range, self.spacing = reference, prediction, data_range, spacing
        self._kept: dict[Any, tuple[Sequence[Array], Any]] = {}

    def kept(self, make: Callable[..., T], *arrays: Array) -> T:
        """Return ``make(pair, *arrays)``, computed at the first call and cached, so that several masks share a map."""
        key = (make, *map(id, arrays))
        if key not in self._kept:
            self._kept[key] = arrays, make(self, *arrays)  # holding ``arrays`` prevents reuse of their ids
        result: T = self._kept[key][1]
        return result


@dataclass(frozen=True)
class Metric:
    """Declaration of a metric: its name, how it is shown and how it is computed.

    An image-pair metric has ``within`` or ``map``. Segmentation metrics and the slice jump have neither; they are
    computed by `segmentation.segmentation_scores` and `slice_continuity.relative_slice_jump`.

    Attributes:
        name: name of its column.
        label: name in reports.
        unit: "*" stands for the unit of the images.
        digits: decimal places; None: those of the unit.
        better: direction of better values; None: neither.
        about: one line of explanation.
        profile: the definition it follows, see `challenges.PROFILES`.
        needs: what it requires in addition to the prediction, in words.
        places: prefixes of its columns in cases.csv, from `catalogue.PLACES`; "" is the mask or the whole volume.
        columns: "first": a column of every cases.csv and of the report's first page; "always": a column of every
            cases.csv; "measured": a column only if a case has a value.
        map: (pair) → value in every voxel (X, Y, Z), or None if it cannot be computed.
        within: (pair, mask or None) → value in the mask, or None; default: the mean of the map.
        by_label: (pair, labels) → {label: value}; default: the mean of the map, or ``within`` for each label.
    """

    name: str
    label: str
    unit: str
    digits: int | None
    better: Literal["higher", "lower"] | None
    about: str
    profile: str = "generic"
    needs: Sequence[str] = ("reference",)
    places: Sequence[str] = ("", "body_")
    columns: Literal["first", "always", "measured"] = "measured"
    map: Callable[[Pair], Array | None] | None = None
    within: Callable[[Pair, Array | None], float | None] | None = None
    by_label: Callable[[Pair, Array], Mapping[int, float]] | None = None

    @property
    def column(self) -> str:
        """Column of cases.csv without a place prefix; challenge metrics begin with the name of the challenge."""
        return self.name if self.profile == "generic" else f"{self.profile}_{self.name}"

    @property
    def of_pairs(self) -> bool:
        """Whether the metric compares two images voxel by voxel."""
        return self.map is not None or self.within is not None
