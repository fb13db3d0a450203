"""Work that is done beside the training, such as saving: one thing at a time, none of it lost."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._running: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._running is not None and not self._running.done()

    def start(self, work: Callable[[], None]) -> None:
        """Has something done, once what was started before is done."""
        self.wait()
        if jax.process_count() > 1:
            work()
        else:
            self._running = self._thread.submit(work)

    def check(self) -> None:
        """Raises what went wrong, if something has."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Returns when everything is done, or raises what went wrong."""
        running, self._running = self._running, None
        if running is not None:
            try:
                running.result()
            except KeyboardInterrupt:  # is still being done
                self._running = running
                raise

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Waits; where something else has gone wrong already, it tells of what did here."""
        try:
            self.wait()
        except Exception as fault:
            if error is None:
                raise
            complain(str(fault))
        finally:
            self._thread.shutdown()
