"""What a derived image takes over from its source's header: all but what is true of the source only."""

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
PIXELS = set(  # of the source's stored values, not of these; in the image itself and its functional groups
    "PixelPaddingValue PixelPaddingRangeLimit SmallestImagePixelValue LargestImagePixelValue "
    "SmallestPixelValueInSeries LargestPixelValueInSeries ModalityLUTSequence "
    "RealWorldValueMappingSequence IconImageSequence".split()
)
# Of the source's files and series; in the image itself and its functional groups, as a reference to other images has
# series of its own, and the irradiation event is a functional group of its own, which validators ask for.
INSTANCE = set(
    "IrradiationEventUID InstanceCreationDate InstanceCreationTime InstanceCreatorUID SeriesDate SeriesTime "
    "SeriesDescriptionCodeSequence "
    "DigitalSignaturesSequence MACParametersSequence ConcatenationUID SOPInstanceUIDOfConcatenationSource "
    "InConcatenationNumber ConcatenationFrameOffsetNumber InConcatenationTotalNumber DataSetTrailingPadding "
    "DerivationImageSequence DerivationCodeSequence SourceImageSequence ReferencedSeriesSequence "
    "SourceImageEvidenceSequence StudiesContainingOtherReferencedInstancesSequence".split()
)
WINDOWS = set("WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTSequence FrameVOILUTSequence".split())
CONTRAST = set(
    "ContrastFlowRate ContrastFlowDuration ContrastAdministrationProfileSequence RequestedContrastAgent "
    "ProtocolName AcquisitionProtocolDescription".split()
)  # and all that begins with ContrastBolus; protocols are named after the contrast phase


def strip(dataset: Dataset, removes_contrast: bool) -> None:
    """Take out what described the source's acquisition, pixels and files. Nested items that this leaves empty, or
    without one of their sequences, go too, as an item without its elements breaks the standard."""
    everywhere = DOSE | {"IconImageSequence"} | (CONTRAST if removes_contrast else set())
    own = PIXELS | INSTANCE
    if dataset.get("Modality") != "CT":  # another contrast has another range; HU keep their windows
        own |= WINDOWS

    def unwanted(element: DataElement, outer: bool) -> bool:
        tag, keyword = element.tag, element.keyword
        contrast = removes_contrast and keyword.startswith("ContrastBolus")
        drawn = tag.group & 0xFF00 in (0x5000, 0x6000)  # curves and overlays
        return tag.is_private or drawn or contrast or keyword in everywhere or (outer and keyword in own)

    def visit(holder: Dataset, outer: bool) -> bool:
        """Whether an item is still whole: not empty, and without a sequence of which no item is left."""
        whole = True
        for element in list(holder):
            if unwanted(element, outer):
                del holder[element.tag]
            elif element.VR == "SQ" and element.value:
                groups = element.keyword in (SHARED, PER_FRAME)
                element.value = [item for item in element.value if visit(item, groups) or groups]
                if not element.value:
                    del holder[element.tag]
                    whole = False
        return whole and len(holder) > 0

    before = _in_groups(dataset)
    visit(dataset, True)
    _drop_dimensions(dataset, before - _in_groups(dataset))


def _in_groups(dataset: Dataset) -> set[int]:
    """Tags of all that the functional groups of an image have."""
    found: set[int] = set()
    for keyword in (SHARED, PER_FRAME):
        for group in dataset.get(keyword) or ():
            found.update(int(element.tag) for element in group.iterall())
    return found


def _drop_dimensions(dataset: Dataset, gone: set[int]) -> None:
    """Take out the dimensions (PS3.3 C.7.6.17) along elements that are gone, and each frame's place along them."""
    listed = list(dataset.get("DimensionIndexSequence") or ())
    kept = [
        k
        for k, item in enumerate(listed)
        if not gone & {int(item.get(keyword) or 0) for keyword in ("DimensionIndexPointer", "FunctionalGroupPointer")}
    ]
    if len(kept) == len(listed):
        return
    dataset.DimensionIndexSequence = [listed[k] for k in kept]
    for group in dataset[PER_FRAME].value:
        for content in group.get("FrameContentSequence") or ():
            places = np.atleast_1d(content.get("DimensionIndexValues", ())).tolist()
            if len(places) == len(listed):
                content.DimensionIndexValues = [int(places[k]) for k in kept]
