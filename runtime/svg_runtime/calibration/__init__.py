"""Which backend, precision and graphs run a bundle fastest on this machine: measured here, after its frames were compared."""
