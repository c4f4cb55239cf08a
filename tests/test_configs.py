"""Every shipped config is complete and runs: a tiny training with its own method, on a tiny cohort."""

from pathlib import Path

import pytest
from small import write_cohort

from medgen.checkpoint import load_model
from medgen.config import load_settings
from medgen.training.loop import train

CONFIGS = sorted(p for p in (Path(__file__).parent.parent / "configs").rglob("*.yaml") if p.parent.name != "checks")
TINY = ["train.steps=2", "train.validate_every=2", "train.validation_cases=1", "method.generator.filters=4"]
TINY += ["method.generator.levels=4"]


def tiny(path, folder, *overrides):
    """Return settings of a shipped config that train in seconds, on a small cohort written to the folder."""
    shipped = load_settings(path)
    paired, axis = shipped.data.paired or shipped.data.paired_domains or shipped.generative, shipped.slab_axis
    of_labels = shipped.label_source
    names = {"sources": () if of_labels else shipped.data.sources, "targets": shipped.data.targets}
    labels = of_labels or shipped.data.labels
    cohort = write_cohort(folder / "cohort", 3 if paired else 6, unpaired=not paired, labels=labels, **names)
    patch = [32, 32, 32] if axis is None else [shipped.sampling.patch[i] if i == axis else 32 for i in range(3)]
    given = [f"data.root={cohort}", f"sampling.patch={patch}", *TINY]
    if hasattr(shipped.method, "adversary"):
        given.append("method.adversary.filters=4")
    if hasattr(shipped.method, "candidates"):
        given.append("method.candidates=2")
    if of_labels:  # coarsest patch map of the second scale
        given += ["data.classes=3", "method.adversary.layers=2", "method.generator.hidden=4", "sampling.batch=2"]
    if shipped.data.domains:
        given.append("data.domains=[source, target]")
    if shipped.data.class_groups:  # the small cohort's labels in place of the shipped ones
        labels = dict.fromkeys(shipped.data.class_groups, ()) | {list(shipped.data.class_groups)[-1]: ("organ",)}
        given += [f"data.class_groups={ {k: list(v) for k, v in labels.items()} }"]
    return load_settings(path, [*given, *overrides])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_trains_and_loads(path, tmp_path):
    settings = tiny(path, tmp_path)
    best = train(settings, tmp_path / "run")
    assert load_model(best, target="target" if settings.data.domains else None).info.step == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_names_state_task_and_method(path):
    method = load_settings(path).method.name
    assert path.stem.endswith(method)  # fastcut, a variant of cut, also ends in cut


def test_sincut_trains_on_a_single_volume_per_side(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", cases=2, unpaired=True)
    path = next(p for p in CONFIGS if p.stem == "sincut")
    given = [f"data.root={cohort}", "sampling.patch=[32,32,1]", "sampling.batch=2", *TINY]
    best = train(load_settings(path, given), tmp_path / "run")
    assert load_model(best).info.training_data["training"] == ["case0", "case1"]
