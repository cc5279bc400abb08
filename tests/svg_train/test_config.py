"""Model configuration: the parts of each variant."""

from __future__ import annotations

import pytest

from svg_common.errors import UsageError
from svg_train.config import build_config, load_recipe


def model(**given):
    return build_config({"model": given}).model


def test_parts_that_a_variant_lacks_are_zero_without_being_named():
    assert [model(variant="lp").z_dim, model(variant="lp").prior_layers] == [10, 1]
    assert [model(variant="fp").z_dim, model(variant="fp").posterior_layers, model(variant="fp").prior_layers] == [10, 1, 0]
    det = model(variant="det")
    assert [det.z_dim, det.posterior_layers, det.prior_layers, det.predictor_layers] == [0, 0, 0, 2]


def test_a_configuration_survives_a_round_trip():
    for variant in ("lp", "fp", "det"):
        config = build_config({"model": {"variant": variant}})
        assert build_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variant": "det", "z_dim": 10}, "z_dim is 10; variant 'det' needs 0"),
        ({"variant": "fp", "prior_layers": 1}, "prior_layers is 1; variant 'fp' needs 0"),
        ({"z_dim": 0}, "z_dim is 0; variant 'lp' needs at least 1"),
        ({"variant": "vae"}, "variant"),
        ({"variant": ["lp"]}, "variant"),
        ({"image_size": 96}, "image_size"),
        ({"backbone": "resnet"}, "backbone"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        model(**given)


@pytest.mark.parametrize("content", [None, b"steps = = 1", b"\xff"])
def test_what_is_no_recipe_is_refused_with_what_to_give(tmp_path, content):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read the recipe '.*recipe\.toml': .*\n.*svg-train --list-recipes"):
        load_recipe(path)
