"""What colcon and ros2 launch read of the package: package.xml, setup.py, the launch file, the parameters."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import types
from configparser import ConfigParser

import yaml
from catkin_pkg.package import parse_package

from svg_edge_ros.parameters import PARAMETERS
from tests.integrations.ros2.conftest import PACKAGE

MESSAGES = {"rclpy", "diagnostic_msgs", "rcl_interfaces", "sensor_msgs", "std_msgs", "std_srvs"}


def test_package_xml_is_valid_and_names_what_is_imported():
    warnings: list[str] = []
    package = parse_package(str(PACKAGE / "package.xml"), warnings=warnings)
    assert warnings == []
    assert (package.name, package.package_format) == ("svg_edge_ros", 3)
    assert package.get_build_type() == "ament_python"
    depends = {each.name for each in package.exec_depends}
    sources = [*PACKAGE.glob("svg_edge_ros/*.py"), *PACKAGE.glob("launch/*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    imported = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    ros = MESSAGES | {"launch", "launch_ros", "ament_index_python"}
    assert imported & ros == depends == ros


def test_setup_installs_every_file_where_ros_looks_for_it(tmp_path):
    """With the real setuptools, into a folder."""
    build = ("build", "--build-base", tmp_path / "build", "install_data", "--install-dir", tmp_path / "i")
    command = [sys.executable, "setup.py", "-q", *build, "egg_info", "--egg-base", tmp_path]
    run = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    share = tmp_path / "i" / "share"
    assert (share / "ament_index/resource_index/packages/svg_edge_ros").is_file()
    for name in ("package.xml", "launch/forecast.launch.py", "config/forecast.yaml"):
        assert (share / "svg_edge_ros" / name).read_bytes() == (PACKAGE / name).read_bytes()
    entry_points = (tmp_path / "svg_edge_ros.egg-info" / "entry_points.txt").read_text()
    assert "forecast_node = svg_edge_ros.forecast_node:main" in entry_points
    config = ConfigParser()
    config.read(PACKAGE / "setup.cfg")
    assert config["install"]["install_scripts"] == "$base/lib/svg_edge_ros"  # where ros2 run looks


def test_the_parameter_file_has_the_defaults_of_the_node():
    ((node, values),) = yaml.safe_load((PACKAGE / "config" / "forecast.yaml").read_text()).items()
    assert node == "/**"  # a name would be that of one node in no namespace, and others would ignore the file
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert values["ros__parameters"] == defaults
    assert {name: type(value) for name, value in values["ros__parameters"].items()} == {
        name: type(value) for name, value in defaults.items()
    }


def test_the_readme_has_a_row_for_every_parameter():
    rows = re.findall(r"^\| `(\w+)` \|", (PACKAGE / "README.md").read_text(), re.M)
    assert rows == [parameter.name for parameter in PARAMETERS]


def test_the_launch_file_starts_the_node(monkeypatch, tmp_path):
    """With stand-ins for launch and launch_ros, whose classes keep what they are given."""
    started: list[dict[str, object]] = []

    def module(name: str, **members: object) -> None:
        found = types.ModuleType(name)
        vars(found).update(members)
        monkeypatch.setitem(sys.modules, name, found)

    module("launch", LaunchDescription=list)
    module("launch.actions", DeclareLaunchArgument=lambda name, *, default_value, description: name)
    module("launch.substitutions", LaunchConfiguration=lambda name: f"<{name}>")
    module("launch_ros")
    module("launch_ros.actions", Node=lambda **options: started.append(options))
    module("ament_index_python")
    module("ament_index_python.packages", get_package_share_directory=lambda name: str(tmp_path / name))
    described = runpy.run_path(str(PACKAGE / "launch" / "forecast.launch.py"))["generate_launch_description"]()
    assert described[:3] == ["image", "namespace", "params_file"]
    (node,) = started
    assert (node["package"], node["executable"], node["name"]) == ("svg_edge_ros", "forecast_node", "forecast")
    assert node["namespace"] == "<namespace>"
    assert node["parameters"] == ["<params_file>"]
    assert node["remappings"] == [("image", "<image>")]
