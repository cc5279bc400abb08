"""Checkpoints of the reference implementation (Denton and Fergus, 2018), read without running any code in them."""
