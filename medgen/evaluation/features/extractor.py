"""Interface of feature extractors, and functions that read weight files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgen.errors import InputError
from medgen.io.names import short_reason

HUB = "hub"  # given instead of a weight file: download the published file

Array = NDArray[Any]


class Extractor(Protocol):
    """Computes feature rows of a volume.

    Attributes:
        name: of the network or method, as shown in tables.
        weights: sha256 of the weight file in hex, "none" if there are no weights.
        preprocessing: one sentence. Sets of features are comparable only if name, weights and preprocessing are equal.
        relative: intensities are normalised per volume, so that an offset or gain has no effect.
        standard: the weights are the standard Inception weights; only then is a Fréchet distance called FID.
        standardised: features are standardised with the reference's mean and standard deviation before distances are
            computed.
    """

    name: str
    weights: str
    preprocessing: str
    relative: bool
    standard: bool
    standardised: bool

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        """Return rows (n, d) float64 of a volume (X, Y, Z), spacing in mm, from the voxels where ``mask`` is not 0."""
        ...


def file_hash(path: Path) -> str:
    """Return the sha256 of a file in hex; raise InputError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            "weights-unreadable", f"weights {path} cannot be read ({error.strerror}); check the path"
        ) from error


def from_hub(url: str, *, sha256: str | None = None) -> Path:
    """Return a file downloaded once into the torch.hub cache (``$TORCH_HOME``, else ``~/.cache/torch``).

    Args:
        url: address of the file.
        sha256: expected hash in hex, checked after the download; None: not checked.

    Raises:
        InputError: the file cannot be fetched, or its hash differs.
    """
    cached_file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not cached_file.exists():
        try:
            cached_file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached_file), hash_prefix=sha256)
        except Exception as error:  # many types of network errors, and a wrong hash
            raise InputError(
                "weights-not-fetched",
                f"{url} cannot be fetched ({short_reason(error)}); download it on another machine and give its path",
            ) from None
    return cached_file


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a PyTorch weight file, on the CPU.

    Also accepts a state dict under the key "state_dict" and the "module." prefixes of DataParallel. Unpickles tensors
    only. Raises InputError for other files.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many exception types for invalid files
        raise InputError(
            "weights-not-pytorch",
            f"{path} is not a PyTorch weight file ({short_reason(error)[:120]}); save it with torch.save",
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            "weights-no-state-dict", f"{path} holds no state dict; give a file of weights, not of a whole model"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path, model_name: str) -> None:
    """Load every parameter of ``network``; raise InputError for the first that is missing or has another shape.

    Entries that the network does not have (classifiers, auxiliary heads) are ignored. The batch counters of batch
    norm layers, which old files lack, may be missing.
    """
    network_state = network.state_dict()
    for name, value in network_state.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):
                continue
            raise InputError("weights-key-missing", f"{path} has no weight {name}; give a weight file of {model_name}")
        if state[name].shape != value.shape:
            raise InputError(
                "weights-shape-differs",
                f"{path}: weight {name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}; "
                f"give a weight file of {model_name}",
            )
    network.load_state_dict({name: state[name] for name in network_state if name in state}, strict=False)


def checked_volume(volume: Array, spacing: Sequence[float], mask: Array | None) -> tuple[Array, Array]:
    """Return the volume as float32 and its mask as bool (None: all True); raise InputError if either is invalid."""
    volume = np.asarray(volume, np.float32)
    inside = np.ones(volume.shape, bool) if mask is None else np.asarray(mask) != 0
    if volume.ndim != 3 or inside.shape != volume.shape:
        raise InputError(
            "features-array-shape",
            f"features need a volume (X, Y, Z) and its mask, not arrays {volume.shape}, {inside.shape}",
        )
    if not inside.any():
        raise InputError("mask-empty", "the mask is empty, so no features can be computed; give another mask")
    if not np.isfinite(volume).all():
        raise InputError(
            "volume-not-finite", "the volume has NaN or infinite voxels; replace them with finite values first"
        )
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError("volume-spacing-invalid", f"spacing {tuple(spacing)} must be three numbers above 0, in mm")
    return volume, inside
