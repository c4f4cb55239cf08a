"""Test the style transfer of a SPADE model with two reference images: python benchmarks/style.py MODEL DATA OUT

DATA contains ``images`` and ``labels``. The references are the images with the darkest and the brightest labelled
voxels relative to their intensity range. Prints the brightness of the labelled voxels and their contrast to the rest,
for both references and for images synthesised in their styles from other label maps; and whether the same seed gives
the same files.
"""

import argparse
from pathlib import Path

import numpy as np

from medgen.checkpoint import load_model
from medgen.inference.synthesize import synthesize
from medgen.io.hashes import sha256
from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume

MOST = 20  # maximum number of label maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    by_name = {case_name(path): path for path in find_volumes(args.data / "labels")}
    images = {case_name(path): path for path in find_volumes(args.data / "images") if case_name(path) in by_name}
    measures = {name: measure(images[name], by_name[name]) for name in images}
    ordered = sorted(measures, key=lambda name: measures[name][0])
    references = {"dark": ordered[0], "bright": ordered[-1]}
    chosen = ordered[1:-1][:: max(1, len(ordered) // MOST)][:MOST]
    labels = args.out / "chosen"
    labels.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        link = labels / by_name[name].name
        link.unlink(missing_ok=True)
        link.symlink_to(by_name[name].resolve())
    print("| image | brightness of labelled voxels, 0 to 1 | contrast to the rest |\n|---|---|---|")
    made: dict[str, np.ndarray] = {}
    hashes = []
    for kind, name in references.items():
        print(f"| {kind} reference | {measures[name][0]:.3f} | {measures[name][1]:+.3f} |")
        for run in ("a", "b"):
            out = args.out / f"{kind}_{run}"
            synthesize(model, labels, out, images=args.data / "images", style=images[name], seed=7)
            files = find_volumes(out / "images")
            hashes.append(sha256(files))
        made[kind] = np.array([measure(path, out / "labels" / path.name) for path in files])
        mean, sd = made[kind].mean(0), made[kind].std(0)
        print(f"| {len(files)} images in its style | {mean[0]:.3f} ± {sd[0]:.3f} | {mean[1]:+.3f} ± {sd[1]:.3f} |")
    brighter = int((made["bright"][:, 0] > made["dark"][:, 0]).sum())
    print(f"\nbrighter in the bright style: {brighter} of {len(chosen)}")
    print(f"same files with the same seed: {hashes[0] == hashes[1] and hashes[2] == hashes[3]}")


def measure(image: Path, labels: Path) -> tuple[float, float]:
    """Mean of the labelled voxels and its difference from the others, scaled by the image's percentiles."""
    data, inside = read_volume(image).data, read_volume(labels).data > 0
    low, high = np.percentile(data, [0.5, 99.5])
    code = np.clip((data - low) / (high - low), 0, 1)
    return float(code[inside].mean()), float(code[inside].mean() - code[~inside].mean())


if __name__ == "__main__":
    main()
