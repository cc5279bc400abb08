"""The checks of this repository, a session each: `nox --list` shows them, `nox` runs those of `.ci/run`.

They run in the environment that nox is installed in, as `pip install -c constraints.txt -e '.[dev]'` makes it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
# docs and examples are parts of test; so is a sample of slow, which is a job of its own in CI, as ray is
nox.options.sessions = ["lint", "types", "test", "gpu-simulated", "fuzz", "package"]


def run_module(session: nox.Session, *command: str) -> None:
    """Run a tool of this very environment, whether it is activated or not."""
    session.run(sys.executable, "-m", *command)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, order of imports, format and spelling; Dockerfiles."""
    run_module(session, "ruff", "check", ".")
    run_module(session, "ruff", "format", "--check", ".")
    run_module(session, "codespell_lib", ".")
    dockerfiles = sorted(map(str, Path("integrations/docker").glob("*.Dockerfile")))
    session.run(str(Path(sys.executable).with_name("hadolint")), *dockerfiles, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Types, as mypy sees them."""
    run_module(session, "mypy")


@nox.session
def test(session: nox.Session) -> None:
    """The tests that need no GPU, a sample of the slow ones among them; or those that the arguments after -- choose."""
    run_module(session, "pytest", *(session.posargs or ("-q", "-n", "auto", "--dist", "worksteal", "--durations=25")))


@nox.session
def slow(session: nox.Session) -> None:
    """The rest: all golden files and models, their graphs through NVIDIA's parser and builder, peers, WebGPU."""
    run_module(session, "pytest", "-q", "-n", "auto", "--dist", "worksteal", "--durations=5", "-m", "slow", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """How many lines of the device side its tests run."""
    run_module(session, "pytest", "-q", "-n", "auto", "--dist", "worksteal", "--cov", "--cov-report=")
    for package in ("svg_common", "svg_runtime"):
        report = (sys.executable, "-m", "coverage", "report", "--format=total", f"--include=*/{package}/*")
        session.log(f"lines of {package} that its tests run: {str(session.run(*report, silent=True)).strip()} %")


@nox.session(name="gpu-simulated")
def gpu_simulated(session: nox.Session) -> None:
    """The tests for a GPU, on one made of host memory: they must work on the day that a real one is there."""
    run_module(session, "pytest", "-q", "-n", "auto", "-p", "tests.gpu.simulated", "tests/gpu", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """svg-forecast on Ray Data, which is large, and not in the development environment: pip install -e '.[ray]'."""
    if importlib.util.find_spec("ray") is None:
        session.skip("Ray is not installed")
    run_module(session, "pytest", "-q", "tests/svg_runtime/offline/test_ray.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Two minutes of hostile files for every reader of foreign bytes, and hostile requests for svg-serve.

    The arguments after -- choose targets and length, and then there are no requests.
    """
    if not session.posargs:
        requests = ("pytest", "-q", "-m", "slow", "tests/svg_runtime/serve/test_serve_fuzz.py")
        session.run(sys.executable, "-m", *requests, env={"SVG_EDGE_FUZZ_EXAMPLES": "100"})
    if importlib.util.find_spec("atheris") is None:
        session.skip("Atheris exists for Linux on x86-64 alone")
    run_module(session, "tests.fuzz", *(session.posargs or ("--minutes", "2")))


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist: built, checked, installed by pipx, every command run. After --: --out DIR keeps both."""
    run_module(session, "release", "package", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages: their links, their commands and the strict build."""
    if not any(importlib.util.find_spec(generator) for generator in ("mkdocs", "zensical")):
        session.skip("no documentation generator is installed")
    run_module(session, "pytest", "tests/test_documentation.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """The pages with the demo for the browser, into site/: what is published. Needs npm."""
    run_module(session, "mkdocs", "build", "--strict", "--site-dir", "site")
    session.run(sys.executable, "docs/demo/build.py", "site/demo")


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, run as its first lines say."""
    run_module(session, "pytest", "tests/test_examples.py", "tests/test_cpp_example.py", *session.posargs)
