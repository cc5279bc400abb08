"""Where a server listens: [HOST:]PORT, the socket, and by which names others may ask for it."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from svg_common.errors import SvgError, UsageError
from svg_common.printable import printable

LOOPBACK = "127.0.0.1"
_SEND_BUFFER_BYTES = 1 << 17  # Linux lets it grow to megabytes: a slow client would see pictures of many seconds ago
_BACKLOG = 128
_IPV4 = re.compile(r"[0-9A-Fa-fXx.]+")  # also of fewer numbers than four, octal or hexadecimal ones
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class AddressError(SvgError):
    """A server cannot listen at its address: another program does, or this machine does not have it."""


@dataclass(frozen=True)
class Address:
    """A host name or IP address without brackets, and a port; port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine reach it."""
        ip = ip_of(self.host)
        return self.host == "localhost" or (ip is not None and ip.is_loopback)

    @property
    def is_everywhere(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        ip = ip_of(self.host)
        return ip is not None and ip.is_unspecified

    def link(self, path: str = "/") -> str:
        """What to open in a browser, from another machine too unless only this one is reached."""
        return f"http://{Address(_own_address() if self.is_everywhere else self.host, self.port)}{path}"


def parse_listen_address(option: str, text: str) -> Address:
    """Read [HOST:]PORT; without a host it is this machine alone.

    Raises:
        UsageError: it is none, for the option `option`.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = port.isascii() and port.isdecimal() and int(port) < 1 << 16 and text == (f"{host}:{port}" if host else port)
    if host and valid:
        valid = bool(_NAME.fullmatch(bare)) if bare == host else ip_of(bare) is not None and ":" in bare
    if not valid:
        raise UsageError(
            f"{option} {printable(text)} is not an address\n"
            "  expected PORT for this machine alone, or HOST:PORT; for example 8000, 0.0.0.0:8000 or [::]:8000"
        )
    return Address(_usual_spelling(bare) or bare.lower() or LOOPBACK, int(port))


def check_host_name(option: str, name: str) -> str:
    """Return a name by which the server may be asked for, in lower case.

    Raises:
        UsageError: it is not a host name.
    """
    if not _NAME.fullmatch(name) and ip_of(name) is None:
        raise UsageError(f"{option} {printable(name)} is not a host name\n  expected, for example, camera.example.org")
    return name.lower()


def listen(address: Address) -> tuple[socket.socket, Address]:
    """Open a socket that listens; connections wait until a server accepts them. Returns it and the address with its port.

    Raises:
        AddressError: the port is in use or forbidden, or the host is not one of this machine.
    """
    host = LOOPBACK if address.host == "localhost" else address.host
    try:
        family, _, _, _, place = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Named, because asyncio sets TCP_NODELAY only then: small answers would wait 40 ms for an acknowledgement.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _refused(address, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # what is accepted inherits it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.is_everywhere else 1)
        sock.bind(place)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(address, error) from error
    return sock, Address(address.host, sock.getsockname()[1])


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `text` is, without brackets; None for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _usual_spelling(host: str) -> str | None:
    """An IP address as browsers write it, of every spelling that sockets take; None for a name.

    0 is 0.0.0.0, 127.1 is 127.0.0.1, and so is ::ffff:127.0.0.1. For what the user has typed: clients have no need of them.
    """
    ip = ip_of(host)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ip)
    if not _IPV4.fullmatch(host):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def _refused(address: Address, error: OSError) -> AddressError:
    expected = "a free port and an address of this machine; port 0 takes any free one"
    ip = ip_of(address.host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local and ip.scope_id is None:
        expected = f"its network interface, too; for example [{address.host}%eth0]:{address.port}"
    return AddressError(f"cannot listen at {address}: {error.strerror or error}\n  expected {expected}")


def _own_address() -> str:
    """The address that this machine has towards others. Connecting a UDP socket sends nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation
            return str(probe.getsockname()[0])
    except OSError:  # no network
        return socket.gethostname()
