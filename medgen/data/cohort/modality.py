"""Check that images match the modality of the config's intensity codecs: CT in HU, or MR without units."""

from collections.abc import Mapping
from itertools import islice

import numpy as np

from medgen.data.body_mask import looks_like_hu
from medgen.data.cache import Channels
from medgen.data.cohort.layouts import shortened_list
from medgen.data.intensity import Range
from medgen.settings import Codec, Settings

Images = Mapping[str, Channels]  # case → its images
MAX_SAMPLES, MOST_LABELS = 100_000, 16
CHECKED_CASES = 20  # cases checked on each side
CT_LOW = -100.0  # HU: a window that starts at or below this value is for CT
MR_MIN = -50.0  # CT with fat or air has lower values; MR has none, except from interpolation


def modality_warnings(settings: Settings, sources: Images, targets: Images) -> list[str]:
    """Warn about each side whose codec does not match most of its first images or, for CT windows, some of all images.

    Args:
        sources, targets: case → its images.
    """
    sides = _sides(settings, sources, targets)
    return [text for side, intensity, images in sides if (text := _misfit(side, intensity, images))]


def mask_warnings(settings: Settings, sources: Images, targets: Images) -> list[str]:
    """Warn about images without the masked background that the other images have; see `data.intensity.fit_range`.

    Args:
        sources, targets: case → its images.
    """
    masked: dict[bool, list[str]] = {True: [], False: []}
    for side, intensity, images in _sides(settings, sources, targets):
        if intensity.kind not in ("window", "labels") and intensity.background is not None:
            for case, channels in images.items():
                codes = [channel.range for channel in channels if isinstance(channel.range, Range)]
                masked[all(code.background is not None for code in codes)].append(f"{case} ({side})")
    if not (masked[True] and masked[False]):
        return []
    return [
        f"{len(masked[False])} images have no masked background, unlike {len(masked[True])} others: "
        f"{shortened_list(masked[False])}; mask all images of the cohort, or none"
    ]


def _sides(settings: Settings, sources: Images, targets: Images) -> tuple[tuple[str, Codec, Images], ...]:
    """Name, codec and images of the source and of the target."""
    return ("source", settings.intensity.source, sources), ("target", settings.intensity.target, targets)


def _misfit(side: str, intensity: Codec, images: Images) -> str | None:
    if intensity.kind == "labels":
        return None
    volumes = [channel.data for channels in islice(images.values(), CHECKED_CASES) for channel in channels]
    if _most([lacks_air(intensity, v) for v in volumes]):
        return (
            f"intensity.{side} is a CT window in HU, but most {side} images contain no fat or air in HU; use a config "
            "for MR (intensity kind percentile or zscore), or convert the images to HU"
        )
    if unusual := [case for case, each in images.items() if any(lacks_air(intensity, c.data) for c in each)]:
        return (
            f"the {side} images of {shortened_list(unusual)} contain no fat or air in HU, unlike most others: they "
            "may lack the offset of -1024 or may not be CT; inspect them, and correct or remove them"
        )
    if intensity.kind != "window" and _most([looks_like_hu(v) for v in volumes]):
        return (
            f"intensity.{side} is {intensity.kind}, which is for MR without units, but most {side} images look like CT "
            "in HU; use a config for CT (intensity kind window), which keeps HU"
        )
    return None


def label_map_warnings(settings: Settings, sources: Images, targets: Images) -> list[str]:
    """Warn about images that look like label maps, where the config expects scans.

    Args:
        sources, targets: case → its images.
    """
    found = {
        side: [case for case, channels in images.items() if any(_few_values(channel.data) for channel in channels)]
        for side, intensity, images in _sides(settings, sources, targets)
        if intensity.kind != "labels"
    }
    return [
        f"the {side} images of {shortened_list(cases)} have so few values that they look like label maps; this method "
        "needs scans: check the file names"
        for side, cases in found.items()
        if cases
    ]


def _few_values(data: np.ndarray) -> bool:
    """Whether a few values, apart from the most frequent one, cover most voxels, also after interpolation."""
    step = max(1, int(np.cbrt(data.size / MAX_SAMPLES)))  # not ravelled, which would read a whole file of the cache
    _, counts = np.unique(data[::step, ::step, ::step], return_counts=True)
    counts = np.sort(counts)[-2::-1]
    return bool(counts.size) and counts[:MOST_LABELS].sum() >= 0.9 * counts.sum()


def lacks_air(intensity: Codec, data: np.ndarray) -> bool:
    """Whether an image for a CT window has neither fat nor air, as a CT that lacks its offset, or MR."""
    window = intensity.kind == "window" and (intensity.low is None or intensity.low <= CT_LOW)
    return window and bool(data.min() > MR_MIN)


def _most(flags: list[bool]) -> bool:
    return 2 * sum(flags) > len(flags)
