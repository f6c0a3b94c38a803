"""owl doctor: every fault of data by its right name and row, and not a word about sound rows."""

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.data import doctor
from mplug_owl.data.encode import IGNORED, encode_conversation
from mplug_owl.data.loader import Loader, LoaderSettings
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.page import page
from mplug_owl.data.report import KINDS, Report, Tally, histogram
from mplug_owl.data.sources import Source, open_source
from mplug_owl.errors import RequestError
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.tokenizers import byte_tokenizer

Record = dict[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def processor() -> OwlProcessor:
    tokenizer = byte_tokenizer()
    return OwlProcessor.for_format(
        "owl2", OwlImageProcessorPil(size=28), tokenizer, image_token_id=len(tokenizer), media_length=9
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Media, some of them not as they should be."""
    for number, size in enumerate([(60, 40), (33, 90), (20, 20)]):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / f"{number}.jpg")
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (9_400, 9_400)).save(tmp_path / "bomb.png")
    (tmp_path / "words.jpg").write_text("no picture")
    return tmp_path


def chat(*texts: str, id: str = "", **more: Any) -> Record:
    """A record in LLaVA's form: question, answer, question ..."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **({"id": id} if id else {}), **more}


def seen(image: str, **more: Any) -> Record:
    return chat("<image>\nwhat is it?", "a thing", image=image, **more)


def written(folder: Path, records: Sequence[Record | str], name: str = "rows.jsonl") -> Source:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / name).write_text("\n".join(lines) + "\n")
    return open_source(folder / name)


def found(report: Report) -> list[tuple[str, str]]:
    """The kind and `file:row` of each finding."""
    return [(finding.kind, Path(finding.where).name) for finding in report.findings]


SOUND = [
    seen("0.jpg", id="a"),
    chat("hello?", "hello.", "and?", "so.", id="b"),
    chat("<image>\n<image>\nwhich?", "both", image=["1.jpg", "2.jpg"], id="c"),
]


# ---- sound data ------------------------------------------------------------------------------


def test_sound_rows_are_counted(folder: Path, processor: OwlProcessor) -> None:
    source = written(folder, SOUND)
    report = doctor.examine([source], processor, workers=2)
    assert report.findings == [] and report.status == 0
    assert report.verdict == "all 3 rows examined can be used"
    rows = [encode_conversation(source[row], processor) for row in range(3)]
    (tally,) = report.tallies
    assert (tally.rows, tally.examined, tally.refused) == (3, 3, 0)
    assert [*tally.lengths] == [len(row.ids) for row in rows]
    assert tally.kept == sum(tally.lengths)
    assert tally.learnt == sum(label != IGNORED for row in rows for label in row.labels)
    assert report.learnt_share == tally.learnt / tally.kept
    assert [*tally.media] == [1, 0, 2]
    assert [*tally.edges] == [40, 33, 20]


def test_without_a_processor_lengths_are_characters(folder: Path) -> None:
    report = doctor.examine([written(folder, [chat("abc?", "de"), chat("x" * 9000, "y")])])
    assert report.unit == "characters" and report.max_length is None
    assert [*report.tallies[0].lengths] == [6, 9001]
    assert report.tallies[0].learnt == 3
    assert report.findings == []
    assert "cut rows are not known" in str(report)


def test_some_rows_spread_evenly(folder: Path) -> None:
    source = written(folder, [chat("?", str(row)) for row in range(100)])
    report = doctor.examine([source], rows=5)
    assert report.tallies[0].rows == 100 and report.tallies[0].examined == 5
    assert [sample.id for sample in report.samples] == [f"rows.jsonl:{row + 1}" for row in (10, 30, 50, 70, 90)]
    assert doctor.examine([source], rows=1000).tallies[0].examined == 100


# ---- faults ----------------------------------------------------------------------------------

FAULTS: list[tuple[str, Record | str, str]] = [
    ("record", "{broken", "no JSON"),
    ("record", {"id": 3}, "conversations=None"),
    ("roles", {"conversations": [{"from": "robot", "value": "x"}]}, "from 'robot'"),
    (
        "roles",
        {"conversations": [{"from": "gpt", "value": "x"}] + 2 * [{"from": "human", "value": "x"}]},
        "two turns of the user in a row",
    ),
    ("placeholders", chat("what?", "a thing", image="0.jpg"), "0 image placeholder"),
    ("placeholders", chat("<image> <image>", "a", image="0.jpg"), "2 image placeholder"),
    ("nothing", chat("what?", "  "), "1 empty answer"),
    ("nothing", chat("what?"), "no answer"),
    ("media-missing", seen("gone.jpg"), "is no file"),
    ("media-broken", seen("cut.jpg"), "cannot be decoded"),
    ("media-broken", seen("words.jpg"), "is no image"),
    ("media-broken", seen("bomb.png"), "9400x9400 pixels"),
    ("media-broken", seen("https://example.org/x.jpg"), "remote"),
    ("media-broken", seen("data:image/png;base64,AAAA"), "no image"),
    ("too-long", chat("<image>" * 40, "a", image=["0.jpg"] * 40), "40 image"),
]


@pytest.mark.parametrize(("kind", "record", "detail"), FAULTS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unusable_row_is_named(
    kind: str, record: Record | str, detail: str, folder: Path, processor: OwlProcessor
) -> None:
    source = written(folder, [chat("one?", "one"), record, chat("two?", "two")])
    report = doctor.examine([source], processor, max_length=300)
    assert found(report) == [(kind, "rows.jsonl:2")]
    assert detail in report.findings[0].detail
    assert str(folder / "rows.jsonl") not in report.findings[0].detail  # it stands in `where`
    assert report.status == 2
    assert report.tallies[0].refused == 1 and len(report.tallies[0].lengths) == 2
    assert "1 of 3 rows examined (33.33%) cannot be used: a run would stop" in report.verdict


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused_rows_are_those_a_run_leaves_out(folder: Path, processor: OwlProcessor) -> None:
    records = [record for _, record, _ in FAULTS for record in (record, chat("sound?", "yes"))]
    source = written(folder, [*records, *SOUND])
    report = doctor.examine([source], processor, max_length=300)
    settings = LoaderSettings(batch=len(source), max_length=300, workers=0, bad_share=1.0)
    loader = Loader(Mixture([source]), processor, settings)
    loader.step(0)
    left_out = [re.search(r"rows\.jsonl:\d+", f"{bad.why} {bad.id}") for bad in loader.bad]
    assert {where for _, where in found(report)} == {match and match[0] for match in left_out}
    assert report.tallies[0].refused == len(loader.bad) == len(FAULTS)


@pytest.mark.parametrize(
    ("kind", "record", "detail"),
    [
        ("empty-answer", chat("a?", "", "b?", "c"), "1 of 2 answers"),
        ("turns", chat("a?", "b", "c?"), "ends with a question"),
        ("cut", chat("a" * 300, "b", "c?", "d"), "1 oldest turn(s) left out"),
        ("cut", chat("a?", "b" * 100_000), "tokens of the last answer left out"),
        ("cut", chat("a" * 100_000, "b"), "characters of the prompt left out"),
    ],
)
def test_a_doubtful_row_is_a_warning(
    kind: str, record: Record, detail: str, folder: Path, processor: OwlProcessor
) -> None:
    report = doctor.examine([written(folder, [record])], processor, max_length=400)
    assert found(report) == [(kind, "rows.jsonl:1")]
    assert detail in report.findings[0].detail
    assert report.status == 1
    assert report.tallies[0].refused == 0 and 0 < report.tallies[0].kept <= 400


def test_odd_orders(folder: Path) -> None:
    def said(*roles: str) -> Record:
        return {"messages": [{"role": role, "content": "x"} for role in roles]}

    picture = {"role": "user", "content": [{"type": "image", "path": "0.jpg"}]}
    rows = [
        said("system", "user", "assistant"),
        said("assistant", "user", "assistant"),
        said("user", "assistant", "assistant"),
        said("user", "user", "assistant"),
        {"messages": [picture, *said("user", "assistant")["messages"]]},
    ]
    report = doctor.examine([written(folder, rows)])
    assert [(finding.where[-1], finding.detail) for finding in report.findings] == [
        ("2", "begins with an answer"),
        ("3", "two turns of the assistant in a row"),
        ("4", "two turns of the user in a row"),
    ]


def test_a_late_system_message_is_refused(folder: Path, processor: OwlProcessor) -> None:
    roles = ("user", "assistant", "system", "assistant")
    record = {"messages": [{"role": role, "content": "x"} for role in roles]}
    report = doctor.examine([written(folder, [record])], processor)
    assert ("roles", "rows.jsonl:1") in found(report)
    assert report.tallies[0].refused == 1


def test_duplicate_ids_within_a_source(folder: Path) -> None:
    rows = [chat("?", "x", id=name) for name in ("a", "b", "a", "a")]
    first = written(folder, rows)
    second = written(folder, rows[:2], "more.jsonl")
    report = doctor.examine([first, second])
    assert found(report) == [("duplicate-id", "rows.jsonl:3"), ("duplicate-id", "rows.jsonl:4")]
    assert report.findings[0].detail.endswith("rows.jsonl:1 has the same id")


def test_headers_alone_miss_what_is_cut_short(folder: Path) -> None:
    source = written(folder, [seen("cut.jpg"), seen("gone.jpg"), seen("0.jpg")])
    report = doctor.examine([source], decode=False)
    assert found(report) == [("media-missing", "rows.jsonl:2")]
    assert [*report.tallies[0].edges] == [40, 40]
    assert [sample.pictures[0][:5] for sample in report.samples] == ["", "data:"]


def test_a_picture_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mplug_owl.data import checkup

    opened = []
    load = checkup.load_image
    monkeypatch.setattr(checkup, "load_image", lambda source: [opened.append(source), load(source)][1])
    source = written(folder, [seen("0.jpg") for _ in range(20)])
    checker = checkup.Checker(None, "training", 100, decode=True)
    for row in range(20):
        checker.check("x", source[row])
    assert len(opened) == 1


def test_videos(folder: Path, processor: OwlProcessor) -> None:
    frames = [Image.new("RGB", (30, 24), (9 * shade, 0, 0)) for shade in range(10)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])
    rows = [chat("<video>\nwhat?", "red", video=name) for name in ("clip.gif", "none.mp4")]
    report = doctor.examine([written(folder, rows)], processor)
    assert found(report) == [("media-missing", "rows.jsonl:2")]
    assert [*report.tallies[0].edges] == [24]
    assert ("video", f"{9 * 8} positions") in report.samples[0].pieces


# ---- tars ------------------------------------------------------------------------------------


def shard(path: Path, pictures: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, content in pictures.items():
            for name, body in ((f"{key}.jpg", content), (f"{key}.txt", f"about {key}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))


def test_a_truncated_tar_and_a_broken_member(folder: Path, processor: OwlProcessor) -> None:
    whole = (folder / "0.jpg").read_bytes()
    shard(folder / "0.tar", {"000": whole, "001": whole[:-300], "002": whole, "003": whole})
    content = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(content[: content.index(b"003.txt") + 515])
    report = doctor.examine([open_source(folder / "0.tar")], processor)
    assert found(report) == [("media-broken", "0.tar:2"), ("record", "0.tar:4")]
    assert "cut short" in report.findings[1].detail
    assert "001.jpg" in report.findings[0].detail
    assert report.tallies[0].examined == 4
    pieces = report.samples[0].pieces
    assert pieces[0] == ("image", "9 positions")
    assert [piece.text for piece in pieces if piece.kind == "learnt"] == ["about 000</s>"]


def test_a_tar_that_vanishes(folder: Path) -> None:
    shard(folder / "0.tar", {"000": (folder / "0.jpg").read_bytes()})
    source = open_source(folder / "0.tar")
    (folder / "0.tar").unlink()
    report = doctor.examine([source])
    assert found(report) == [("record", "0.tar:1")]


# ---- the report ------------------------------------------------------------------------------


def test_samples_colour_what_is_learnt(folder: Path, processor: OwlProcessor) -> None:
    report = doctor.examine([written(folder, SOUND)], processor)
    first, second, third = report.samples
    assert first.id == "a" and len(third.pictures) == 2
    assert [piece.kind for piece in first.pieces] == ["read", "image", "read", "learnt"]
    learnt = [piece.text for piece in second.pieces if piece.kind == "learnt"]
    assert [text.strip() for text in learnt] == ["hello.</s>", "so.</s>"]
    assert all(address.startswith("data:image/jpeg;base64,") for address in third.pictures)


def test_samples_come_from_all_sources(folder: Path) -> None:
    many = written(folder, [chat("?", str(row)) for row in range(50)])
    few = written(folder, [chat("?", "x")], "few.jsonl")
    none = written(folder, [chat("?", "")], "none.jsonl")
    report = doctor.examine([none, many, few])
    names = [Path(sample.where).name for sample in report.samples]
    assert names.count("few.jsonl:1") == 1 and len({*names}) == len(names) == 4


def test_the_page(folder: Path, processor: OwlProcessor) -> None:
    attack = "<script>alert(1)</script>"
    rows = [*SOUND, chat(attack, attack, id=attack), seen("gone.jpg", id=f"{attack}2")]
    made = page(doctor.examine([written(folder, rows)], processor))
    assert attack not in made and "&lt;script&gt;" in made
    assert "http" not in made  # it needs no network
    assert made.count("data:image/jpeg;base64,") == 3
    assert made.count('class="card"') == 3 + 4  # histograms and samples
    assert '<span class="learnt">' in made


def test_the_text_names_ten_rows_and_json_all(folder: Path) -> None:
    report = doctor.examine([written(folder, [chat("?", " ")] * 30 + [chat("?", "x")])])
    text = str(report)
    assert "error: 30 rows that would train nothing [nothing]; give them an answer" in text
    assert text.count("rows.jsonl:") == 10 and "and 20 more" in text
    tree = json.loads(report.to_json())
    assert tree["counts"] == {"nothing": 30} and len(tree["findings"]) == 30
    assert tree["findings"][29]["where"].endswith("rows.jsonl:30")
    assert {finding["severity"] for finding in tree["findings"]} == {"error"}
    assert tree["sources"][0]["refused"] == 30 and tree["status"] == 2


def test_few_bad_rows_do_not_stop_a_run() -> None:
    tally = Tally("x", "llava", 100, examined=100, refused=5)
    assert "leave them out" in Report("tokens", 9, 0.05, [tally]).verdict
    assert "would stop, for it allows 4.00%" in Report("tokens", 9, 0.04, [tally]).verdict


@pytest.mark.parametrize("values", [[5], [0, 0, 0], [*range(1000)], [3, 4, 5, 100_000], [700] * 99 + [90_000], [1, 2]])
def test_histograms(values: list[int]) -> None:
    bins = histogram(values)
    assert sum(each.count for each in bins) == len(values)
    assert len(bins) <= 12
    for each in bins:
        high = each.high if each.high is not None else max(values)
        assert each.count == sum(each.low <= value <= high for value in values)
    assert histogram([]) == []


def test_every_kind_is_said_in_plain_words() -> None:
    assert all(kind.title and kind.advice for kind in KINDS.values())
    assert {kind.severity for kind in KINDS.values()} == {"error", "warning"}


# ---- the command -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    path: str
    format: str | None = None
    image_root: str | None = None


@dataclass(frozen=True)
class Section:
    """The data section of a recipe."""

    sources: tuple[Place, ...] = ()
    held_out: tuple[Place, ...] = ()
    max_length: int = 64
    template: str = "training"
    bad_share: float = 0.5


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return parser.parse_args(words)


def test_the_exit_status_is_the_severity(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "rows.jsonl"
    for rows, status in ((SOUND, 0), ([*SOUND, SOUND[0]], 1), ([*SOUND, SOUND[0], seen("gone.jpg")], 2)):
        written(folder, rows)
        assert doctor.run(parsed(str(path))) == status
    assert "media that are missing" in capsys.readouterr().out


def test_json_and_page_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, SOUND)
    words = ("rows.jsonl", "page.html")
    data, out = (str(folder / word) for word in words)
    assert doctor.run(parsed(data, "--json", "--html", out)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["sources"][0]["rows"] == 3
    assert out in printed.err and "examining" not in printed.err  # no bar where nobody looks
    assert (folder / "page.html").read_text().startswith("<!doctype html>")


def test_the_recipe_gives_data_and_length(
    folder: Path, processor: OwlProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, [chat("a?", "b" * 300)])
    written(folder, [chat("a?", "b")], "held.jsonl")
    section = Section((Place(str(folder / "rows.jsonl")),), (Place(str(folder / "held.jsonl")),), 200)
    assert doctor.run(parsed("--recipe", "r", "--json"), section, processor) == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["max_length"] == 200 and tree["bad_share"] == 0.5
    assert [source["rows"] for source in tree["sources"]] == [1, 1]
    assert tree["counts"] == {"cut": 1}
    words = ("--recipe", "r", "--json", "--max-length", "2000", str(folder / "rows.jsonl"))
    assert doctor.run(parsed(*words), section, processor) == 0
    assert len(json.loads(capsys.readouterr().out)["sources"]) == 1


def test_what_cannot_be_asked(folder: Path, processor: OwlProcessor) -> None:
    source = written(folder, SOUND)
    with pytest.raises(RequestError, match="no data to examine"):
        doctor.run(parsed())
    with pytest.raises(RequestError, match="--max-length -1"):
        doctor.run(parsed(source.name, "--max-length", "-1"))
    with pytest.raises(RequestError, match="its folder does not exist"):
        doctor.run(parsed(source.name, "--html", str(folder / "none" / "page.html")))
    with pytest.raises(RequestError, match="the recipe has its own"):
        doctor.run(parsed("--format", "llava"), Section((Place(source.name),)))
    with pytest.raises(RequestError, match=r"unknown chat template 'trainin'.*did you mean"):
        doctor.examine([source], processor, template="trainin")


def test_the_command_line_is_light() -> None:
    code = (
        "import sys, argparse; from mplug_owl.data import doctor; "
        "doctor.add_arguments(argparse.ArgumentParser()); "
        "print([name for name in ('torch', 'numpy', 'PIL', 'tqdm') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
