"""The keys of a server: who may ask, until when, how often, and which models.

A file holds one JSON line a key, with a salted hash in place of the key itself, which is shown once, when it is made. A
running server reads the file again when it has changed, so a key that is removed is refused at once. Requests are not
known here; `owl keys` is.
"""

import argparse
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mplug_owl.errors import ConfigError, RequestError, did_you_mean
from mplug_owl.settings import build

FILE = Path("keys.jsonl")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True)
class Key:
    name: str
    """What the log calls its holder."""
    id: str
    """The part of the key by which it is found; no secret."""
    salt: str
    hash: str
    """SHA-256 of salt and key: nobody guesses 256 random bits, so a slow hash would gain nothing."""
    created: str
    expires: str | None = None
    """When it ends, with a time zone; never unless given."""
    rate: float | None = None
    """Requests a minute; those of the server unless given."""
    concurrent: int | None = None
    """Requests at a time; those of the server unless given."""
    models: tuple[str, ...] | None = None
    """Names of the models it may ask; all unless given."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"a key named {self.name!r}; expected 1 to 64 of the letters A-Z a-z 0-9 . _ @ -")
        for name in ("rate", "concurrent"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}={value} of the key {self.name!r}; expected more than 0")
        if self.expires is not None and _moment(self.expires) is None:
            raise ConfigError(
                f"expires={self.expires!r} of the key {self.name!r}; expected a time with its zone, such as "
                "2030-12-31T00:00:00+00:00"
            )

    def is_shown_by(self, text: str) -> bool:
        """Whether `text` is this key; the time it takes does not tell how much of it is right."""
        return hmac.compare_digest(_hash(self.salt, text), self.hash)

    @property
    def is_expired(self) -> bool:
        end = _moment(self.expires) if self.expires is not None else None
        return end is not None and datetime.now(UTC) >= end

    def allows(self, model: str) -> bool:
        return self.models is None or model in self.models


class Keys:
    """The keys of a file as they are now."""

    def __init__(self, path: str | Path) -> None:
        """Raises: ConfigError where the file cannot be read."""
        self.path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._refresh()

    def find(self, text: str) -> Key | None:
        """The key that a caller shows, expired or not; None where there is no such key.

        Raises: ConfigError where the file has become unreadable. Going on with what it once said would let in whoever
        was removed since.
        """
        self._refresh()
        key = self._keys.get(_id_of(text))
        return key if key is not None and key.is_shown_by(text) else None

    def _refresh(self) -> None:
        try:
            found = self.path.stat()
        except OSError as error:
            raise ConfigError(f"no file of keys {str(self.path)!r} ({error.strerror}); {_remedy(self.path)}") from None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._keys = {key.id: key for key in read(self.path)}
            self._stamp = stamp


def read(path: Path) -> list[Key]:
    """The keys of a file.

    Raises: ConfigError where there is no such file, or a line of it is no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no file of keys {str(path)!r} ({error}); {_remedy(path)}") from None
    found: list[Key] = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is no JSON ({error}); expected one key a line") from None
        if not isinstance(said, dict):
            raise ConfigError(f"{where} is a {type(said).__name__}; expected one key a line, as an object")
        found.append(build(Key, said, where))
    return found


def add(
    path: str | Path,
    name: str,
    *,
    days: float | None = None,
    rate: float | None = None,
    concurrent: int | None = None,
    models: Sequence[str] | None = None,
) -> str:
    """Make a key and put its hash into the file, which is made if need be. Returns the key, which is kept nowhere."""
    if days is not None and not 0 < days < 100_000:
        raise ConfigError(f"days={days} for the key {name!r}; expected more than 0 and less than 100000")
    id, salt = secrets.token_hex(4), secrets.token_hex(16)
    text = f"owl-{id}-{secrets.token_urlsafe(32)}"
    now = datetime.now(UTC).replace(microsecond=0)
    ends = None if days is None else (now + timedelta(days=days)).isoformat()
    allowed = None if models is None else tuple(models)
    key = Key(name, id, salt, _hash(salt, text), now.isoformat(), ends, rate, concurrent, allowed)
    with _changing(Path(path)) as keys:
        if any(other.name == name for other in keys):
            raise ConfigError(f"{path} has a key named {name!r}; remove it first, or choose another name")
        keys.append(key)
    return text


def remove(path: str | Path, name: str) -> None:
    """Take a key out of the file; from then on it is refused.

    Raises: ConfigError where there is none of this name.
    """
    with _changing(Path(path)) as keys:
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            raise ConfigError(f"{path} has no key named {name!r}{did_you_mean(name, [key.name for key in keys])}")
        keys[:] = kept


@contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys of a file, to be changed by one at a time; the file is replaced as a whole, or not at all."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); expected a folder of your own") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read(path) if path.exists() else []
        yield keys
        _replace(path, "".join(json.dumps(_plain(key)) + "\n" for key in keys))
    finally:
        os.close(lock)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written ({error.strerror}); it is as it was") from None


def _plain(key: Key) -> dict[str, object]:
    return {name: value for name, value in asdict(key).items() if value is not None}


def _hash(salt: str, text: str) -> str:
    return hashlib.sha256(f"{salt}:{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _id_of(text: str) -> str:
    return text.split("-", 2)[1] if text.count("-") >= 2 else ""


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _remedy(path: Path) -> str:
    return f"expected one JSON line a key: `owl keys add NAME --file {path}` makes it"


# ---- owl keys ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `owl keys`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples\n"
        "  owl keys add alice --rate 60 --concurrent 4 --days 90\n"
        "  owl serve --keys keys.jsonl\n"
        "  owl keys remove alice        (a running server refuses the key at once)"
    )
    parser.add_argument("what", choices=("add", "list", "remove"), metavar="add|list|remove")
    parser.add_argument("name", nargs="?", metavar="NAME", help="whose key it is; the log shows it")
    parser.add_argument("--file", type=Path, default=FILE, metavar="FILE", help=f"(default: {FILE})")
    made = parser.add_argument_group("of a key to add")
    made.add_argument("--rate", type=float, metavar="N", help="requests a minute (default: those of the server)")
    made.add_argument("--concurrent", type=int, metavar="N", help="requests at a time (those of the server)")
    made.add_argument("--days", type=float, metavar="N", help="days until it ends (default: never)")
    made.add_argument("--models", metavar="A,B", help="names of the models it may ask (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Make, list or remove keys. Of a new key only the key goes to stdout."""
    what, name, path = arguments.what, arguments.name, arguments.file
    if (name is None) != (what == "list"):
        raise RequestError("expected one of: owl keys add NAME, owl keys list, owl keys remove NAME")
    if what == "add":
        models = [model.strip() for model in arguments.models.split(",")] if arguments.models else None
        limits = {"days": arguments.days, "rate": arguments.rate, "concurrent": arguments.concurrent}
        print(add(path, name, models=models, **limits))
        print(f"the key of {name}, shown this once; {path} holds its hash", file=sys.stderr)
    elif what == "remove":
        remove(path, name)
        print(f"{name} is removed from {path}")
    else:
        print(_table(read(path)))
    return 0


def _table(keys: Sequence[Key]) -> str:
    head = ("name", "key", "created", "expires", "a minute", "at a time", "models")
    rows: list[tuple[str, ...]] = [head]
    for key in keys:
        ends = "-" if key.expires is None else key.expires[:16] + (" (over)" if key.is_expired else "")
        usual = ["-" if value is None else f"{value:g}" for value in (key.rate, key.concurrent)]
        rows.append((key.name, f"owl-{key.id}-...", key.created[:16], ends, *usual, ",".join(key.models or ("all",))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
