"""Write a model for the 3D Slicer extension ModalityConverter (https://github.com/ciroraggio/SlicerModalityConverter).

The extension reads, for each model, an entry of ``Resources/Models/metadata.json``, a class in
``ModalityConverterLib/ModelsImpl`` whose ``runInference`` gets the input and output volume, and a model file in
``Resources/Models`` whose name begins with the key of the entry. Python in Slicer has no medgen, so the class contains
`standalone`.
"""

import html
import inspect
import json
from pathlib import Path

from medgen import __version__
from medgen.checkpoint import Model
from medgen.errors import InputError
from medgen.export import standalone
from medgen.export.network import check_exportable
from medgen.export.pipeline import pipeline
from medgen.export.programs import export_onnx
from medgen.inference.passes import WINDOW_NORMS, gives_maps
from medgen.io.atomic import write_text

MODULE = '''"""{title}

Written by medgen {version} for the 3D Slicer extension ModalityConverter. Licence of this file: Apache-2.0.
The output is synthetic and not for diagnosis.
"""

import json

import slicer
from ModalityConverterLib.ModelBase import BaseModel, register_model

ASSUMED_AXES = {axes!r}  # of volumes that come without spacing and orientation; None: they are refused
MODEL = {sha256!r}


@register_model({key!r})
class {name}(BaseModel):
    def _loadModelFromPath(self, modelPath):
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        if self.device.startswith("cuda"):
            number = self.device.partition(":")[2]
            providers.insert(0, ("CUDAExecutionProvider", {{"device_id": int(number or 0)}}))
        session = onnxruntime.InferenceSession(str(modelPath), providers=providers)
        self.about = json.loads(session.get_modelmeta().custom_metadata_map["medgen_pipeline"])
        if self.about["model_sha256"] != MODEL:
            raise RuntimeError(f"{{modelPath}} is another model than the one of this class.")
        return session

    def runInference(self, inputVolume, outputVolume, inputMask=None, showAllFiles=True):
        if inputMask:
            raise ValueError("This model was trained without masks; leave the mask empty.")
        report = getattr(self, "reportProgress", lambda percent, message: None)
        spacing, tolerance = self.about["spacing"]["mm"], self.about["spacing"]["tolerance"]
        affine = _affine(inputVolume, spacing)
        scan, restored = to_ras(slicer.util.arrayFromVolume(inputVolume), affine, spacing, tolerance)
        name = self.model.get_inputs()[0].name
        result = translate(
            lambda x: self.model.run(None, {{name: x}})[0],
            self.about,
            scan,
            lambda share: report(round(100 * share), "Running inference"),
        )
        result = np.ascontiguousarray(restored(result))
        slicer.util.updateVolumeFromArray(outputVolume, result)
        outputVolume.CopyOrientation(inputVolume)
        slicer.util.setSliceViewerLayers(background=outputVolume, foreground=None)
        slicer.util.resetSliceViews()
        return result


def _affine(volume, spacing):
    """From voxels (i, j, k) to mm in RAS."""
    if hasattr(volume, "GetIJKToRASMatrix"):
        import vtk

        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    if ASSUMED_AXES is None:
        raise ValueError(
            "This version of ModalityConverter gives models no spacing and orientation, so that a volume of another "
            "orientation would be translated wrongly without notice. Export the model with --assume-axes LPS if all "
            "your volumes are of these axes and of the model's spacing."
        )
    return axes_affine(ASSUMED_AXES, spacing)


# The steps around the network.
'''


def export_modality_converter(model: Model, folder: Path, assumed_axes: str | None = None) -> str:
    """Write the files into an existing folder, in the extension's layout.

    ``ModalityConverterLib/ModelsImpl/NAME.py``, ``Resources/Models/KEY.onnx``, and ``metadata_entry.json``, whose entry
    belongs into the extension's ``Resources/Models/metadata.json``.

    Args:
        assumed_axes: directions of i, j, k, such as LPS, of volumes that the extension gives without orientation and
            spacing; None: the class refuses these.

    Returns:
        The key of the model.

    Raises:
        InputError: the model has steps that the class does not have, or the axes are not three.
    """
    check_exportable(model)
    _check_expressible(model)
    if assumed_axes is not None:
        try:
            standalone.axes_affine(assumed_axes, (1, 1, 1))
        except ValueError as error:
            raise InputError("export-axes-invalid", f"--assume-axes {error}") from None
    about = pipeline(model)
    key, name = f"medgen_{model.info.sha256[:12]}", f"Medgen{model.info.sha256[:12]}"
    source, target = about["sources"][0]["name"], about["targets"][0]["name"]
    spacing = " x ".join(f"{side:.4g}" for side in about["spacing"]["mm"])
    title = f"{source} to {target} ({about['method']})"
    lines = MODULE.format(
        title=_plain(title),
        version=__version__,
        axes=assumed_axes,
        sha256=model.info.sha256,
        key=key,
        name=name,
    )
    description = (
        f"Trained with medgen {html.escape(str(model.info.versions.get('medgen', __version__)))}, model "
        f"{model.info.sha256[:12]}.<br><b>Input</b>: {html.escape(source)}, voxels of {spacing} mm; other volumes are "
        f"refused.<br><b>Output</b>: {html.escape(target)} on the grid of the input. It is synthetic and not for "
        "diagnosis; there is no structure check."
    )
    entry = {"url": "", "display_name": f"[medgen] {title}", "description": description, "module_name": name}
    source_text = inspect.getsource(standalone)
    write_text(folder / "ModalityConverterLib" / "ModelsImpl" / f"{name}.py", lines + _without_docstring(source_text))
    (folder / "Resources" / "Models").mkdir(parents=True, exist_ok=True)
    export_onnx(model, folder / "Resources" / "Models" / f"{key}.onnx")
    write_text(folder / "metadata_entry.json", json.dumps({key: entry}, indent=4) + "\n")
    return key


def _check_expressible(model: Model) -> None:
    """Refuse a model with steps that `standalone` does not have. Raises InputError."""
    settings, data = model.settings, model.settings.data
    fault = None
    if len(data.sources) != 1:
        fault = f"it needs {len(data.sources)} scans together ({', '.join(data.sources)}), and the extension gives one"
    elif len(model.target_ranges) != 1:
        fault = f"it writes {len(model.target_ranges)} images, and the extension takes one"
    elif gives_maps(model):
        fault = (
            "its network gives a mask and a level, whose steps (smoothing within structures, sparing of ribs) need "
            "medgen; medgen serve can be used from Slicer"
        )
    elif settings.method.spatial_dims != 3 or settings.slab_axis is not None:
        fault = "its network takes slices, and the exported class runs 3D networks only"
    else:
        windows = settings.inference.window != "whole" and (
            settings.inference.window == "patch" or any(isinstance(m, WINDOW_NORMS) for m in model.generator.modules())
        )
        if settings.inference.layout == "even" and (windows or settings.inference.window == "auto"):
            fault = "its windows have sizes that depend on the volume (inference.layout=even)"
    if fault:
        raise InputError("export-not-expressible", f"{model.folder} cannot be run by ModalityConverter: {fault}")


def _plain(text: str) -> str:
    """Text that ends no docstring and starts no escape."""
    return text.replace("\\", "/").replace('"', "'")


def _without_docstring(source: str) -> str:
    return source.split('"""', 2)[2].lstrip("\n")
