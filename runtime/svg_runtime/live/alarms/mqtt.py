"""Publishes alarms to an MQTT broker, with discovery for Home Assistant.

Below PREFIX: `availability` (online, offline; the last will), `alarm` (ON, OFF), `event` (the last record as JSON). All three
are retained, and published again whenever the connection is back.

The client speaks MQTT 5, whose acknowledgements say whether a message was refused, and 3.1.1 to a broker that does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
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
from svg_runtime.live.alarms.outlet import RefusedError
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
# Protocol levels of one attempt after another, MQTT 5 and 3.1.1, until one is answered. Some brokers close the connection at
# a level that they do not know, but so does what stands before a broker that is starting: what 3.1.1 then reaches is asked
# for 5 once more, as a broker with 5 would do as well. After any other end of an attempt or connection it begins again.
_LEVELS = (5, 4, 5, 4)
_SURE = 3  # of them, the one that is kept; it follows at once where a broker says that it does not know 5
_CLOSED = "Unspecified error"  # what paho says of a connection that was closed or broke
_PUBLISH_BYTES = 10  # of a message, at most, besides topic and payload
_AGAIN_S = 10.0
# Of the answers that refuse a message, those that mean "later": identifier in use, quota exceeded. Not 0x80 and 0x83, which
# name no reason: it may stay, and an alarm that is tried again holds up all later ones.
_RETRIED = (0x91, 0x97)


class MqttPublisher:
    """Keeps a connection to a broker in a thread of paho-mqtt, which connects again by itself, and publishes with QoS 1.

    Args:
        url: mqtt://user:password@host:1883/prefix, or mqtts; see `check_broker`.
        source: what is watched, for the name of the device.
        events: of the run.
        camera: its name, which is below the prefix then; None: it is alone, and has none.
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
        self._answered = False  # the broker answered this attempt to connect, be it with a refusal
        self._connected = False
        self._closed = False
        self._next = 0  # of `_LEVELS`: the next attempt
        self._largest: int | None = None  # bytes that the broker takes in one message
        self._error: OSError | None = None  # that ended this connection
        self._greeting: dict[int, str] = {}  # names of the messages of a new connection, by their identifiers
        self._again: threading.Timer | None = None  # the greeting, of which something was refused for now
        self._refused_topics: set[str] = set()  # that were reported
        self._refusals: dict[int, Any] = {}  # reasons of other refused messages, by their identifiers
        self._problem: tuple[str, str] | None = None  # kind and message of the last event, until it is connected again
        self._client = _client()
        self._set_level()
        self._client.will_set(self._topic("availability"), "offline", qos=1, retain=True)
        if parts.username is not None:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.reconnect_delay_set(*_RECONNECT_S)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_pre_connect = self._on_pre_connect
        self._client.on_publish = self._on_publish
        self._client.on_log = self._on_log
        port = parts.port or _PORTS[parts.scheme]
        self._client.connect_async(parts.hostname, port, _KEEPALIVE_S, clean_start=True)
        self._client.loop_start()

    def send(self, record: AlarmRecord) -> None:
        """See `Transport`."""
        self._refusals.clear()  # of attempts that were not waited for
        with self._lock:
            if not self._connected:
                raise NotDeliveredError(f"not connected to {self._shown}")
            messages = []
            if self._last is None or record.sequence >= self._last.sequence:
                self._last = record
            else:  # it waited for its clip while a newer alarm began, whose state is what must remain
                messages.append(("event", record.to_json()))
            messages += self._state(self._last)
            published = [(name, self._publish(self._topic(name), payload)) for name, payload in messages]
        deadline = time.monotonic() + _ACKNOWLEDGE_S
        for name, message in published:
            if message is None:
                raise RefusedError(f"{self._shown} refuses messages to PREFIX/{name}: {self._too_large()}")
            try:
                message.wait_for_publish(max(deadline - time.monotonic(), 0.0))
            except (RuntimeError, ValueError):  # the connection was lost, or the queue of paho is full
                raise NotDeliveredError(f"the connection to {self._shown} was lost") from None
            if not message.is_published():
                raise NotDeliveredError(f"no answer from {self._shown}")
            refusal = self._refusals.get(message.mid)
            if refusal is not None:
                error = NotDeliveredError if refusal.value in _RETRIED else RefusedError
                raise error(f"{self._shown} refuses messages to PREFIX/{name}: {refusal}")

    def close(self) -> None:
        """Say that nobody watches any more. What a connection waits for, such as a name server, is not waited for here."""
        with self._lock:
            self._closed = True
            connected = self._connected
            self._connected = False  # so that nothing says `online` again
            goodbye = self._publish(self._topic("availability"), "offline") if connected else None
        if self._again is not None:
            self._again.cancel()
        if goodbye is not None:
            with suppress(RuntimeError, ValueError):  # the connection was just lost, or the queue of paho is full
                goodbye.wait_for_publish(_GOODBYE_S)
        self._client.disconnect()
        stopping = threading.Thread(target=self._client.loop_stop, name="mqtt-stop", daemon=True)  # waits for an attempt
        stopping.start()
        if connected:
            stopping.join(_GOODBYE_S)

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

    def _publish(self, topic: str, payload: str) -> Any:
        """None if the broker does not take so large a message: it would end the connection, again and again."""
        size = len(topic.encode()) + len(payload.encode()) + _PUBLISH_BYTES
        if self._largest is not None and size > self._largest:
            return None
        return self._client.publish(topic, payload, qos=1, retain=True)

    def _too_large(self) -> str:
        return f"larger than its limit of {self._largest} bytes"

    def _state(self, record: AlarmRecord | None) -> list[tuple[str, str]]:
        """The retained messages that say how things are; the event comes first, so that it is there when the alarm rings."""
        if record is None:
            return [("alarm", "OFF")]
        return [("event", record.to_json()), ("alarm", "ON" if record.phase == "started" else "OFF")]

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if self._closed:
            client.disconnect()
            return
        if reason == "Unsupported protocol version" and _LEVELS[self._step] == 5:
            self._next = _SURE
            return
        if reason.is_failure:
            self._report("mqtt_refused", f"mqtt: {self._shown} refuses the connection: {reason}")
            return
        if _LEVELS[self._step] == 4 and self._step != _SURE:
            self._next = self._step + 1
            with suppress(OSError, AttributeError):  # it was just lost, or closed by `close`
                client.socket().shutdown(socket.SHUT_RDWR)  # `disconnect` would end the thread of paho
            return
        if self._problem is not None:
            self._problem = None
            self._events.add("mqtt_connected", f"mqtt: connected to {self._shown}")
        self._largest = getattr(properties, "MaximumPacketSize", None)
        with self._lock:
            # What waits from earlier connections is said by the greeting, or sent again by the worker: resent after the
            # greeting it would be out of date, and it fills the queue.
            client.drop_out_messages()
            self._connected = True
        self._greet()

    def _greet(self) -> None:
        """Publish how things are. Availability comes last: what a killed run left as the alarm must not be valid for a moment.

        Held is the lock under which paho calls `_on_publish`, so that an answer does not come before its message is known.
        """
        topic, payload = self.discovery()
        with self._lock, self._client._out_message_mutex:
            if not self._connected:
                return
            self._greeting.clear()
            messages = [(f"{_DISCOVERY}/#", topic, json.dumps(payload))]
            for name, content in [*self._state(self._last), ("availability", "online")]:
                messages.append((f"PREFIX/{name}", self._topic(name), content))
            for name, topic, content in messages:
                message = self._publish(topic, content)
                if message is None:
                    self._report_refused(name, self._too_large())
                else:
                    self._greeting[message.mid] = name

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        """Note a refusal before `send` is told that its message was acknowledged. MQTT 3.1.1 acknowledges refused ones too.

        Paho holds its lock of messages: to wait for ours here, which `send` holds while it publishes, could take forever.
        """
        name = self._greeting.pop(mid, None)
        if not reason.is_failure:
            self._refused_topics.discard(name)
        elif name is None:
            self._refusals[mid] = reason
        else:
            self._report_refused(name, str(reason))
            if reason.value in _RETRIED and (self._again is None or not self._again.is_alive()):
                self._again = threading.Timer(_AGAIN_S, self._greet)
                self._again.daemon = True
                self._again.start()

    def _report_refused(self, name: str, reason: str) -> None:
        """Add an event unless the last answer to this message of the greeting was a refusal too."""
        if name not in self._refused_topics:
            self._refused_topics.add(name)
            self._events.add("mqtt_refused", f"mqtt: {self._shown} refuses messages to {name}: {reason}")

    def _on_connect_fail(self, client: Any, userdata: Any) -> None:
        """Called where paho handles the exception of an attempt, which it passes to nobody."""
        self._report("mqtt_unreachable", f"mqtt: cannot connect to {self._shown}: {_reason(sys.exc_info()[1])}")
        self._set_level()

    def _on_pre_connect(self, client: Any, userdata: Any) -> None:
        self._answered = False
        self._error = None

    def _on_log(self, client: Any, userdata: Any, level: int, text: str) -> None:
        """Called where paho handles the exception that ends a connection, which it passes to nobody.

        It is called for exceptions of callbacks too, which are not of its socket.
        """
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and "on socket" in text:
            self._error = error

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        connected = self._connected
        self._connected = False
        if not reason.is_failure and not flags.is_disconnect_packet_from_server:
            return  # `close`
        if connected:
            why = self._why_lost(reason, flags.is_disconnect_packet_from_server)
            self._report("mqtt_lost", f"mqtt: the connection to {self._shown} was lost: {why}")
        elif self._answered:
            pass  # a refusal, which has its reason, or a level that another one follows
        elif isinstance(self._error, ssl.SSLError):
            self._report("mqtt_unreachable", f"mqtt: cannot connect to {self._shown}: {_reason(self._error)}")
        elif _LEVELS[self._step] == 5:
            self._next = self._step + 1
        else:
            self._report("mqtt_unreachable", f"mqtt: cannot connect to {self._shown}: it does not answer as a broker")
        self._set_level()

    def _set_level(self) -> None:
        """Set the protocol of the next attempt. Paho has no public way, but does the same itself, from 3.1.1 to 3.1."""
        from paho.mqtt.enums import MQTTProtocolVersion

        self._step = self._next
        self._next = 0
        self._client._protocol = MQTTProtocolVersion(_LEVELS[self._step])

    def _why_lost(self, reason: Any, said: bool) -> str:
        """Said: by the broker, one of whose reasons has the name that paho gives a lost connection."""
        if self._error is not None:
            return _reason(self._error)
        return "the broker closed it" if reason == _CLOSED and not said else str(reason)

    def _report(self, kind: str, message: str) -> None:
        """Add an event unless it is the last one again, as at every attempt, or nobody waits for a connection any more."""
        if not self._closed and self._problem != (kind, message):
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
    alert = getattr(error, "reason", None) or ""
    if "CERTIFICATE_REQUIRED" in alert:  # TLS 1.3
        reason = "the broker requires a client certificate, which --mqtt does not support"
    elif "ALERT_HANDSHAKE_FAILURE" in alert or isinstance(error, ssl.SSLEOFError):
        # TLS 1.2 has no alert of its own for it; and in TLS 1.3 the connection may be closed before the alert is read
        reason += "; a broker that requires a client certificate is not supported"
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

    # Named here: a broker that names its clients itself takes a connection that comes back for another client, and reports
    # the old one as dead, by its will, after the new one said that it is online.
    name = f"svgedge{secrets.token_hex(8)}"  # at most 23 letters and digits, which every broker accepts
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name)
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
            "  expected mqtt://USER:PASSWORD@host:1883/prefix, or mqtts; the prefix holds no + and no #;\n"
            "  characters such as @ : / # ? in a password are written as %40 %3A %2F %23 %3F"
        )
    return parts
