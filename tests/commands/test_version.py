"""--version says what a report of a bug needs, without loading torch."""

import subprocess
import sys

import av

from carfilter.restore.int8.kinds import usable_kinds


def test_the_version_says_what_runs_here() -> None:
    code = (
        "import sys; from carfilter.commands.restore import main; sys.argv[1:] = ['--version']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts = dict(line.split(": ", 1) for line in said.stdout.splitlines()[1:])
    assert av.ffmpeg_version_info in facts["FFmpeg"]
    assert facts["torch"][0].isdigit()
    assert facts["int8"].removeprefix("on ") in {
        *(kind.label for kind in usable_kinds()), "by torch: nothing is compiled for this CPU",
    }  # fmt: skip
    assert facts["GPU"]
