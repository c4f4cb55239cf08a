"""Read and write NIfTI files compared with nibabel, and read a DICOM series compared with SimpleITK and MONAI."""

import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.transforms import LoadImage
from scans import large_ct, save
from timing import compare, largest_difference, single, size

from medgen.io.dicom.read import read_series
from medgen.io.read import read_volume
from medgen.io.write import write_volume

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_series import write_ct  # noqa: E402

SHAPE = size((512, 512, 100), (64, 64, 16))
SIDES = " × ".join(map(str, SHAPE))


def nifti(folder: Path) -> None:
    path = save(folder / "ct.nii.gz", *large_ct(SHAPE))
    compare(
        __file__,
        f"read .nii.gz, {SIDES}, int16 to float32 (nibabel)",
        lambda: read_volume(path).data,
        lambda: nib.load(path).get_fdata(dtype=np.float32),
        tolerance=0,
        rounds=3,
    )
    volume, image = read_volume(path), nib.load(path)
    data = image.get_fdata(dtype=np.float32)
    made = {"ours": folder / "ours.nii.gz", "peer": folder / "peer.nii.gz"}

    def ours() -> Path:
        write_volume(made["ours"], volume)
        return made["ours"]

    def peer() -> Path:
        nib.save(nib.Nifti1Image(np.rint(data).astype(np.int16), image.affine), made["peer"])
        return made["peer"]

    compare(
        __file__,
        f"write .nii.gz, {SIDES}, float32 to int16 (nibabel)",
        ours,
        peer,
        tolerance=0,
        rounds=3,
        difference=lambda a, b: largest_difference(*(np.asarray(nib.load(path).dataobj) for path in (a, b))),
    )
    sizes = {who: os.path.getsize(path) for who, path in made.items()}
    single(__file__, "size of that .nii.gz, ours relative to nibabel's", sizes["ours"] / sizes["peer"], "")


def dicom(folder: Path) -> None:
    pixels, _ = large_ct(SHAPE)
    write_ct(folder, np.clip(pixels + 1024, 0, 4095).transpose(2, 1, 0), step=2.5)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        volume = read_series(folder)
        return volume.data, volume.affine

    def simpleitk() -> tuple[np.ndarray, np.ndarray]:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        matrix[:3, 3] = image.GetOrigin()
        # float32, as medgen and MONAI give
        return sitk.GetArrayFromImage(image).astype(np.float32).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ matrix

    load = LoadImage(reader="PydicomReader", image_only=True)

    def monai() -> tuple[np.ndarray, np.ndarray]:
        image = load(folder)
        return image.numpy(), image.affine.numpy()

    for name, peer in (("SimpleITK", simpleitk), ("MONAI", monai)):
        row = f"read a DICOM series, {SIDES}, uncompressed ({name})"
        compare(__file__, row, ours, peer, tolerance=1e-3, difference=apart, rounds=3)


def apart(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Largest difference in HU, both turned to RAS: readers may order axes and slices differently."""
    turned = [nib.as_closest_canonical(nib.Nifti1Image(data, affine)) for data, affine in (a, b)]
    moved = largest_difference(turned[0].affine, turned[1].affine)  # mm
    return max(moved, largest_difference(*(np.asarray(image.dataobj) for image in turned)))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        nifti(Path(name))
        dicom(Path(name) / "series")


if __name__ == "__main__":
    main()
