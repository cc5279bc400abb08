"""Publishes alarms to an MQTT broker, with discovery for Home Assistant.

Below PREFIX: `availability` (online, offline; the last will), `alarm` (ON, OFF), `event` (the last record as JSON). All three
are retained, and published again whenever the connection is back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import sys
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import svg_runtime
from svg_common.command import require_modules
from svg_common.errors import UsageError
from svg_common.printable import console_text
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.addresses import stream_name

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PREFIX = "svg-edge"
_DISCOVERY = "homeassistant"  # Home Assistant's default discovery prefix
_KEEPALIVE_S = 30
_RECONNECT_S = (1, 30)  # first and longest wait
_ACKNOWLEDGE_S = 5.0
_GOODBYE_S = 1.0


class MqttPublisher:
    """Keeps a connection to a broker in a thread of paho-mqtt, which connects again by itself, and publishes with QoS 1.

    Args:
        url: mqtt://user:password@host:1883/prefix, or mqtts; see `check_broker`.
        source: what is watched, for the name of the device.
        events: of the run.
        camera: name of one of several cameras, which is below the prefix then.
    """

    name = "mqtt"

    def __init__(self, url: str, source: str, events: EventLog, camera: str | None = None) -> None:
        parts = _split(url)
        self._shown = stream_name(url)
        self._prefix = "/".join(filter(None, (unquote(parts.path).strip("/") or _PREFIX, camera)))
        self._source = source
        self._events = events
        self._lock = threading.Lock()
        self._last: AlarmRecord | None = None  # of the newest alarm
        self._connected = False
        self._problem: tuple[str, str] | None = None  # kind and message of the last event, until it is connected again
        self._client = _client()
        self._client.will_set(self._topic("availability"), "offline", qos=1, retain=True)
        if parts.username is not None:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.reconnect_delay_set(*_RECONNECT_S)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.connect_async(parts.hostname, parts.port or _PORTS[parts.scheme], _KEEPALIVE_S)
        self._client.loop_start()

    def send(self, record: AlarmRecord) -> None:
        """See `Transport`."""
        if not self._client.is_connected():
            raise NotDeliveredError(f"not connected to {self._shown}")
        with self._lock:
            messages = []
            if self._last is None or record.sequence >= self._last.sequence:
                self._last = record
            else:  # it waited for its clip while a newer alarm began, whose state is what must remain
                messages.append(("event", record.to_json()))
            published = [self._publish(*message) for message in [*messages, *self._state(self._last)]]
        deadline = time.monotonic() + _ACKNOWLEDGE_S
        for message in published:
            try:
                message.wait_for_publish(max(deadline - time.monotonic(), 0.0))
            except (RuntimeError, ValueError):  # the connection was lost, or the queue of paho is full
                raise NotDeliveredError(f"the connection to {self._shown} was lost") from None
            if not message.is_published():
                raise NotDeliveredError(f"no answer from {self._shown}")

    def close(self) -> None:
        """Say that nobody watches any more."""
        if self._client.is_connected():
            with suppress(RuntimeError, ValueError):  # the connection was just lost, or the queue of paho is full
                self._publish("availability", "offline").wait_for_publish(_GOODBYE_S)
        self._client.disconnect()
        self._client.loop_stop()

    def discovery(self) -> tuple[str, dict[str, Any]]:
        """Topic and payload that make Home Assistant add a binary sensor by itself."""
        node = _node(self._prefix)
        payload = {
            "name": "Alarm",
            "unique_id": f"{node}_alarm",
            "device_class": "problem",
            "state_topic": self._topic("alarm"),
            "payload_on": "ON",
            "payload_off": "OFF",
            "availability_topic": self._topic("availability"),
            "json_attributes_topic": self._topic("event"),
            "device": {
                "identifiers": [node],
                "name": self._prefix,
                "manufacturer": "svg-edge",
                "model": self._source,
                "sw_version": svg_runtime.__version__,
            },
        }
        return f"{_DISCOVERY}/binary_sensor/{node}/alarm/config", payload

    def _topic(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _publish(self, name: str, payload: str) -> Any:
        return self._client.publish(self._topic(name), payload, qos=1, retain=True)

    def _state(self, record: AlarmRecord | None) -> list[tuple[str, str]]:
        """The retained messages that say how things are; the event comes first, so that it is there when the alarm rings."""
        if record is None:
            return [("alarm", "OFF")]
        return [("event", record.to_json()), ("alarm", "ON" if record.phase == "started" else "OFF")]

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._report("mqtt_refused", f"mqtt: {self._shown} refuses the connection: {reason}")
            return
        self._connected = True
        if self._problem is not None:
            self._problem = None
            self._events.add("mqtt_connected", f"mqtt: connected to {self._shown}")
        topic, payload = self.discovery()
        client.publish(topic, json.dumps(payload), qos=1, retain=True)
        self._publish("availability", "online")
        with self._lock:
            for message in self._state(self._last):
                self._publish(*message)

    def _on_connect_fail(self, client: Any, userdata: Any) -> None:
        """Called where paho handles the exception of an attempt, which it passes to nobody."""
        self._report("mqtt_unreachable", f"mqtt: cannot connect to {self._shown}: {_reason(sys.exc_info()[1])}")

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        connected = self._connected
        self._connected = False
        if not reason.is_failure:
            return
        if connected:
            self._report("mqtt_lost", f"mqtt: the connection to {self._shown} was lost: {reason}")
        elif self._problem is None or self._problem[0] != "mqtt_refused":  # a refusal has its reason, and ends so too
            self._report("mqtt_unreachable", f"mqtt: cannot connect to {self._shown}: it does not answer as a broker")

    def _report(self, kind: str, message: str) -> None:
        """Add an event unless it is the last one again, as at every attempt."""
        if self._problem != (kind, message):
            self._problem = kind, message
            self._events.add(kind, message)


def check_broker(url: str) -> None:
    """Refuse an address that is none of a broker.

    Raises:
        UsageError: it is none.
        MissingExtraError: paho-mqtt is not installed.
    """
    require_modules("--mqtt", "mqtt", "paho.mqtt")
    _split(url)


def _reason(error: BaseException | None) -> str:
    """Why there is no connection; OpenSSL does not say that the user's file of authorities cannot be read."""
    reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
    variable = ssl.get_default_verify_paths().openssl_cafile_env
    if isinstance(error, ssl.SSLCertVerificationError) and variable in os.environ:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(os.environ[variable])
        except OSError as unreadable:
            reason += f"; {variable} '{os.environ[variable]}' cannot be read: {unreadable.strerror or unreadable}"
    return console_text(reason)


def _node(prefix: str) -> str:
    """The prefix as discovery allows it. A hash keeps home/gate and home_gate apart: equal ids would replace each other."""
    node = re.sub(r"[^A-Za-z0-9_-]", "_", prefix)
    return node if node == prefix else f"{node}_{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"


def _client() -> Any:
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_queued_messages_set(20)  # of its own queue: what must not be lost waits in ours
    return client


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port or 1) > 0
        (parts.hostname or "").encode("idna")  # as sockets do: a label that is empty or too long is an error
        valid = valid and not re.search(r"[+#\0]", unquote(parts.path)) and not re.search("[?#]", url)
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"--mqtt '{stream_name(url)}' is not the address of a broker\n"
            "  expected mqtt://user:password@host:1883/prefix, or mqtts; the prefix holds no + and no #"
        )
    return parts
