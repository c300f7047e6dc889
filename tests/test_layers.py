"""The architecture, held by the import statements of the modules."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "carfilter"
LAYERS = {
    0: {"errors"},
    1: {"source", "frames", "streams", "target", "clips", "network", "metrics", "prefetch", "int8"},
    2: {"weights", "restore"},
    3: {"pipeline"},
    5: {"display", "progress"},
    6: {"cli"},
}
# Inside layer 1: who may import whom, still downwards.
WITHIN = {("source", "frames"), ("streams", "source"), ("target", "source")}
WITHIN |= {("int8", "network"), ("target", "streams"), ("target", "frames"), ("clips", "frames")}
ONLY_IN = {
    "av": {"source", "frames", "streams", "target", "clips"},
    "click": {"cli", "cli_train", "cli_eval", "cli_batch"},
}


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, also inside functions, but not for types only."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "carfilter":
                names |= {f"carfilter.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_module_imports_only_from_lower_layers(layer: int) -> None:
    level = {name: number for number, names in LAYERS.items() for name in names}
    for module in LAYERS[layer]:
        for name in imported(PACKAGE / f"{module}.py"):
            other = name.removeprefix("carfilter.")
            if not name.startswith("carfilter.") or other not in level:
                continue
            below = level[other] < layer or (module, other) in WITHIN
            assert below or (layer == 5 and level[other] == 5), f"{module} imports {other}"


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_stays_in_its_modules(library: str) -> None:
    users = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users <= ONLY_IN[library]


def test_rich_stays_in_the_displays() -> None:
    for path in PACKAGE.glob("*.py"):
        uses = any(name.split(".")[0] == "rich" for name in imported(path))
        assert not uses or path.stem.startswith("display"), path.name
