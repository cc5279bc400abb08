# syntax=docker/dockerfile:1
# svg-live on an NVIDIA GPU of an x86-64 PC. The host needs the driver and the NVIDIA Container Toolkit; CUDA, cuDNN and
# TensorRT are Python packages. From the root of the repository:
#
#   docker build -f integrations/docker/nvidia.Dockerfile -t svg-edge:nvidia .
#
# REQUIREMENTS chooses backend and driver, as in the table of docs/nvidia-install.md:
#
#   tensorrt-cuda13 (driver 580 or later), tensorrt-cuda12 (driver 525 to 575),
#   onnxruntime-cuda13 (the same), onnxruntime-cuda12: --build-arg REQUIREMENTS=onnxruntime-cuda12
#
# Not built where it was written, which has no container runtime. docs/containers.md says what was checked instead.
# The tag is exact. For a fleet pin its digest as well, as in python:3.12.11-slim-bookworm@sha256:...; it was not known here.
ARG PYTHON_IMAGE=python:3.12.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG REQUIREMENTS=tensorrt-cuda13
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The version comes from git, which the image does not get: --build-arg SVG_EDGE_VERSION=0.2.0. Without it: 0.0.dev0.
ARG SVG_EDGE_VERSION=
ENV SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE=${SVG_EDGE_VERSION}
COPY integrations/docker/requirements requirements
COPY pyproject.toml README.md LICENSE ./
COPY svg_train svg_train
COPY export export
COPY runtime runtime
RUN python -m venv /opt/svg-edge \
    && /opt/svg-edge/bin/pip install -r "requirements/${REQUIREMENTS}.txt" '.[mqtt,serve]'

FROM ${PYTHON_IMAGE}
# OpenCV's window code links against OpenGL and GLib, even where no window is opened.
# No exact versions (DL3008): Debian removes one when the next is published, and the build would fail.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --uid 10001 --groups video --create-home svg \
    && install -d -o svg -g svg /recordings /alarms /cache
COPY --from=build /opt/svg-edge /opt/svg-edge
# What the NVIDIA Container Toolkit mounts from the host; CUDA images set these themselves.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
ENV PATH=/opt/svg-edge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 SVG_EDGE_CACHE=/cache
USER 10001
WORKDIR /recordings
VOLUME ["/recordings", "/alarms", "/cache"]
# Complete videos; docker kills after stop_grace_period.
STOPSIGNAL SIGTERM
# The first start builds engines, for minutes. The page is asked: serve in the TOML file, with port 8765, and a
# token in SVG_EDGE_TOKEN. Not through a proxy, which Docker may put into the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.build_opener(web.ProxyHandler({})).open(web.Request('http://127.0.0.1:8765/healthz', headers={'Authorization': 'Bearer ' + os.environ.get('SVG_EDGE_TOKEN', '')}), timeout=4)"]
ENTRYPOINT ["svg-live"]
CMD ["--config", "/etc/svg-edge/live.toml"]
