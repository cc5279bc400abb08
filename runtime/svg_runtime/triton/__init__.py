"""A model of Triton Inference Server's Python backend: each sequence is a camera, and those that are due run as one batch."""
