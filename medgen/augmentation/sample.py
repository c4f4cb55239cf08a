"""Generate images from nothing with a generative model, with geometry, units and provenance.

Sample n depends only on the model, the seed and n: more samples leave the first ones as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from medgen.augmentation.dataset.provenance import Provenance, digest
from medgen.checkpoint import Model
from medgen.data.cohort.content import content_hash
from medgen.errors import InputError
from medgen.inference.kind import check_generates
from medgen.inference.style import seed_of
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.methods.base import ConditionalMethod, GenerativeMethod
from medgen.networks.conditioned import ConditionedGenerator

HU_WIDTH = 500  # images of a fixed window at least this wide are stored as integers
DESCRIPTION = "synthetic image, medgen"


@dataclass(frozen=True)
class Sample:
    """A sample and its file (of the first contrast, if there are several). ``status``: made, or skipped (exists)."""

    case: str
    output: Path
    status: str


def sample(
    model: Model,
    out: Path,
    *,
    count: int = 1,
    seed: int = 0,
    volumes: tuple[float, ...] | None = None,
    overwrite: bool = False,
    done: Callable[[Sample, int], None] = lambda *_: None,
) -> list[Sample]:
    """Write ``images/sample_synthetic_NNNN.nii.gz`` (with several contrasts, a folder each) and ``provenance.json``.

    The record of a sample names the cases that the model was trained with, so that no split trains on it while one of
    them is used for validation or test.

    Args:
        model: a generative model, on the device to use.
        out: output folder.
        count: number of samples.
        seed: random seed.
        volumes: mm³ of each structure in the images, in the order of the label values, for models that learnt from
            label maps (ac_gan); None: drawn from those of the training images.
        overwrite: replace the result of another run in ``out``, see ``io.claim``.
        done: called after each sample with it and its number.

    Raises:
        InputError: the model generates nothing, ``volumes`` do not fit it, or the output cannot be written.
    """
    check_generates(model)
    _check_volumes(model, volumes)
    if model.folder is not None:
        check_output_is_not_input(out, model.folder)
    data = model.settings.data
    folders = data.targets if len(data.targets) > 1 else ("images",)
    found = []
    run = {"command": "sample", "model": model.info.sha256, "seed": seed, **({"volumes": volumes} if volumes else {})}
    with claimed(out, run, overwrite=overwrite):
        provenance = Provenance(out)
        for n in range(count):
            case = f"sample_synthetic_{n:04d}"
            files = [out / folder / f"{case}.nii.gz" for folder in folders]
            record = _record(model, case, seed, n, volumes)
            status = "skipped" if provenance.holds(case, record["made_of"], files) else "made"
            if status == "made":
                images = sample_volumes(model, seed, n, volumes)
                provenance.keep_changed(case)
                for file, image in zip(files, images, strict=True):
                    write_volume(file, image, description=DESCRIPTION)
                hashes = [h for image in images if (h := content_hash(image.data))]
                provenance.add(case, {**record, "images": hashes}, files, synthetic=True)
            found.append(Sample(case, files[0], status))
            done(found[-1], n)
        provenance.keep_only([each.case for each in found])
    return found


def volume_warnings(model: Model, volumes: tuple[float, ...]) -> list[str]:
    """Volumes (mm³) outside those of the training images that the model remembers: each with its range."""
    voxel = float(np.prod(model.info.spacing))
    low, high = ((each * voxel).tolist() for each in cast(ConditionedGenerator, model.generator).remembered())
    return [
        f"structure {n}: {asked:g} mm³, training had {least:.0f} to {most:.0f}"
        for n, (asked, least, most) in enumerate(zip(volumes, low, high, strict=True), 1)
        if not least <= asked <= most
    ]


def _check_volumes(model: Model, volumes: tuple[float, ...] | None) -> None:
    if volumes is None:
        return
    name, structures = model.settings.method.name, (model.settings.data.classes or 1) - 1
    if not model.settings.method.needs_labels:
        raise InputError(
            "sample-volumes-unused",
            f"{model.folder} is a {name} model, which knows no structures; leave out --volumes, or use an ac_gan model",
        )
    if len(volumes) != structures or min(volumes) < 0:
        raise InputError(
            "sample-volumes-invalid",
            f"--volumes needs one number of mm³, 0 or more, for each of the {structures} structures of {model.folder}, "
            f"not {', '.join(f'{v:g}' for v in volumes)}",
        )


def _record(model: Model, case: str, seed: int, number: int, volumes: tuple[float, ...] | None) -> dict[str, Any]:
    about = {"name": str(model.folder), "method": model.settings.method.name, "step": model.info.step}
    trained = list(model.info.training_data.get("training", ()))
    given: dict[str, Any] = {"volumes": list(volumes)} if volumes else {}
    operations = [{"operation": "sample", "seed": seed_of("sample", seed, number), "cases": trained, **given}]
    made_of = digest(model.info.sha256, seed, number, *given.values())
    record = {"patient": case, "seed": seed, "number": number, "model": about | {"sha256": model.info.sha256}}
    return {**record, "operations": operations, "made_of": made_of}


@torch.inference_mode()
def sample_volumes(model: Model, seed: int, number: int, volumes: tuple[float, ...] | None = None) -> Sequence[Volume]:
    """Generate sample ``number`` of a seed: an image for each contrast, in the units of the training images.

    ``volumes``: see ``sample``.
    The grid has the spacing of the model, axes from left to right, posterior to anterior and inferior to superior, and
    its middle at the origin.
    """
    method = cast(GenerativeMethod, model.method)
    generator = torch.Generator().manual_seed(seed_of("sample", seed, number))
    patch = model.settings.sampling.patch
    if volumes is None:
        sampled = method.sample(1, patch, generator)
    else:
        voxels = torch.tensor([volumes]) / float(np.prod(model.info.spacing))
        sampled = cast(ConditionalMethod, method).sample(1, patch, generator, voxels)
    codes = sampled[0].float().cpu().numpy()
    affine = np.diag([*model.info.spacing, 1.0])
    affine[:3, 3] = -(np.asarray(codes.shape[1:]) - 1) / 2 * model.info.spacing
    images = []
    for code, target in zip(codes, model.target_ranges, strict=True):
        known = target.typical
        whole = model.settings.intensity.target.kind == "window" and known.high - known.low >= HU_WIDTH
        images.append(Volume(known.decode(code), affine, np.dtype(np.int16 if whole else np.float32)))
    return images
