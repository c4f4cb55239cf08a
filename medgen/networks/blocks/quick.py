"""Layers that compute what torch's compute, in a form that is faster on a CPU in 32 bits.

`quicken` changes the class of layers, not their weights, so that state dicts stay the same. On other devices, in other
precisions and under autocast each layer is torch's own. All forms are made of differentiable operations, so they also
serve training. Measurements: docs/decisions/quick_layers.md.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

SMALL = 20480  # channels · X · Y of an image for which torch does not use oneDNN in a batch of one
FEW = 8  # output channels of a transposed convolution; with more, torch's own is as fast
WIDEST = 64  # output channels of the convolution that replaces one with a large kernel


def quicken(network: nn.Module) -> nn.Module:
    """Change the layers of a network, in place, to those of this module; returns the network.

    Only layers of exactly torch's classes are changed. ReLU and LeakyReLU then overwrite their input, which is always
    the output of a convolution, a norm or a dropout in the networks here; none of these needs its output for the
    gradient.
    """
    for module in network.modules():
        if type(module) in QUICK:
            module.__class__ = QUICK[type(module)]
        elif isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = True
    return network


def on_cpu(x: Tensor) -> bool:
    """Whether the fast forms apply: not in exported or compiled programs, which hold for images of any size.

    The meta device counts as a CPU, so that estimates of the memory include them.
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type in ("cpu", "meta") and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class QuickInstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm as a group norm with one channel per group: torch's is a batch norm of a reshaped image."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y) → the same."""
        return _instance_norm(self, x) if _normal(self, x) else super().forward(x)


class QuickInstanceNorm3d(nn.InstanceNorm3d):
    """As `QuickInstanceNorm2d`, for (B, C, X, Y, Z)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) → the same."""
        return _instance_norm(self, x) if _normal(self, x) else super().forward(x)


def _normal(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> bool:
    """An image of a single voxel has no statistics: torch raises an error, which stays as it is."""
    return on_cpu(x) and not norm.track_running_stats and x.shape[2:].numel() > 1


def _instance_norm(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    return nnf.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)


class QuickBatchNorm3d(nn.BatchNorm3d):
    """Batch norm; of one image, while training, as a group norm with one channel per group, which is the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) → the same; while training, the running statistics follow those of the batch."""
        one = on_cpu(x) and x.ndim == 5 and len(x) == 1 and x[0, 0].numel() > 1
        if not (one and self.training and self.track_running_stats and self.momentum is not None):
            return super().forward(x)
        n, channels = x[0, 0].numel(), x.shape[1]
        y, mean, scale = torch.native_group_norm(x, self.weight, self.bias, 1, channels, n, channels, self.eps)
        with torch.no_grad():
            variance = (scale[0] ** -2 - self.eps) * (n / (n - 1))
            # .data: torch's own batch norm of an earlier pass has saved these buffers for its backward, which does not
            # use them while training, but refuses ones that were changed in a way that autograd sees.
            self.running_mean.data.lerp_(mean[0], self.momentum)  # type: ignore[union-attr]
            self.running_var.data.lerp_(variance, self.momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return y


class QuickConv3d(nn.Conv3d):
    """A convolution, with faster forms for four cases.

    - 1 wide, while training: a product of matrices. The value takes as long as torch's, the gradient half as long.
    - A large kernel and few outputs, such as the last layer of a ResNet generator (7³, 16 to 1). oneDNN computes 16
      output channels at once, whether they are needed or not. The slices of the kernel along the first axis become
      output channels of a convolution that is 1 wide there, and the results are added with shifts.
    - A large kernel and one or two inputs that need a gradient, such as the first layer of F(G(x)): that gradient is a
      convolution with few outputs. Copies of the input, shifted along the first axis, become its channels.
    - One small image: torch does not use oneDNN then (`_misses_onednn`), so two halves are convolved as a batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, X, Y, Z) → (B, C_out, ...)."""
        if on_cpu(x) and x.ndim == 5 and self._is_plain():
            if self._is_product(x):
                return self._product(x)
            if self._is_sum_of_slices():
                return self._sum_of_slices(x)
            if self._has_costly_gradient(x):
                return self._of_stacked(x)
            if self._misses_onednn(x):
                return self._in_halves(x)
        return super().forward(x)

    def _is_plain(self) -> bool:
        zeros = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return zeros and self.dilation == (1, 1, 1) and self.groups == 1

    def _is_product(self, x: Tensor) -> bool:
        pointwise = self.kernel_size == (1, 1, 1) and self.stride == (1, 1, 1) and self.padding == (0, 0, 0)
        return pointwise and torch.is_grad_enabled() and self.bias is not None

    def _product(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1).expand(len(x), -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])  # type: ignore[index]

    def _is_sum_of_slices(self) -> bool:
        k = self.kernel_size
        few = self.out_channels <= 4 and k[0] * self.out_channels <= WIDEST
        return few and min(k) >= 5 and self.stride == (1, 1, 1) and self.padding[0] == 0

    def _sum_of_slices(self, x: Tensor) -> Tensor:
        k, outputs = self.kernel_size[0], self.out_channels
        weight = self.weight.permute(2, 0, 1, 3, 4).flatten(0, 1)[:, :, None]  # slice by slice, all outputs of each
        x = nnf.conv3d(x, weight, padding=(0, *self.padding[1:]))  # type: ignore[arg-type]
        slices = x.unflatten(1, (k, outputs)).unbind(1)
        n = x.shape[2] - k + 1
        first = slices[0][:, :, :n]
        y = first.clone() if self.bias is None else first + self.bias.view(-1, 1, 1, 1)
        for i, part in enumerate(slices[1:], 1):
            y += part[:, :, i : i + n]
        return y

    def _has_costly_gradient(self, x: Tensor) -> bool:
        large = min(self.kernel_size) >= 5 and self.stride == (1, 1, 1) and self.padding[0] == 0
        return x.requires_grad and torch.is_grad_enabled() and large and self.in_channels <= 2

    def _of_stacked(self, x: Tensor) -> Tensor:
        k = self.kernel_size[0]
        n = x.shape[2] - k + 1
        stacked = torch.cat([x[:, :, i : i + n] for i in range(k)], 1)
        weight = self.weight.permute(0, 2, 1, 3, 4).flatten(1, 2)[:, :, None]
        return nnf.conv3d(stacked, weight, self.bias, padding=(0, *self.padding[1:]))  # type: ignore[arg-type]

    def _misses_onednn(self, x: Tensor) -> bool:
        """Torch's rule (ConvParams::use_mkldnn in aten/src/ATen/native/Convolution.cpp)."""
        return len(x) == 1 and 1 < max(self.kernel_size) and min(self.kernel_size[1:]) <= 3 and small(x)

    def _in_halves(self, x: Tensor) -> Tensor:
        k, stride, pad = self.kernel_size[0], self.stride[0], int(self.padding[0])
        if pad:
            x = nnf.pad(x, (0, 0, 0, 0, pad, pad))
        n = (x.shape[2] - k) // stride + 1  # slices of the output
        half = (n + 1) // 2
        if n < 2:
            halves = x
        else:
            length, second = (half - 1) * stride + k, (n - half) * stride
            halves = torch.cat([x[:, :, :length], x[:, :, second : second + length]])
        y = nnf.conv3d(halves, self.weight, self.bias, self.stride, (0, *self.padding[1:]))  # type: ignore[arg-type]
        return y if n < 2 else torch.cat([y[:1], y[1:, :, 2 * half - n :]], 2)


def small(x: Tensor) -> bool:
    """Whether an image is so small that torch does not use oneDNN for a batch of one."""
    return x.shape[1] * x.shape[2] * x.shape[3] <= SMALL


class QuickConvTranspose3d(nn.ConvTranspose3d):
    """A transposed convolution of stride 2, which doubles the grid, in one of two faster forms.

    - 4 wide with few outputs: one 2-wide convolution, whose outputs are the 2³ voxels that a voxel becomes.
    - 3 wide: one small image in halves, as in `QuickConv3d`. Else, without gradients, torch's with channels-last input
      and output: its own last step is a copy out of this order, which takes longer than the convolution, and
      `channels_first` copies faster. The gradient would be slower.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C_in, X, Y, Z) → (B, C_out, 2X, 2Y, 2Z)."""
        doubles = self.stride == (2, 2, 2) and self.padding == (1, 1, 1) and self.dilation == (1, 1, 1)
        if not (on_cpu(x) and x.ndim == 5 and output_size is None and doubles and self.groups == 1):
            return super().forward(x, output_size)
        if self.kernel_size == (4, 4, 4) and self.output_padding == (0, 0, 0) and self.out_channels <= FEW:
            return doubled(x, self.weight, self.bias)
        if self.kernel_size == (3, 3, 3) and self.output_padding == (1, 1, 1) and len(x) == 1 and small(x):
            return self._in_halves(x)
        if self.kernel_size == (3, 3, 3) and not torch.is_grad_enabled() and not x.is_meta:
            return channels_first(super().forward(x.contiguous(memory_format=torch.channels_last_3d)))
        return super().forward(x)

    def _in_halves(self, x: Tensor) -> Tensor:
        """As in `QuickConv3d`: output 2m is of x[m], output 2m + 1 of x[m] and x[m + 1]."""
        n = x.shape[2]
        half = (n + 1) // 2
        if n < 2:
            return super().forward(x)
        y = super().forward(torch.cat([x[:, :, : half + 1], x[:, :, n - half - 1 :]]))
        return torch.cat([y[:1, :, : 2 * half], y[1:, :, 2 * (2 * half + 1 - n) :]], 2)


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Transposed convolution of (B, C_in, X, Y, Z), 4 wide, stride 2, padding 1, as a 2-wide convolution.

    Output 2m is w[1]·x[m] + w[3]·x[m-1], output 2m + 1 is w[2]·x[m] + w[0]·x[m+1]. With the input padded by 1, a 2-wide
    convolution has both at n + 1 positions: even outputs from position m on, odd ones from m + 1.
    """
    outputs, batch = weight.shape[1], len(x)
    for axis in (2, 4, 6):  # (C_in, C_out, 4, 4, 4) → (C_in, C_out, 2, 2, 2, 2, 2, 2): parity and tap of each axis
        a, b, c, d = weight.unbind(axis)
        weight = torch.stack([torch.stack([d, b], axis), torch.stack([c, a], axis)], axis)
    weight = weight.permute(1, 2, 4, 6, 0, 3, 5, 7).flatten(0, 3)
    y = nnf.conv3d(x, weight, None if bias is None else bias.repeat_interleave(8), padding=1).contiguous()
    X, Y, Z = x.shape[2:]
    sx, sy, sz = (Y + 1) * (Z + 1), Z + 1, 1
    n = (X + 1) * sx
    # position + parity along each axis: stride of a parity = stride of its channel + stride of a position
    strides = (8 * outputs * n, 8 * n, sx, 4 * n + sx, sy, 2 * n + sy, sz, n + sz)
    return y.as_strided((batch, outputs, X, 2, Y, 2, Z, 2), strides).reshape(batch, outputs, 2 * X, 2 * Y, 2 * Z)


def channels_first(x: Tensor) -> Tensor:
    """(B, C, X, Y, Z) in channels-last memory → the same values in torch's usual order.

    ``contiguous`` takes 55 ms for 16 channels of 96³; torch has a fast copy for transposed matrices only (20 ms).
    """
    rows = x.permute(0, 2, 3, 4, 1).view(len(x), -1, x.shape[1])
    y = x.new_empty(x.shape)
    for into, row in zip(y.view(len(x), x.shape[1], -1), rows, strict=True):
        into.copy_(row.t())
    return y


QUICK: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: QuickInstanceNorm2d,
    nn.InstanceNorm3d: QuickInstanceNorm3d,
    nn.BatchNorm3d: QuickBatchNorm3d,
    nn.Conv3d: QuickConv3d,
    nn.ConvTranspose3d: QuickConvTranspose3d,
}
