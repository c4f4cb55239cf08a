"""Index 20,000 DICOM headers, compared with SimpleITK's series scan: python benchmarks/bench_dicom_index.py

One run each, in processor and wall seconds. The second run of the index finds the headers in its database.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medgen.io.dicom.index import indexed
from medgen.io.dicom.series import grouped

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_series import write_ct  # noqa: E402

SERIES, SLICES = 400, 50


def simpleitk(root: Path) -> int:
    count = 0
    reader = sitk.ImageFileReader()
    for folder in sorted(root.iterdir()):
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
            for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid):
                reader.SetFileName(file)
                reader.ReadImageInformation()
                count += len({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}) > 0
    return count


def seconds(work: Callable[[], int], count: int) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    assert work() == count
    return time.process_time() - processor, time.perf_counter() - wall


def main(series: int = SERIES) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, database = Path(folder) / "in", Path(folder) / "index.sqlite"
        for n in range(series):
            write_ct(root / f"{n:03}", np.zeros((SLICES, 4, 4), int))
        count = series * SLICES

        def ours() -> int:
            found = indexed(root, database)
            assert len(grouped(found.images)) == series
            return len(found.images)

        peer, first, second = seconds(lambda: simpleitk(root), count), seconds(ours, count), seconds(ours, count)
    print("| headers | SimpleITK, s | index, s | ratio | second run, s |\n|---|---|---|---|---|")
    for kind, a, b, c in zip(("processor", "wall"), peer, first, second, strict=True):
        print(f"| {count} ({kind}) | {a:.2f} | {b:.2f} | {b / a:.2f} | {c:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SERIES)
