"""Write a small model for benchmarks of everything but the network."""

from pathlib import Path
from typing import Any

import torch

from medgen.checkpoint import FORMAT, build_method, save_model
from medgen.config import parse_settings, plain
from medgen.data.fingerprint import QUANTILES
from medgen.model_info import ModelInfo


def small_model(
    folder: Path,
    mm: float,
    *,
    patch: tuple[int, int, int] = (16, 16, 16),
    inference: dict[str, Any] | None = None,
    **generator: Any,
) -> Path:
    """Write a model folder with random weights, so that the model changes its input.

    Args:
        folder: the model folder.
        mm: voxel size.
        patch: size of the sliding window.
        inference: settings of the section inference.
        generator: settings that replace those of the smallest generator.
    """
    small = {"filters": 4, "levels": 2, "dropout": 0.0, "norm": "batch", "residual": True}
    settings = parse_settings(
        {
            "method": {
                "name": "pix2pix",
                "generator": {**small, **generator},
                "adversary": {"filters": 4, "layers": 1},
            },
            "intensity": {"source": {"low": -1000, "high": 1000, "outside": "preserve"}},
            "sampling": {"patch": list(patch)},
            "inference": inference or {},
        },
        "benchmark",
    )
    torch.manual_seed(0)
    built = build_method(settings)
    generator = built.networks[built.generator].eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    scan = {"quantiles": (QUANTILES - 0.5).tolist(), "extent": [300, 250, 200], "spacing": [mm] * 3}
    info = ModelInfo.model_validate(
        {
            "format": FORMAT,
            "settings": plain(settings),
            "source_range": [{"low": -1000, "high": 1000, "outside": "preserve"}],
            "target_range": [{"low": -1000, "high": 1000}],
            "spacing": [mm] * 3,
            "training_scans": [[scan]],
            **{"training_data": {}, "step": 1, "validation": {}, "curve": [], "health": [], "versions": {}},
            "commit": None,
            "weights_sha256": "",
        }
    )
    folder.mkdir(parents=True)
    save_model(folder, generator, info)
    return folder
