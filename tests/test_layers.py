"""The architecture, held by the import statements of the modules."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "carfilter"
LAYERS = {
    0: "errors process signals unfinished",
    1: "opening adts ticks clock conform hardware cut hdr selection encoder"
    " source frames streams target clips network metrics prefetch int8 int8_packing int8_rows"
    " detection baselines average_precision packs photos bd_rate pictures window slots references"
    " reuse steady"
    " reconnect segments losses batches compiled devices samples threads measured_qp",
    2: "checkpoint weights restore live degrade variants dataset recipe",
    3: "pipeline announce sidecar train training_log validation training_run",
    4: "archive archive_book archive_estimate archive_events archive_machine archive_plan"
    " archive_pool archive_ray archive_report archive_schedule archive_state archive_verify"
    " archive_watch archive_worker evaluate report cache prepared measures methods pair study"
    " detection_tables formats plots record tables verdicts",
    5: "display display_batch display_eval display_training progress",
    6: "cli cli_batch cli_eval cli_train",
}
LEVEL = {name: layer for layer, names in LAYERS.items() for name in names.split()}
ONLY_IN = {
    "av": {
        "opening",
        "adts",
        "source",
        "clock",
        "conform",
        "reconnect",
        "cut",
        "hardware",
        "hdr",
        "selection",
        "encoder",
        "frames",
        "measured_qp",
        "streams",
        "target",
        "clips",
    },
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


def needs(module: str) -> set[str]:
    """Names of our own modules that a module imports."""
    names = {name.removeprefix("carfilter.") for name in imported(PACKAGE / f"{module}.py")}
    return names & LEVEL.keys()


def test_every_module_has_its_layer() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == LEVEL.keys()


@pytest.mark.parametrize("module", sorted(LEVEL))
def test_no_import_goes_up(module: str) -> None:
    above = {other for other in needs(module) if LEVEL[other] > LEVEL[module]}
    assert not above


def test_no_imports_go_in_circles() -> None:
    left = {module: needs(module) for module in LEVEL}
    while left:
        free = {module for module, others in left.items() if not others & left.keys()}
        assert free, f"circle among {sorted(left)}"
        left = {module: others for module, others in left.items() if module not in free}


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
