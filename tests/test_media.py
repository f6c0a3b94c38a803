"""Media from every source, within limits: real pictures, real videos, a real server."""

import base64
import http.server
import io
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mplug_owl.errors import DataError
from mplug_owl.media import Limits, Tally, frame_indices, load_image, load_video
from mplug_owl.media.download import _is_public

BITS = 8  # a frame shows its number as black and white stripes


def numbered(index: int, side: int = 64) -> Image.Image:
    stripes = [255 * (index >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(stripes, np.uint8), side // BITS)
    return Image.fromarray(np.broadcast_to(row[None, :, None], (side, side, 3)).copy())


def number(frame: Image.Image) -> int:
    row = np.asarray(frame.convert("L"))[32].reshape(BITS, -1).mean(1)
    return sum(1 << bit for bit, level in enumerate(row) if level > 127)


def write_video(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    times: list[int] | None = None,
    container_format: str | None = None,
    **options: str,
) -> Path:
    """`count` numbered frames, at 25 a second or at `times` (in 1/25 s)."""
    with av.open(str(path), "w", format=container_format) as container:
        track = container.add_stream(codec, rate=25, options=options)
        track.width = track.height = 64
        track.pix_fmt = "yuv420p"
        track.codec_context.time_base = Fraction(1, 25)
        for index in range(count):
            frame = av.VideoFrame.from_image(numbered(index))
            frame.pts = times[index] if times else index
            frame.time_base = Fraction(1, 25)
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# ---- frame indices ---------------------------------------------------------------------------


def test_frame_indices_cover_the_video() -> None:
    assert frame_indices(5, 4) == [0, 1, 2, 3]
    assert frame_indices(1, 4) == [0, 0, 0, 0]
    assert frame_indices(33, 8) == [2, 6, 10, 14, 18, 22, 26, 30]
    for total in range(1, 60):
        for count in range(1, 20):
            chosen = frame_indices(total, count)
            assert len(chosen) == count
            assert chosen == sorted(chosen)
            assert 0 <= chosen[0] <= chosen[-1] < total


@pytest.mark.parametrize(("total", "count"), [(0, 4), (5, 0)])
def test_frame_indices_need_frames(total: int, count: int) -> None:
    with pytest.raises(DataError, match="at least one of each"):
        frame_indices(total, count)


# ---- pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_picture_keeps_its_mode(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    path = tmp_path / f"picture.{suffix}"
    Image.new(mode, (5, 3)).save(path)
    image = load_image(path)
    assert (image.mode, image.size) == (mode, (5, 3))


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    original = numbered(5)
    data = png(original)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), data, url, url.replace("+", "%2B"), original):
        assert np.array_equal(load_image(source), original)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [numbered(index) for index in (3, 4, 5)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    image = load_image(path)
    assert number(image) == 3
    assert getattr(image, "n_frames", 1) == 1


def test_pixels_are_counted_before_they_are_decoded() -> None:
    header = png(Image.new("1", (4000, 3000)))
    with pytest.raises(DataError, match=r"4000x3000 pixels.*Limits\.max_pixels"):
        load_image(header[:100], Limits(max_pixels=1_000_000))
    with pytest.raises(DataError, match="10x10"):
        load_image(Image.new("L", (10, 10)), Limits(max_pixels=99))


def test_a_decompression_bomb_is_refused() -> None:
    bomb = png(Image.new("1", (14_000, 14_000)))
    assert len(bomb) < 200_000
    with pytest.raises(DataError):
        load_image(bomb)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_damaged_picture_is_an_error(kind: str) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    for length in (1, 20, len(buffer.getvalue()) // 2):
        with pytest.raises(DataError, match=r"media of \d+ bytes"):
            load_image(buffer.getvalue()[:length])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.png", "is no file"),
        ("x" * 5000, "is no file"),
        ("zero\0byte", "is no file"),
        (b"just words", "no image or video"),
        (b"", "no image or video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image or video"),
        ("data:image/png;base64,@@@", "no base64"),
        ("data:nothing", "without data"),
        ("https://example.org/cat.png", "fetching is off"),
        (17, "media of type int"),
    ],
)
def test_what_is_no_picture_is_an_error(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_image(source)


def test_bytes_and_paths_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png(numbered(1)))
    tight = Limits(max_bytes=20)
    for source in (path, path.read_bytes(), "data:;base64," + "A" * 400):
        with pytest.raises(DataError, match=r"Limits\.max_bytes"):
            load_image(source, tight)
    closed = Limits(allow_local=False)
    for load in (load_image, lambda source, limits: load_video(source, 4, limits)):
        for source in (path, tmp_path):
            with pytest.raises(DataError, match="is a local path"):
                load(source, closed)


def gif(*sizes: tuple[int, int]) -> bytes:
    """An animation of 10 x 10, whose frames have other sizes."""
    frames = b"".join(b"," + struct.pack("<HHHH", 0, 0, *size) + b"\0\x02\x02\x44\x01\0" for size in sizes)
    return b"GIF89a" + struct.pack("<HH", 10, 10) + b"\x80\0\0" + bytes(6) + frames + b";"


def test_a_frame_may_not_be_larger_than_its_picture_promises() -> None:
    assert load_image(gif((1, 1))).size == (10, 10)
    tight = Limits(max_pixels=10_000)
    for load in (load_image, lambda source, limits: load_video(source, 4, limits)):
        with pytest.raises(DataError, match="500x500"):
            load(gif((500, 500), (1, 1)), tight)
    with pytest.raises(DataError, match="500x500"):
        load_video(gif((1, 1), (500, 500)), 4, tight)
    assert load_image(gif((1, 1), (500, 500)), tight).size == (10, 10)  # which the first frame is


def test_pictures_inside_icons_are_not_read() -> None:
    buffer = io.BytesIO()
    numbered(1).save(buffer, "ICO")
    with pytest.raises(DataError, match="no image or video"):
        load_image(buffer.getvalue())


def test_a_tally_counts_what_belongs_together(tmp_path: Path) -> None:
    limits = Limits(max_total_pixels=5 * 64 * 64)
    tally = Tally(limits)
    moving = tmp_path / "moving.gif"
    numbered(0).save(moving, save_all=True, append_images=[numbered(index) for index in range(1, 5)])
    load_image(numbered(0), limits, tally)
    load_video(moving, 4, limits, tally)
    assert tally.pixels == limits.max_total_pixels
    for source in (numbered(0), png(numbered(0))):
        with pytest.raises(DataError, match=r"Limits\.max_total_pixels"):
            load_image(source, limits, tally)
    load_image(numbered(0), limits)  # by itself it is small


def test_reading_has_a_time() -> None:
    late = Limits(timeout=0.0)
    for data in (png(numbered(1)), gif((1, 1), (1, 1))):
        with pytest.raises(DataError, match=r"Limits\.timeout"):
            load_image(data, late)
        with pytest.raises(DataError, match=r"Limits\.timeout"):
            load_video(data, 2, late)


# ---- videos ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 8, 32])
@pytest.mark.parametrize("total", [1, 2, 3, 30, 200])
def test_frames_of_a_video(tmp_path: Path, total: int, count: int) -> None:
    path = write_video(tmp_path / "v.mp4", total, bf="3", g="12")
    frames = load_video(path, count)
    assert [number(frame) for frame in frames] == frame_indices(total, count)
    assert {frame.mode for frame in frames} == {"RGB"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("closed.mp4", {"g": "10", "bf": "2", "flags": "+cgop"}),
        ("open.mkv", {"g": "10", "bf": "3", "x264-params": "open-gop=1"}),
        ("intra.avi", {"codec": "ffv1"}),
        ("simple.avi", {"codec": "mpeg4", "g": "15", "bf": "2"}),
        ("stream.ts", {"g": "20", "bf": "2"}),
        ("web.webm", {"codec": "libvpx-vp9", "g": "25", "deadline": "realtime"}),
        ("hidden.webm", {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("raw.h264", {"container_format": "h264", "g": "30", "bf": "2"}),
        ("streamed.mkv", {"container_format": "matroska", "live": "1"}),
    ],
)
def test_frames_of_every_kind_of_file(tmp_path: Path, name: str, settings: dict[str, str]) -> None:
    """Seeking, or counting where a file tells no times, finds what decoding everything finds."""
    path = write_video(tmp_path / name, 97, **settings)  # type: ignore[arg-type]
    with av.open(str(path)) as container:
        every = [number(frame.to_image()) for frame in container.decode(video=0)]
    assert every == list(range(97))
    for count in (4, 8):
        for source in (path, path.read_bytes()):
            found = [number(frame) for frame in load_video(source, count)]
            assert found == frame_indices(97, count)


def test_a_variable_frame_rate_counts_frames_not_seconds(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(1, 40, 60)).tolist()
    path = write_video(tmp_path / "slides.mkv", 60, times=times, g="9", bf="2")
    assert [number(frame) for frame in load_video(path, 8)] == frame_indices(60, 8)


def test_frames_and_seconds_are_limited(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", 250, g="25", preset="ultrafast")
    with pytest.raises(DataError, match=r"Limits\.max_frames"):
        load_video(path, 4, Limits(max_frames=249))
    with pytest.raises(DataError, match=r"Limits\.timeout"):
        load_video(path, 4, Limits(timeout=0.0))


def test_frames_are_limited_together(tmp_path: Path) -> None:
    paths = [write_video(tmp_path / "v.mp4", 30), write_video(tmp_path / "raw.h264", 30, container_format="h264")]
    frames = [numbered(index) for index in range(9)]
    for source in (*paths, gif(*[(1, 1)] * 9), frames):
        side = 10 if isinstance(source, bytes) else 64
        enough = Limits(max_total_pixels=8 * side * side)
        assert len(load_video(source, 8, enough)) == 8
        with pytest.raises(DataError, match=r"Limits\.max_total_pixels"):
            load_video(source, 8, replace(enough, max_total_pixels=enough.max_total_pixels - 1))
        with pytest.raises(DataError, match=r"Limits\.max_frames"):
            load_video(source, 10**12, enough)


def test_a_codec_that_nobody_uses_is_not_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.avi", 5, codec="asv1")
    with pytest.raises(DataError, match="codec asv1"):
        load_video(path, 4)


def test_animations_folders_and_lists_are_videos(tmp_path: Path) -> None:
    images = [numbered(index) for index in range(12)]
    for index, image in enumerate(images):
        image.save(tmp_path / f"frame{index}.png")  # frame10 comes after frame9
    gif = tmp_path / "moving.gif"
    images[0].save(gif, save_all=True, append_images=images[1:])
    expected = frame_indices(12, 4)
    paths = [tmp_path / f"frame{index}.png" for index in range(12)]
    folder = tmp_path / "frames"
    folder.mkdir()
    for path in paths:
        path.rename(folder / path.name)
    listed = [str(folder / path.name) for path in paths]
    for source in (gif, gif.read_bytes(), folder, str(folder), listed, images):
        assert [number(frame) for frame in load_video(source, 4)] == expected
    assert [number(frame) for frame in load_video(listed[7], 3)] == [7, 7, 7]


def test_what_is_no_video_is_an_error(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.mp4", 30).read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    for source in (whole[: len(whole) // 2], whole[:40], b"words", playlist, empty, [], 3):
        with pytest.raises(DataError):
            load_video(source, 4)
    sound = tmp_path / "sound.mka"
    with av.open(str(sound), "w", format="matroska") as container:
        track = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux(track.encode(silence))
    with pytest.raises(DataError, match="no video track"):
        load_video(sound, 4)
    with pytest.raises(DataError, match="64x64"):
        load_video(whole, 4, Limits(max_pixels=4000))


# ---- http ------------------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    """A picture, redirects, and misbehaviour."""

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        body = png(numbered(9))
        if self.path == "/picture.png":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif self.path == "/cut.png":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 10))
            self.end_headers()
            self.wfile.write(body)
        elif self.path in ("/endless", "/trickle"):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * (1 if self.path == "/trickle" else 65536))
                    time.sleep(0.05 if self.path == "/trickle" else 0)
            except OSError:
                return
        elif self.path == "/missing":
            self.send_error(404)
        else:
            target = {
                "/hop": "/picture.png",
                "/loop": "/loop",
                "/inside": f"http://localhost:{port}/picture.png",
                "/file": "file:///etc/hostname",
            }[self.path]
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


REMOTE = Limits(allow_remote=True, trusted_hosts=("127.0.0.1",), timeout=5.0, max_bytes=1_000_000)


def test_a_picture_is_fetched(site: str) -> None:
    assert number(load_image(f"{site}/picture.png", REMOTE)) == 9
    assert number(load_image(f"{site}/hop", REMOTE)) == 9


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "404"),
        ("/loop", "redirects over"),
        ("/inside", "'localhost' has a private address"),
        ("/file", "no http"),
        ("/endless", "max_bytes"),
        ("/cut.png", "cannot be fetched"),
    ],
)
def test_misbehaving_sites(site: str, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_image(site + path, REMOTE)


def test_a_trickling_site_is_left_in_time(site: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match="no answer within"):
        load_image(f"{site}/trickle", replace(REMOTE, timeout=0.4))
    assert time.monotonic() - started < 3


def test_a_handshake_that_trickles_is_left_in_time() -> None:
    dripped = []

    def drip(listener: socket.socket) -> None:
        link, _ = listener.accept()
        with link, suppress(OSError):
            link.recv(65536)
            link.sendall(b"\x16\x03\x03\x40\0")  # a record of 16 KiB is announced
            for _ in range(1000):
                link.sendall(b"\2")
                dripped.append(1)
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=[listener])
        thread.start()
        with pytest.raises(DataError, match="no answer within"):
            load_image(f"https://127.0.0.1:{listener.getsockname()[1]}/x.png", replace(REMOTE, timeout=0.4))
        thread.join()
    assert len(dripped) < 1000


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://somebody:secret@127.0.0.1/x.png", "holds a name or a password"),
        ("http://localhost:22/x.png", "port 22"),
        ("http://localhost:x/x.png", "cannot be fetched"),
        ("http://2130706433:8080/", "private"),
        ("http://0x7f.1:8080/", "private"),
        ("http://0177.0.0.1:8080/", "private"),
        ("http://[::ffff:127.0.0.1]:8080/", "private"),
        ("http://[::1%25lo]:8080/", "private|cannot be fetched"),
        ("http://:8080/", "no http"),
        ("https:///x", "no http"),
    ],
)
def test_addresses_that_are_not_asked(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        load_image(url, Limits(allow_remote=True))
    assert "secret" not in str(refused.value)


def test_private_hosts_are_not_fetched(site: str) -> None:
    with pytest.raises(DataError, match=r"'127\.0\.0\.1' has a private address"):
        load_image(f"{site}/picture.png", Limits(allow_remote=True))
    with pytest.raises(DataError, match="cannot be fetched"):
        load_image("http://127.0.0.1:1/closed", REMOTE)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False),
        ("::ffff:8.8.8.8", True),
        ("::127.0.0.1", False),
        ("2002:808:808::", False),
        ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", False),
        ("fec0::1", False),
        ("100::1", False),
        ("198.18.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("ff02::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert _is_public(address) is public
