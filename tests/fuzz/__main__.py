"""The fuzz job from the command line: `python -m tests.fuzz --help` in the repository's root."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from carfilter.process import prepare_process

    prepare_process()  # before torch is loaded, as in the command
    from fuzz.job import main

    sys.exit(main())
