"""A component whose YAML names another interpreter runs there."""

import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from chemloop.config import load
from chemloop.model.chgnet import CHGNetForceField
from chemloop.physics.calculator import evaluate
from chemloop.physics.structures import write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import ChemLoopError
from chemloop.stages.prepare import Prepare
from chemloop.stages.relax import Relax
from chemloop.stages.stage import stage_folder

ROOT = Path(__file__).parents[2]
PACKAGE = """
import sys
from pathlib import Path
from tests.morse import MorseForceField

def load(checkpoint, device, dtype):
    print("interpreter", sys.prefix)
    return MorseForceField(checkpoint).load(device, dtype)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A second environment that has one package of its own and borrows the others."""
    folder = tmp_path_factory.mktemp("second") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    (packages / "only_there.py").write_text(PACKAGE)
    return folder


def prepare(compose_config, folder: Path, *overrides: str) -> Prepare:
    config = compose_config(*overrides)
    config["model"] = {"_target_": "tests.elsewhere.ElsewhereForceField", "python": config["model"].get("python")}
    campaign = Campaign(folder)
    campaign.begin(config)
    return Prepare(campaign, load(config), 0)


def test_the_model_runs_in_its_own_environment(compose_config, environment, tmp_path):
    python = environment / "bin" / "python"
    stage = prepare(compose_config, tmp_path / "outputs" / "elsewhere", f"+model.python={python}")
    assert stage.ensure()["prepare/is_untrained"] == 0.0
    assert read_json(stage.folder / "base.json")["checkpoint"] == "default"
    assert f"interpreter {environment}" in stage.item(0).log_tail()


def test_chgnet_of_another_environment_relaxes_there(compose_config, environment, tmp_path):
    """The whole way of one of the packaged models: what it relaxes there is what it predicts here."""
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (here,) = find_spec("chgnet").submodule_search_locations
    shutil.copytree(here, packages / "chgnet", ignore=shutil.ignore_patterns("__pycache__"))
    with open(packages / "chgnet" / "__init__.py", "a") as file:
        file.write('\nprint("chgnet of", __path__[0])\n')
    write(tmp_path / "known.extxyz", [bulk(element, "fcc", a=3.9) for element in ("Li", "P", "S")])
    config = compose_config(
        "model=chgnet", f"model.python={environment}/bin/python", f"system.reference={tmp_path}/known.extxyz",
        "loop.relax.max_steps=2",
    )  # fmt: skip
    campaign = Campaign(tmp_path / "outputs" / "chgnet")
    campaign.begin(config)
    Prepare(campaign, load(config), 0).ensure()
    candidate = bulk("LiS", "rocksalt", a=5.2)
    candidate.rattle(0.1, seed=0)
    candidate.info["id"] = "i01-g000-0000"
    generated = stage_folder(campaign, 1, "generate")
    generated.mkdir(parents=True)
    write_structures(generated / "output.extxyz", [candidate])
    stage = Relax(campaign, load(config), 1)
    stage.ensure()
    assert f"chgnet of {packages}" in stage.item(0).log_tail()
    relaxed = stage.output()
    assert len(relaxed) == 4 and not all(atoms.info["converged"] for atoms in relaxed)
    expected = evaluate(relaxed, CHGNetForceField("0.3.0").load())
    for atoms, results in zip(relaxed, expected, strict=True):
        assert atoms.info["mlff_energy"] == pytest.approx(results.energy, abs=1e-4)
        np.testing.assert_allclose(atoms.arrays["mlff_forces"], results.forces, atol=1e-4)


def test_without_it_the_missing_package_is_named(compose_config, tmp_path):
    stage = prepare(compose_config, tmp_path / "outputs" / "here")
    with pytest.raises(ChemLoopError, match="No module named 'only_there'; .*pip install only_there"):
        stage.ensure()
