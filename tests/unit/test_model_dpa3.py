"""DPA-3: the same numbers as deepmd-kit, heads, weights from everywhere, and what is refused."""

from __future__ import annotations

import copy
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
from ase.build import bulk

from chemloop.config import build
from chemloop.model.dpa3 import DPA3Architecture, DPA3ForceField
from chemloop.model.dpa3_checkpoint import import_deepmd
from chemloop.physics.calculator import evaluate
from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import CheckpointError, ConfigError, WeightsUnavailable
from chemloop.training.recipe import Recipe

ELEMENTS = ["Li", "P", "S"]
SCRATCH = DPA3ForceField(checkpoint=None, elements=ELEMENTS)
SMALL = DPA3Architecture(n_dim=8, e_dim=6, a_dim=4, nlayers=2, fitting=[8])


@pytest.fixture(scope="module")
def crystals():
    """Of 3 to 8 atoms, displaced and strained."""
    rng = np.random.default_rng(0)
    reference = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    chosen = [atoms for atoms in reference if atoms.info["name"] in ("mp-1153", "mp-736", "mp-2646995")]
    for atoms in chosen:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return chosen


@pytest.fixture(scope="module")
def dense():
    """A cell so large that no two neighbours of an atom are equally far away."""
    atoms = bulk("Li", cubic=True, a=3.3).repeat(4)
    atoms.symbols[::3] = "S"
    atoms.rattle(0.1, seed=1)
    return [atoms]


def deepmds_own(parameters, seed=0):
    """deepmd-kit's network in double precision, with random weights as large as trained ones and energy constants."""
    import_deepmd()
    from deepmd.pt.model.model import get_model

    parameters = copy.deepcopy(parameters)
    for part in ("descriptor", "fitting_net"):
        parameters[part]["precision"] = "float64"
    network = get_model(parameters).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("matrix"):
                scale = 1.0 if "fitting_net" in name else 0.3
                weight += scale * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        network.atomic_model.out_bias[0, :, 0] = torch.arange(len(parameters["type_map"])) - 2.0
    return network


def write_file(path, networks, parameters):
    """As deepmd-kit does; several networks are the heads of one file."""
    state = {f"model.{head}.{key}": value for head, net in networks.items() for key, value in net.state_dict().items()}
    if len(networks) > 1:
        parameters = {
            "model_dict": {head: parameters | {"model_branch_alias": [f"alias-{head}"]} for head in networks},
        }
    extra = {"model_params": parameters, "train_infos": {"lr": 1e-4, "step": 7}}
    torch.save({"model": state | {"_extra_state": extra}, "optimizer": {}}, path)
    return str(path)


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory):
    """A file with the heads A and B, and B's network."""
    parameters = SMALL.parameters(ELEMENTS)
    networks = {"A": deepmds_own(parameters, 1), "B": deepmds_own(parameters, 2)}
    return write_file(tmp_path_factory.mktemp("dpa3") / "heads.pt", networks, parameters), networks["B"]


def agrees(network, potential, structures, tolerance=1e-12):
    """Energies, forces and stresses of deepmd-kit's own interface, structure by structure, and ours in one batch."""
    types = {name: number for number, name in enumerate(network.get_type_map())}
    is_equal = True
    for atoms, found in zip(structures, evaluate(structures, potential, len(structures)), strict=True):
        kinds = torch.tensor([[types[symbol] for symbol in atoms.symbols]])
        own = network(torch.tensor(atoms.positions)[None], kinds, box=torch.tensor(atoms.cell.array).reshape(1, 9))
        virial = own["virial"].detach().numpy().reshape(3, 3)
        assert np.abs(found.forces).max() > 1e-3, "forces are too small to compare"
        is_equal &= abs(own["energy"].item() - found.energy) < tolerance * len(atoms)
        is_equal &= bool(np.abs(own["force"][0].detach().numpy() - found.forces).max() < tolerance)
        is_equal &= bool(np.abs(-virial / atoms.cell.volume - found.stress).max() < tolerance)
    return is_equal


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dynamic_sel": False, "e_sel": 120, "a_sel": 40},
        {"use_exp_switch": True, "edge_init_use_dist": True, "a_compress_use_split": False},
        {"sequential_update": True, "n_multi_edge_message": 2},
        {"update_angle": False, "update_style": "res_avg"},
        {"nlayers": 1, "optim_update": False, "a_compress_rate": 0},
    ],
    ids=lambda changes: " ".join(changes) or "default",
)
def test_the_numbers_are_deepmds(crystals, tmp_path, changes):
    parameters = SMALL.parameters(ELEMENTS)
    parameters["descriptor"]["repflow"] |= changes
    parameters["descriptor"] |= {"concat_output_tebd": "use_exp_switch" in changes, "use_tebd_bias": not changes}
    network = deepmds_own(parameters)
    path = write_file(tmp_path / "own.pt", {"Default": network}, parameters)
    potential = DPA3ForceField(path).load(dtype="float64")
    assert agrees(network, potential, crystals)
    reached = set()
    weights = {name: weight for name, weight in potential.named_parameters() if weight.requires_grad}
    for tensor in potential.train()(potential.collate(crystals)):
        gradients = torch.autograd.grad(
            tensor.square().sum(), list(weights.values()), retain_graph=True, allow_unused=True
        )
        reached |= {name for name, one in zip(weights, gradients, strict=True) if one is not None and one.any()}
    assert reached == set(weights), "weights without influence must be frozen, others must not"


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_only_the_nearest_neighbours_count_as_in_deepmd(dense, tmp_path, is_dynamic):
    parameters = SMALL.parameters(ELEMENTS)
    parameters["descriptor"]["repflow"] |= {"e_sel": 30, "a_sel": 9, "use_dynamic_sel": is_dynamic}
    network = deepmds_own(parameters)
    path = write_file(tmp_path / "own.pt", {"Default": network}, parameters)
    potential = DPA3ForceField(path).load(dtype="float64")
    assert agrees(network, potential, dense)
    potential.backend = replace(potential.backend, n_neighbours=1000)
    assert not agrees(network, potential, dense, 1e-4)


def test_heads(crystals, two_heads, tmp_path):
    path, network = two_heads
    for head in ("B", "alias-B"):
        assert agrees(network, DPA3ForceField(path, head).load(dtype="float64"), crystals)
    assert not agrees(network, DPA3ForceField(path, "A").load(dtype="float64"), crystals, 1e-3)
    for head, shown in ((None, "null"), ("C", "C")):
        with pytest.raises(CheckpointError, match=rf"model.head = {shown}: {path} has several heads.* A, B"):
            DPA3ForceField(path, head).load()
    # a fine-tuned one has a single head left, and the configuration still names it
    DPA3ForceField(path, "B").load(dtype="float64").save(tmp_path / "one.pt")
    assert agrees(network, DPA3ForceField(str(tmp_path / "one.pt"), "B").load(dtype="float64"), crystals)


def test_deepmds_calculator_reads_what_was_saved(crystals, two_heads, tmp_path):
    import_deepmd()
    from deepmd.calculator import DP

    force_field = DPA3ForceField(two_heads[0], "A")
    potential = force_field.load()
    potential.shift_energies({3: 1.0, 16: -0.5})
    potential.save(tmp_path / "saved.pt")
    found = evaluate(crystals[:1], potential)[0]
    before = evaluate(crystals[:1], force_field.load())[0]
    counts = [int((crystals[0].numbers == number).sum()) for number in (3, 16)]
    assert found.energy - before.energy == pytest.approx(counts[0] - 0.5 * counts[1], abs=1e-4)
    for calculator, expected in ((DP(tmp_path / "saved.pt"), found), (force_field.reference_calculator(), before)):
        probe = crystals[0].copy()
        probe.calc = calculator
        assert probe.get_potential_energy() == pytest.approx(expected.energy, abs=1e-4)
        np.testing.assert_allclose(probe.get_forces(), expected.forces, atol=1e-4)
        np.testing.assert_allclose(probe.get_stress(voigt=False), expected.stress, atol=1e-5)


def test_mixed_precision(crystals, two_heads):
    potential = DPA3ForceField(two_heads[0], "A").load()
    exact = evaluate(crystals, potential, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rough = evaluate(crystals, potential.train(), 3)
    assert [result.energy for result in rough] == pytest.approx([result.energy for result in exact], rel=0.05, abs=0.1)


def test_random_weights_are_those_of_the_seed():
    state = torch.random.get_rng_state()
    one, same = SCRATCH.load().state_dict(), SCRATCH.load().state_dict()
    other = replace(SCRATCH, architecture=DPA3Architecture(seed=1)).load().state_dict()
    assert torch.equal(torch.random.get_rng_state(), state), "the global random numbers were touched"
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_loading_leaves_no_trace(tmp_path):
    """Not on the terminal, in the environment or in how processes start; compiled operators stay out."""
    code = (
        "import logging, multiprocessing, os, torch\n"
        "state = lambda: (dict(os.environ), multiprocessing.get_start_method(allow_none=True),\n"
        "    torch.get_num_threads(), torch.get_default_dtype(), logging.root.manager.disable)\n"
        "before = state()\n"
        "from chemloop.model.dpa3 import DPA3ForceField\n"
        "DPA3ForceField(None, elements=['Li']).load()\n"
        "assert state() == before, (before, state())\n"
        "from deepmd.pt.cxx_op import ENABLE_CUSTOMIZED_OP\n"
        "from deepmd.pt.utils.env import DEVICE\n"
        "assert not ENABLE_CUSTOMIZED_OP and DEVICE == torch.device('cpu')"
    )
    env = os.environ | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_importing_is_cheap():
    code = "import sys, chemloop.model.dpa3; assert not {'torch', 'deepmd'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_yaml_and_recipes(compose_config):
    config = compose_config("model=dpa3", "loop=paper")
    model = build(config["model"], "model")
    assert model == DPA3ForceField(head="MP_traj_v024_alldata_mixu", elements=ELEMENTS)
    assert build(compose_config("model=dpa3", "model.checkpoint=null", "model.head=null")["model"], "model") == SCRATCH
    recipe = build(config["training"], "training")
    assert isinstance(recipe, Recipe) and (recipe.epochs, recipe.batch_size, recipe.loss) == (50, "auto", "deepmd")
    assert (recipe.learning_rate, recipe.stop_learning_rate, recipe.decay_steps) == (1e-3, 3e-5, 2000)
    pairs = zip(recipe.energy_prefactor, recipe.force_prefactor, recipe.stress_prefactor, strict=True)
    assert list(pairs) == [(0.2, 100, 0.02), (20, 60, 1)]
    assert build(compose_config("model=dpa3")["training"], "training").epochs < 50


def test_weights_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path))
    asked = []
    monkeypatch.setattr("chemloop.model.weights.is_reachable", lambda host: bool(asked.append(host)))
    message = rf"DPA-3.1-3M are not here and huggingface.co or .* put the file at {tmp_path}/DPA-3.1-3M.pt"
    with pytest.raises(WeightsUnavailable, match=message):
        DPA3ForceField().load()
    assert {"huggingface.co", "hf-mirror.com", "modelscope.cn"} == set(asked)


def test_weights_are_fetched_once_and_checked(two_heads, tmp_path, monkeypatch):
    from deepmd.pretrained import download, registry

    from chemloop.runtime.disk import file_hash

    asked = []

    def copied(url, path):
        asked.append(url)
        Path(path).write_bytes(Path(two_heads[0]).read_bytes())

    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("chemloop.model.weights.is_reachable", lambda host: True)
    monkeypatch.setattr(download, "_rank_download_urls", lambda urls: urls[:1])
    monkeypatch.setattr(download, "_download_file", copied)
    force_field = DPA3ForceField("DPA-3.1-3M", "B")
    with pytest.raises(WeightsUnavailable, match="the weights of DPA-3.1-3M could not be downloaded"):
        force_field.load()
    assert not list(tmp_path.iterdir()), "what is not the published file must not stay"
    monkeypatch.setitem(registry.MODEL_REGISTRY["DPA-3.1-3M"], "sha256", file_hash(Path(two_heads[0])))
    force_field.load()
    force_field.load()
    assert len(asked) == 2 and [path.name for path in tmp_path.iterdir()] == ["DPA-3.1-3M.pt"]
    (tmp_path / "DPA-3.1-3M.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="DPA-3.1-3M.pt has the SHA-256 .*: delete the file to fetch it again"):
        force_field.load()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("descriptor", {"type": "dpa2"}, "a standard model with descriptor dpa2 and output ener; model=dpa3"),
        ("fitting_net", {"type": "dipole"}, "descriptor dpa3 and output dipole"),
        ("descriptor", {"exclude_types": [[0, 1]]}, "trained with descriptor.exclude_types, which model=dpa3 does"),
        ("fitting_net", {"numb_fparam": 2}, "trained with fitting_net.numb_fparam"),
        ("fitting_net", {"neuron": [9]}, r"does not fit deepmd-kit \d.*, it may be from another version"),
        ("descriptor", {"future_key": 1}, r"does not fit deepmd-kit \d.*another version: .*future_key"),
        ("repflow", {"nlayers": 1}, "holds weights that do not fit the architecture it names"),
        ("repflow", {"nlayers": 3}, "holds weights that do not fit the architecture it names"),
        ("repflow", {"use_dynamic_sel": False, "smooth_edge_update": False}, "repflow.smooth_edge_update = false"),
    ],
)
def test_other_models_and_versions(tmp_path, part, changes, message):
    replace(SCRATCH, architecture=SMALL).load().save(tmp_path / "other.pt")
    content = torch.load(tmp_path / "other.pt")
    parameters = content["_extra_state"]["model_params"]
    (parameters["descriptor"]["repflow"] if part == "repflow" else parameters[part]).update(changes)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"(?s)other.pt .*{message}"):
        DPA3ForceField(str(tmp_path / "other.pt")).load()


@pytest.mark.parametrize("content", [b"no checkpoint", {"model": {"state_dict": {}}}, {"model": 1}, []])
def test_foreign_files(tmp_path, content):
    path = tmp_path / "file.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    message = "is damaged or no checkpoint of deepmd-kit|the checkpoint of another architecture, not of deepmd-kit"
    with pytest.raises(CheckpointError, match=rf"(?s){path} .*({message})"):
        DPA3ForceField(str(path)).load()


def test_chgnets_file():
    import chgnet

    path = Path(chgnet.__file__).parent / "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"
    with pytest.raises(CheckpointError, match="another architecture, not of deepmd-kit"):
        DPA3ForceField(str(path)).load()


def test_unknown_elements_and_names(crystals):
    with pytest.raises(CheckpointError, match=r"DPA-3 from scratch does not know P; its elements are Li S"):
        DPA3ForceField(None, elements=["S", "Li"]).load().collate(crystals)
    with pytest.raises(CheckpointError, match=r"model.checkpoint = DPA-9: no such file.*DPA-3.1-3M"):
        DPA3ForceField("DPA-9").load()
    with pytest.raises(ConfigError, match=r"model.checkpoint is empty: give a name that deepmd-kit knows"):
        DPA3ForceField("")
    with pytest.raises(ConfigError, match=r"model.elements is empty: a DPA-3 from scratch needs them"):
        DPA3ForceField(None)


def test_atoms_without_angles_or_neighbours():
    cell = np.eye(3) * 30
    alone = Atoms("Li", [[0, 0, 0]], cell=cell, pbc=True)
    pair = Atoms("LiS", [[0, 0, 0], [0, 0, 2.5]], cell=cell, pbc=True)
    far = Atoms("LiS", [[0, 0, 0], [0, 0, 4.5]], cell=cell, pbc=True)
    potential = SCRATCH.load(dtype="float64").train()
    for structures in ([alone], [far], [pair], [alone, far, pair, alone]):
        prediction = potential(potential.collate(structures))
        prediction.forces.square().sum().backward()
        assert all(bool(tensor.isfinite().all()) for tensor in prediction)
    assert all(bool(weight.grad.isfinite().all()) for weight in potential.parameters() if weight.grad is not None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_dim", 0),
        ("a_dim", 5),
        ("a_dim", 40),
        ("nlayers", 0),
        ("e_rcut_smth", 7.0),
        ("a_rcut_smth", 0.0),
        ("a_rcut", 6.5),
        ("a_sel", 500),
        ("sel_reduce_factor", 0.0),
        ("fitting", []),
        ("seed", -1),
    ],
)
def test_architectures_that_cannot_be(key, value):
    with pytest.raises(ConfigError, match=rf"model.architecture.{key} = .*: must be "):
        DPA3Architecture(**{key: value})
