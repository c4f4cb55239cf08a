"""The extractor that a command line names."""

from pathlib import Path

from medgen.errors import InputError
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.features.slices import Window

KNOWN = "radiomics, inception[:FILE|:hub], radimagenet:FILE, medicalnet:FILE|:hub, or a TorchScript or ONNX file"


def named_extractor(text: str, *, window: Window = None, device: str = "cpu") -> Extractor:
    """``radiomics``, or a network with its weight file (or ``hub``: fetched) after a colon, or a network's own file.

    Args:
        window: intensities (low, high), in HU for CT, that the features see; None: percentiles of each volume, which is
            for images without a unit (``sets.default_window`` tells).
            MedicalNet takes a z-score of the body whatever it is.
        device: where a network runs.

    Raises `InputError` for another name, and what the extractor refuses.
    """
    if window is not None and not window[0] < window[1]:
        raise InputError(
            "features-window-order", f"--window takes two numbers, the lower first, not {window[0]:g} {window[1]:g}"
        )
    # Each on use: they import MIRP, or build large networks.
    name, _, file = text.partition(":")
    if name == "radiomics" and not file:
        from medgen.evaluation.features.radiomics import Radiomics

        return Radiomics(window=window)
    if name == "inception":
        from medgen.evaluation.features.inception import Inception

        return Inception(file or None, window=window, device=device)
    if name == "radimagenet" and file:
        from medgen.evaluation.features.radimagenet import RadImageNet

        return RadImageNet(file, window=window, device=device)
    if name == "medicalnet" and file:
        from medgen.evaluation.features.medicalnet import MedicalNet

        return MedicalNet(file, device=device)
    if Path(text).suffix in (".pt", ".pth", ".ts", ".onnx"):
        from medgen.evaluation.features.file import FileNetwork

        return FileNetwork(text, window=window, device=device)
    raise InputError("extractor-unknown", f"no feature extractor is named {text!r}; choose {KNOWN}")
