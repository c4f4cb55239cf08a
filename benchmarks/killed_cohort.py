"""Is a cohort run complete whatever kills it? Small phantom studies, some spoiled, killed at random and resumed.

    python benchmarks/killed_cohort.py [--studies 60] [--spoiled 6] [--kills 10] [--seed 0]

1. An undisturbed run, as the truth.
2. A run killed (SIGKILL) at random moments, also while it writes, and started again each time.
3. A run into a disk (a tmpfs) that has room for half of it, is freed, and is run again; skipped where mounting is
   not allowed.

Each ends with every whole study converted, byte-equal to the undisturbed run's, every spoiled one reported, nothing
half-written, and the manifest's hashes true. Exit code 1 and the difference where not.
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
REPORTED = 2  # exit code where some cases failed


def spoil(path: Path, how: int) -> None:
    """One of six ways in which a study comes in broken."""
    whole = path.read_bytes()
    header = bytearray(gzip.decompress(whole))
    if how == 0:
        path.write_bytes(whole[: len(whole) // 2])  # truncated
    elif how == 1:
        path.write_bytes(b"")
    elif how == 2:
        path.write_text("this is not an image")
    elif how == 3:
        header[42:48] = b"\xff\x7f" * 3  # claims 32767³ voxels
        path.write_bytes(gzip.compress(bytes(header)))
    elif how == 4:
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32)
        data[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(data, image.affine), path)
    else:
        path.unlink()
        path.symlink_to(path.with_name("gone"))  # a link whose file was moved


def write_studies(folder: Path, studies: int, spoiled: int) -> list[str]:
    """Studies of small phantoms, evenly spoiled; returns the names of the whole ones."""
    folder.mkdir(parents=True)
    scans = [render(build_anatomy(seed, SIZE, (MM,) * 3), "portal_venous") for seed in range(5)]
    broken = set(np.linspace(0, studies - 1, spoiled).astype(int).tolist())
    rng = np.random.default_rng(0)
    for n in range(studies):
        scan = np.rint(scans[n % 5] + rng.normal(0, 5, SIZE)).astype(np.int16)
        path = folder / f"study{n:03d}.nii.gz"
        nib.save(nib.Nifti1Image(scan, np.diag([MM, MM, MM, 1])), path)
        if n in broken:
            spoil(path, sorted(broken).index(n) % 6)
    return [f"study{n:03d}.nii.gz" for n in range(studies) if n not in broken]


def start(model: Path, studies: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "medgen", "translate", str(model), str(studies), str(out), "--no-report"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(model: Path, studies: Path, out: Path) -> tuple[int, str]:
    run = start(model, studies, out)
    _, said = run.communicate()
    return run.returncode, said


def outputs(out: Path) -> int:
    return len([p for p in out.glob("*.nii.gz") if not p.name.startswith(".")])


def hashes(folder: Path) -> dict[str, str]:
    """Everything in an output folder but what tells of the run itself, hidden files too."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("manifest.json", RECORD))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def faults(out: Path, truth: dict[str, str], whole: list[str], spoiled: int, ended: tuple[int, str]) -> list[str]:
    """What is wrong with a finished run; empty where nothing is."""
    code, said = ended
    cases = json.loads((out / "manifest.json").read_text())["cases"]
    failed = sorted(case for case, record in cases.items() if record["status"] == "failed")
    found = []
    if hashes(out) != truth or sorted(truth) != whole:
        found.append(f"outputs differ: {sorted(set(hashes(out).items()) ^ set(truth.items()))[:5]}")
    if len(failed) != spoiled or said.count("medgen: error:") != spoiled or "Traceback" in said:
        found.append(f"{len(failed)} recorded and {said.count('medgen: error:')} told of {spoiled}: {said[-500:]}")
    if code != (REPORTED if spoiled else 0) or len(cases) != len(whole) + spoiled:
        found.append(f"exit code {code}, {len(cases)} cases in the manifest")
    wrong = [c for c, r in cases.items() if r["output_sha256"] and r["output_sha256"] != truth.get(f"{c}.nii.gz")]
    return [*found, f"hashes of {wrong} in the manifest"] if wrong else found


def killed(
    model: Path, studies: Path, out: Path, kills: int, rng: random.Random, seconds: float
) -> tuple[list[int], tuple[int, str]]:
    """Kill ``kills`` runs, each at a random moment up to ``seconds`` after a random one of its conversions.

    Returns the outputs after each, and how it all ended.
    """
    done = []
    for n in range(kills):
        run = start(model, studies, out)
        assert run.stdout is not None
        remaining = sum(1 for _ in studies.iterdir()) - outputs(out)
        left = rng.randint(1, max(1, remaining // (kills - n + 1)))  # conversions until then: some for each kill
        for line in run.stdout:
            left -= ": converted" in line
            if not left:
                break
        time.sleep(rng.uniform(0, seconds))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        done.append(outputs(out) if run.returncode == -signal.SIGKILL else -1)  # -1: it had ended before
    return done, finish(model, studies, out)


def full_disk(model: Path, studies: Path, disk: Path, needed: int) -> tuple[int, tuple[int, str]] | str:
    """Outputs while the disk is full, and how the run after freeing it ended; or why it could not be tried."""
    disk.mkdir()
    size = 2 * needed + 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    tried = subprocess.run(mount, capture_output=True, text=True)
    if tried.returncode:
        return f"a tmpfs cannot be mounted here: {tried.stderr.strip()}"
    try:
        ballast, out = disk / "ballast", disk / "out"
        with open(ballast, "wb") as file:
            file.write(b"x" * (size - needed // 2))
        code, said = finish(model, studies, out)
        if code != REPORTED or "No space left" not in said or "Traceback" in said:
            raise SystemExit(f"on a full disk: exit code {code}, {said[-1500:]}")
        made = outputs(out)
        ballast.unlink()
        ended = finish(model, studies, out)
        shutil.copytree(out, disk.with_name("freed"))
        return made, ended
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
        whole = write_studies(studies, options.studies, options.spoiled)
        run = start(model, studies, root / "undisturbed")
        assert run.stdout is not None
        run.stdout.readline()
        started = time.monotonic()
        _, said = run.communicate()
        seconds, ended = time.monotonic() - started, (run.returncode, said)
        truth = hashes(root / "undisturbed")
        wrong = {"undisturbed": faults(root / "undisturbed", truth, whole, options.spoiled, ended)}
        say(f"undisturbed: {len(truth)} converted, {options.spoiled} reported, {seconds:.0f} s")

        rng = random.Random(options.seed)
        done, ended = killed(model, studies, root / "killed", options.kills, rng, 2 * seconds / len(whole))
        wrong["killed"] = faults(root / "killed", truth, whole, options.spoiled, ended)
        say(f"killed {options.kills} times with {done} done: {len(hashes(root / 'killed'))} outputs")

        full = full_disk(model, studies, root / "disk", sum(p.stat().st_size for p in (root / "undisturbed").iterdir()))
        if isinstance(full, str):
            say(f"full disk: skipped, {full}")
        else:
            wrong["full disk"] = faults(root / "freed", truth, whole, options.spoiled, full[1])
            say(f"full disk: {full[0]} of {len(whole)} fitted; freed: {len(hashes(root / 'freed'))} outputs")
    for name, found in wrong.items():
        say(f"{name}: {'; '.join(found) or 'every output equal, every spoiled study reported, nothing half-written'}")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
