# syntax=docker/dockerfile:1
# svg-live on the processor of an x86-64 PC: ONNX Runtime and OpenVINO. From the root of the repository:
#
#   docker build -f integrations/docker/cpu.Dockerfile -t svg-edge:cpu .
#
# Not built where it was written, which has no container runtime. docs/containers.md says what was checked instead.
# The tag is exact. For a fleet pin its digest as well, as in python:3.12.11-slim-bookworm@sha256:...; it was not known here.
ARG PYTHON_IMAGE=python:3.12.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The version comes from git, which the image does not get: --build-arg SVG_EDGE_VERSION=0.2.0. Without it: 0.0.dev0.
ARG SVG_EDGE_VERSION=
ENV SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE=${SVG_EDGE_VERSION}
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY svg_train svg_train
COPY export export
COPY runtime runtime
RUN python -m venv /opt/svg-edge \
    && /opt/svg-edge/bin/pip install -c constraints.txt '.[cpu,openvino,mqtt,serve]'

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
ENV PATH=/opt/svg-edge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 SVG_EDGE_CACHE=/cache
USER 10001
WORKDIR /recordings
VOLUME ["/recordings", "/alarms", "/cache"]
# Complete videos; docker kills after stop_grace_period.
STOPSIGNAL SIGTERM
# The first start measures backends. The page is asked: serve in the TOML file, with port 8765, and a
# token in SVG_EDGE_TOKEN. Not through a proxy, which Docker may put into the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.build_opener(web.ProxyHandler({})).open(web.Request('http://127.0.0.1:8765/healthz', headers={'Authorization': 'Bearer ' + os.environ.get('SVG_EDGE_TOKEN', '')}), timeout=4)"]
ENTRYPOINT ["svg-live"]
CMD ["--config", "/etc/svg-edge/live.toml"]
