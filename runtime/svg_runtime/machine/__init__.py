"""The machine that runs it: hardware, versions, power and temperatures."""
