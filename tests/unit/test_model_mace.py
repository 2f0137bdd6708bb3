"""MACE's checkpoints: plain content, and the conversion of pickles of every e3nn.

`mace-e3nn-0.4.4.model.xz` was written with e3nn 0.4.4 and mace-torch 0.3.16, as the published files are:
torch.save of

    torch.manual_seed(0)                                                     # default dtype float64
    blocks = mace.modules.interaction_classes
    mace.modules.ScaleShiftMACE(
        r_max=4.5, num_bessel=3, num_polynomial_cutoff=5, max_ell=1, num_interactions=2, num_elements=2,
        hidden_irreps=o3.Irreps("2x0e+2x1o"), MLP_irreps=o3.Irreps("2x0e"), gate=torch.nn.functional.silu,
        atomic_energies=np.array([[-1.5, -2.5]]), avg_num_neighbors=20.0, atomic_numbers=[3, 16], correlation=2,
        interaction_cls=blocks["RealAgnosticDensityResidualInteractionBlock"],
        interaction_cls_first=blocks["RealAgnosticDensityInteractionBlock"], radial_MLP=[4], heads=["default"],
        pair_repulsion=True, distance_transform="Agnesi", atomic_inter_scale=0.8, atomic_inter_shift=0.1,
    ).float()
"""

from __future__ import annotations

import lzma
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from chemloop.model import mace, mace_checkpoint, weights
from chemloop.model.contract import EXACT, SINGLE, assert_equal
from chemloop.model.mace import MACEArchitecture, MACEForceField, export
from chemloop.physics.calculator import Results, evaluate
from chemloop.runtime.errors import CheckpointError, ConfigError, WeightsUnavailable

OLD_FILE = Path(__file__).with_name("mace-e3nn-0.4.4.model.xz")
SMALL = MACEArchitecture(r_max=4.0, num_channels=4, max_ell=1, num_radial_basis=4, MLP_irreps="4x0e")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder of converted and fetched weights."""
    folder = tmp_path / "weights"
    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def crystal():
    atoms = bulk("NaCl", "rocksalt", a=5.1, cubic=True)
    atoms.numbers = np.where(atoms.numbers == 11, 3, 16)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "old.model"
    path.write_bytes(lzma.decompress(OLD_FILE.read_bytes()))
    return path


@pytest.fixture
def force_field():
    return MACEForceField(None, SMALL, ["S", "Li"])


def own_results(path: Path, atoms) -> Results:
    """What mace's calculator makes of one of mace's files."""
    from mace.calculators import MACECalculator

    atoms = atoms.copy()
    atoms.calc = MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    return Results(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))


def test_from_scratch_is_the_same_at_every_load(force_field, crystal):
    state, precision = torch.get_rng_state(), torch.get_default_dtype()
    first, again, other = (
        evaluate([crystal], ff.load(dtype="float64"))
        for ff in (force_field, force_field, replace(force_field, architecture=replace(SMALL, seed=1)))
    )
    assert_equal(first, again, (0, 0, 0))
    assert abs(first[0].energy - other[0].energy) > 1e-3
    assert torch.equal(state, torch.get_rng_state()) and torch.get_default_dtype() == precision
    assert_equal(evaluate([crystal], force_field.load(dtype="float32")), first, SINGLE)


def test_file_of_e3nn_0_4_gives_the_energy_that_it_gave_there(old_file, crystal, caplog):
    (result,) = evaluate([crystal], MACEForceField(str(old_file)).load(dtype="float64"))
    assert result.energy == pytest.approx(-12.509957018292956, abs=1e-10)
    assert np.abs(result.forces).sum() == pytest.approx(1.2867006926931477, rel=1e-9)
    assert np.abs(result.stress).sum() == pytest.approx(0.27391926742727335, rel=1e-9)
    assert not caplog.records, "energies could not be compared"


def test_file_is_opened_once(old_file, crystal, kept, monkeypatch):
    first = evaluate([crystal], MACEForceField(str(old_file)).load())
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr(mace_checkpoint, "_converted", lambda path: pytest.fail("opened again"))
    assert_equal(evaluate([crystal], MACEForceField(str(old_file)).load()), first, (0, 0, 0))


def test_wrong_conversion_is_noticed(old_file, kept, monkeypatch):
    plain = mace_checkpoint._plain_config
    monkeypatch.setattr(mace_checkpoint, "_plain_config", lambda *args: plain(*args) | {"gate": "tanh"})
    with pytest.raises(CheckpointError, match=r"old\.model could not be converted .* it was -?\d"):
        MACEForceField(str(old_file)).load()
    assert not kept.exists()


@pytest.mark.parametrize("kind", ["MACE", "ScaleShiftMACE"])
def test_file_of_this_e3nn(kind, force_field, crystal, tmp_path):
    config = SMALL.config(force_field.elements)
    if kind == "MACE":
        del config["atomic_inter_scale"], config["atomic_inter_shift"]
    path = tmp_path / "own.model"
    torch.save(mace_checkpoint.build(kind, config, seed=2), path)
    potential = MACEForceField(str(path)).load(dtype="float64")
    assert_equal(evaluate([crystal], potential), [own_results(path, crystal)], EXACT)
    potential.save(tmp_path / "saved.pt")
    saved = MACEForceField(str(tmp_path / "saved.pt")).load(dtype="float64")
    assert_equal(evaluate([crystal], saved), evaluate([crystal], potential), (0, 0, 0))


def test_export_for_the_tools_of_mace(force_field, crystal, tmp_path):
    potential = force_field.load(dtype="float64")
    potential.shift_energies({3: 0.5, 16: -1.0})
    potential.save(tmp_path / "saved.pt")
    export(tmp_path / "saved.pt", tmp_path / "saved.model")
    assert_equal([own_results(tmp_path / "saved.model", crystal)], evaluate([crystal], potential), EXACT)


def test_named_weights_put_there_by_hand(old_file, crystal, kept, monkeypatch):
    kept.mkdir()
    shutil.copy(old_file, kept / "mace-medium-mpa-0.model")
    with pytest.raises(CheckpointError, match="SHA-256 .* those of MACE medium-mpa-0 have 75428afe"):
        MACEForceField().load()
    monkeypatch.setitem(mace.PUBLISHED, "medium-mpa-0", weights.file_hash(old_file))
    named, by_path = (evaluate([crystal], ff.load()) for ff in (MACEForceField(), MACEForceField(str(old_file))))
    assert_equal(named, by_path, (0, 0, 0))


def test_named_weights_out_of_reach(kept, monkeypatch):
    monkeypatch.setattr(weights, "is_reachable", lambda host: False)
    with pytest.raises(WeightsUnavailable, match=f"medium-mpa-0 .* put the file at {kept}/mace-medium-mpa-0.model"):
        MACEForceField().load()


def test_published_names_are_those_of_mace():
    from mace.calculators.foundations_models import mace_mp_urls

    assert set(mace.PUBLISHED) <= set(mace_mp_urls)


class Intruder:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_is_no_mace_is_not_opened(tmp_path):
    torch.save({"state_dict": Intruder(tmp_path / "intruded")}, tmp_path / "foreign.model")
    with pytest.raises(CheckpointError, match=r"foreign\.model is damaged or no checkpoint of mace"):
        MACEForceField(str(tmp_path / "foreign.model")).load()
    assert not (tmp_path / "intruded").exists()


def test_checkpoint_of_another_backend():
    import chgnet

    path = next(Path(chgnet.__file__).parent.glob("pretrained/0.3.0/*.tar"))
    with pytest.raises(CheckpointError, match="is the checkpoint of another architecture, not of mace"):
        MACEForceField(str(path)).load()


def test_damaged_files(force_field, old_file, tmp_path):
    old_file.write_bytes(old_file.read_bytes()[:100_000])
    force_field.load().save(tmp_path / "saved.pt")
    content = torch.load(tmp_path / "saved.pt", weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "saved.pt")
    for name, reason in {"old.model": "is damaged", "saved.pt": "do not fit", "missing": "no such file"}.items():
        with pytest.raises(CheckpointError, match=rf"{name}.*{reason}"):
            MACEForceField(str(tmp_path / name)).load()


def test_newer_version(force_field, tmp_path):
    import mace as package

    path = tmp_path / "newer.pt"
    force_field.load().save(path)
    torch.save(torch.load(path, weights_only=True) | {"mace_version": "9.1.0"}, path)
    with pytest.raises(CheckpointError, match=f"mace-torch 9.1.0, newer than the installed {package.__version__}"):
        MACEForceField(str(path)).load()


def test_several_heads(force_field, tmp_path):
    config = SMALL.config(["Li", "S"]) | {"heads": ["pbe", "r2scan"], "atomic_energies": [[0.0, 0.0]] * 2}
    config |= {"atomic_inter_scale": [1.0, 1.0], "atomic_inter_shift": [0.0, 0.0]}
    torch.save(mace_checkpoint.build("ScaleShiftMACE", config), tmp_path / "heads.model")
    with pytest.raises(CheckpointError, match="the heads pbe, r2scan.*select_head"):
        MACEForceField(str(tmp_path / "heads.model")).load()


def test_unknown_element(force_field):
    with pytest.raises(CheckpointError, match="MACE from scratch does not know P; its elements are Li S"):
        force_field.load().collate([bulk("P", "sc", a=3.0)])


def test_folder_that_cannot_be_written(old_file, kept):
    kept.write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=f"cannot be kept in {kept} .* set CHEMLOOP_WEIGHTS"):
        MACEForceField(str(old_file)).load()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MACEForceField(""), "model.checkpoint is empty"),
        (lambda: MACEForceField(None), "model.elements is empty"),
        (lambda: MACEForceField(None, elements=["Li", "Zz"]), "model.elements: Zz is not an element"),
        (lambda: MACEArchitecture(r_max=0), "model.architecture.r_max = 0: must be above 0 A"),
        (lambda: MACEArchitecture(MLP_irreps="16x1o"), "model.architecture.MLP_irreps = 16x1o: must be like 16x0e"),
        (lambda: MACEArchitecture(max_L=3), "model.architecture.max_ell = 2: must not be below"),
        (lambda: MACEArchitecture(num_interactions=1), "num_interactions = 1: must be 2 or above"),
    ],
)
def test_bad_configuration(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
