"""Index 2,000 DICOM headers, compared with SimpleITK's series scan: python benchmarks/bench_dicom_index.py [SERIES]

A series has 50 slices. The second row is the second run of the index, which finds the headers in its database.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from timing import compare, size

from medgen.io.dicom.index import indexed
from medgen.io.dicom.series import grouped

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_series import write_ct  # noqa: E402

SERIES, SLICES = size((40, 50), (3, 5))


def simpleitk(root: Path) -> dict[str, int]:
    """Number of series and of files whose elements were read."""
    count, series = 0, 0
    reader = sitk.ImageFileReader()
    for folder in sorted(root.iterdir()):
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
            series += 1
            for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid):
                reader.SetFileName(file)
                reader.ReadImageInformation()
                count += len({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}) > 0
    return {"series": series, "files": count}


def main(series: int = SERIES) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, database = Path(folder) / "in", Path(folder) / "index.sqlite"
        for n in range(series):
            write_ct(root / f"{n:03}", np.zeros((SLICES, 4, 4), int))

        def again() -> dict[str, int]:
            found = indexed(root, database)
            return {"series": len(grouped(found.images)), "files": len(found.images)}

        def first() -> dict[str, int]:
            database.unlink(missing_ok=True)
            return again()

        for name, ours in (("first run", first), ("second run", again)):
            row = f"index of {series * SLICES} DICOM headers, {name} (SimpleITK)"
            compare(__file__, row, ours, lambda: simpleitk(root), tolerance=0, rounds=3)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SERIES)
