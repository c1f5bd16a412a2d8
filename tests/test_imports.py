"""Imports run one way, in no circle; the training core needs no index, server or command-line library.

Every import statement counts, wherever it stands: at the top, inside a function, under TYPE_CHECKING,
relative or absolute, and `import_module("fieldmark...")` with a literal name.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "fieldmark"

# A room may import itself and every room of a lower rank. Equal rank: neither may import the other.
RANKS = {
    "data": 0,
    "models": 1,
    "losses": 1,
    "policy": 2,
    "evaluation": 3,
    "training": 4,
    "report": 4,
    "search": 5,
    "experiments": 6,
    "cli": 7,
    "__main__": 8,
}
TRAINING_CORE = frozenset({"training", "policy", "models", "losses", "data", "evaluation"})
NOT_IN_TRAINING_CORE = frozenset(
    {"lancedb", "fastapi", "uvicorn", "starlette", "gradio", "ray", "jsonargparse", "click", "typer"}
)


def modules_below(source: Path, package: str = PACKAGE) -> dict[str, Path]:
    """Dotted module name -> file. A package is named without `__init__`."""
    found = {}
    for path in sorted((source / package).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(path: Path, module: str) -> Iterator[tuple[int, str, str | None]]:
    """(line, absolute module, imported name or None) of every import in a file."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parent = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                yield node.lineno, base, alias.name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value, None


def room_of(module: str) -> str:
    """`fieldmark.data.splits` is in the room "data"; the package's own file in the room ""."""
    return module.partition(".")[2].partition(".")[0]


def violations(source: Path, package: str = PACKAGE) -> list[str]:
    """Every breach of the law below `source`, as "file:line: reason"."""
    modules = modules_below(source, package)
    found: list[str] = []
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for module, path in modules.items():
        room = room_of(module)
        where = str(path.relative_to(source))
        if room and room not in RANKS:
            found.append(f"{where}: {room!r} is no room of the house; give it a rank in tests/test_imports.py")
            continue
        for line, base, name in imported_names(path, module):
            top = base.split(".")[0]
            if room in TRAINING_CORE and top in NOT_IN_TRAINING_CORE:
                found.append(f"{where}:{line}: the training core imports {top}")
            if top != package:
                continue
            # `from package import submodule` means the submodule, any other name the package's own file
            target = f"{base}.{name}" if name and f"{base}.{name}" in modules else base
            if target not in modules:
                found.append(f"{where}:{line}: {target} does not exist")
                continue
            edges[module].add(target)
            other = room_of(target)
            if room == other or other == "":
                continue  # the package's own file imports no room (below), so everyone may read it
            if room == "":
                found.append(f"{where}:{line}: the package's own file imports the room {other}")
            elif other not in RANKS or RANKS[other] >= RANKS[room]:
                found.append(f"{where}:{line}: {room} imports {other}")
    return found + [f"circle: {' -> '.join(circle)}" for circle in circles(edges)]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """One closed path for every edge that leads back in a depth-first search; starts at its first name."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            circle = path[path.index(node) :]
            first = circle.index(min(circle))
            found.append([*circle[first:], *circle[: first + 1]])
            return
        if node in done:
            return
        for target in sorted(edges.get(node, ())):
            visit(target, [*path, node])
        done.add(node)

    for node in sorted(edges):
        visit(node, [])
    return found


def test_imports_run_one_way() -> None:
    assert modules_below(SOURCE), f"no module below {SOURCE}"
    assert violations(SOURCE) == []


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.parents:
            if folder == root:
                break
            (folder / "__init__.py").touch()
    return root


GOOD = {
    "data/splits.py": "import numpy\nfrom . import decode\nfrom .decode import decode_image\n",
    "data/decode.py": "decode_image = 1\n",
    "data/__init__.py": "from fieldmark.data.splits import decode_image\n",
    "training/saga.py": (
        "from ..policy import grpo\nfrom fieldmark.losses.metric import loss\nfrom .. import __version__\n"
    ),
    "policy/grpo.py": "from fieldmark.data import decode_image\nimport fieldmark.data.splits as s\n",
    "losses/metric.py": "loss = 1\n",
    "cli.py": "import jsonargparse\nfrom fieldmark.training import saga\nfrom fieldmark import search\n",
    "search/serve.py": "import lancedb, fastapi, uvicorn\n",
    "report/page.py": "from fieldmark.evaluation import retrieval\n",
    "evaluation/retrieval.py": "from fieldmark.models import encoder\n",
    "models/encoder.py": "",
    "__main__.py": "from fieldmark.cli import main\n",
    "__init__.py": '__version__ = "0"\n',
}


def test_checker_accepts_a_good_tree(tmp_path: Path) -> None:
    assert violations(write_tree(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("data/a.py", "from fieldmark.models import encoder\n", "data/a.py:1: data imports models"),
        ("data/a.py", "from ..policy import grpo\n", "data/a.py:1: data imports policy"),
        ("data/a.py", "from .. import policy\n", "data/a.py:1: data imports policy"),
        ("data/deep/a.py", "from ...cli import main\n", "data/deep/a.py:1: data imports cli"),
        ("models/a.py", "import fieldmark.losses.metric\n", "models/a.py:1: models imports losses"),
        ("losses/a.py", "from fieldmark import models\n", "losses/a.py:1: losses imports models"),
        (
            "report/a.py",
            "def f():\n    from fieldmark.training import saga\n",
            "a.py:2: report imports training",
        ),
        ("training/a.py", "from ..report.page import x\n", "training/a.py:1: training imports report"),
        (
            "policy/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..training import saga\n",
            "policy/a.py:3: policy imports training",
        ),
        ("policy/a.py", "import importlib\nimportlib.import_module('fieldmark.cli')\n", "policy imports cli"),
        ("training/a.py", "import jsonargparse\n", "the training core imports jsonargparse"),
        (
            "data/a.py",
            "def f():\n    from lancedb.table import Table\n",
            "a.py:2: the training core imports lancedb",
        ),
        ("data/a.py", "from .missing import x\n", "fieldmark.data.missing does not exist"),
        ("attic/a.py", "", "'attic' is no room"),
        ("__init__.py", "from fieldmark.data import splits\n", "own file imports the room data"),
        (
            "data/decode.py",
            "def f():\n    from fieldmark.data.splits import x\n",
            "circle: fieldmark.data.decode -> fieldmark.data.splits -> fieldmark.data.decode",
        ),
        ("losses/metric.py", "from . import loss\n", None),
        ("losses/__init__.py", "from .metric import loss\n", None),
        (
            "losses/metric.py",
            "from .metric import loss\n",
            "circle: fieldmark.losses.metric -> fieldmark.losses.metric",
        ),
    ],
)
def test_checker_finds_what_is_wrong(tmp_path: Path, name: str, text: str, expected: str | None) -> None:
    found = violations(write_tree(tmp_path, GOOD | {name: text}))
    if expected is None:
        assert found == []
    else:
        assert any(expected in line for line in found), found


def test_checker_finds_a_circle_through_the_package_file(tmp_path: Path) -> None:
    tree = GOOD | {
        "losses/metric.py": "from . import loss\n",
        "losses/__init__.py": "from .metric import loss\n",
    }
    assert violations(write_tree(tmp_path, tree)) == [
        "circle: fieldmark.losses -> fieldmark.losses.metric -> fieldmark.losses"
    ]


LOADER = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # as if it were not installed
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def test_training_core_loads_where_index_server_and_command_line_are_missing() -> None:
    """What the syntax cannot show: nothing below the core pulls them in either."""
    names = [name for name in modules_below(SOURCE) if room_of(name) in TRAINING_CORE]
    # click and typer are left out: transformers brings them along itself
    refused = ",".join(sorted(NOT_IN_TRAINING_CORE - {"click", "typer"} | {"torchvision", "timm", "tensorboard"}))
    done = subprocess.run(
        [sys.executable, "-c", LOADER, refused, *names],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
