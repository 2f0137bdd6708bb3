"""What the README shows works as it stands there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml
from ase.build import bulk

from chemloop.config import build
from chemloop.model.contract import check

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def snippet(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return text


@pytest.fixture
def force_field(tmp_path, monkeypatch):
    """The README's model, its module in a package of its own and built from its YAML as the program does."""
    package = tmp_path / "readme_model"
    package.mkdir()
    (package / "morse.py").write_text(snippet("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    node = yaml.safe_load(snippet("yaml"))
    yield build(node | {"_target_": node["_target_"].replace("chemloop.model", "readme_model")}, "model")
    sys.modules.pop("readme_model.morse")


def test_the_model_that_it_adds_keeps_the_contract(force_field):
    check(force_field, [bulk("Li", "bcc", a=3.4), bulk("NaCl", "rocksalt", a=5.6)])


def test_the_model_that_it_adds_is_cheap_to_import(tmp_path):
    names = re.findall(r"^(?:from|import) (\S+)", snippet("python"), re.MULTILINE)
    assert {importlib.import_module(name).__name__ for name in names} <= {"__future__", "dataclasses"}


def test_files_and_targets_that_it_names_exist():
    for file in re.findall(r"`((?:chemloop|conf|requirements|tests)/[\w./-]+)`|\]\(([\w./]+)\)", README):
        name = next(filter(None, file))
        if not name.endswith(("morse.py", "morse.yaml")):
            assert (ROOT / name).exists(), name
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "test"} <= set(re.findall(r"(?:`|^    )make ([a-z-]+)", README, re.MULTILINE)) <= targets
