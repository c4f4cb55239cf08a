"""The settings of a run: all keys of a config, with types, ranges and descriptions."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from medgen.methods.base import MethodSettings
from medgen.types import Outside, Section, Weight, slab_axis

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Millimetres = Annotated[float, Field(ge=0.01, le=1000)]
Spacing = tuple[Millimetres, Millimetres, Millimetres]
Channel = Annotated[int, Field(ge=0)]
# A contrast is named after its folder. No separators or leading dots: output paths must stay in the output folder.
Contrasts = Annotated[tuple[Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")], ...], Field(min_length=1)]


class Degradation(Section):
    """Keys of ``data.degradation``: how the sources are made from the targets, see ``data.degradation``."""

    thickness: tuple[Millimetres, Millimetres] | None = Field(
        None, description="smallest and largest distance of thick slices in mm; null: no thick slices"
    )
    axes: Annotated[tuple[Literal["x", "y", "z"], ...], Field(min_length=1)] = Field(
        ("x", "y", "z"), description="axes (RAS) across which the slices are thick; one is drawn for a patch"
    )
    profiles: Annotated[tuple[Literal["gaussian", "box"], ...], Field(min_length=1)] = Field(
        ("gaussian", "box"),
        description="slice profiles, of which one is drawn for a patch; their width (of the Gaussian: at half maximum) "
        "is the slice distance",
    )
    noise: tuple[Weight, Weight] | None = Field(
        None, description="CT: smallest and largest standard deviation of the noise that is added, in HU; null: none"
    )

    @model_validator(mode="after")
    def _something_to_restore(self) -> "Degradation":
        if self.thickness is None and self.noise is None:
            raise ValueError("degradation changes nothing; set degradation.thickness or degradation.noise")
        for name in ("thickness", "noise"):
            ends = getattr(self, name)
            if ends is not None and ends[0] > ends[1]:
                raise ValueError(f"degradation.{name} starts at {ends[0]:g}, above its end {ends[1]:g}; exchange them")
        return self


class Data(Section):
    root: Path | None = Field(None, description="cohort folder, datalist JSON or nnU-Net raw folder")
    sources: Contrasts | tuple[()] = Field(
        ("source",),
        description="input contrasts: names of their folders in the cohort folder, e.g. [t1, flair]; []: none, for "
        "methods that generate images from nothing (vae), which learn from the targets alone",
    )
    targets: Contrasts = Field(("target",), description="output contrasts: names of their folders, e.g. [t2]")
    domains: Contrasts | tuple[()] = Field(
        (),
        description="several domains instead of a source and a target: names of their folders, e.g. [none, arterial, "
        "portal_venous]; for methods that translate between any two domains (multi_domain)",
    )
    source_channels: tuple[Channel, ...] = Field(
        (0,),
        description="nnU-Net and Decathlon layouts, and 4D files: the channel number of each source; not needed if "
        "sources has the channel names of dataset.json",
    )
    target_channels: tuple[Channel, ...] = Field((1,), description="channel number of each target")
    removes_contrast: bool = Field(
        False,
        description="the source has contrast medium and the target has none: DICOM series written with the model then "
        "have no contrast attributes; assumed for targets named none, native or noncontrast",
    )
    paired: bool = Field(True, description="source and target of a case correspond voxel by voxel")
    paired_domains: bool = Field(
        False,
        description="with domains: for patients scanned in several domains on one grid (multi-phase scans), take both "
        "patches from the same patient and place; a patient's files have the same name in each folder",
    )
    validation: Fraction = Field(0.15, description="fraction of the patients held out for validation")
    test: Fraction = Field(0.0, description="fraction of the patients held out for testing, never used in training")
    fold: Annotated[int, Field(ge=0)] | None = Field(
        0,
        description="for a dataset with predefined folds (fold in a datalist's entries, splits_final.json): the fold "
        "used for validation; null: ignore its predefined split and draw a random one",
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="cross-validation: number of parts of the patients, for each of which a model is trained that has "
        "not seen it; fold is then not used, split must not be set, and patients of test are in no fold",
    )
    split: Path | None = Field(None, description="split.json of an earlier run, used instead of a new split")
    align: Literal["refuse", "resample", "rigid", "bspline"] = Field(
        "refuse",
        description="pairs on different grids: refuse them, or resample or register the source to the target's grid",
    )
    patient_pattern: str | None = Field(
        None, description="regular expression whose first group, matched in the case name, is the patient"
    )
    labels: bool = Field(
        False,
        description="provide the label maps of the source cases (without sources: of the targets) to the method, as "
        "classes",
    )
    class_groups: dict[str, tuple[str, ...]] | None = Field(
        None,
        description="with labels: classes and the labels that each combines, e.g. {host: [liver], lesion: [cyst, "
        "tumour]}; other labels are background; null: each label is a class",
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="with labels or intensity.source.kind=labels: the number of classes, background included; must "
        "match the cohort; set automatically with class_groups",
    )
    tissues: int = Field(
        0,
        ge=0,
        description="with intensity.source.kind=labels: divide the unlabelled background into this number of tissue "
        "classes, by the intensities of the case's target; 0: one background class",
    )
    tissue_smoothing: float = Field(
        1.0, ge=0, description="mm: standard deviation of the Gaussian filter before that division"
    )
    spacing: Spacing | Literal["median"] | None = Field(
        None,
        description="voxel spacing of the model in mm; median: that of the training images (targets, if paired) along "
        "each axis; null: that of the volumes, which must then agree",
    )
    degradation: Degradation | None = Field(
        None,
        description="for restoration: the source is the target, made worse at random (see data.degradation), so that "
        "images alone are needed; set sources to the same as targets",
    )
    cache: Path | None = Field(None, description="folder for decompressed volumes; null: RUN/cache")

    @model_validator(mode="before")
    @classmethod
    def _named_channels(cls, values: Any) -> Any:
        """Name contrasts that are given by channel numbers only, because a translation needs a folder for each."""
        if isinstance(values, dict):
            for names, numbers in (("sources", "source_channels"), ("targets", "target_channels")):
                channels = values.get(numbers)
                if names not in values and isinstance(channels, list | tuple) and len(channels) > 1:
                    values = {**values, names: [f"channel_{n}" for n in channels]}
        return values

    @model_validator(mode="before")
    @classmethod
    def _images_alone(cls, values: Any) -> Any:
        """Without sources there are no pairs, and the images are the first channel of a dataset."""
        if isinstance(values, dict) and values.get("sources") in ([], ()):
            return {"paired": False, "source_channels": (), "target_channels": (0,)} | values
        return values

    @model_validator(mode="before")
    @classmethod
    def _degraded_targets(cls, values: Any) -> Any:
        """With a degradation, the sources are the targets, which are the first channel of a dataset."""
        if isinstance(values, dict) and values.get("degradation") and "target_channels" not in values:
            values = {**values, "target_channels": values.get("source_channels", (0,))}
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
            channels = getattr(self, key)
            if len(set(channels)) < len(channels):
                raise ValueError(f"{key} has an entry twice: {list(channels)}; remove one")
        for names, numbers in (("sources", "source_channels"), ("targets", "target_channels")):
            n, m = len(getattr(self, names)), len(getattr(self, numbers))
            if m != n and m > 1:
                raise ValueError(
                    f"{names} has {n} contrasts but {numbers} has {m} numbers; give one number per contrast"
                )
        if self.domains:
            if len(set(self.domains)) < max(2, len(self.domains)):
                raise ValueError(f"domains must name at least two different folders, not {list(self.domains)}")
            if self.paired or len(self.sources) > 1 or len(self.targets) > 1:
                raise ValueError(
                    "domains are unpaired and have one contrast each; set paired to false and remove sources and "
                    "targets"
                )
        unsuitable = [key for key in ("paired", "domains", "source_channels") if getattr(self, key)]
        if not self.sources and unsuitable:
            raise ValueError(f"sources is empty, so there is nothing for {unsuitable[0]}; remove {unsuitable[0]}")
        if self.paired_domains and not self.domains:
            raise ValueError("paired_domains needs domains; for pairs of a source and a target, set paired")
        if self.degradation is not None:
            same = self.sources == self.targets and self.source_channels == self.target_channels
            if not (same and self.paired and not self.domains):
                raise ValueError(
                    "degradation makes the source from the target; set sources to the same as targets, and paired to "
                    "true"
                )
            if self.align != "refuse":
                raise ValueError("degradation makes pairs on one grid, so there is nothing to align; remove align")
        if self.tissues == 1:
            raise ValueError("tissues is 1, which divides nothing; set tissues to 0, or to 2 or more")
        members = [name for names in (self.class_groups or {}).values() for name in names]
        if len(set(members)) < len(members):
            raise ValueError(f"class_groups has a label twice: {members}; remove one")
        if self.class_groups is not None and self.classes != 1 + len(self.class_groups):
            raise ValueError(
                f"class_groups has {len(self.class_groups)} groups, so with the background classes cannot be "
                f"{self.classes}"
            )
        return self


class Codec(Section):
    kind: Literal["window", "percentile", "zscore", "labels"] = Field(
        "window",
        description="how the intensity range of a case is determined; labels (source only): the source is the case's "
        "label map, one channel per label",
    )
    low: float | None = Field(
        None, description="window: value (HU) encoded as -1; percentile: lower percentile, over all voxels"
    )
    high: float | None = Field(
        None, description="window: value (HU) encoded as 1; percentile: upper percentile, over the foreground"
    )
    width: float = Field(4.0, gt=0, description="zscore: standard deviations from the mean that are encoded as ±1")
    outside: Outside = Field(
        "clip",
        description="source values at or beyond the limits of the range. preserve: copied to the output unchanged; "
        "preserve_unchanged: the same, but above the range only where the network's output stays near the upper limit "
        "(for windows that contrast medium exceeds); clip: lost",
    )
    background: float | None = Field(
        None,
        description="exact value of masked voxels (0 in skull-stripped MR), encoded separately from dark tissue; with "
        "percentile and zscore, an image with less than 5 % of such voxels counts as not masked",
    )
    follow: bool = Field(
        False,
        description="target, percentile and zscore: decode a new scan not in the typical range but in the range of its "
        "own source, times the target-to-source ratio of the training cases (the sequences of one visit share the "
        "scanner gain)",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Codec":
        low = {"window": -1000.0, "percentile": 0.0}.get(self.kind) if self.low is None else self.low
        high = {"window": 1000.0, "percentile": 99.5}.get(self.kind) if self.high is None else self.high
        if self.kind != "zscore" and low is not None and high is not None:
            if low >= high:
                raise ValueError(f"low {low:g} must be below high {high:g}")
            if self.kind == "percentile" and not (0 <= low and high <= 100):
                raise ValueError(f"percentiles must be between 0 and 100, not {low:g} and {high:g}")
            if self.kind == "percentile" and high <= 1:
                raise ValueError(f"percentiles are from 0 to 100, so high {high:g} is not {100 * high:g} %")
        return self


class Codecs(Section):
    source: Codec = Codec()
    target: Codec = Codec()


class Artefact(Section):
    name: str = Field(description="name of a TorchIO transform, e.g. RandomBiasField")
    probability: float = Field(0.2, ge=0, le=1, description="probability that it is applied to a patch")
    options: dict[str, Any] = Field(default_factory=dict, description="arguments of the transform")


class FewCases(Section):
    below: int = Field(5, ge=2, description="number of training cases from which the ordinary values apply")
    rotate: float = Field(0.0, ge=0, le=180, description="see sampling.rotate")
    scale: float = Field(0.0, ge=0, lt=1, description="see sampling.scale")
    gamma: float = Field(0.0, ge=0, lt=1, description="see sampling.gamma")


class Sampling(Section):
    patch: tuple[Positive, Positive, Positive] = Field(
        (64, 64, 64),
        description="size of a training patch in voxels; with method.spatial_dims=2 the smallest side is the number of "
        "neighbouring slices in a slab and its axis is the slice axis: [128, 128, 1] is axial, [1, 96, 96] sagittal",
    )
    batch: Positive = Field(1, description="patches per step and process")
    body: float = Field(0.9, ge=0, le=1, description="fraction of the patches centred inside the body")
    foreground_fraction: float = Field(
        0.0, ge=0, le=1, description="fraction of the patches centred on a connected component of foreground_classes"
    )
    foreground_classes: tuple[str, ...] = Field((), description="with data.labels: class names, e.g. [lesion]")
    match_position: bool = Field(
        True, description="unpaired: take the target patch from the same relative position in the body"
    )
    flip: tuple[Literal["x", "y", "z"], ...] = Field((), description="axes (RAS) that are mirrored at random")
    rotate: float = Field(
        0.0, ge=0, le=180, description="largest random rotation about each axis, in degrees, computed in mm"
    )
    scale: float = Field(0.0, ge=0, lt=1, description="largest random scaling, as a fraction")
    gamma: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest random gamma change of the source's intensities (log2 of the exponent)",
    )
    noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest standard deviation of noise added to a patch, in encoded units; source and target of a "
        "pair, and all contrasts, get the same noise, so that the network learns to keep noise, not to remove it; a "
        "masked background (-1) stays",
    )
    dose: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest change of the dose of contrast medium, as a fraction: the difference between source and "
        "target of a pair is multiplied by a random factor between 1 - dose and 1 + dose, so that no pair repeats; for "
        "pairs that share their noise (simulated ones) and are encoded by one window",
    )
    artefacts: tuple[Artefact, ...] = Field((), description="TorchIO artefacts added to the source only")
    few_cases: FewCases | None = Field(
        None,
        description="values that replace rotate, scale and gamma in a training with few cases, which show the anatomy "
        "and the contrast curve of one or two patients only",
    )
    workers: int = Field(0, ge=0, description="loader processes in addition to the training process")

    def augmentation(self, cases: int) -> dict[str, Any]:
        """Arguments of ``data.patches.Patches`` for a training with this number of cases."""
        given = self.model_dump(exclude={"batch", "workers", "foreground_classes", "few_cases"})
        if self.few_cases is None or cases >= self.few_cases.below:
            return given
        return given | self.few_cases.model_dump(exclude={"below"})


class Train(Section):
    steps: Positive = Field(1000, description="training steps")
    minutes: float | None = Field(
        None,
        gt=0,
        description="stop after this many minutes at the latest; the learning rate schedule then ends there too",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="random seed of everything: split, weights, patches, image pool")
    start_from: Path | None = Field(
        None,
        description="model folder, or name of a model that medgen models lists: start from its weights where they fit",
    )
    decay_from: float = Field(
        0.5, ge=0, le=1, description="fraction of the run after which the learning rate decays linearly to zero"
    )
    clip: float | None = Field(
        None,
        gt=0,
        description="maximum gradient norm per optimizer, over all networks that it trains; null: no clipping",
    )
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the moving average of the generator's weights; 0: off")
    validate_every: Positive = Field(500, description="steps between validations on whole volumes")
    validation_cases: Positive = Field(4, description="maximum number of whole volumes translated in a validation")
    keep: bool = Field(False, description="save the model at every validation, as RUN/kept/step_NUMBER")
    checkpoint_every: Positive = Field(200, description="steps between checkpoints (RUN/last)")
    loggers: tuple[Literal["mlflow", "wandb"], ...] = Field(
        (),
        description="loggers in addition to TensorBoard, which need the extra of their name; server and project are "
        "set by their own environment variables",
    )
    log_every: Positive = Field(20, description="steps between rows of log.csv")
    accelerator: str = Field("auto", description="auto, cpu, cuda, mps")
    devices: int = Field(1, ge=1, description="processes per machine, one per device")
    nodes: int = Field(1, ge=1, description="machines; for several, start the processes with torchrun or SLURM")
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = Field(
        "32-true",
        description="mixed precision is faster on GPUs, and on CPUs with bfloat16; auto: bf16-mixed where the hardware "
        "computes in bfloat16, else 32-true",
    )


class Inference(Section):
    window: Literal["auto", "patch", "whole"] = Field(
        "auto",
        description="patch: sliding window of the training patch size, or of inference.patch; whole: one pass; auto: "
        "whole if it fits memory_gb",
    )
    patch: tuple[Positive, Positive, Positive] | None = Field(
        None,
        description="size of the sliding window in voxels; null: sampling.patch. A larger window sees more context, "
        "but a network with instance or group norm sees other statistics than in training",
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="overlap of neighbouring windows, as a fraction of the window")
    layout: Literal["fixed", "even"] = Field(
        "fixed",
        description="fixed: windows of one size and step, and a last one at the end of each axis, as in MONAI; even: "
        "evenly spaced with at least this overlap, up to 1.4 times as large where this needs fewer voxels, and with "
        "generator.replace only around the body; faster, for networks that bear larger windows than in training",
    )
    batch: Positive = Field(2, description="windows per forward pass")
    memory_gb: float = Field(8.0, gt=0, le=1e6, description="memory limit of a whole-volume pass, in GB")
    spacing: Literal["resample", "refuse", "ignore"] = Field(
        "resample", description="input whose voxel spacing differs from the model's"
    )
    transfer: Literal["difference", "image"] = Field(
        "image",
        description="what is resampled back to the input's grid. difference: the change, which is added to the input "
        "(keeps the input's resolution; same modality only); image: the translated image",
    )
    grid: Literal["input", "model"] = Field(
        "input",
        description="grid of the outputs. model: the input's field of view at the model's spacing, such as isotropic "
        "volumes from thick slices; volume files only, as a DICOM series keeps the grid of its source",
    )
    precision: Literal["32-true", "bf16-mixed", "auto"] = Field(
        "32-true",
        description="auto: bfloat16 where the hardware computes in it: faster, with 8 significant bits in every layer, "
        "so that outputs differ between machines; meant for generator.replace, where it affects mask and level only",
    )
    mirror: tuple[Literal["x", "y", "z"], ...] = Field(
        (),
        description="axes (RAS) of sampling.flip: average plain and mirrored translations; each axis doubles the time",
    )


class Settings(Section):
    data: Data = Data()
    intensity: Codecs = Codecs()
    sampling: Sampling = Sampling()
    method: SerializeAsAny[MethodSettings] = Field(description="see the class Settings of the method's file")
    train: Train = Train()
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _mirrored_only_as_trained(self) -> "Settings":
        unseen = [axis for axis in self.inference.mirror if axis not in self.sampling.flip]
        if unseen:
            raise ValueError(
                f"inference.mirror has {unseen[0]} but sampling.flip does not, so training never sees such scans; add "
                "it to sampling.flip or remove it from inference.mirror"
            )
        return self

    @model_validator(mode="after")
    def _sources_as_the_method_needs(self) -> "Settings":
        name = self.method.name
        if self.method.translates and self.generative:
            raise ValueError(
                f"data.sources is empty, but method {name} translates images; name the folders of its input there"
            )
        if self.method.translates is False and not self.generative:
            raise ValueError(
                f"method {name} learns from images alone; set data.sources to [], and data.targets to their folder"
            )
        if self.generative and self.data.labels != self.method.needs_labels:
            raise ValueError(
                f"method {name} learns from images and their label maps; set data.labels to true and data.classes"
                if self.method.needs_labels
                else f"data.labels is true, but method {name} learns from images alone; remove data.labels"
            )
        return self

    @model_validator(mode="after")
    def _batch_as_the_method_needs(self) -> "Settings":
        least = self.method.least_batch
        if self.sampling.batch < least:
            raise ValueError(
                f"method {self.method.name} compares images of a batch; set sampling.batch to {least} or more"
            )
        adversary = getattr(self.method, "adversary", None)
        if getattr(adversary, "minibatch", "none") != "none" and self.sampling.batch < 2:
            raise ValueError(
                "method.adversary.minibatch compares images of a batch; set sampling.batch to 2 or more, or minibatch "
                "to none"
            )
        return self

    @model_validator(mode="after")
    def _label_maps(self) -> "Settings":
        data, source, target = self.data, self.intensity.source, self.intensity.target
        if target.kind == "labels":
            raise ValueError(
                "intensity.target.kind=labels: label maps can only be the source; choose window, percentile or zscore"
            )
        if source.kind != "labels":
            if data.classes is not None and not data.labels:
                raise ValueError(
                    "data.classes is set, but data.labels is false; set data.labels to true, or remove data.classes"
                )
            if data.tissues:
                raise ValueError("data.tissues needs label maps as the source; set intensity.source.kind to labels")
            return self
        if data.class_groups is not None:
            raise ValueError("data.class_groups is not supported with intensity.source.kind=labels; remove it")
        if data.classes is None:
            raise ValueError(
                "intensity.source.kind=labels needs data.classes; set it to the number of labels, background included"
            )
        return self

    @model_validator(mode="after")
    def _restored_grid(self) -> "Settings":
        if self.inference.grid == "model":
            if self.inference.spacing == "ignore" or self.inference.transfer == "difference":
                raise ValueError(
                    "inference.grid=model writes the image on the model's grid; set inference.spacing to resample and "
                    "inference.transfer to image"
                )
            if self.label_source or self.generative or self.data.domains:
                raise ValueError("inference.grid=model is for translations of scans; set it to input")
        if self.data.degradation is not None and (self.sampling.noise or self.sampling.dose):
            raise ValueError(
                "data.degradation draws a worse source from each target; set sampling.noise and sampling.dose to 0"
            )
        return self

    @model_validator(mode="after")
    def _dose_of_pairs(self) -> "Settings":
        source, target = self.intensity.source, self.intensity.target
        same = source.kind == target.kind == "window" and (source.low, source.high) == (target.low, target.high)
        one = len(self.data.sources) == len(self.data.targets) == 1 and not self.data.domains
        if self.sampling.dose and not (self.data.paired and one and same):
            raise ValueError(
                "sampling.dose scales the difference of a pair; it needs data.paired, one source, one target, and one "
                "window (intensity kind, low and high) for both"
            )
        return self

    @model_validator(mode="after")
    def _foreground_complete(self) -> "Settings":
        classes = self.sampling.foreground_classes
        if bool(classes) != bool(self.sampling.foreground_fraction):
            raise ValueError(
                "sampling.foreground_fraction and sampling.foreground_classes belong together; set both or neither"
            )
        if classes and not self.data.labels:
            raise ValueError(f"sampling.foreground_classes = {list(classes)} needs labels; set data.labels to true")
        return self

    @property
    def generative(self) -> bool:
        """Whether the model generates images from nothing, see ``methods.base.GenerativeMethod``."""
        return not self.data.sources

    @property
    def label_source(self) -> bool:
        """Whether the source is a label map instead of a scan."""
        return self.intensity.source.kind == "labels"

    @property
    def source_channels(self) -> int:
        """Channels of the source: one per contrast, or one per label and tissue class of a label map."""
        if not self.label_source:
            return len(self.data.sources)
        assert self.data.classes is not None
        return self.data.classes - 1 + (self.data.tissues or 1)

    @property
    def window_size(self) -> tuple[int, ...]:
        """Sides of the sliding window, without the slice axis of a 2D model."""
        patch = self.inference.patch or self.sampling.patch
        return tuple(n for i, n in enumerate(patch) if i != self.slab_axis)

    @property
    def slab_axis(self) -> int | None:
        """The slice axis of a 2D model, see ``data.slabs``; None for a 3D model."""
        return slab_axis(self.sampling.patch) if self.method.spatial_dims == 2 else None
