"""Test that memory does not grow with the size of a cohort: resident memory of a run over many small studies.

    python benchmarks/memory.py [--studies 200] [--early 20]

Converts phantoms of one size with a small network and records the resident memory after every study. It must not exceed
that after --early studies by more than 10 %; otherwise the exit code is 1.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from small_model import small_model

from medgen.checkpoint import load_model
from medgen.inference.cohort.run import convert

SIZE, MM = (40, 36, 24), 8.0


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--early", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, memory_mib = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as name:
        studies = Path(name) / "in"
        studies.mkdir()
        for n in range(options.studies):
            scan = rng.integers(-1000, 500, SIZE).astype(np.int16)
            nib.save(nib.Nifti1Image(scan, np.diag([MM, MM, MM, 1])), studies / f"s{n:03d}.nii.gz")
        model = load_model(small_model(Path(name) / "model", MM))
        results = convert(model, studies, Path(name) / "out", done=lambda *_: memory_mib.append(resident_mib()))
    assert all(result.status == "converted" for result in results)
    early, end = memory_mib[options.early - 1], memory_mib[-1]
    print(
        f"after {options.early} studies {early:.1f} MiB, after {len(memory_mib)} {end:.1f} MiB: {end / early - 1:+.1%}"
    )
    return int(end > 1.1 * early)


if __name__ == "__main__":
    sys.exit(main())
