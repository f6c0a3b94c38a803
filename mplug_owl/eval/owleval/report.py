"""The report of OwlEval: the published figure, and the same made from grades of people and of judges.

It reads nothing: questions, systems, grades and verdicts are given. People and judges are never counted together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mplug_owl.eval.grades import Agreement, Consensus, Grade, agreement, consensus
from mplug_owl.eval.judging import Judging
from mplug_owl.eval.owleval.answers import System
from mplug_owl.eval.owleval.judged import comparing, counts, decimal, published_pieces, standing, with_people
from mplug_owl.eval.owleval.page import (
    Cell,
    Grid,
    Heading,
    Picture,
    Piece,
    Points,
    Share,
    Words,
    markdown,
    page,
    table_of_all,
)
from mplug_owl.eval.owleval.plots import bars, radar, save
from mplug_owl.eval.owleval.questions import ABILITIES, VIEWS, Question, Questions
from mplug_owl.eval.owleval.tally import NOT_GRADED, Published, Tally, abilities, matching, tally
from mplug_owl.eval.samples import write as write_whole
from mplug_owl.eval.verdicts import duels, grades_of

TITLE = "OwlEval"
PEOPLE = "people"
NAMES = ("owleval.md", "owleval.html", "owleval.csv")
PARTIAL = 0.1  # share of questions without a gradable answer above which a system is also compared on those it answered


@dataclass(frozen=True)
class Findings:
    """All that a report is made of."""

    questions: Questions
    published: Published
    systems: Sequence[System] = ()
    grades: Sequence[Grade] = ()
    judgings: Sequence[Judging] = ()
    texts: Sequence[Judging] = ()
    """Of questions of text alone."""
    notes: list[str] = field(default_factory=list)


def write(findings: Findings, out: Path) -> list[Path]:
    """Make the folder of the report: a page as Markdown and as HTML, its numbers as CSV, its pictures as PNG."""
    out.mkdir(parents=True, exist_ok=True)
    pieces = _pieces(findings, out)
    texts = (markdown(pieces), page(TITLE, pieces), table_of_all(pieces))
    written = [out / name for name in NAMES]
    for path, text in zip(written, texts, strict=True):
        write_whole(path, text)
    return written + [piece.file for piece in pieces if isinstance(piece, Picture)]


def _pieces(findings: Findings, out: Path) -> list[Piece]:
    questions = findings.questions
    pictures = len({question.picture for question in questions})
    told = f"{len(questions)} questions about {pictures} pictures, {questions.revision}"
    same = "the published file" if questions.official else "not the published file"
    views = ", ".join(f"{len(questions.view(view))} {view.replace('_', '-')}" for view in VIEWS)
    pieces: list[Piece] = [Heading(TITLE, 1), Words(f"{told} ({same}): {views}; first turns of dialogues are in both.")]
    pieces += _published(findings.published, out)
    people, strange = matching(findings.grades, findings.systems)
    if people:
        pieces += [Heading("Graded by people"), *_people(people, strange)]
        pieces += _graded(PEOPLE, findings, consensus(people), out)
    for judging in findings.judgings:
        pieces += _judged(judging, findings, out)
    if findings.texts:
        pieces += [Heading("Questions of text alone, 1 to 10"), *_texts(findings.texts)]
    if findings.notes:
        pieces += [Heading("Notes"), Points(findings.notes)]
    return pieces


def _published(published: Published, out: Path) -> list[Piece]:
    views = {view.replace("_", "-"): tallies for view, tallies in published.views.items()}
    figure = save(bars(views, "OwlEval as published, graded by people"), out / "published.png")
    pieces: list[Piece] = [Heading("As published"), Picture(figure, "stacked bars of the published grades A to D")]
    for view, tallies in views.items():
        pieces += [Heading(view, 3), Grid(f"published {view}", counts(tallies))]
    text = [Words(published.text)] if published.text else []
    return [*pieces, *text, Words(f"Source: {published.source}.")]


def _people(grades: Sequence[Grade], strange: int) -> list[Piece]:
    """Who graded, and how far they agree."""
    found = agreement(grades)
    items = [
        f"raters: {', '.join(found.raters)}; of several grades of an answer the middle one counts, of two the worse"
    ]
    if strange:
        items.append(f"{strange} grades are of other answers than these and count nowhere")
    if found.n:
        items += [_alpha(found)]
    elif len(found.raters) > 1:
        items.append("no answer has grades of two raters, so nothing is known of their agreement")
    else:
        items.append("one rater: nothing is known of agreement")
    pieces: list[Piece] = [Points(items)]
    if found.n:
        rows: list[dict[str, Cell]] = [
            {
                "raters": " and ".join(pair.raters),
                "answers": pair.n,
                "same grade": Share(pair.same, pair.n),
                "kappa": decimal(pair.kappa),
                "weighted kappa": decimal(pair.weighted),
            }
            for pair in found.pairs
            if pair.n
        ]
        pieces.append(Grid("agreement of raters", rows))
    return pieces


def _alpha(found: Agreement) -> str:
    told = []
    for level, alpha in found.alpha.items():
        interval = found.interval[level]
        if alpha is None or interval is None:
            told.append(f"{level} undefined, as all grades are the same")
        else:
            told.append(f"{level} {alpha:.3f} (95% {interval.low:.3f} to {interval.high:.3f})")
    return f"Krippendorff's alpha over {found.n} answers with two grades or more: {', '.join(told)}"


def _judged(judging: Judging, findings: Findings, out: Path) -> list[Piece]:
    pieces: list[Piece] = [Heading(f"Judged by {judging.name}"), Points(standing(judging.verdicts))]
    if judging.against is not None:
        return pieces + comparing(judging.verdicts, judging.against, findings.grades)
    current, strange = matching(grades_of(judging.verdicts), findings.systems)
    given = consensus(current)
    if strange:
        pieces.append(Points([f"{strange} verdicts are on other answers than these and count nowhere"]))
    pieces += _graded(f"judge {judging.name}", findings, given, out)
    pieces += with_people(current, *matching(findings.grades, findings.systems))
    tallies: dict[str, list[Tally]] = {
        view: [tally(s, findings.questions.view(view), given) for s in findings.systems] for view in VIEWS
    }
    return pieces + published_pieces(tallies, findings.published)


def _graded(who: str, findings: Findings, given: Mapping[tuple[str, int], Consensus], out: Path) -> list[Piece]:
    """Bars, abilities and the systems that answered a part, from grades of one kind."""
    questions, systems, stem = findings.questions, findings.systems, _file_name(who)
    ungraded = "yet to be graded" if who == PEOPLE else "not asked, or no verdict in the reply"
    tallies = {
        view.replace("_", "-"): [tally(system, questions.view(view), given) for system in systems] for view in VIEWS
    }
    figure = save(bars(tallies, f"OwlEval, graded by {who}"), out / f"{stem}-grades.png")
    pieces: list[Piece] = [Picture(figure, f"stacked bars of the grades A to D by {who}")]
    for view, found in tallies.items():
        pieces += [Heading(view, 3), Grid(f"{who} {view}", counts(found)), *_left_out(found, ungraded)]
    whole = [tally(system, questions, given) for system in systems]
    pieces += [Heading("all questions", 3), Grid(f"{who} all", counts(whole))]
    pieces += _abilities(who, findings, given, out / f"{stem}-abilities.png")
    for system in systems:
        asked = [q for q in questions if _answered(system, q)]
        if 0 < len(asked) < (1 - PARTIAL) * len(questions):
            name = f"on the {len(asked)} questions that {system.name} answered"
            rows = counts([tally(each, asked, given) for each in systems])
            pieces += [Heading(name, 3), Grid(f"{who} {name}", rows)]
    return pieces


def _file_name(who: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in who).strip("-").lower()


def _answered(system: System, question: Question) -> bool:
    flag = system.answers[question.id].flag
    return flag is None or flag.gradable


def _left_out(tallies: Sequence[Tally], ungraded: str) -> list[Piece]:
    items = [
        f"{each.system}: {count} without a grade ({ungraded if reason == NOT_GRADED else reason})"
        for each in tallies
        for reason, count in each.left_out.items()
    ]
    return [Points(items)] if items else []


def _abilities(who: str, findings: Findings, given: Mapping[tuple[str, int], Consensus], picture: Path) -> list[Piece]:
    """Of the answers to questions that ask for an ability, the share that show it."""
    found = {system.name: abilities(system, findings.questions, given) for system in findings.systems}
    if not any(shown.n for of_system in found.values() for shown in of_system.values()):
        return [Words(f"Nothing was said of abilities by {who}.")]
    rows: list[dict[str, Cell]] = [
        {"system": name, **{ABILITIES[letter]: Share(shown.share, shown.n) for letter, shown in of_system.items()}}
        for name, of_system in found.items()
    ]
    pieces: list[Piece] = [Heading("abilities", 3)]
    complete = {
        name: {ABILITIES[letter]: shown.share for letter, shown in of_system.items()}
        for name, of_system in found.items()
        if any(shown.n for shown in of_system.values())
    }
    if sum(all(shares[name] is not None for shares in complete.values()) for name in ABILITIES.values()) > 2:
        figure = save(radar(complete, f"abilities shown, percent of the answers asked for them ({who})"), picture)
        pieces.append(Picture(figure, f"radar of the abilities that answers show, by {who}"))
    return [*pieces, Grid(f"{who} abilities", rows)]


def _texts(judgings: Sequence[Judging]) -> list[Piece]:
    """The shape of the papers' table of text alone: a system's score as a share of another's."""
    rows: list[dict[str, Cell]] = []
    lines: list[str] = []
    for judging in judgings:
        lines += standing(judging.verdicts)
        for duel in duels(judging.verdicts, judging.against or ""):
            row: dict[str, Cell] = {"system": duel.system, "judge": judging.name, "questions": duel.n}
            score = None if duel.scores is None else f"{duel.scores[0]:g} : {duel.scores[1]:g}"
            row |= {"against": duel.against, "score": score, "percent": duel.relative, "wins": duel.wins}
            rows.append(row | {"ties": duel.ties, "losses": duel.losses, "split": duel.split, "unread": duel.unread})
    return [Grid("text alone", rows), Points(lines)]
