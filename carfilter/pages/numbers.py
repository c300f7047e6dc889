"""Sizes, rates and times as people read them."""


def size_text(count: int) -> str:
    """Return a number of bytes as 12 B, 3.4 MB or 5.6 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def rate_text(rate: float) -> str:
    """Return bits a second as 39 kb/s or 4.2 Mb/s."""
    return f"{rate / 1e6:.1f} Mb/s" if rate >= 1e6 else f"{rate / 1e3:.0f} kb/s"


def clock(seconds: float) -> str:
    """Return a place in time as 0:07 or 1:02:03, with a minus before zero."""
    whole, sign = abs(round(seconds)), "-" if round(seconds) < 0 else ""
    hours, minutes = whole // 3600, whole % 3600 // 60
    rest = f"{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
    return f"{sign}{hours}:{rest}" if hours else f"{sign}{rest}"


def duration_text(seconds: float) -> str:
    """Return how long something takes as 12 s, 3:04 min or 5:06 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
