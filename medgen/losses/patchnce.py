"""PatchNCE: match each output patch to its own input patch among others of the same input (Park, ECCV 2020)."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from medgen.losses.precision import full_precision


def patch_nce(z: Tensor, v: Tensor, temperature: float = 0.07) -> Tensor:
    """Mean over queries of -log[exp(z·v⁺/τ) / (exp(z·v⁺/τ) + Σ exp(z·v⁻/τ))]   (eqs. 1 and 3).

    Args:
        z: (B, S, K) query features of the output, L2-normalised, at S positions of each image.
        v: (B, S, K) key features of the input at the same positions: the positive of query s is v[:, s], its
            negatives are the others of the same image. No gradient flows to them.
        temperature: τ.

    Returns:
        A scalar.
    """
    with full_precision(z):  # half precision would give errors of 0.06 after the division
        logits = torch.bmm(z.float(), v.detach().float().transpose(1, 2)) / temperature
    own = torch.arange(z.shape[1], device=z.device).expand(len(z), -1)
    return nnf.cross_entropy(logits.flatten(0, 1), own.flatten())


def sample_places(features: list[Tensor], count: int, step: int) -> list[Tensor]:
    """Indices of ``count`` random positions, without repeats, in the flattened grid of each layer (B, C, ...).

    They depend on ``step`` alone, so query and key, all images of a batch and all processes share them.
    """
    rng = torch.Generator("cpu").manual_seed(step)
    sizes = [f[0, 0].numel() for f in features]
    places = [torch.randperm(n, generator=rng, device="cpu")[:count] for n in sizes]
    return [indices.to(f.device) for indices, f in zip(places, features, strict=True)]
