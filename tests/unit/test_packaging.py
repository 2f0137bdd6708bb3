"""What is installed: the wheel's files, declared dependencies, and that the driver stays light."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "pymatgen", "lightning", "pyxtal", "sklearn", "plotly", "wandb")


def run_python(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what the wheel holds."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    built = run_python(["-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("chemloop-*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_holds_every_file(installed):
    sources = [path for path in (ROOT / "chemloop").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT) for path in sources}
    expected |= {Path("chemloop") / path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    launchers = [path for path in (ROOT / "launchers").rglob("*") if path.is_file() and path.suffix != ".py"]
    expected |= {Path("chemloop") / path.relative_to(ROOT) for path in launchers}
    held = {path.relative_to(installed) for path in (installed / "chemloop").rglob("*") if path.is_file()}
    assert Path("chemloop/conf/config.yaml") in expected
    assert held == expected


def test_installed_package_finds_its_conf_and_its_data(installed, tmp_path):
    shown = run_python(["-m", "chemloop", "--cfg", "job"], cwd=tmp_path, PYTHONPATH=str(installed))
    assert shown.returncode == 0, shown.stderr
    assert "elements" in OmegaConf.create(shown.stdout).system
    code = "import chemloop.__main__ as m; print(m.CONF); print(m.__file__)"
    where = run_python(["-c", code], cwd=tmp_path, PYTHONPATH=str(installed))
    assert where.stdout.split() == [str(installed / "chemloop/conf"), str(installed / "chemloop/__main__.py")]


def test_console_script_starts_the_program():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="chemloop")
    assert script.value == PROJECT["scripts"]["chemloop"]
    assert callable(script.load())


def heavy_modules_after(modules: list[str]) -> dict[str, list[str]]:
    """Which heavy packages each module brings in, imported one after the other."""
    code = f"""
import importlib, sys
for module in {modules!r}:
    before = set(sys.modules)
    importlib.import_module(module)
    print(module, *[name for name in {HEAVY!r} if name in set(sys.modules) - before])
"""
    process = run_python(["-c", code], cwd=ROOT)
    assert process.returncode == 0, process.stderr
    found = (line.split() for line in process.stdout.splitlines())
    return {module: heavy for module, *heavy in found if heavy}


def test_driver_is_light():
    assert heavy_modules_after(["chemloop.__main__", "chemloop.config", "chemloop.loop"]) == {}


def test_every_component_is_light():
    targets = set(re.findall(r"^_target_: *(\S+)", "\n".join(p.read_text() for p in ROOT.glob("conf/*/*.yaml")), re.M))
    modules = sorted({target.rpartition(".")[0] for target in targets})
    assert "chemloop.model.chgnet" in modules
    assert heavy_modules_after(modules) == {}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"chemloop"}


def test_every_import_is_a_declared_dependency():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    declared = {canonicalize_name(Requirement(line).name) for group in groups for line in group}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        (str(path.relative_to(ROOT)), package)
        for path in (ROOT / "chemloop").rglob("*.py")
        for package in imported_packages(path)
        if not declared & {canonicalize_name(name) for name in distributions.get(package, [package])}
    }
    assert not undeclared


def test_declared_ranges_admit_the_pinned_versions():
    # Extras of backends whose own pins are overruled describe another environment: theirs.
    own_world = {"mace": {"torch"}, "dpa3": {"torch"}}
    for extra, lines in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items():
        for requirement in map(Requirement, lines):
            if requirement.name not in own_world.get(extra, ()):
                version = importlib.metadata.version(requirement.name)
                assert requirement.specifier.contains(version, prereleases=True), (extra, str(requirement), version)
