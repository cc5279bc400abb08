"""From a camera to a model of its own: records, trains, compares, exports. And the command `svg-train`, which does it all."""
