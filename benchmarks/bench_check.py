"""The quality check of one CT compared with its earlier version, from the repository's history."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from peers.earlier import BEFORE, Earlier
from scans import large_ct
from timing import compare, size

from medgen.io.volume import Volume
from medgen.qa.limits import load_thresholds
from medgen.qa.run import Checks, judge

SHAPE = size((512, 512, 300), (96, 96, 56))
PROGRAM = """
import numpy as np
from pathlib import Path
from medgen.io.volume import Volume
from medgen.qa.limits import load_thresholds
from medgen.qa.run import Checks, judge
folder = Path(sys.argv[1])
affine = np.load(folder / "affine.npy")
volumes = {role: Volume(np.load(folder / f"{role}.npy"), affine) for role in ("source", "prediction")}
checks = Checks(load_thresholds("ct_contrast"))
def answer():
    return judge(volumes, {}, checks)[0]
"""


def images(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A CT, and a conversion of it in which bright blood falls and one tumour of 24 mm is new; saved for the peer."""
    scan, affine = large_ct(SHAPE)
    source = scan.astype(np.float32)
    made = source.copy()
    blood = (made > 110) & (made < 250)
    made[blood] = 0.3 * made[blood] + 35
    spacing = np.abs(np.diag(affine))[:3]
    centre = np.array(SHAPE) * (0.6, 0.5, 0.5) * spacing
    x, y, z = (np.arange(n) * s for n, s in zip(SHAPE, spacing, strict=True))
    apart = (x - centre[0])[:, None, None] ** 2 + (y - centre[1])[:, None] ** 2 + (z - centre[2]) ** 2
    made[apart < 12**2] -= 60
    found = {"source": source, "prediction": made}
    for role, data in found.items():
        np.save(folder / f"{role}.npy", data)
    np.save(folder / "affine.npy", affine)
    return found, affine


def verdicts_differ(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Number of differences: the status, and every kind of finding with its status."""
    kinds = [sorted((finding["fault"], finding["status"]) for finding in one["findings"]) for one in (a, b)]
    return float((a["status"] != b["status"]) + len(set(map(tuple, kinds[0])) ^ set(map(tuple, kinds[1]))))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, affine = images(folder)
        volumes = {role: Volume(image, affine) for role, image in data.items()}
        checks = Checks(load_thresholds("ct_contrast"))
        with Earlier(folder / "earlier", PROGRAM, folder) as earlier:
            compare(
                __file__,
                f"quality check of a CT of {' × '.join(map(str, SHAPE))} (medgen {BEFORE}; difference: verdicts)",
                lambda: judge(volumes, {}, checks)[0],
                earlier.call,
                tolerance=0,
                difference=verdicts_differ,
                rounds=2,
                warm_up=False,
            )


if __name__ == "__main__":
    main()
