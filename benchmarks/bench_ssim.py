"""3D SSIM of a phantom pair, compared with scikit-image and MONAI."""

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs
from skimage.metrics import structural_similarity
from timing import compare, size

from medgen.evaluation.metrics.ssim import ssim
from medgen.phantom.cohort import make_patient

HU_RANGE = 4095.0


def main() -> None:
    patient = make_patient(0, size=size((160, 128, 96), (40, 36, 24)), spacing=size(2.5, 10.0))
    truth, scan = (np.asarray(v, np.float32) for v in (patient.noncontrast, patient.contrast))

    def ours() -> float:
        return ssim(truth, scan, data_range=HU_RANGE)

    def scikit_image() -> float:
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return float(structural_similarity(truth, scan, data_range=HU_RANGE, **options))

    def monai() -> float:
        x, y = (torch.from_numpy(v)[None, None] for v in (truth, scan))
        return float(compute_ssim_and_cs(y, x, 3, (11,) * 3, (1.5,) * 3, HU_RANGE)[0].mean())

    shape = " × ".join(str(n) for n in truth.shape)
    for name, peer in (("scikit-image", scikit_image), ("MONAI", monai)):
        compare(__file__, f"3D SSIM, {shape} ({name})", ours, peer, tolerance=1e-5)


if __name__ == "__main__":
    main()
