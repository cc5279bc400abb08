"""Recipes by path and by name, and the command that reads them."""

from __future__ import annotations

import fnmatch
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svg_adapt.cli import app
from svg_common.errors import UsageError
from svg_train import recipe_files
from svg_train.config import build_config
from svg_train.recipe_files import load_recipe, shipped_recipes
from svg_train.train import BN_BATCHES

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in (ROOT / "svg_train" / "recipes").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_recipe_is_valid_and_says_what_it_is_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = build_config(load_recipe(name)).train
    if train.save_every % train.eval_every:  # then each save takes forward passes of its own: see Trainer._evaluated_model
        assert train.save_every >= 10 * BN_BATCHES
    purpose = shipped_recipes()[name]
    assert purpose[0].isupper()
    assert purpose.endswith(".")  # and is a whole sentence
    assert (ROOT / "svg_train/recipes" / f"{name}.toml").read_text(encoding="utf-8").startswith(f"# {purpose}\n")


def test_a_file_wins_over_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_recipe("video")
    Path("video").mkdir()  # of clips
    assert load_recipe("video") == shipped
    Path("comparison").write_text("[train]\nsteps = 7\n", encoding="utf-8")
    assert load_recipe("comparison") == {"train": {"steps": 7}}


def test_an_unknown_name_lists_the_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_recipe("vidoe")
    message = str(caught.value)
    assert "unknown recipe 'vidoe'" in message
    assert ", ".join(NAMES) in message
    assert message.splitlines()[-1].endswith("svg-train --list-recipes")


@pytest.mark.parametrize(
    "content",
    [b"[train\n", b"\xff\xfe", b"[train]\nseed = 1" + b"0" * 5000, b"a = " + b"[" * 5000],
    ids=["unfinished", "not text", "a number beyond Python's limit", "nested beyond Python's limit"],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path, content):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(UsageError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path, encoding):
    (tmp_path / "r.toml").write_bytes("[train]\nsteps = 7  # größer\n".encode(encoding))
    assert load_recipe(str(tmp_path / "r.toml")) == {"train": {"steps": 7}}


def test_a_recipe_that_an_editor_saved_with_a_mark_is_read(shared_data):
    recipe = shared_data / "odd" / "recipe_with_bom.toml"
    if not recipe.is_file():
        pytest.skip("no such file")
    assert build_config(load_recipe(str(recipe)), {"data": {"root": "clips"}})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_refused_as_what_it_is(tmp_path, encoding):
    (tmp_path / "r.toml").write_bytes("[train]\nsteps = 7\n".encode(encoding))
    with pytest.raises(UsageError, match=r"it is UTF-16 or UTF-32, or not text; save it as UTF-8"):
        load_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize("source", ["/dev/zero", "long.toml"])
def test_of_an_endless_file_not_all_is_read(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.toml").write_text("[train]\n" + "".join(f"a{number} = 1\n" for number in range(200_000)))
    with pytest.raises(UsageError, match="more than 1 MiB"):
        load_recipe(source)


@pytest.mark.parametrize("text", ["train = 3", "[[train]]\nsteps = 1", "train = [1]", "model = 'dcgan'", "data = []"])
def test_what_is_no_table_is_refused_with_its_name(text, tmp_path):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError, match=rf"invalid configuration:\n  {re.findall('[a-z]+', text)[0]}: "):
        build_config(load_recipe(str(tmp_path / "a.toml")), {"model": {}, "data": {"name": "digits"}, "train": {"steps": 2}})


@pytest.mark.parametrize("setting", ["lr", "beta", "beta_start"])
def test_a_setting_is_a_finite_number(setting, tmp_path):
    (tmp_path / "a.toml").write_text(f"[train]\n{setting} = inf")
    with pytest.raises(UsageError, match=f"train.{setting}: Input should be a finite number"):
        build_config(load_recipe(str(tmp_path / "a.toml")))
    assert build_config({"train": {"gradient_clip": float("inf")}})  # no limit


def test_of_many_mistakes_the_first_are_listed():
    with pytest.raises(UsageError) as refused:
        build_config({"train": {f"a{number}": 1 for number in range(1000)}})
    assert str(refused.value).count("\n") == 61
    assert str(refused.value).endswith("\n  and 940 more")


def test_another_encoding_is_refused_with_the_line(tmp_path):
    (tmp_path / "r.toml").write_bytes("[train]\nsteps = 7  # größer\n".encode("latin-1"))
    with pytest.raises(UsageError, match="it is not UTF-8: invalid byte 0xf6 in line 2; save it as UTF-8"):
        load_recipe(str(tmp_path / "r.toml"))


def test_list_recipes_shows_each_with_its_purpose(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # not needed for that
    result = CliRunner().invoke(app, ["--list-recipes"])
    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.output.splitlines()] == [[*item] for item in shipped_recipes().items()]


def test_flags_override_a_recipe_taken_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--config", "video", "--channels", "1", "--data", "digits", "--frame-step", "2"])
    assert isinstance(result.exception, UsageError)  # of frame_step, not of the recipe's three channels
    assert str(result.exception).startswith("--frame-step does not apply to the data 'digits', only to video, kth\n")


def test_the_package_holds_the_recipes():
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["svg_train"]
    folder = Path(recipe_files.__file__).parent
    packaged = {path.stem for path in (folder / "recipes").iterdir()
                if any(fnmatch.fnmatch(str(path.relative_to(folder)), pattern) for pattern in patterns)}  # fmt: skip
    assert packaged == set(NAMES) == set(shipped_recipes())
