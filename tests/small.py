"""Small models and volumes that several tests use."""

import numpy as np
import torch

from medgen.checkpoint import FORMAT, Model, build_method
from medgen.config import parse_settings, plain
from medgen.methods import settings_class
from medgen.model_info import ModelInfo
from medgen.types import Section

SMALL_METHOD = {
    "name": "pix2pix",
    "generator": {"filters": 4, "levels": 2, "norm": "batch", "dropout": 0.0, "residual": True},
    "adversary": {"filters": 4, "layers": 1},
}


def paired_only(name):
    return settings_class(name).paired_only


def translates(name):
    return settings_class(name).translates


def merged(values, more):
    """Settings with those of ``more`` in their place, section by section."""
    both = {k for k in more if isinstance(more[k], dict) and isinstance(values.get(k), dict)}
    return {**values, **more, **{k: merged(values[k], more[k]) for k in both}}


def known(section, values):
    """Those values that a section of settings has keys for, likewise of the sections in it."""
    fields = {k: f.default for k, f in section.model_fields.items() if k in values}
    return {k: known(type(d), values[k]) if isinstance(d, Section) else values[k] for k, d in fields.items()}


def small_settings(**sections):
    values = {
        "method": SMALL_METHOD,
        "intensity": {"source": {"low": -1000, "high": 1000, "outside": "preserve"}},
        "sampling": {"patch": [16, 16, 16]},
    }
    return parse_settings({**values, **sections}, "test")


def make_model(settings=None, spacing=(2.0, 2.0, 2.0), seed=0, train=True):
    """A model as after training: weights moved off the start, so that it does change its input."""
    settings = settings or small_settings()
    torch.manual_seed(seed)
    method = build_method(settings)
    generator = method.networks[method.generator]
    if train:
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(torch.randn_like(p) * 0.02)
    quantiles = np.linspace(-0.1, 0.1, 25).tolist()
    info = ModelInfo(
        format=FORMAT,
        settings=plain(settings),
        source_range=[
            {"labels": {"a": 1}, "tissues": 0, "smoothing": 1.0}
            if settings.label_source
            else {"low": -1000, "high": 1000, "outside": "preserve"}
            for _ in settings.data.sources
        ],
        target_range=[
            {"low": settings.intensity.target.low or -1000, "high": settings.intensity.target.high or 1000}
            for _ in settings.data.targets
        ],
        spacing=spacing,
        training_scans=[
            [{"quantiles": quantiles, "extent": [40, 40, 40], "spacing": list(spacing)}] for _ in settings.data.sources
        ],
        training_data={},
        step=1,
        validation={},
        curve=[],
        health=[],
        versions={},
        commit=None,
        weights_sha256="",
    )
    generator.eval()
    return Model(method, settings, info)


def write_cohort(
    root, cases=4, shape=(20, 24, 16), unpaired=False, sources=("source",), targets=("target",), labels=False
):
    """Small CT-like scans on disk: a body with an organ that is brighter in the sources, in the first one most.

    Labels: organ 7, body 3.
    """
    import nibabel as nib

    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    for i in range(cases):
        body = np.full(shape, -1000.0)
        body[3:-3, 3:-3, :] = 40
        organ = np.zeros(shape, bool)
        organ[6:12, 6 : 12 + i % 3, 4:12] = True
        sides = {name: 120.0 / n for n, name in enumerate(sources, 1)} | dict.fromkeys(targets, 0.0)
        for name, enhancement in sides.items():
            if unpaired and (name in sources) != (i % 2 == 0):
                continue
            data = body + enhancement * organ + rng.normal(0, 8, shape)
            (root / name).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(np.rint(data).astype(np.int16), affine)
            nib.save(image, root / name / f"case{i}.nii.gz")
        if labels:
            (root / "labels").mkdir(exist_ok=True)
            named = np.where(organ, 7, np.where(body > 0, 3, 0)).astype(np.uint8)
            nib.save(nib.Nifti1Image(named, affine), root / "labels" / f"case{i}.nii.gz")
            (root / "labels.json").write_text('{"organ": 7, "body": 3}')
    return root
