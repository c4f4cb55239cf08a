"""A cohort run from files to files compared with its network alone, on scans in memory. The ratio is at most 1."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
from scans import patient, save
from small_model import small_model
from timing import compare, largest_difference, size

from medgen.checkpoint import load_model
from medgen.inference.check import checks_for
from medgen.inference.cohort.run import convert
from medgen.inference.predict import translate_case
from medgen.io.read import read_volume

STUDIES, MM = size((8, 2.5), (2, 10.0))
SHAPE = size((160, 128, 96), (40, 32, 24))
NETWORK = {"filters": size(16, 4), "levels": size(4, 2), "pointwise_features": 8}  # configs/ct_contrast_pix2pix.yaml


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        studies, numbers = Path(name) / "in", itertools.count()
        one = patient(0, SHAPE, MM)
        for n in range(STUDIES):
            save(studies / f"s{n:02}.nii.gz", one.contrast + n, one.affine)
        model = load_model(small_model(Path(name) / "model", MM, **NETWORK))
        volumes = [read_volume(path) for path in sorted(studies.iterdir())]

        def network_alone() -> list[np.ndarray]:
            return [translate_case(model, [volume])[0].data for volume in volumes]

        for what, checks, rounds in (("without verdicts", None, 3), ("with verdicts", checks_for(model), 1)):

            def cohort_run(checks=checks) -> list[Path]:
                out = Path(name) / f"out{next(numbers)}"
                results = convert(model, studies, out, checks=checks)
                assert all(result.status == "converted" for result in results)
                return [Path(result.output) for result in results]

            compare(
                __file__,
                f"{STUDIES} phantoms of {' × '.join(map(str, SHAPE))}, {what} (the network alone)",
                cohort_run,
                network_alone,
                tolerance=0.501,  # HU, because files hold integers
                difference=lambda a, b: largest_difference([read_volume(path).data for path in a], b),
                rounds=rounds,
                warm_up=rounds > 1,
            )


if __name__ == "__main__":
    main()
