"""docs/demo/build.py: what it refuses, and that it takes exactly the package that is pinned."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from docs.demo import build as demo
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle


def test_the_page_has_the_shipped_bundles_and_nothing_that_only_building_needs(site):
    for model in ("digits", "camera"):
        built, shipped = (Bundle.open(folder / f"{model}.svgb") for folder in (site / "models", EMBEDDED_MODEL.parent))
        assert built.manifest == shipped.manifest
    names = {path.name for path in site.rglob("*")}
    assert {"index.html", "demo.js", "ort.wasm.min.mjs", "forecaster.mjs", "ThirdPartyNotices.txt"} <= names
    terms = (site / "ort" / "LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) Microsoft Corporation" in terms
    assert "Permission is hereby granted, free of charge" in terms
    assert not names & {"build.py", "package.json", "package-lock.json", "node_modules"}


def test_every_package_is_pinned_by_hash():
    lock = json.loads((demo.HERE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/onnxruntime-web" in packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    wanted = json.loads((demo.HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert wanted == {"onnxruntime-web": packages["node_modules/onnxruntime-web"]["version"]}


def test_a_package_of_another_hash_is_refused(site, tmp_path, monkeypatch):
    here = tmp_path / "demo"
    shutil.copytree(demo.HERE, here)
    lock = json.loads((here / "package-lock.json").read_text(encoding="utf-8"))
    other = lock["packages"]["node_modules/long"]["integrity"]
    lock["packages"]["node_modules/platform"]["integrity"] = other
    (here / "package-lock.json").write_text(json.dumps(lock))
    monkeypatch.setattr(demo, "HERE", here)
    monkeypatch.setattr(demo, "BUILD", tmp_path / "build")
    with pytest.raises(SystemExit) as ended:
        demo.main([str(tmp_path / "out")])
    if re.search("npm is not installed|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT", str(ended.value)):
        pytest.skip(str(ended.value))  # the page itself is of an earlier build
    assert "EINTEGRITY" in str(ended.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "build").exists()


def test_without_npm_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BUILD", tmp_path / "build")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        demo.main([str(tmp_path / "out")])
    assert "npm is not installed" in str(ended.value)


def test_a_license_that_is_missing_is_not_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "installed_packages", lambda: pytest.fail("it goes on"))
    monkeypatch.setattr(demo, "LICENSES", {**demo.LICENSES, "missing.txt": "missing.txt"})
    with pytest.raises(SystemExit, match=r"missing\.txt is missing.*\n  run: pip install "):
        demo.main([str(tmp_path / "out")])


def test_the_sources_of_the_page_are_not_replaced_by_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "installed_packages", lambda: pytest.fail("it goes on"))
    here = tmp_path / "demo"
    shutil.copytree(demo.HERE, here)
    with pytest.raises(SystemExit) as ended:
        demo.main([str(here)])
    assert "is not this page" in str(ended.value)


def test_what_the_documentation_copied_of_the_page_is_replaced(site, tmp_path):
    """As nox -s site does it, after mkdocs."""
    for name in ("index.html", "demo.js"):
        shutil.copy(demo.HERE / name, tmp_path)
    demo.main([str(tmp_path)])
    assert (tmp_path / "shared.json").is_file()


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit) as ended:
        demo.main([str(tmp_path)])
    assert "is not this page" in str(ended.value)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["mine.txt"]
