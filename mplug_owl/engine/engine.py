"""The engine: many conversations on one model at once, each answered as if it were alone.

A thread works as long as there is something to do: admit, encode media, read a chunk of prompts, decode one token of
every answer in one call, hand the tokens out. It knows token ids, media rows and events; no text, no files, no
connections. What goes wrong with one request ends that request alone.
"""

import atexit
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from mplug_owl.engine.admission import Admission
from mplug_owl.engine.features import Features
from mplug_owl.engine.forward import Chunk, Forward, store_for
from mplug_owl.engine.memory import available
from mplug_owl.engine.options import EngineOptions
from mplug_owl.engine.request import Busy, Event, Failure, Finish, Listener, Medium, Request, Token
from mplug_owl.engine.sampling import choose, logprobs
from mplug_owl.engine.scheduler import Scheduler, Slot, Task
from mplug_owl.engine.teams import dismiss_team
from mplug_owl.errors import RequestError
from mplug_owl.models.owl import OwlForConditionalGeneration

MEMORY_SHARE = {"cuda": 0.85, "cpu": 0.5}  # others live on a CPU too
FEATURE_SHARE = 0.1  # of that memory


class Handle:
    """A request that was submitted: its events, and the word to stop it."""

    def __init__(self, task: Task, events: "SimpleQueue[Event] | None") -> None:
        self._task = task
        self._events = events

    def abort(self) -> None:
        """End the answer before its next token; a last event still follows."""
        self._task.aborted = True

    def __iter__(self) -> Iterator[Event]:
        """The events up to the last one, unless a listener gets them. Raises what the request failed of."""
        while self._events is not None:
            event = self._events.get()
            if isinstance(event, Failure):
                raise event.error
            yield event
            if isinstance(event, Finish):
                return


class Engine:
    """Answers requests for one model, on the device where the model is."""

    def __init__(self, model: OwlForConditionalGeneration, options: EngineOptions | None = None) -> None:
        self.model = model
        self.options = options or EngineOptions()
        self.counts: Counter[str] = Counter()
        """What was done so far: forwards, positions, tokens, pictures, ends of requests by reason."""
        self._inbox: deque[Task] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._open()
        _OPEN.add(self)

    def _open(self) -> None:
        """Everything that depends on the weights and on where they are."""
        options, cache = self.options, store_for(self.model)
        self._weights = self._version()
        self.forward = Forward(self.model, cache, options.decode)
        memory = options.memory
        if memory is None:
            memory = int(MEMORY_SHARE.get(self.model.device.type, 0.5) * available(self.model.device))
        kept = int(FEATURE_SHARE * memory)
        self.features = Features(kept)
        self.scheduler = Scheduler(cache, memory - kept, options.slots)
        limit = options.context or getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.admission = Admission(
            self.model, self.forward.alpha, limit, self.scheduler.positions, cache.bytes_per_position
        )

    # ---- from any thread -------------------------------------------------------------------------

    def submit(self, request: Request, listener: Listener | None = None) -> Handle:
        """Take a request in; its events go to `listener`, or can be had from the handle.

        Raises:
            Busy: the queue is full.
            RequestError: it contradicts itself, or can never fit.
        """
        return self.submit_all([(request, listener)])[0]

    def submit_all(self, requests: Sequence[tuple[Request, Listener | None]]) -> list[Handle]:
        """Take several in, all before the next step: who shares a step with whom is then no matter of chance."""
        handles, tasks = list[Handle](), list[Task]()
        for request, listener in requests:
            events: SimpleQueue[Event] | None = None if listener else SimpleQueue()
            tasks.append(self.admission.task(request, listener or events.put))  # type: ignore[union-attr]
            handles.append(Handle(tasks[-1], events))
        with self._lock:
            if self._closed:
                raise RequestError("the engine is closed; open the model again")
            if self.waiting + len(tasks) > self.options.queue:
                raise Busy(f"{self.waiting} requests wait, of {self.options.queue} that may; try again later")
            self._inbox.extend(tasks)
            if threading.current_thread() is not self._thread:
                dismiss_team()
            if self._thread is None:
                # Ends when there is nothing left to do, so nobody needs to close an engine.
                self._thread = threading.Thread(target=self._work, name="owl-engine", daemon=True)
                self._thread.start()
        return handles

    def close(self) -> None:
        """End whatever runs or waits; nothing is answered any more."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    @property
    def running(self) -> int:
        return self.scheduler.active

    @property
    def waiting(self) -> int:
        return len(self._inbox) + len(self.scheduler.queue)

    # ---- the loop --------------------------------------------------------------------------------

    def _work(self) -> None:
        renewed = False
        with torch.inference_mode():
            while True:
                with self._lock:
                    self.scheduler.queue.extend(self._inbox)
                    self._inbox.clear()
                    if self.scheduler.idle:
                        self._thread = None
                        return
                try:
                    if self._closed:
                        self._fail_all(RequestError("the engine was closed before the answer ended"))
                    if not renewed:
                        self._renew()
                        renewed = True
                    self.step()
                except Exception as error:  # a fault of ours, or no memory at all: whoever waits must hear of it
                    self._fail_all(error)

    def _renew(self) -> None:
        """What was computed with other weights is void."""
        if self._version() != self._weights:
            waiting = self.scheduler.queue
            self._open()
            self.scheduler.queue = waiting

    def step(self) -> None:
        """Everything up to the next token of each answer."""
        self._drop_aborted()
        self.scheduler.admit()
        self._encode()
        self._prefill()
        self._decode()

    def _version(self) -> list[tuple[int, int, int]]:
        """What changes where weights are replaced or trained on."""
        weights = self.model.parameters()
        return [(id(w), w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]

    def _drop_aborted(self) -> None:
        queue = self.scheduler.queue
        for task in [task for task in queue if task.aborted]:
            queue.remove(task)
            self._end(task, "abort")
        for slot in self._slots(0, self.scheduler.active):
            if slot.task is not None and slot.task.aborted:
                self._finish(slot, "abort")

    def _slots(self, first: int, last: int) -> list[Slot]:
        return self.scheduler.slots[first:last]

    def _encode(self) -> None:
        """Rows for the media of prompts that are next to be read, a few pictures at a time."""
        wanted: dict[bytes, Medium] = {}
        tokens, each = 0, self.model.config.vision_config.num_tokens  # type: ignore[union-attr]
        for slot in self._slots(self.scheduler.answering, self.scheduler.active):
            task = _task_of(slot)
            for number, medium in task.missing(slot.length):
                rows = self.features.get(medium.key) if medium.rows is None else medium.rows
                if rows is not None:
                    task.rows[number] = rows
                    self.counts["media_reused"] += 1
                elif medium.key not in wanted:
                    cost = each * (1 if medium.kind == "image" else len(medium.pixels))  # type: ignore[arg-type]
                    if tokens and tokens + cost > self.options.media:
                        return self._encode_media(wanted)
                    tokens += cost
                    wanted[medium.key] = medium
        return self._encode_media(wanted)

    def _encode_media(self, wanted: dict[bytes, Medium]) -> None:
        for kind in ("image", "video"):
            media = [medium for medium in wanted.values() if medium.kind == kind]
            done, errors = _each_alone(media, self.forward.encode)
            rows = {media[i].key: made for places, found in done for i, made in zip(places, found, strict=True)}
            faults = {media[place].key: error for place, error in errors.items()}
            self.counts["media_encoded"] += len(rows)
            for key, made in rows.items():
                self.features.put(key, made)
            for slot in self._slots(self.scheduler.answering, self.scheduler.active):
                task = _task_of(slot)
                for number, medium in task.missing(slot.length):
                    if medium.key in rows:
                        task.rows[number] = rows[medium.key]
                    elif medium.key in faults:
                        self._fail(slot, faults[medium.key])
                        break

    def _prefill(self) -> None:
        """Read the next chunk of prompts: of one long prompt, or of several short ones."""
        first, chunks, width = self.scheduler.answering, list[Chunk](), 0
        slots = self._slots(first, self.scheduler.active)
        for slot in slots:
            task = _task_of(slot)
            if task.missing(slot.length):
                break
            ids = task.request.ids[slot.length : slot.length + self.options.chunk]
            width = max(width, len(ids))
            if chunks and (len(chunks) + 1) * width > self.options.chunk:
                break
            reach = slot.length + len(ids)
            visual = [(task.request.media[number].start, rows) for number, rows in task.rows.items()]
            visual = [(at, rows) for at, rows in visual if at < reach and at + len(rows) > slot.length]
            chunks.append(Chunk(ids, slot.length, visual, task.alpha, reach == len(task.request.ids)))
        if not chunks:
            return
        self.counts["prefill_forwards"] += 1

        def run(rows: Sequence[int]) -> list[Tensor | None]:
            """The scores of each prompt that ends here."""
            part = chunks[rows[0] : rows[-1] + 1]
            scores = self.forward.prefill(first + rows[0], part)
            ends = iter(() if scores is None else scores)
            return [next(ends) if chunk.last else None for chunk in part]

        done, errors = _each_alone(range(len(chunks)), run)
        answering: list[Slot] = []
        answers: list[Tensor] = []
        ends = {place: scores for places, found in done for place, scores in zip(places, found, strict=True)}
        for place in ends:
            slots[place].length += len(chunks[place].ids)  # of all before any moves
            self.counts["prefill_positions"] += len(chunks[place].ids)
        for place, scores in ends.items():
            if scores is not None:
                self.scheduler.promote(slots[place])
                answering.append(slots[place])
                answers.append(scores)
        for place, error in errors.items():
            self._fail(slots[place], error)
        if answering:
            self._accept(answering, torch.stack(answers))

    def _decode(self) -> None:
        """One more token of every answer."""
        slots = self._slots(0, self.scheduler.answering)
        if not slots:
            return
        self.counts["decode_forwards"] += 1

        def run(rows: Sequence[int]) -> Tensor:
            some = [slots[row] for row in rows]
            ids, lengths = [slot.ids[slot.length] for slot in some], [slot.length for slot in some]
            return self.forward.decode(rows[0], ids, lengths, [slot.alpha for slot in some])

        done, errors = _each_alone(range(len(slots)), run)
        for place in (place for places, _ in done for place in places):
            slots[place].length += 1  # of all before any moves
        for places, scores in done:
            self._accept([slots[place] for place in places], scores)
        for place, error in errors.items():
            self._fail(slots[place], error)

    # ---- tokens and ends -------------------------------------------------------------------------

    def _accept(self, slots: Sequence[Slot], scores: Tensor) -> None:
        """Choose the next token of each slot from its scores, hand it out, and see who is done."""
        tasks = [_task_of(slot) for slot in slots]
        finite = scores.sum(-1).isfinite().tolist()
        wishes = [task.request.logprobs for task in tasks]
        likely = [None if count is None else logprobs(row, count) for count, row in zip(wishes, scores, strict=True)]
        chosen = choose(scores, [task.draw for task in tasks])
        for slot, id, sound, logs in zip(slots, chosen, finite, likely, strict=True):
            if sound:
                self._hand_out(slot, Token(id) if logs is None else Token(id, float(logs[0][id]), logs[1]))
            else:
                where = f"after {slot.length} positions"
                self._fail(slot, RequestError(f"the model's scores are not finite {where}; try another dtype"))

    def _hand_out(self, slot: Slot, token: Token) -> None:
        task = _task_of(slot)
        task.generated += 1
        self.counts["tokens"] += 1
        if token.id in task.stop_ids:
            return self._finish(slot, "stop")
        task.draw.note(token.id)
        slot.ids.append(token.id)
        try:
            ended = task.listener(token) is True
        except Exception as error:
            return self._fail(slot, error)
        if ended or task.generated >= task.most:
            self._finish(slot, "stop" if ended else "length")
        return None

    def _finish(self, slot: Slot, reason: str) -> None:
        task = _task_of(slot)
        self.scheduler.release(slot)
        self._end(task, reason)

    def _end(self, task: Task, reason: str) -> None:
        self.counts[f"ended_{reason}"] += 1
        self.counts["positions_reused"] += task.reused
        self._tell(task, Finish(reason, len(task.request.ids), task.reused, task.generated))

    def _fail(self, slot: Slot, error: Exception) -> None:
        task = _task_of(slot)
        index = self.scheduler.slots.index(slot)
        # Numbers that are not finite would spoil whoever takes the slot next, even masked.
        self.scheduler.cache.clear(index)
        slot.length = 0
        self.scheduler.release(slot)
        self.counts["ended_failure"] += 1
        self._tell(task, Failure(error))

    def _fail_all(self, error: Exception) -> None:
        for task in self.scheduler.reset():
            self.counts["ended_failure"] += 1
            self._tell(task, Failure(error))

    @staticmethod
    def _tell(task: Task, event: Event) -> None:
        with suppress(Exception):  # the request is over, whatever its listener makes of that
            task.listener(event)


# A thread that still computes while the interpreter shuts down would take the process with it.
_OPEN: "weakref.WeakSet[Engine]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_OPEN):
        engine.close()


def _task_of(slot: Slot) -> Task:
    assert slot.task is not None
    return slot.task


def _each_alone(
    items: Sequence[Any], run: Callable[[Any], Any]
) -> tuple[list[tuple[Sequence[int], Any]], dict[int, Exception]]:
    """What `run` makes of all items at once; where that fails, of each alone, so that one fault stays one.

    Returns the places that went together with what became of them, and the errors by place.
    """
    everything = range(len(items))
    if not items:
        return [], {}
    try:
        return [(everything, run(items))], {}
    except Exception as error:
        if len(items) == 1:
            return [], {0: error}
    done, errors = list[tuple[Sequence[int], Any]](), dict[int, Exception]()
    for place in everything:
        try:
            done.append(([place], run(items[place : place + 1])))
        except Exception as error:
            errors[place] = error
    return done, errors
