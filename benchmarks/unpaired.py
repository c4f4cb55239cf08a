r"""Compare methods for unpaired contrast CT → non-contrast CT on the embedded cohort at equal minutes or steps.

    python benchmarks/unpaired.py OUT --minutes 20 --runs cyclegan:0 cut:0 cut:1 fastcut:0 [--set section.key=value ...]
    python benchmarks/unpaired.py OUT --steps 4000 --jobs 6 --runs cyclegan:0 cut:0 \
        --set method.generator.pointwise_features=8

A run is METHOD:SEED with ``configs/ct_contrast_METHOD.yaml``; finished runs in OUT are not repeated. ``--jobs`` sets
the number of parallel trainings, which suits a GPU; ``--cohort`` is a folder of phantoms written by another call.
Training uses 16 contrast and 16 other non-contrast patients. Testing uses four patients of another seed, whose truth is
not used in training. Prints a row for the ``best`` checkpoint of each run (chosen without the truth), compared with the
kept checkpoint that is best by the truth.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medgen.checkpoint import load_model
from medgen.commands.shared import pick_device
from medgen.data.body_mask import body_mask
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.phantom.cohort import LABELS
from medgen.terminology import is_lesion

ROOT = Path(__file__).parent.parent
ORGANS = ("aorta", "kidney_left", "kidney_right", "liver", "bone", "lung")
LESIONS = tuple(filter(is_lesion, LABELS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=20)
    budget.add_argument("--steps", type=int, help="steps of each run, instead of minutes")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--cohort", type=Path, help="folder of the phantoms; default: OUT")
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    cohort = arguments.cohort or out
    if not (cohort / "unpaired").exists():
        medgen("phantom", cohort / "unpaired", "--patients", 16, "--unpaired", "--seed", 1)
        medgen("phantom", cohort / "test", "--patients", 4, "--seed", 2)
    cases = load_cases(cohort / "test")
    references = {
        "source": means([(c, c["source"]) for c in cases]),
        "truth": means([(c, c["source"].replaced(c["truth"])) for c in cases]),
    }
    print(header(references))
    budget = f"train.steps={arguments.steps}" if arguments.steps else f"train.minutes={arguments.minutes}"
    overrides = [f"data.root={cohort / 'unpaired'}", budget, "train.keep=true", *arguments.overrides]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda name: run_one(out, name, overrides, cases), arguments.runs)
        for name, result in zip(arguments.runs, results, strict=True):
            print(row(name, result, **references), flush=True)


def medgen(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "medgen", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def load_cases(folder: Path) -> list[dict[str, Any]]:
    """Source, truth, regions and body mask of each test patient."""
    names = json.loads((folder / "labels.json").read_text())
    cases = []
    for path in sorted((folder / "source").glob("*.nii.gz")):
        source = read_volume(path)
        labels = read_volume(folder / "labels" / path.name).data
        regions = {k: labels == v for k, v in names.items()}
        truth = read_volume(folder / "target" / path.name).data
        cases.append({"source": source, "truth": truth, "regions": regions, "body": body_mask(source.data)})
    return cases


def run_one(out: Path, name: str, overrides: list[str], cases: list[dict[str, Any]]) -> dict[str, Any]:
    method, _, seed = name.partition(":")
    folder = out / name.replace(":", "_")
    done = folder / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    config = ROOT / "configs" / f"ct_contrast_{method}.yaml"
    command = ["train", config, f"train.seed={seed or 0}", *overrides, "--out", folder]
    resume = ["--resume"] if (folder / "last").exists() else []
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "medgen", *map(str, command), *resume], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed")
    result: dict[str, Any] = {"minutes": (time.monotonic() - started) / 60, "peak_gib": usage.ru_maxrss / 2**20}
    last = load_model(folder / "last").info
    result["steps"] = last.step
    result["best"] = {"step": load_model(folder / "best").info.step, **score(folder / "best", cases)}
    kept = sorted((folder / "kept").iterdir())
    result["kept"] = {int(k.name.split("_")[1]): score(k, cases) for k in kept}
    result["curve"] = last.curve
    done.write_text(json.dumps(result, indent=1))
    return result


def score(model_folder: Path, cases: list[dict[str, Any]]) -> dict[str, float]:
    """Body MAE and mean HU of each region, averaged over the test patients."""
    model = load_model(model_folder, pick_device("auto"))
    return means([(case, translate_volume(model, case["source"])) for case in cases])


def means(pairs: list[tuple[dict[str, Any], Volume]]) -> dict[str, float]:
    rows = []
    for case, predicted in pairs:
        y = predicted.data
        found = {"mae": float(np.abs(y - case["truth"])[case["body"]].mean())}
        found |= {k: float(y[r].mean()) for k, r in case["regions"].items() if r.any()}
        lesions = np.any([case["regions"][k] for k in LESIONS], 0)
        if lesions.any():
            found["lesion_contrast"] = float(y[lesions].mean() - y[case["regions"]["liver"]].mean())
        rows.append(found)
    return {k: float(np.mean([r[k] for r in rows if k in r])) for k in rows[0]}


def header(references: dict[str, dict[str, float]]) -> str:
    columns = ["run", "steps", "s/step", "peak GiB", "body MAE", *ORGANS, "lesion contrast"]
    columns += [
        "aorta, contrast removed",
        "kidneys, contrast removed",
        "best step",
        "step by truth",
        "MAE by truth",
        "excess MAE",
    ]
    lines = [columns, ["---"] * len(columns)]
    for name, values in references.items():
        shown = [f"{values['mae']:.2f}", *(f"{values[o]:.1f}" for o in ORGANS), f"{values['lesion_contrast']:.1f}"]
        lines.append([name, "", "", "", *shown, *[""] * 6])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row(name: str, result: dict[str, Any], source: dict[str, float], truth: dict[str, float]) -> str:
    best, kept = result["best"], result["kept"]
    step, picked = min(kept.items(), key=lambda item: item[1]["mae"])

    def removed(*organs: str) -> str:
        return f"{np.mean([(source[o] - best[o]) / (source[o] - truth[o]) for o in organs]):.0%}"

    cells = [name, str(result["steps"]), f"{60 * result['minutes'] / result['steps']:.2f}", f"{result['peak_gib']:.1f}"]
    cells += [f"{best['mae']:.2f}", *(f"{best[o]:.1f}" for o in ORGANS), f"{best['lesion_contrast']:.1f}"]
    cells += [
        removed("aorta"),
        removed("kidney_left", "kidney_right"),
        str(best["step"]),
        str(step),
        f"{picked['mae']:.2f}",
    ]
    return "| " + " | ".join([*cells, f"{best['mae'] / picked['mae'] - 1:+.1%}"]) + " |"


if __name__ == "__main__":
    main()
