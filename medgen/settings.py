"""The settings of a run: what a config may hold, key by key, with types, ranges and meanings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from medgen.errors import InputError
from medgen.methods.base import MethodSettings
from medgen.types import Outside, Section

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Millimetres = Annotated[float, Field(ge=0.01, le=1000)]
Spacing = tuple[Millimetres, Millimetres, Millimetres]
Channel = Annotated[int, Field(ge=0)]
# The name of a contrast, which is that of its folder: a model's settings must not lead out of the output folder.
Contrasts = Annotated[tuple[Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")], ...], Field(min_length=1)]


class Data(Section):
    root: Path | None = Field(None, description="cohort folder, datalist JSON or nnU-Net raw folder")
    sources: Contrasts = Field(
        ("source",), description="input contrasts: names of their folders in the cohort folder, e.g. [t1, flair]"
    )
    targets: Contrasts = Field(("target",), description="output contrasts, likewise, e.g. [t2]")
    domains: Contrasts | tuple[()] = Field(
        (),
        description="several domains instead of a source and a target: their folders' names, e.g. [none, arterial, "
        "portal_venous]; for methods that translate between any two (multi_domain)",
    )
    source_channels: tuple[Channel, ...] = Field(
        (0,),
        description="nnU-Net and Decathlon layouts: the channel number of each source, also of 4D files; not needed "
        "where sources are named as dataset.json names the channels",
    )
    target_channels: tuple[Channel, ...] = Field((1,), description="the same for each target")
    removes_contrast: bool = Field(
        False,
        description="the target is without contrast medium and the source with it: a DICOM series made by the model "
        "then carries no contrast attributes; targets named none, native or noncontrast are known to be so",
    )
    paired: bool = Field(True, description="source and target of one case are the same scan, voxel by voxel")
    paired_domains: bool = Field(
        False,
        description="domains: patches of one patient in two of them, at one place, where a patient has several on one "
        "grid (multi-phase scans): files of one name in their folders",
    )
    validation: Fraction = Field(0.15, description="share of the patients kept for validation")
    test: Fraction = Field(0.0, description="share of the patients never shown to training")
    fold: Annotated[int, Field(ge=0)] | None = Field(
        0,
        description="a dataset that states folds (fold in a datalist's entries, splits_final.json): the one that "
        "validates; null: what it states of training and validation is left aside and a split drawn",
    )
    split: Path | None = Field(None, description="a split.json of an earlier run, used instead of a new split")
    align: Literal["refuse", "resample", "rigid", "bspline"] = Field(
        "refuse",
        description="pairs on different grids: refuse them, or bring the source onto the target's grid",
    )
    patient_pattern: str | None = Field(None, description="regex whose first group in the case name is the patient")
    labels: bool = Field(False, description="give label maps of the source cases to the method, as classes")
    class_groups: dict[str, tuple[str, ...]] | None = Field(
        None,
        description="with labels: classes made of the cohort's labels, e.g. {host: [liver], lesion: [cyst, tumour]}; "
        "all else is background; none: each label is a class",
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="with labels, or intensity.source.kind labels: their number, background included; the cohort is "
        "checked against it; with structures it follows from them",
    )
    tissues: int = Field(
        0,
        ge=0,
        description="intensity.source.kind labels: divide the unlabelled background into so many tissue classes, by "
        "the intensities of the case's own target; 0: it is one class",
    )
    tissue_smoothing: float = Field(1.0, ge=0, description="mm: smoothing (standard deviation) before that division")
    spacing: Spacing | None = Field(
        None, description="grid of the model in mm; none: the volumes' own, which must then agree"
    )
    cache: Path | None = Field(None, description="folder of decompressed volumes; none: RUN/cache")

    @model_validator(mode="before")
    @classmethod
    def _named_channels(cls, values: Any) -> Any:
        """Several channel numbers without names get some: translations ask for one folder a contrast."""
        if isinstance(values, dict):
            for names, numbers in (("sources", "source_channels"), ("targets", "target_channels")):
                given = values.get(numbers)
                if names not in values and isinstance(given, list | tuple) and len(given) > 1:
                    values = {**values, names: [f"channel_{n}" for n in given]}
        return values

    @model_validator(mode="before")
    @classmethod
    def _counted_classes(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("class_groups"), dict) and values.get("classes") is None:
            values = {**values, "classes": 1 + len(values["class_groups"])}
        return values

    @model_validator(mode="after")
    def _distinct(self) -> "Data":
        for key in ("sources", "targets", "source_channels", "target_channels"):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                raise ValueError(f"{key} names a contrast twice: {list(given)}")
        for names, numbers in (("sources", "source_channels"), ("targets", "target_channels")):
            n, m = len(getattr(self, names)), len(getattr(self, numbers))
            if m != n and m > 1:
                raise ValueError(f"{names} names {n} contrasts but {numbers} lists {m}; give each its number")
        if self.domains:
            if len(set(self.domains)) < max(2, len(self.domains)):
                raise ValueError(f"domains must name at least two different folders, not {list(self.domains)}")
            if self.paired or len(self.sources) > 1 or len(self.targets) > 1:
                raise ValueError("domains have no pairs and one contrast each: set paired to false, leave sources out")
        if self.paired_domains and not self.domains:
            raise ValueError("paired_domains is for domains; pairs of a source and a target have paired")
        if self.tissues == 1:
            raise ValueError("one tissue class is the background as it is; set tissues to 0, or to 2 or more")
        joined = [name for names in (self.class_groups or {}).values() for name in names]
        if len(set(joined)) < len(joined):
            raise ValueError(f"structures name a label twice: {joined}")
        if self.class_groups is not None and self.classes != 1 + len(self.class_groups):
            raise ValueError(f"{len(self.class_groups)} structures and the background are not {self.classes} classes")
        return self


class Codec(Section):
    kind: Literal["window", "percentile", "zscore", "labels"] = Field(
        "window",
        description="how a case finds its range; source only: labels: the label map of each case is the source, one "
        "channel a label",
    )
    low: float | None = Field(None, description="window: value (HU) encoded as -1; percentile: lower, of all voxels")
    high: float | None = Field(
        None, description="window: value (HU) encoded as 1; percentile: upper, of the foreground"
    )
    width: float = Field(4.0, gt=0, description="zscore: standard deviations from the mean to ±1")
    outside: Outside = Field(
        "clip",
        description="source values at or beyond the ends of the range: preserve: they come back unchanged; "
        "preserve_unchanged: the same, but above the range only where the network stays near its end (windows that "
        "contrast medium exceeds); clip: they are lost",
    )
    background: float | None = Field(
        None, description="exact value of masked voxels (0 in skull-stripped MR), coded apart from dark tissue"
    )
    follow: bool = Field(
        False,
        description="target, per-case kinds: decode a new scan in the range of its own source times the "
        "training cases' ratio (scanner gain is shared by the sequences of one visit), not in the typical range",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Codec":
        low = {"window": -1000.0, "percentile": 0.0}.get(self.kind) if self.low is None else self.low
        high = {"window": 1000.0, "percentile": 99.5}.get(self.kind) if self.high is None else self.high
        if self.kind != "zscore" and low is not None and high is not None:
            if low >= high:
                raise ValueError(f"low {low:g} must lie below high {high:g}")
            if self.kind == "percentile" and not (0 <= low and high <= 100):
                raise ValueError(f"percentiles lie between 0 and 100, got {low:g} and {high:g}")
        return self


class Codecs(Section):
    source: Codec = Codec()
    target: Codec = Codec()


class Artefact(Section):
    name: str = Field(description="a TorchIO transform, e.g. RandomBiasField")
    probability: float = Field(0.2, ge=0, le=1, description="that a patch gets it")
    options: dict[str, Any] = Field(default_factory=dict, description="its arguments")


class Sampling(Section):
    patch: tuple[Positive, Positive, Positive] = Field(
        (64, 64, 64),
        description="voxels of a training patch; with method.spatial_dims=2 the smallest side counts the neighbouring "
        "slices of a slab and its axis is the one sliced: [128, 128, 1] axial slices, [1, 96, 96] sagittal ones",
    )
    batch: Positive = Field(1, description="patches a step and process")
    body: float = Field(0.9, ge=0, le=1, description="fraction of the patches centred inside the body")
    foreground_fraction: float = Field(
        0.0, ge=0, le=1, description="fraction of the patches centred on a connected part of foreground_classes"
    )
    foreground_classes: tuple[str, ...] = Field((), description="with data.labels: names of classes, e.g. lesions")
    match_position: bool = Field(
        True, description="unpaired: take the target patch from the same relative place of its body"
    )
    flip: tuple[Literal["x", "y", "z"], ...] = Field((), description="axes (RAS) that may be mirrored")
    rotate: float = Field(
        0.0, ge=0, le=180, description="largest random rotation about each axis, degrees; it turns mm, not voxels"
    )
    scale: float = Field(0.0, ge=0, lt=1, description="largest random change of size, as a fraction")
    gamma: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest random change of the source's contrast curve (log2 of the exponent)",
    )
    artefacts: tuple[Artefact, ...] = Field((), description="TorchIO artefacts added to the source only")
    workers: int = Field(0, ge=0, description="loader processes beside the training process")


class Train(Section):
    steps: Positive = Field(1000, description="steps of the schedule")
    minutes: float | None = Field(None, gt=0, description="stop after so much wall-clock, schedule included")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random: split, weights, patches, pool")
    decay_from: float = Field(0.5, ge=0, le=1, description="part of the run with a constant learning rate")
    clip: float | None = Field(
        None, gt=0, description="largest gradient norm of each optimizer: of all networks that it trains together"
    )
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the generator's moving average; 0: off")
    validate_every: Positive = Field(500, description="steps between validations on whole volumes")
    validation_cases: Positive = Field(4, description="whole volumes translated at a validation, at most")
    keep: bool = Field(False, description="keep the model of every validation, as RUN/kept/STEP")
    checkpoint_every: Positive = Field(200, description="steps between writes of RUN/last")
    log_every: Positive = Field(20, description="steps between rows of log.csv")
    accelerator: str = Field("auto", description="auto, cpu, cuda, mps")
    devices: int = Field(1, ge=1, description="processes, one a device")
    nodes: int = Field(1, ge=1, description="machines; start one process group with torchrun or SLURM")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="mixed precision pays on GPUs, and on CPUs that have bfloat16"
    )


class Inference(Section):
    window: Literal["auto", "patch", "whole"] = Field(
        "auto", description="patch: slide the training patch; whole: one pass; auto: whole where it fits"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="of neighbouring windows, as a part of the window")
    batch: Positive = Field(2, description="windows a forward pass")
    memory_gb: float = Field(8.0, gt=0, le=1e6, description="bound on the memory of a whole-volume pass")
    spacing: Literal["resample", "refuse", "ignore"] = Field(
        "resample", description="input of another spacing than the model's"
    )
    transfer: Literal["difference", "image"] = Field(
        "image",
        description="after resampling: bring back the change and add it to the input (keeps its "
        "resolution; same modality only), or the translated image itself",
    )
    mirror: tuple[Literal["x", "y", "z"], ...] = Field(
        (),
        description="axes (RAS) of sampling.flip: the mean of plain and mirrored translations; each doubles the time",
    )


class Settings(Section):
    data: Data = Data()
    intensity: Codecs = Codecs()
    sampling: Sampling = Sampling()
    method: SerializeAsAny[MethodSettings] = Field(description="of the class that the method's file defines")
    train: Train = Train()
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _mirrored_only_as_trained(self) -> "Settings":
        unseen = [axis for axis in self.inference.mirror if axis not in self.sampling.flip]
        if unseen:
            raise ValueError(
                f"inference.mirror has {unseen[0]}, which sampling.flip has not: training would never see such scans"
            )
        return self

    @model_validator(mode="after")
    def _label_maps(self) -> "Settings":
        data, source, target = self.data, self.intensity.source, self.intensity.target
        if target.kind == "labels":
            raise ValueError("intensity.target.kind=labels: label maps are a source only; choose e.g. percentile")
        if source.kind != "labels":
            if data.classes is not None and not data.labels:
                raise ValueError("data.classes is the number of classes of the labels; set data.labels to true")
            if data.tissues:
                raise ValueError(
                    "data.tissues divides the background of label maps; set intensity.source.kind to labels"
                )
            return self
        if data.class_groups is not None:
            raise ValueError("data.class_groups joins the classes of data.labels; label maps are a source as they are")
        if data.classes is None:
            raise ValueError(
                "intensity.source.kind=labels needs data.classes: the number of labels, background included"
            )
        return self

    @model_validator(mode="after")
    def _foreground_complete(self) -> "Settings":
        classes = self.sampling.foreground_classes
        if bool(classes) != bool(self.sampling.foreground_fraction):
            raise ValueError(
                "sampling.foreground_fraction is the fraction of patches on sampling.foreground_classes: set both"
            )
        if classes and not self.data.labels:
            raise ValueError(f"sampling.foreground_classes = {list(classes)} needs data.labels")
        return self

    @property
    def label_source(self) -> bool:
        """Whether the source is a label map rather than a scan."""
        return self.intensity.source.kind == "labels"

    @property
    def source_channels(self) -> int:
        """Channels of the source: one a contrast, or of a label map one a label and tissue class."""
        if not self.label_source:
            return len(self.data.sources)
        assert self.data.classes is not None
        return self.data.classes - 1 + (self.data.tissues or 1)

    @property
    def slab_axis(self) -> int | None:
        """The axis along which a 2D model slices volumes, see ``data.slabs``; none for a 3D model."""
        return slab_axis(self.sampling.patch) if self.method.spatial_dims == 2 else None


def slab_axis(patch: Sequence[int]) -> int:
    """The array axis (0, 1, 2: x, y, z) of a patch's single smallest side. Raises InputError where sides tie."""
    depth = min(patch)
    if list(patch).count(depth) > 1:
        raise InputError(
            "config-slab-side-ambiguous",
            f"sampling.patch={list(patch)} has no single smallest side, which method.spatial_dims=2 takes for the "
            "slices of a slab; give e.g. [128, 128, 1] for axial slices or [128, 128, 3] for three neighbouring ones",
        )
    return list(patch).index(depth)
