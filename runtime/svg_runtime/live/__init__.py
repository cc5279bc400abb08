"""`svg-live`: from a source of pictures through the forecaster to a window or a video file."""
