"""MatterSim: the same numbers as its own package, weights from everywhere, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from chemloop.config import build
from chemloop.model import mattersim as module
from chemloop.model.contract import CHECKS, Contract
from chemloop.model.mattersim import MatterSimArchitecture, MatterSimForceField
from chemloop.physics.calculator import evaluate
from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import CheckpointError, ConfigError, WeightsUnavailable
from chemloop.training.recipe import Recipe

SCRATCH = MatterSimForceField(checkpoint=None)


@pytest.fixture(scope="module")
def crystals():
    reference = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    return [atoms for atoms in reference if atoms.info["name"] in ("mp-1153", "mp-736", "mp-2646995")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_strong(tmp_path_factory.mktemp("mattersim") / "strong.pth")


def save_strong(path: Path, **sizes: float) -> Path:
    """A checkpoint with forces of some eV/A, as after training; fresh networks have next to none."""
    potential = MatterSimForceField(None, MatterSimArchitecture(**{"max_l": 4, "max_n": 2, **sizes})).load()
    with torch.no_grad():
        for name, weights in potential.named_parameters():
            factor = 25 if "embedding" in name else 10 if "edge_gate" in name else 2.5
            weights *= factor if "weight" in name else 1
        potential.network.normalizer.scale[:] = 2 + torch.sin(torch.arange(95))
    potential.shift_energies({3: -2.0, 15: -5.0, 16: -4.0})
    potential.save(path)
    return path


def test_fresh_and_grown_networks_keep_the_contract(crystals, saved):
    grown = Contract(MatterSimForceField(str(saved)), crystals)
    assert max(np.abs(result.forces).max() for result in grown.results) > 0.5
    for contract in (Contract(SCRATCH, crystals), grown):
        for name in CHECKS:
            getattr(contract, name)()


def test_every_angle_counts_as_in_mattersim(crystals, saved):
    """In double precision against the network's own forward, which lists the angles."""
    from mattersim.datasets.utils.build import build_dataloader
    from mattersim.forcefield.potential import batch_to_dict

    structures = Contract(SCRATCH, crystals).structures
    potential = MatterSimForceField(str(saved)).load(dtype="float64")
    network = potential.network
    network.one_hot_atoms = lambda species: torch.nn.functional.one_hot(species, 95).double()
    graphs = build_dataloader(structures, cutoff=5.0, threebody_cutoff=4.0, batch_size=3, only_inference=True)
    inputs = batch_to_dict(next(iter(graphs)), device="cpu")
    expected = network(inputs | {"atom_pos": inputs["atom_pos"].double()})
    found = potential(potential.collate(structures)).energies
    # MatterSim rounds positions to single precision
    assert torch.allclose(found, expected, rtol=0, atol=2e-5)
    network.sbf.coef *= 1.01
    assert not torch.allclose(potential(potential.collate(structures)).energies, expected, rtol=0, atol=1e-3)


def test_atoms_without_angles_or_neighbours(saved):
    cell = np.eye(3) * 30
    alone = Atoms("Li", [[0, 0, 0]], cell=cell, pbc=True)
    pair = Atoms("LiS", [[0, 0, 0], [0, 0, 2.5]], cell=cell, pbc=True)
    far = Atoms("LiS", [[0, 0, 0], [0, 0, 4.5]], cell=cell, pbc=True)
    potential = MatterSimForceField(str(saved)).load(dtype="float64").train()
    for structures in ([alone], [far], [pair], [alone, far, pair, alone]):
        prediction = potential(potential.collate(structures))
        prediction.forces.square().sum().backward()
        assert all(bool(tensor.isfinite().all()) for tensor in prediction)
    assert all(bool(weights.grad.isfinite().all()) for weights in potential.parameters() if weights.grad is not None)
    assert abs(evaluate([pair], potential)[0].forces[0, 2]) > 1e-3


def test_mixed_precision(crystals, saved):
    potential = MatterSimForceField(str(saved)).load()
    exact = evaluate(crystals, potential, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rough = evaluate(crystals, potential.train(), 3)
    assert [r.energy for r in rough] == pytest.approx([r.energy for r in exact], rel=0.05)


def test_mattersim_reads_what_was_saved(crystals, saved, tmp_path, monkeypatch):
    from mattersim.forcefield import MatterSimCalculator

    monkeypatch.setenv("HOME", str(tmp_path))
    crystals[0].calc = MatterSimCalculator.from_checkpoint(str(saved), device="cpu")
    (own,) = evaluate(crystals[:1], MatterSimForceField(str(saved)).load())
    assert crystals[0].get_potential_energy() == pytest.approx(own.energy, abs=1e-4)
    crystals[0].calc = None


def test_files_of_mattersims_own_trainer(crystals, saved, tmp_path):
    """They hold the state of the training; those of older versions, as the published ones, lack a constant."""
    content = torch.load(saved)
    del content["model"]["sbf.coef"]
    extra = {"optimizer": {"state": {}}, "ema": {}, "validation_metrics": {"loss": np.float64(0.1)}, "last_epoch": 3}
    torch.save(content | extra, tmp_path / "old.pth")
    old, new = (MatterSimForceField(str(path)).load() for path in (tmp_path / "old.pth", saved))
    assert evaluate(crystals, old)[0].energy == evaluate(crystals, new)[0].energy


def test_random_weights_are_those_of_the_seed():
    before = torch.random.get_rng_state()
    first, second = SCRATCH.load(), SCRATCH.load()
    other = replace(SCRATCH, architecture=MatterSimArchitecture(seed=1)).load()
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not all(torch.equal(one, two) for one, two in zip(first.parameters(), other.parameters(), strict=True))


def test_loading_leaves_no_trace(tmp_path):
    """Not on the terminal, in the home directory, in loguru's log or in the filters for warnings."""
    code = (
        "import warnings, loguru, torch; before = str(warnings.filters), str(loguru.logger)\n"
        "from chemloop.model.mattersim import MatterSimForceField\n"
        "MatterSimForceField(None).load(); MatterSimForceField(None).reference_calculator()\n"
        "assert (str(warnings.filters), str(loguru.logger)) == before"
    )
    env = os.environ | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and not (tmp_path / ".local").exists()


def test_importing_is_cheap():
    code = "import sys, chemloop.model.mattersim; assert not {'torch', 'mattersim'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_yaml_and_recipes(compose_config):
    config = compose_config("model=mattersim", "loop=paper")
    assert build(config["model"], "model") == MatterSimForceField()
    assert build(compose_config("model=mattersim", "model.checkpoint=null")["model"], "model") == SCRATCH
    recipe = build(config["training"], "training")
    assert isinstance(recipe, Recipe) and (recipe.epochs, recipe.learning_rate) == (200, 1e-3)
    assert (recipe.schedule, recipe.decay_factor, recipe.decay_epochs) == ("step", 0.8, 4)
    assert build(compose_config("model=mattersim")["training"], "training").epochs < 200


def test_weights_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("chemloop.model.weights.is_reachable", lambda host: False)
    with pytest.raises(WeightsUnavailable, match=rf"put the file at {tmp_path}/mattersim-v1.0.0-5M.pth"):
        MatterSimForceField().load()


def test_weights_are_fetched_once_and_checked(saved, tmp_path, monkeypatch):
    asked = []

    def download(name: str, save_folder: str) -> None:
        asked.append(name)
        (Path(save_folder) / name).write_bytes(saved.read_bytes())

    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("chemloop.model.weights.is_reachable", lambda host: True)
    monkeypatch.setattr("mattersim.utils.download_utils.download_checkpoint", download)
    small = MatterSimForceField("MatterSim-v1.0.0-1M")
    with pytest.raises(CheckpointError, match="git id .* 812737ca.*: delete the file to fetch it again"):
        small.load()
    git_id = subprocess.run(["git", "hash-object", str(saved)], capture_output=True, text=True, check=True)
    published = {"MatterSim-v1.0.0-1M": ("mattersim-v1.0.0-1M.pth", git_id.stdout.strip())}
    monkeypatch.setattr(module, "PUBLISHED", published)
    assert small.load().backend.name == "MatterSim-v1.0.0-1M"
    assert asked == ["mattersim-v1.0.0-1M.pth"]
    assert [path.name for path in (tmp_path / "weights").iterdir()] == asked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "is damaged or no checkpoint of mattersim"),
        ({"model": {"state_dict": {}, "model_args": {}}}, "another architecture"),
        ({"model_state_dict": {}, "config": {"r_max": 5.0}}, "another architecture"),
        ({"model_name": "graphormer", "model": {}, "model_args": {}}, "holds a graphormer; only MatterSim's m3gnet"),
        ({"model_name": "m3gnet", "model": {}, "model_args": {}}, "do not fit the architecture"),
        ({"model_name": "m3gnet", "model": {}, "model_args": {"max_l": 9}}, "do not fit the architecture"),
        ({"model_name": "m3gnet", "model": {}, "model_args": None}, "do not fit the architecture"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"(?s){path}.*{message}"):
        MatterSimForceField(str(path)).load()


def test_chgnets_file():
    import chgnet

    path = Path(chgnet.__file__).parent / "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
    with pytest.raises(CheckpointError, match="another architecture, not of mattersim"):
        MatterSimForceField(str(path)).load()


@pytest.mark.parametrize(
    "arguments", [{"num_blocks": 3}, {"num_blocks": 1}, {"units": 16}, {"max_n": 3}, {"max_z": 20}]
)
def test_weights_that_do_not_fit_their_architecture(saved, tmp_path, arguments):
    content = torch.load(saved)
    content["model_args"] |= arguments
    torch.save(content, tmp_path / "misfit.pth")
    with pytest.raises(CheckpointError, match="misfit.pth holds weights that do not fit the architecture it names"):
        MatterSimForceField(str(tmp_path / "misfit.pth")).load()


def test_unknown_element():
    curium = Atoms("LiCm", [[0, 0, 0], [2, 2, 2]], cell=np.eye(3) * 4, pbc=True)
    with pytest.raises(CheckpointError, match="MatterSim from scratch does not know Cm; its elements are H He .* Pu"):
        SCRATCH.load().collate([curium])


def test_unknown_name():
    with pytest.raises(CheckpointError, match=r"MatterSim-v9: no such file.*MatterSim-v1.0.0-5M, MatterSim-v1.0.0-1M"):
        MatterSimForceField("MatterSim-v9").load()
    with pytest.raises(ConfigError, match=r"model.checkpoint is empty: give one of MatterSim-v1.0.0-5M"):
        MatterSimForceField("")


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_blocks", 0), ("units", 0), ("max_l", 5), ("max_n", 0), ("cutoff", 0), ("threebody_cutoff", 6), ("seed", -1)],
)
def test_architectures_that_cannot_be(key, value):
    with pytest.raises(ConfigError, match=rf"model.architecture.{key} = {value}: must be "):
        MatterSimArchitecture(**{key: value})
