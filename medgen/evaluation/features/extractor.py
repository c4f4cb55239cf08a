"""What every feature extractor offers, and the reading of weight files that are named in their errors."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgen.errors import InputError
from medgen.io.names import brief

HUB = "hub"  # in place of a weight file: fetch the published one

Array = NDArray[Any]


class Extractor(Protocol):
    """Volume → feature rows.

    name            of the network or method, as tables print it
    weights         sha256 of the weight file in hex, "none" where there are no weights
    preprocessing   one sentence; with name and weights it decides whether two sets of features may be compared
    relative        intensities are normalised volume by volume, so that an offset or gain is invisible
    standard        the standard Inception weights: only then is a Fréchet distance called FID
    standardised    distances are taken after each feature has the reference's mean and deviation taken out
    """

    name: str
    weights: str
    preprocessing: str
    relative: bool
    standard: bool
    standardised: bool

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        """Rows (n, d) float64 of a volume (X, Y, Z), spacing in mm, of the part where ``mask`` is not 0."""
        ...


def file_hash(path: Path) -> str:
    """sha256 of a file in hex; InputError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            "weights-unreadable", f"weights {path} cannot be read ({error.strerror}); name a file that exists"
        ) from error


def from_hub(url: str, *, sha256: str | None = None) -> Path:
    """The file behind a URL, fetched once into the cache of torch.hub (``$TORCH_HOME``, else ``~/.cache/torch``).

    ``sha256``: of the file in hex; another content is refused. InputError where the file cannot be fetched.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not cached.exists():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=sha256)
        except Exception as error:  # network errors of many kinds, and a wrong hash
            raise InputError(
                "weights-not-fetched", f"{url} cannot be fetched ({brief(error)}); fetch it elsewhere and name the file"
            ) from None
    return cached


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a PyTorch weight file, on the CPU; also one under "state_dict", and saved from DataParallel.

    Nothing but tensors is unpickled. InputError for a file that is not one.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is not a weight file
        raise InputError(
            "weights-not-pytorch", f"{path} is not a PyTorch weight file ({brief(error)[:120]}); save it by torch.save"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            "weights-no-state-dict", f"{path} holds no state dict; give the file of weights, not of a whole model"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_weights(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load every parameter of ``network``; InputError that names the first that is missing or of another shape.

    Entries that the network has no place for (classifiers, auxiliary heads) are left out; batch norms' counts of
    batches, which old files lack, may be missing.
    """
    own = network.state_dict()
    for name, value in own.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):
                continue
            raise InputError("weights-key-missing", f"{path} has no weight {name}: it is not a file of {what}")
        if state[name].shape != value.shape:
            raise InputError(
                "weights-shape-differs",
                f"{path}: weight {name} is {tuple(state[name].shape)} in place of {tuple(value.shape)}, so it is not "
                f"a file of {what}",
            )
    network.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def checked_volume(volume: Array, spacing: Sequence[float], mask: Array | None) -> tuple[Array, Array]:
    """The volume as float32 and its mask as bool, all True where there is none; InputError for what is neither."""
    volume = np.asarray(volume, np.float32)
    inside = np.ones(volume.shape, bool) if mask is None else np.asarray(mask) != 0
    if volume.ndim != 3 or inside.shape != volume.shape:
        raise InputError(
            "features-array-shape",
            f"features need a volume (X, Y, Z) and its mask, not arrays {volume.shape}, {inside.shape}",
        )
    if not inside.any():
        raise InputError("mask-empty", "the mask is empty: there is no voxel to take features of")
    if not np.isfinite(volume).all():
        raise InputError(
            "volume-not-finite", "the volume holds voxels that are NaN or infinite; no features can be taken"
        )
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError("volume-spacing-invalid", f"spacing {tuple(spacing)} must be three numbers above 0, in mm")
    return volume, inside
