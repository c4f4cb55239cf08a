"""Write a model as an ONNX file or as a program of torch.export, with its pipeline as metadata."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from medgen.checkpoint import Model
from medgen.errors import InputError
from medgen.export.network import ExportedNetwork, check_exportable, example_shape, smallest_side
from medgen.export.pipeline import pipeline
from medgen.io.atomic import atomic_write
from medgen.onnx_file import MODEL, PIPELINE

MOST_BATCH, MOST_SIDE = 1024, 8192


def export_onnx(model: Model, path: Path) -> None:
    """Write an ONNX file that ``medgen translate`` and other programs can run.

    Its input ``x`` is (B, C, X, Y[, Z]) in [-1, 1] with sides that are multiples of the network's stride, its output
    ``y`` has the same grid. The metadata has ``medgen_pipeline`` (see `pipeline`) and ``medgen_model`` (model.json).

    Raises:
        InputError: the packages onnx and onnxscript are not installed, or the model cannot be exported.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError(
            "dependency-missing",
            "medgen export onnx needs onnx and onnxscript; install them: pip install 'medgen[onnx]'",
        ) from None
    program = exported(model)
    with _quiet():
        made: Any = torch.onnx.export(program, (), dynamo=True, input_names=["x"], output_names=["y"], verbose=False)
    for key, value in _metadata(model).items():
        made.model.metadata_props[key] = value
    with atomic_write(path) as aside:
        made.save(str(aside))


def export_torch(model: Model, path: Path) -> None:
    """Write a program that ``torch.export.load`` reads without medgen; its input and output are those of `export_onnx`.

    The metadata are extra files: ``medgen_pipeline.json`` and ``medgen_model.json``.

    Raises:
        InputError: the model cannot be exported.
    """
    program = exported(model)
    extra = {f"{key}.json": value for key, value in _metadata(model).items()}
    with atomic_write(path) as aside, _quiet(), open(aside, "wb") as file:
        torch.export.save(program, file, extra_files=extra)


def exported(model: Model) -> ExportedProgram:
    """The network as a graph for any batch and any sides that are multiples of its stride. Raises InputError."""
    check_exportable(model)
    shape, stride = example_shape(model), int(model.generator.divisor)  # type: ignore[arg-type]
    least = smallest_side(model) // stride
    sides = [stride * Dim(f"n{i}", min=least, max=MOST_SIDE // stride) for i in range(len(shape) - 2)]
    free = {0: Dim("batch", min=1, max=MOST_BATCH), **dict(enumerate(sides, start=2))}
    network = ExportedNetwork(model).eval()
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes={"x": free}, strict=False)
    except Exception as error:  # torch.export raises many types for code that it cannot trace
        reason = " ".join(str(error).split())[:200]  # its last sentences are the same for every error
        raise InputError(
            "export-untraceable",
            f"the network of {model.folder} cannot be exported for all sizes ({reason}); "
            "medgen export bundle has no such limit",
        ) from None


def _metadata(model: Model) -> dict[str, str]:
    return {PIPELINE: json.dumps(pipeline(model)), MODEL: json.dumps(model.info.plain())}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about packages that are not used."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.setLevel(level)
