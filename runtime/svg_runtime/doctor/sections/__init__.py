"""One file for each thing that is looked at. Its function `check` returns findings, and runs in a process of its own."""
