"""The generic fidelity metrics of one pair of volumes, in as many places as are asked about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError
from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.ssim import label_ms_ssim, mean_ms_ssim, mean_ssim, ms_ssim_maps, smallest_axis, ssim_map

Array = NDArray[Any]
LARGEST = 1e17  # of a voxel: sums of squares in single precision stay finite


class Pair:
    """A true volume and a converted one (X, Y, Z); the maps behind SSIM, MS-SSIM and gradient error are made once.

    ``data_range``: span of values the modality can take (4095 for HU in 12 bits). ``spacing``: mm along each axis, for
    the gradient error; None leaves it out. MS-SSIM is left out where an axis is too short for its levels. Holds up
    to 3.2 volumes in single precision. Raises `InputError` for volumes that cannot be compared.
    """

    def __init__(
        self, reference: Array, prediction: Array, *, data_range: float, spacing: Sequence[float] | None = None
    ) -> None:
        for name, image in (("reference", reference), ("prediction", prediction)):
            if image.size and (largest := float(np.abs([image.min(), image.max()]).max())) > LARGEST:
                raise InputError(
                    f"the {name} has values of up to {largest:.2g}: their squares overflow; check its unit"
                )
        self.reference, self.prediction, self.data_range = reference, prediction, data_range
        self.ssim = ssim_map(reference, prediction, data_range=data_range)
        tall = min(reference.shape) >= smallest_axis()
        self.ms_ssim = ms_ssim_maps(reference, prediction, data_range=data_range) if tall else None
        self.gradient_error = (
            None if spacing is None else fidelity.gradient_error_map(reference, prediction, spacing=spacing)
        )

    def within(self, mask: Array | None = None) -> dict[str, float]:
        """``mae``, ``rmse``, ``psnr``, ``ssim``, ``ms_ssim``, ``ncc``, ``gradient_error`` in a mask or the whole."""
        pair = self.reference, self.prediction
        scores = {
            "mae": fidelity.mae(*pair, mask),
            "rmse": fidelity.rmse(*pair, mask),
            "psnr": fidelity.psnr(*pair, data_range=self.data_range, mask=mask),
            "ssim": mean_ssim(self.ssim, mask),
        }
        if self.ms_ssim is not None:
            scores["ms_ssim"] = mean_ms_ssim(self.ms_ssim, mask)
        scores["ncc"] = fidelity.ncc(*pair, mask)
        if self.gradient_error is not None:
            scores["gradient_error"] = fidelity.masked_mean(self.gradient_error, mask)
        return scores

    def by_label(self, labels: Array) -> dict[int, dict[str, float]]:
        """{label: the same metrics in its mask} for every label but 0, ascending; few passes, however many labels."""
        maps = {"mae": np.abs(self.prediction - self.reference), "ssim": self.ssim}
        if self.gradient_error is not None:
            maps["gradient_error"] = self.gradient_error
        scores = fidelity.label_scores(labels, self.reference, self.prediction)
        for value, row in fidelity.label_means(labels, maps).items():
            scores[value] |= {name: row[name] for name in maps}
            scores[value]["psnr"] = fidelity.psnr_of(scores[value]["rmse"], self.data_range)
        for value, ms_ssim in label_ms_ssim(self.ms_ssim or (), labels).items():
            scores[value]["ms_ssim"] = ms_ssim
        return scores
