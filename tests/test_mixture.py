"""The order of a run: every row as often as it should be, a function of seed and number alone."""

import json
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from mplug_owl.data.mixture import Deck, Mixture, Permutation
from mplug_owl.data.sources import Source, open_source
from mplug_owl.errors import ConfigError
from mplug_owl.messages import media


def write(path: Path, rows: int, pictures: int = 0) -> Source:
    """A source whose first rows show pictures."""
    with path.open("w") as stream:
        for row in range(rows):
            shown = {"images": ["a.png"]} if row < pictures else {}
            asked = "<image>?" if row < pictures else "?"
            said = [{"role": "user", "content": asked}, {"role": "assistant", "content": "!"}]
            stream.write(json.dumps({"id": f"{path.stem}{row}", "messages": said, **shown}) + "\n")
    return open_source(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("mixture")
    return [
        write(folder / "a.jsonl", 30, pictures=30),
        write(folder / "b.jsonl", 10),
        write(folder / "c.jsonl", 7, pictures=3),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000])
def test_permutations_are_permutations(size: int) -> None:
    for key in range(5):
        assert sorted(Permutation(size, key)[place] for place in range(size)) == [*range(size)]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_permutations_are_even(size: int) -> None:
    """Every order of a few rows is about as likely as any other."""
    keys = 3000
    orders = Counter(tuple(Permutation(size, "even", key)[place] for place in range(size)) for key in range(keys))
    expected = keys / len([*permutations(range(size))])
    assert len(orders) == len([*permutations(range(size))])
    assert max(orders.values()) < 1.35 * expected
    assert min(orders.values()) > 0.65 * expected


def test_large_permutations_leave_no_row_near_its_place() -> None:
    size = 400_000_000
    shuffled = [Permutation(size, 1)[place] for place in range(2000)]
    assert len(set(shuffled)) == 2000
    # Of uniform numbers the mean lies within 5 standard errors of the middle.
    assert abs(sum(shuffled) / 2000 / size - 0.5) < 5 * (1 / 12 / 2000) ** 0.5
    rising = sum(a < b for a, b in pairwise(shuffled))
    assert 900 < rising < 1100


def test_without_weights_an_epoch_is_every_row_once(sources: list[Source]) -> None:
    mixture = Mixture(sources, seed=3)
    assert mixture.epoch == 47
    epochs = [[mixture.locate(k) for k in range(e * 47, (e + 1) * 47)] for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 47
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_weights_are_exact_over_an_epoch_and_repeat_evenly(sources: list[Source]) -> None:
    mixture = Mixture(sources, [3, 3, 1], seed=3)
    seen = Counter(mixture.locate(k) for k in range(2 * mixture.epoch))
    shares = Counter(source for source, _ in seen.elements())
    assert mixture.epoch == 70  # until all 30 rows of the first source were seen
    assert shares == {0: 60, 1: 60, 2: 20}
    for source in range(3):
        times = [count for (number, _), count in seen.items() if number == source]
        assert len(times) == len(sources[source])
        assert max(times) - min(times) <= 1


def test_a_sample_is_a_function_of_seed_and_number(sources: list[Source]) -> None:
    order = [Mixture(sources, [1, 1, 2], seed=5).locate(k) for k in range(200)]
    again = Mixture(sources, [1, 1, 2], seed=5)
    assert [again.locate(k) for k in reversed(range(200))] == order[::-1]
    assert [Mixture(sources, [1, 1, 2], seed=6).locate(k) for k in range(200)] != order
    assert again[17] == sources[order[17][0]][order[17][1]]


def test_any_number_of_ranks_sees_the_same_samples(sources: list[Source]) -> None:
    """2 ranks for 24 samples, then 1, then 4: the order of one rank alone."""
    alone = [Mixture(sources, seed=1).locate(k) for k in range(94)]
    seen: list[tuple[int, int]] = []
    for ranks, until in ((2, 24), (1, 31), (4, 94)):
        mixtures = [Mixture(sources, seed=1) for _ in range(ranks)]
        seen += [mixtures[k % ranks].locate(k) for k in range(len(seen), until)]
    assert seen == alone
    assert Counter(seen) == Counter(dict.fromkeys(alone, 2))


@pytest.mark.parametrize("window", [8, 10])
def test_every_window_holds_the_share_of_media(sources: list[Source], window: int) -> None:
    mixture = Mixture(sources, seed=2, multimodal_share=0.5, window=window)
    seen = [mixture.locate(k) for k in range(mixture.epoch)]
    shown = [source == 0 or (source, row < 3) == (2, True) for source, row in seen]
    windows = [shown[i : i + window] for i in range(0, len(shown) - window + 1, window)]
    assert {sum(some) for some in windows} == {window // 2}
    assert len({tuple(some) for some in windows}) > 1, "the two kinds stand in one fixed pattern"
    assert len(set(seen)) == 47, "an epoch that missed a row"


def test_a_share_and_weights_go_together(sources: list[Source]) -> None:
    mixture = Mixture(sources, [1, 1, 1], multimodal_share=0.25, window=4)
    seen = [mixture[k].messages for k in range(400)]
    assert sum(bool(media(messages)) for messages in seen) == 100


def test_mixtures_that_cannot_be(sources: list[Source]) -> None:
    with pytest.raises(ConfigError, match="no sources"):
        Mixture([])
    with pytest.raises(ConfigError, match="positive number for each"):
        Mixture(sources, [1, 2])
    with pytest.raises(ConfigError, match="positive number for each"):
        Mixture(sources, [1, 2, 0])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Mixture(sources, multimodal_share=1.0)
    with pytest.raises(ConfigError, match="no row of the sources has text alone"):
        Mixture(sources[:1], multimodal_share=0.5)


def test_the_identity_follows_what_decides_the_order(sources: list[Source]) -> None:
    plain = Mixture(sources, seed=1).identity
    assert plain == Mixture(sources, seed=1).identity
    others = [
        Mixture(sources, seed=2),
        Mixture(sources[:2], seed=1),
        Mixture(sources, [1, 1, 1], seed=1),
        Mixture(sources, seed=1, multimodal_share=0.5, window=8),
    ]
    assert len({plain, *(mixture.identity for mixture in others)}) == 5


def test_a_deck_with_empty_piles() -> None:
    deck = Deck([0, 3, 0, 2], [1.0, 1.0, 1.0, 2.0], seed=0, label="x")
    assert deck.epoch == 9
    assert Counter(pile for pile, _ in map(deck.__getitem__, range(9))) == {1: 3, 3: 6}
