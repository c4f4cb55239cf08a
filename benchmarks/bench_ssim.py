"""3D SSIM of a phantom pair, compared with scikit-image and MONAI: python benchmarks/bench_ssim.py"""

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs
from skimage.metrics import structural_similarity
from timing import best_of, row

from medgen.evaluation.metrics.ssim import mean_ssim, ssim, ssim_map
from medgen.phantom.cohort import make_patient

HU_RANGE = 4095.0


def main() -> None:
    patient = make_patient(0)
    truth, scan = (np.asarray(v, np.float32) for v in (patient.noncontrast, patient.contrast))

    def scikit_image() -> float:
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return float(structural_similarity(truth, scan, data_range=HU_RANGE, **options))

    def monai() -> float:
        x, y = (torch.from_numpy(v)[None, None] for v in (truth, scan))
        return float(compute_ssim_and_cs(y, x, 3, (11,) * 3, (1.5,) * 3, HU_RANGE)[0].mean())

    shape = " × ".join(str(n) for n in truth.shape)
    value = mean_ssim(ssim_map(truth, scan, data_range=HU_RANGE))
    for name, peer, times in (("scikit-image", scikit_image, 3), ("MONAI", monai, 1)):
        assert abs(peer() - value) < 1e-5, f"{name} gives {peer()}, medgen {value}"
        ours = best_of(lambda: ssim(truth, scan, data_range=HU_RANGE), 5)
        row(f"3D SSIM, {shape} ({name})", ours, best_of(peer, times))


if __name__ == "__main__":
    main()
