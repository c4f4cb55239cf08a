"""The network that leaves medgen: what ``inference.predict`` runs on a window, as one module."""

from torch import Tensor, nn

from medgen.checkpoint import Model
from medgen.errors import InputError
from medgen.inference.kind import check_translates
from medgen.inference.passes import gives_maps


class ExportedNetwork(nn.Module):
    """(B, C_in, X, Y[, Z]) in [-1, 1], sides multiples of the stride → the network's output on the same grid.

    The output is the image (B, C_out, ...) in [-1, 1], or for a generator that replaces values the probability of its
    mask and its level (B, 2, ...), see ``networks.residual_unet.ResidualUNet.maps``.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.generator = model.generator
        self._translate = self.generator.maps if gives_maps(model) else model.method.translate

    def forward(self, x: Tensor) -> Tensor:
        return self._translate(x)  # type: ignore[operator]


def check_exportable(model: Model) -> None:
    """Refuse a model whose translation is not one pass of a network over encoded scans. Raises InputError."""
    check_translates(model)
    settings, name = model.settings, model.settings.method.name
    if model.network is not None:
        raise InputError("export-of-export", f"{model.folder} is an exported model; give the model folder it came from")
    if settings.label_source or settings.method.needs_classes:
        raise InputError(
            "export-needs-scans", f"{model.folder} needs label maps; only models that translate scans can be exported"
        )
    if settings.inference.grid == "model":
        raise InputError(
            "export-model-grid",
            f"{model.folder} writes volumes on its own grid (inference.grid=model), and exported models keep the grid "
            "of the scan; use medgen translate",
        )
    if hasattr(model.method, "sample"):
        raise InputError(
            "export-many-steps",
            f"{model.folder} is a {name} model, which runs its network many times for a scan; export a model of "
            "another method",
        )


def example_shape(model: Model) -> tuple[int, ...]:
    """Shape (B, C, X, Y[, Z]) of an input on which the network is traced: as small as it accepts."""
    settings, axis = model.settings, model.settings.slab_axis
    channels = settings.source_channels * (1 if axis is None else settings.sampling.patch[axis])
    return (2, channels, *[smallest_side(model)] * settings.method.spatial_dims)


def smallest_side(model: Model) -> int:
    """Smallest side of an input of the exported network, a multiple of its stride.

    At least two strides: torch.export compiles a side of one voxel in the coarsest layer as a case of its own.
    """
    stride, smallest = int(model.generator.divisor), int(model.generator.smallest)  # type: ignore[arg-type]
    return max(2, -(-smallest // stride)) * stride
