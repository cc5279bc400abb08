"""`svg-doctor`: what this machine has for svg-live, why each thing that is missing is, and the line to run."""
