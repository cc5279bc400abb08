"""A stand-in for ROS 2: rclpy is in no package registry, so the real node module runs against this.

Messages are made from ROS's own definitions, which rosbags carries, and check the types of fields as generated classes do.
Names and signatures of rclpy are those of its sources; what the node does not use is left out.
"""

from __future__ import annotations

import array
import enum
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
_INTEGERS = {f"{sign}int{bits}": (bits, sign == "") for bits in (8, 16, 32, 64) for sign in ("", "u")}


# ---- Messages ----


class Message:
    """Base of the classes that `message_class` makes."""

    ros_type = ""
    fields: Mapping[str, Any] = {}

    def __init__(self, **values: Any) -> None:
        assert set(values) <= set(self.fields), f"{self.ros_type} has no {set(values) - set(self.fields)}"
        for name, kind in self.fields.items():
            setattr(self, name, values.get(name, _default(kind)))

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.fields, f"{self.ros_type} has no field {name}"
        _check(self.fields[name], value, f"{self.ros_type}.{name}")
        super().__setattr__(name, value)

    def to_cdr(self) -> bytes:
        """As it goes over the wire: rosbags refuses what is no message of this type."""
        return bytes(STORE.serialize_cdr(_for_rosbags(self), self.ros_type))


def message_class(ros_type: str) -> type[Message]:
    """The class of a message, by its definition; the same one each time."""
    if ros_type not in _classes:
        constants, fields = STORE.fielddefs[ros_type]
        members = {name: _constant(kind, value) for name, kind, value in constants}
        name = ros_type.rpartition("/")[2]
        _classes[ros_type] = type(name, (Message,), {**members, "ros_type": ros_type, "fields": dict(fields)})
    return _classes[ros_type]


_classes: dict[str, type[Message]] = {}


def _constant(kind: str, value: Any) -> Any:
    return bytes([value]) if kind == "byte" else value


def _default(kind: Any) -> Any:
    node, detail = kind
    if node == Nodetype.NAME:
        return message_class(detail)()
    if node == Nodetype.BASE:
        name = detail[0]
        defaults: dict[str, Any] = {"string": "", "bool": False, "byte": b"\0"}
        return defaults.get(name, 0.0 if name.startswith("float") else 0)
    return array.array("B") if detail[0] == (Nodetype.BASE, ("uint8", 0)) else []


def _check(kind: Any, value: Any, where: str) -> None:
    """The assertions of generated classes."""
    node, detail = kind
    if node == Nodetype.NAME:
        assert isinstance(value, message_class(detail)), where
    elif node == Nodetype.SEQUENCE:
        item, limit = detail
        assert isinstance(value, (list, tuple, array.array, bytes, np.ndarray)), where
        assert not limit or len(value) <= limit, where
        if item == (Nodetype.BASE, ("uint8", 0)):
            assert isinstance(value, array.array), f"{where}: anything else is checked byte by byte, which takes long"
            assert value.typecode == "B", where
        else:
            for each in value:
                _check(item, each, where)
    else:
        _check_base(detail[0], value, where)


def _check_base(name: str, value: Any, where: str) -> None:
    if name in _INTEGERS:
        bits, signed = _INTEGERS[name]
        assert isinstance(value, int), where
        low = -(2 ** (bits - 1)) if signed else 0
        assert low <= value < low + 2**bits, where
    elif name == "byte":
        assert isinstance(value, bytes), where
        assert len(value) == 1, where
    else:
        expected = {"string": str, "bool": bool, "float32": float, "float64": float}[name]
        assert isinstance(value, expected), where


def _for_rosbags(value: Any) -> Any:
    if isinstance(value, Message):
        found = {name: _for_rosbags(getattr(value, name)) for name in value.fields}
        return STORE.types[value.ros_type](**found)
    if isinstance(value, array.array):
        return np.frombuffer(value, np.uint8)
    if isinstance(value, list):
        return [_for_rosbags(each) for each in value]
    return value[0] if isinstance(value, bytes) else value


class Trigger:
    """std_srvs/srv/Trigger: a request without fields."""

    @dataclass
    class Request:
        pass

    @dataclass
    class Response:
        success: bool = False
        message: str = ""


# ---- rclpy ----


class HistoryPolicy(enum.IntEnum):
    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2


class ReliabilityPolicy(enum.IntEnum):
    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2


class DurabilityPolicy(enum.IntEnum):
    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2


@dataclass(kw_only=True)
class QoSProfile:
    depth: int
    history: HistoryPolicy = HistoryPolicy.KEEP_LAST
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE


class ExternalShutdownException(Exception):  # noqa: N818 - the name of rclpy
    pass


class ParameterException(Exception):  # noqa: N818
    def __init__(self, error_msg: str, parameters: str) -> None:
        super().__init__(f"{error_msg}: {parameters}")


class InvalidParameterTypeException(ParameterException):
    def __init__(self, desired_parameter: Parameter, expected_type: str) -> None:
        given = f"Trying to set parameter '{desired_parameter.name}' to '{desired_parameter.value}'"
        super().__init__(f"{given}, expecting type '{expected_type}'", desired_parameter.name)


class InvalidParameterValueException(ParameterException):
    def __init__(self, parameter: str, value: Any, reason: str) -> None:
        super().__init__(f"Invalid parameter value ({value}) for parameter. Reason: {reason}", parameter)


class InvalidTopicNameException(Exception):  # noqa: N818
    def __init__(self, name: str, error_msg: str, invalid_index: int) -> None:
        super().__init__(f"Invalid topic name: {error_msg}:\n  '{name}'\n   {' ' * invalid_index}^")


def _check_topic(name: str) -> None:
    """By two of the rules of rclpy, each with its own kind of error."""
    wrong = re.search(r"[^\w/~{}]", name, re.ASCII)
    if wrong is not None:
        allowed = "characters other than alphanumerics, '_', '~', '{', or '}'"
        raise InvalidTopicNameException(name, f"topic name must not contain {allowed}", wrong.start())
    if not set(re.findall(r"{(\w+)}", name)) <= {"node", "ns", "namespace"}:
        raise ValueError(f"topic name '{name}' is invalid: unknown substitution")


@dataclass
class Parameter:
    name: str
    value: Any


@dataclass
class Publisher:
    msg_type: type[Message]
    topic: str
    qos_profile: QoSProfile | int
    subscriptions: int = 1
    published: list[Any] = field(default_factory=list)

    def publish(self, msg: Message) -> None:
        assert type(msg) is self.msg_type
        msg.to_cdr()
        self.published.append(msg)

    def get_subscription_count(self) -> int:
        return self.subscriptions


@dataclass
class Clock:
    nanoseconds: int = 5_000_000_000

    def now(self) -> Clock:
        return self

    def to_msg(self) -> Message:
        return message_class("builtin_interfaces/msg/Time")(sec=self.nanoseconds // 10**9, nanosec=self.nanoseconds % 10**9)


class Logger:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, message: str, **kwargs: Any) -> None:
        self.lines.append(("info", message))

    def warning(self, message: str, **kwargs: Any) -> None:
        self.lines.append(("warning", message))

    def fatal(self, message: str, **kwargs: Any) -> None:
        self.lines.append(("fatal", message))


class Ros:
    """The state of the world around the node, for tests."""

    def __init__(self, overrides: Mapping[str, Any] | None = None, spin: Callable[[Any], None] | None = None) -> None:
        self.overrides = dict(overrides or {})
        self.spin: Callable[[Any], None] = spin or (lambda node: None)
        self.logger = Logger()
        self.nodes: list[Any] = []
        self.initialized = False

    def node_class(ros) -> type:  # noqa: N805 - `self` is the node below
        class Node:
            def __init__(self, node_name: str) -> None:
                assert ros.initialized
                self.name = node_name
                self.parameters: dict[str, tuple[Any, Message]] = {}
                self.publishers_by_topic: dict[str, Publisher] = {}
                self.subscription: tuple[type, str, Callable[[Any], None], QoSProfile] | None = None
                self.services: dict[str, Callable[[Any, Any], Any]] = {}
                self.timers: list[tuple[float, Callable[[], None]]] = []
                self.clock = Clock()
                self.destroyed = False
                ros.nodes.append(self)

            def declare_parameter(
                self, name: str, value: Any = None, descriptor: Any = None, ignore_override: bool = False
            ) -> Parameter:
                assert name not in self.parameters
                given = ros.overrides.get(name, value)
                if type(given) is not type(value):
                    raise InvalidParameterTypeException(Parameter(name, given), type(value).__name__)
                for bounds in [*descriptor.integer_range, *descriptor.floating_point_range]:
                    if not bounds.from_value <= given <= bounds.to_value:
                        raise InvalidParameterValueException(name, given, "out of range")
                self.parameters[name] = given, descriptor
                return Parameter(name, given)

            def create_publisher(self, msg_type: type, topic: str, qos_profile: QoSProfile | int) -> Publisher:
                publisher = self.publishers_by_topic[topic] = Publisher(msg_type, topic, qos_profile)
                return publisher

            def create_subscription(
                self, msg_type: type, topic: str, callback: Callable[[Any], None], qos_profile: QoSProfile
            ) -> object:
                _check_topic(topic)
                self.subscription = msg_type, topic, callback, qos_profile
                return object()

            def create_service(self, srv_type: type, srv_name: str, callback: Callable[[Any, Any], Any]) -> object:
                assert srv_type is Trigger
                self.services[srv_name] = callback
                return object()

            def create_timer(self, timer_period_sec: float, callback: Callable[[], None]) -> object:
                self.timers.append((timer_period_sec, callback))
                return object()

            def get_logger(self) -> Logger:
                return ros.logger

            def get_clock(self) -> Clock:
                return self.clock

            def get_fully_qualified_name(self) -> str:
                return f"/{self.name}"

            def destroy_node(self) -> None:
                assert not self.destroyed
                self.destroyed = True

        return Node

    def init(self, *, args: list[str] | None = None) -> None:
        self.initialized = True

    def ok(self) -> bool:
        return self.initialized

    def try_shutdown(self) -> None:
        self.initialized = False


def modules(ros: Ros) -> dict[str, types.ModuleType]:
    """All modules that the node imports."""
    found: dict[str, types.ModuleType] = {}

    def module(name: str, **members: Any) -> None:
        found[name] = types.ModuleType(name)
        vars(found[name]).update(members)

    module("rclpy", init=ros.init, ok=ros.ok, spin=lambda node: ros.spin(node), try_shutdown=ros.try_shutdown)
    module("rclpy.node", Node=ros.node_class())
    module("rclpy.logging", get_logger=lambda name: ros.logger)
    errors = (ParameterException, InvalidParameterTypeException, InvalidParameterValueException, InvalidTopicNameException)
    module("rclpy.exceptions", **{each.__name__: each for each in errors})
    module("rclpy.executors", ExternalShutdownException=ExternalShutdownException)
    policies = {each.__name__: each for each in (HistoryPolicy, ReliabilityPolicy, DurabilityPolicy, QoSProfile)}
    module("rclpy.qos", **policies)
    for package in ("builtin_interfaces", "diagnostic_msgs", "rcl_interfaces", "sensor_msgs", "std_msgs"):
        names = [name for name in STORE.fielddefs if name.startswith(f"{package}/msg/")]
        module(package)
        module(f"{package}.msg", **{name.rpartition("/")[2]: message_class(name) for name in names})
    module("std_srvs")
    module("std_srvs.srv", Trigger=Trigger)
    return found


@contextmanager
def installed(ros: Ros) -> Iterator[None]:
    """Let `import rclpy` and the like find the stand-in, and forget the node that imported it."""
    added = modules(ros)
    assert not set(added) & set(sys.modules), "a real ROS is here: test with that"
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in [*added, "svg_edge_ros.forecast_node"]:
            sys.modules.pop(name, None)
