"""Command-line options are the fields of the configuration, in every command that has them."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from pydantic import create_model
from typer.main import get_command
from typer.testing import CliRunner

from svg_adapt.cli import app as svg_train
from svg_common.command import run_command
from svg_common.errors import UsageError
from svg_eval.cli import app as svg_eval
from svg_export.cli import app as svg_export
from svg_train.config import Config, build_config
from svg_train.config_options import arguments, bounds, config_options, fields, flag, settings_of
from svg_train.families import FAMILIES
from svg_train.families.base import Family, FamilyConfig

FIELDS = [(table, name) for table in Config.model_fields for name in fields(table)]


def options(app):
    """The options of a command by their flags."""
    return {name: option for option in get_command(app).params for name in option.opts}


@pytest.mark.parametrize(("table", "name"), FIELDS)
def test_every_field_is_an_option_of_svg_train_with_its_help_and_bounds(table, name):
    option, field = options(svg_train)[flag(table, name)], fields(table)[name]
    assert field.description
    assert option.help == field.description
    assert option.default is None  # not given: a recipe keeps its value
    limits = bounds(field)
    if {"gt", "lt"} & limits.keys():
        assert all(f"{value:g}" in option.metavar for value in limits.values())
    else:
        assert (option.min, option.max) == (limits.get("ge"), limits.get("le"))


@pytest.mark.parametrize(
    ("app", "names"), [(svg_eval, fields("data")), (svg_export, ("name", "root", "num_digits", "source_fps"))]
)
def test_commands_that_read_data_have_the_same_options(app, names):
    ours, of_training = options(app), options(svg_train)
    for name in names:
        option, same = ours[flag("data", name)], of_training[flag("data", name)]
        assert (option.help, option.min, option.max) == (same.help, same.min, same.max)
    others = {flag("data", name) for name in fields("data").keys() - set(names)}
    assert not others & ours.keys()


def test_data_and_its_folder_are_named_in_full():
    assert (flag("data", "name"), flag("data", "root"), flag("data", "cache")) == ("--data", "--data-root", "--cache")
    assert not {"--name", "--root"} & options(svg_train).keys()


def test_choices_are_those_of_the_fields():
    result = CliRunner().invoke(svg_train, ["--cell", "gru"])
    assert result.exit_code == 2
    choices = get_args(fields("model")["cell"].annotation)
    assert len(choices) == 6
    assert all(choice in result.output for choice in choices)


@pytest.mark.parametrize(("option", "value"), [("--threads", "10000"), ("--workers", "100000")])
def test_numbers_that_would_crash_a_library_are_refused(option, value):
    result = CliRunner().invoke(svg_train, [option, value])
    assert result.exit_code == 2, result.output
    assert option.lstrip("-") in result.output


def test_whole_numbers_are_not_shown_as_fractions():
    whole = [flag(table, name) for table, name in FIELDS if fields(table)[name].annotation is int]
    assert "--seed" in whole
    assert [name for name in whole if "float" in (options(svg_train)[name].metavar or "")] == []


COUNTS = ("batch_size", "n_future", "eval_samples", "eval_horizon", "eval_sequences")
STEPS = ("steps", "warmup_steps", "eval_every", "save_every")


@pytest.mark.parametrize(("names", "most"), [(COUNTS, 1 << 16), (STEPS, 10**9)])
def test_counts_that_would_take_all_memory_or_never_end_are_refused(names, most):
    assert build_config({"train": dict.fromkeys(names, most)})
    for name in names:
        with pytest.raises(UsageError, match=rf"train\.{name}: Input should be less than or equal to {most}"):
            build_config({"train": {name: most + 1}})
    with pytest.raises(UsageError, match=r"data\.moving: "):
        build_config({"data": {"name": "video", "moving": most + 1}})


def test_a_seed_that_torch_cannot_take_is_refused():
    assert build_config({"train": {"seed": (1 << 64) - 1}}).train.seed == (1 << 64) - 1
    with pytest.raises(UsageError, match=r"train\.seed"):
        build_config({"train": {"seed": 1 << 64}})


def test_a_setting_that_families_limit_differently_is_checked_by_the_family_of_the_run():
    result = CliRunner().invoke(svg_train, ["--image-size", "96"])
    assert str(result.exception).endswith("model: image_size is 96; latent 'vector' needs 64 or 128")
    given = settings_of("model", settings("--family", "frames", "--image-size", "96"))
    built = build_config({"model": {name: value for name, value in given.items() if value is not None}})
    assert built.model.image_size == 96


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("patch_size", str, "'patch_size' has the type str in the family 'drift' and int in 'frames'; expected one type"),
        ("widths", tuple[float, float, float], "'widths' has the type tuple[float, float, float] in the family 'drift' and"),
    ],
)
def test_a_setting_that_two_families_have_in_different_types_is_named_with_both(name, kind, problem, monkeypatch):
    settings = create_model("DriftConfig", __base__=FamilyConfig, **{name: (kind, ...)})
    monkeypatch.setitem(FAMILIES, "drift", Family("drift", settings, "nowhere:DriftModel"))
    with pytest.raises(TypeError, match=re.escape(problem)):
        fields("model")


def test_sizes_of_any_number_of_layers_are_one_text():
    assert options(svg_train)["--hidden"].metavar == "N,N,..."
    given = settings_of("model", settings("--family", "frames", "--hidden", "16,16"))
    assert build_config({"model": {name: value for name, value in given.items() if value is not None}}).model.hidden == (16, 16)


@pytest.mark.parametrize(
    ("option", "metavar"),
    [
        ("--crop", "FROM TO"), ("--playback", "FROM TO"), ("--beta-ramp", "FROM TO"), ("--sampling-ramp", "FROM TO"),
        ("--widths", "N N N"), ("--decoder-widths", "N N"),
    ],
)  # fmt: skip
def test_several_numbers_are_shown_as_they_are_written(option, metavar):
    shown = options(svg_train)[option]
    assert (shown.metavar, shown.nargs) == (metavar, len(metavar.split()))


@pytest.mark.parametrize("values", [["0.5,1"], ["0.5,1", "--cache", "x"], ["0.5"]])
def test_several_numbers_written_otherwise_are_refused_with_the_right_form(values, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["svg-eval", "embedded", "--crop", *values])
    with pytest.raises(SystemExit) as end:
        run_command(svg_eval)
    assert end.value.code == 2
    assert "  expected --crop FROM TO, with a space between\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--steps", "20000"), ("--lr", "0.002"), ("--widths", "32 64 96"), ("--hidden", "64,64,64"), ("--flip", "off"),
        ("--data", "digits"), ("--channels", False), ("--data-root", False),
    ],
)  # fmt: skip
def test_defaults_are_shown_where_families_have_the_same(option, default):
    assert options(svg_train)[option].show_default == default
    if option in options(svg_eval):
        assert options(svg_eval)[option].show_default is False  # there it is what the model was trained on


def test_a_family_beside_a_recipe_of_another_one_is_refused_by_the_recipe(monkeypatch, capsys, tmp_path):
    given = ["--config", "video", "--data-root", str(tmp_path), "--family", "srvp", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["svg-train", *given])
    with pytest.raises(SystemExit) as end:
        run_command(svg_train)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "the recipe 'video' is of another family than --family srvp, which has no g_dim, z_dim" in message
    assert "svg-train --list-recipes" in message


def test_arguments_are_what_the_command_line_takes():
    written = [arguments("model", *pair) for pair in (("hidden", (8, 4)), ("layer_norm", False), ("cell", "mim"))]
    assert written == ["--hidden 8,4", "--no-layer-norm", "--cell mim"]
    given = settings_of("model", settings(*" ".join(written).split()))
    assert (given["hidden"], given["layer_norm"], given["cell"]) == ("8,4", False, "mim")


def settings(*arguments: str):
    """What a command with all of the options collects from a command line."""
    import typer

    app, collected = typer.Typer(), {}

    @app.command()
    @config_options("model", "data", "train")
    def command(seen: bool = False, **settings: object) -> None:
        collected.update(seen=seen, **settings)

    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return collected


def test_what_is_not_given_is_none():
    collected = settings()
    assert collected.pop("seen") is False
    assert len(collected) == len(FIELDS)
    assert set(collected.values()) == {None}


def test_values_have_the_type_of_their_field():
    line = "--seen --image-size 128 --beta-ramp 3 5 --no-last-frame-skip --data kth --data-root x --gradient-clip 2"
    given = settings(*line.split())
    assert given["seen"] is True
    model, data, train = (settings_of(table, given) for table in ("model", "data", "train"))
    assert (model["image_size"], model["last_frame_skip"]) == (128, False)
    assert (data["name"], data["root"], data["cache"]) == ("kth", "x", None)
    assert (train["beta_ramp"], train["gradient_clip"], train["beta_start"]) == ((3, 5), 2.0, None)
    assert settings("--last-frame-skip")["last_frame_skip"] is True
