"""`svg-live --config live.toml`: a file that says what the command line can say, for one camera or for several."""
