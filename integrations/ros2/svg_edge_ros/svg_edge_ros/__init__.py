"""Forecasts for ROS 2: a thin node (`forecast_node`) around logic that knows nothing of ROS."""
