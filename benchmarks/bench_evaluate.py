"""``medgen evaluate`` of a case with 28 labels and its report, compared with a MONAI and scikit-image script (peers/).

The script's numbers are compared. medgen also writes MS-SSIM, slice jumps, statistics, and the report in HTML and PDF.
"""

import csv
import itertools
import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from peers import evaluate as script
from scans import patient, save
from timing import compare, size

from medgen.data.body_mask import body_mask
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.inputs import Inputs
from medgen.io.volume import Volume
from medgen.phantom.cohort import LABELS
from medgen.reports.evaluation import write_report

SHAPE, MM = size(((160, 128, 96), 2.5), ((80, 64, 48), 5.0))
NAMES = {**LABELS, "bone_left": len(LABELS) + 1}


def write_case(folder: Path) -> None:
    """A phantom, a conversion with noise, and segmentations that differ by one voxel at random; 28 labels."""
    one = patient(1, SHAPE, MM)
    rng = np.random.default_rng(0)
    labels = one.labels.copy()
    left = (labels == LABELS["bone"]) & (np.arange(SHAPE[0]) < SHAPE[0] // 2)[:, None, None]
    labels[left] = NAMES["bone_left"]
    moved = np.where(rng.random(SHAPE) < 0.5, labels, np.roll(labels, 1, 0))
    images = {
        "reference": np.rint(one.noncontrast).astype(np.int16),
        "prediction": np.rint(one.noncontrast + rng.normal(0, 15, SHAPE)).astype(np.int16),
    }
    for role, data in images.items():
        save(folder / f"{role}.nii.gz", data, one.affine)
    for role, data in (("labels", labels), ("prediction_labels", moved)):
        nib.save(nib.Nifti1Image(data.astype(np.uint8), one.affine), folder / f"{role}.nii.gz")
    present = {name: value for name, value in NAMES.items() if (labels == value).any() and (moved == value).any()}
    (folder / "labels.json").write_text(json.dumps(present))


def table(path: Path, key: str) -> dict[str, dict[str, float]]:
    with open(path, newline="") as file:
        return {
            row[key]: {k: float(v) for k, v in row.items() if k not in ("case", key) and v}
            for row in csv.DictReader(file)
        }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name) / "case", itertools.count()
        folder.mkdir()
        write_case(folder)
        names = json.loads((folder / "labels.json").read_text())
        image = nib.load(folder / "reference.nii.gz")
        body = body_mask(Volume(image.get_fdata(dtype=np.float32), image.affine).data)  # medgen finds it each time
        roles = ("prediction", "reference", "labels", "prediction_labels")
        inputs = Inputs(**{role: folder / f"{role}.nii.gz" for role in roles})

        def ours() -> Path:
            out = Path(name) / f"ours{next(numbers)}"
            evaluation = evaluate(inputs, out)
            assert not evaluation.failures, evaluation.failures
            write_report([out], out / "report.html", say=lambda _: None)
            return out

        def peer() -> dict[str, dict[str, float]]:
            return script.main(folder, Path(name) / "peer", names, body)

        def apart(out: Path, rows: dict[str, dict[str, float]]) -> float:
            """Largest difference, relative for values above 1."""
            regions, overlap = table(out / "regions.csv", "region"), table(out / "segmentation.csv", "label")
            found = [
                abs({**regions[region], **overlap.get(region, {})}[column] - value) / max(1.0, abs(value))
                for region, row in rows.items()
                for column, value in row.items()
            ]
            return float(np.max(found))

        shape = " × ".join(map(str, SHAPE))
        row = f"evaluate a case of {shape}, {len(names)} labels, with report (scikit-image and MONAI script)"
        compare(__file__, row, ours, peer, tolerance=1e-3, difference=apart, rounds=2)


if __name__ == "__main__":
    main()
