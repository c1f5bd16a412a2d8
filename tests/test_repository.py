"""What holds for every file: nothing that works on one machine only, nothing that executes data."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fieldmark"
MAX_LINES = 400


def repository_files() -> list[Path]:
    """Tracked files, and new ones that git would add."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def text_files() -> Iterator[tuple[str, str]]:
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield str(path.relative_to(ROOT)), content.decode("utf-8", errors="replace")


def hits(pattern: re.Pattern[str], texts: Iterator[tuple[str, str]]) -> list[str]:
    return [
        f"{name}:{number}: {found.group()}"
        for name, text in texts
        for number, line in enumerate(text.splitlines(), start=1)
        if (found := pattern.search(line))
    ]


# The patterns are put together from parts, so that this file does not match them.
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:" + "work|root|Users|home" + r")/[\w.-]+")
REGISTRY = re.compile(
    "|".join(
        (
            r"\b(?:test\.)?py" + r"pi\.org",
            "python" + r"hosted\.org",
            r"download\.py" + r"torch\.org",
            r"anaconda\.(?:org|com)\b",
            r"\bregistry" + r"\.[\w.]+\.(?:com|org|net|io)\b",
            "(?:extra-)?index" + "[-_]url",
            "find" + "[-_]links",
            "PIP_" + "INDEX",
        )
    ),
    re.IGNORECASE,
)


def test_no_path_of_one_machine() -> None:
    assert hits(MACHINE_PATH, text_files()) == []


def test_no_package_registry() -> None:
    assert hits(REGISTRY, text_files()) == []


@pytest.mark.parametrize(
    ("pattern", "bad", "good"),
    [
        (
            MACHINE_PATH,
            ["cd /wo" + "rk/main", "Path('/ro" + "ot/x')", "file:///ho" + "me/a/b", "/Us" + "ers/me"],
            ["src/" + "work/home", "~/home/x", "$HOME/root/x", "https://example.org/home/x", "/usr/bin/chromium"],
        ),
        (
            REGISTRY,
            [
                "https://py" + "pi.org/simple",
                "--extra-index" + "-url x",
                "files.python" + "hosted.org",
                "registry" + ".example.com",
            ],
            ["register_metric_loss(name)", "index.html", "registry._REGISTRY", "registry of losses"],
        ),
    ],
)
def test_patterns_find_what_they_should(pattern: re.Pattern[str], bad: list[str], good: list[str]) -> None:
    for line in bad:
        assert hits(pattern, iter([("x", line)])), line
    for line in good:
        assert not hits(pattern, iter([("x", line)])), line


def test_documents_that_are_mentioned_exist() -> None:
    present = {path.name for path in repository_files()} | {"README.md"}
    mention = re.compile(r"\b[A-Za-z][\w-]*\.md\b")
    texts = ((name, text) for name, text in text_files() if not name.startswith("tests/"))
    missing = [hit for hit in hits(mention, texts) if hit.rsplit(": ", 1)[1] not in present]
    assert missing == []


# --- the source


MODULES_THAT_EXECUTE_DATA = frozenset(
    {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
)


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Uses of anything that executes what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops = {alias.name.split(".")[0] for alias in node.names}
            yield from ((node.lineno, f"imports {top}") for top in tops & MODULES_THAT_EXECUTE_DATA)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.split(".")[0] in MODULES_THAT_EXECUTE_DATA:
                yield node.lineno, f"imports {node.module}"
            if node.module == "torch" and {"load", "save"} & {alias.name for alias in node.names}:
                yield node.lineno, "torch's pickled files; use safetensors"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "builtins.eval", "builtins.exec"):
                yield node.lineno, f"calls {called}"
            if called in ("torch.load", "torch.save"):
                yield node.lineno, f"calls {called}; use safetensors"
            if called in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
                yield node.lineno, f"calls {called}; use yaml.safe_load"
            for keyword in node.keywords:
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield node.lineno, f"calls {called} with {keyword.arg}"


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_source_executes_nothing_that_it_reads() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {reason}"
        for path in source_files()
        for line, reason in unsafe(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "import os, dill as d",
        "from joblib import load",
        "from torch import load",
        "torch.load(path, weights_only=True)",
        "eval(text)",
        "yaml.load(text)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=flag)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_code_is_found(bad: str) -> None:
    assert list(unsafe(ast.parse(f"def f():\n    {bad}\n")))


def test_safe_code_is_not_found() -> None:
    good = "model.eval()\nyaml.safe_load(t)\nfrom safetensors.torch import load\nf(trust_remote_code=False)\n"
    assert not list(unsafe(ast.parse(good)))


def test_source_files_fit_in_the_head() -> None:
    files = [*source_files(), *sorted((ROOT / "benchmarks").glob("*.py"))]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}, f"files above {MAX_LINES} lines: split them by what they do"


def test_every_folder_of_source_is_a_package() -> None:
    folders = {path.parent for path in source_files()}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_data_files_of_the_package_are_installed_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["fieldmark"]
    installed = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    data = [path for path in repository_files() if path.is_relative_to(SOURCE) and path.suffix != ".py"]
    assert [str(path.relative_to(ROOT)) for path in data if path not in installed] == []


# --- benchmarks, Makefile


BENCHMARKS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if not path.name.startswith("_")]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmark_has_the_two_options(path: Path) -> None:
    """Asked by --help, so that options that come from a shared helper count."""
    done = subprocess.run(
        [sys.executable, str(path), "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    assert "--short" in done.stdout and "--json" in done.stdout


def test_gpu_benchmark_runs_in_miniature_on_the_processor(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "gpu_saga_step.py"),
            "--short",
            "--json",
            str(tmp_path / "out.json"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(report["ours"]["seconds"]) == {"tower_forward", "rollouts", "replay", "tower_backward", "total"}
    assert report["tflop"] > 0 and report["share_of_peak"] is None


def test_make_has_the_promised_targets() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", text, flags=re.MULTILINE))
    assert {"help", "demo", "test", "lint", "evidence", "tiny-model", "bench", "clean"} <= targets
    assert {"test-slow", "test-distributed", "test-fault"} <= targets


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ('case "$*" in *version_info*) exit 1;; *) echo "Python 3.9.1";; esac', "needs Python 3.11 or newer"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "without the venv module"),
    ],
)
def test_make_says_what_an_unfit_python_lacks(tmp_path: Path, says: str, expected: str) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{says}\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(ROOT), "test", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
    )
    assert done.returncode != 0
    assert expected in done.stderr
    assert not (tmp_path / "venv").exists()
