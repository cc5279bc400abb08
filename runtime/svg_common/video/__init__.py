"""Videos and picture files: every picture upright, whole and with its time, and any damage reported."""
