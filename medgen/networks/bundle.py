"""A network of MONAI as generator, by the ``network_def`` of a MONAI bundle.

Only the definition is taken, with plain values and a class of ``monai.networks.nets``: nothing in a bundle is executed,
so a model folder that holds such a definition is as safe to load as any other.
"""

import copy
from pathlib import Path
from typing import Any

import monai.networks.nets
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

STRIDES = [2**n for n in range(8)]


def bundle_network_def(folder: Path) -> dict[str, Any]:
    """The ``network_def`` of a bundle's ``configs/inference`` or ``configs/train`` (json, yaml), references resolved.

    Raises:
        ValueError: no such file or entry, or an entry that is an expression or no network of MONAI.
    """
    names = [f"{stem}.{suffix}" for stem in ("inference", "train") for suffix in ("json", "yaml", "yml")]
    path = next((folder / "configs" / name for name in names if (folder / "configs" / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} is not a MONAI bundle: it has no configs/inference.json")
    try:
        parser = ConfigParser()
        parser.read_config(str(path))
        found = _resolved(parser["network_def"], parser)
    except (KeyError, OSError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} has no readable network_def ({error})") from None
    if not isinstance(found, dict) or "_target_" not in found:
        raise ValueError(f"network_def of {path} names no class in _target_")
    return found


def _resolved(value: Any, parser: ConfigParser) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(v, parser) for key, v in value.items() if key not in ("_desc_", "_disabled_")}
    if isinstance(value, list | tuple):
        return [_resolved(v, parser) for v in value]
    if isinstance(value, str) and value.startswith("@"):
        return _resolved(parser[value[1:].replace("::", "#")], parser)
    if isinstance(value, str) and value.startswith("$"):
        raise ValueError(f"network_def contains the expression {value!r}, which is not executed; write its value")
    return value


class BundleNetwork(nn.Module):
    """A network of MONAI, (B, C_in, X, Y[, Z]) → (B, C_out, same grid), random weights.

    Args:
        definition: ``_target_``, a class of ``monai.networks.nets``, and its arguments.
        tanh: end in tanh.

    Raises:
        ValueError: not such a class, or it does not map these channels to these on the same grid.
    """

    def __init__(
        self, definition: dict[str, Any], *, spatial_dims: int, in_channels: int, out_channels: int, tanh: bool = True
    ) -> None:
        super().__init__()
        path, _, name = str(definition["_target_"]).rpartition(".")
        kind = getattr(monai.networks.nets, name, None)
        if not (path == "" or path.startswith("monai.networks.nets")) or not isinstance(kind, type):
            raise ValueError(f"generator.network: {definition['_target_']} is not a network of monai.networks.nets")
        arguments = {key: value for key, value in definition.items() if key != "_target_"}
        if not issubclass(kind, nn.Module) or not _plain(arguments):
            raise ValueError(f"generator.network: the arguments of {name} are not plain values")
        try:
            self.network = kind(**arguments)
        except TypeError as error:
            raise ValueError(f"generator.network: {name} cannot be built ({error})") from None
        self.tanh = tanh
        self.divisor = _stride(self.network, spatial_dims, in_channels, out_channels)
        self.smallest = 2 * self.divisor

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x)
        y = y[0] if isinstance(y, list | tuple) else y
        return torch.tanh(y) if self.tanh else y


def _plain(value: Any) -> bool:
    """Whether a value holds no further definition of an object."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and not key.startswith("_") and _plain(v) for key, v in value.items())
    return all(map(_plain, value)) if isinstance(value, list | tuple) else True


def _stride(network: nn.Module, spatial_dims: int, in_channels: int, out_channels: int) -> int:
    """The least power of two whose double and triple a network accepts as sides, from the shapes alone."""
    copied, reason = copy.deepcopy(network).to("meta").eval(), "other channels"
    for stride in STRIDES:
        try:
            for sides in (2 * stride, 3 * stride):
                y = copied(torch.empty((1, in_channels, *[sides] * spatial_dims), device="meta"))
                y = y[0] if isinstance(y, list | tuple) else y
                if y.shape != (1, out_channels, *[sides] * spatial_dims):
                    raise ValueError(f"an image of {sides} voxels a side gives {tuple(y.shape)}")
        except (ValueError, RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            continue
        return stride
    raise ValueError(
        f"generator.network does not translate {in_channels} channels to {out_channels} in {spatial_dims}D for every "
        f"size: {reason[:150]}"
    )
