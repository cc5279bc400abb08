"""Model configuration: the parts of each prior."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_train.config import Config, build_config
from svg_train.data import open_data
from tests.families import TINY_MODELS


def model(**given):
    return build_config({"model": given}).model


def test_parts_that_a_prior_rules_out_are_zero_without_being_named():
    assert [model(prior="learned").z_dim, model(prior="learned").prior_layers] == [10, 1]
    assert [model(prior="fixed").z_dim, model(prior="fixed").posterior_layers, model(prior="fixed").prior_layers] == [10, 1, 0]
    none = model(prior="none")
    assert [none.z_dim, none.posterior_layers, none.prior_layers, none.predictor_layers] == [0, 0, 0, 2]


def test_a_configuration_survives_a_round_trip():
    for prior, latent in itertools.product(("learned", "fixed", "none"), ("vector", "spatial")):
        config = build_config({"model": {"prior": prior, "latent": latent}})
        assert build_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": "none", "z_dim": 10}, "z_dim is 10; prior 'none' needs 0"),
        ({"prior": "fixed", "prior_layers": 1}, "prior_layers is 1; prior 'fixed' needs 0"),
        ({"z_dim": 0}, "z_dim is 0; prior 'learned' needs at least 1"),
        ({"prior": "vae"}, "prior"),
        ({"variant": "vae"}, "variant"),
        ({"variant": ["lp"]}, "variant"),
        ({"image_size": 96}, "image_size"),
        ({"latent": "spatial", "image_size": 100}, "image_size is 100; latent 'spatial' needs a multiple of 8"),
        ({"latent": "spatial", "image_size": 1024, "z_dim": 5}, "z_dim is 5, .*: 81920 values; a bundle has at most 65536"),
        ({"latent": "spatial", "rnn_size": 1024, "predictor_layers": 33}, "rnn_size is 1024, .*: 67584 x 8 x 8 values"),
        ({"family": "ensemble", "image_size": 1024}, "noise_maps is 4, .*: 65544 values; a bundle has at most 65536"),
        ({"family": "ensemble", "image_size": 512, "noise_maps": 16}, "65544 values"),
        ({"family": "ensemble", "noise_maps": 2000}, "128008 values"),
        (
            {"family": "ensemble", "image_size": 1024, "noise_maps": 1, "n_past": 90},
            "n_past is 90, .*: 90 x 3 x 1024 x 1024 values; .* 268435456 in all",
        ),
        ({"family": "frames", "cell": "e3d-lstm", "image_size": 1024}, "history is 14, .*: 14 x 131072 x 64 values"),
        ({"family": "frames", "image_size": 1024, "patch_size": 1, "hidden": "300,300"}, "hidden is 300,300, .* values"),
        ({"backbone": "resnet"}, "backbone"),
        ({"latent": "spatial", "backbone": "dcgan"}, "backbone is 'dcgan'; latent 'spatial' has a shallow VGG"),
        ({"latent": "maps"}, "latent"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        model(**given)


def test_sizes_at_the_limits_of_a_bundle_are_taken():
    assert model(family="ensemble", channels=1, image_size=1024, noise_maps=4, noise_vector=0).noise_dim == 65536
    assert model(family="frames", cell="e3d-lstm", image_size=1024, patch_size=8).plane == (128, 128)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"beta_start": 1e-3}, "beta_start has no effect without beta_ramp"),
        ({"beta_ramp": [0, 100]}, "beta_ramp has no effect without beta_start"),
    ],
)
def test_half_of_the_annealing_of_beta_is_refused(train, message):
    with pytest.raises(UsageError, match=message):
        build_config({"train": train})


def test_the_annealing_of_a_recipe_can_be_switched_off():
    recipe = {"train": {"beta": 5e-4, "beta_start": 1e-4, "beta_ramp": [10, 20]}}
    assert build_config(recipe, {"train": {"beta_ramp": (0, 0)}}).train.beta_at(0) == 5e-4


@pytest.mark.parametrize("half", [{"beta_start": 1e-3}, {"beta_ramp": [0, 100]}])
def test_an_older_checkpoint_with_half_of_the_annealing_stays_readable(half):
    stored = build_config().model_dump(mode="json")
    stored["train"] |= half
    loaded = Config.model_validate(stored)
    for config in (loaded, build_config(loaded.model_dump())):  # of a checkpoint, and of a run that is resumed
        assert config.train.beta_at(50) == config.train.beta


@pytest.mark.parametrize(("variant", "prior"), [("lp", "learned"), ("fp", "fixed"), ("det", "none")])
def test_older_files_that_say_variant_stay_readable(variant, prior):
    assert model(variant=variant) == model(prior=prior)


def test_a_prior_given_on_top_of_an_older_recipe_counts():
    assert build_config({"model": {"variant": "det"}}, {"model": {"prior": "fixed"}}).model == model(prior="fixed")


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("table", "setting", "value", "message"),
    [
        ("train", "steps", True, "train.steps: Input should be a valid integer; given true"),
        ("train", "steps", "5", 'train.steps: Input should be a valid integer; given "5"'),
        ("train", "lr", False, "train.lr: Input should be a valid number; given false"),
        ("train", "lr", "0.1", 'train.lr: Input should be a valid number; given "0.1"'),
        ("train", "duration_s", True, "train.duration_s: Input should be a valid number; given true"),
        ("train", "beta_ramp", [True, 5], "train.beta_ramp.0: Input should be a valid integer; given true"),
        ("data", "flip", 1, "data.flip: Input should be a valid boolean; given 1"),
        ("model", "last_frame_skip", "yes", 'model.last_frame_skip: Input should be a valid boolean; given "yes"'),
        ("model", "channels", True, 'model.channels: Input should be 1 or 3; given "true"'),
        ("data", "name", True, "data.name: Input should be "),
        ("train", "beta_ramp", [[1, 2], [3]], "train.beta_ramp.0: Input should be a valid integer; given a list"),
        ("train", "beta_ramp", ENDLESS, "train.beta_ramp.0: Input should be a valid integer; given a list"),
        ("frames", "hidden", ["4", "4"], 'model.hidden.0: Input should be a valid integer; given "4"'),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_guessed(table, setting, value, message):
    settings = {"family": "frames", setting: value} if table == "frames" else {setting: value}
    with pytest.raises(UsageError, match=re.escape(message)):
        build_config({"data": {"name": "video"}}, {table.replace("frames", "model"): settings})


def test_whole_numbers_of_files_are_read_as_floats_and_floats_without_a_fraction_as_whole_numbers():
    train = build_config({"train": {"lr": 1, "steps": 2e4, "duration_s": "2m", "beta_start": 0, "beta_ramp": [0, 1e3]}}).train
    assert [repr(value) for value in (train.lr, train.steps, train.duration_s, train.beta_ramp)] == [
        "1.0", "20000", "120.0", "(0, 1000)",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TINY_MODELS)
def test_settings_of_every_family_are_read_as_a_checkpoint_has_them(name):
    data = {"name": "video", "crop": (0.5, 1.0), "frame_interval_s": 1}
    config = build_config({"model": TINY_MODELS[name], "data": data, "train": {"gradient_clip": float("inf")}})
    stored = config.model_dump(mode="json")
    assert isinstance(stored["data"]["crop"], list)
    assert build_config(stored) == config


@pytest.mark.parametrize(
    ("table", "setting", "value"),
    [
        ("data", "edge_px", 1e308),
        ("data", "edge_px", 1e-300),
        ("data", "source_fps", 1e300),
        ("data", "source_fps", 1e-300),
        ("data", "frame_step", 10**400),
        ("data", "crop", [1e-310, 1.0]),
        ("data", "playback", [1.0, 1e308]),
        ("train", "lr", 1e300),
        ("train", "lr", 1e-300),
        ("train", "beta", 1e300),
        ("train", "beta_start", 1e300),
        ("train", "gradient_clip", 1e-300),
        ("srvp", "obs_scale", 1e200),
        ("srvp", "obs_scale", 1e-200),
        ("srvp", "beta_y", 1e300),
        ("srvp", "l2_res", 1e300),
        ("srvp", "res_gain", 1e300),
        ("ensemble", "patch_weight", 1e300),
        ("ensemble", "change_weight", 1e300),
        ("ensemble", "motion_weight", 1e300),
        ("frames", "decouple_beta", 1e300),
    ],
)
def test_a_number_that_overflows_or_vanishes_in_float32_is_refused_by_its_option(table, setting, value):
    data = {"name": "digits"} if setting == "edge_px" else {"name": "video", "root": "."}
    place = table if table in ("data", "train") else "model"
    given = {"family": table, setting: value} if place == "model" else {setting: value}
    with pytest.raises(UsageError, match=rf"{setting}.*(less|greater) than or equal to|{setting} must be"):
        build_config({"data": data}, {place: given})


def test_digits_are_drawn_at_both_limits_of_their_edge(recwarn):
    for edge_px in (0.01, 32.0):
        config = build_config({"data": {"name": "digits", "edge_px": edge_px}})
        frame = open_data(config, "train", 1)[0]
        assert np.ptp(frame.astype(int)) > 100
    assert not recwarn.list


@pytest.mark.parametrize("interval_s", [1e-300, 9e-5, 129_601.0, 1e300])
def test_a_step_at_which_no_model_runs_is_refused_by_its_option(interval_s):
    with pytest.raises(UsageError, match=r"frame_interval_s: Input should be (greater|less) than or equal to (0\.0001|129600)"):
        build_config({"data": {"name": "digits", "frame_interval_s": interval_s}})


def test_spatial_latents_have_maps_of_an_eighth_of_the_frame_and_one_backbone():
    assert model(latent="spatial").backbone == "vgg"
    assert [model(latent="spatial", z_dim=3, image_size=size).noise_dim for size in (64, 128)] == [3 * 8 * 8, 3 * 16 * 16]
    assert model(latent="spatial", prior="none").noise_dim == 0
    assert model(z_dim=3).noise_dim == 3
