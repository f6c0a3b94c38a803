"""A connection that does not wait for ever: who says half of a request, or does not read the answer, is left.

uvicorn bounds the size of a request's head and the pause between two requests; it waits without end for the rest of a
head, and for readers. Bodies are the intake's business, for only it knows how long one may take.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mplug_owl.serve.replies import Refusal, written


class Connection(H11Protocol):
    """One connection of a client; give it to uvicorn as `http`."""

    head_seconds = 10.0
    """From the first byte of a request, or from the start of a connection, to the end of the request's head."""
    read_seconds = 30.0
    """Without the client taking a byte of what is ready for it."""
    most = 1000
    """Connections at a time, of all clients together."""

    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Whatever the system does not take at once makes the server wait, and the clock run.
        transport.set_write_buffer_limits(high=0)
        self._expect_head()
        if len(self.connections) > self.most:
            self._turn_away(Refusal(503, "too many connections; try again", code="busy", retry_after=2))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_answering:
            self.cycle.keep_alive = False
            return
        super().data_received(data)
        if self._is_answering:
            self._stop_head_timer()
            self.cycle.keep_alive = self.cycle.keep_alive and not self.conn.trailing_data[0]
            self.flow.resume_reading()
        elif self.cycle is None or self.cycle.response_complete:
            # What comes behind an answer is the rest of a body nobody wanted, or the beginning of the next request.
            self._expect_head()
        else:
            self._stop_head_timer()

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request is being answered.

        What comes meanwhile is not kept: clients do not ask again before they are answered, and where uvicorn stops
        reading until then, it does not hear that they leave.
        """
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_read_timer()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where a request is no HTTP."""
        self._turn_away(Refusal(400, "no HTTP request, or one whose head does not end", code="invalid_http"))

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        self._turn_away(Refusal(408, "no whole request in time; send it again", code="head_timeout"))

    def _turn_away(self, refusal: Refusal) -> None:
        """Say why, if nothing else has been said on this connection that this would disturb, and hang up."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = written(refusal.body)
            headers = {**refusal.headers, "content-type": "application/json", "content-length": str(len(body))}
            head = h11.Response(status_code=refusal.status, headers=[*headers.items(), ("connection", "close")])
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
