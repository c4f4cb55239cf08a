"""Create the feature extractor named on the command line."""

from pathlib import Path

from medgen.errors import InputError
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.features.slices import Window

EXTRACTOR_CHOICES = (
    "radiomics, inception[:FILE|:hub], radimagenet:FILE, medicalnet:FILE|:hub, or a TorchScript or ONNX file"
)


def named_extractor(text: str, *, window: Window = None, device: str = "cpu") -> Extractor:
    """Create an extractor from its name.

    Args:
        text: ``radiomics``; a network, followed by a colon and its weight file (or ``hub`` to download it); or the
            file of a network.
        window: intensity range (low, high) used by the features, in HU for CT; None: percentiles of each volume, for
            images without a unit (see ``sections.default_window``). MedicalNet ignores it and uses a z-score of the
            body.
        device: where a network runs.

    Raises:
        InputError: an unknown name, an invalid window, or an error of the extractor.
    """
    if window is not None and not window[0] < window[1]:
        raise InputError(
            "features-window-order", f"--window takes two numbers, the lower first, not {window[0]:g} {window[1]:g}"
        )
    # Import each extractor only when used: they import MIRP or build large networks.
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
    raise InputError("extractor-unknown", f"no feature extractor is named {text!r}; choose {EXTRACTOR_CHOICES}")
