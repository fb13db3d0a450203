"""Work that is done beside the training, such as saving: one thing at a time, none of it lost."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

import jax

from jaxcnn.text import complain


class Background:
    """A thread that does what it is given; what goes wrong there is raised here, at the next call.

    Of several processes that train together each does everything at once, in the order in which
    all of them do it. Leaving it as a context manager waits for what is being done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "jaxcnn-background")
        self._given: deque[Future[None]] = deque()

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return bool(self._given) and not self._given[-1].done()

    def start(self, work: Callable[[], None]) -> "Future[None]":
        """Has something done, once what was started before is done; returns what tells when."""
        if jax.process_count() == 1:
            self._given.append(self._thread.submit(work))
            return self._given[-1]
        work()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def check(self) -> None:
        """Raises what has gone wrong, if something has."""
        while self._given and self._given[0].done():
            self._given.popleft().result()

    def settle(self) -> None:
        """Returns when everything is done; what went wrong is raised later."""
        wait(self._given)

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Waits; where something else has gone wrong already, it tells of what did here."""
        try:
            self.settle()
            self.check()
        except Exception as fault:
            if error is None:
                raise
            complain(str(fault))
        finally:
            self._thread.shutdown()
