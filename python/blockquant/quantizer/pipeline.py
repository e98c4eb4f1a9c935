"""Reading, encoding and writing at the same time: three threads and two short queues."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from blockquant import gguf
from blockquant.quantizer.journal import Journal
from blockquant.quantizer.output import Output
from blockquant.quantizer.steps import Encoder, Step, Tensor, raw_bytes, rows_of

T = TypeVar("T")

# Pieces that are read ahead of the encoder, and that wait to be written.
_AHEAD = 2
# Pieces that the disk is asked for ahead of those.
_ASKED = 4
# Seconds after which the disk is asked to hold what is written, and the journal to say so.
CHECKPOINT = 30.0
_PAGE = 4096


class _ClosedError(Exception):
    """The other side has given up."""


class _Channel(Generic[T]):
    """A queue of at most `limit` items between two threads that either of them can close."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_finished = False
        self._is_closed = False

    def put(self, item: T) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._items) < self._limit)
            if self._is_closed:
                raise _ClosedError
            self._items.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """No more items come; those in the queue are still taken."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Give up: items in the queue are dropped."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._is_finished or self._is_closed)
                if self._is_closed or not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class _Worker(threading.Thread):
    """A thread that keeps its exception, and closes its channels when it has one."""

    def __init__(self, name: str, work: Callable[[], None], *channels: _Channel[Any]) -> None:
        super().__init__(name=f"blockquant-{name}", daemon=True)
        self._work, self._channels = work, channels
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except _ClosedError:
            pass
        except BaseException as error:
            self.error = error
            for channel in self._channels:
                channel.close()


class Pipeline:
    """One run over the steps from `first` on. `done` is called with each step once it is encoded."""

    def __init__(
        self,
        file: gguf.GGUFFile,
        steps: Callable[[], Iterator[Step]],
        output: Output,
        journal: Journal,
        threads: int | None,
        done: Callable[[Step], None],
    ) -> None:
        self._file, self._steps, self._output, self._journal = file, steps, output, journal
        self._first = journal.steps
        self._encoder, self._done = Encoder(threads), done
        self._ready: _Channel[tuple[Step, Tensor]] = _Channel(_AHEAD)
        self._encoded: _Channel[tuple[Step, np.ndarray[Any, Any], np.ndarray[Any, Any] | None]] = _Channel(_AHEAD)
        # A piece is encoded while one is written and the others wait.
        self._buffers: _Channel[np.ndarray[Any, Any]] = _Channel(_AHEAD + 2)
        for _ in range(_AHEAD + 2):
            self._buffers.put(np.empty(0, np.uint8))
        self._stopped = threading.Event()

    def run(self) -> None:
        """Do all steps. Raises what the reading, encoding or writing raised, after all threads have ended."""
        reader = _Worker("reader", self._read, self._ready)
        writer = _Worker("writer", self._write, self._encoded, self._buffers)
        syncer = _Worker("syncer", self._sync)
        workers = (reader, writer, syncer)
        for worker in workers:
            worker.start()
        try:
            self._encode()
        except _ClosedError:
            pass
        finally:
            # What is encoded is written even when something went wrong: another run need not do it again.
            self._encoded.finish()
            writer.join()
            self._stopped.set()
            self._ready.close()
            for worker in workers:
                worker.join()
        for worker in workers:
            if worker.error is not None:
                raise worker.error

    def _read(self) -> None:
        """Bring the rows of each step into memory before the encoder wants them."""
        name, tensor = None, None
        for step in self._asked_for():
            if step.name != name or tensor is None:
                name, tensor = step.name, self._file.tensors[step.name]
            rows = rows_of(tensor, step)
            if not step.is_copy:
                raw_bytes(rows)[::_PAGE].max(initial=0)  # waits for the disk here, without the interpreter's lock
            self._ready.put((step, rows))
        self._ready.finish()

    def _asked_for(self) -> Iterator[Step]:
        """The steps that are left, each when the disk has been asked for it and the next few."""
        asked: deque[Step] = deque()
        for step in islice(self._steps(), self._first, None):
            self._file.prefetch(step.name, *step.source)
            asked.append(step)
            if len(asked) > _ASKED:
                yield asked.popleft()
        yield from asked

    def _encode(self) -> None:
        free = iter(self._buffers)
        for step, rows in self._ready:
            buffer = None
            if step.is_copy:
                encoded = self._encoder.encode(step, rows, np.empty(0, np.uint8))
            else:
                buffer = next(free, None)
                if buffer is None:
                    raise _ClosedError
                if buffer.size < step.nbytes:
                    buffer = np.empty(step.nbytes, np.uint8)
                encoded = self._encoder.encode(step, rows, buffer)
            self._encoded.put((step, encoded, buffer))
            self._done(step)

    def _write(self) -> None:
        steps = self._first
        for step, encoded, buffer in self._encoded:
            self._output.write(step.file, step.at, encoded)
            steps += 1
            self._journal.wrote(steps)
            self._file.release(step.name, *step.source)
            if buffer is not None:
                self._buffers.put(buffer)

    def _sync(self) -> None:
        while not self._stopped.wait(CHECKPOINT):
            steps = self._journal.steps
            self._output.sync()
            self._journal.synced(steps)
