"""Benefit of synthetic SPADE cases for a segmenter of the Decathlon's hippocampi.

    python benchmarks/hippocampus_spade.py DATA OUT                            # 180 cases, synthetic only
    python benchmarks/hippocampus_spade.py DATA OUT --few [options of the pipeline]      # 8 cases, five draws

DATA contains ``images`` and ``labels`` (1 anterior, 2 posterior). The first 40 cases in the order of a hash of their
file names are always the test cases; the other 180 are used to train a generator and segmenters
(pipelines/augment_segmentation.py).
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTED = 40
SPADE = f"spade={ROOT / 'configs' / 'hippocampus_spade.yaml'}"
LABELS = {"background": 0, "label_1": 1, "label_2": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--few", action="store_true")
    args, options = parser.parse_known_args()
    write_dataset(args.data, args.out / "dataset")
    arguments = [args.out / "dataset", args.out / ("few" if args.few else "all"), "train.steps=50000"]
    if not any(option.startswith("--generator") and "minutes" not in option for option in options):
        arguments += ["--generator", SPADE]
    arguments += ["--tolerance-mm", 1, "--extractor", "radiomics", "--steps", 50_000]
    arguments += ["--cases", 8, "--draws", 5, "--per-case", 8] if args.few else ["--arms", "classical", "alone"]
    command = [sys.executable, ROOT / "pipelines" / "augment_segmentation.py", *arguments, *options]
    return subprocess.run([str(word) for word in command], check=False).returncode


def write_dataset(data: Path, out: Path) -> None:
    """Write the split in the nnU-Net raw layout, with links."""
    names = [path.name for path in (data / "labels").glob("*.nii.gz")]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for i, name in enumerate(names):
        part = "Ts" if i < TESTED else "Tr"
        stem = name.removesuffix(".nii.gz")
        link(out / f"images{part}" / f"{stem}_0000.nii.gz", data / "images" / name)
        link(out / f"labels{part}" / name, data / "labels" / name)
    about = {"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (out / "dataset.json").write_text(json.dumps(about | {"numTraining": len(names) - TESTED}))


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.symlink_to(target.resolve())


if __name__ == "__main__":
    sys.exit(main())
