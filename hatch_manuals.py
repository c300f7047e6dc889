"""Man pages and completions of the commands, made from their options when a wheel is built."""

import sys
from importlib import import_module
from inspect import cleandoc
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

# Where each shell looks below a prefix, as a virtual environment is one.
_SHELLS: dict[type[ShellComplete], str] = {
    BashComplete: "share/bash-completion/completions/{}",
    ZshComplete: "share/zsh/site-functions/_{}",
    FishComplete: "share/fish/vendor_completions.d/{}.fish",
}


def write_manuals(root: Path, scripts: dict[str, str], version: str, folder: Path) -> None:
    """Write what belongs below share/ into a folder."""
    sys.path.insert(0, str(root))
    try:
        for script, where in scripts.items():
            command = _command(import_module(where.split(":")[0]), script)
            files = {f"share/man/man1/{script}.1": _man_page(command, script, version)}
            variable = f"_{script}_COMPLETE".replace("-", "_").upper()
            for shell, place in _SHELLS.items():
                # The class's own source() looks for bash, which a build may lack.
                made = ShellComplete.source(shell(command, {}, script, variable))
                files[place.format(script)] = made
            for name, text in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    finally:
        sys.path.remove(str(root))


def _command(module: object, script: str) -> click.Command:
    found = [value for value in vars(module).values() if isinstance(value, click.Command)]
    return next((each for each in found if each.name == script), found[0])


def _man_page(command: click.Command, script: str, version: str) -> str:
    context = click.Context(command, info_name=script, **command.context_settings)
    about = cleandoc(command.help or "").replace("\b\n", "")  # click keeps the docstring's indent
    lines = [
        f'.TH "{script.upper()}" "1" "" "carfilter {version}" "User Commands"',
        f".SH NAME\n{_plain(script)} \\- {_plain(about.splitlines()[0])}",
        f".SH SYNOPSIS\n.B {_plain(script)}",
        _plain(" ".join(command.collect_usage_pieces(context))),
        f".SH DESCRIPTION\n{_plain(about)}",
        ".SH OPTIONS",
    ]
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [option.get_help_record(context) for option in options]
    lines += [f".TP\n\\fB{_plain(r[0])}\\fR\n{_plain(r[1])}" for r in records if r]
    if command.epilog:
        notes = cleandoc(command.epilog).replace("\b\n", "")
        lines.append(f".SH NOTES\n.nf\n{_plain(notes)}\n.fi")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Keep troff from reading anything into text."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines)
