"""A component whose YAML names another interpreter runs there."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from chemloop.config import load
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import ChemLoopError
from chemloop.stages.prepare import Prepare

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


def test_without_it_the_missing_package_is_named(compose_config, tmp_path):
    stage = prepare(compose_config, tmp_path / "outputs" / "here")
    with pytest.raises(ChemLoopError, match="No module named 'only_there'; .*pip install only_there"):
        stage.ensure()
