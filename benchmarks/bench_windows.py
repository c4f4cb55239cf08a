"""Sliding windows compared with MONAI's: the same windows, a CT with the own layout, and the memory of a large CT."""

import sys
import tempfile
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from peers import networks
from peers.convert import windows
from scans import large_ct, patient, save
from small_model import small_model
from timing import compare, rate, size

from medgen.checkpoint import load_model
from medgen.data.body_mask import body_mask
from medgen.inference.passes import translate_array
from medgen.inference.predict import prepare_case, restore_case, translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.models import model_folder
from medgen.networks.precision import has_bfloat16
from medgen.phantom.cohort import make_patient

DEVICE = "cuda" if "--cuda" in sys.argv else "cpu"
CLOSE = 1e-4 if DEVICE == "cpu" else 5e-3  # of outputs in [-1, 1]: GPUs convolve with 10 bits of precision (TF32)
SIDE, OVERLAP = size(64, 16), 0.25
NETWORK = {"filters": size(16, 4), "levels": 4, "pointwise_features": 8, "norm": "instance"}


def same_windows(folder: Path) -> None:
    """The U-Net of configs/ct_contrast_pix2pix.yaml, with instance norm, which needs windows."""
    inference = {"window": "patch", "overlap": OVERLAP}
    model = load_model(small_model(folder, 2.5, patch=(SIDE,) * 3, inference=inference, **NETWORK), DEVICE)
    plain = networks.UNet(NETWORK["filters"], 4, 8, torch.nn.InstanceNorm3d).to(DEVICE).eval()  # type: ignore[arg-type]
    networks.copy_weights(model.generator, plain)
    shape = size((160, 128, 96), (48, 32, 32))
    x = np.random.default_rng(0).uniform(-1, 1, (1, *shape)).astype(np.float32)
    for batch in (1, 4):
        record = compare(
            __file__,
            f"U-Net, {' × '.join(map(str, shape))}, windows of {SIDE}³, overlap {OVERLAP} (MONAI, {batch} at a time)",
            lambda: translate_array(model, x),
            lambda batch=batch: windows(plain, x, SIDE, batch, OVERLAP, DEVICE),
            tolerance=CLOSE,
            rounds=3,
        )
    rate(__file__, record, lambda: windows(plain, x, SIDE, 4, OVERLAP, DEVICE))


def own_layout() -> None:
    """The shipped model converts a CT in the field of view of the demo's phantoms, 400 × 320 mm, at its own spacing.

    What follows the network is the same for both. The quality is the body's MAE against the scan less its iodine, which
    has no noise of another scan in it. The peer's windows are computed in the precision of PyTorch's default and in
    that of the model's settings where this machine computes in it.
    """
    model = load_model(model_folder("ct-noncontrast"), DEVICE)
    mm = model.info.spacing[0]
    shape = size((267, 213, 96), (96, 80, 80))
    one, clean = patient(3, shape, mm), make_patient(3, size=shape, spacing=mm, noise_free=True)
    scan = Volume(np.rint(one.contrast), one.affine)
    truth = scan.data - (clean.contrast - clean.noncontrast)
    body = body_mask(scan.data)
    side = model.settings.window_size[0]

    def peer(overlap: float, rounded: bool) -> np.ndarray:
        prepared = prepare_case(model, [scan])
        with torch.autocast(DEVICE, torch.bfloat16, enabled=rounded):
            maps = windows(lambda window: model.generator.maps(window).float(), prepared.x, side, 4, overlap, DEVICE)
        return restore_case(model, prepared, maps)[0].data

    def worse(a: np.ndarray, b: np.ndarray) -> float:
        errors = [float(np.abs(y - truth)[body].mean()) for y in (a, b)]
        print(f"<!-- MAE in the body, HU: medgen {errors[0]:.3f}, peer {errors[1]:.3f} -->", flush=True)
        return max(0.0, errors[0] - errors[1])

    precisions = {"32 bits": False, **({"bfloat16": True} if has_bfloat16(DEVICE) else {})}
    for overlap, precision in product(size((0.25, 0.5), (0.25,)), precisions):
        text = " × ".join(map(str, shape))
        compare(
            __file__,
            f"shipped model, CT of {text}, own layout (MONAI, overlap {overlap}, {precision}; the difference is ours - "
            "peer's MAE)",
            lambda: translate_volume(model, scan).data,
            lambda overlap=overlap, precision=precision: peer(overlap, precisions[precision]),
            tolerance=0.2,
            difference=worse,
            rounds=2,
            warm_up=False,
        )


def large(folder: Path) -> None:
    """From file to file. On a CPU this measures the memory, so the network is the smallest one."""
    shape, side = size(((512, 512, 400), 96), ((64, 64, 48), 32))
    path = save(folder / "large.nii.gz", *large_ct(shape))
    overlap = OVERLAP if DEVICE == "cuda" else 0.0
    inference = {"window": "patch", "overlap": overlap, "spacing": "ignore"}
    generator = NETWORK if DEVICE == "cuda" else {"norm": "instance"}
    saved = small_model(folder / "small", 1.0, patch=(side,) * 3, inference=inference, **generator)
    model = load_model(saved, DEVICE)
    outputs = {who: folder / f"{who}.nii.gz" for who in ("ours", "peer")}

    def ours() -> Path:
        write_volume(outputs["ours"], translate_volume(model, read_volume(path)))
        return outputs["ours"]

    def peer() -> Path:
        image = nib.load(path)
        hu = image.get_fdata(dtype=np.float32)
        y = windows(model.generator, np.clip(hu / 1000, -1, 1)[None], side, 2, overlap, DEVICE)[0]
        made = np.where(np.abs(hu) >= 1000, hu, np.clip(y * 1000, -1000, 1000))
        nib.save(nib.Nifti1Image(np.rint(made).astype(np.int16), image.affine), outputs["peer"])
        return outputs["peer"]

    compare(
        __file__,
        f"CT of {' × '.join(map(str, shape))}, file to file (MONAI); see the memory",
        ours,
        peer,
        tolerance=1 + 1000 * (CLOSE - 1e-4),  # HU: values between two integers may be rounded to either
        difference=files_differ,
        rounds=1,
        warm_up=False,
    )


def files_differ(a: Path, b: Path) -> float:
    images = [np.asarray(nib.load(path).dataobj) for path in (a, b)]
    return float(max(np.abs(x.astype(np.int32) - y).max() for x, y in zip(*images, strict=True)))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        same_windows(Path(name) / "unet")
        large(Path(name))
        own_layout()


if __name__ == "__main__":
    main()
