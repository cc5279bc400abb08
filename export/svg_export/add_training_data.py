"""Adds what a model was trained on to a bundle that was exported without it: python -m svg_export.add_training_data DIR RECIPE.

Only manifest.json changes, by the one key `training_data`; graphs, hashes and bundle id stay. The result depends on bundle,
recipe and data alone. A new export of a checkpoint of svg-train needs none of this. For the bundle in the package:

    python -m svg_export.add_training_data runtime/svg_runtime/embedded/digits.svgb embedded-digits
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from svg_common.files import atomic_file
from svg_runtime.bundle.manifest import FILE_NAME
from svg_runtime.bundle.reader import Bundle
from svg_train.config import Config, build_config
from svg_train.data import open_data
from svg_train.data.statistics import measure_training_data
from svg_train.recipe_files import load_recipe


def add_training_data(bundle: Path, config: Config) -> None:
    """Measure the training data of `config` and write it into the manifest of `bundle`.

    Raises:
        BundleError: there is no valid bundle.
        SvgError: the data cannot be read.
        OSError: the manifest cannot be written.
    """
    Bundle.open(bundle)
    file = bundle / FILE_NAME
    content = json.loads(file.read_text(encoding="utf-8"))
    data = open_data(config, "train", config.sequence_length)
    content["training_data"] = measure_training_data(data).model_dump(mode="json")
    with atomic_file(file) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a *.svgb folder")
    parser.add_argument("recipe", help="the recipe that its model was trained with: a TOML file, or the name of a built-in one")
    options = parser.parse_args()
    add_training_data(options.bundle, build_config(load_recipe(options.recipe)))
