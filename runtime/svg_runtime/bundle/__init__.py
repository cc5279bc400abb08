"""A bundle on disk: its manifest as validated objects, the contract of its graphs, and what reads and verifies them."""
