"""The architecture, read from the folders and held by the import statements of the modules."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "carfilter"
# From the top down; wings of one floor do not know each other. The ground floor has no wing.
FLOORS = (
    {"commands"},
    {"archive", "evaluation", "hosts", "training"},
    {"run", "pairs", "inspection"},
    {"media", "restore", "detection", "pages"},
    {""},
)
FLOOR = {wing: -number for number, floor in enumerate(FLOORS) for wing in floor}
ONLY_IN = {"av": {"media"}, "click": {"commands"}, "rich": {"commands"}}
MODULES = {
    ".".join(("carfilter", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def wing(module: str) -> str:
    """Name of the wing that a module lies in, "" on the ground floor."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


@cache
def imported(module: str) -> frozenset[str]:
    """Names of all modules that one imports: inside functions and for types only as well."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def needs(module: str) -> set[str]:
    return set(imported(module) & MODULES.keys())


def test_every_folder_is_a_wing_with_a_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders | {""} == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_goes_up_or_aside(module: str) -> None:
    here = wing(module)
    for other in needs(module):
        assert wing(other) == here or FLOOR[wing(other)] < FLOOR[here], other


def test_no_imports_go_in_circles() -> None:
    left = {module: needs(module) for module in MODULES}
    while left:
        free = {module for module, others in left.items() if not others & left.keys()}
        assert free, f"circle among {sorted(left)}"
        left = {module: others for module, others in left.items() if module not in free}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_wing(library: str) -> None:
    users = {
        wing(module)
        for module in MODULES
        if any(name.split(".")[0] == library for name in imported(module))
    }
    assert users == ONLY_IN[library]


def test_rich_stays_in_the_displays() -> None:
    for module in MODULES:
        uses = any(name.split(".")[0] == "rich" for name in imported(module))
        assert not uses or module.endswith("display"), module


def test_a_wing_says_what_it_does_and_no_more() -> None:
    for init in PACKAGE.glob("*/**/__init__.py"):
        (statement,) = ast.parse(init.read_text()).body
        assert isinstance(statement, ast.Expr), init


def test_no_folder_is_crowded() -> None:
    beside = {p.name for p in PACKAGE.iterdir() if p.suffix or p.is_file()}
    assert len(beside - {"__pycache__"}) <= 8
    for folder in {path.parent for path in MODULES.values()} - {PACKAGE}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 24, folder


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_read_in_one_sitting(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 420
