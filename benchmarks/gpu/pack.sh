#!/usr/bin/env bash
# Fetch the packages that a bare CUDA machine lacks into benchmarks/gpu/wheels (ignored by git), before run.sh:
#   bash benchmarks/gpu/pack.sh [PYTHON_VERSION]
# SimpleITK is left out, because its wheel alone has 50 MiB; see stand_in.
set -euo pipefail
cd "$(dirname "$0")"
wheels=(monai nibabel pydicom lightning-fabric lightning-utilities isal pydantic pydantic-core annotated-types
  typing-inspection)
rm -rf wheels
# pydantic needs its own pydantic-core, so pip resolves these two together.
"${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version "${1:-3.12}" \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  -c ../../constraints.txt -d wheels "${wheels[@]}"
du -sh wheels
