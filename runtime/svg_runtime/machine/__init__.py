"""The machine that runs it: hardware, cameras, versions, power and temperatures."""
