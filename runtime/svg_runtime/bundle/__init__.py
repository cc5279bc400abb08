"""A bundle on disk: its manifest as validated objects, the contract of its graphs, and the reader that verifies them."""
