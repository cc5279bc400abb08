"""`svg-serve`: the forecaster over HTTP, with sessions, for programs in any language."""
