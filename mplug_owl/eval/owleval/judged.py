"""What a judge found, in pieces of a report: its grades or its duels, what it did not say, and whether people agree.

It asks nobody; verdicts and grades are given.
"""

from collections.abc import Sequence

from mplug_owl.eval.agreement import kappa, krippendorff
from mplug_owl.eval.grades import LETTERS, Grade, Letter, consensus
from mplug_owl.eval.owleval.answers import System
from mplug_owl.eval.owleval.page import Cell, Grid, Heading, Piece, Points, Share, Words
from mplug_owl.eval.owleval.questions import VIEWS, Questions
from mplug_owl.eval.owleval.tally import Published, Tally, matching, tally
from mplug_owl.eval.verdicts import Duel, Side, Verdict, duels, grades_of, outcome

SHOWN = 10  # questions named in a line


def standing(verdicts: Sequence[Verdict]) -> list[str]:
    """How many verdicts there are, and which replies held none."""
    judges = " and ".join(dict.fromkeys(verdict.judge for verdict in verdicts))
    failed = [verdict for verdict in verdicts if verdict.error is not None]
    unread = [verdict for verdict in verdicts if verdict.error is None and verdict.read is None]
    lines = [f"judge {judges}: {len(verdicts)} asked, {len(verdicts) - len(failed) - len(unread)} verdicts"]
    if unread:
        told = (
            "1 reply holds no verdict and counts"
            if len(unread) == 1
            else f"{len(unread)} replies hold no verdict and count"
        )
        lines.append(f"{told} nowhere: {_named(unread)}")
    if failed:
        lines.append(f"{len(failed)} could not be asked: {_named(failed)}; the first: {failed[0].error}")
    return lines


def _named(verdicts: Sequence[Verdict]) -> str:
    names = [f"{' and '.join(verdict.systems)} on {verdict.question}" for verdict in verdicts[:SHOWN]]
    return ", ".join(names) + (" ..." if len(verdicts) > SHOWN else "")


def grading(
    verdicts: Sequence[Verdict], questions: Questions, systems: Sequence[System], people: Sequence[Grade]
) -> list[Piece]:
    """The grades that a judge gave, and how far people agree with them."""
    ours = grades_of(verdicts)
    given = consensus(ours)
    pieces: list[Piece] = []
    for view in VIEWS:
        asked = questions.view(view)
        if asked:
            rows = counts([tally(system, asked, given) for system in systems])
            pieces += [Heading(view.replace("_", "-"), 3), Grid(f"judge {view}", rows)]
    return [*pieces, *with_people(ours, *matching(people, systems))]


def counts(tallies: Sequence[Tally]) -> list[dict[str, Cell]]:
    """A row for each system: its grades, what is left out, and the share of A or B with its interval."""
    rows = []
    for each in tallies:
        interval = each.interval("AB")
        row: dict[str, Cell] = {"system": each.system, "questions": each.total, "graded": each.n}
        row |= {str(letter): count for letter, count in each.counts.items()}
        row |= {"A or B": Share(each.share("AB"), each.n)}
        row |= {"95%": None if interval is None else f"{100 * interval.low:.0f} to {100 * interval.high:.0f}"}
        rows.append(row)
    return rows


def with_people(ours: Sequence[Grade], theirs: Sequence[Grade], strange: int) -> list[Piece]:
    """How far a judge's grades agree with those of people, who may not agree with each other; `strange` grades of
    theirs are of other answers.
    """
    letters = {(grade.system, grade.question): grade.grade for grade in ours}
    together = {place: found.letter for place, found in consensus(theirs).items()}
    raters = list(dict.fromkeys(grade.rater for grade in theirs))
    rows = [_pair("the raters' middle grade", letters, together)]
    for rater in raters if len(raters) > 1 else []:
        own = {(grade.system, grade.question): grade.grade for grade in theirs if grade.rater == rater}
        rows.append(_pair(rater, letters, own))
        others = {place: found.letter for place, found in consensus(g for g in theirs if g.rater != rater).items()}
        rows.append(_pair(f"(between people: {rater} and the others)", own, others))
    notes = [f"{strange} grades of people are of other answers than these and count nowhere"] if strange else []
    told: list[Piece] = [Grid("judge and people", rows)]
    if not rows[0]["answers"]:
        told = [Words("No answer has a grade of the judge and of a person, so nothing says what its grades are worth.")]
    return [Heading("The judge and people", 3), *told, *([Points(notes)] if notes else [])]


def _pair(name: str, ours: dict[tuple[str, int], Letter], theirs: dict[tuple[str, int], Letter]) -> dict[str, Cell]:
    both = [place for place in ours if place in theirs]
    first, second = ([side[place] for place in both] for side in (ours, theirs))
    same = sum(one == other for one, other in zip(first, second, strict=True))
    return {
        "judge beside": name,
        "answers": len(both),
        "same grade": Share(same / len(both) if both else None, len(both)),
        "kappa": decimal(kappa(first, second, LETTERS, "none")),
        "weighted kappa": decimal(kappa(first, second, LETTERS, "quadratic")),
        "alpha": decimal(krippendorff(list(zip(first, second, strict=True)), LETTERS)),
    }


def decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def comparing(verdicts: Sequence[Verdict], against: str, people: Sequence[Grade]) -> list[Piece]:
    """Duels with one system, and how far people's grades prefer the same side."""
    rows = [_duel(duel) for duel in duels(verdicts, against)]
    pieces: list[Piece] = [Grid(f"against {against}", rows)]
    pieces += [
        Words(
            "Each question was judged with either answer first. A win is one in both orders; split is where the orders "
            "disagree; unread is where one of them has no verdict."
        ),
        Heading("The judge and people", 3),
    ]
    return [*pieces, *_sides_with_people(verdicts, against, people)]


def _duel(duel: Duel) -> dict[str, Cell]:
    row: dict[str, Cell] = {"system": duel.system, "questions": duel.n, "wins": duel.wins, "ties": duel.ties}
    row |= {"losses": duel.losses, "split": duel.split, "unread": duel.unread}
    if duel.scores is not None:
        row |= {"score": f"{duel.scores[0]:g}", f"of {duel.against}": f"{duel.scores[1]:g}", "percent": duel.relative}
    return row


def _sides_with_people(verdicts: Sequence[Verdict], against: str, people: Sequence[Grade]) -> list[Piece]:
    graded = {(g.system, g.question, g.answer) for g in people}
    letters = {place: found.letter for place, found in consensus(people).items()}
    orders: dict[tuple[str, int], dict[bool, Verdict]] = {}
    for verdict in verdicts:
        leads, question = verdict.systems[1] == against, verdict.question
        answers = zip(verdict.systems, verdict.answers, strict=True)
        if isinstance(question, int) and all((system, question, answer) in graded for system, answer in answers):
            orders.setdefault((verdict.systems[0 if leads else 1], question), {})[leads] = verdict
    said: list[tuple[Side, Side]] = []
    for (system, number), found in orders.items():
        side = outcome(found)
        if side is not None and side != "split":
            said.append((side, _better(letters[system, number], letters[against, number])))
    if not said:
        return [Words("No two answers have a verdict in both orders and grades of people.")]
    decided = [(ours, theirs) for ours, theirs in said if theirs != "tie"]
    same, right = (sum(ours == theirs for ours, theirs in pairs) for pairs in (said, decided))
    first, second = zip(*said, strict=True)
    row: dict[str, Cell] = {
        "": "the better of two answers",
        "pairs": len(said),
        "same": Share(same / len(said), len(said)),
        "same, where people prefer one": Share(right / len(decided) if decided else None, len(decided)),
        "kappa": decimal(kappa(first, second, ("first", "tie", "second"), "none")),
    }
    return [Grid("judge and people", [row])]


def _better(first: Letter, second: Letter) -> Side:
    return "tie" if first == second else "first" if first < second else "second"


def beside_published(judged: Sequence[Tally], published: Sequence[Tally]) -> list[dict[str, Cell]]:
    """The judge's share of A or B beside the published one, and how much of the grades would have to move."""
    rows: list[dict[str, Cell]] = []
    for theirs in published:
        ours = next((each for each in judged if each.system == theirs.system and each.n), None)
        if ours is not None:
            moved = sum(abs(ours.counts[letter] / ours.n - theirs.counts[letter] / theirs.n) for letter in LETTERS) / 2
            row: dict[str, Cell] = {"system": theirs.system, "judge": Share(ours.share("AB"), ours.n)}
            rows.append(row | {"people": Share(theirs.share("AB"), theirs.n), "apart": Share(moved, ours.n)})
    return rows


def published_pieces(tallies: dict[str, list[Tally]], published: Published) -> list[Piece]:
    """A judge's grades beside what people said of the same systems in the published figure."""
    pieces: list[Piece] = []
    for view, theirs in published.views.items():
        rows = beside_published(tallies.get(view, []), theirs)
        if rows:
            pieces += [Heading(f"Beside the published figure, {view.replace('_', '-')}: A or B", 3)]
            pieces += [Grid(f"judge beside published {view}", rows)]
    return pieces
