# syntax=docker/dockerfile:1
# svg-live with TensorRT on a Jetson Thor with JetPack 7, and on an Orin from JetPack 7.2 on. On the Jetson, from the root of
# the repository:
#
#   docker build -f integrations/docker/jetpack7.Dockerfile -t svg-edge:jetpack7 .
#
# For JetPack 7 no tag of l4t-jetpack was found. tensorrt:25.08-py3 is an image for 64-bit Arm servers too: Ubuntu 24.04 with
# Python 3.12, CUDA 13.0 and TensorRT 10.13, as JetPack 7.0 and 7.1. For 7.2, set TENSORRT_IMAGE to one with TensorRT 10.16.
#
# Not built where it was written, which has no container runtime. docs/containers.md says what was checked instead.
# The tag is exact. For a fleet pin its digest as well; it was not known here.
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:25.08-py3

FROM ${TENSORRT_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# No exact versions (DL3008): Ubuntu removes one when the next is published, and the build would fail.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The version comes from git, which the image does not get: --build-arg SVG_EDGE_VERSION=0.2.0. Without it: 0.0.dev0.
ARG SVG_EDGE_VERSION=
ENV SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE=${SVG_EDGE_VERSION}
COPY pyproject.toml README.md LICENSE ./
COPY svg_train svg_train
COPY export export
COPY runtime runtime
# TensorRT is that of the image: the environment sees it through --system-site-packages. While the image is built it can be
# found, but not loaded: libraries of the host are missing.
RUN python3 -m venv --system-site-packages /opt/svg-edge \
    && /opt/svg-edge/bin/pip install '.[mqtt,serve]' 'filelock>=3.30' 'cuda-bindings==13.0.*' \
    && /opt/svg-edge/bin/python -c 'import importlib.util as found, sys; sys.exit(found.find_spec("tensorrt") is None)'

FROM ${TENSORRT_IMAGE}
# OpenCV's window code links against OpenGL and GLib, even where no window is opened.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0t64 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --uid 10001 --groups video --create-home svg \
    && install -d -o svg -g svg /recordings /alarms /cache
COPY --from=build /opt/svg-edge /opt/svg-edge
# What the NVIDIA runtime mounts from the host; the base image says the same.
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
