"""Results as rows: printed as soon as they are measured, kept as JSON, held against the bars."""

from typing import Any

Row = dict[str, Any]


def bar(what: str, measured: float, wanted: float, *, most: bool = False) -> Row:
    """Hold a measured value against what it has to reach, or with `most` must not pass."""
    met = measured <= wanted if most else measured >= wanted
    sign = "<=" if most else ">="
    return {"part": "bar", "what": what, "measured": measured, "wanted": f"{sign} {wanted:g}",
            "met": met}  # fmt: skip


def show(row: Row) -> None:
    """Print a row as words and numbers."""
    parts = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
    print(", ".join(parts)[len("part ") :], flush=True)


def size_name(size: tuple[int, int]) -> str:
    """Return height and width as people write them: 912x512."""
    return f"{size[1]}x{size[0]}"
