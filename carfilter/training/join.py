"""python -m carfilter.training.join OUT.pt MODEL.pt NAME=OTHER.pt...: several networks in one file.

NAME says for what another network was trained: past (past frames alone), hevc or mjpeg. The filter
takes it there, and the first one elsewhere.
"""

import sys
from pathlib import Path

from carfilter.errors import CarfilterError
from carfilter.restore.weights import SUITS, Model, load_weights, save_weights


def join(out: Path, first: str, others: dict[str, str]) -> Model:
    """Write a checkpoint of a network and, by the names of SUITS, others of its kind.

    Raises:
        CarfilterError: a name that is none of SUITS, no such weights, or networks of two kinds.
    """
    if unknown := sorted(set(others) - set(SUITS)):
        raise CarfilterError(f"{unknown[0]}: is none of {', '.join(SUITS)}; name one of these")
    model = load_weights(first)
    found = {name: load_weights(weights) for name, weights in others.items()}
    for name, other in found.items():
        if (other.network.name, other.references) != (model.network.name, model.references):
            raise CarfilterError(
                f"{others[name]}: a {other.network.name} network, which cannot stand in for a"
                f" {model.network.name} network; give one trained with --model {model.network.name}"
            )
    kept = {**model.others, **found}
    save_weights(out, model.network, model.training, model.scores, model.int8_ranges, kept)
    return load_weights(out)


def main() -> None:
    """Do so, and say what OUT holds."""
    try:
        out, first, *named = sys.argv[1:]
        others = dict(one.split("=", 1) for one in named)
    except ValueError:
        sys.exit("usage: python -m carfilter.training.join OUT.pt MODEL.pt NAME=OTHER.pt...")
    try:
        made = join(Path(out), first, others)
    except CarfilterError as error:
        sys.exit(str(error))
    names = ", ".join(made.others) or "nothing else"
    print(f"{out}: {first} and {names}; sha256 {made.sha256}")  # noqa: T201


if __name__ == "__main__":
    main()
