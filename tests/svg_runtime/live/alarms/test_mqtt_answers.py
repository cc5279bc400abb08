"""MQTT against a broker that answers as real ones do now and then: protocol levels, refusals, limits, a lost line."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress

import pytest

from svg_runtime.live.alarms import mqtt as mqtt_module
from svg_runtime.live.alarms import worker as worker_module
from svg_runtime.live.alarms.mqtt import MqttPublisher
from svg_runtime.live.alarms.outlet import Outlet
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.events import EventLog
from tests.command_runner import wait_until
from tests.svg_runtime.live.alarms.test_archive import record


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 0.05)


class FakeBroker:
    """Acknowledges what is published with `reasons`, one after another, then with success, or as 3.1.1 does.

    Args:
        level: the highest protocol level.
        refusal: answer to a higher one.
        reasons: of MQTT 5, of messages to `refused`.
        refused: what the topic ends with.
        closes: connections that are closed at first.
        limit: bytes of a message, of MQTT 5.
    """

    def __init__(
        self,
        level: int,
        refusal: bytes = b"",
        reasons: tuple[int, ...] = (),
        refused: bytes = b"/alarm",
        closes: int = 0,
        limit: int | None = None,
    ) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._level = level
        self._refusal = refusal
        self._reasons = list(reasons)
        self._refused = refused
        self._closes = closes
        self._properties = b"" if limit is None else b"\x27" + limit.to_bytes(4, "big")
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}/gate"
        self.connects: list[int] = []  # protocol level of each
        self.topics: list[bytes] = []  # of what was published
        self.payloads: list[bytes] = []  # of the same
        self.silent = False  # acknowledges nothing
        self.connection: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                self.connection, _ = self._server.accept()
            except OSError:  # the end of the test
                return
            with self.connection, suppress(OSError):
                self._converse(self.connection)

    def _converse(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        while header := stream.read(1):
            length = shift = 0
            while (byte := stream.read(1)[0]) & 128:
                length += (byte & 127) << shift
                shift += 7
            body = stream.read(length + (byte << shift))
            if header[0] == 0x10:
                self.connects.append(body[6])
                if len(self.connects) <= self._closes:
                    return
                if body[6] > self._level:
                    connection.sendall(self._refusal)
                    return
                connack = bytes([0, 0, len(self._properties)]) + self._properties if body[6] == 5 else bytes(2)
                connection.sendall(bytes([0x20, len(connack)]) + connack)
            elif header[0] >> 4 == 3:
                size = int.from_bytes(body[:2], "big")
                topic, number = body[2 : 2 + size], body[2 + size : 4 + size]
                self.topics.append(topic)
                self.payloads.append(body[4 + size + (self.connects[-1] == 5) :])
                if self.silent:
                    continue
                reason = self._reasons.pop(0) if topic.endswith(self._refused) and self._reasons else 0
                connection.sendall(b"\x40\x03" + number + bytes([reason]) if self.connects[-1] == 5 else b"\x40\x02" + number)
            elif header[0] >> 4 == 14:
                return


@pytest.mark.parametrize(
    ("refusal", "levels"),
    [
        (b"\x20\x02\x00\x01", [5, 4]),
        (b"\x20\x03\x00\x84\x00", [5, 4]),
        (b"", [5, 4, 5, 4]),  # it could be a proxy whose broker is starting
        (b"\x20\x02\x00\x00", [5, 4, 5, 4]),  # a broker that takes no notice of the level
        (b"\x20\x02\x00\x02", [5, 4, 5, 4]),
        (b"\x20\x02\x00\x05", [5, 4, 5, 4]),
    ],
)
def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(refusal, levels, monkeypatch):
    monkeypatch.setattr(mqtt_module, "_RECONNECT_S", (0.05, 0.05))
    broker, events = FakeBroker(4, refusal), EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate", events), events)
    outlet.put(record(1))
    wait_until(lambda: outlet.summary()["sent"] == 1)
    assert broker.connects == levels
    assert set(events.counts) <= {"mqtt_failed", "mqtt_back"}  # the alarm waited for the second attempt
    broker.connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: events.counts["mqtt_connected"])
    assert broker.connects == levels * 2  # it may have been replaced
    outlet.put(record(2))
    wait_until(lambda: outlet.summary()["sent"] == 2)
    outlet.close(5)
    broker.close()


@pytest.mark.parametrize("closes", [1, 2, 3, 4, 5])
def test_a_broker_that_is_starting_behind_a_proxy_is_not_taken_for_an_old_one(closes, monkeypatch):
    monkeypatch.setattr(mqtt_module, "_RECONNECT_S", (0.05, 0.05))
    broker, events = FakeBroker(5, closes=closes), EventLog()
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(lambda: b"gate/availability" in broker.topics)
    publisher.close()
    broker.close()
    assert broker.connects[-1] == 5
    assert len(broker.connects) <= closes + 2
    assert "mqtt_lost" not in events.counts


def test_a_refusal_at_a_level_that_was_guessed_does_not_keep_it(monkeypatch):
    monkeypatch.setattr(mqtt_module, "_RECONNECT_S", (0.05, 0.05))
    broker, events = FakeBroker(3, b"\x20\x02\x00\x03", closes=1), EventLog()  # server unavailable
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(lambda: len(broker.connects) >= 2)
    broker._level = 5
    wait_until(lambda: b"gate/availability" in broker.topics)
    publisher.close()
    broker.close()
    assert broker.connects[:2] == [5, 4]
    assert broker.connects[-1] == 5


@pytest.mark.parametrize(
    ("code", "reason"), [(0x8B, "Server shutting down"), (0, "Normal disconnection"), (0x80, "Unspecified error")]
)
def test_why_a_broker_ends_the_connection_is_said(code, reason):
    broker, events = FakeBroker(5), EventLog()
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(publisher._client.is_connected)
    broker.connection.sendall(bytes([0xE0, 6, code, 4, 0x1F, 0, 1]) + b"x")  # DISCONNECT with a text
    wait_until(lambda: events.counts["mqtt_lost"])
    publisher.close()
    broker.close()
    assert events.messages[0].endswith(f"was lost: {reason}")


def test_a_message_that_is_refused_for_now_is_sent_again():
    broker, events = FakeBroker(5, reasons=(0, 0x97)), EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate", events), events)
    wait_until(lambda: b"gate/availability" in broker.topics)
    outlet.put(record(1))
    wait_until(lambda: outlet.summary()["sent"] == 1)
    outlet.close(5)
    broker.close()
    assert outlet.summary()["refused"] == 0
    assert any("refuses messages to PREFIX/alarm: Quota exceeded; alarms wait" in message for message in events.messages)


def test_an_error_in_a_callback_is_not_taken_for_one_of_the_connection():
    publisher = MqttPublisher("mqtt://127.0.0.1:1", "gate", EventLog())
    publisher.close()
    for text, noted in (("Caught exception in on_connect: full", False), ("failed to receive on socket: full", True)):
        publisher._error = None
        try:
            raise OSError("full")
        except OSError:  # where paho logs
            publisher._on_log(None, None, 0, text)
        assert (publisher._error is not None) == noted


def test_what_of_the_greeting_is_refused_for_now_is_said_again_and_reported_once(monkeypatch):
    monkeypatch.setattr(mqtt_module, "_AGAIN_S", 0.3)
    broker, events = FakeBroker(5, reasons=(0x97, 0x97, 0, 0x97), refused=b"/availability"), EventLog()
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(lambda: broker.topics.count(b"gate/availability") == 2)
    publisher.send(record(1, phase="started"))
    wait_until(lambda: broker.topics.count(b"gate/availability") == 3)
    assert broker.payloads[-2:] == [b"ON", b"online"]  # what is so now
    publisher.send(record(2))  # acknowledged after it
    wait_until(lambda: not publisher._again.is_alive())
    publisher.send(record(3))
    assert broker.topics.count(b"gate/availability") == 3  # it was accepted
    assert events.counts["mqtt_refused"] == 1
    broker.connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: events.counts["mqtt_refused"] == 2)  # hours later, say
    publisher.close()
    broker.close()


def test_a_message_larger_than_the_broker_takes_is_refused_and_does_not_end_the_connection():
    limit = len(record(1).to_json()) + 200
    broker, events = FakeBroker(5, limit=limit), EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate", events), events)
    wait_until(lambda: b"gate/availability" in broker.topics)
    outlet.put(record(1).model_copy(update={"source": "x" * 1000}))
    outlet.put(record(2))
    wait_until(lambda: outlet.summary() == {"sent": 1, "refused": 1, "stopped": 0, "dropped": 0})
    assert broker.payloads[-1] == b"OFF"
    assert broker.topics.count(b"gate/event") == 1
    outlet.put(record(3).model_copy(update={"source": "x" * 1000}))
    wait_until(lambda: outlet.summary()["refused"] == 2)
    broker.connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: broker.topics.count(b"gate/availability") == 2)
    assert broker.topics.count(b"gate/event") == 1
    outlet.close(5)
    broker.close()
    said = f"refuses messages to PREFIX/event: larger than its limit of {limit} bytes"
    assert sum(said in message for message in events.messages) == 3  # two alarms and the greeting


def test_what_a_lost_connection_left_unacknowledged_is_not_sent_after_the_next_greeting(monkeypatch):
    """It would fill the queue of paho, whose end is what says that the camera is there, and say what is no longer so."""
    monkeypatch.setattr(mqtt_module, "_ACKNOWLEDGE_S", 0.02)
    broker, events = FakeBroker(5), EventLog()
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(lambda: b"gate/availability" in broker.topics)
    broker.silent = True
    for sequence in range(1, 10):
        with pytest.raises(NotDeliveredError):
            publisher.send(record(sequence, phase="started"))
    wait_until(lambda: len(broker.topics) == 3 + 18)
    broker.silent = False
    broker.topics.clear()
    broker.connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: b"gate/availability" in broker.topics)
    monkeypatch.undo()
    publisher.send(record(10))  # after all that would be sent again
    names = [topic.rpartition(b"/")[2] for topic in broker.topics]
    assert names == [b"config", b"event", b"alarm", b"availability", b"event", b"alarm"]
    assert [json.loads(broker.payloads[place])["sequence"] for place in (-5, -2)] == [9, 10]
    publisher.close()
    broker.close()
