"""http(s) addresses to bytes, from public hosts only, within limits of time and size.

Every hop of a redirect is checked anew, and the address that was checked is the one connected to.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from mplug_owl.errors import DataError
from mplug_owl.media.limits import Limits, check_bytes

_MAX_REDIRECTS = 5


def download(url: str, limits: Limits) -> bytes:
    """The body of an http(s) address, following redirects; every hop is checked anew."""
    if not limits.allow_remote:
        raise DataError(f"{url[:200]!r} is remote, and fetching is off (Limits.allow_remote)")
    deadline = time.monotonic() + limits.timeout
    hop = url
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            answer = _get(hop, limits, deadline)
        except DataError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            late = time.monotonic() > deadline
            reason = f"no answer within {limits.timeout} s" if late else error
            raise DataError(f"{hop[:200]!r} cannot be fetched ({reason})") from None
        if isinstance(answer, bytes):
            return answer
        hop = urllib.parse.urljoin(hop, answer)
    raise DataError(f"{url[:200]!r} redirects over {_MAX_REDIRECTS} times")


def _get(url: str, limits: Limits, deadline: float) -> bytes | str:
    """The body, or the address this one redirects to."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError(f"{url[:200]!r} is no http(s) address")
    if "@" in parts.netloc:
        raise DataError(f"the address of {parts.hostname!r} holds a name or a password; expected one without")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port < 1024 and port not in (80, 443) and parts.hostname not in limits.trusted_hosts:
        raise DataError(f"{url[:200]!r} is at port {port}, where other services live; expected 80, 443 or over 1023")
    # Connecting to the very address that was checked: a second look-up could say another one.
    address = _public_address(parts.hostname, port, limits)
    left = max(deadline - time.monotonic(), 0.01)
    with (
        socket.create_connection((address, port), timeout=left) as plain,
        _secured(plain, parts) as link,
        closing(http.client.HTTPConnection(parts.hostname, port)) as connection,
        _clocked(link, left),
    ):
        if isinstance(link, ssl.SSLSocket):
            link.do_handshake()  # by the clock, as everything that is said
        connection.sock = link
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", target, headers={"User-Agent": "mplug_owl", "Accept": "*/*"})
        with connection.getresponse() as response:
            if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
                return str(response.getheader("Location"))
            if response.status != 200:
                raise DataError(f"{url[:200]!r} answers {response.status} {response.reason}")
            check_bytes(response.length or 0, limits, repr(url[:200]))
            body = response.read(limits.max_bytes + 1)
            check_bytes(len(body), limits, repr(url[:200]))
            if response.length or time.monotonic() > deadline:
                raise http.client.IncompleteRead(body, response.length)
            return body


def _secured(link: socket.socket, parts: urllib.parse.SplitResult) -> socket.socket:
    if parts.scheme == "http":
        return link
    context = ssl.create_default_context()
    return context.wrap_socket(link, server_hostname=parts.hostname, do_handshake_on_connect=False)


@contextmanager
def _clocked(link: socket.socket, seconds: float) -> Iterator[None]:
    """A server may trickle bytes for ever, each of them in time; the clock ends that."""
    clock = threading.Timer(seconds, _hang_up, [link])
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def _hang_up(link: socket.socket) -> None:
    # The socket may have been closed in the meantime; then there is nothing to end.
    try:
        link.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _public_address(host: str, port: int, limits: Limits) -> str:
    """An address of `host`, all of whose addresses must be public unless it is trusted."""
    found: Sequence[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if host not in limits.trusted_hosts and not all(map(_is_public, addresses)):
        # Which address it is would tell strangers about the network behind this machine.
        raise DataError(f"host {host!r} has a private address; it is not fetched")
    return addresses[0]


_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in _NAT64:
            # An IPv4 address in disguise is judged as what it is.
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _UNICAST or ip.sixtofour or ip.teredo:
            # Other disguises, and what routers of this network alone may know.
            return False
    return ip.is_global and not ip.is_multicast
