"""A cohort with damaged studies that is killed at random moments or fills the disk ends as an undisturbed one.

The full test, with 60 studies and separate processes, is benchmarks/killed_cohort.py.
"""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest

from medgen.errors import InputError
from medgen.inference.cohort.run import convert

WHOLE, SPOILED = 12, 3


@pytest.fixture
def studies(tmp_path):
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for n in range(WHOLE + SPOILED):
        scan = rng.integers(-1000, 400, (20, 20, 20)).astype(np.int16)
        nib.save(nib.Nifti1Image(scan, np.diag([2.0, 2, 2, 1])), folder / f"s{n:02d}.nii.gz")
    truncated = folder / "s03.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:300])
    (folder / "s07.nii.gz").write_text("no image")
    (folder / "s11.nii.gz").unlink()
    (folder / "s11.nii.gz").symlink_to(folder / "gone.nii.gz")
    return folder


def contents(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name not in ("manifest.json", ".medgen.record")}


def check(model, studies, out, truth):
    results = convert(model, studies, out)
    assert contents(out) == truth and len(truth) == WHOLE
    assert [r.case for r in results if r.error] == ["s03", "s07", "s11"]
    cases = json.loads((out / "manifest.json").read_text())["cases"]
    assert sum(record["status"] == "converted" for record in cases.values()) == WHOLE
    assert len(cases) == WHOLE + SPOILED


def journal(out):
    try:
        return (out / "manifest.journal").stat().st_size
    except OSError:
        return 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_random_moments(model, studies, tmp_path):
    convert(model, studies, tmp_path / "undisturbed")
    truth, out, rng, killed = contents(tmp_path / "undisturbed"), tmp_path / "out", random.Random(0), 0
    for _ in range(6):
        child = os.fork()
        if not child:
            try:
                convert(model, studies, out)
            finally:
                os._exit(0)
        until = rng.randrange(400, 2000)
        while journal(out) < until and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        try:
            os.kill(child, signal.SIGKILL)
            killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        except (ProcessLookupError, ChildProcessError):
            pass
        assert contents(out).items() >= {k: v for k, v in truth.items() if (out / k).exists()}.items()
    assert killed
    check(model, studies, out, truth)


def test_a_disk_that_fills_up_and_is_freed(model, studies, tmp_path):
    convert(model, studies, tmp_path / "undisturbed")
    truth, disk = contents(tmp_path / "undisturbed"), tmp_path / "disk"
    disk.mkdir()
    size = 2**16 + 3 * sum(len(content) for content in truth.values())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    tried = subprocess.run(mount, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {tried.stderr.strip()}")
    try:
        (disk / "ballast").write_bytes(b"x" * (size // 6 * 5))
        failed = []
        with suppress(InputError):  # where no room is left for the manifest either; the journal has it then
            convert(model, studies, disk / "out", done=lambda entry, *_: failed.append(entry.error))
        failed = [error for error in failed if error]
        assert SPOILED < len(failed) < WHOLE + SPOILED and any("No space left" in error for error in failed)
        left = {k: v for k, v in contents(disk / "out").items() if k != "manifest.journal"}
        assert left.items() <= truth.items()
        (disk / "ballast").unlink()
        check(model, studies, disk / "out", truth)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
