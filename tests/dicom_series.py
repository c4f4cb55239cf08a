"""DICOM series written for the tests, with every element their IOD asks for, and what other programs say of them."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from medgen.io.dicom.derived.references import Derivation

LIDC = Path(__file__).parents[2] / "shared/data/lidc_dicom"
MADE = Derivation("pix2pix run/best", "c0ffee" * 10 + "abcd", "noncontrast", "0.1.0", removes_contrast=True)
AXIAL = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", (12, -25, 40), degrees=True).as_matrix()
SYNTAXES = {"JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless, "RLE": RLELossless}
DCMTK = {
    ExplicitVRBigEndian: ("dcmconv", "--write-xfer-big"),
    JPEGLosslessSV1: ("dcmcjpeg", "--encode-lossless-sv1", "--uid-never"),
    JPEGLossless: ("dcmcjpeg", "--encode-lossless", "--uid-never"),
}
RECODED = {"deflated": DeflatedExplicitVRLittleEndian}
if shutil.which("dcmcjpeg"):  # Debian's dcmtk
    RECODED |= {"big endian": ExplicitVRBigEndian, "JPEG lossless SV1": JPEGLosslessSV1, "JPEG lossless": JPEGLossless}
START = np.array([-100.5, 20.25, 30])


def stored(slices=5, rows=64, columns=68, low=0, high=4000):
    return np.random.default_rng(1).integers(low, high, (slices, rows, columns))


def item(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def code(value, meaning):
    return item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)


def common(sop_class, pixels, kind, uid):
    ds = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = sop_class, generate_uid(), uid
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = uid[:60] + ".1", uid[:60] + ".2"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "p1", "19500102", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20200304", "101112", "7", "a1"
    ds.StudyDescription, ds.ReferringPhysicianName = "Abdomen", ""
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "CT", 3, "portal"
    ds.Manufacturer, ds.ManufacturerModelName = "Scanner Works", "S1"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "12", "v2"
    ds.ContrastBolusAgent, ds.ContrastBolusVolume = "Iohexol", "90"
    ds.PatientPosition, ds.PositionReferenceIndicator = "HFS", ""
    ds.AcquisitionNumber, ds.InstanceNumber = 1, 1
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDate = "20200304", "101213", "20200304"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 8 * np.dtype(kind).itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(np.dtype(kind).kind == "i")
    ds.PixelData = pixels.astype(kind).tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def write_ct(folder, pixels, axes=AXIAL, *, kind="u2", syntax=None, step=2.5, rescale=lambda k: (1, -1024), **tags):
    """Single-frame CT, one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid()
    for k, plane in enumerate(pixels):
        ds = common(CTImageStorage, plane, kind, uid)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.InstanceNumber = len(pixels) - k
        ds.ImagePositionPatient = [f"{x:.8f}"[:16] for x in START + k * step * axes[:, 2]]
        ds.ImageOrientationPatient = [f"{x:.12f}"[:16] for x in axes[:, :2].T.ravel()]
        ds.PixelSpacing, ds.SliceThickness = ["0.8", "0.6"], "2.5"
        ds.KVP, ds.XRayTubeCurrent, ds.Exposure, ds.CTDIvol = "120", "200", "90", 9.5
        ds.RescaleSlope, ds.RescaleIntercept = (str(value) for value in rescale(k))
        ds.RescaleType = "HU"
        ds.WindowCenter, ds.WindowWidth = "40", "400"
        for keyword, value in tags.items():
            setattr(ds, keyword, value(k) if callable(value) else value)
        if syntax is not None:
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(folder / f"{k:03}.dcm", enforce_file_format=True)
    return uid


def write_enhanced_ct(path, pixels, axes=AXIAL, *, kind="u2", step=2.5, order=None, stacks=1, rescale=(1, -1024)):
    """Enhanced multi-frame CT: all slices in one file, in any order, perhaps of several stacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(pixels)) if order is None else np.asarray(order)
    uid = generate_uid()
    ds = common(EnhancedCTImageStorage, pixels[order], kind, uid)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(pixels)
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique, ds.AcquisitionDateTime = "NONE", "20200304101112"
    ds.ContentQualification, ds.BurnedInAnnotation, ds.LossyImageCompression = "PRODUCT", "NO", "00"
    ds.PresentationLUTShape, ds.AcquisitionDuration = "IDENTITY", 2.0
    del ds.ContrastBolusAgent, ds.ContrastBolusVolume
    ds.ContrastBolusAgentSequence = [
        item(
            CodeValue="44588005", CodingSchemeDesignator="SCT", CodeMeaning="Iodine", ContrastBolusAgentNumber=1,
            ContrastBolusVolume="90", ContrastBolusIngredientOpaque="YES",
            ContrastBolusAdministrationRouteSequence=[code("47625008", "Intravenous route")],
            ContrastBolusIngredientCodeSequence=[code("44588005", "Iodine")],
        )
    ]  # fmt: skip
    organisation = generate_uid()
    ds.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    ds.DimensionIndexSequence = [
        item(DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111, DimensionOrganizationUID=organisation)
        for pointer in (0x00209056, 0x00209057)
    ]
    kinds = item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME", VolumeBasedCalculationTechnique="NONE",
    )  # fmt: skip
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=["0.8", "0.6"], SliceThickness="2.5")],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[f"{x:.12f}"[:16] for x in axes[:, :2].T.ravel()])],
        CTImageFrameTypeSequence=[kinds],
        FrameAnatomySequence=[
            item(FrameLaterality="U", AnatomicRegionSequence=[code("818983003", "Abdomen")])
        ],
        FrameVOILUTSequence=[item(WindowCenter="40", WindowWidth="400")],
    )  # fmt: skip
    ds.SharedFunctionalGroupsSequence = [shared]
    height = len(pixels) // stacks
    frames = []
    for k in (int(k) for k in order):
        slope, intercept = rescale(k) if callable(rescale) else rescale
        stack, place = divmod(k, height)
        position = START + place * step * axes[:, 2]
        frames.append(
            item(
                FrameContentSequence=[
                    item(
                        StackID=str(stack + 1), InStackPositionNumber=place + 1,
                        DimensionIndexValues=[stack + 1, place + 1],
                        FrameAcquisitionNumber=1, FrameReferenceDateTime="20200304101112",
                        FrameAcquisitionDateTime="20200304101112", FrameAcquisitionDuration=100.0,
                    )
                ],
                PlanePositionSequence=[item(ImagePositionPatient=[f"{x:.8f}"[:16] for x in position])],
                PixelValueTransformationSequence=[
                    item(RescaleSlope=str(slope), RescaleIntercept=str(intercept), RescaleType="HU")
                ],
            )
        )  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.save_as(path, enforce_file_format=True)
    return uid


def write_enhanced_mr(path, pixels, axes=AXIAL, *, echoes=1, **how):
    """Enhanced multi-frame MR: the echoes of every slice, one after the other, at the same places."""
    uid = write_enhanced_ct(path, pixels, axes, rescale=(0.5, 0), **how)
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.Modality, ds.ImageType, ds.PatientIdentityRemoved = "MR", ["ORIGINAL", "PRIMARY", "T2", "NONE"], "NO"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "T2"
    shared, height = ds.SharedFunctionalGroupsSequence[0], len(pixels) // echoes
    kinds = shared.CTImageFrameTypeSequence[0]
    kinds.FrameType, kinds.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "T2", "NONE"], "MAGNITUDE"
    kinds.AcquisitionContrast = "T2"
    del shared.CTImageFrameTypeSequence
    shared.MRImageFrameTypeSequence = [kinds]
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.MREchoSequence = [item(EffectiveEchoTime=20.0 + 60 * (k // height))]
        group.PixelValueTransformationSequence[0].RescaleType = "US"
        if echoes > 1:
            position = START + k % height * 2.5 * axes[:, 2]
            group.PlanePositionSequence[0].ImagePositionPatient = [f"{x:.8f}"[:16] for x in position]
    ds.save_as(path, enforce_file_format=True)
    return uid


def recode(folder, syntax):
    """Every file of a folder in another transfer syntax: by DCMTK what pydicom does not encode."""
    for path in folder.iterdir():
        if syntax in DCMTK:
            subprocess.run([*DCMTK[syntax], str(path), str(path)], check=True)
        else:
            ds = pydicom.dcmread(path)
            ds.file_meta.TransferSyntaxUID = syntax
            ds.save_as(path, enforce_file_format=True)


def headers(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def errors(folder):
    """What dciodvfy calls an error, over all files."""
    found = set()
    for path in sorted(folder.iterdir()):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        found |= {line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")}
    return found


def by_simpleitk(folder):
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(files if len(files) > 1 else files[0])
    grid = (image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    return sitk.GetArrayFromImage(image), grid
