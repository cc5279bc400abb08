"""Quality of checkpoints and bundles on held-out sequences: the command `svg-eval`."""
