"""Whether the deviations of ``medgen translate --samples`` are right: stated against observed error.

    python benchmarks/calibration.py REFERENCE PREDICTION

REFERENCE and PREDICTION are folders with the same file names; PREDICTION/deviation has the standard deviations. The
first half of the patients (files, in the order of their names) gives the factor that makes 90 % intervals right; the
table and the coverage are those of the others, before and after it. Voxels: the body of the reference.
"""

import argparse
from pathlib import Path

import numpy as np

from medgen.data.body_mask import body_mask
from medgen.evaluation.calibration import calibration_table, coverage, expected_calibration_error, fitted_scale
from medgen.io.names import of_system
from medgen.io.read import find_volumes, read_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("prediction", type=Path)
    given = parser.parse_args()
    names = [path.name for path in find_volumes(given.prediction) if not of_system(path.name)]
    pairs = [voxels(given.reference / name, given.prediction, name) for name in names]
    half = len(pairs) // 2
    parts = (zip(*part, strict=True) for part in (pairs[:half], pairs[half:]))
    (fit, fit_stated), (errors, stated) = (map(np.concatenate, part) for part in parts)
    scale = fitted_scale(fit, fit_stated)
    print(f"factor {scale:.2f} from {', '.join(names[:half])}; measured on {', '.join(names[half:])}")
    for what, factor in (("as stated", 1.0), ("with the factor", scale)):
        table = calibration_table(errors, factor * stated)
        mean = expected_calibration_error(table)
        print(f"{what}: 90 % intervals cover {coverage(errors, factor * stated):.1%}; mean miscalibration {mean:.4g}")
        print("| voxels | stated | observed |")
        for row in table:
            print(f"| {row.voxels} | {row.stated:.4g} | {row.observed:.4g} |")


def voxels(reference: Path, prediction: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors and stated deviations in the body of one case."""
    truth = read_volume(reference).data
    body = body_mask(truth)
    made, deviation = (read_volume(prediction / part / name).data for part in ("", "deviation"))
    return (made - truth)[body], deviation[body]


if __name__ == "__main__":
    main()
