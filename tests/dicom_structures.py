"""RT structure sets and DICOM segmentations written for the tests, in the frame of reference of a series."""

import numpy as np
import pydicom
from dicom_series import item
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage, generate_uid

from medgen.io.read import read_volume


def dataset(sop_class, like, **elements):
    ds = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.PatientID, ds.StudyInstanceUID = like.PatientID, like.StudyInstanceUID
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def first(folder):
    return pydicom.dcmread(next(iter(sorted(folder.glob("*.dcm")))))


def to_mm(volume, points, k):
    """Voxels (i, j) of slice k → patient coordinates (LPS), mm."""
    indices = np.array([(i, j, k, 1) for i, j in points])
    return (indices @ volume.affine.T)[:, :3] * (-1, -1, 1)


def write_rtstruct(path, folder, rois, change=lambda ds: None):
    """``rois``: {name: [(slice, points in voxels)]}, in the frame of reference of the series."""
    volume, like = read_volume(folder), first(folder)
    ds = dataset(RTStructureSetStorage, like, Modality="RTSTRUCT", StructureSetLabel="plan")
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        ds.StructureSetROISequence.append(
            item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=like.FrameOfReferenceUID)
        )
        drawn = []
        for k, points in contours:
            uid = pydicom.dcmread(volume.frames[round(k)][0]).SOPInstanceUID if 0 <= k < 5 else generate_uid()
            drawn.append(
                item(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{v:.5f}" for v in to_mm(volume, points, k).ravel()],
                    ContourImageSequence=[item(ReferencedSOPClassUID=like.SOPClassUID, ReferencedSOPInstanceUID=uid)],
                )
            )
        ds.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=drawn))
    change(ds)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_segmentation(path, folder, masks, change=lambda ds: None):
    """Each slice of each mask (X, Y, Z) as one frame, as PS3.3 A.51 asks; {name: mask}."""
    volume, like = read_volume(folder), first(folder)
    x, y = (volume.affine[:3, axis] * (-1, -1, 1) for axis in (0, 1))
    right, down = np.linalg.norm(x), np.linalg.norm(y)
    ds = dataset(SegmentationStorage, like, Modality="SEG", FrameOfReferenceUID=like.FrameOfReferenceUID)
    ds.SegmentationType, ds.Rows, ds.Columns = "BINARY", volume.data.shape[1], volume.data.shape[0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    ds.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=name) for n, name in enumerate(masks, 1)]
    ds.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[f"{down:.6f}", f"{right:.6f}"])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[f"{v:.9f}" for v in (*x / right, *y / down)])],
        )
    ]
    frames, ds.PerFrameFunctionalGroupsSequence = [], []
    for number, mask in enumerate(masks.values(), 1):
        for k in range(mask.shape[2]):
            start = to_mm(volume, [(0, 0)], k)[0]
            uid = pydicom.dcmread(volume.frames[k][0]).SOPInstanceUID
            source = item(SourceImageSequence=[item(ReferencedSOPInstanceUID=uid)])
            ds.PerFrameFunctionalGroupsSequence.append(
                item(
                    SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
                    PlanePositionSequence=[item(ImagePositionPatient=[f"{v:.6f}" for v in start])],
                    DerivationImageSequence=[source],
                )
            )
            frames.append(mask[:, :, k].T)
    ds.NumberOfFrames = len(frames)
    bits = np.packbits(np.array(frames, np.uint8).ravel(), bitorder="little").tobytes()
    ds.PixelData = bits + b"\0" * (len(bits) % 2)
    ds["PixelData"].VR = "OB"
    change(ds)
    ds.save_as(path, enforce_file_format=True)
    return path
