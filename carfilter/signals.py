"""What the commands do on SIGINT and SIGTERM."""

import os
import signal
import threading


def stop_on_signals() -> tuple[threading.Event, list[int]]:
    """Set the event on the first SIGINT or SIGTERM, and end the process at once on the second.

    Returns the event, and the list into which the number of the first signal goes.
    """
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if received:
            os._exit(128 + number)  # no harm: a result has its name only when it is complete
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop, received
