"""The README stays true: every command and option it shows exists, every file it names is there."""

import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
SCRIPTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]


def command_of(script: str) -> click.Command:
    """Find the click command behind a console script, through its module."""
    module = import_module(SCRIPTS[script].split(":")[0])
    name = script.replace("-", "_")
    found = [v for v in vars(module).values() if isinstance(v, click.Command)]
    by_name = [c for c in found if (c.name or "").replace("-", "_") in (name, name[10:])]
    return (by_name or found)[0]


def shown_calls() -> list[tuple[str, list[str]]]:
    """Return each call of one of our commands in the README's code blocks, as words."""
    calls = []
    for block in re.findall(r"```sh\n(.*?)```", README, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\||&&", line.split(" #")[0]):
                words = shlex.split(part)
                name = Path(words[0]).name if words else ""
                if name in SCRIPTS:
                    calls.append((name, words[1:]))
    return calls


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_command_has_its_section_and_its_help(script: str) -> None:
    assert f"### {script}\n" in README
    assert command_of(script).help


@pytest.mark.parametrize(("script", "words"), shown_calls())
def test_every_shown_call_is_understood(script: str, words: list[str]) -> None:
    known = {o for p in command_of(script).params for o in (*p.opts, *p.secondary_opts)}
    # A negative number or a lone dash is no option.
    used = {w.split("=")[0] for w in words if re.match(r"--?[a-zA-Z]", w)}
    assert used <= known | {"--help"}, used - known


def test_the_options_named_as_ffmpegs_are_there() -> None:
    paragraph = README[README.index("it is FFmpeg's:") : README.index("What is ours is spelled")]
    known = {o for p in command_of("carfilter").params for o in p.opts}
    named = set(re.findall(r"(?<![\w-])-[a-z_:]+", paragraph))
    assert len(named) > 25
    assert named <= known, named - known


def test_files_and_modules_it_names_exist() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / name).exists(), name
    for name in re.findall(r"`(\w+)\.py`", README):
        assert (REPOSITORY / "carfilter" / f"{name}.py").exists(), name
