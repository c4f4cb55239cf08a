"""Elements of the source header that a derived image omits; remaining items are complete."""

import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_series import MADE, code, errors, item, stored, write_ct, write_enhanced_ct, write_enhanced_mr
from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.uid import generate_uid

from medgen.io.deidentification.deidentify import Deidentifier
from medgen.io.dicom.derived.write import write_derived
from medgen.io.dicom.strip import DOSE, INSTANCE, PIXELS, strip
from medgen.io.read import read_volume

NUMBERS = ("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4")
SEQUENCES = sorted({row[4] for row in DicomDictionary.values() if row[0] == "SQ" and row[4]})
REFERENCES = [name for name in SEQUENCES if "Referenc" in name or "Source" in name or "Evidence" in name]


def instances(keyword="ReferencedSOPSequence"):
    one = item(ReferencedSOPClassUID=NUMBERS[0], ReferencedSOPInstanceUID=generate_uid())
    return [item(SeriesInstanceUID=generate_uid(), **{keyword: [one]})]


def reference():
    """Item with all elements of a reference (PS3.3 table 10-3 and others), and elements that are not references."""
    made = item(
        StudyInstanceUID=generate_uid(),
        ReferencedSOPClassUID=NUMBERS[0],
        ReferencedSOPInstanceUID=generate_uid(),
        ReferencedSeriesSequence=instances(),
        SourceImageSequence=[item(ReferencedSOPClassUID=NUMBERS[0], ReferencedSOPInstanceUID=generate_uid())],
        PurposeOfReferenceCodeSequence=[code("1", "x")],
        IrradiationEventUID=generate_uid(),
        ExposureDoseSequence=[item(KVP=120)],
    )
    made.private_block(0x0099, "MAKER", create=True).add_new(1, "LO", "x")
    return made


def paths(dataset, before=()):
    """Yield (path, item) for every item of every sequence."""
    for element in dataset:
        for n, inner in enumerate(element.value if element.VR == "SQ" else ()):
            place = (*before, (element.keyword, n))
            yield place, inner
            yield from paths(inner, place)


def check_whole(derived, source):
    """Check that remaining items have all elements of their source except dose and private elements; none is empty."""
    was = dict(paths(source))
    count = 0
    for place, inner in paths(derived):
        if place in was and len(was[place]):
            count += 1
            assert len(inner), place
            lost = {e.keyword for e in was[place] if not e.tag.is_private} - {e.keyword for e in inner}
            outer = place[-1][0] in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
            assert lost <= DOSE | (PIXELS | INSTANCE if outer else set()), (place, lost)
    return count


@pytest.mark.parametrize("place", ["image", "shared", "frames"])
def test_references_are_complete_or_removed(place):
    ds = Dataset()
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [Dataset()], [Dataset()]
    for holder in {
        "image": [ds],
        "shared": ds.SharedFunctionalGroupsSequence,
        "frames": ds.PerFrameFunctionalGroupsSequence,
    }[place]:
        for keyword in REFERENCES:
            setattr(holder, keyword, [reference()])
    source = pydicom.Dataset.from_json(ds.to_json())
    strip(ds, removes_contrast=False)
    assert check_whole(ds, source) > 100
    assert not any(e.tag.is_private or e.keyword in DOSE for e in ds.iterall())


def test_items_left_empty_are_removed_with_their_sequence():
    for keyword in SEQUENCES:
        ds = item(**{keyword: [item(XRayTubeCurrent=3), item(RequestAttributesSequence=[item(Exposure=1)])]})
        strip(ds, removes_contrast=False)
        assert keyword not in ds or keyword.endswith("FunctionalGroupsSequence")


def test_empty_sequences_of_the_source_are_kept():
    ds = item(AcquisitionContextSequence=[], ReferencedStudySequence=[], RequestAttributesSequence=[item(KVP=1)])
    strip(ds, removes_contrast=True)
    assert len(ds) == 3


def test_dimensions_are_removed_with_the_elements_they_point_to(tmp_path):
    write_enhanced_ct(tmp_path / "in/a.dcm", stored(4, 8, 10))
    ds = pydicom.dcmread(tmp_path / "in/a.dcm")
    organisation = ds.DimensionOrganizationSequence[0].DimensionOrganizationUID
    agent = item(
        DimensionIndexPointer=0x00189337, FunctionalGroupPointer=0x00189341, DimensionOrganizationUID=organisation
    )
    ds.DimensionIndexSequence = [ds.DimensionIndexSequence[0], agent, ds.DimensionIndexSequence[1]]
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.ContrastBolusUsageSequence = [
            item(ContrastBolusAgentNumber=1, ContrastBolusAgentAdministered="YES", ContrastBolusAgentDetected="YES")
        ]
        group.FrameContentSequence[0].DimensionIndexValues = [1, 7, k + 1]
    ds.save_as(tmp_path / "in/a.dcm")
    write_derived(tmp_path / "out", read_volume(tmp_path / "in"), MADE)
    made = pydicom.dcmread(tmp_path / "out/00000.dcm")
    assert [int(i.DimensionIndexPointer) for i in made.DimensionIndexSequence] == [0x00209056, 0x00209057]
    assert [list(g.FrameContentSequence[0].DimensionIndexValues) for g in made.PerFrameFunctionalGroupsSequence] == [
        [1, k] for k in (1, 2, 3, 4)
    ]


# With a validator ----------------------------------------------------------------------------------------


def planted(path, modality):
    """Macros of enhanced images with references, dose and contrast, in all positions that the standard allows."""
    ds = pydicom.dcmread(path)
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.IrradiationEventIdentificationSequence = [item(IrradiationEventUID=generate_uid())]
    one = item(
        ReferencedSOPClassUID=NUMBERS[0],
        ReferencedSOPInstanceUID=generate_uid(),
        PurposeOfReferenceCodeSequence=[
            item(CodeValue="121311", CodingSchemeDesignator="DCM", CodeMeaning="Localizer")
        ],
    )
    shared.ReferencedImageSequence = [one]
    evidence = [item(StudyInstanceUID=generate_uid(), ReferencedSeriesSequence=instances())]
    ds.ReferencedRawDataSequence, ds.ReferencedImageEvidenceSequence = evidence, evidence
    ds.SourceImageEvidenceSequence, ds.ReferencedPerformedProcedureStepSequence = evidence, []
    ds.RequestAttributesSequence = [item(ScheduledProcedureStepID="1", RequestedProcedureID="2")]
    ds.OriginalAttributesSequence = [
        item(
            SourceOfPreviousValues="", AttributeModificationDateTime="20200304", ModifyingSystem="x",
            ReasonForTheAttributeModification="CORRECT", ModifiedAttributesSequence=[item(Exposure="3")],
        )
    ]  # fmt: skip
    if modality == "CT":
        ds.ContrastBolusAgentSequence[0].ContrastBolusAgentNumber = 1
        shared.ContrastBolusUsageSequence = [
            item(ContrastBolusAgentNumber=1, ContrastBolusAgentAdministered="YES", ContrastBolusAgentDetected="YES")
        ]
        shared.CTExposureSequence = [
            item(
                ReferencedPathIndex=1, ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0,
                ExposureModulationType="NONE", CTDIvol=9.0,
            )
        ]  # fmt: skip
        shared.CTXRayDetailsSequence = [
            item(ReferencedPathIndex=1, KVP=120, FocalSpots=[1.0], FilterType="NONE", FilterMaterial="ALUMINUM")
        ]
        shared.CTAcquisitionTypeSequence = [
            item(ReferencedPathIndex=1, AcquisitionType="SPIRAL", TubeAngle=0.0, ConstantVolumeFlag="NO",
                 FluoroscopyFlag="NO")
        ]  # fmt: skip
        shared.CTReconstructionSequence = [
            item(ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel="B30f",
                 ConvolutionKernelGroup="SOFT_TISSUE", ReconstructionDiameter=300,
                 ReconstructionPixelSpacing=[0.8, 0.6], ReconstructionAngle=360.0, ImageFilter="x")
        ]  # fmt: skip
    ds.save_as(path)


@pytest.mark.parametrize("removes", [True, False])
@pytest.mark.parametrize("deidentified", [False, True])
@pytest.mark.parametrize("kind", ["enhanced CT", "enhanced MR", "CT"])
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_derived_image_has_no_error_that_its_source_lacks(tmp_path, kind, deidentified, removes):
    if kind == "CT":
        nested = {
            "ReferencedStudySequence": [item(ReferencedSOPClassUID=NUMBERS[0], ReferencedSOPInstanceUID=NUMBERS[1])],
            "ReferencedImageSequence": [item(ReferencedSOPClassUID=NUMBERS[0], ReferencedSOPInstanceUID=NUMBERS[1])],
            "RequestAttributesSequence": [item(ScheduledProcedureStepID="1", RequestedProcedureID="2")],
            "ReferencedPerformedProcedureStepSequence": [
                item(ReferencedSOPClassUID=NUMBERS[0], ReferencedSOPInstanceUID=NUMBERS[1])
            ],
            "StudiesContainingOtherReferencedInstancesSequence": [
                item(StudyInstanceUID=NUMBERS[1], ReferencedSeriesSequence=instances("ReferencedInstanceSequence"))
            ],
            "CTExposureSequence": [item(ReferencedPathIndex=1, ExposureTimeInms=500.0)],
        }
        write_ct(tmp_path / "in", stored(2, 8, 10), **nested)
    else:
        write = write_enhanced_ct if kind == "enhanced CT" else write_enhanced_mr
        write(tmp_path / "in/a.dcm", stored(2, 8, 10))
        planted(tmp_path / "in/a.dcm", kind[-2:])
    deidentifier = Deidentifier(b"k" * 32) if deidentified else None
    volume = read_volume(tmp_path / "in")
    write_derived(tmp_path / "out", volume, replace(MADE, removes_contrast=removes), deidentifier=deidentifier)
    assert errors(tmp_path / "out") <= errors(tmp_path / "in")
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, volume.data)


def test_offset_tables_of_compressed_pixels_are_omitted():
    ds = Dataset()
    ds.Modality, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = "CT", b"\0" * 8, b"\1" + b"\0" * 7
    strip(ds, False)
    assert "ExtendedOffsetTable" not in ds and "ExtendedOffsetTableLengths" not in ds
