"""The images and the compose file: linted, valid by the specification, and as the documentation says. Nothing is built."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from svg_common.toml_files import read_toml
from svg_runtime.live import loop
from svg_runtime.live.cli import live, main
from svg_runtime.live.config.live_config import LiveConfig
from svg_runtime.live.config.settings import settings_of
from tests.svg_runtime.backends.install_helpers import install_only
from tests.svg_runtime.live.live_helpers import write_video
from tests.svg_runtime.live.page.page_helpers import make_view, served_page

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integrations" / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
each_dockerfile = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)


def instructions(file: Path, name: str) -> list[str]:
    """The arguments of every instruction of this name, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", file.read_text(), flags=re.M))
    return re.findall(rf"^{name} (.*)$", text, re.M)


def engines_of_images() -> list[tuple[str, ...]]:
    """The modules of the engines that are installed together in an image: once for all images with the same ones."""
    texts = ["".join(instructions(file, "RUN")) for file in DOCKERFILES if file.stem != "nvidia"]
    texts += [file.read_text() for file in (FOLDER / "requirements").iterdir()]
    packages = {"onnxruntime": r"\bonnxruntime\b|\[cpu\b", "openvino": r"\bopenvino\b", "tensorrt": r"\btensorrt\b"}
    return sorted({tuple(name for name, pattern in packages.items() if re.search(pattern, text)) for text in texts})


def health_check(file: Path) -> list[str]:
    """The command of HEALTHCHECK."""
    (check,) = instructions(file, "HEALTHCHECK")
    command: list[str] = json.loads(check.partition("CMD ")[2])
    return command


@each_dockerfile
def test_hadolint_finds_nothing(file):
    run = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", file], capture_output=True, text=True, timeout=60
    )
    assert run.stdout == ""


@each_dockerfile
def test_an_image_is_pinned_runs_without_root_and_stops_gracefully(file):
    images = [argument.partition("=")[2] for argument in instructions(file, "ARG") if "_IMAGE=" in argument]
    assert len(images) == 1
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", images[0])
    assert instructions(file, "USER")[-1] == "10001"
    assert instructions(file, "STOPSIGNAL") == ["SIGTERM"]
    assert health_check(file)[:2] == ["python", "-c"]
    assert instructions(file, "VOLUME") == ['["/recordings", "/alarms", "/cache"]']
    assert "Not built where it was written" in file.read_text()


@each_dockerfile
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_image_runs_what_svg_live_understands(file, host, monkeypatch, tmp_path):
    """By the real command line, up to where cameras are opened; who reaches the page is said in the file of options."""
    (tmp_path / "live.toml").write_text((FOLDER / "live.toml").read_text().replace("127.0.0.1", host))
    started = []
    monkeypatch.setattr(loop, "run_cameras", lambda cameras, console: started.extend(cameras))
    (entry,) = map(json.loads, instructions(file, "ENTRYPOINT"))
    (arguments,) = map(json.loads, instructions(file, "CMD"))
    assert (entry, "/etc/svg-edge/live.toml" in arguments) == (["svg-live"], True)
    here = [argument.replace("/etc/svg-edge", str(tmp_path)) for argument in arguments]
    monkeypatch.setattr("sys.argv", [*entry, *here])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (None, 0)
    (camera,) = started
    assert not camera.window
    assert camera.serve.address.host == host
    assert f"http://127.0.0.1:{camera.serve.address.port}/healthz" in health_check(file)[-1]


@each_dockerfile
def test_an_image_is_healthy_while_pictures_come(file):
    """Also where the environment has a proxy, which cannot reach the container's own address."""
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with served_page() as (page, address):
        command = health_check(file)[-1].replace("http://127.0.0.1:8765", address)

        def exit_code() -> int:
            return subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, timeout=60).returncode

        page.cameras["wall"].publish(make_view())
        page.cameras["wall"]._published_s += 60  # a test machine may be slow
        assert exit_code() == 0
        page.cameras["wall"].end("ended: lost source")
        assert exit_code() == 1


@each_dockerfile
def test_what_an_image_copies_exists(file):
    sources = [word for copied in instructions(file, "COPY") if "--from" not in copied for word in copied.split()[:-1]]
    assert "runtime" in sources
    assert all((ROOT / source).exists() for source in sources)
    for name in re.findall(r"REQUIREMENTS=([\w-]+)", file.read_text()):
        assert (FOLDER / "requirements" / f"{name}.txt").is_file()


@each_dockerfile
def test_an_image_is_told_its_version_before_it_is_installed(file):
    """It has no git; setuptools-scm reads this variable instead."""
    text = file.read_text()
    told = "ENV SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SVG_EDGE=${SVG_EDGE_VERSION}"
    assert "SVG_EDGE_VERSION=" in instructions(file, "ARG")
    assert text.index("ARG SVG_EDGE_VERSION=") < text.index(told) < text.index("bin/pip install")
    services = [each for each in COMPOSE["services"].values() if each["build"]["dockerfile"].endswith(file.name)]
    assert {each["build"]["args"]["SVG_EDGE_VERSION"] for each in services} == {"${SVG_EDGE_VERSION:-}"}


def test_every_row_of_the_table_has_an_image():
    """Of docs/nvidia-install.md: two of JetPack, two of desktop drivers."""
    lines = (ROOT / "docs" / "nvidia-install.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| Jetson", "| desktop"))]
    assert len(rows) == 4
    images = {"JetPack 6": "jetpack6", "JetPack 7": "jetpack7", "driver 580": "nvidia", "driver 525": "nvidia"}
    for words, name in images.items():
        assert sum(words in row for row in rows) == 1
        assert (FOLDER / f"{name}.Dockerfile") in DOCKERFILES
        assert words in (FOLDER / f"{name}.Dockerfile").read_text()


def test_the_compose_file_is_one_by_the_specification(tmp_path):
    """Also with the port of the page, which docs/containers.md opens by removing a `#`."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    text = (FOLDER / "compose.yaml").read_text()
    opened = tmp_path / "opened.yaml"
    opened.write_text(text.replace("# ports", "ports"))
    assert all(service["ports"] == ["8765:8765"] for service in yaml.safe_load(opened.read_text())["services"].values())
    assert subprocess.run([*check, FOLDER / "compose.yaml", opened], capture_output=True, timeout=60).returncode == 0
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(text.replace("cap_drop:", "capdrop:"))
    run = subprocess.run([*check, wrong], capture_output=True, text=True, timeout=60)
    assert "capdrop" in run.stdout


def test_every_service_is_built_from_a_file_of_its_own_profile():
    services = COMPOSE["services"]
    assert {Path(service["build"]["dockerfile"]).name for service in services.values()} == {file.name for file in DOCKERFILES}
    for name, service in services.items():
        assert service["profiles"] == [name]
        assert service["image"] == f"svg-edge:{name}"
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["volumes"][1:4] == ["recordings:/recordings", "alarms:/alarms", "cache:/cache"]
        assert service["devices"]
        assert service["restart"] == "unless-stopped"  # on-failure does not outlive a reboot
    assert "Compose, `restart: unless-stopped`" in (ROOT / "docs" / "service.md").read_text()


def test_the_options_of_the_container_are_options():
    """And write to its volumes alone."""
    path = FOLDER / "live.toml"
    values = LiveConfig.load(path, settings_of(live)).defaults
    assert values == read_toml(path)
    volumes = ("/recordings", "/alarms")
    assert all(values[key].startswith(volumes) for key in ("record", "alarm_dir", "events"))


@pytest.mark.parametrize("engines", engines_of_images(), ids="+".join)
def test_the_options_of_the_container_run_with_what_an_image_has(engines, monkeypatch, tmp_path):
    """On a file in the place of the camera, and into other folders than the volumes."""
    for module in ("cuda.bindings", "filelock", *(name for name in engines if name != "tensorrt")):
        pytest.importorskip(module)
    built = install_only(monkeypatch, *engines)
    options = (FOLDER / "live.toml").read_text().replace('"/', f'"{tmp_path}/')
    video = write_video(tmp_path / "camera.mp4")
    (tmp_path / "live.toml").write_text(options.replace("camera = 0", f'source = "{video}"\nmodel = "digits"'))
    monkeypatch.delenv("SVG_EDGE_CALIBRATE", raising=False)
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    here = ["--config", str(tmp_path / "live.toml"), "--serve", "0"]  # its own port may be taken
    monkeypatch.setattr("sys.argv", ["svg-live", *here, "--samples", "2", "--horizon", "2"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (None, 0)
    assert list((tmp_path / "recordings").iterdir())
    assert bool(built) == (engines == ("tensorrt",))
