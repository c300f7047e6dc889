"""The manuals stay true: what they show and link to exists, and nothing stands twice."""

import re
import shlex
import tomllib
from collections import Counter
from importlib import import_module
from pathlib import Path

import click
import pytest

REPOSITORY = Path(__file__).parent.parent
MANUALS = {
    path: path.read_text()
    for path in (REPOSITORY / "README.md", *sorted(REPOSITORY.glob("carfilter/*/README.md")))
}
EVERYTHING = "\n\n".join(MANUALS.values())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
SCRIPTS = PROJECT["scripts"]
BY_MODULE = {target.split(":")[0]: script for script, target in SCRIPTS.items()}
LONG = 36  # characters of a sentence that nobody writes twice by chance

each_manual = pytest.mark.parametrize(
    "manual", MANUALS, ids=lambda path: str(path.relative_to(REPOSITORY))
)


def command_of(script: str) -> click.Command:
    """Find the click command behind a console script, through its module."""
    module = import_module(SCRIPTS[script].split(":")[0])
    name = script.replace("-", "_")
    found = [v for v in vars(module).values() if isinstance(v, click.Command)]
    by_name = [c for c in found if (c.name or "").replace("-", "_") in (name, name[10:])]
    return (by_name or found)[0]


def options_of(script: str) -> set[str]:
    parameters = command_of(script).params
    return {o for p in parameters for o in (*p.opts, *p.secondary_opts)} | {"--help"}


def named_options(words: list[str]) -> set[str]:
    """Return the options among words; a negative number or a lone dash is none."""
    return {w.split("=")[0] for w in words if re.match(r"--?[a-zA-Z]", w)}


def shown_lines() -> list[str]:
    """Return the lines of all shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", EVERYTHING, re.S)
    lines = [line for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    return [shown for line in lines if (shown := line.split(" #")[0].strip())]


def shown_calls() -> list[tuple[str, list[str]]]:
    """Return each call of one of our commands in the shell blocks, as words."""
    calls = []
    for line in shown_lines():
        for part in re.split(r"\||&&", line):
            words = shlex.split(part)
            if words[0] == "torchrun":
                words = words[words.index("-m") + 1 :]
            name = BY_MODULE.get(words[0], Path(words[0]).name)
            if name in SCRIPTS:
                calls.append((name, words[1:]))
    return calls


def section_of(script: str) -> str:
    """Return what stands under a command's heading."""
    return re.split(r"^##", EVERYTHING.split(f"\n### {script}\n")[1], maxsplit=1, flags=re.M)[0]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def anchors(text: str) -> set[str]:
    """Return what GitHub makes of the headings for links to them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_front_door_is_short_and_leads_to_every_manual() -> None:
    front, *others = MANUALS
    assert len(MANUALS[front].splitlines()) <= 200
    linked = {front.parent / name for name in re.findall(r"\]\(([^)#:]+)", MANUALS[front])}
    assert set(others) <= linked, set(others) - linked


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_command_has_its_help_and_its_section_in_one_manual(script: str) -> None:
    assert EVERYTHING.count(f"\n### {script}\n") == 1
    assert command_of(script).help


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_option_that_a_section_explains_exists(script: str) -> None:
    spans = re.findall(r"`([^`\n]+)`", prose(section_of(script)))
    named = {w for w in named_options(" ".join(spans).split()) if w.startswith("--")}
    assert named
    assert named <= options_of(script), named - options_of(script)


@pytest.mark.parametrize(("script", "words"), shown_calls())
def test_every_shown_call_is_understood(script: str, words: list[str]) -> None:
    used = named_options(words)
    assert used <= options_of(script), used - options_of(script)


def test_the_options_named_as_ffmpegs_are_there() -> None:
    start, end = EVERYTHING.index("it is FFmpeg's:"), EVERYTHING.index("What is ours is spelled")
    named = set(re.findall(r"(?<![\w-])-[a-z_:]+", EVERYTHING[start:end]))
    assert len(named) > 25
    assert named <= options_of("carfilter"), named - options_of("carfilter")


def test_the_torch_that_is_shown_to_be_installed_is_one_that_is_taken() -> None:
    (taken,) = [one for one in PROJECT["dependencies"] if one.startswith("torch")]
    shown = re.findall(r'pip install "?torch([^" ]*)', EVERYTHING)
    assert shown
    assert all(below and below in taken for below in shown), shown


@each_manual
def test_no_two_lines_export_to_the_same_file(manual: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", MANUALS[manual], re.S)
    for block in blocks:
        written = re.findall(r"^carfilter-export \S+ (\S+)", block, re.M)
        assert len(set(written)) == len(written), written


@each_manual
def test_its_links_lead_somewhere(manual: Path) -> None:
    for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", MANUALS[manual]):
        linked = manual.parent / name if name else manual
        assert linked.exists(), name
        assert not anchor or anchor in anchors(linked.read_text()), f"{name}#{anchor}"


@each_manual
def test_the_modules_it_names_exist(manual: Path) -> None:
    for name in re.findall(r"`([\w/.]+\.(?:py|c|h|sh))`", MANUALS[manual]):
        assert (manual.parent / name).exists(), name
    for name in re.findall(r"-m ((?:carfilter|tests)[\w.]*)", MANUALS[manual]):
        path = REPOSITORY / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), name


def test_nothing_stands_twice() -> None:
    text = re.sub(r"^> ", "", prose(EVERYTHING), flags=re.M)
    paragraphs = re.split(r"\n\s*\n|\n(?=[*|#])", text)
    texts = [" ".join(paragraph.split()) for paragraph in paragraphs]
    sentences = [s for t in texts for s in re.split(r"(?<=[.;:]) |\|", t) if len(s) >= LONG]
    twice = [t for t, n in Counter(sentences + shown_lines()).items() if n > 1]
    assert not twice
