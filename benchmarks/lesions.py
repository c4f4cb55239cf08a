"""Compare twenty inserted lesions with real ones, and test that the rest of the image is unchanged.

    python benchmarks/lesions.py ct OUT [--minutes 12]                     # livers of the embedded cohort
    python benchmarks/lesions.py ms OUT --data open_ms [--minutes 12]      # multiple sclerosis, FLAIR and T1

Trains a lesion GAN on the cohort, then inserts lesions with it, by cut-and-paste and by procedural texture, one lesion
per volume. Prints for each painter and image contrast:

- how many inserted lesions lie within the range of real lesions of their kind in contrast to the host, standard
  deviation, skewness and texture scale;
- how many of 20 real lesions lie within the range of the others of their kind (minimum and maximum never do);
- how many voxels outside mask and margin changed.

``OUT/PAINTER.png`` shows before, after and mask.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medgen.augmentation.dataset.read import read_case
from medgen.augmentation.lesions.insert import insert_lesion, named_painter
from medgen.augmentation.lesions.library import Lesion, Library, build_library, measure_lesions
from medgen.augmentation.lesions.placement import NoRoom
from medgen.augmentation.read import read_dataset
from medgen.config import load_settings
from medgen.io.volume import Volume, to_canonical
from medgen.training.loop import train

ROOT = Path(__file__).parent.parent
COUNT = 20
MEASURES = ("contrast", "sd", "skewness", "grain_mm")
KINDS = {
    "ct": ("ct_liver_lesion_gan", ("source",), ("cyst", "lesion_hypovascular", "lesion_hypervascular"), "liver"),
    "ms": ("mr_ms_lesion_gan", ("flair", "t1"), ("lesion",), None),
}
OTHER = 255  # value of existing lesions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    args = parser.parse_args()
    config, channels, lesions, host = KINDS[args.kind]
    cohort = args.out / "cohort"
    if not (cohort / "labels.json").exists():
        make_cohort(args.kind, cohort, args.data)
    keys = [f"data.root={cohort}", f"train.minutes={args.minutes}", "train.steps=50000", "data.validation=0.0"]
    settings = load_settings(ROOT / "configs" / f"{config}.yaml", keys)
    gan = train(settings, args.out / "run", resume=True)
    dataset = read_dataset(cohort, channels=channels)
    cases = [(images, label, case.name) for case in dataset.cases for images, label in [read_case(dataset, case)]]
    names = {name: value for name, value in dataset.labels.items() if value}
    library = build_library(cases, names, lesions=lesions, host=host)
    print(
        f"{len(library.lesions)} real lesions\n\n| painter | image | measure | real: 5th to 95th percentile | ", end=""
    )
    print("inserted: median (minimum to maximum) | within minimum and maximum of real lesions of their kind | ", end="")
    print("of 20 real lesions, within the others |\n" + "|---" * 7 + "|")
    for painter in (str(gan), "cutpaste", "procedural"):
        name = "gan" if painter == str(gan) else painter
        made, changed, drawn, pictures = insert(painter, library, cases, names, lesions, host)
        Image.fromarray(np.concatenate(pictures)).save(args.out / f"{name}.png")
        for c, channel in enumerate(channels):
            for measure in MEASURES:
                print(row(name, channel, measure, c, library, made))
        print(f"| {name} | | voxels changed outside mask and margin | 0 | {changed} | | |")
        print(
            f"| {name} | | lesions drawn for {len(made)} accepted as similar to real ones | | {drawn} | | |", flush=True
        )


def make_cohort(kind: str, cohort: Path, data: Path | None) -> None:
    if kind == "ct":
        command = [sys.executable, "-m", "medgen", "phantom", str(cohort), "--patients", "16"]
        subprocess.run(command, check=True)
        return
    assert data is not None, "ms needs --data open_ms"
    for patient in sorted(path for path in data.iterdir() if path.is_dir()):
        for folder, file in (("flair", "flair"), ("t1", "t1"), ("labels", "lesions")):
            (cohort / folder).mkdir(parents=True, exist_ok=True)
            (cohort / folder / f"{patient.name}.nii.gz").symlink_to((patient / f"{file}.nii.gz").resolve())
    (cohort / "labels.json").write_text(json.dumps({"lesion": 1}))


def insert(
    painter: str,
    library: Library,
    cases: list[tuple[list[Volume], Volume, str]],
    names: dict[str, int],
    lesions: tuple[str, ...],
    host: str | None,
) -> tuple[list[Lesion], int, int, list[np.ndarray]]:
    """Insert `COUNT` lesions, each in an unmodified case.

    Returns:
        The lesions, the number of voxels wrongly changed, the number of lesions drawn, and pictures of some lesions.
    """
    paint, draw_shape = named_painter(painter, library)
    made: list[Lesion] = []
    pictures: list[np.ndarray] = []
    changed = drawings = n = 0
    while len(made) < COUNT:
        images, label, case = cases[n % len(cases)]
        kind = lesions[n % len(lesions)]
        n += 1
        try:
            new, drawn, record = insert_lesion(
                images, label, names, library=library, kind=kind, host=host, painter=paint, rng=n, draw_shape=draw_shape
            )
        except NoRoom:
            continue
        drawings += record["drawn"]
        mask = drawn.data != label.data
        outside = ndimage.distance_transform_edt(~mask, label.spacing) > record["margin_mm"]
        changed += sum(int((a.data[outside] != b.data[outside]).sum()) for a, b in zip(images, new, strict=True))
        values = np.where(np.isin(drawn.data, [names[k] for k in lesions]) & ~mask, OTHER, drawn.data)
        found = measure_lesions(new, drawn.replaced(values), names, lesions=[kind], host=host, case=case)
        made += [max(found, key=lambda lesion: lesion.volume_ml)] if found else []
        if len(pictures) < 8:
            pictures.append(picture(images[0], new[0], drawn.replaced(mask.astype(np.uint8))))
    return made, changed, drawings, pictures


def row(painter: str, channel: str, measure: str, c: int, library: Library, made: list[Lesion]) -> str:
    real = [getattr(lesion, measure)[c] for lesion in library.lesions]
    new = [getattr(lesion, measure)[c] for lesion in made]
    ends = {k: [getattr(v, measure)[c] for v in library.of(k)] for k in {lesion.kind for lesion in library.lesions}}
    within = sum(min(ends[v.kind]) <= x <= max(ends[v.kind]) for v, x in zip(made, new, strict=True))
    others = sum(min(ends[v.kind]) < x < max(ends[v.kind]) for v, x in zip(library.lesions, real, strict=True))
    low, high = np.percentile(real, [5, 95])
    summary = f"{np.median(new):.3g} ({min(new):.3g} to {max(new):.3g})"
    counts = f"{within} of {len(new)} | {len(new) * others / len(real):.1f}"
    return f"| {painter} | {channel} | {measure} | {low:.3g} to {high:.3g} | {summary} | {counts} |"


def picture(before: Volume, after: Volume, mask: Volume) -> np.ndarray:
    """Axial slice of the lesion before, after, and after with the outline of the mask; 64 voxels wide, enlarged 3 ×."""
    a, b, m = (to_canonical(v).data for v in (before, after, mask))
    x, y, z = (int(v) for v in np.rint(np.argwhere(m).mean(0)))
    low, high = np.percentile(a[a > a.mean()], [1, 99])
    cuts = [v[:, :, z][max(0, x - 32) : x + 32, max(0, y - 32) : y + 32] for v in (a, b, m)]
    grey = [np.clip((v - low) / (high - low), 0, 1) for v in cuts[:2]]
    edge = (cuts[2] > 0) & ~ndimage.binary_erosion(cuts[2] > 0)
    marked = np.where(edge, 1.0, grey[1])
    panel = np.zeros((64, 3 * 64))
    for i, v in enumerate((*grey, marked)):
        rotated = v.T[::-1, ::-1]
        panel[: rotated.shape[0], 64 * i : 64 * i + rotated.shape[1]] = rotated
    return np.kron((255 * panel).astype(np.uint8), np.ones((3, 3), np.uint8))


if __name__ == "__main__":
    main()
