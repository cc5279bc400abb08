"""Forecasts of many stored videos, as Parquet: `svg-forecast`."""
