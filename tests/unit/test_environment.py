"""The one environment: every pin of another package that requirements/ overrules is shown to be harmless here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> dict[str, dict[str, float]]:
    """What each backend computed, all of them in one process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("backends_together.py"))],
        cwd=tmp_path_factory.mktemp("backends"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_all_backends_share_one_process(computed):
    assert set(computed) == {"pretrained_energies", "mace", "mattersim", "dpa", "mattergen", "torchsim"}
    assert computed["torchsim"]["together"] == pytest.approx(computed["torchsim"]["apart"], abs=1e-9)


def test_packaged_weights_give_their_energies(computed):
    assert computed["pretrained_energies"] == pytest.approx({"chgnet": -30.40712, "sevennet": -27.82083}, abs=1e-3)


def test_mace_energy_is_that_of_its_own_e3nn(computed):
    # Expected: computed once with e3nn 0.4.4, the version that mace-torch pins.
    expected = {"energy": -13.839728215060397, "forces": 2.206341383573892, "stress": 0.08886910422866222}
    assert computed["mace"] == pytest.approx(expected, rel=1e-9)


def test_mattersim_forces_are_the_slope_of_its_energies(computed):
    force = computed["mattersim"]["force"]
    assert abs(force) > 5e-4
    assert force == pytest.approx(computed["mattersim"]["difference_quotient"], rel=0.03)


def test_dpa_compiles_beside_torch_geometric(computed):
    assert computed["dpa"]["compiled"] == pytest.approx(computed["dpa"]["eager"], abs=1e-9)


def test_mattergen_trains_on_crystals(computed):
    assert computed["mattergen"]["last_loss"] < 0.85 * computed["mattergen"]["first_loss"]


def requirement_names(file: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (REQUIREMENTS / file).read_text().splitlines())
    return [canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("-")]


def test_pip_check_complains_about_no_other_package():
    process = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    complaining = {canonicalize_name(line.split()[0]) for line in process.stdout.splitlines()}
    assert complaining == set(requirement_names("no-deps.txt")), process.stdout


def test_every_installed_package_is_pinned():
    pins = {}
    for line in (REQUIREMENTS / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    for ours_or_pips_own in ("chemloop", "pip"):
        installed.pop(ours_or_pips_own, None)
    # The CUDA build of torch brings its own libraries at its own versions.
    ours = {
        name: version.split("+")[0] for name, version in installed.items() if not re.match("nvidia-|cuda-|triton", name)
    }
    ours["nvidia-ml-py3"] = installed["nvidia-ml-py3"]
    differing = {name: (version, pins.get(name)) for name, version in ours.items() if version != pins.get(name)}
    assert not differing, "installed, pinned in requirements/constraints.txt"


@pytest.mark.parametrize("file", ["base.txt", "no-deps.txt", "dev.txt"])
def test_every_requirement_is_installed(file):
    names = requirement_names(file)
    assert names
    for name in names:
        importlib.metadata.version(name)
