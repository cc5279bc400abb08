"""The real node module, against a stand-in for ROS: parameters, messages, service, diagnostics, and its end."""

from __future__ import annotations

import sys
from array import array
from importlib import import_module

import cv2
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime.backends import THREADS_LIMIT
from tests.integrations.ros2 import stand_in
from tests.integrations.ros2.stand_in import ReliabilityPolicy, Ros, Trigger, message_class

SMALL = {"model": "digits", "backend": "cpu", "threads": 1, "samples": 2, "horizon": 3}
Image, CompressedImage = (message_class(f"sensor_msgs/msg/{name}") for name in ("Image", "CompressedImage"))


def header(number: int):
    nanoseconds = number * 100_000_000
    stamp = message_class("builtin_interfaces/msg/Time")(sec=7 + nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return message_class("std_msgs/msg/Header")(stamp=stamp, frame_id="gate")


def images(count: int) -> list:
    draw = digit_stream(0, 1, 64)
    frames = [(draw() * 255).astype(np.uint8) for _ in range(count)]
    return [
        Image(header=header(number), height=64, width=64, encoding="mono8", step=64, data=array("B", frame.tobytes()))
        for number, frame in enumerate(frames)
    ]


def run(spin=None, **overrides) -> tuple[int, Ros]:
    """Exit code of `main`, and what it did; `spin` is called with the node."""
    ros = Ros({**SMALL, **overrides}, spin)
    with stand_in.installed(ros):
        return import_module("svg_edge_ros.forecast_node").main(), ros


def send(*messages):
    def spin(node):
        for message in messages:
            node.subscription[2](message)

    return spin


def published(ros: Ros, topic: str) -> list:
    return ros.nodes[0].publishers_by_topic[topic].published


def test_each_picture_is_answered_with_the_header_that_it_had():
    code, ros = run(send(*images(8)))
    assert code == 0
    expected = {"~/mosaic": ("mono8", 128, 192), "~/mean": ("mono8", 64, 64), "~/spread": ("32FC1", 64, 64)}
    for topic, kind in expected.items():
        messages = published(ros, topic)
        assert messages
        assert {(message.encoding, message.height, message.width) for message in messages} == {kind}
        assert messages[-1].header.frame_id == "gate"
        assert messages[-1].header.stamp.nanosec == 700_000_000
    spread = np.frombuffer(published(ros, "~/spread")[-1].data, "<f4")
    assert spread.max() > 0
    surprises = published(ros, "~/surprise")
    assert len(surprises) == 7  # of the first picture there is none
    assert all(np.isfinite(message.data) for message in surprises)


def test_what_nobody_listens_to_is_not_made():
    def spin(node):
        node.publishers_by_topic["~/mosaic"].subscriptions = 0
        send(*images(8))(node)

    _, ros = run(spin)
    assert published(ros, "~/mosaic") == []
    assert published(ros, "~/mean")


def test_the_newest_picture_wins():
    _, ros = run()
    kind, topic, _, qos = ros.nodes[0].subscription
    assert (kind, topic) == (Image, "image")
    assert (qos.depth, qos.reliability) == (1, ReliabilityPolicy.BEST_EFFORT)
    assert ros.nodes[0].publishers_by_topic["~/mean"].qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_compressed_images_may_be_subscribed_to():
    def spin(node):
        for number, image in enumerate(images(4)):
            frame = np.frombuffer(image.data, np.uint8).reshape(64, 64)
            data = array("B", cv2.imencode(".png", frame)[1].tobytes())
            node.subscription[2](CompressedImage(header=header(number), format="png", data=data))

    _, ros = run(spin, compressed=True, topic="image/compressed")
    assert ros.nodes[0].subscription[:2] == (CompressedImage, "image/compressed")
    assert len(published(ros, "~/surprise")) == 3


def test_images_that_cannot_be_used_are_said_once_and_are_a_warning_until_one_can():
    deep = [Image(header=header(n), height=2, width=2, encoding="mono16", step=4, data=array("B", bytes(8))) for n in range(3)]

    def spin(node):
        for messages in (deep, images(1)):
            send(*messages)(node)
            node.timers[0][1]()

    _, ros = run(spin)
    warnings = [text for level, text in ros.logger.lines if level == "warning"]
    assert len(warnings) == 1
    assert "mono16" in warnings[0]
    before, after = (message.status[0] for message in published(ros, "/diagnostics"))
    assert (before.level, before.message) == (b"\x01", "images with encoding 'mono16' are left out")
    for status in (before, after):
        assert {value.key: value.value for value in status.values}["images left out"] == "3"
    assert after.message == "forecasting"


def test_images_without_time_stamps_have_that_of_their_arrival():
    def spin(node):
        for image in images(4):
            image.header = message_class("std_msgs/msg/Header")()
            node.clock.nanoseconds += 100_000_000
            node.subscription[2](image)

    _, ros = run(spin)
    assert len(published(ros, "~/surprise")) == 3
    assert [level for level, _ in ros.logger.lines].count("warning") == 1


def test_diagnostics_tell_rates_latency_and_fit():
    def spin(node):
        ((period_s, tell),) = node.timers
        assert period_s == 1.0
        tell()
        send(*images(8))(node)
        tell()

    _, ros = run(spin)
    before, after = (message.status[0] for message in published(ros, "/diagnostics"))
    assert (before.level, before.message) == (b"\x03", "no picture yet")
    assert after.level == b"\x00"
    assert after.name == "/forecast: forecasts"
    keys = {value.key for value in after.values}
    assert {"pictures per second", "forecast p95, ms", "surprise (nats)", "gain over repeating the last frame, dB"} <= keys


def test_the_service_resets():
    responses = []

    def spin(node):
        send(*images(6))(node)
        responses.append(node.services["~/reset"](Trigger.Request(), Trigger.Response()))
        send(*images(1))(node)

    _, ros = run(spin)
    assert responses[0].success
    assert len(published(ros, "~/surprise")) == 5  # none for the first picture after it


def test_every_parameter_is_described_and_read_only():
    _, ros = run()
    descriptors = {name: descriptor for name, (_, descriptor) in ros.nodes[0].parameters.items()}
    assert all(descriptor.read_only and descriptor.description for descriptor in descriptors.values())
    assert descriptors["samples"].integer_range[0].from_value == 1
    assert descriptors["rate"].floating_point_range[0].to_value == 1000.0
    assert "window" in descriptors["context"].additional_constraints


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        ({"context": "windows"}, 2, "expected one of"),
        ({"precision": "fp8"}, 2, "expected one of"),
        ({"roi": "1,2"}, 2, "roi 1,2 is not a region"),
        ({"backend": "no-such"}, 2, "no-such"),
        ({"model": "/no/such.svgb"}, 1, "/no/such.svgb"),
    ],
)
def test_a_wrong_parameter_ends_it_with_the_documented_exit_code(wrong, code, words):
    found, ros = run(**wrong)
    assert found == code
    level, text = ros.logger.lines[-1]
    assert level == "fatal"
    assert words in text
    assert not ros.initialized


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"samples": 0}, "a whole number from 1 to 1024"),
        ({"samples": "4"}, "a whole number from 1 to 1024"),
        ({"horizon": 5000}, "a whole number from 1 to 1024"),
        ({"seed": -1}, "a whole number from 0 to 2147483647"),
        ({"threads": THREADS_LIMIT + 1}, f"a whole number from 0 to {THREADS_LIMIT}"),
        ({"rate": float("nan")}, "a number from 0.0 to 1000.0, written with a point"),
        ({"rate": 5}, "a number from 0.0 to 1000.0, written with a point"),
        ({"post_process": 1}, "true or false"),
        ({"precision": 16}, "one of: '', 'fp32', 'fp16', 'bf16'"),
        ({"roi": 5}, "text"),
        ({"topic": "/my-camera/image"}, "a name such as image or /camera/image_raw"),
        ({"topic": "{camera}/image"}, "a name such as image or /camera/image_raw"),
    ],
)
def test_what_ros_refuses_itself_is_a_wrong_parameter_too(wrong, expected):
    """ROS raises while a parameter is declared, which the node does one by one, and for a topic when it subscribes."""
    code, ros = run(**wrong)
    assert code == 2
    ((name, value),) = wrong.items()
    ((level, text),) = ros.logger.lines  # of a model that was opened there would be another line
    assert level == "fatal"
    assert text.startswith(f"parameter {name}: ")
    assert str(value) in text
    assert text.endswith(f"\n  expected {expected}")
    assert not ros.initialized


def sending_after(ended: bool):
    """Images while publishers fail, as those of ROS do after a signal has ended it."""

    def fail(message):
        raise RuntimeError("cannot publish: the publisher's context is invalid")

    def spin(node):
        for publisher in node.publishers_by_topic.values():
            publisher.publish = fail
        if ended:
            sys.modules["rclpy"].try_shutdown()
        send(*images(6))(node)

    return spin


def test_a_picture_that_is_forecast_when_ros_ends_is_let_go():
    code, ros = run(sending_after(ended=True))
    assert code == 0
    assert ros.nodes[0].destroyed
    with pytest.raises(RuntimeError, match="context is invalid"):
        run(sending_after(ended=False))


@pytest.mark.parametrize("ending", [KeyboardInterrupt, stand_in.ExternalShutdownException])
def test_it_ends_cleanly_when_ros_does(ending):
    def spin(node):
        raise ending

    code, ros = run(spin)
    assert code == 0
    assert ros.nodes[0].destroyed
    assert not ros.initialized
