"""`owl batch --cluster`: a file answered by a pool of owls on Ray Data, which keeps the order and mends what breaks.

Lines go out in blocks; each owl has two blocks in hand, so that its engine does not run empty between them. Where an
owl dies, Ray Data opens another and gives it the block again; only what comes back is written, once and in order. Which
file it is, and what was answered before, is not known here.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from mplug_owl.engine.batch import Answering, Record, by_owl, open_owl
from mplug_owl.errors import EvalError, OwlError, RequestError
from mplug_owl.serve.cluster import Place, connect, disconnect, quieten

BLOCK = 32  # lines that are asked and given back together
BLOCKS_AT_ONCE = 2


class Answerer:
    """One owl of the pool."""

    def __init__(self, opening: Mapping[str, Any], folder: str, options: Mapping[str, Any]) -> None:
        self.answering = by_owl(open_owl(**opening), Path(folder), dict(options))

    def __call__(self, block: Mapping[str, Any]) -> dict[str, Any]:
        records = [json.dumps(record) for record in self.answering(iter(block["line"]))]
        return {"number": block["number"], "record": records}


def answering(place: Place, opening: Mapping[str, Any], folder: Path, options: Mapping[str, Any]) -> Answering:
    """What `engine.batch.answer_file` takes; `opening` is what each owl of the pool is opened with."""

    def records(lines: Iterator[str]) -> Generator[Record, None, None]:
        connect(place)
        try:
            rows = [{"number": number, "line": line} for number, line in enumerate(lines)]
            yield from in_order(place, rows, (opening, str(folder.absolute()), options))
        finally:
            disconnect()

    return records


def in_order(place: Place, rows: list[dict[str, Any]], asked: tuple[Any, ...]) -> Iterator[Record]:
    import ray.data
    from ray.exceptions import RayError

    quieten()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    few, many = place.autoscale or (place.replicas, place.replicas)
    pool = ray.data.ActorPoolStrategy(
        min_size=few, max_size=many, max_concurrent_calls_per_actor=BLOCKS_AT_ONCE, enable_true_multi_threading=True
    )
    answered = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // BLOCK)).map_batches(
        Answerer, fn_constructor_args=asked, batch_size=BLOCK, compute=pool, num_cpus=place.cpus, num_gpus=place.gpus
    )
    try:
        for number, row in enumerate(answered.iter_rows()):
            if int(row["number"]) != number:
                raise EvalError(
                    f"the answer to line {row['number']} came in place of line {number}'s; nothing of it is kept"
                )
            yield json.loads(row["record"])
    except RayError as error:
        raise RequestError(f"the cluster gave up: {first_cause(error)}") from error


def first_cause(error: BaseException) -> str:
    """What an owl of the pool died of, in one line."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None and cause is not error:
        error = cause
    words = str(error).strip() or type(error).__name__
    return words if isinstance(error, OwlError) else words.splitlines()[-1]
