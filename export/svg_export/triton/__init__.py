"""Model repositories of Triton Inference Server: what lies where, and each model's config.pbtxt."""
