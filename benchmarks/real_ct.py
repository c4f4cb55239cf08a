"""Convert the real CTs of ../shared/data and simulated contrast on one of them, and print the errors by structure.

    python benchmarks/real_ct.py MODEL OUT            # MODEL: a folder, or the name of a shipped model

Nothing is trained or chosen here. OUT gets the conversions, pictures (``CASE.png``: input, output, difference) and
``real_ct.json``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from medgen.io.read import read_volume
from medgen.io.volume import to_canonical

METAL = 1000  # HU
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def medgen(*arguments: str | Path) -> None:
    code = subprocess.run([sys.executable, "-m", "medgen", *map(str, arguments)], check=False).returncode
    if code not in (0, 1, 3):
        print(f"medgen {arguments[0]} ended with exit code {code}", flush=True)


def load(path: Path) -> np.ndarray:
    return to_canonical(read_volume(path)).data.astype(np.float32)


def changes(before: np.ndarray, after: np.ndarray, region: np.ndarray) -> dict[str, float]:
    change = np.abs(after - before)[region]
    return {"mean": round(float(change.mean()), 2), "p99.9": round(float(np.percentile(change, 99.9)), 1)}


def native(before: np.ndarray, after: np.ndarray) -> dict[str, dict[str, float]]:
    """Changes of a scan without contrast medium, which should be none."""
    return {
        "soft tissue": changes(before, after, (before > -150) & (before < 150)),
        "above 200 HU": changes(before, after, before > 200),
        "lung": changes(before, after, (before < -600) & (before > -990)),
    }


def picture(
    before: np.ndarray, after: np.ndarray, file: Path, places: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
) -> None:
    """Axial slices: input, output (-160 to 400 HU) and difference (-300 to 300 HU)."""

    def grey(x: np.ndarray, low: float, high: float) -> np.ndarray:
        return (np.clip((x - low) / (high - low), 0, 1) * 255).astype(np.uint8)

    columns = []
    for k in (int(p * before.shape[2]) for p in places):
        rows = [
            grey(before[..., k], -160, 400),
            grey(after[..., k], -160, 400),
            grey((after - before)[..., k], -300, 300),
        ]
        columns.append(np.vstack([np.flipud(row.T) for row in rows]))
    Image.fromarray(np.hstack(columns)).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    out, ct = arguments.out, DATA / "ct"
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {}

    source = ct / "aorta_cta" / "ct.nii.gz"
    medgen("translate", arguments.model, source, out / "aorta_cta", "--overwrite")
    before, after = load(source), load(out / "aorta_cta" / "ct.nii.gz")
    cta: dict[str, object] = {}
    for name in ("aorta", "aorta_true_lumen", "aorta_false_lumen", "vertebrae_T12"):
        mask = load(ct / "aorta_cta" / f"{name}.nii.gz") > 0
        cta[name] = [round(float(v[mask].mean()), 1) for v in (before, after)]
        if (before[mask] >= METAL).any():  # the aorta holds a stent graft, which must stay
            cta[f"{name} without metal"] = [round(float(v[mask & (before < METAL)].mean()), 1) for v in (before, after)]
    cta["lung"] = changes(before, after, (before < -600) & (before > -990))
    found["aorta_cta"] = cta
    picture(before, after, out / "aorta_cta.png")

    source = ct / "abdomen_noncontrast" / "ct.nii.gz"
    medgen("translate", arguments.model, source, out / "abdomen", "--overwrite")
    before, after = load(source), load(out / "abdomen" / "ct.nii.gz")
    found["abdomen_noncontrast"] = native(before, after)
    picture(before, after, out / "abdomen.png")

    medgen("translate", arguments.model, DATA / "lidc_dicom", out / "lidc", "--format", "nifti", "--overwrite")
    files = sorted((out / "lidc").glob("*.nii.gz"))
    if files:
        before, after = load(DATA / "lidc_dicom"), load(files[0])
        found["lidc"] = native(before, after)
        picture(before, after, out / "lidc.png")

    small = ct / "abdomen_noncontrast" / "ct_small.nii.gz"
    medgen("simulate-contrast", small, small.with_name("organs_small.nii.gz"), out / "simulated", "--overwrite")
    medgen("translate", arguments.model, out / "simulated" / "source", out / "simulated_converted", "--overwrite")
    names = json.loads((out / "simulated" / "labels.json").read_text())
    simulated: dict[str, object] = {}
    for file in sorted((out / "simulated" / "source").glob("*.nii.gz")):
        x, y, truth = (
            load(out / part / file.name) for part in ("simulated/source", "simulated_converted", "simulated/target")
        )
        labels = np.asarray(nib.as_closest_canonical(nib.load(out / "simulated" / "labels" / file.name)).dataobj)
        enhancing = (x - truth) > 5
        worst = {
            n: round(float((y - truth)[labels == v].mean()), 1) for n, v in names.items() if (labels == v).sum() > 30
        }
        simulated[file.name.removesuffix(".nii.gz")] = {
            "MAE in enhancing voxels": [round(float(np.abs(v - truth)[enhancing].mean()), 1) for v in (x, y)],
            "largest organ errors": dict(sorted(worst.items(), key=lambda item: -abs(item[1]))[:6]),
        }
        picture(x, y, out / f"simulated_{file.name.split('_')[-1].removesuffix('.nii.gz')}.png", (0.2, 0.5, 0.8))
    found["simulated"] = simulated
    (out / "real_ct.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
