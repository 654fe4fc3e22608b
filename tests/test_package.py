"""Tests of what is installed and of the site: one version, metadata, and every public name documented."""

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import yaml

import eqprop_np
from eqprop_np.files import write_arrays

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
API = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "api").glob("*.rst")))
TABLES = (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8")


# ---- versions and names


def test_the_version_stands_in_the_package_only() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", eqprop_np.__version__)
    assert 'dynamic = ["version"]' in PYPROJECT
    assert 'version = { attr = "eqprop_np.__version__" }' in PYPROJECT
    assert not re.search(r'^version = "', PYPROJECT, re.MULTILINE)


def test_the_installed_version_is_that_of_the_package() -> None:
    try:
        installed = importlib.metadata.version("eqprop_np")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("eqprop_np is not installed")
    assert installed == eqprop_np.__version__


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == eqprop_np.__version__
    assert versions == sorted(set(versions), key=lambda v: tuple(map(int, v.split("."))), reverse=True)


def test_the_citation_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"] and citation["title"].startswith("eqprop_np")
    assert str(citation["version"]) == eqprop_np.__version__
    assert citation["authors"] == [{"name": "The eqprop_np developers"}]
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert 'license = "MIT"' in PYPROJECT
    references = citation["references"]
    assert all(r["type"] and r["title"] and r["year"] and r["authors"] for r in references)
    assert {"https://arxiv.org/abs/1905.13633", "https://arxiv.org/abs/2005.04168"} <= {
        reference.get("url") for reference in references
    }


def test_each_name_that_the_changelog_adds_exists() -> None:
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    names = re.findall(r"`([A-Za-z_]\w+)`", newest.split("### Added")[1].split("###")[0])
    assert len(names) >= 10
    for name in set(names) - {"fig1c", "filters"}:  # figures
        assert hasattr(eqprop_np, name), name


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """Each bound in pyproject.toml of what the library and its tests need has its pin, and no other."""
    groups = re.findall(r"^(?:dependencies|sklearn|tests) = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    assert len(groups) == 3
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', " ".join(groups)))
    pins = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests" / "oldest.txt").read_text("utf-8"), re.MULTILINE)
    )
    assert pins.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert re.fullmatch(re.escape(bound) + r"(\.0)*", pins[name]), name


# ---- the API and the site


def own_docstring(name: str) -> str:
    """Return the docstring of a function or class, or for a value the text below its definition."""
    thing = getattr(eqprop_np, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return inspect.cleandoc(thing.__dict__.get("__doc__") or thing.__doc__ or "")
    for module in [m for n, m in sorted(sys.modules.items()) if n.startswith("eqprop_np.") and m.__file__]:
        body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
        for statement, after in pairwise(body):
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(after, ast.Expr):
                return inspect.cleandoc(ast.literal_eval(after.value))
    return ""


@pytest.mark.parametrize("name", eqprop_np.__all__)
def test_a_public_name_exists_and_says_what_it_is(name: str) -> None:
    thing = getattr(eqprop_np, name)
    assert thing is not None
    text = own_docstring(name)
    summary = text.split("\n\n")[0]
    assert summary.rstrip().endswith((".", ":")), f"{name}: {summary!r}"
    if inspect.isclass(thing):  # a dataclass without a docstring gets its signature as one
        assert not summary.startswith(f"{name}(")


@pytest.mark.parametrize("name", eqprop_np.__all__)
def test_a_public_name_is_in_the_api(name: str) -> None:
    thing = getattr(eqprop_np, name)
    kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "data"
    assert len(re.findall(rf"^\.\. auto{kind}:: {name}$", API, re.MULTILINE)) == 1
    assert re.search(rf"^   {name}$", TABLES, re.MULTILINE)


def test_the_api_has_no_other_public_names() -> None:
    listed = re.findall(r"^\.\. auto(?:class|function|data):: (\w+)$", API, re.MULTILINE)
    assert sorted(listed) == sorted(eqprop_np.__all__)


def test_names_are_exported_once_and_in_order() -> None:
    assert len(set(eqprop_np.__all__)) == len(eqprop_np.__all__)
    imported = {
        alias.asname or alias.name
        for statement in ast.parse(Path(eqprop_np.__file__).read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert imported == set(eqprop_np.__all__)


def test_the_pages_include_sections_that_the_readme_has() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = [
        text
        for page in sorted((ROOT / "docs").glob("*.md"))
        for text in re.findall(
            r'^:(?:start-after|end-before): "(.*)"$', page.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert len(wanted) >= 4
    for text in wanted:
        assert len(re.findall(rf"^{re.escape(text)}$", readme, re.MULTILINE)) == 1, text


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    if importlib.util.find_spec("build") is None:
        pytest.skip("the package build is not installed")
    try:
        setuptools = int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        setuptools = 0
    if setuptools < 77:
        pytest.skip("setuptools is not installed, or is older than 77")
    source = tmp_path_factory.mktemp("source")  # setuptools leaves files beside what it builds
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "eqprop_np", source / "eqprop_np", ignore=shutil.ignore_patterns("__pycache__"))
    scratch = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch)]
    done = subprocess.run([*command, str(source)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = scratch.glob("*.whl")
    return ZipFile(path)


def test_the_wheel_has_the_package_and_its_data(wheel: ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = ROOT / "eqprop_np"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {str(path.relative_to(ROOT).as_posix()) for path in files}
    assert {"eqprop_np/py.typed", "eqprop_np/data/conv.npz", "eqprop_np/data/fig1c/summary.json"} <= names
    assert sum(entry.file_size for entry in wheel.infolist()) < 1_000_000


def test_the_wheel_says_what_it_is(wheel: ZipFile) -> None:
    name = f"eqprop_np-{eqprop_np.__version__}.dist-info"
    metadata = wheel.read(f"{name}/METADATA").decode()
    for line in (
        f"Version: {eqprop_np.__version__}",
        "Author: The eqprop_np developers",
        "License-Expression: MIT",
        "Requires-Python: >=3.10",
        "Classifier: Typing :: Typed",
        "Provides-Extra: sklearn",
        "Provides-Extra: docs",
        "Provides-Extra: tests",
        "Requires-Dist: numpy>=1.24",
    ):
        assert f"\n{line}\n" in metadata, line
    assert wheel.read(f"{name}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_an_installed_package_finds_its_data() -> None:
    from eqprop_np.figures import RECORDED, WEIGHTS

    for path in (RECORDED, WEIGHTS):
        assert path.exists()
        assert Path(eqprop_np.__file__).resolve().parent in path.parents


def test_arrays_of_objects_are_not_written(tmp_path: Path) -> None:
    """Reading them back would run code. NumPy refuses to write them only since 2.1."""
    with pytest.raises(ValueError, match="w must be an array of numbers"):
        write_arrays(tmp_path / "file.npz", {"w": np.array([{}])})
    assert not list(tmp_path.iterdir())
