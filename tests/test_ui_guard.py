"""What of Gradio can be reached: the guard is driven as a server would, message by message."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.serve.ui.guard import FILES_AT_ONCE, MAX_TOLD, Guard
from mplug_owl.serve.ui.options import PageOptions

JOIN = "/ui/gradio_api/queue/join"


async def told(scope: Any, receive: Any, send: Any) -> None:
    """An application behind the guard: it answers with the body it was given."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"let through: " + body})


def ask(
    folder: Path, method: str, path: str, pieces: list[bytes] | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """The status and the text of an answer."""
    options = PageOptions(max_upload_mib=1, upload_room_mib=2)
    guard = Guard(told, prefix="/ui", pages=["", "compare"], folder=folder.resolve(), options=options)
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    waiting = pieces or [b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1/models", "/uixyz", "/ui/", "/ui/compare", "/ui/compare/", "/ui/config", "/ui/theme.css"),
        *("/ui/assets/index-1.js", "/ui/gradio_api/heartbeat/ab12", "/ui/gradio_api/queue/data"),
        *("/ui/gradio_api/file=/somewhere/cat.png", "/ui/static/fonts/a.woff2"),
    ],
)
def test_pages_and_what_they_need_are_shown(path: str, tmp_path: Path) -> None:
    assert ask(tmp_path, "GET", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ui/gradio_api/proxy=http://other.host/"),
        ("GET", "/ui/gradio_api/file=http://other.host/a.png"),
        ("GET", "/ui/gradio_api/file=https://other.host/a.png"),
        ("GET", "/ui/gradio_api/file=//other.host/a.png"),
        ("GET", "/ui/gradio_api/run-history/buckets"),
        ("GET", "/ui/gradio_api/vibe-code"),
        ("GET", "/ui/gradio_api/info"),
        ("GET", "/ui/monitoring"),
        ("GET", "/ui/nothing"),
        ("POST", "/ui/gradio_api/run/predict"),
        ("POST", "/ui/gradio_api/call/send"),
        ("POST", "/ui/gradio_api/component_server"),
        ("POST", "/ui/gradio_api/process_recording"),
        ("PUT", JOIN),
        ("GET", JOIN),
        ("OPTIONS", JOIN),
    ],
)
def test_nothing_else_is(method: str, path: str, tmp_path: Path) -> None:
    assert ask(tmp_path, method, path) == (404, "There is no such page.")


def test_the_address_without_a_stroke_leads_to_the_page(tmp_path: Path) -> None:
    assert ask(tmp_path, "GET", "/ui")[0] == 307


def test_a_question_passes_as_it_came(tmp_path: Path) -> None:
    inside = tmp_path / "abc" / "cat.png"
    inside.parent.mkdir()
    inside.write_bytes(b"")
    body = json.dumps({"data": [{"text": "hi", "files": [{"path": str(inside), "url": None}]}], "fn_index": 3}).encode()
    assert ask(tmp_path, "POST", JOIN, [body[:20], body[20:]]) == (200, f"let through: {body.decode()}")


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "http://other.host/cat.png", "https://127.0.0.1/", "../../etc/passwd", "", None, 3),
        *("{inside}/../../../../etc/passwd", "{inside}/link", "a\0b", "file:///etc/passwd", "x" * 5000, {"path": "/"}),
    ],
)
def test_a_question_names_no_file_but_uploads(path: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    named = path.replace("{inside}", str(tmp_path)) if isinstance(path, str) else path
    body = json.dumps({"data": [[{"deep": {"files": [{"path": named}]}}]]}).encode()
    expected = 200 if path == "" else 403
    assert ask(tmp_path, "POST", JOIN, [body])[0] == expected


def test_a_path_is_seen_however_it_is_spelt(tmp_path: Path) -> None:
    spelt = b'{"data": [{"\\u0070ath": "/etc/passwd"}]}'
    assert ask(tmp_path, "POST", JOIN, [spelt])[0] == 403
    assert ask(tmp_path, "POST", JOIN, ['{"path": "/etc/passwd"}'.encode("utf-16")])[0] == 403
    assert ask(tmp_path, "POST", JOIN, [b"[" * 100_000])[0] == 403
    assert ask(tmp_path, "POST", JOIN, [b"not json"])[0] == 200  # which Gradio refuses itself


def test_a_question_has_its_length(tmp_path: Path) -> None:
    assert ask(tmp_path, "POST", JOIN, [b"1" * MAX_TOLD])[0] == 200
    assert ask(tmp_path, "POST", JOIN, [b"1" * MAX_TOLD, b"1"])[0] == 413


def test_uploads_have_a_size_and_room(tmp_path: Path) -> None:
    def upload(size: str | None) -> int:
        headers = {} if size is None else {"content-length": size}
        return ask(tmp_path, "POST", "/ui/gradio_api/upload", [b""], headers)[0]

    assert upload(str(2**20)) == 200
    assert upload(None) == upload("many") == 411
    assert upload(str(FILES_AT_ONCE * 2**20 + MAX_TOLD + 1)) == 413
    (tmp_path / "held").write_bytes(b"0" * (2**20 + MAX_TOLD + 1))
    assert upload(str(2**20)) == 507
    (tmp_path / "held").unlink()
    for number in range(32):  # many files take room although they are small
        (tmp_path / f"small-{number}").write_bytes(b"0")
    assert upload(str(2**20)) == 507
