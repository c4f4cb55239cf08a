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
    sides = (("source", settings.codec.source, sources), ("target", settings.codec.target, targets))
    return [text for side, codec, images in sides if (text := _misfit(side, codec, images))]


def _misfit(side: str, codec: Codec, images: Mapping[str, Channels]) -> str | None:
    if codec.kind == "labels":
        return None
    volumes = [channel.data for channels in islice(images.values(), LOOKED_AT) for channel in channels]
    window = codec.kind == "window" and (codec.low is None or codec.low <= CT_LOW)
    if window and _most([bool(v.min() > MR_LEAST) for v in volumes]):
        return (
            f"codec.{side} is a window of HU as for CT, but most {side} images hold no fat and no air in HU: use a "
            "config for MR (codec kind percentile or zscore), or correct the images' HU"
        )
    if window and (odd := [case for case, each in images.items() if any(c.data.min() > MR_LEAST for c in each)]):
        return (
            f"the {side} images of {some(odd)} hold no fat and no air in HU, unlike most: they may be stored without "
            "the offset of -1024 or be no CT; look at them, and correct or remove them"
        )
    if codec.kind != "window" and _most([looks_like_hu(v) for v in volumes]):
        return (
            f"codec.{side} is {codec.kind}, as for MR without units, but most {side} images look like CT in HU: use a "
            "config for CT (codec kind window), which keeps HU"
        )
    return None


def _most(found: list[bool]) -> bool:
    return 2 * sum(found) > len(found)
