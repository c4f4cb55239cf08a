"""Whether the images are of the kind that the config's intensity codecs are for: CT in HU, or MR without units."""

from collections.abc import Mapping
from itertools import islice

from medgen.data.body_mask import looks_like_hu
from medgen.data.cache import Channels
from medgen.data.cohort.layouts import some
from medgen.settings import Codec, Settings

LOOKED_AT = 20  # volumes
CT_LOW = -100.0  # HU: a window that begins this low is for CT
MR_LEAST = -50.0  # CT with any fat or air in it has lower values; MR has none but those of interpolation


def modality_warnings(
    settings: Settings, sources: Mapping[str, Channels], targets: Mapping[str, Channels]
) -> list[str]:
    """A sentence for each side whose codec does not fit what most of its first images are, or what some of all are.

    Args:
        sources, targets: case -> its images.
    """
    sides = (("source", settings.intensity.source, sources), ("target", settings.intensity.target, targets))
    return [text for side, intensity, images in sides if (text := _misfit(side, intensity, images))]


def _misfit(side: str, intensity: Codec, images: Mapping[str, Channels]) -> str | None:
    if intensity.kind == "labels":
        return None
    volumes = [channel.data for channels in islice(images.values(), LOOKED_AT) for channel in channels]
    window = intensity.kind == "window" and (intensity.low is None or intensity.low <= CT_LOW)
    if window and _most([bool(v.min() > MR_LEAST) for v in volumes]):
        return (
            f"intensity.{side} is a window of HU as for CT, but most {side} images hold no fat and no air in HU: use a "
            "config for MR (codec kind percentile or zscore), or correct the images' HU"
        )
    if window and (odd := [case for case, each in images.items() if any(c.data.min() > MR_LEAST for c in each)]):
        return (
            f"the {side} images of {some(odd)} hold no fat and no air in HU, unlike most: they may be stored without "
            "the offset of -1024 or be no CT; look at them, and correct or remove them"
        )
    if intensity.kind != "window" and _most([looks_like_hu(v) for v in volumes]):
        return (
            f"intensity.{side} is {intensity.kind}, as for MR without units, but most {side} images are like CT in HU: "
            "use a config for CT (codec kind window), which keeps HU"
        )
    return None


def _most(found: list[bool]) -> bool:
    return 2 * sum(found) > len(found)
