"""Installs the package as colcon expects it: the marker of the resource index, package.xml, launch and parameter files."""

from xml.etree import ElementTree

from setuptools import setup

NAME = "svg_edge_ros"

setup(
    name=NAME,
    version=ElementTree.parse("package.xml").findtext("version"),
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/forecast.launch.py"]),
        (f"share/{NAME}/config", ["config/forecast.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="svg-edge",
    maintainer_email="svg-edge@users.noreply.github.com",
    description="Forecasts the video of an image topic: sampled futures, their mean and spread, and surprise.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"forecast_node = {NAME}.forecast_node:main"]},
)
