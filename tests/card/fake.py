"""torch.cuda without a card: streams that do their work late, in any order that events allow.

Tensors lie in the host's memory. What is done within torch.cuda.stream() is put off, operation by
operation, until somebody waits for it; which stream goes on first is drawn. So what is read, or
written again, without waiting for it gives wrong pictures. Python sees tensors of the right shape
meanwhile, but what it reads in them is refused: on a card it would have to wait.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from carfilter.restore import devices, slots
from carfilter.restore.hand import hand

_READS = {torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}


class Card:
    """What the fake card does and has seen."""

    def __init__(self, seed: int, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.streams: list[Stream] = []
        self.convolutions: list[int] = []  # idents of the threads that called for one
        self.waits: list[str] = []  # what made the host wait for the card, other than an event
        self.fail: Callable[[Any, tuple[Any, ...]], None] = lambda _func, _args: None
        self._random = random.Random(seed)
        self._going_on = threading.Lock()  # stages wait for the card in threads of their own
        self._here = threading.local()

    @property
    def current(self) -> "Stream | None":
        return getattr(self._here, "stream", None)

    @contextmanager
    def within(self, stream: "Stream") -> Iterator[None]:
        before, self._here.stream = self.current, stream
        try:
            yield
        finally:
            self._here.stream = before

    def run_until(self, done: Callable[[], bool]) -> None:
        """Go on with any stream that can, one operation at a time."""
        with _disable_current_modes(), torch.inference_mode():
            while self._go_on(done):
                pass

    def _go_on(self, done: Callable[[], bool]) -> bool:
        with self._going_on:
            if done():
                return False
            able = [stream for stream in self.streams if stream.is_able()]
            assert able, "streams wait for each other"
            self._random.choice(able).step()
            return True

    @property
    def copied(self) -> int:
        """Bytes that crossed the bus, in either direction."""
        return sum(stream.copied for stream in self.streams)

    @property
    def left(self) -> int:
        """Operations that nobody has waited for."""
        return sum(len(stream.queue) for stream in self.streams)


class Event:
    """torch.cuda.Event."""

    card: Card

    def __init__(self) -> None:
        self.recorded = self.reached = 0

    def record(self, stream: "Stream") -> None:
        self.recorded += 1
        stream.queue.append((self, self.recorded, None))

    def synchronize(self) -> None:
        assert self.recorded, "an event that nobody recorded is waited for"
        self.card.run_until(lambda: self.reached >= self.recorded)


class Stream:
    """torch.cuda.Stream; of its queue, an event is to be reached, or waited for, or work done."""

    card: Card

    def __init__(self, _device: object = None) -> None:
        self.queue: deque[tuple[Event | None, int, Callable[[], object] | None]] = deque()
        self.copied = 0  # bytes, without blocking
        self.card.streams.append(self)

    def wait_event(self, event: Event) -> None:
        assert event.recorded, "an event that nobody recorded is waited for"
        self.queue.append((event, -event.recorded, None))

    def synchronize(self) -> None:
        self.card.run_until(lambda: not self.queue)

    def is_able(self) -> bool:
        if not self.queue:
            return False
        event, number, _ = self.queue[0]
        return event is None or number > 0 or event.reached >= -number

    def step(self) -> None:
        event, number, work = self.queue.popleft()
        if work is not None:
            work()
        elif event is not None and number > 0:
            event.reached = max(event.reached, number)


class _OnTheHost(TorchFunctionMode):
    """Puts on the host what is asked for on the card."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func is torch.Tensor.pin_memory:
            return args[0].clone()
        if self.card.current is not None:
            assert func not in _READS, f"{func.__name__} waits for the card"
        self.card.fail(func, args)
        given = kwargs or {}
        crosses = func in (torch.Tensor.copy_, torch.Tensor.to)
        if crosses and given.get("non_blocking") and self.card.current:
            self.card.current.copied += args[0].nbytes
        if _waits(func, args, given):
            self.card.waits.append(func.__name__)
        if func in (torch.conv2d, torch.nn.functional.conv2d):
            self.card.convolutions.append(threading.get_ident())
        kwargs = {key: _host(value) for key, value in (kwargs or {}).items()}
        kwargs.pop("pin_memory", None)
        return func(*map(_host, args), **kwargs)


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    to_card = any(_is_card(value) for value in (*args, *kwargs.values()))
    if func is torch.Tensor.to:
        return to_card and not kwargs.get("non_blocking")
    return to_card and func in (torch.tensor, torch.as_tensor)


def _is_card(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


def _host(value: Any) -> Any:
    named = isinstance(value, str) and value == "cuda"
    return torch.device("cpu") if named or _is_card(value) else value


class _Late(TorchDispatchMode):
    """Puts off what is done within a stream."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs, stream = kwargs or {}, self.card.current
        if func is torch.ops.aten._local_scalar_dense.default:
            self.card.waits.append("a value was read")
        if stream is None:
            return func(*args, **kwargs)
        assert func is not torch.ops.aten._local_scalar_dense.default, "reading waits for the card"
        schema = func._schema
        written = [a for a in schema.arguments if a.alias_info and a.alias_info.is_write]
        if written:
            stream.queue.append((None, 0, lambda: func(*args, **kwargs)))
            return kwargs["out"] if "out" in kwargs else args[0]
        made = func(*args, **kwargs)  # of values that are not there yet: for its shape
        if not _shares_memory(made, args):  # schemas call views what may be copies
            stream.queue.append((None, 0, lambda: _refill(made, func(*args, **kwargs))))
        return made


def _refill(made: Any, values: Any) -> None:
    for old, new in zip(_listed(made), _listed(values), strict=True):
        old.copy_(new)


def _shares_memory(made: Any, args: tuple[Any, ...]) -> bool:
    given = [x for arg in args for x in _listed(arg) if isinstance(x, torch.Tensor)]
    places = {x.untyped_storage().data_ptr() for x in given}
    return any(x.untyped_storage().data_ptr() in places for x in _listed(made))


def _listed(made: Any) -> list[Any]:
    return list(made) if isinstance(made, tuple | list) else [made]


def synchronize(card: Card) -> None:
    """torch.cuda.synchronize()."""
    card.waits.append("synchronize")
    card.run_until(lambda: not card.left)


@contextmanager
def fake_card(
    monkeypatch: pytest.MonkeyPatch, seed: int = 0, capability: tuple[int, int] = (8, 0)
) -> Iterator[Card]:
    """Let torch have a card, in this thread and all that begin meanwhile.

    Args:
        seed: of the order in which streams go on.
    """
    card = Card(seed, capability)
    stream_type, event_type = (type(k.__name__, (k,), {"card": card}) for k in (Stream, Event))
    default = stream_type()
    have: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda _=None: "a card that is none",
        "get_device_capability": lambda _=None: card.capability,
        "is_bf16_supported": lambda *_: True,  # as it says of a Turing card
        "Stream": stream_type,
        "Event": event_type,
        "stream": card.within,
        "current_stream": lambda _=None: card.current or default,
        "synchronize": lambda _=None: synchronize(card),
        "empty_cache": lambda: None,
    }
    for name, value in have.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(slots, "_device_streams", {})
    run = threading.Thread.run

    def run_with_card(thread: threading.Thread) -> None:
        with _OnTheHost(card), _Late(card):
            run(thread)

    monkeypatch.setattr(threading.Thread, "run", run_with_card)
    caches = (hand, devices.why_unusable, devices._has_working_card)
    with ExitStack() as ended:
        for cache in caches:
            cache.cache_clear()
            ended.callback(cache.cache_clear)
        with _OnTheHost(card), _Late(card):
            yield card
