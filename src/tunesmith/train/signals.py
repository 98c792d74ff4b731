"""Ctrl-C and SIGTERM as a wish to stop after this step; a second one ends at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


class Wish:
    """signal: the number of the first signal that came, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_wish() -> Iterator[Wish]:
    """Collects SIGINT and SIGTERM while it is open; the handlers that were there before come back after."""
    wish = Wish()
    if current_thread() is not main_thread():  # Python allows handlers only there
        yield wish
        return
    before = {number: signal.signal(number, wish.take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
