#!/usr/bin/env bash
# All that needs a CUDA machine, in one run of under 8 minutes: bash benchmarks/gpu/run.sh [OUT]
#
# Needs a Python with PyTorch for CUDA, and no network. Packages that it lacks are taken from benchmarks/gpu/wheels, which
# benchmarks/gpu/pack.sh fills beforehand. Writes OUT/gpu.json (records as in results.json), OUT/log.txt, and a short
# table last. PYTHON names another interpreter.
set -uo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
out="${1:-${OUT:-/tmp/medgen_gpu}}"
mkdir -p "$out"
here="$PWD/benchmarks/gpu"

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "no CUDA: $python has no PyTorch that sees a GPU, so nothing was run"
  exit 0
fi

if compgen -G "$here/wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/medgen_site "$here"/wheels/*.whl
fi
export PYTHONPATH="$PWD:$PWD/benchmarks:/tmp/medgen_site:${PYTHONPATH:-}"
# The packed machine has no SimpleITK (50 MiB): the stand-in lets medgen be imported, for paths that do not use it.
"$python" -c 'import SimpleITK' 2>/dev/null || export PYTHONPATH="$PYTHONPATH:$here/stand_in"
export MEDGEN_BENCH_RESULTS="$out/gpu.json" PYTHONUNBUFFERED=1
rm -f "$out/gpu.json" "$out/log.txt" "$out/failed.txt"

step() { # step SECONDS NAME COMMAND...: run it with a time limit; a failure stops nothing
  local limit=$1 name=$2
  shift 2
  echo "== $name" | tee -a "$out/log.txt"
  timeout "$limit" "$@" 2>&1 | tee -a "$out/log.txt"
  local code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || echo "$name: exit code $code" | tee -a "$out/failed.txt"
}

step 60 "loss parity, AMP, DDP" "$python" "$here/checks.py"
step 30 "the machine" "$python" benchmarks/bench_machine.py --cuda
step 120 "generator and training steps" "$python" benchmarks/bench_steps.py --cuda
step 120 "sliding windows, 512 x 512 x 400" "$python" benchmarks/bench_windows.py --cuda
step 90 "evaluation" "$python" benchmarks/bench.py ssim segmentation frechet evaluate
tests=$(grep -rl "cuda.is_available" tests --include='test_*.py' || true)
if [ -n "$tests" ]; then
  # shellcheck disable=SC2086
  step 30 "tests that need a GPU" "$python" -m pytest -q -k "cuda or gpu" $tests
else
  echo "no test needs a GPU"
fi
"$python" "$here/table.py" "$out/gpu.json"
[ ! -s "$out/failed.txt" ] || { cat "$out/failed.txt"; exit 1; }
