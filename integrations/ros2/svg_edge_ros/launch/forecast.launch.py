"""Starts the forecast node: ros2 launch svg_edge_ros forecast.launch.py image:=/camera/image_raw"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The node with the parameters of a file, its topic remapped."""
    parameters = os.path.join(get_package_share_directory("svg_edge_ros"), "config", "forecast.yaml")
    return LaunchDescription([
        DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images."),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node, such as the camera's."),
        DeclareLaunchArgument("params_file", default_value=parameters, description="YAML file with parameters of the node."),
        Node(
            package="svg_edge_ros",
            executable="forecast_node",
            name="forecast",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[LaunchConfiguration("params_file")],
            remappings=[("image", LaunchConfiguration("image"))],
        ),
    ])  # fmt: skip
