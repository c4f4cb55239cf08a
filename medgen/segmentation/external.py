"""Segmenters that others trained, as one callable: an image → its labels, on the image's own grid.

Each takes and gives what ``downstream.protocols.score`` asks for, as ``segmentation.model.Segmenter`` does.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from medgen.errors import InputError
from medgen.io.names import brief
from medgen.io.paths import require_path
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.segmentation.model import segment

Segment = Callable[[Volume], np.ndarray]

NNUNET = "nnUNetv2_predict"


def nnunet(
    dataset: str | int,
    configuration: str = "3d_fullres",
    *,
    folds: Sequence[int | str] = (0,),
    arguments: Sequence[str] = (),
) -> Segment:
    """A trained nnU-Net v2 (Isensee 2021), run as its own command on one image at a time.

    Args:
        dataset: its number or name; nnU-Net finds the model by its own variable ``nnUNet_results``.
        folds: whose average is taken; numbers, or "all".
        arguments: more of the command's, for example ``["-device", "cpu"]``.

    Raises:
        InputError: the command is absent; when called: it failed (its last line is told) or wrote nothing.
    """
    command = shutil.which(NNUNET)
    if command is None:
        raise InputError("dependency-missing", f"{NNUNET} is not on the path; install nnU-Net: pip install nnunetv2")
    options = ["-d", str(dataset), "-c", configuration, "-f", *map(str, folds), *arguments]

    def predict(volume: Volume) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            images, labels = Path(folder, "images"), Path(folder, "labels")
            labels.mkdir()
            write_volume(images / "case_0000.nii.gz", volume)
            run = subprocess.run([command, "-i", images, "-o", labels, *options], capture_output=True, text=True)
            if run.returncode or not (labels / "case.nii.gz").exists():
                said = (run.stderr.strip() or run.stdout.strip() or "it said nothing").splitlines()[-1]
                raise InputError("segmenter-no-output", f"{NNUNET} {' '.join(options)} gave no labels: {said}")
            return np.rint(read_volume(labels / "case.nii.gz").data).astype(np.int32)

    return predict


def torchscript(file: Path, *, device: torch.device | str = "cpu", **grid: Any) -> Segment:
    """A TorchScript file, (1, 1, X, Y, Z) on canonical (RAS) axes → logits of the classes, or one of a single label.

    Args:
        device: where it runs.
        grid: values, spacing, codec and patch as in ``segmenter.segment``: what the network was trained on.

    Raises:
        InputError: no TorchScript file.
    """
    try:
        network = torch.jit.load(require_path(file), map_location=device).eval()
    except RuntimeError as error:
        raise InputError(
            "torchscript-unreadable", f"{file} is no TorchScript file ({brief(error)}); save it by torch.jit.save"
        ) from None
    return partial(segment, network, device=device, **grid)


def bundle(folder: Path, *, device: torch.device | str = "cpu", **grid: Any) -> Segment:
    """A MONAI bundle's network: ``network_def`` of ``configs/inference.json`` (or .yaml) with ``models/model.pt``.

    Its transforms are those of files and are left out: ``grid`` (see ``torchscript``) says what they do, as the
    bundle's documentation has it. A bundle's configuration can run code: use those you trust.

    Raises:
        InputError: no bundle, or weights that are not its network's.
    """
    folder = require_path(folder)
    configs = [
        path for ending in ("json", "yaml", "yml") if (path := folder / "configs" / f"inference.{ending}").exists()
    ]
    if not configs:
        raise InputError(
            "segmenter-not-bundle",
            f"{folder} is no MONAI bundle: it has no configs/inference.json; name the bundle's folder",
        )
    try:
        parser = ConfigParser()
        parser.read_config(str(configs[0]))
        parser["bundle_root"] = str(folder)
        network = parser.get_parsed_content("network_def")
        weights = torch.load(require_path(folder / "models" / "model.pt"), map_location=device, weights_only=True)
        network.load_state_dict(weights.get("model", weights))
    except (KeyError, ValueError, RuntimeError, OSError, ImportError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "segmenter-bundle-unbuildable",
            f"the network of the bundle {folder} cannot be built ({brief(error)}); repair it",
        ) from None
    return partial(segment, network.to(device).eval(), device=device, **grid)
