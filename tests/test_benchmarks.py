"""The benchmarks' own code: names, records, and the refusal of unequal results. `make bench` runs the benchmarks."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
NAMES = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


@pytest.fixture
def timing(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("timing")
    monkeypatch.setattr(module, "RESULTS", str(tmp_path / "results.json"))
    return module


def recorded(timing):
    path = Path(timing.RESULTS)
    return json.loads(path.read_text()) if path.exists() else []


def test_an_unknown_benchmark_is_refused_with_the_known_names(timing, monkeypatch, capsys):
    bench = importlib.import_module("bench")
    monkeypatch.setattr("sys.argv", ["bench.py", "sim"])
    assert bench.main() == 2
    shown = capsys.readouterr().out
    assert "sim" in shown and all(name in shown.split() for name in NAMES) and bench.names() == NAMES


def test_the_page_on_speed_has_every_benchmark():
    named = set(re.findall(r"[a-z_]+", (ROOT / "docs/performance.md").read_text()))
    assert not set(NAMES) - named


def test_a_record_has_times_memory_difference_and_machine(timing, capsys):
    def slower():
        return [np.ones(2_000_000).cumsum()[:1], 1.0]

    made = timing.compare(
        "bench_x.py", "sum (numpy)", lambda: [np.ones(1), 1.0 + 1e-9], slower, tolerance=1e-6, rounds=3
    )
    timing.single("bench_x.py", "bandwidth", 3.0, "GB/s")
    first, second = recorded(timing)
    assert first == made and first["benchmark"] == "bench_x" and first["row"] == "sum (numpy)" and first["rounds"] == 3
    assert 0 < first["ours_least"] <= first["ours_median"] < first["peer_median"]
    assert first["ratio_low"] <= first["ratio"] <= first["ratio_high"] and first["ratio"] > 1
    assert 0 <= first["difference"] <= first["tolerance"] and first["peer_mib"] > 10 > first["ours_mib"]
    assert second["value"] == 3 and second["unit"] == "GB/s"
    for record in (first, second):
        assert {"date", "commit", "cpu", "cores", "threads", "python", "torch", "monai", "small"} <= record.keys()
    assert "| sum (numpy) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "ours",
    [
        np.array([1.0, 2.1]),
        np.array([1.0, np.nan]),
        np.array([1.0, np.inf]),
        np.array([1.0]),
        torch.tensor([[1.0, 2.0]]),
    ],
    ids=["value", "nan", "infinite", "shape", "dimensions"],
)
def test_unequal_results_are_an_error_and_no_record(timing, ours):
    with pytest.raises(timing.UnequalError):
        timing.compare("x.py", "x", lambda: ours, lambda: np.array([1.0, 2.0]), tolerance=0.05, rounds=1)
    assert recorded(timing) == []


def test_a_result_that_becomes_unequal_later_is_an_error(timing):
    results = iter([1.0, 1.0, 2.0])
    with pytest.raises(timing.UnequalError):
        timing.compare("x.py", "x", lambda: next(results), lambda: 1.0, tolerance=0, rounds=2)


def test_lists_and_mappings_of_other_lengths_or_keys_are_unequal(timing):
    with pytest.raises(timing.UnequalError):
        timing.largest_difference([1.0], [1.0, 2.0])
    with pytest.raises(timing.UnequalError):
        timing.largest_difference({"a": 1.0}, {"b": 1.0})
    assert timing.largest_difference({"a": [np.nan, np.inf]}, {"a": [np.nan, np.inf]}) == 0


def test_the_memory_of_a_program_counts_and_its_failure_is_an_error(timing, tmp_path):
    script = "import time; x = bytearray(60 * 2**20); x[::4096] = b'1' * len(x[::4096]); time.sleep(0.3)"
    made = timing.compare(
        "x.py", "x", lambda: 0, lambda: len(timing.program(["python3", "-c", script])), tolerance=0, rounds=1
    )
    assert made["peer_mib"] > 60 > made["ours_mib"]
    with pytest.raises(RuntimeError, match="no such thing"):
        timing.program(["python3", "-c", "raise SystemExit('no such thing')"])


def test_the_script_for_a_gpu_says_that_there_is_none(tmp_path):
    command = ["bash", str(FOLDER / "gpu/run.sh"), str(tmp_path)]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHON": "false"}, capture_output=True, text=True)
    assert done.returncode == 0 and "no CUDA" in done.stdout


SPEC = importlib.util.spec_from_file_location("eight_gaussians", FOLDER / "eight_gaussians.py")
gaussians = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gaussians)


def test_modes_are_counted_where_samples_are():
    torch.manual_seed(0)
    modes, on = gaussians.scores(gaussians.data(5000)[0])
    assert modes == 8 and on == pytest.approx(0.989, abs=0.01)  # 1 - exp(-3² / 2)
    half = torch.cat([gaussians.CENTRES[2].expand(50, 2), torch.zeros(50, 2)])
    assert gaussians.scores(half) == (1, 0.5)


@pytest.mark.parametrize("name", gaussians.OBJECTIVES)
def test_every_generative_objective_takes_steps_in_two_dimensions(name):
    torch.manual_seed(0)
    sampler = gaussians.OBJECTIVES[name](2)
    with torch.no_grad():
        points = sampler(16)
    assert points.shape == (16, 2) and points.isfinite().all()
