# medgen translate as a container: reads /input, writes /output, needs no network (docs/how-to/run_in_a_container.md).
#
#   docker build -t medgen .                                     CPU
#   docker build -t medgen --build-arg TORCH=cu130 .             CUDA 13.0
#
# Build arguments: TORCH, the folder of download.pytorch.org/whl that has the wheels; MODEL, a name that medgen models
# lists; INPUT and OUTPUT, folders below /input and /output for platforms that prescribe them; EXTRAS of pyproject.toml.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
ARG EXTRAS=dicom
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/medgen
ENV PATH=/opt/medgen/bin:$PATH
WORKDIR /source
# torch first, in a layer of its own: it is large and changes rarely. Its dependencies come with those of medgen.
COPY constraints.txt ./
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/${TORCH} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY medgen medgen
RUN pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
ARG MODEL=ct-noncontrast
ARG INPUT=/input
ARG OUTPUT=/output
COPY --from=build /opt/medgen /opt/medgen
COPY --chmod=755 container/translate /usr/local/bin/translate
# Everything that is written outside /output is temporary, so that a read-only root and any user id work.
ENV PATH=/opt/medgen/bin:$PATH \
    MEDGEN_MODEL=${MODEL} \
    MEDGEN_INPUT=${INPUT} \
    MEDGEN_OUTPUT=${OUTPUT} \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 1000 --no-create-home --home-dir /tmp medgen \
    && mkdir -p /input /model "${OUTPUT}" \
    && chown -R medgen /output \
    && medgen models
USER 1000:1000
ENTRYPOINT ["translate"]
