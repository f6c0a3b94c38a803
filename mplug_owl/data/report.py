"""What an examination of data found: findings by kind, counts by source, and samples of its rows.

It prints as text for people and as JSON for programs; page.py shows it as HTML. How anything was found is written in
checkup.py.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]

_LISTED = 10  # rows of a kind that the text names; JSON names them all
_BAR = 40  # characters of the longest bar
_BINS = 10


class Kind(NamedTuple):
    severity: Severity
    title: str
    advice: str


# An error is a row that a run would leave out, a warning one that teaches other than it seems to.
KINDS: Mapping[str, Kind] = {
    "record": Kind("error", "records that cannot be read", "mend or remove them"),
    "roles": Kind("error", "roles that are unknown or out of place", "rename or reorder the turns"),
    "placeholders": Kind("error", "placeholders and media that do not fit", "give each medium one placeholder"),
    "nothing": Kind("error", "rows that would train nothing", "give them an answer"),
    "too-long": Kind("error", "rows that cannot be cut to fit", "raise the length"),
    "media-missing": Kind("error", "media that are missing", "check the paths and the image root"),
    "media-broken": Kind("error", "media that cannot be read", "fetch them again"),
    "cut": Kind("warning", "rows that are cut", "raise the length, or split the conversations"),
    "empty-answer": Kind("warning", "empty answers", "only their end is learnt; remove them"),
    "turns": Kind("warning", "turns in an odd order", "check how the records were made"),
    "duplicate-id": Kind("warning", "ids that name several rows", "make each id unique"),
}


class Finding(NamedTuple):
    kind: str  # a key of KINDS
    where: str  # `file:row`
    id: str
    detail: str

    def __str__(self) -> str:
        name = "" if self.where.endswith(self.id) else f" (id {self.id})"
        return f"{self.where}{name}: {self.detail}"


class Piece(NamedTuple):
    """A part of a rendered row: text that is learnt, text that is only read, or a medium."""

    kind: Literal["learnt", "read", "image", "video"]
    text: str


@dataclass(frozen=True)
class Sample:
    """A row as a model would see it."""

    where: str
    id: str
    pieces: list[Piece]
    pictures: list[str]  # thumbnails of its media in reading order, as data URLs


@dataclass
class Tally:
    """What was counted of one source, of its usable rows unless said."""

    source: str
    format: str
    rows: int
    examined: int = 0
    refused: int = 0
    kept: int = 0  # length of all of them, after they are cut
    learnt: int = 0  # part of it that is supervised
    lengths: "array[int]" = field(default_factory=lambda: array("I"))  # of each row, before it is cut
    media: "array[int]" = field(default_factory=lambda: array("I"))  # images and videos of each row
    edges: "array[int]" = field(default_factory=lambda: array("I"))
    """Shorter edge in pixels of each image and video that can be read, in any row."""


@dataclass(frozen=True)
class Bin:
    low: int
    high: int | None  # the last value that counts; None for all that follow
    count: int

    @property
    def label(self) -> str:
        if self.high is None:
            return f"{self.low:,} and more"
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,} - {self.high:,}"


@dataclass
class Report:
    unit: Literal["tokens", "characters"]  # characters where no processor was given
    max_length: int | None
    bad_share: float
    tallies: list[Tally] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status: 0 nothing found, 1 warnings only, 2 errors."""
        severities = {KINDS[finding.kind].severity for finding in self.findings}
        return 2 if "error" in severities else 1 if severities else 0

    @property
    def verdict(self) -> str:
        """One sentence about what a run would do with these data."""
        examined = sum(tally.examined for tally in self.tallies)
        refused = sum(tally.refused for tally in self.tallies)
        if not refused:
            return f"all {examined:,} rows examined can be used"
        found = f"{refused:,} of {examined:,} rows examined ({refused / examined:.2%})"
        if refused > self.bad_share * examined:
            return f"{found} cannot be used: a run would stop, for it allows {self.bad_share:.2%}"
        return f"{found} cannot be used: a run would leave them out"

    @property
    def learnt_share(self) -> float:
        kept = sum(tally.kept for tally in self.tallies)
        return sum(tally.learnt for tally in self.tallies) / kept if kept else 0.0

    @property
    def histograms(self) -> dict[str, list[Bin]]:
        """Title -> bins, over all sources."""
        parts = {
            f"length of a row ({self.unit})": (tally.lengths for tally in self.tallies),
            "images and videos of a row": (tally.media for tally in self.tallies),
            "shorter edge of an image or video (pixels)": (tally.edges for tally in self.tallies),
        }
        return {title: bins for title, values in parts.items() if (bins := histogram([*chain(*values)]))}

    def by_kind(self) -> Iterator[tuple[str, Kind, list[Finding]]]:
        """The findings of each kind there are any of, errors first."""
        for name, kind in KINDS.items():
            if found := [finding for finding in self.findings if finding.kind == name]:
                yield name, kind, found

    def table(self) -> Iterator[tuple[str, ...]]:
        """Each source as cells of text, below a head."""
        yield ("source", "format", "rows", "examined", "unusable", "media", self.unit, "learnt")
        for tally in self.tallies:
            counts = (tally.rows, tally.examined, tally.refused, sum(tally.media), tally.kept)
            share = f"{tally.learnt / tally.kept:.1%}" if tally.kept else "-"
            yield (tally.source, tally.format, *(f"{count:,}" for count in counts), share)

    def to_json(self) -> str:
        """All of it but the thumbnails."""
        whole = ("status", "verdict", "unit", "max_length", "bad_share", "learnt_share")
        counts = ("source", "format", "rows", "examined", "refused", "kept", "learnt")
        tree = {
            **{name: getattr(self, name) for name in whole},
            "counts": Counter(finding.kind for finding in self.findings),
            "findings": [{"severity": KINDS[finding.kind].severity, **finding._asdict()} for finding in self.findings],
            "sources": [
                {**{name: getattr(tally, name) for name in counts}, "media": sum(tally.media)} for tally in self.tallies
            ],
            "histograms": {title: [asdict(each) for each in bins] for title, bins in self.histograms.items()},
            "samples": [
                {"where": s.where, "id": s.id, "pieces": [piece._asdict() for piece in s.pieces]} for s in self.samples
            ],
        }
        return json.dumps(tree, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        lines = [*self._sources(), *self._bars(), ""]
        if self.max_length is None:
            lines += ["no model given: lengths are characters, and cut rows are not known", ""]
        for name, kind, found in self.by_kind():
            lines.append(f"{kind.severity}: {len(found):,} {kind.title} [{name}]; {kind.advice}")
            lines += [*(f"    {line}" for line in listed(found, _LISTED)), ""]
        return "\n".join([*lines, self.verdict])

    def _sources(self) -> list[str]:
        table = [*self.table()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        sides = "<<>>>>>>"  # names to the left, numbers to the right
        return [
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
            for row in table
        ]

    def _bars(self) -> list[str]:
        lines = []
        for title, bins in self.histograms.items():
            width = max(len(each.label) for each in bins)
            most = max(each.count for each in bins)
            lines += ["", title]
            for each in bins:
                bar = "#" * -(-each.count * _BAR // most)
                lines.append(f"  {each.label.rjust(width)}  {bar} {each.count:,}")
        return lines


def listed(found: Sequence[Finding], most: int) -> list[str]:
    """Findings a line each, no more than `most` of them."""
    more = [f"and {len(found) - most:,} more; --json names all"] if len(found) > most else []
    return [*map(str, found[:most]), *more]


def histogram(values: Sequence[int]) -> list[Bin]:
    """About ten bins with round edges; what lies far out shares the last, or it would squeeze the others together."""
    if not values:
        return []
    ordered = sorted(values)
    top = ordered[(len(ordered) - 1) * 98 // 100]
    # The smallest of 1, 2, 5, 10, 20 ... that makes no more bins.
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    step = next(step for step in steps if step >= (top + 1) / _BINS)
    edges = range(ordered[0] // step * step, top + 1, step)
    counts = Counter(min(value // step, top // step) for value in values)
    last = ordered[-1] >= edges[-1] + step
    return [Bin(edge, None if last and edge == edges[-1] else edge + step - 1, counts[edge // step]) for edge in edges]
