"""Spectral norm: the largest singular value of a layer's weight is kept at 1 (Miyato 2018)."""

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


class _SpectralNorm(parametrizations._SpectralNorm):
    """torch's, without power iterations on the meta device: there they take seconds and compute nothing."""

    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        if not weight_mat.is_meta:
            super()._power_method(weight_mat, n_power_iterations)


def add_spectral_norm(layer: nn.Module) -> None:
    """Add the norm to a layer's weight, as torch.nn.utils.parametrizations.spectral_norm does."""
    outputs = 1 if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d) else 0  # axis of the output channels
    assert isinstance(layer.weight, Tensor)
    parametrize.register_parametrization(layer, "weight", _SpectralNorm(layer.weight, dim=outputs))
