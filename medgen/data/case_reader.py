"""Read the volumes of a case through the cache, aligned to one grid."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medgen.data.align import align
from medgen.data.cache import Channels, cached
from medgen.data.degradation import degraded
from medgen.data.grid import resample
from medgen.data.intensity import masked_value
from medgen.data.labels.codec import LabelTable, cached_label_map
from medgen.io.hashes import file_states
from medgen.io.read import read_volume
from medgen.io.volume import Volume, to_canonical
from medgen.settings import Settings
from medgen.types import Case

Side = Literal["source", "target"]
COVERED = 0.95  # share of the fixed grid; there is a warning for a smaller one


@dataclass(frozen=True)
class CaseReader:
    """Reads the sources and targets of cases.

    Attributes:
        folder: cache folder.
        table: codes of the label maps if they are the source; None: the source is a scan.
        say: receives the lines for the user.
    """

    settings: Settings
    folder: Path
    table: LabelTable | None
    say: Callable[[str], None]

    def source(self, case: Case) -> Channels:
        """The source contrasts of a case, or its label map."""
        if self.table is None:
            return self._images(case, "source")
        data = self.settings.data
        options: dict[str, Any] = {"spacing": data.spacing, "movable": data.align == "resample"}
        return (cached_label_map(self.folder, case.source[0], case.target[0], self.table, **options),)

    def target(self, case: Case) -> Channels:
        """The target contrasts of a case."""
        return self._images(case, "target")

    def degraded(self, case: Case) -> Channels:
        """The targets of a case, made worse as ``data.degradation`` says, as sources of a validation."""
        settings = self.settings
        degradation = settings.data.degradation
        assert degradation is not None and settings.data.spacing != "median"  # the latter is replaced in prepare
        intensity, spacing = settings.intensity.source.model_dump(exclude={"follow"}), settings.data.spacing

        def make(path: Path) -> Volume:
            volume = _on_spacing(to_canonical(read_volume(path)), spacing, intensity["background"])
            return degraded(volume, degradation, masked_value(volume.data, intensity["background"]))

        key = f"degraded {degradation.model_dump_json()}"
        return tuple(
            cached(self.folder, path, intensity, spacing=spacing, make=partial(make, path), key=key)
            for path in case.target
        )

    def _images(self, case: Case, side: Side) -> Channels:
        data = self.settings.data
        assert data.spacing != "median"  # replaced in prepare
        paths: tuple[Path, ...] = getattr(case, side)
        intensity = getattr(self.settings.intensity, side).model_dump(exclude={"follow"})
        fixed = reference_image(case, side, self.settings)
        channels = []
        for path in paths:
            make, key = None, ""
            if data.align != "refuse" and path != fixed:
                key = f"{data.align} {file_states(fixed)}"
                make = self._aligned(f"{case.name}: {side}", path, fixed, intensity.get("background"))
            channels.append(cached(self.folder, path, intensity, spacing=data.spacing, make=make, key=key))
            for text in channels[-1].warnings:
                self.say(f"warning: {text}")
        return tuple(channels)

    def _aligned(self, name: str, path: Path, fixed: Path, background: float | None) -> Callable[[], Volume]:
        """A function that aligns ``path`` to ``fixed`` and reports the residual; the cache calls it on a miss."""
        method = self.settings.data.align

        def make() -> Volume:
            volume, residual = align(read_volume(path), read_volume(fixed), method, background=background)
            values = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in residual.items())
            self.say(f"{name} aligned ({method}): {values}")
            if residual["overlap"] < COVERED:
                self.say(
                    f"warning: {name}: {path} covers {residual['overlap']:.0%} of {fixed}; beyond it, its lowest value "
                    "is trained as its content. Crop both to what they share if this is more than air"
                )
            return volume

        return make


def _on_spacing(volume: Volume, spacing: tuple[float, float, float] | None, background: float | None) -> Volume:
    if spacing is None or np.allclose(volume.spacing, spacing, rtol=0.02):
        return volume
    return resample(volume, spacing, background=masked_value(volume.data, background))


def reference_image(case: Case, side: Side, settings: Settings) -> Path:
    """The image whose grid the contrasts of a side are brought to: the target if paired, else the side's first one."""
    return case.target[0] if settings.data.paired and case.target else getattr(case, side)[0]
