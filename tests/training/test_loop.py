"""The training loop: its files, and that a run killed at any moment reaches the weights of an uninterrupted one."""

import csv
import functools
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from programs import run_program
from refusal import refused
from safetensors.torch import load_file
from small import SMALL_METHOD, known, merged, paired_only, translates, write_cohort

from medgen.checkpoint import load_model
from medgen.config import parse_settings, plain
from medgen.io.claim import RECORD
from medgen.losses import adversary
from medgen.methods import method_class, method_names, settings_class
from medgen.training import preflight
from medgen.training.loop import saved_steps, train

TRAIN = {"steps": 6, "validate_every": 3, "checkpoint_every": 2, "log_every": 1}


SMALLER = {
    "generator": {"blocks": 1, "kernel": 3, "hidden": 4, "latent": 4}, "adversary": {"pool": 2}, "classifier_layers": 1,
    "images": 4, "candidates": 4, "prior": {"width": 8, "depth": 1},
}  # fmt: skip


def settings_of(cohort, name="pix2pix", **sections):
    given = known(settings_class(name), merged(SMALL_METHOD, SMALLER))
    data = {"domains": ["source", "target"]} if name == "multi_domain" else {}
    intensity = {"source": {"outside": "preserve"}}
    if name == "diffusion":
        given["steps"] = 2
    sampling = {"patch": [16, 16, 16], "flip": ["x"], "batch": settings_class(name).least_batch}
    if not translates(name):
        data = {"sources": [], "paired": False}
        if settings_class(name).needs_labels:
            data |= {"labels": True, "classes": 3}
    if name == "spade":
        data = {"sources": ["labels"], "classes": 3, "tissues": 2}
        intensity = {"source": {"kind": "labels"}}
    if name == "lesion_gan":
        data = {"targets": ["source"], "labels": True, "class_groups": {"body": ["body"], "organ": ["organ"]}}
    values = {
        "data": {"root": str(cohort), "paired": paired_only(name), "validation": 0.25, **data},
        "intensity": intensity,
        "sampling": {**sampling, **sections.pop("sampling", {})},
        "method": merged({**given, "name": name}, sections.pop("method", {})),
        "train": {**TRAIN, **sections.pop("train", {})},
        **sections,
    }
    return parse_settings(values, "test")


def needs_pairs(name):
    """Whether a method needs the cohort in which each case has both sides and a label map."""
    return paired_only(name) or settings_class(name).needs_labels


def weights(run, model="last"):
    folder = run / model
    found = load_file(folder / "weights.safetensors")
    if (folder / "training-0.safetensors").exists():
        found |= load_file(folder / "training-0.safetensors")
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module", autouse=True)
def method_checked_once():
    """Check a method before its first training only; the check takes longer than the few steps here."""
    checked, check = set(), preflight.check_method

    def check_once(settings):
        key = settings.model_dump_json(exclude={"train"})
        if key not in checked:
            check(settings)
        checked.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "check_method", check_once)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), labels=True)


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("unpaired"), cases=6, unpaired=True)


@pytest.fixture(scope="module")
def whole_run(cohort, unpaired, tmp_path_factory):
    """Return the folder of an uninterrupted run of a method, trained once."""

    @functools.cache
    def trained(method):
        out = tmp_path_factory.mktemp(method) / "whole"
        train(settings_of(cohort if needs_pairs(method) else unpaired, method), out)
        return out

    return trained


def test_files_of_a_run(cohort, tmp_path):
    best = train(settings_of(cohort), tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()} - {RECORD}
    assert names == {
        "best", "last", "cache", "panels", "tensorboard", "config.yaml", "split.json", "log.csv", "validation.csv"
    }  # fmt: skip
    assert {p.name for p in best.iterdir()} == {"model.json", "weights.safetensors", "card.md"}
    rows = list(csv.DictReader(open(tmp_path / "run" / "log.csv")))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    assert {"D", "G_gan", "G_l1", "lr_G"} <= set(rows[0])
    rows = list(csv.DictReader(open(tmp_path / "run" / "validation.csv")))
    assert [int(r["step"]) for r in rows] == [3, 6]
    assert sorted(p.name for p in (tmp_path / "run" / "panels").iterdir()) == [
        "step_0000003.png",
        "step_0000006.png",
    ]
    info = load_model(best).info
    assert len(info.training_data["training"]) == 3 and info.spacing == (2.0, 2.0, 2.0)
    assert info.validation["mae"] == min(float(r["mae"]) for r in rows)


def test_learning_rate_is_constant_then_linear_to_zero(cohort, tmp_path):
    train(settings_of(cohort, train={"decay_from": 0.5}), tmp_path / "run")
    rates = [float(r["lr_G"]) for r in csv.DictReader(open(tmp_path / "run" / "log.csv"))]
    base = rates[0]
    assert rates == pytest.approx([base, base, base, base, base * 2 / 3, base / 3])


@pytest.mark.parametrize("method", method_names())
def test_resumed_run_equals_an_uninterrupted_one(method, cohort, unpaired, whole_run, tmp_path):
    root = cohort if needs_pairs(method) else unpaired
    # A shorter schedule decays earlier; only the constant part may be compared.
    flat = {"decay_from": 1.0}
    train(settings_of(root, method, train=flat), tmp_path / "flat")
    train(settings_of(root, method, train={**flat, "steps": 4}), tmp_path / "flat_parts")
    train(settings_of(root, method, train=flat), tmp_path / "flat_parts", resume=True)
    assert same(weights(tmp_path / "flat"), weights(tmp_path / "flat_parts"))
    assert not same(weights(whole_run(method)), weights(tmp_path / "flat"))
    kept = (tmp_path / "flat_parts" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in kept[1:]] == ["1", "2", "3", "4", "5", "6"]


KILLER = """
import os, signal, sys
from pathlib import Path
import medgen.training.loop, medgen.checkpoint, medgen.io.atomic
from training.test_loop import settings_of
moment, root, out, method = sys.argv[1:5]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
calls = {"n": 0}
def on_call(function, n, after):
    def wrapped(*args, **options):
        calls["n"] += 1
        if calls["n"] == n and not after: die()
        result = function(*args, **options)
        if calls["n"] == n: die()
        return result
    return wrapped
if moment == "step":        # in the fifth step, after its first update
    update = medgen.training.loop.Run._update
    def last_update(run, *args):
        update(run, *args)
        if run.step == 4: die()
    medgen.training.loop.Run._update = last_update
if moment == "checkpoint":  # weights written, training state incomplete
    medgen.checkpoint.save_training = on_call(medgen.checkpoint.save_training, 2, False)
if moment == "rename":      # the old folder moved away, the new one not yet in place
    os.rename = on_call(os.rename, 4, False)
if moment == "best":
    medgen.training.loop._validate = on_call(medgen.training.loop._validate, 2, True)
medgen.training.loop.train(settings_of(Path(root), method), Path(out), resume=(Path(out) / "last").exists())
"""


@pytest.mark.parametrize(
    "moment, method",
    [
        *(("step", name) for name in method_names()),
        ("checkpoint", "pix2pix"),
        ("rename", "pix2pix"),
        ("best", "pix2pix"),
    ],
)
def test_sigkill_then_resume_equals_an_uninterrupted_run(moment, method, cohort, unpaired, whole_run, tmp_path):
    root = cohort if needs_pairs(method) else unpaired
    whole = whole_run(method)
    result = run_program(KILLER, moment, root, tmp_path / "killed", method)
    assert result.returncode == -signal.SIGKILL, result.stderr
    train(settings_of(root, method), tmp_path / "killed", resume=True)
    assert same(weights(whole), weights(tmp_path / "killed"))
    assert same(weights(whole, "best"), weights(tmp_path / "killed", "best"))
    for name in ("log.csv", "validation.csv"):
        kept, killed = (list(csv.reader(open(run / name))) for run in (whole, tmp_path / "killed"))
        assert [row[0] for row in kept] == [row[0] for row in killed]
    assert [p.name for p in (tmp_path / "killed").iterdir() if p.name.startswith(".")] == [RECORD]


def test_non_finite_loss_names_step_and_cases_and_keeps_the_checkpoint(cohort, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(settings_of(cohort, train={"steps": 4}), out)
    before = weights(out)
    step = method_class("pix2pix").step

    def poisoned(self, batch, update):
        return {**step(self, batch, update), "G_l1": torch.tensor(float("nan"))}

    monkeypatch.setattr(method_class("pix2pix"), "step", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 5: .*G_l1 nan.*cases case\d"):
        train(settings_of(cohort), out, resume=True)
    assert same(before, weights(out))


def test_non_finite_gradient_is_found_before_a_checkpoint_is_saved(cohort, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(settings_of(cohort, train={"steps": 4}), out)
    before = weights(out)
    step = method_class("pix2pix").step

    def poisoned(self, batch, update):
        def update_with_a_root_of_zero(name, loss):  # the loss is finite, its gradient is not
            parameter = next(self.networks[self.generator].parameters())
            update(name, loss + (parameter.sum() * 0).abs().sqrt())

        return step(self, batch, update_with_a_root_of_zero)

    monkeypatch.setattr(method_class("pix2pix"), "step", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 5: .*gradient of G nan.*cases case\d"):
        train(settings_of(cohort, train={"checkpoint_every": 1}), out, resume=True)
    assert same(before, weights(out))


def test_translations_that_are_not_finite_end_the_training_with_a_sentence(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "medgen.training.validation._translated", lambda model, sources, x, *rest: [np.full_like(x[0], np.nan)]
    )
    with pytest.raises(FloatingPointError, match="validation case 1 has values that are not finite"):
        train(settings_of(cohort, train={"steps": 1}), tmp_path / "run")


def test_a_run_is_not_overwritten(cohort, tmp_path):
    train(settings_of(cohort, train={"steps": 1}), tmp_path / "run")
    with refused("training-run-exists", names="--resume"):
        train(settings_of(cohort), tmp_path / "run")
    with refused("training-section-changed", names="method"):
        train(settings_of(cohort, method={"weight_l1": 5.0}), tmp_path / "run", resume=True)


def test_minutes_limit_a_run(cohort, tmp_path):
    train(
        settings_of(cohort, train={"steps": 10**6, "minutes": 0.01, "validate_every": 10**6}),
        tmp_path / "run",
    )
    info = load_model(tmp_path / "run" / "last").info
    assert 1 <= info.step < 10**6


def test_average_follows_the_generator(cohort, tmp_path):
    train(settings_of(cohort, train={"ema": 0.0}), tmp_path / "off")
    state = weights(tmp_path / "off")
    key = next(k for k in state if k.startswith("state/networks/G") and k.endswith("weight"))
    assert torch.equal(state[key], state[key.replace("networks/G", "average")])
    train(settings_of(cohort, train={"ema": 0.9}), tmp_path / "on")
    state = weights(tmp_path / "on")
    assert not torch.equal(state[key], state[key.replace("networks/G", "average")])


def test_no_root_and_no_pairs(cohort, unpaired, tmp_path):
    with refused("config-root-missing", names="data.root"):
        train(
            settings_of(cohort).model_copy(update={"data": settings_of(cohort).data.model_copy(update={"root": None})}),
            tmp_path / "a",
        )
    with refused("cohort-no-pairs"):
        train(settings_of(unpaired), tmp_path / "b")


NO_RANDOMNESS = {  # no draws that differ between processes, and no pool, which two fakes per sample would fill
    # Batch norm sees one half of the batch in each process.
    "ac_gan": {"generator": {"norm": "group"}, "adversary": {"pool": 0}},
    "dcgan": {"generator": {"norm": "group"}, "adversary": {"pool": 0}},
    "glann": {"generator": {"norm": "group"}},
    "glo": {"generator": {"norm": "group"}},
    "imle": {"generator": {"norm": "group"}},
    "lesion_gan": {"noise": 0, "adversary": {"pool": 0}},
    "srgan": {"generator": {}},  # has no norm
    "spade": {"generator": {"latent": 0, "norm": "none"}},
    "vae_gan": {"adversary": {"pool": 0}},
}


# Without methods that compare images of a batch: two batches of one have no pairs.
SPLITTABLE = [name for name in method_names() if settings_class(name).least_batch == 1]


def train_one_step(name, devices, batch, root, out):
    """Train one step by plain gradient descent, on CPU."""
    settings = settings_of(
        Path(root),
        name,
        train={"devices": devices, "accelerator": "cpu", "ema": 0.5, "steps": 1},
        sampling={"batch": batch},
        method={**({"generator": {"norm": "none"}} if translates(name) else {}), **NO_RANDOMNESS.get(name, {})},
    )
    with pytest.MonkeyPatch.context() as patch:
        if not translates(name):
            patch.setattr(torch, "randn_like", torch.zeros_like)
            patch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.5))
        patch.setattr(adversary, "Adam", lambda parameters, rate, betas: torch.optim.SGD(parameters, 0.1))
        train(settings, Path(out))


RANK_PROGRAM = """
import os, sys
from pathlib import Path
cohort, unpaired, out, rank, port = sys.argv[1:]
# What torchrun sets.
os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="1")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GROUP_RANK="0", NODE_RANK="0")
from training.test_loop import SPLITTABLE, needs_pairs, train_one_step
for name in SPLITTABLE:
    train_one_step(name, 2, 1, cohort if needs_pairs(name) else unpaired, Path(out) / name)
"""


@pytest.fixture(scope="module")
def two_processes(cohort, unpaired, tmp_path_factory):
    """Folder with a run of two processes (gloo) for every method.

    All methods share one launch, and so do the workers of pytest-xdist, because starting the processes is slow.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two_processes"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            _run_two_processes(folder, cohort, unpaired)
            (folder / "done").touch()
    return folder


def _run_two_processes(folder, cohort, unpaired):
    """Run both ranks from the warm process; that torchrun starts them is tested below."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        ranks = [pool.submit(run_program, RANK_PROGRAM, cohort, unpaired, folder, rank, port) for rank in range(2)]
    for rank in ranks:
        assert rank.result().returncode == 0, rank.result().stderr


@pytest.mark.parametrize("name", SPLITTABLE)
def test_two_processes_equal_one_on_the_same_global_batch(name, cohort, unpaired, two_processes, tmp_path):
    """A step of every method, by plain gradient descent and without random styles.

    Adam's first step has the same size for every gradient, also for rounding noise around zero, and each process draws
    styles for its own images.
    """
    train_one_step(name, 1, 2, cohort if needs_pairs(name) else unpaired, tmp_path / "run")
    folders = [tmp_path / "run", two_processes / name]
    states = [load_file(folder / "last/training-0.safetensors") for folder in folders]
    learned = [k for k in states[0] if "/networks/" in k or "/average/" in k]
    assert learned
    for k in learned:
        size = max(1.0, states[0][k].abs().max().item())  # CUT's first steps are of size 30
        torch.testing.assert_close(states[0][k], states[1][k], atol=1e-5 * size, rtol=0)
    assert (folders[1] / "last/training-1.safetensors").exists()


def test_torchrun_starts_the_processes(cohort, tmp_path):
    settings = settings_of(cohort, train={"devices": 2, "accelerator": "cpu", "steps": 2})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(settings)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["medgen", "train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "MEMBER: 2/2" in result.stderr and result.stdout.count("trained 2 steps") == 1
    assert (tmp_path / "run/last/training-1.safetensors").exists() and load_model(tmp_path / "run/best").info.step == 2


def test_processes_that_would_each_train_alone_are_refused(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with refused("training-process-count", names=("srun", "train.devices=2")):
        train(settings_of(cohort, train={"devices": 2, "accelerator": "cpu"}), tmp_path / "run")
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused("training-process-count", names="torchrun"):
        train(settings_of(cohort, train={"accelerator": "cpu"}), tmp_path / "run")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded")])
def test_a_checkpoint_that_cannot_be_written_is_refused_with_its_reason(cohort, tmp_path, monkeypatch, error):
    out = tmp_path / "run"
    train(settings_of(cohort, train={"steps": 4}), out)
    before = weights(out)

    def full(*_, **__):
        raise error

    monkeypatch.setattr("medgen.checkpoint.save_file", full)
    with refused("training-state-not-written", names=(error.strerror, "--resume")):
        train(settings_of(cohort), out, resume=True)
    assert same(before, weights(out)) and saved_steps(out).endswith("holds step 4; add --resume to continue from there")
    assert "no step of the run" in saved_steps(tmp_path / "none")
