"""Files of every kind as conversations by number, and the word for each way a row can be bad."""

import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.data.conversation import TarMember
from mplug_owl.data.sources import Source, open_source
from mplug_owl.errors import ConfigError, DataError
from mplug_owl.media import Limits, load_image
from mplug_owl.messages import ImagePart, Message, media

SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat \u00fc."}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OWL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def records(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{row}", "image": f"{row}.png", "conversations": SAID} for row in range(count)]


def picture(color: str = "navy") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1.5  # img2dataset's own are fractions, which take further headers
            tar.addfile(member, io.BytesIO(content))
    return path


def laion(count: int, first: int = 0) -> dict[str, bytes]:
    """Members as img2dataset writes them, captions of different lengths."""
    members = {}
    for number in range(first, first + count):
        key = f"{number:09d}"
        members[f"{key}.png"] = picture()
        members[f"{key}.json"] = json.dumps({"caption": "of json", "key": key}).encode()
        members[f"{key}.txt"] = (f"caption {number} " + "x" * 300 * (number % 3)).encode()
    return members


def shown(source: Source, row: int) -> Any:
    [part] = media(source[row].messages)
    return part.source


# ---- text files ------------------------------------------------------------------------------


def test_jsonl_with_all_that_occurs_in_it(tmp_path: Path) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records(3)]
    path = tmp_path / "chat.jsonl"
    path.write_bytes(("\ufeff" + lines[0] + "\r\n\n\r\n" + lines[1] + "\n" + lines[2]).encode())
    source = open_source(path)
    assert len(source) == 3
    assert [source[row].id for row in range(3)] == ["r0", "r1", "r2"]
    assert source.format == "llava"
    assert source[1].messages[1] == Message("assistant", "A cat \u00fc.")
    assert source[2].origin == source.origin(2) == f"{path}:3"
    assert source[2].kind == "chat"
    assert shown(source, 2) == str(tmp_path / "2.png")
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_lists(tmp_path: Path, indent: int | None, ascii_only: bool) -> None:
    path = tmp_path / "chat.json"
    text = json.dumps(records(20), indent=indent, ensure_ascii=ascii_only)
    path.write_text(f" {text}\n", encoding="utf-8")
    source = open_source(path)
    assert [source[row].id for row in range(20)] == [f"r{row}" for row in range(20)]
    assert source[19].messages[1].text == "A cat \u00fc."


def test_json_that_is_jsonl_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records(2)))
    assert len(open_source(path)) == 2


def test_coco_and_karpathy_files(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    document = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": n, "image_id": 1, "caption": f"cat {n}"} for n in range(5)],
    }
    path.write_text(json.dumps(document))
    source = open_source(path, image_root=tmp_path)
    assert (len(source), source.format, source[4].kind) == (5, "caption", "caption")
    assert source[4].messages == (Message("user", [ImagePart(str(tmp_path / "1.jpg"))]), Message("assistant", "cat 4"))
    sentences = [{"raw": "a", "sentid": 0}]
    images = [{"filename": "a.jpg", "split": "val", "sentences": sentences}]
    path.write_text(json.dumps({"images": images}))
    assert len(open_source(path, "karpathy-val")) == 1
    with pytest.raises(DataError, match="holds no rows"):
        open_source(path, "karpathy")


def test_tsv_with_and_without_a_header(tmp_path: Path) -> None:
    bare, named = tmp_path / "bare.tsv", tmp_path / "named.tsv"
    bare.write_text("a dog , seen from above\tcc/1.jpg\nlonely\ncat\tcc/2.jpg\n")
    named.write_text("filepath\ttitle\ncc/1.jpg\ta dog , seen from above\n")
    for source in map(open_source, (bare, named)):
        assert source.format == "caption"
        assert source[0].messages[1].text == "a dog , seen from above"
        assert shown(source, 0) == str(tmp_path / "cc/1.jpg")
    assert len(open_source(named)) == 1
    with pytest.raises(DataError, match=r"bare.tsv:2: a line of 1 column"):
        open_source(bare)[1]


def test_media_paths(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    sources = ["a.png", "/data/b.png", "https://example.org/c.png", "data:image/png;base64,AA"]
    rows = [{"image": source, "conversations": SAID} for source in sources]
    path.write_text("\n".join(map(json.dumps, rows)))
    root = tmp_path / "elsewhere"
    root.mkdir()
    source = open_source(path, image_root=root)
    assert [shown(source, row) for row in range(4)] == [str(root / "a.png"), *sources[1:]]
    assert source[0].id == "chat.jsonl:1"
    with pytest.raises(DataError, match="image_root"):
        open_source(path, image_root=tmp_path / "none")


# ---- tars ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_img2dataset(tmp_path: Path, form: int) -> None:
    path = write_tar(tmp_path / "00000.tar", laion(7), form)
    source = open_source(path)
    assert (len(source), source.format) == (7, "caption")
    for row in range(7):
        one = source[row]
        assert one.id == f"{row:09d}"
        assert one.messages[1].text.startswith(f"caption {row}")
    member = shown(source, 3)
    assert isinstance(member, TarMember)
    assert member.name == "000000003.png"
    assert load_image(member).size == (12, 8)
    with pytest.raises(DataError, match=r"00000.tar:000000003.png.*max_bytes"):
        load_image(member, Limits(max_bytes=10))
    with pytest.raises(DataError, match="local path"):
        load_image(member, Limits(allow_local=False))


def test_samples_of_every_shape(tmp_path: Path) -> None:
    long = "folder." + "n" * 120  # a dot in a folder does not end the key
    chat = json.dumps({"conversations": SAID, "image": "was.jpg"}).encode()
    members = {
        f"{long}/a.json": chat,
        f"{long}/a.PNG": picture(),
        "b.json": chat,
        "b.cls": b"3",
        "b.0.png": picture(),
        "c.json": b"{",
        "c.png": picture(),
    }
    source = open_source(write_tar(tmp_path / "chat.tar", members))
    assert (len(source), source.format) == (3, "llava")
    assert source[0].id == f"{long}/a"
    assert shown(source, 1).name == "b.0.png"
    with pytest.raises(DataError, match=r"chat.tar:3: the json of 'c' is no JSON"):
        source[2]


def test_a_caption_falls_back_to_the_json(tmp_path: Path) -> None:
    members = laion(1) | {"000000000.txt": b""}
    source = open_source(write_tar(tmp_path / "0.tar", members))
    assert source[0].messages[1].text == "of json"


def test_a_folder_of_shards_and_its_indexes(tmp_path: Path, cache: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"{shard:05d}.tar", laion(2 + shard, 100 * shard))
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"img2dataset's own")
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    source = open_source(tmp_path)
    assert len(source) == 9
    assert [source[row].id for row in (0, 2, 8)] == ["000000000", "000000100", "000000203"]
    assert source.origin(8) == f"{tmp_path / '00002.tar'}:4"
    assert source.shows_media().all()
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert len(made) == 3
    assert len(open_source(tmp_path / "*.tar")) == 9
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert kept == made, "an index was made twice"
    write_tar(tmp_path / "00001.tar", laion(1, 7))
    assert [open_source(tmp_path)[row].id for row in (2, 3)] == ["000000007", "000000200"]
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 3, "an old index stayed"


def test_a_truncated_tar_keeps_its_whole_samples(tmp_path: Path) -> None:
    """Wherever it is cut, what lies whole before the cut is there, and one row says the rest."""
    whole_path = write_tar(tmp_path / "whole.tar", laion(4))
    whole = whole_path.read_bytes()
    with tarfile.open(whole_path) as tar:
        ends = [m.offset_data + 512 * -(-m.size // 512) for m in tar.getmembers()][2::3]
    for number, cut in enumerate(range(0, len(whole), 700)):
        path = tmp_path / f"cut{number}.tar"
        path.write_bytes(whole[:cut])
        source = open_source(path, "laion")
        damaged = cut < ends[-1] + 512
        good = [source[row] for row in range(len(source) - damaged)]
        assert [one.id for one in good] == [f"{row:09d}" for row in range(len(good))]
        for row, one in enumerate(good):
            assert one.messages[1].text.startswith(f"caption {row}")
            assert load_image(shown(source, row)).size == (12, 8)
        complete = sum(end <= cut for end in ends)
        assert len(good) == complete if not damaged else complete - 1 <= len(good) <= complete
        if damaged:
            with pytest.raises(DataError, match=rf"cut{number}.tar:\d+: the tar is cut short or"):
                source[len(good)]


def test_a_tar_that_shrinks_or_goes_during_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", laion(3))
    source = open_source(path)
    member = shown(source, 2)
    path.write_bytes(path.read_bytes()[: member.offset + 3])
    with pytest.raises(DataError, match=r"3 of \d+ bytes; the tar is cut short"):
        load_image(member)
    with pytest.raises(DataError, match=r"0.tar:3: the tar is no longer what it was"):
        source[2]
    path.unlink()
    with pytest.raises(DataError, match=r"0.tar:1: the file cannot be read \(No such file"):
        source[0]
    with pytest.raises(DataError, match="is no file"):
        load_image(member)


# ---- tables ----------------------------------------------------------------------------------


def test_parquet_with_pictures_inside(tmp_path: Path, cache: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": picture(), "path": f"{row}.png"}, "caption": f"cat {row}"} for row in range(200)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=90)
    source = open_source(tmp_path / "a.parquet")
    assert (len(source), source.format) == (200, "caption")
    assert [source[row].messages[1].text for row in (0, 89, 90, 199)] == [*("cat 0", "cat 89", "cat 90", "cat 199")]
    assert load_image(shown(source, 150)).size == (12, 8)
    (tmp_path / "b.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="no parquet file or damaged"):
        open_source(tmp_path / "b.parquet")


def test_messages_in_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "messages": [{"role": "user", "content": f"<image>{row}?"}, {"role": "assistant", "content": "Yes."}],
            "images": [{"bytes": None, "path": f"{row}.png"}],
        }
        for row in range(3)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert source.format == "messages"
    assert shown(source, 2) == str(tmp_path / "2.png")


def test_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list([{**record, "extra": None} for record in records(30)])
    split.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=split, test=split).save_to_disk(tmp_path / "two")
    source = open_source(tmp_path / "one")
    assert [source[row].id for row in (0, 29)] == ["r0", "r29"]
    assert shown(source, 3) == str(tmp_path / "one" / "3.png")
    assert len(open_source(tmp_path / "two" / "test")) == 30
    with pytest.raises(DataError, match="holds the splits train, test"):
        open_source(tmp_path / "two")
    (tmp_path / "one" / "state.json").unlink()
    with pytest.raises(DataError, match="no data set that save_to_disk wrote"):
        open_source(tmp_path / "one")


# ---- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 1', r"no JSON"),
        ("[1]", "a list; expected an object"),
        ("\\u0000", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"conversations": [{"from": "human", "value": "hi"}]}', "no answer; expected one"),
        ('{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}]}', r"1 empty answer\(s\)"),
        ('{"text": "no turns"}', "conversations=None"),
    ],
)
def test_bad_rows_are_named_and_the_others_stay(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "chat.jsonl"
    good = json.dumps(records(1)[0])
    path.write_text(f"{line}\n{good}\n{line}\n{good}\n")
    source = open_source(path, None if line[0] in "[\\" or '": 1' in line else "llava")
    assert len(source) == 4
    assert source[1].id == source[3].id == "r0"
    with pytest.raises(DataError, match=rf"chat.jsonl:3: .*{words}"):
        source[2]


def test_a_row_of_100_000_tokens_is_a_row(tmp_path: Path) -> None:
    record = records(1)[0]
    long = "word " * 100_000
    record["conversations"] = [*SAID, {"from": "human", "value": long}, SAID[1]]
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert open_source(tmp_path / "a.jsonl")[0].messages[2].text == long


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*expected .tar, .parquet"):
        open_source(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no data at"):
        open_source(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no rows"):
        open_source(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(DataError, match=r"of no known kind; expected \.tar"):
        open_source(tmp_path / "a.csv")
    (tmp_path / "b.json").write_text("[{}, ")
    with pytest.raises(DataError, match=r"b.json is no JSON.*line 1 column 6"):
        open_source(tmp_path / "b.json")
    (tmp_path / "c.json").write_text('{"a": 1, "b": 2}')
    with pytest.raises(DataError, match=r"c.json: one object with the keys a, b"):
        open_source(tmp_path / "c.json")
    with pytest.raises(DataError, match=r"files of 2 kinds .* with a glob"):
        open_source(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"q": "a"}\n')
    with pytest.raises(DataError, match=r"d.jsonl:1: a record with the keys q is of no known"):
        open_source(tmp_path / "d.jsonl")
    with pytest.raises(ConfigError, match="did you mean 'llava'"):
        open_source(tmp_path / "d.jsonl", "lava")


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "0.tar", laion(1))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OWL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set OWL_CACHE to a folder with room"):
        open_source(path)


# ---- elsewhere -------------------------------------------------------------------------------


def test_the_identity_is_of_the_data_not_of_its_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        (folder / "x.jsonl").write_text("\n".join(map(json.dumps, records(3))))
    first, second = (open_source(folder / "x.jsonl") for folder in folders)
    assert first.identity == second.identity
    with (folders[1] / "x.jsonl").open("a") as stream:
        stream.write(" ")
    assert open_source(folders[1]).identity != first.identity


def _ids(source: Source) -> list[str]:
    return [source[row].id for row in range(len(source))]


def test_sources_travel_to_spawned_workers(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", laion(3))
    source = open_source(path, "laion")
    assert _ids(pickle.loads(pickle.dumps(source))) == _ids(source)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_ids, [source]) == _ids(source)
