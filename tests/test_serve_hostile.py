"""What people do to servers: every reply is an error in the known shape, and afterwards the owl answers as before."""

import asyncio
import io
import json
import random
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from PIL import Image

from mplug_owl.serve.app import make_app
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.connection import Connection
from mplug_owl.serve.intake import Intake, protect
from mplug_owl.serve.options import ServeOptions
from serving import PATH, PATIENCE, Place, Reply, data_url, endless_owl, said, serving, shown, until

SHORT = 1.5  # seconds, in place of the patience that people get
ERROR = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    options = ServeOptions(
        max_body_mib=1,
        max_pixels=1_000_000,
        max_new_tokens=64,
        default_new_tokens=4,
        remote_media=True,
        media_timeout=5.0,
    )
    catalogue = Catalogue({"owl": endless_owl()})
    catalogue.start()
    app = make_app(catalogue, options)
    protect(app, options, log=io.StringIO(), patience=SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "head_seconds", SHORT)
        with serving(app) as place:
            yield place


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: nothing runs, nothing is held, and the answer is the one that chat gives."""
    place: Place | None = request.getfixturevalue("place") if "place" in request.fixturenames else None
    yield
    if place is None:
        return
    owl = place.app.state.catalogue.owl()
    until(lambda: not place.service.busy and not place.app.state.callers.running)
    assert owl.engine.running == owl.engine.waiting == 0
    layer = place.app.middleware_stack
    while not isinstance(layer, Intake):
        layer = layer.app
    assert layer.held == 0
    reply = place.ask("POST", PATH, {"messages": said(), "max_tokens": 4})
    assert reply.json["choices"][0]["message"]["content"] == owl.chat(said(), max_new_tokens=4)


def refused(reply: Reply, *statuses: int) -> dict[str, Any]:
    """The error of a reply, if it is one in the known shape."""
    assert reply.status in statuses, (reply.status, reply.body[:300])
    error: dict[str, Any] = reply.json["error"]
    assert error.keys() == ERROR
    assert error["message"] and error["type"]
    assert "Traceback" not in reply.body.decode()
    return error


@contextmanager
def connected(place: Place) -> Iterator[socket.socket]:
    parts = urlsplit(place.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as link:
        yield link


def head(*lines: str, path: str = PATH, method: str = "POST") -> bytes:
    first = (f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join((*first, *lines, "", "")).encode()


def rest(link: socket.socket) -> bytes:
    """Everything up to the end of a connection."""
    pieces = []
    try:
        while piece := link.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def reply_of(said: bytes) -> Reply:
    """A reply with its length, as it came over a socket."""
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Reply(int(first.split()[1]), headers, body)


# ---- bodies --------------------------------------------------------------------------------------

GOOD = {"model": "owl", "messages": said(), "max_tokens": 4}
DEEP = 40_000
BODIES = {
    "nothing": b"",
    "half": b'{"messages": [',
    "null": b"null",
    "a list": b"[]",
    "a number": b"1e999999",
    "deep lists": b'{"messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a zero byte": b'{"messages": "\0"}',
    "another encoding": json.dumps(GOOD).encode("utf-16"),
    "no utf-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "half a letter": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "a long number": b'{"messages": [{"role":"user","content":"x"}], "max_tokens": ' + b"9" * 5000 + b"}",
    "not a number": b'{"messages": [{"role":"user","content":"x"}], "temperature": NaN}',
    "infinity": b'{"messages": [{"role":"user","content":"x"}], "temperature": 1e999}',
    "many messages": json.dumps({"messages": said() * 600}).encode(),
    "many fields": json.dumps({f"field{n}": n for n in range(10_000)}).encode(),
    "many stops": json.dumps(GOOD | {"stop": ["x"] * 9999}).encode(),
    "a long text": json.dumps({"messages": said("owl " * 200_000)}).encode(),
    "a long stop": json.dumps(GOOD | {"stop": "x" * 900_000}).encode(),
    "many choices": json.dumps(GOOD | {"n": 10**6}).encode(),
    "many empty messages": b'{"messages": [' + b"{}, " * 10_000 + b"{}]}",
    "far too many": b'{"messages": [' + b"[]," * 200_000 + b"[]]}",
    "far too many fields": b'{"metadata": {' + b",".join(b'"%d":{}' % n for n in range(60_000)) + b"}}",
    "a seed without end": json.dumps(GOOD | {"seed": 2**100}).encode(),
    "a long model": json.dumps(GOOD | {"model": "x" * 100_000}).encode(),
}


@pytest.mark.parametrize("what", BODIES)
def test_bodies_that_are_no_request(place: Place, what: str) -> None:
    reply = place.ask("POST", PATH, BODIES[what])
    refused(reply, {"a long model": 404}.get(what, 413 if what.startswith("far") else 400))
    assert len(reply.body) < 4000  # what is wrong is not sent back as a whole


@pytest.mark.parametrize(
    "wrong", [None, True, -1, 0.5, "x", [], {}, [[]], [{}], {"x": 1}, 10**30, "\0", "\U0001f989" * 999]
)
def test_every_field_with_every_type(place: Place, wrong: Any) -> None:
    fields = ("model", "messages", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "stream", "logprobs")
    wishes = ("top_k", "min_p", "repetition_penalty", "top_logprobs", "max_completion_tokens", "presence_penalty")
    for field in (*fields, *wishes, "stream_options", "tools", "response_format", "user"):
        reply = place.ask("POST", PATH, GOOD | {field: wrong})
        if reply.status != 200:
            refused(reply, 400, 404)
    for part in ({"type": wrong}, {"type": "text", "text": wrong}, {"type": "image_url", "image_url": wrong}):
        reply = place.ask("POST", PATH, {"messages": [{"role": "user", "content": [part]}], "max_tokens": 2})
        if reply.status != 200:
            refused(reply, 400)
    for message in ({"role": wrong, "content": "x"}, {"role": "user", "content": wrong}, wrong):
        reply = place.ask("POST", PATH, {"messages": [message], "max_tokens": 2})
        if reply.status != 200:
            refused(reply, 400)


def test_mutilated_requests(place: Place, picture: Image.Image) -> None:
    chance = random.Random(0)
    for messages in (said(), shown(picture)):
        sound = json.dumps({"model": "owl", "messages": messages, "max_tokens": 2}).encode()
        for _ in range(60):
            body = bytearray(sound)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(body))
                if chance.random() < 0.5:
                    body[at] = chance.randrange(256)
                else:
                    del body[at : at + chance.randint(1, 40)]
            reply = place.ask("POST", PATH, bytes(body))
            if reply.status != 200:
                refused(reply, 400, 404)


# ---- media ---------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A header that promises a picture, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def gif_of(*sizes: tuple[int, int]) -> bytes:
    """A picture of 10 x 10, whose frames have other sizes."""
    made = b"GIF89a" + struct.pack("<HH", 10, 10) + b"\x80\0\0" + bytes(6)
    for width, height in sizes:
        made += b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0" + b"\x02\x02\x4c\x01\0"
    return made + b";"


PLAIN = Image.new("RGB", (64, 64), "teal")
MEDIA = {
    "a bomb": (png_of(60_000, 60_000), "too large|pixels"),
    "a picture over the limit": (png_of(1001, 1000), "1001x1000 pixels; at most 1000000"),
    "a frame larger than the picture": (gif_of((9000, 9000)), "9000x9000"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "no image or video"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "no image or video"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n", "no image or video"),
    "an icon": (encoded(PLAIN, "ICO"), "no image or video"),
    "half a png": (encoded(PLAIN, "PNG")[:80], "damaged or cut short"),
    "half a jpeg": (encoded(PLAIN, "JPEG")[:300], "cut short|no image or video"),
    "html": (b"<!doctype html><title>404</title>", "no image or video"),
    "a playlist": (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "no image or video"),
    "noise": (random.Random(0).randbytes(5000), "no image or video"),
    "nothing": (b"", "no image or video"),
}


@pytest.mark.parametrize("what", MEDIA)
def test_pictures_that_are_none(place: Place, what: str) -> None:
    data, message = MEDIA[what]
    error = refused(place.ask("POST", PATH, {"messages": shown(data_url(data))}), 400)
    assert re.search(message, error["message"])


@pytest.mark.parametrize(
    "data",
    [
        png_of(60_000, 60_000),
        gif_of((10, 10), (9000, 9000)),
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        random.Random(1).randbytes(5000),
    ],
)
def test_videos_that_are_none(place: Place, data: bytes) -> None:
    part = {"type": "video_url", "video_url": {"url": data_url(data, "video/mp4")}}
    refused(place.ask("POST", PATH, {"messages": [{"role": "user", "content": [part]}]}), 400)


def test_pictures_that_are_too_large_together(place: Place) -> None:
    part = shown(Image.new("RGB", (999, 999)))[0]["content"][0]
    error = refused(place.ask("POST", PATH, {"messages": [{"role": "user", "content": [part] * 5}]}), 400)
    assert re.search(r"4990005 pixels in all; at most 4000000", error["message"])


def test_a_video_is_not_shown_more_often_than_memory_allows(place: Place) -> None:
    frames = [Image.new("RGB", (600, 600), colour) for colour in ("red", "blue")]
    moving = data_url(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image/gif")
    for count, status in ((3, 200), (64, 400), (10**9, 400)):
        part = {"type": "video_url", "video_url": {"url": moving}, "num_frames": count}
        reply = place.ask("POST", PATH, {"messages": [{"role": "user", "content": [part]}], "max_tokens": 2})
        assert reply.status == status, reply.body


@pytest.mark.parametrize(
    "url", ["/etc/passwd", "file:///etc/passwd", "ftp://example.org/x", "gopher://x", "", "data:", "\0"]
)
def test_addresses_that_are_never_opened(place: Place, url: str) -> None:
    refused(place.ask("POST", PATH, {"messages": shown(url)}), 400)


def test_nothing_inside_is_fetched(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inside:
        port = inside.getsockname()[1]
        hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0")
        for host in (
            *hosts,
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[::]",
            "user@127.0.0.1",
            "user:x@localhost",
        ):
            error = refused(place.ask("POST", PATH, {"messages": shown(f"http://{host}:{port}/x.png")}), 400)
            if host == "localhost":  # names are not looked up for strangers
                assert "127.0.0.1" not in error["message"]
        inside.setblocking(False)
        with pytest.raises(BlockingIOError):
            inside.accept()
    for url in ("http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "https://192.168.0.1/", "http://x:y/"):
        refused(place.ask("POST", PATH, {"messages": shown(url)}), 400)


# ---- how bodies come -----------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_not_read(place: Place) -> None:
    with connected(place) as link:
        link.sendall(head("Content-Length: 100000000000"))
        reply = reply_of(rest(link))
    assert refused(reply, 413)["code"] == "body_too_large"
    assert reply.headers["connection"] == "close"


def test_who_asks_first_is_not_told_to_go_on(place: Place) -> None:
    with connected(place) as link:
        link.sendall(head("Content-Length: 3000000", "Expect: 100-continue"))
        refused(reply_of(rest(link)), 413)


def test_a_body_without_an_announced_end_has_one(place: Place) -> None:
    piece = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    with connected(place) as link:
        link.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(6):
            link.sendall(piece)
        link.sendall(b"0\r\n\r\n")
        refused(reply_of(rest(link)), 413)


def test_half_a_body_is_not_waited_for(place: Place) -> None:
    with connected(place) as link:
        link.sendall(head("Content-Length: 1000") + b'{"messages":')
        reply = reply_of(rest(link))
    assert refused(reply, 408)["code"] == "body_timeout"


def test_a_body_that_drips_is_not_waited_for(place: Place) -> None:
    with connected(place) as link:
        link.sendall(head("Content-Length: 1000"))
        link.settimeout(0.1)
        answer = b""
        while not answer:
            link.send(b" ")
            try:
                answer = link.recv(65536)
            except TimeoutError:
                continue
        refused(reply_of(answer + rest(link)), 408)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_web_page_may_send_anywhere_is_not_taken(place: Place, kind: str) -> None:
    body = json.dumps(GOOD).encode()
    with connected(place) as link:
        asked = head(f"Content-Length: {len(body)}").replace(b"application/json", kind.encode())
        link.sendall(asked + body)
        assert refused(reply_of(rest(link)), 415)["code"] == "unsupported_media_type"


def test_other_addresses_and_methods(place: Place) -> None:
    refused(place.ask("GET", PATH), 405)
    refused(place.ask("DELETE", "/v1/models"), 405)
    for path in (
        "/",
        "/v1",
        "/v1/nothing",
        "/v1/models/../../etc/passwd",
        "/%00",
        "/v1/models/%ff",
        "//",
        "/" + "x" * 9000,
    ):
        refused(place.ask("GET", path), 404)


# ---- connections ---------------------------------------------------------------------------------


def test_who_says_nothing_is_left(place: Place) -> None:
    with connected(place) as link:
        refused(reply_of(rest(link)), 408)


@pytest.mark.parametrize("said", [b"POST /v1/chat", head("Content-Length: 10")[:-2], b"G"])
def test_half_a_head_is_not_waited_for(place: Place, said: bytes) -> None:
    with connected(place) as link:
        link.sendall(said)
        assert refused(reply_of(rest(link)), 408)["code"] == "head_timeout"


def test_half_a_second_request_is_not_waited_for(place: Place) -> None:
    with connected(place) as link:
        link.sendall(head(path="/health", method="GET"))
        answer = b""
        while not answer.endswith(b"}"):
            answer += link.recv(65536)
        link.sendall(b"GET /health HT")
        refused(reply_of(rest(link)), 408)


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\0" * 100 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        head("Content-Length: -1"),
        head("Content-Length: 1", "Content-Length: 2"),
        head("Content-Length: 5", "Transfer-Encoding: chunked, identity"),
        head("X-Bad\nHeader: 1\0"),
        head("X-Large: " + "x" * 70_000)[:-2],
        head(*(f"X-{n}: {n}" for n in range(7000)))[:-2],
    ],
)
def test_what_is_no_http(place: Place, said: bytes) -> None:
    with connected(place) as link:
        link.sendall(said)
        assert refused(reply_of(rest(link)), 400)["code"] == "invalid_http"


def test_a_body_whose_pieces_lie_about_their_length(place: Place) -> None:
    with connected(place) as link:
        link.sendall(head("Transfer-Encoding: chunked") + b"zz\r\nnonsense")
        refused(reply_of(rest(link)), 400)


def asked(**more: Any) -> bytes:
    body = json.dumps({"messages": said(), "max_tokens": 64} | more).encode()
    return head(f"Content-Length: {len(body)}") + body


def test_who_hangs_up_frees_the_slot(place: Place) -> None:
    owl = place.app.state.catalogue.owl()
    before = owl.engine.counts["ended_length"]
    for stream in (False, True):
        with connected(place) as link:
            link.sendall(asked(stream=stream, n=8))
            until(lambda: owl.engine.running)
        until(lambda: not place.service.busy)
    with connected(place) as link:
        link.sendall(asked(stream=True, n=8))
        link.recv(100)
    until(lambda: not place.service.busy)
    assert owl.engine.counts["ended_abort"] > 0
    assert owl.engine.counts["ended_length"] < before + 24


def test_who_asks_twice_and_hangs_up_frees_the_slot(place: Place) -> None:
    owl = place.app.state.catalogue.owl()
    for apart in (False, True):
        before = owl.engine.counts["ended_length"]
        with connected(place) as link:
            link.sendall(asked(n=8) if apart else asked(n=8) + asked())
            until(lambda: owl.engine.running)
            link.sendall(asked())
        until(lambda: not place.service.busy)
        assert owl.engine.counts["ended_length"] < before + 8


def test_who_hangs_up_at_once_leaves_nothing_behind(place: Place) -> None:
    request = asked(stream=True)
    for length in (0, 1, 30, len(request) - 5, len(request)):
        for _ in range(5):
            with connected(place) as link:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
                link.sendall(request[:length])
    until(lambda: not place.service.busy)


# ---- who does not read ---------------------------------------------------------------------------


class Flood:
    """An application whose answer never ends."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def pour() -> None:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                await asyncio.sleep(0)

        await send({"type": "http.response.start", "status": 200, "headers": []})
        pouring = asyncio.create_task(pour())
        while (await receive())["type"] != "http.disconnect":
            pass
        pouring.cancel()
        self.left.set()


@contextmanager
def bare(app: Any) -> Iterator[tuple[str, int]]:
    """An application behind our connections alone."""
    config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        until(lambda: server.started)
        try:
            yield listener.getsockname()
        finally:
            until(lambda: not server.server_state.connections)
            server.should_exit = True
            thread.join(PATIENCE)
    assert not thread.is_alive()


def test_who_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "read_seconds", 0.3)
    app = Flood()
    with bare(app) as address, socket.create_connection(address, timeout=PATIENCE) as link:
        link.sendall(head(method="GET"))
        assert app.left.wait(PATIENCE)


def test_who_reads_slowly_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "read_seconds", 2.0)
    app, pieces = Flood(), 0
    with bare(app) as address, socket.create_connection(address, timeout=PATIENCE) as link:
        link.sendall(head(method="GET"))
        for _ in range(30):
            until(lambda: link.recv(1 << 20))
            pieces += 1
            app.left.wait(0.1)  # three seconds in all
        assert not app.left.is_set()


def test_connections_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 2)

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def served(link: socket.socket) -> bool:
        link.sendall(head(method="GET"))
        return b" 204 " in link.recv(65536)

    with bare(hello) as address:
        first, second, third = (socket.create_connection(address, timeout=PATIENCE) for _ in range(3))
        with first, second, third:
            assert served(first)
            assert served(second)
            reply = reply_of(rest(third))
            assert refused(reply, 503)["code"] == "busy"
            assert int(reply.headers["retry-after"]) >= 1
            assert served(first)

        def again() -> bool:
            with socket.create_connection(address, timeout=PATIENCE) as link:
                try:
                    return served(link)
                except ConnectionError:
                    return False

        until(again)
