"""Training packs for the tests, made as a user makes them."""

from pathlib import Path

from click.testing import CliRunner

from carfilter.commands.degrade import main


def make_packs(clip: Path, crfs: str) -> Path:
    """Return the folder of a clip's packs at some CRFs, "30,44" for instance."""
    out = clip.parent / "out"
    result = CliRunner().invoke(main, [str(clip), str(out), "--variants", "plain", "-crf", crfs])
    assert result.exit_code == 0, result.stderr
    return out / "packs"
