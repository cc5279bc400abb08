"""The ROS 2 node: messages in, messages out. What happens between is `forecast_stream`.

Everything runs in the thread that spins the node, because a GPU context belongs to the thread that made it; while it forecasts,
the middleware keeps the newest image and drops the others.
"""

from __future__ import annotations

import sys
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, InvalidTopicNameException
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32, Header
from std_srvs.srv import Trigger

from svg_edge_ros.forecast_stream import Answer, ForecastStream
from svg_edge_ros.image_messages import ImageError, image_fields, picture_of, picture_of_compressed
from svg_edge_ros.parameters import PARAMETERS, NodeParameter, stream_options
from svg_runtime.errors import SvgError, UsageError

_DIAGNOSTICS_EVERY_S = 1.0
# As sensors publish: a lost image is not sent again, and only the newest one waits.
_FROM_CAMERA = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE
)
# Reliable, so that subscribers of either kind match.
_NEWEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
)


class ForecastNode(Node):  # type: ignore[misc]  # rclpy has no types
    """Subscribes to images, publishes forecasts.

    Raises:
        SvgError: a parameter is invalid, or the model or the backend is not available.
    """

    def __init__(self) -> None:
        super().__init__("forecast")
        values = {each.name: self._declare(each) for each in PARAMETERS}
        self._read = picture_of_compressed if values["compressed"] else picture_of
        self._subscribe(CompressedImage if values["compressed"] else Image, values["topic"])
        logger = self.get_logger()
        self._stream = ForecastStream(stream_options(values), announce=logger.warning)
        logger.info(f"{self._stream.description}; a picture every {self._stream.interval_s:g} s")
        self._mosaic = self.create_publisher(Image, "~/mosaic", _NEWEST)
        self._mean = self.create_publisher(Image, "~/mean", _NEWEST)
        self._spread = self.create_publisher(Image, "~/spread", _NEWEST)
        self._surprise = self.create_publisher(Float32, "~/surprise", _NEWEST)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_timer(_DIAGNOSTICS_EVERY_S, self._on_timer)

    def destroy_node(self) -> None:
        """Free the device, then what ROS has."""
        self._stream.close()
        super().destroy_node()

    def _declare(self, parameter: NodeParameter) -> Any:
        """Return the value of a parameter, which ROS compares with the type of its default and with its bounds.

        Raises:
            UsageError: it has another type, or is out of bounds.
        """
        try:
            return self.declare_parameter(parameter.name, parameter.default, _descriptor(parameter)).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:  # their text has the value
            raise UsageError(f"parameter {parameter.name}: {error}\n  expected {parameter.expected}") from error

    def _subscribe(self, kind: type, topic: str) -> None:
        """Before the model is opened, which takes long; no image is taken until the node is spun.

        Raises:
            UsageError: the topic has no valid name.
        """
        try:
            self.create_subscription(kind, topic, self._on_image, _FROM_CAMERA)
        except (InvalidTopicNameException, ValueError) as error:  # ValueError: an unknown substitution, as in {camera}/image
            raise UsageError(f"parameter topic: {error}\n  expected a name such as image or /camera/image_raw") from error

    def _on_image(self, message: Any) -> None:
        try:
            picture = self._read(message)
        except ImageError as error:
            self._stream.leave_out(error)
            return
        found = self._stream.add(picture, self._seconds_of(message.header.stamp))
        if found is not None:
            self._publish(found, message.header)

    def _publish(self, found: Answer, header: Header) -> None:
        """Each image has the header of the picture from which it was forecast. What nobody listens to is not made."""
        if found.surprise is not None:
            self._surprise.publish(Float32(data=found.surprise))
        futures = found.futures
        if futures is None:
            return
        for publisher, make in ((self._mosaic, futures.mosaic), (self._mean, futures.mean), (self._spread, futures.spread)):
            if publisher.get_subscription_count() > 0:
                publisher.publish(Image(header=header, **vars(image_fields(make()))))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stream.reset()
        response.success = True
        response.message = "the next picture is the first one"
        return response

    def _on_timer(self) -> None:
        status = self._stream.status()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f"{self.get_fully_qualified_name()}: forecasts",
                message=status.message,
                hardware_id="svg-edge",
                values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
            )
        ]
        self._diagnostics.publish(message)

    def _seconds_of(self, stamp: Any) -> float:
        """The time of a picture in seconds; of a driver that sets none, when it arrived."""
        if stamp.sec == 0 and stamp.nanosec == 0:
            self._stream.events.once("no_stamp", "images have no time stamps: the time of their arrival is taken")
            return float(self.get_clock().now().nanoseconds) / 1e9
        return float(stamp.sec) + float(stamp.nanosec) / 1e9


def _descriptor(parameter: NodeParameter) -> ParameterDescriptor:
    """How ROS describes and checks a parameter; bounds include both ends."""
    descriptor = ParameterDescriptor(description=parameter.description, read_only=True)
    if parameter.choices:
        descriptor.additional_constraints = f"one of: {', '.join(parameter.choices)}"
    if parameter.bounds is not None:
        low, high = parameter.bounds
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return descriptor


def main(args: list[str] | None = None) -> int:
    """Run the node until ROS or Ctrl-C ends it; return the exit code, as documented for all commands of svg-edge."""
    rclpy.init(args=args)
    node = None
    try:
        node = ForecastNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SvgError as error:
        get_logger("svg_edge_ros").fatal(str(error))
        return int(error.exit_code)
    except RuntimeError:  # such as RCLError, of publishing what was being forecast when a signal ended ROS
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
