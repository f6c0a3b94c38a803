"""What systems answered to OwlEval: the published files, or what `owl eval` kept of a run.

Rows are joined by the number of the question alone: the published files name other pictures and retype some questions.
In place of some answers they hold a word; such answers carry a flag that says why. How answers are graded is not known
here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.owleval.questions import SOURCE, Questions, read_rows

# How the published files call the six systems, and how the paper does.
PUBLISHED = {
    "openflanmingo": "OpenFlamingo",
    "BLIP2": "BLIP-2",
    "llava-13b": "LLaVA",
    "minigpt4_13b": "MiniGPT-4",
    "mPLUG_Owl_7b:v1": "mPLUG-Owl",
    "MMreact": "MM-REACT",
}
RUNS = ("owleval", "vicuna_bench")  # tasks whose folders in a run hold answers to be graded
SAMPLES = "samples*.jsonl"


@dataclass(frozen=True)
class Flag:
    """Why something that stands for an answer is none."""

    reason: str
    gradable: bool
    """Whether graders are asked: of a system that gave no answer, but not where nobody knows the answer any more."""


LOST = Flag("the published file says that the answer could not be traced", gradable=False)
SCREENSHOT = Flag("the answer was a screenshot of a web page, which was not published", gradable=False)
GAVE_UP = Flag("the published file says that the system gave up answering", gradable=True)
REFUSED = Flag("the published file says that the system refused to answer", gradable=True)
UNREADABLE = Flag("nothing of the answer is readable", gradable=True)
EMPTY = Flag("the answer is empty", gradable=True)
UNANSWERED = Flag("the question was not answered", gradable=False)
FAILED = "answering failed: "
_WORDS = {
    "\u65e0\u6cd5\u56de\u6eaf": LOST,
    "\u6a21\u578b\u653e\u5f03\u56de\u7b54": GAVE_UP,
    "\u6a21\u578b\u62d2\u7edd\u56de\u7b54": REFUSED,
}
_PAGES = ("web", "website")


@dataclass(frozen=True)
class Answer:
    question: int
    text: str
    flag: Flag | None = None

    @property
    def shown(self) -> str:
        """What a grader reads: a flagged answer in words that tell nothing of the system."""
        return self.text.strip() if self.flag is None else "(no answer)"


@dataclass(frozen=True)
class System:
    """A system with its answer to every question."""

    name: str
    answers: dict[int, Answer]

    def flagged(self) -> list[Answer]:
        return [answer for answer in self.answers.values() if answer.flag]

    def gaps(self) -> list[str]:
        """Which of its answers are none, and why, in words."""
        found: dict[Flag, list[int]] = {}
        for answer in self.answers.values():
            if answer.flag is not None:
                found.setdefault(answer.flag, []).append(answer.question)
        return [
            f"{self.name}: {flag.reason}{'' if flag.gradable else ', so nobody grades it'} "
            f"(question {', '.join(map(str, ids))})"
            for flag, ids in found.items()
        ]

    def gradable(self) -> list[Answer]:
        return [answer for answer in self.answers.values() if answer.flag is None or answer.flag.gradable]


def read_systems(specs: Sequence[str], questions: Questions) -> list[System]:
    """The systems of `NAME=PATH` or `PATH`: a file of answers, the folder of a run, or a folder of such files.

    Raises: EvalError where a file lacks answers, has others, or two systems have one name.
    """
    systems: list[System] = []
    for spec in specs:
        name, _, rest = spec.partition("=")
        named = bool(rest) and not Path(spec).exists()
        path = Path(rest if named else spec)
        files = _files(path)
        if named and len(files) > 1:
            raise EvalError(f"{spec}: one name, but {path} holds {len(files)} files of answers; name each, or none")
        systems += [_system(name if named else None, path, parts, questions) for parts in files]
    if not systems:
        raise EvalError("no systems; give files of answers or folders of runs")
    name, count = Counter(system.name for system in systems).most_common(1)[0]
    if count > 1:
        raise EvalError(f"{count} systems are called {name!r}; name them, as in first=PATH second=PATH")
    return systems


def _files(path: Path) -> list[list[Path]]:
    """For each system the files that hold its answers: several where a run was spread over workers."""
    if not path.is_dir():
        return [[path]]
    for folder in (*(path / task for task in RUNS), path):
        if samples := sorted(folder.glob(SAMPLES)):
            return [samples]
    if files := sorted(path.glob("*.jsonl")):
        return [[file] for file in files]
    raise EvalError(f"{path} holds no answers; expected {RUNS[0]}/{SAMPLES} of a run, or *.jsonl as in {SOURCE}")


def _system(name: str | None, path: Path, files: Iterable[Path], questions: Questions) -> System:
    found: dict[int, Answer] = {}
    told: Counter[str] = Counter()
    strange = 0
    for file in files:
        for where, row in read_rows(file, f"expected a line for each answer, as in {SOURCE}"):
            answer = _answer(where, row, questions)
            before = found.get(answer.question)
            if before is not None and not (before.flag and before.flag.reason.startswith(FAILED)):
                raise EvalError(f"{where}: question {answer.question} is answered twice; take one line away")
            found[answer.question] = answer
            told[str(row.get("model_id", path.stem if path.is_file() else path.name))] += 1
            strange += _strange(row, questions[answer.question].text)
    if 2 * strange > len(found):
        raise EvalError(f"{path}: {strange} of {len(found)} lines ask something else; these are no answers to OwlEval")
    missing = [id for id in questions.by_id if id not in found]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise EvalError(
            f"{path} lacks the answers to {len(missing)} of {len(questions)} questions ({shown}); "
            'add them, with "answer": null where the system was not asked'
        )
    if name is None and len(told) > 1:
        raise EvalError(f"{path} mixes answers of {' and '.join(sorted(told))}; give each its file")
    model = next(iter(told))
    return System(name or PUBLISHED.get(model, model), {id: found[id] for id in questions.by_id})


def _answer(where: str, row: dict[str, Any], questions: Questions) -> Answer:
    id = row.get("question_id", row.get("id"))
    if isinstance(id, str) and id.isdecimal():
        id = int(id)
    if type(id) is not int:
        raise EvalError(f"{where}: question_id is {id!r}; expected the number of a question")
    if id not in questions.by_id:
        raise EvalError(f"{where}: there is no question {id}; expected ids of {questions.folder}")
    if (failed := row.get("error")) is not None:
        return Answer(id, "", Flag(f"{FAILED}{failed}", gradable=False))
    text = _text(row)
    if text is None and "answer" in row:
        return Answer(id, "", UNANSWERED)
    if not isinstance(text, str):
        raise EvalError(f"{where}: answer is {text!r}; expected a text, or null where the system was not asked")
    return Answer(id, text, _flag(text, questions[id].text))


def _text(row: dict[str, Any]) -> Any:
    """The answer itself; the files of Vicuna-bench call it `text`, or have it as the first turn of the first choice."""
    try:
        return next((row[name] for name in ("answer", "text") if name in row), None) or row["choices"][0]["turns"][0]
    except (KeyError, IndexError, TypeError):
        return row.get("answer", row.get("text"))


def _flag(text: str, question: str) -> Flag | None:
    words = text.strip().rstrip(".").rstrip()
    if not words:
        return EMPTY
    if words in _WORDS:
        return _WORDS[words]
    if words.lower() in _PAGES and "html" in question.lower():
        return SCREENSHOT
    return UNREADABLE if not any(letter.isprintable() and letter not in "\ufffd " for letter in words) else None


def _strange(row: dict[str, Any], question: str) -> bool:
    """Whether a row tells another question: more than a retyped one, which may lose marks but keeps its words."""
    told = row.get("question")
    if not isinstance(told, str):
        return False
    first, second = (set("".join(c if c.isalnum() else " " for c in text.lower()).split()) for text in (told, question))
    return 2 * len(first & second) < len(first | second)
