"""ONNX files that ``medgen export onnx`` wrote: the network, and in the metadata the model.json that it belongs to.

They are run by onnxruntime, which executes no code of the file but its operators.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgen.errors import InputError
from medgen.io.names import short_reason

NAME = "model.onnx"  # name of the file in a folder
MODEL, PIPELINE = "medgen_model", "medgen_pipeline"  # keys of the metadata
MOST = 2**31  # bytes of a file, the limit of ONNX


def onnx_file(path: Path) -> Path | None:
    """The ONNX file that a path names: itself, or ``model.onnx`` in a folder without model.json; None: neither."""
    if path.suffix.lower() == ".onnx" and path.is_file():
        return path
    return path / NAME if (path / NAME).is_file() and not (path / "model.json").exists() else None


def onnx_model_json(path: Path) -> str:
    """The text of model.json in an exported file. Raises InputError: not a file that medgen exported."""
    found = _session(path, "cpu", optimise=False).get_modelmeta().custom_metadata_map
    if MODEL not in found:
        raise InputError(
            "onnx-without-pipeline",
            f"{path} has no {MODEL} in its metadata, so its units and windows are unknown; give a file written by "
            "medgen export onnx",
        )
    return found[MODEL]


def onnx_network(path: Path, device: str) -> Callable[[Tensor], Tensor]:
    """The network of a file, run by onnxruntime: (B, C, X, Y[, Z]) float32 on the CPU → its output on the CPU.

    Args:
        device: cpu, or cuda, which needs onnxruntime-gpu; otherwise the network runs on the CPU.

    Raises:
        InputError: onnxruntime is not installed, or the file cannot be read.
    """
    session = _session(path, device)
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.float().cpu().numpy()})[0])

    return run


def _session(path: Path, device: str, optimise: bool = True) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "dependency-missing", f"{path} needs onnxruntime; install it: pip install 'medgen[onnx]'"
        ) from None
    if path.stat().st_size > MOST:
        raise InputError("model-file-too-large", f"{path} is larger than expected; export the model again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types for files that are damaged
        raise InputError(
            "onnx-unreadable", f"{path} is no ONNX file ({short_reason(error)[:120]}); export the model again"
        ) from None
