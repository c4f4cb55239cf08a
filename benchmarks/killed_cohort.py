"""Test that an interrupted cohort run is completed by a restart: small phantom studies, some corrupted.

    python benchmarks/killed_cohort.py [--studies 60] [--spoiled 6] [--kills 10] [--seed 0]

1. An undisturbed run as the reference.
2. A run that is killed (SIGKILL) at random times, also while writing, and restarted each time.
3. A run onto a disk (a tmpfs) with space for half of the outputs, restarted after space is freed; skipped if mounting
   is not permitted.

Each must end with every intact study converted to the same bytes as in the undisturbed run, every corrupted study
reported, no partial files, and correct hashes in the manifest. Otherwise differences are printed; the exit code is 1.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from small_model import small_model

from medgen.io.claim import RECORD
from medgen.phantom.cohort import build_anatomy, render

SIZE, MM = (48, 40, 28), 7.0
REPORTED = 2  # exit code if some cases failed


def spoil(path: Path, how: int) -> None:
    """Corrupt a study in one of six ways."""
    intact = path.read_bytes()
    content = bytearray(gzip.decompress(intact))
    if how == 0:
        path.write_bytes(intact[: len(intact) // 2])  # truncated
    elif how == 1:
        path.write_bytes(b"")
    elif how == 2:
        path.write_text("this is not an image")
    elif how == 3:
        content[42:48] = b"\xff\x7f" * 3  # claims 32767³ voxels
        path.write_bytes(gzip.compress(bytes(content)))
    elif how == 4:
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32)
        data[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(data, image.affine), path)
    else:
        path.unlink()
        path.symlink_to(path.with_name("gone"))  # a broken link


def write_studies(folder: Path, studies: int, spoiled: int) -> list[str]:
    """Write studies of small phantoms, some of them corrupted; return the names of the intact ones."""
    folder.mkdir(parents=True)
    scans = [render(build_anatomy(seed, SIZE, (MM,) * 3), "portal_venous") for seed in range(5)]
    corrupted = set(np.linspace(0, studies - 1, spoiled).astype(int).tolist())
    rng = np.random.default_rng(0)
    for n in range(studies):
        scan = np.rint(scans[n % 5] + rng.normal(0, 5, SIZE)).astype(np.int16)
        path = folder / f"study{n:03d}.nii.gz"
        nib.save(nib.Nifti1Image(scan, np.diag([MM, MM, MM, 1])), path)
        if n in corrupted:
            spoil(path, sorted(corrupted).index(n) % 6)
    return [f"study{n:03d}.nii.gz" for n in range(studies) if n not in corrupted]


def start(model: Path, studies: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "medgen", "translate", str(model), str(studies), str(out), "--no-report"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(model: Path, studies: Path, out: Path) -> tuple[int, str]:
    run = start(model, studies, out)
    _, messages = run.communicate()
    return run.returncode, messages


def outputs(out: Path) -> int:
    return len([p for p in out.glob("*.nii.gz") if not p.name.startswith(".")])


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files in an output folder, hidden ones too, except manifest and record of the run."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("manifest.json", RECORD))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def faults(out: Path, reference: dict[str, str], intact: list[str], spoiled: int, result: tuple[int, str]) -> list[str]:
    """Faults of a finished run; empty if there are none."""
    code, messages = result
    cases = json.loads((out / "manifest.json").read_text())["cases"]
    failed = sorted(case for case, record in cases.items() if record["status"] == "failed")
    found = []
    if hashes(out) != reference or sorted(reference) != intact:
        found.append(f"outputs differ: {sorted(set(hashes(out).items()) ^ set(reference.items()))[:5]}")
    if len(failed) != spoiled or messages.count("medgen: error:") != spoiled or "Traceback" in messages:
        found.append(
            f"{len(failed)} recorded and {messages.count('medgen: error:')} reported of {spoiled}: {messages[-500:]}"
        )
    if code != (REPORTED if spoiled else 0) or len(cases) != len(intact) + spoiled:
        found.append(f"exit code {code}, {len(cases)} cases in the manifest")
    wrong = [c for c, r in cases.items() if r["output_sha256"] and r["output_sha256"] != reference.get(f"{c}.nii.gz")]
    return [*found, f"hashes of {wrong} in the manifest"] if wrong else found


def killed(
    model: Path, studies: Path, out: Path, kills: int, rng: random.Random, seconds: float
) -> tuple[list[int], tuple[int, str]]:
    """Kill ``kills`` runs, each at a random time up to ``seconds`` after a random one of its conversions.

    Returns the number of outputs after each kill, and exit code and messages of the final run.
    """
    done = []
    for n in range(kills):
        run = start(model, studies, out)
        assert run.stdout is not None
        remaining = sum(1 for _ in studies.iterdir()) - outputs(out)
        conversions_left = rng.randint(1, max(1, remaining // (kills - n + 1)))  # conversions before this kill
        for line in run.stdout:
            conversions_left -= ": converted" in line
            if not conversions_left:
                break
        time.sleep(rng.uniform(0, seconds))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        done.append(outputs(out) if run.returncode == -signal.SIGKILL else -1)  # -1: the run had already ended
    return done, finish(model, studies, out)


def full_disk(model: Path, studies: Path, disk: Path, needed: int) -> tuple[int, tuple[int, str]] | str:
    """Number of outputs on a full disk, and the result of the run after freeing it; or why this was skipped."""
    disk.mkdir()
    size = 2 * needed + 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        return f"cannot mount a tmpfs: {mounted.stderr.strip()}"
    try:
        ballast, out = disk / "ballast", disk / "out"
        with open(ballast, "wb") as file:
            file.write(b"x" * (size - needed // 2))
        code, messages = finish(model, studies, out)
        if code != REPORTED or "No space left" not in messages or "Traceback" in messages:
            raise SystemExit(f"on a full disk: exit code {code}, {messages[-1500:]}")
        made = outputs(out)
        ballast.unlink()
        result = finish(model, studies, out)
        shutil.copytree(out, disk.with_name("freed"))
        return made, result
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def main(say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--spoiled", type=int, default=6)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model, studies = small_model(root / "model", MM, filters=32), root / "in"
        intact = write_studies(studies, options.studies, options.spoiled)
        run = start(model, studies, root / "undisturbed")
        assert run.stdout is not None
        run.stdout.readline()
        started = time.monotonic()
        _, messages = run.communicate()
        seconds, result = time.monotonic() - started, (run.returncode, messages)
        reference = hashes(root / "undisturbed")
        wrong = {"undisturbed": faults(root / "undisturbed", reference, intact, options.spoiled, result)}
        say(f"undisturbed: {len(reference)} converted, {options.spoiled} reported, {seconds:.0f} s")

        rng = random.Random(options.seed)
        done, result = killed(model, studies, root / "killed", options.kills, rng, 2 * seconds / len(intact))
        wrong["killed"] = faults(root / "killed", reference, intact, options.spoiled, result)
        say(f"killed {options.kills} times after {done} outputs: {len(hashes(root / 'killed'))} outputs in the end")

        full = full_disk(model, studies, root / "disk", sum(p.stat().st_size for p in (root / "undisturbed").iterdir()))
        if isinstance(full, str):
            say(f"full disk: skipped, {full}")
        else:
            wrong["full disk"] = faults(root / "freed", reference, intact, options.spoiled, full[1])
            say(f"full disk: {full[0]} of {len(intact)} outputs; after freeing it: {len(hashes(root / 'freed'))}")
    for name, found in wrong.items():
        say(f"{name}: {'; '.join(found) or 'all outputs identical, all corrupted studies reported, no partial files'}")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
