"""MQTT against a real broker: retained state, discovery, the last will, and a broker that goes away and comes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from svg_common.errors import MissingExtraError, UsageError
from svg_common.printable import console_text
from svg_runtime.live.alarms import mqtt as mqtt_module
from svg_runtime.live.alarms import worker as worker_module
from svg_runtime.live.alarms.mqtt import MqttPublisher, check_broker
from svg_runtime.live.alarms.outlet import Outlet
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.events import EventLog
from tests.command_runner import wait_until
from tests.svg_common.test_folder_lock import held_by_another_process
from tests.svg_runtime.live.alarms.test_archive import record

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
NODE = "home_gate_81a55330"  # of home/gate: SHA-256 of what had to be replaced
DISCOVERY = f"homeassistant/binary_sensor/{NODE}/alarm/config"


class Broker:
    """mosquitto on a free port, which can be stopped and started again; with a password, and other lines of configuration."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        passwords = folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "me", "pass/word"], check=True, capture_output=True)
        passwords.chmod(0o644)
        self._config = folder / "mosquitto.conf"
        settings = [f"listener {self.port} 127.0.0.1", f"password_file {passwords}", "user root", *lines]
        self._config.write_text("\n".join(settings) + "\n")
        self.url = f"mqtt://me:pass%2Fword@127.0.0.1:{self.port}/home/gate"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("mosquitto does not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def broker(tmp_path) -> Iterator[Broker]:
    running = Broker(tmp_path)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 0.05)


class Listener:
    """Collects everything on the broker; what is retained comes first."""

    def __init__(self, broker: Broker) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, str]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("me", "pass/word")
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *rest: subscribed.set()
        self._client.on_message = lambda client, data, message: self.messages.append((message.topic, message.payload.decode()))
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def publish(self, topic: str, payload: str) -> None:
        self._client.publish(topic, payload, qos=1, retain=True)

    def values(self, topic: str) -> list[str]:
        return [payload for name, payload in self.messages if name == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def listen(broker) -> Iterator[Callable[[], Listener]]:
    opened: list[Listener] = []

    def make() -> Listener:
        opened.append(Listener(broker))
        return opened[-1]

    yield make
    for listener in opened:
        listener.close()


@needs_broker
def test_an_alarm_is_retained_with_its_record_and_the_end_is_said(broker, listen):
    listener, events = listen(), EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate camera", events), events)
    wait_until(lambda: listener.values("home/gate/alarm") == ["OFF"])
    outlet.put(record(1, phase="started"))
    wait_until(lambda: listener.values("home/gate/alarm") == ["OFF", "ON"])
    late = listen()  # such as Home Assistant after a restart
    wait_until(lambda: len(late.messages) == 4)
    assert late.values("home/gate/availability") == ["online"]
    assert late.values("home/gate/alarm") == ["ON"]
    assert late.values("home/gate/event") == [record(1, phase="started").to_json()]
    outlet.put(record(1))
    outlet.close(10)
    wait_until(lambda: listener.values("home/gate/availability") == ["online", "offline"])
    assert listener.values("home/gate/alarm") == ["OFF", "ON", "OFF"]
    assert outlet.summary() == {"sent": 2, "refused": 0, "stopped": 0, "dropped": 0}
    assert not events.counts


@needs_broker
def test_the_alarm_stays_on_while_a_newer_one_goes_on(broker, listen):
    """The end of the first is told when its clip is complete; the second has begun meanwhile."""
    listener, events = listen(), EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate camera", events), events)
    wait_until(lambda: listener.values("home/gate/alarm") == ["OFF"])
    second = record(2, phase="started")
    for each in (record(1, phase="started"), second, record(1)):
        outlet.put(each)
    wait_until(lambda: outlet.summary()["sent"] == 3)
    wait_until(lambda: record(1).to_json() in listener.values("home/gate/event"))
    late = listen()
    wait_until(lambda: len(late.messages) == 4)
    assert late.values("home/gate/alarm") == ["ON"]
    assert late.values("home/gate/event") == [second.to_json()]
    assert listener.values("home/gate/alarm").count("OFF") == 1  # before any alarm
    broker.stop()
    wait_until(lambda: events.counts["mqtt_lost"])
    broker.start()  # it has forgotten everything
    back = listen()
    wait_until(lambda: back.values("home/gate/event") == [second.to_json()])
    wait_until(lambda: back.values("home/gate/alarm") == ["ON"])
    outlet.put(record(2))
    outlet.close(10)
    wait_until(lambda: back.values("home/gate/alarm")[-1] == "OFF")
    assert back.values("home/gate/alarm").count("OFF") == 1


@needs_broker
def test_home_assistant_finds_the_camera(broker, listen):
    events = EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate camera", events), events)
    listener = listen()
    wait_until(lambda: listener.values(DISCOVERY))
    outlet.close(5)
    config = json.loads(listener.values(DISCOVERY)[0])
    assert config["unique_id"] == f"{NODE}_alarm"
    assert config["device"]["identifiers"] == [NODE]
    assert config["state_topic"] == "home/gate/alarm"
    assert config["json_attributes_topic"] == "home/gate/event"
    assert (config["availability_topic"], config["payload_on"], config["payload_off"]) == (
        "home/gate/availability",
        "ON",
        "OFF",
    )


def found_by_home_assistant(prefix: str, camera: str | None = None) -> tuple[str, str, str, list[str]]:
    """Topic of the discovery, and of its payload the topic of the alarm and all that must be unique."""
    publisher = MqttPublisher(f"mqtt://127.0.0.1:1/{prefix}", "rtsp://h", EventLog(), camera)
    topic, payload = publisher.discovery()
    publisher.close()
    return topic, payload["state_topic"], payload["unique_id"], payload["device"]["identifiers"]


def test_cameras_of_one_process_are_devices_of_their_own():
    home, gate, second = (found_by_home_assistant("home", camera) for camera in (None, "gate", "gate-2"))
    assert home == ("homeassistant/binary_sensor/home/alarm/config", "home/alarm", "home_alarm", ["home"])
    assert gate == (DISCOVERY, "home/gate/alarm", f"{NODE}_alarm", [NODE])
    assert second[1] == "home/gate-2/alarm"
    assert re.fullmatch(r"homeassistant/binary_sensor/home_gate-2_[0-9a-f]{8}/alarm/config", second[0])


def test_prefixes_that_read_alike_are_devices_of_their_own():
    """Discovery is retained: of two on one topic the later replaces the earlier."""
    prefixes = ["home/gate", "home_gate", "home%20gate", "h%C3%A4user", "h%C3%BCuser", "\u95e8", "\u7a97"]
    found = [found_by_home_assistant(prefix) for prefix in prefixes]
    for number in (0, 2):
        assert len({one[number] for one in found}) == len(prefixes)
    assert len({one[3][0] for one in found}) == len(prefixes)
    assert all(re.fullmatch(r"homeassistant/binary_sensor/[A-Za-z0-9_-]+/alarm/config", one[0]) for one in found)
    assert found == [found_by_home_assistant(prefix) for prefix in prefixes]  # the same in every run
    assert found[1][2] == "home_gate_alarm"  # nothing was replaced


@needs_broker
def test_alarms_wait_for_a_broker_that_is_away(broker, listen):
    events = EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate camera", events), events)
    outlet.put(record(1))
    wait_until(lambda: outlet.summary()["sent"] == 1)
    broker.stop()
    wait_until(lambda: events.counts["mqtt_lost"])
    for sequence in (2, 3):
        outlet.put(record(sequence))  # returns, although nobody listens: no frame waits
    wait_until(lambda: events.counts["mqtt_failed"])
    broker.start()
    listener = listen()
    wait_until(lambda: outlet.summary()["sent"] == 3)
    wait_until(lambda: record(3).to_json() in listener.values("home/gate/event"))
    assert record(2).to_json() in listener.values("home/gate/event")
    assert "online" in listener.values("home/gate/availability")
    outlet.close(5)
    assert outlet.summary()["dropped"] == 0
    assert events.counts["mqtt_back"] == events.counts["mqtt_failed"]
    assert not any("word" in message for message in events.messages)


@needs_broker
@pytest.mark.parametrize("option", ["--alarm-dir", "--events", "--record", "--save-forecasts"])
@pytest.mark.parametrize("names", [[None], ["digits", "digits-2"]])
def test_a_second_run_that_is_refused_says_nothing_to_the_broker(broker, listen, svg_live, tmp_path, option, names):
    """The same command again, such as by mistake: the broker goes on hearing of the first one alone."""
    listener, events = listen(), EventLog()
    place = tmp_path / "place"
    outlets = [Outlet(MqttPublisher(broker.url, "digits", events, name), events) for name in names]
    wait_until(lambda: [payload for _, payload in listener.messages].count("OFF") == len(names))
    for outlet in outlets:
        outlet.put(record(1, phase="started"))
    wait_until(lambda: [payload for _, payload in listener.messages].count("ON") == len(names))
    held = place if names[-1] is None or option in ("--events", "--record") else place / names[-1]
    held.parent.mkdir(exist_ok=True)
    named = held
    if option == "--events":
        held = held.with_name(".place.lock")
        held.touch()
    else:
        held.mkdir()
    before = sorted(listener.messages)
    arguments = [*["--source", "synthetic://digits"] * len(names), "--headless", "--max-frames", "3", "--alarm"]
    with held_by_another_process(held):
        code, stderr, _ = svg_live(*arguments, "--mqtt", broker.url, option, str(place))
    assert (code, f"another process writes to '{named}'" in stderr) == (1, True), stderr
    time.sleep(0.2)  # for messages of a connection that ends
    assert sorted(listener.messages) == before
    for outlet in outlets:
        outlet.close(5)


@needs_broker
def test_the_last_will_tells_that_the_process_was_killed(broker, listen):
    listener = listen()
    code = (
        "import sys, time\n"
        "from svg_runtime.live.alarms.mqtt import MqttPublisher\n"
        "from svg_runtime.live.events import EventLog\n"
        "publisher = MqttPublisher(sys.argv[1], 'gate', EventLog())\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, broker.url])
    wait_until(lambda: listener.values("home/gate/availability") == ["online"], 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: listener.values("home/gate/availability") == ["online", "offline"])


@needs_broker
def test_a_wrong_password_is_reported_without_it(broker):
    events = EventLog()
    outlet = Outlet(MqttPublisher(broker.url.replace("pass%2Fword", "wrong"), "gate", events), events)
    outlet.put(record(1))
    wait_until(lambda: events.counts["mqtt_refused"])
    outlet.close(0.2)
    assert outlet.summary() == {"sent": 0, "refused": 0, "stopped": 0, "dropped": 1}
    assert events.counts["mqtt_dropped"] == 1
    assert f"mqtt: mqtt://127.0.0.1:{broker.port} refuses the connection: Not authorized" in events.messages
    assert events.counts["mqtt_lost"] == 0  # there was no connection
    assert not any("wrong" in message for message in events.messages)


def counted_calls(monkeypatch, name: str) -> list[str]:
    """The calls of a method of the publisher that have returned."""
    plain, calls = getattr(MqttPublisher, name), []

    def count(self, *arguments):
        plain(self, *arguments)
        calls.append(name)

    monkeypatch.setattr(MqttPublisher, name, count)
    return calls


@needs_broker
def test_a_refusal_is_said_once(broker, monkeypatch):
    monkeypatch.setattr(mqtt_module, "_RECONNECT_S", (0.05, 0.05))
    events, attempts = EventLog(), counted_calls(monkeypatch, "_on_connect")
    publisher = MqttPublisher(broker.url.replace("pass%2Fword", "wrong"), "gate", events)
    wait_until(lambda: len(attempts) >= 3)
    publisher.close()
    assert events.counts == {"mqtt_refused": 1}


@needs_broker
def test_a_broker_that_is_away_is_said_once_and_so_is_its_return(broker, monkeypatch):
    monkeypatch.setattr(mqtt_module, "_RECONNECT_S", (0.05, 0.05))
    events, attempts = EventLog(), counted_calls(monkeypatch, "_on_connect_fail")
    broker.stop()
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(lambda: len(attempts) >= 3)
    broker.start()
    wait_until(lambda: events.counts["mqtt_connected"])
    publisher.close()
    shown = f"mqtt://127.0.0.1:{broker.port}"
    assert events.messages == [f"mqtt: cannot connect to {shown}: Connection refused", f"mqtt: connected to {shown}"]


@needs_broker
def test_a_broker_that_closes_the_connection_is_said_to(broker, listen):
    listener, events = listen(), EventLog()
    publisher = MqttPublisher(broker.url, "gate", events)
    wait_until(lambda: listener.values("home/gate/availability") == ["online"])
    broker.stop()
    wait_until(lambda: events.counts["mqtt_lost"])
    publisher.close()
    lost = f"mqtt: the connection to mqtt://127.0.0.1:{broker.port} was lost: the broker closed it"
    assert events.messages[0] == lost


class CutLine:
    """A line to a broker whose connections can be lost on this side alone, as behind a router that restarts."""

    def __init__(self, broker: Broker) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._broker = broker
        self._near: list[socket.socket] = []
        self._far: list[socket.socket] = []
        self.url = broker.url.replace(str(broker.port), str(self._server.getsockname()[1]))
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self._near[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in [self._server, *self._near, *self._far]:
            each.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the end of the test
            while True:
                near, far = self._server.accept()[0], socket.create_connection(("127.0.0.1", self._broker.port))
                self._near.append(near)
                self._far.append(far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)


@needs_broker
def test_the_will_of_a_connection_that_the_broker_still_holds_does_not_come_after_the_next(broker, listen):
    listener, line, events = listen(), CutLine(broker), EventLog()
    publisher = MqttPublisher(line.url, "gate", events)
    wait_until(lambda: listener.values("home/gate/availability") == ["online"])
    line.cut()
    wait_until(lambda: events.counts["mqtt_connected"])
    wait_until(lambda: listener.values("home/gate/availability")[:3] == ["online", "offline", "online"])
    publisher.close()
    line.close()


@needs_broker
def test_what_a_killed_run_left_is_cleared_before_it_is_valid_again(broker, listen):
    """Home Assistant shows the retained ON as soon as the camera is available."""
    listener = listen()
    for name, payload in (("alarm", "ON"), ("availability", "offline")):  # the last will
        listener.publish(f"home/gate/{name}", payload)
    wait_until(lambda: len(listener.messages) == 2)
    publisher = MqttPublisher(broker.url, "gate", EventLog())
    wait_until(lambda: "online" in listener.values("home/gate/availability"))
    started = [message for message in listener.messages[2:] if not message[0].startswith("homeassistant/")]
    assert started == [("home/gate/alarm", "OFF"), ("home/gate/availability", "online")]
    assert listener.messages[2][0] == DISCOVERY
    publisher.close()


@needs_broker
def test_a_broker_with_an_access_list_refuses_alarms_and_they_count_as_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt_module, "_RECONNECT_S", (0.05, 0.05))
    access = tmp_path / "access"
    access.write_text("user me\ntopic read #\ntopic write home/gate/availability\n")
    access.chmod(0o644)
    broker = Broker(tmp_path, f"acl_file {access}")
    events = EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate", events), events)
    shown = f"mqtt://127.0.0.1:{broker.port} refuses messages to"
    wait_until(lambda: events.counts["mqtt_refused"] == 2)
    outlet.put(record(1))
    wait_until(lambda: outlet.summary()["refused"] == 1)
    broker.stop()
    wait_until(lambda: events.counts["mqtt_lost"])
    broker.start()
    wait_until(lambda: events.counts["mqtt_connected"])
    outlet.put(record(2))
    wait_until(lambda: outlet.summary()["refused"] == 2)
    outlet.close(5)
    broker.stop()
    assert outlet.summary() == {"sent": 0, "refused": 2, "stopped": 0, "dropped": 0}
    refusals = [message for message in events.messages if "refuses" in message]
    assert refusals[:3] == [
        f"mqtt: {shown} {topic}: Not authorized" for topic in ("homeassistant/#", "PREFIX/alarm", "PREFIX/event")
    ]
    # Of the second connection only what was not known before: its retained event, whose alarm says the same again.
    assert refusals[3:] == [f"mqtt: {shown} PREFIX/event: Not authorized"] * 2


@needs_broker
def test_an_access_list_that_allows_the_alarms_alone_costs_none(tmp_path):
    access = tmp_path / "access"
    access.write_text("user me\ntopic readwrite home/gate/#\n")
    access.chmod(0o644)
    broker = Broker(tmp_path, f"acl_file {access}", "allow_zero_length_clientid false")
    events = EventLog()
    outlet = Outlet(MqttPublisher(broker.url, "gate", events), events)
    outlet.put(record(1))
    wait_until(lambda: outlet.summary()["sent"] == 1)
    outlet.close(5)
    broker.stop()
    refused = f"mqtt: mqtt://127.0.0.1:{broker.port} refuses messages to homeassistant/#: Not authorized"
    assert [message for message in events.messages if "refuses" in message] == [refused]


def why_it_cannot_connect(url: str) -> str:
    events = EventLog()
    publisher = MqttPublisher(url, "gate", events)
    wait_until(lambda: events.counts["mqtt_unreachable"])
    publisher.close()
    return events.messages[0]


@pytest.mark.parametrize(
    ("scheme", "answer", "reason"),
    [
        ("mqtts", b"HTTP/1.1 400\r\n\r\n", r"\[SSL: \w+\] wrong version number .*"),
        ("mqtt", b"", "it does not answer as a broker"),
    ],
)
def test_what_is_no_broker_is_said_to_be_none(scheme, answer, reason):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept_and_answer, args=(server, answer), daemon=True).start()
        address = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        assert re.fullmatch(f"mqtt: cannot connect to {address}: {reason}", why_it_cannot_connect(address))


def _accept_and_answer(server: socket.socket, answer: bytes) -> None:
    with suppress(OSError):  # the end of the test
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)


def test_a_host_that_nobody_knows_is_said():
    assert re.match(r"mqtt: cannot connect to mqtt://no-host\.invalid: \w+", why_it_cannot_connect("mqtt://no-host.invalid"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
@pytest.mark.parametrize(
    ("authorities", "reason"),
    [
        (None, ""),
        ("missing.pem", "; SSL_CERT_FILE '{}' cannot be read: No such file or directory"),
        ("key.pem", "; SSL_CERT_FILE '{}' cannot be read: "),  # holds no certificate
    ],
)
def test_a_certificate_that_is_not_accepted_is_said_and_that_its_authority_cannot_be_read(
    authorities, reason, tmp_path, monkeypatch
):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out",
         certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if authorities is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / authorities))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_shake_hands, args=(context, server), daemon=True).start()
        said = why_it_cannot_connect(f"mqtts://127.0.0.1:{server.getsockname()[1]}")
    assert "certificate verify failed: self-signed certificate" in said.replace("self signed", "self-signed")
    assert reason.format(tmp_path / str(authorities)) in said
    assert ("SSL_CERT_FILE" in said) == (authorities is not None)


def _trusted_certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate, key


@needs_broker
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_a_broker_that_requires_a_client_certificate_is_said_to(tmp_path, monkeypatch):
    certificate, key = _trusted_certificate(tmp_path, monkeypatch)
    secured = (f"cafile {certificate}", f"certfile {certificate}", f"keyfile {key}")
    broker = Broker(tmp_path, *secured, "require_certificate true")
    said = why_it_cannot_connect(f"mqtts://127.0.0.1:{broker.port}")
    broker.stop()
    assert said.startswith(f"mqtt: cannot connect to mqtts://127.0.0.1:{broker.port}: ")
    assert said.endswith(
        (
            ": the broker requires a client certificate, which --mqtt does not support",
            "; a broker that requires a client certificate is not supported",  # closed before its alert could be read
        )
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_with_tls_1_2_a_client_certificate_may_be_what_is_missing(tmp_path, monkeypatch):
    certificate, key = _trusted_certificate(tmp_path, monkeypatch)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_shake_hands, args=(context, server), daemon=True).start()
        said = why_it_cannot_connect(f"mqtts://127.0.0.1:{server.getsockname()[1]}")
    assert said.endswith("; a broker that requires a client certificate is not supported")


def _shake_hands(context: ssl.SSLContext, server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, suppress(OSError):
        context.wrap_socket(connection, server_side=True)


def test_a_broker_that_acknowledges_nothing_does_not_break_the_end(monkeypatch):
    monkeypatch.setattr(mqtt_module, "_ACKNOWLEDGE_S", 0.02)
    events = EventLog()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept_and_be_silent, args=(server,), daemon=True).start()
        publisher = MqttPublisher(f"mqtt://127.0.0.1:{server.getsockname()[1]}", "gate", events)
        wait_until(publisher._client.is_connected)
        for sequence in range(1, 15):  # until the queue of paho is full
            with pytest.raises(NotDeliveredError):
                publisher.send(record(sequence))
        publisher.close()
    assert not publisher._client.is_connected()


def _accept_and_be_silent(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(bytes([0x20, 3, 0, 0, 0]))  # CONNACK of MQTT 5: accepted
        while connection.recv(1024):
            pass


@pytest.mark.parametrize(
    "url", ["http://h/", "mqtt://", "mqtt://h/a/#", "mqtt://h/+/a", "mqtt://h:x/", "mqtt://a..b/", "h", "mqtt://h/a?b=c"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(UsageError, match="--mqtt"):
        check_broker(url)


def test_the_end_does_not_wait_for_an_attempt_to_connect(monkeypatch):
    """It may take as long as a name server, or a firewall that drops packets; statistics are written after the end."""
    asked, answer, waited_out = threading.Event(), threading.Event(), []

    def resolve(*_: object, **__: object) -> list[object]:
        asked.set()
        waited_out.append(not answer.wait(20))
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    events = EventLog()
    publisher = MqttPublisher("mqtt://broker.example", "camera 0", events)
    assert asked.wait(20)
    publisher.close()
    assert not waited_out
    answer.set()
    wait_until(lambda: publisher._client._thread is None)
    assert (waited_out, events.summary()["counts"]) == ([False], {})


def test_the_advice_for_an_address_is_shown_whole():
    with pytest.raises(UsageError) as refused:
        check_broker("mqtt://me:pass#word@host")
    shown = console_text(str(refused.value))
    assert "mqtt://USER:PASSWORD@host:1883/prefix" in shown
    assert "@ : / # ? in a password are written as %40 %3A %2F %23 %3F" in shown
    assert "word@" not in shown


def test_without_paho_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(mqtt_module, "require_modules", _missing)
    with pytest.raises(MissingExtraError, match=r"svg-edge\[mqtt\]"):
        check_broker("mqtt://host")


def _missing(what: str, extra: str, *modules: str) -> None:
    raise MissingExtraError(what, modules[0], extra)
