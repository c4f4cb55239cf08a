"""Lesion augmentation on 2D lung CT patches: tumour Dice without and with pasted, procedural and GAN lesions.

    pip install h5py
    python benchmarks/lung_patches.py val_patches.h5 OUT [--cases 16 32 64] [options of the pipeline]

The file contains 130 patches of 48 × 48 (2 mm, scaled to 0 ... 1) from 13 patients, ten each. Five patients are for
testing; each of five draws selects 16, 32 or 64 patches of the others (pipelines/augment_segmentation.py). Writes
``OUT/N/report.html`` and prints a table for each size.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from scipy.ndimage import binary_closing, gaussian_filter

ROOT = Path(__file__).parent.parent
EACH = 10  # patches per patient
LOW, HIGH = -1000, 200  # HU of intensities 0 and 1; muscle is then about 50 HU
AIR, SOFT = 0.03, 0.45  # intensity range of lung


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, nargs="+", default=[16, 32, 64])
    args, options = parser.parse_known_args()
    dataset = args.out / "dataset"
    if not (dataset / "labels.json").exists():
        write_dataset(args.patches, dataset)
    generators = ["cutpaste", "procedural", f"gan={ROOT / 'configs' / 'ct_lung_2d_lesion_gan.yaml'}"]
    codes = []
    for cases in args.cases:
        print(f"\n{cases} training patches\n", flush=True)
        arguments = [
            dataset,
            args.out / str(cases),
            "--generator",
            *generators,
            "--lesion",
            "tumour",
            "--host",
            "lung",
            "--cases",
            cases,
        ]
        arguments += ["--patient-pattern", r"(p\d+)_", "--segment", "tumour", "--test", 5, "--draws", 5, *options]
        command = [sys.executable, ROOT / "pipelines" / "augment_segmentation.py", *arguments]
        codes.append(subprocess.run([str(word) for word in command], check=False).returncode)
    return max(codes)


def write_dataset(patches: Path, out: Path) -> None:
    """Write each patch as a volume of one slice, with labels of tumour and lung.

    Lung, in which lesions may be inserted, is dark tissue brighter than air. Intensities are converted to the probable
    HU scale, so that painters treat contrasts as absolute.
    """
    with h5py.File(patches) as file:
        images, labels = file["images"][:, 0], file["labels"][:, 0]
    for i, (image, tumour) in enumerate(zip(images, labels > 0, strict=True)):
        smooth = gaussian_filter(image, 1)
        lung = binary_closing((smooth > AIR) & (smooth < SOFT), iterations=2) & ~tumour
        label = np.where(tumour, 1, np.where(lung, 2, 0))
        for folder, data in (
            ("images", (LOW + (HIGH - LOW) * image).astype(np.float32)),
            ("labels", label.astype(np.uint8)),
        ):
            (out / folder).mkdir(parents=True, exist_ok=True)
            path = out / folder / f"p{i // EACH:02d}_{i % EACH}.nii.gz"
            nib.save(nib.Nifti1Image(data[..., None], np.diag([2.0, 2.0, 2.0, 1.0])), path)
    (out / "labels.json").write_text(json.dumps({"tumour": 1, "lung": 2}))


if __name__ == "__main__":
    sys.exit(main())
