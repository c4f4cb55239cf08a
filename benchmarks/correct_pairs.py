"""The quality check on correct pairs: how near do its measures come to their limits, without labels and truth?

    python benchmarks/correct_pairs.py FOLDER [FOLDER ...]

A FOLDER with source/ and target/, as ``medgen phantom`` writes it, is checked pair by pair with the limits ct_contrast.
Any other FOLDER holds images of one patient on one grid, such as T1, T2 and FLAIR; each is taken as the translation of
each other one, with the limits general. Label maps by name (lesions, mask, label, seg) are left out. Prints the verdict
of each pair, its reasons, and the measures of missing parts.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import to_canonical
from medgen.qa.check import check_case
from medgen.qa.limits import load_thresholds

MEASURES = ("flat_ml", "lost_tissue_ml", "misplaced_slices", "mind_distance")
LABELS = ("lesion", "mask", "label", "seg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    count: dict[str, int] = {}
    for name, source, output, limits in (pair for f in parser.parse_args().folders for pair in pairs(f)):
        x, y = (to_canonical(read_volume(path)) for path in (source, output))
        verdict = check_case(x.data, y.data, x.spacing, thresholds=load_thresholds(limits))
        count[verdict.status] = count.get(verdict.status, 0) + 1
        values = "  ".join(f"{key} {verdict.values[key]:.3g}" for key in MEASURES if key in verdict.values)
        print(
            f"{name}: {verdict.status}  {values}", *(f"  {reason}" for reason in verdict.reasons), sep="\n", flush=True
        )
    print(", ".join(f"{n} {status}" for status, n in count.items()))


def pairs(folder: Path) -> Iterator[tuple[str, Path, Path, str]]:
    """(name, source, output, limits) of each pair of a folder."""
    if (folder / "source").is_dir():
        for source in find_volumes(folder / "source"):
            yield case_name(source), source, folder / "target" / source.name, "ct_contrast"
        return
    images = [path for path in find_volumes(folder) if not any(word in path.name.lower() for word in LABELS)]
    for source in images:
        for output in (path for path in images if path != source):
            yield f"{folder.name}, {case_name(source)} as {case_name(output)}", source, output, "general"


if __name__ == "__main__":
    main()
