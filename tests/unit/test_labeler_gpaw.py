"""labeler=gpaw: real DFT, coarse, on Li2S; skipped where GPAW is not installed (make dft)."""

import importlib.util
import shutil

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from chemloop.labeler.gpaw import GpawLabeler, mesh
from chemloop.runtime.errors import ConfigError, ItemFailed

needs_gpaw = pytest.mark.skipif(importlib.util.find_spec("gpaw") is None, reason="GPAW is not installed: make dft")
COARSE = {"cutoff": 300.0, "k_density": 8, "timeout_min": 20}


def lithium_sulfide(a: float = 5.72) -> Atoms:
    cell = [a] * 3 + [90] * 3
    atoms = crystal(["Li", "S"], [(0.25, 0.25, 0.25), (0, 0, 0)], spacegroup=225, cellpar=cell, primitive_cell=True)
    atoms.info.clear()
    return atoms


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "calculation"
    folder.mkdir()
    return folder


@needs_gpaw
def test_single_point_and_ranks(datasets, tmp_path):
    """Li with its 1s electrons; the same numbers on two MPI ranks where there is MPI."""
    results = []
    for n_ranks in (1, 2) if shutil.which("mpiexec") else (1,):
        labeler = GpawLabeler(datasets=datasets, n_ranks=n_ranks, **COARSE)
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        labeler.write(lithium_sulfide(), "static", folder)
        labeler.run(folder)
        (frame,) = labeler.read(folder)
        assert frame.info["energy_frame"] == labeler.settings_id()
        results.append(frame)
    assert np.abs(results[0].arrays["label_forces"]).max() < 1e-3
    assert results[0].info["label_energy"] == pytest.approx(-11.798, abs=0.02)
    for frame in results[1:]:
        assert frame.info["label_energy"] == pytest.approx(results[0].info["label_energy"], abs=1e-6)
        assert frame.info["label_stress"] == pytest.approx(results[0].info["label_stress"], abs=1e-7)


@needs_gpaw
def test_relaxation_interrupted_and_continued(datasets, workdir):
    start = lithium_sulfide(5.9)
    start.positions[0] += 0.1
    short = GpawLabeler(datasets=datasets, max_steps=1, fmax=0.2, **COARSE)
    short.write(start, "relax", workdir)
    short.run(workdir)
    first = short.read(workdir)
    assert len(first) == 2 and not first[-1].info["converged"]
    (workdir / "outcome.json").unlink()  # as if the process had been killed after its second step
    with pytest.raises(ItemFailed, match="ended early") as caught:
        short.read(workdir)
    assert caught.value.retryable
    labeler = GpawLabeler(datasets=datasets, max_steps=40, fmax=0.2, **COARSE)
    labeler.write(start, "relax", workdir)
    labeler.run(workdir)
    frames = labeler.read(workdir)
    assert frames[-1].info["converged"] and len(frames) > 2
    assert [frame.info["label_energy"] for frame in frames[:2]] == [frame.info["label_energy"] for frame in first]
    assert frames[-1].info["label_energy"] < frames[0].info["label_energy"]


@needs_gpaw
def test_timeout(datasets, workdir):
    labeler = GpawLabeler(datasets=datasets, timeout_min=0.01)
    labeler.write(lithium_sulfide(), "relax", workdir)
    with pytest.raises(ItemFailed, match="labeler.timeout_min = 0.01 min") as caught:
        labeler.run(workdir)
    assert caught.value.retryable


@needs_gpaw
def test_no_dataset(workdir, tmp_path):
    labeler = GpawLabeler(datasets=str(tmp_path / "datasets"), **COARSE)
    with pytest.raises(ConfigError, match=r"no PAW data set for U \(PBE\).*labeler.valence.U=N"):
        labeler.write(bulk("U", "fcc", 4.0), "static", workdir)


@needs_gpaw
def test_output_of_another_structure(datasets, workdir):
    labeler = GpawLabeler(datasets=datasets, **COARSE)
    labeler.write(lithium_sulfide(), "static", workdir)
    from chemloop.physics.structures import set_results, write_structures
    from chemloop.runtime.disk import write_json

    other = bulk("Li")
    write_structures(workdir / "frames.extxyz", [set_results(other, "label", 0.0, np.zeros((1, 3)), np.eye(3), "x")])
    write_json(workdir / "outcome.json", {"failure": None})
    with pytest.raises(ItemFailed, match="is of another structure: it begins with Li in"):
        labeler.read(workdir)
    polymorph = lithium_sulfide()
    polymorph.positions[0] += 0.2
    for other in (polymorph, lithium_sulfide(5.8)):
        frame = set_results(other, "label", 0.0, np.zeros((3, 3)), np.eye(3), "x")
        write_structures(workdir / "frames.extxyz", [frame])
        with pytest.raises(ItemFailed, match="is of another structure: it begins with Li2S in"):
            labeler.read(workdir)
    write_json(workdir / "outcome.json", {"failure": "the SCF diverged twice"})
    with pytest.raises(ItemFailed, match="diverged twice") as caught:
        labeler.read(workdir)
    assert not caught.value.retryable


def test_no_gpaw(workdir, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="GPAW, which is not installed; run: make dft"):
        GpawLabeler().write(lithium_sulfide(), "static", workdir)


def test_mesh_is_that_of_the_paper():
    assert mesh(lithium_sulfide(), 64) == [6, 6, 6]


def test_settings_id_leaves_out_where_it_runs(tmp_path):
    same = (GpawLabeler(), GpawLabeler(n_ranks=8, datasets=str(tmp_path), timeout_min=1))
    assert len({labeler.settings_id() for labeler in same}) == 1
    assert GpawLabeler(cutoff=500).settings_id() != GpawLabeler().settings_id()


@pytest.mark.parametrize(
    ("key", "value"),
    [("cutoff", 0.0), ("k_density", 0), ("smearing", 0.0), ("fmax", -1.0), ("max_steps", 0), ("n_ranks", 0)],
)
def test_bad_settings_name_their_key(key, value):
    with pytest.raises(ConfigError, match=f"labeler.{key} = "):
        GpawLabeler(**{key: value})


def test_bad_valence():
    with pytest.raises(ConfigError, match="labeler.valence.Li = 4"):
        GpawLabeler(valence={"Li": 4})


def test_smoke_experiment_is_a_valid_configuration():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from chemloop import config
    from chemloop.__main__ import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("config", ["experiment=gpaw_smoke"], return_hydra_config=True)
    options = {"labeler": node.hydra.runtime.choices["labeler"]}
    node = OmegaConf.masked_copy(node, [key for key in node if key != "hydra"])
    settings = config.load({**OmegaConf.to_container(node, resolve=True), "options": options})
    assert isinstance(settings.labeler, GpawLabeler) and options == {"labeler": "gpaw"}
    assert settings.loop.n_labelled >= 8 and settings.generator.max_atoms <= 12


@needs_gpaw
@pytest.mark.parametrize("gentle_helps", [True, False])
def test_scf_that_diverges_is_tried_once_more_with_slow_mixing(tmp_path, monkeypatch, gentle_helps):
    from chemloop.labeler.gpaw_job import GENTLE, PatientGpaw

    built = []

    class Impatient(PatientGpaw):
        def _build(self, **more):
            built.append(more)
            limit = {} if built[1:] and gentle_helps else {"maxiter": 2}
            return super()._build(**more, **limit)

    monkeypatch.chdir(tmp_path)
    job = {"cutoff": 200.0, "mesh": [1, 1, 1], "setups": {}, "smearing": 0.05, "is_spin_polarized": False}
    atoms = lithium_sulfide()
    atoms.calc = Impatient(job)
    if gentle_helps:
        assert np.isfinite(atoms.get_potential_energy())
    else:
        with pytest.raises(ItemFailed, match="the SCF diverged twice, also with slow mixing") as caught:
            atoms.get_potential_energy()
        assert not caught.value.retryable
    assert built == [{}, {"mixer": GENTLE}]
