"""python -m carfilter.restore.int8 MODEL.pt...: write checkpoints anew, with what int8 needs."""

import sys
from pathlib import Path

from carfilter.errors import CarfilterError
from carfilter.restore.weights import load_weights, save_weights


def main() -> None:
    """Do so with each of them that was calibrated; its weights come out in half precision."""
    for path in map(Path, sys.argv[1:]):
        try:
            model = load_weights(path)
            save_weights(
                path, model.network, model.training, model.scores, model.int8_ranges, model.others
            )
            made = load_weights(path)
        except CarfilterError as error:
            sys.exit(str(error))
        has = "has its int8 form" if made.is_ready else "has no int8 form"
        print(f"{path}: {has}; sha256 {made.sha256}")  # noqa: T201


if __name__ == "__main__":
    main()
