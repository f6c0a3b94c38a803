"""A run: every example of some tasks asked once, every answer kept, then scored and summed up.

In the folder of a run, each task has `settings.json`, written first, and `samples.jsonl`, a line for each answer as it
comes; a run that was stopped asks only what is not answered there. Several workers may share the folder: the last one
done sums up. `results.json` and `results.md` come last. They hold no times: an interrupted run ends with the bytes of
one that was not. `rows.json` says which samples each row of a table is made of. Who answers and what is right is not
known here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mplug_owl.errors import EvalError
from mplug_owl.eval import revision, samples
from mplug_owl.eval.endpoints import Endpoint, Failure, Said
from mplug_owl.eval.report import markdown, plain
from mplug_owl.eval.samples import SAMPLES, Shard, write
from mplug_owl.eval.task import Example, Record, Score, Table, Task, said
from mplug_owl.messages import Message

__all__ = ["PAGE", "RESULTS", "ROWS", "SAMPLES", "run", "score"]

RESULTS, PAGE, ROWS = "results.json", "results.md", "rows.json"


@dataclass
class Job:
    """A task in its folder: what it asks and what is answered so far."""

    task: Task
    examples: list[Example]
    folder: Path
    settings: dict[str, Any]
    known: frozenset[str]
    """The ids of all examples of the task, those beyond a limit too."""
    answers: dict[str, Said] = field(default_factory=dict)

    def open(self, head: Mapping[str, Any], file: str) -> None:
        """Agree with what lies there, and read it."""
        revision.agree(self.folder, {**head, **self.settings})
        self.answers = samples.load(self.folder, file, {example.id for example in self.examples})

    @property
    def failures(self) -> dict[str, Failure]:
        return {name: each for name, each in self.answers.items() if isinstance(each, Failure)}

    @property
    def missing(self) -> int:
        """How many were never asked."""
        return len(self.examples) - len(self.answers)

    def conversations(self) -> dict[str, list[Message]]:
        """What is asked, with the model's own answers where turns follow; without turns that cannot be asked."""
        found: dict[str, list[Message]] = {}
        for example in self.examples:
            if example.follows is None:
                found[example.id] = list(example.messages)
            elif example.follows in found and isinstance(answer := self.answers.get(example.follows), str):
                before = [*found[example.follows], Message("assistant", answer)]
                found[example.id] = [*before, *example.messages]
        return found

    def records(self) -> list[Record]:
        return [self.record(example, self.answers[example.id]) for example in self.examples]

    def record(self, example: Example, answer: Said) -> Record:
        if isinstance(answer, Failure):
            return Record(example, "", Score(0.0, ""), answer.reason)
        return Record(example, answer, self.task.score(example, answer))

    def line(self, record: Record, conversation: Sequence[Message] | None) -> str:
        asked = record.example.messages if conversation is None else conversation
        return samples.line(record, said(asked, self.task.data))


def run(
    endpoint: Endpoint,
    tasks: Sequence[Task],
    out: Path,
    *,
    new: bool = False,
    limit: int | None = None,
    shard: Shard | None = None,
    allow_failures: bool = False,
) -> dict[str, Any] | None:
    """Ask, score, write; the contents of `results.json`, or None where other workers have not answered all yet.

    With `new`, a folder that holds a run already is refused. `limit` asks so many questions of each task, and what
    belongs to them. An example without an answer is asked again by the next call; with `allow_failures` it counts as
    wrong instead, and the results say how many did.

    Raises:
        EvalError: the folder holds answers to other questions, of another model or under other settings; or some
            examples could not be answered.
    """
    shard, model, versions = shard or Shard(), endpoint.card(), revision.versions()
    jobs = [_job(task, out, limit) for task in tasks]
    if new and any(job.folder.exists() for job in jobs):
        raise EvalError(f"{out} holds a run already; give another folder, or go on with it without --new")
    head = {"model": model, "versions": versions}
    _others(out, head)
    for job in jobs:
        job.open(head, shard.file)
    for job in jobs:
        _ask(endpoint, job, shard)
    for job in jobs:
        job.open(head, shard.file)  # with what others answered in the meantime
    return _finish(jobs, out, head, allow_failures)


def score(
    given: Mapping[str, str],
    model: Mapping[str, Any],
    task: Task,
    out: Path,
    *,
    limit: int | None = None,
    allow_failures: bool = False,
) -> dict[str, Any]:
    """Score answers that somebody else's program gave, by ids; as `run` does with its own.

    Raises:
        EvalError: an id is none of the task's, or has no answer.
    """
    job, head = _job(task, out, limit), {"model": dict(model), "versions": revision.versions()}
    if unknown := [name for name in given if name not in job.known]:
        raise EvalError(
            f"{len(unknown)} of {len(given)} ids are none of task {task.name}, the first one {unknown[0]!r}; expected "
            f"those of split {task.split}, such as {job.examples[0].id!r}: were these answers given to another split?"
        )
    _others(out, head)
    revision.agree(job.folder, {**head, **job.settings})
    left_out = Failure("the file has no answer to it")
    job.answers = {example.id: given.get(example.id, left_out) for example in job.examples}
    results = _finish([job], out, head, allow_failures)
    assert results is not None, "every example has an answer or a failure"
    return results


def _job(task: Task, out: Path, limit: int | None) -> Job:
    if limit is not None and limit < 1:
        raise EvalError(f"a limit of {limit} questions; expected 1 or more")
    examples = list(task.examples())
    settings = revision.settings(task, examples, limit)
    asked = examples if limit is None else samples.limited(examples, limit)
    return Job(task, asked, out / task.name, settings, frozenset(example.id for example in examples))


# ---- asking --------------------------------------------------------------------------------------


def _ask(endpoint: Endpoint, job: Job, shard: Shard) -> None:
    """Ask what this worker has to; each answer is written down before the next. Turns of dialogues go in rounds."""
    own = shard.own(samples.groups(job.examples))
    left = [e for e in job.examples if e.id in own and not isinstance(job.answers.get(e.id), str)]
    for example in left:
        job.answers.pop(example.id, None)  # a failure, which is no answer
    with (
        (job.folder / shard.file).open("a", encoding="utf-8") as file,
        tqdm(total=len(own), initial=len(own) - len(left), desc=job.task.name, unit="question", disable=None) as bar,
    ):

        def keep(example: Example, answer: Said, conversation: Sequence[Message] | None) -> None:
            file.write(job.line(job.record(example, answer), conversation))
            file.flush()
            job.answers[example.id] = answer
            bar.update()

        while left:
            conversations = job.conversations()
            ready = [example for example in left if example.id in conversations]
            if not ready:
                break
            asked = [conversations[example.id] for example in ready]
            answers = endpoint.answers(asked, job.task.max_new_tokens)
            for example, conversation, answer in zip(ready, asked, answers, strict=True):
                keep(example, answer, conversation)
            left = [example for example in left if example.id not in job.answers]
        for example in left:
            keep(example, Failure(f"not asked: the turn before it, {example.follows!r}, has no answer"), None)


# ---- summing up ----------------------------------------------------------------------------------


def _finish(jobs: Sequence[Job], out: Path, head: Mapping[str, Any], allow_failures: bool) -> dict[str, Any] | None:
    failures = [(job, name, failure) for job in jobs for name, failure in job.failures.items()]
    if failures and not allow_failures:
        job, name, failure = failures[0]
        raise EvalError(
            f"{len(failures)} of {sum(len(job.examples) for job in jobs)} questions have no answer, the first one "
            f"{name!r} of {job.task.name}: {failure.reason}; the answers are kept, the same command goes on; to count "
            "those as wrong, give --allow-failures"
        )
    if any(job.missing for job in jobs):
        return None
    results: dict[str, Any] = {**head, "tasks": _others(out, head)}
    for job in jobs:
        records, conversations = job.records(), job.conversations()
        samples.join(job.folder, "".join(job.line(each, conversations.get(each.example.id)) for each in records))
        for name, text in job.task.exports(records).items():
            write(job.folder / name, text)
        tables = job.task.aggregate(records)
        write(job.folder / ROWS, json.dumps(_places(tables, records)) + "\n")
        results["tasks"][job.task.name] = {
            **job.settings,
            "kind": job.task.kind,
            "n": len(records),
            "failed": len(job.failures),
            "chance": job.task.chance,
            "published": [vars(number) for number in job.task.published()],
            "tables": [plain(table) for table in tables],
        }
    results["tasks"] = dict(sorted(results["tasks"].items()))  # whichever was asked first
    write(out / RESULTS, json.dumps(results, indent=1) + "\n")
    write(out / PAGE, markdown(results))
    return results


def _others(out: Path, head: Mapping[str, Any]) -> dict[str, Any]:
    """The results of tasks that were finished in this folder before, which must be those of the same model."""
    if not (out / RESULTS).exists():
        return {}
    there = revision.read(out / RESULTS)
    revision.same(out, {name: there.get(name, {}) for name in head}, head)
    return dict(there.get("tasks", {}))


def _places(tables: Sequence[Table], records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
    """The lines of `samples.jsonl`, from 0, whose scores each row of a table is the mean of."""
    lines = {record.example.id: number for number, record in enumerate(records)}
    return {
        table.title: {row.name: [lines[name] for name in row.members] for row in table.rows if row.members}
        for table in tables
    }
