"""Translate a case several times: the mean of the translations, and how much they deviate from it.

What varies between the translations depends on the model: the members of an ensemble (Lakshminarayanan et al., NeurIPS
2017), the noise of a diffusion model, the dropout of a generator that was trained with it (Gal and Ghahramani, ICML
2016), else the mirroring of the scan that training used (Wang et
al., Neurocomputing 2019). The deviation is no error bar by itself: `evaluation.calibration` compares it with errors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from medgen.checkpoint import Model
from medgen.data.patches import AXES
from medgen.errors import InputError
from medgen.inference.passes import gives_maps, translate_array
from medgen.inference.predict import prepare_case, restore_case, translate_case
from medgen.io.volume import Volume

DROPOUT = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
ENSEMBLE, DIFFUSION, MC_DROPOUT, MIRRORING = "ensemble", "diffusion", "dropout", "mirroring"


def source_of_samples(model: Model, count: int) -> str:
    """What varies between ``count`` translations by a model: ensemble, diffusion, dropout or mirroring.

    Raises:
        InputError: fewer than two, or the model has no or too few different translations of a scan.
    """
    if count < 2:
        raise InputError("option-samples-few", f"--samples {count}: a deviation needs at least 2 translations")
    if model.members:
        if count > len(model.members):
            most = len(model.members)
            text = f"--samples {count}: {model.folder} has {most} models; use --samples {most} or fewer"
            raise InputError("option-samples-many", text)
        return ENSEMBLE
    if hasattr(model.method, "sample"):
        return DIFFUSION
    if _dropout(model):
        return MC_DROPOUT
    mirrored = 2 ** len(model.settings.sampling.flip)
    if count > mirrored:
        raise InputError(
            "option-samples-many",
            f"--samples {count}: {model.folder} has no noise in inference, no dropout and {mirrored} mirrorings in "
            "its training; " + (f"use --samples {mirrored} or fewer" if mirrored > 1 else "omit --samples"),
        )
    return MIRRORING


def translate_samples(
    model: Model, volumes: Sequence[Volume], count: int, *, memory_gb: float | None = None
) -> tuple[list[Volume], list[Volume]]:
    """Like ``predict.translate_case``, several times.

    Args:
        model, volumes, memory_gb: see there.
        count: number of translations.

    Returns:
        The mean and the standard deviation (divided by count - 1, float32, in the unit of the mean) of each target
        contrast, both with the geometry of a translation.

    Raises:
        InputError: as ``source_of_samples`` and ``predict.translate_case``.
    """
    kind = source_of_samples(model, count)
    means: list[np.ndarray] = []
    squares: list[np.ndarray] = []  # sums of squared deviations, updated as by Welford (1962)
    made: list[Volume] = []
    for n, made in enumerate(_translations(model, volumes, kind, count, memory_gb), 1):
        if not means:
            means, squares = ([np.zeros(v.data.shape, np.float32) for v in made] for _ in range(2))
        for volume, mean, square in zip(made, means, squares, strict=True):
            before = volume.data - mean
            mean += before / n
            square += before * (volume.data - mean)
    deviations = [np.sqrt(np.maximum(square, 0) / (count - 1)) for square in squares]
    return (
        [volume.replaced(mean) for volume, mean in zip(made, means, strict=True)],
        [volume.replaced(sd, np.float32) for volume, sd in zip(made, deviations, strict=True)],
    )


def _translations(
    model: Model, volumes: Sequence[Volume], kind: str, count: int, memory_gb: float | None
) -> Iterator[list[Volume]]:
    if kind == ENSEMBLE:
        for member in model.members[:count]:
            yield translate_case(member, volumes, memory_gb=memory_gb)
        return
    inference = model.settings.inference.model_copy(update={"mirror": ()})  # an average would hide what varies
    model = replace(model, settings=model.settings.model_copy(update={"inference": inference}))
    prepared = prepare_case(model, volumes)
    for y in _samples(model, prepared.x, kind, count, memory_gb):
        yield restore_case(model, prepared, y)


def _samples(model: Model, x: np.ndarray, kind: str, count: int, memory_gb: float | None) -> Iterator[np.ndarray]:
    """Outputs of the network (C_out, X, Y, Z), encoded."""
    if kind == MIRRORING:
        axes = [AXES[a] + 1 for a in model.settings.sampling.flip]
        flips = [flip for n in range(len(axes) + 1) for flip in combinations(axes, n)]
        for flip in flips[:count]:
            y = translate_array(model, np.flip(x, flip), memory_gb=memory_gb, maps=gives_maps(model))
            yield np.ascontiguousarray(np.flip(y, flip))
        return
    layers = _dropout(model)
    for seed in range(count):
        run: Callable[[Tensor], Tensor] | None = None
        if kind == DIFFUSION:
            run = partial(model.method.translate, seed=seed)  # type: ignore[call-arg]
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for layer in layers:
                layer.train()
            try:
                yield translate_array(model, x, memory_gb=memory_gb, maps=gives_maps(model), run=run)
            finally:
                for layer in layers:
                    layer.eval()


def _dropout(model: Model) -> list[nn.Module]:
    """The dropout layers of the generator; an exported model has none."""
    if model.network is not None:
        return []
    return [layer for layer in model.generator.modules() if isinstance(layer, DROPOUT) and layer.p > 0]
