"""Third-party segmenters as callables: image → label map on the image's own grid.

They have the interface that ``downstream.protocols.score`` expects, as ``segmentation.model.Segmenter`` does.
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
from medgen.io.names import short_reason
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
    """Wrap a trained nnU-Net v2 (Isensee 2021), run as a separate command on one image at a time.

    Args:
        dataset: number or name of the data set; nnU-Net finds the model through its variable ``nnUNet_results``.
        folds: numbers of the folds to average, or "all".
        arguments: further arguments of the command, for example ``["-device", "cpu"]``.

    Raises:
        InputError: the command is not installed. The returned callable raises it if the command fails or has no output.
    """
    command = shutil.which(NNUNET)
    if command is None:
        raise InputError("dependency-missing", f"{NNUNET} is not on the PATH; install nnU-Net: pip install nnunetv2")
    options = ["-d", str(dataset), "-c", configuration, "-f", *map(str, folds), *arguments]

    def predict(volume: Volume) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            images, labels = Path(folder, "images"), Path(folder, "labels")
            labels.mkdir()
            write_volume(images / "case_0000.nii.gz", volume)
            run = subprocess.run([command, "-i", images, "-o", labels, *options], capture_output=True, text=True)
            if run.returncode or not (labels / "case.nii.gz").exists():
                message = (run.stderr.strip() or run.stdout.strip() or "none").splitlines()[-1]
                raise InputError(
                    "segmenter-no-output",
                    f"{NNUNET} {' '.join(options)} wrote no label map; its last message: {message}",
                )
            return np.rint(read_volume(labels / "case.nii.gz").data).astype(np.int32)

    return predict


def torchscript(file: Path, *, device: torch.device | str = "cpu", **grid: Any) -> Segment:
    """Load a TorchScript network: (1, 1, X, Y, Z) on RAS axes → logits of the classes, or one logit for a single label.

    Args:
        device: device to run on.
        grid: values, spacing, intensity and patch of ``segmentation.model.segment``, as used in training.

    Raises:
        InputError: not a TorchScript file.
    """
    try:
        network = torch.jit.load(require_path(file), map_location=device).eval()
    except RuntimeError as error:
        raise InputError(
            "torchscript-unreadable",
            f"{file} is not a TorchScript file ({short_reason(error)}); save the network with torch.jit.save",
        ) from None
    return partial(segment, network, device=device, **grid)


def bundle(folder: Path, *, device: torch.device | str = "cpu", **grid: Any) -> Segment:
    """Load a MONAI bundle's network: ``network_def`` of ``configs/inference.json`` (or .yaml), ``models/model.pt``.

    The bundle's transforms read files and are not used: set ``grid`` (see ``torchscript``) to what they do, according
    to the bundle's documentation. A bundle's configuration can run code: use only bundles that you trust.

    Raises:
        InputError: not a bundle, or weights that do not fit the network.
    """
    folder = require_path(folder)
    configs = [
        path for suffix in ("json", "yaml", "yml") if (path := folder / "configs" / f"inference.{suffix}").exists()
    ]
    if not configs:
        raise InputError(
            "segmenter-not-bundle",
            f"{folder} is not a MONAI bundle: it has no configs/inference.json; give the folder of a bundle",
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
            f"cannot build the network of the bundle {folder} ({short_reason(error)}); correct its configuration or "
            f"weights",
        ) from None
    return partial(segment, network.to(device).eval(), device=device, **grid)
