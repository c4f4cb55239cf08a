"""Remove header elements that apply only to the source image from the header of a derived image."""

import numpy as np
from pydicom import DataElement, Dataset

from medgen.io.dicom.pixels import PER_FRAME, SHARED

DOSE = set(
    "ExposureTime XRayTubeCurrent Exposure ExposureInuAs ExposureTimeInuS XRayTubeCurrentInuA ExposureTimeInms "
    "XRayTubeCurrentInmA ExposureInmAs CTExposureSequence CTDIvol CTDIPhantomTypeCodeSequence ExposureModulationType "
    "EstimatedDoseSaving ExposureDoseSequence GeneratorPower ImageAndFluoroscopyAreaDoseProduct "
    "EntranceDose EntranceDoseInmGy OrganDose ExposedArea CommentsOnRadiationDose WaterEquivalentDiameter "
    "WaterEquivalentDiameterCalculationMethodCodeSequence SpecificAbsorptionRateSequence SpecificAbsorptionRateValue "
    "SpecificAbsorptionRateDefinition SAR dBdt GradientOutput GradientOutputType".split()
)
PIXELS = set(  # describe the stored values of the source; removed from the image itself and its functional groups
    "PixelPaddingValue PixelPaddingRangeLimit SmallestImagePixelValue LargestImagePixelValue "
    "SmallestPixelValueInSeries LargestPixelValueInSeries ModalityLUTSequence "
    "RealWorldValueMappingSequence IconImageSequence ExtendedOffsetTable ExtendedOffsetTableLengths".split()
)
# Describe the files and series of the source. Removed only from the image itself and directly in functional groups:
# nested references to other images have series elements of their own, and validators require the IrradiationEventUID
# that is nested in its functional group.
INSTANCE = set(
    "LengthToEnd IrradiationEventUID InstanceCreationDate InstanceCreationTime InstanceCreatorUID SeriesDate "
    "SeriesTime SeriesDescriptionCodeSequence "
    "DigitalSignaturesSequence MACParametersSequence ConcatenationUID SOPInstanceUIDOfConcatenationSource "
    "InConcatenationNumber ConcatenationFrameOffsetNumber InConcatenationTotalNumber DataSetTrailingPadding "
    "DerivationImageSequence DerivationCodeSequence SourceImageSequence ReferencedSeriesSequence "
    "SourceImageEvidenceSequence StudiesContainingOtherReferencedInstancesSequence".split()
)
WINDOWS = set("WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTSequence FrameVOILUTSequence".split())
CONTRAST = set(
    "ContrastFlowRate ContrastFlowDuration ContrastAdministrationProfileSequence RequestedContrastAgent "
    "ProtocolName AcquisitionProtocolDescription".split()
)  # plus all elements whose keyword starts with ContrastBolus; protocol names contain the contrast phase


def strip(dataset: Dataset, removes_contrast: bool) -> None:
    """Remove the elements that describe the acquisition, pixels and files of the source, in place.

    Nested items that become empty, or lose one of their sequences, are removed too, because such items would be
    invalid.

    Args:
        removes_contrast: whether the derivation removes contrast agent, so that contrast elements are removed too.
    """
    any_level = DOSE | {"IconImageSequence"} | (CONTRAST if removes_contrast else set())
    top_level = PIXELS | INSTANCE
    if dataset.get("Modality") != "CT":  # another contrast has another value range; windows in HU stay valid
        top_level |= WINDOWS

    def unwanted(element: DataElement, at_top: bool) -> bool:
        tag, keyword = element.tag, element.keyword
        contrast = removes_contrast and keyword.startswith("ContrastBolus")
        graphics = tag.group & 0xFF00 in (0x5000, 0x6000)  # curves and overlays
        return tag.is_private or graphics or contrast or keyword in any_level or (at_top and keyword in top_level)

    def visit(container: Dataset, at_top: bool) -> bool:
        """Clean an item; return whether it is still valid: not empty, and no sequence of it was removed."""
        valid = True
        for element in list(container):
            if unwanted(element, at_top):
                del container[element.tag]
            elif element.VR == "SQ" and element.value:
                functional_group = element.keyword in (SHARED, PER_FRAME)
                element.value = [item for item in element.value if visit(item, functional_group) or functional_group]
                if not element.value:
                    del container[element.tag]
                    valid = False
        return valid and len(container) > 0

    before = _in_groups(dataset)
    visit(dataset, True)
    _drop_dimensions(dataset, before - _in_groups(dataset))


def _in_groups(dataset: Dataset) -> set[int]:
    """Return the tags of all elements in the functional groups of an image."""
    found: set[int] = set()
    for keyword in (SHARED, PER_FRAME):
        for group in dataset.get(keyword) or ():
            found.update(int(element.tag) for element in group.iterall())
    return found


def _drop_dimensions(dataset: Dataset, removed: set[int]) -> None:
    """Remove the dimensions (PS3.3 C.7.6.17) of removed elements, and the index values of the frames along them."""
    dimensions = list(dataset.get("DimensionIndexSequence") or ())
    kept = [
        k
        for k, item in enumerate(dimensions)
        if not removed
        & {int(item.get(keyword) or 0) for keyword in ("DimensionIndexPointer", "FunctionalGroupPointer")}
    ]
    if len(kept) == len(dimensions):
        return
    dataset.DimensionIndexSequence = [dimensions[k] for k in kept]
    for group in dataset[PER_FRAME].value:
        for content in group.get("FrameContentSequence") or ():
            index_values = np.atleast_1d(content.get("DimensionIndexValues", ())).tolist()
            if len(index_values) == len(dimensions):
                content.DimensionIndexValues = [int(index_values[k]) for k in kept]
