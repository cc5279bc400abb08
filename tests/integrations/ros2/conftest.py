"""The ROS package is no part of the Python package: its folder is added to the path."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3] / "integrations" / "ros2" / "svg_edge_ros"
sys.path.insert(0, str(PACKAGE))
