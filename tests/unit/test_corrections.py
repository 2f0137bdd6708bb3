"""VASP labels say their level of theory, and MP's corrections take only those that they were fitted to."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp.inputs import Kpoints

from chemloop.labeler.vasp_output import k_densities
from chemloop.physics.corrections import THEORY, check_one_theory, corrected_mp2020
from chemloop.physics.hull import energies_above_hull
from chemloop.physics.structures import set_results
from chemloop.runtime.errors import EnergyFrameError

TITLES = {"Li": "PAW_PBE Li_sv 10Sep2004", "S": "PAW_PBE S 06Sep2000", "Fe": "PAW_PBE Fe_pv 06Sep2000"}
TITLES["O"] = "PAW_PBE O 08Apr2002"


def labelled(atoms: Atoms, energy: float, frame: str = "vasp-mprelaxset-12345678", **theory) -> Atoms:
    potcars = {element: TITLES[element] for element in set(atoms.symbols)}
    own = {"functional": "PBE", "cutoff": 520.0, "hubbards": dict.fromkeys(potcars, 0.0), "potcars": potcars}
    own |= {"ismear": 0, "sigma": 0.05, "ispin": 2, "k_densities": [40.0, 90.0]}
    atoms.info[THEORY] = {**own, **theory}
    return set_results(atoms, "label", energy, np.zeros((len(atoms), 3)), np.zeros((3, 3)), frame)


def test_mp2020_corrects_sulfides_and_says_so():
    sulfide = labelled(bulk("LiS", "zincblende", 4.5), -8.0)
    lithium, sulfur = labelled(bulk("Li"), -1.9), labelled(bulk("S", "fcc", 4.0), -4.0)
    corrected = corrected_mp2020([sulfide, lithium, sulfur])
    # MP2020: -0.503 eV per S of a sulfide, nothing for an element
    assert corrected[0].info["label_energy"] == pytest.approx(-8.503, abs=1e-3)
    assert [atoms.info["label_energy"] for atoms in corrected[1:]] == [-1.9, -4.0]
    assert {atoms.info["energy_frame"] for atoms in corrected} == {"vasp-mprelaxset-12345678+mp2020"}
    assert sulfide.info["label_energy"] == -8.0
    with pytest.raises(EnergyFrameError, match="energies of 2 levels of theory met"):
        energies_above_hull([sulfide], corrected, "label")


def test_mp2020_corrects_oxides_with_a_hubbard_u():
    oxide = bulk("FeO", "rocksalt", 4.3)
    (corrected,) = corrected_mp2020([labelled(oxide, -14.0, "imported-x", hubbards={"Fe": 5.3, "O": 0.0})])
    # MP2020: -0.687 eV per O of an oxide, -2.256 eV per Fe with its U
    assert corrected.info["label_energy"] == pytest.approx(-14.0 - 0.687 - 2.256, abs=1e-3)
    with pytest.raises(EnergyFrameError, match="FeO: MP2020 was not fitted to its level of theory"):
        corrected_mp2020([labelled(oxide, -14.0, "imported-x", hubbards={"Fe": 4.0, "O": 0.0})])


def test_mp2020_refuses_other_levels_of_theory():
    bare = set_results(bulk("Li"), "label", -1.9, np.zeros((1, 3)), np.zeros((3, 3)), "gpaw-pbe-1")
    with pytest.raises(EnergyFrameError, match="mp2020 corrections are for VASP labels.*not for gpaw-pbe-1"):
        corrected_mp2020([bare])
    for theory in ({"functional": "R2SCAN"}, {"potcars": {"Li": "PAW_PBE Li 17Jan2003"}}):
        with pytest.raises(EnergyFrameError, match="Li: MP2020 was not fitted to its level of theory"):
            corrected_mp2020([labelled(bulk("Li"), -1.9, "imported-mp-r2scan", **theory)])
    once = corrected_mp2020([labelled(bulk("Li"), -1.9)])
    with pytest.raises(EnergyFrameError, match="corrected already"):
        corrected_mp2020(once)


@pytest.mark.parametrize(
    ("theory", "message"),
    [
        ({"functional": "R2SCAN"}, "functional PBE and R2SCAN"),
        ({"cutoff": 680.0}, "cutoff 520 eV and 680 eV"),
        ({"ismear": -5}, "ISMEAR 0 with SIGMA 0.05 eV and -5"),
        ({"sigma": 0.2}, "ISMEAR 0 with SIGMA 0.05 eV and 0 with SIGMA 0.2 eV"),
        ({"ispin": 1}, "ISPIN 2 and 1"),
        ({"k_densities": None}, "k-points from a mesh and a list"),
        ({"k_densities": [3.0, 25.0]}, "k-meshes of 3 to 25 and of 40 to 90 points.*the allowed factor of 1.5 apart"),
        ({"hubbards": {"Li": 0.0, "S": 2.0}}, "Hubbard U of S 0 eV and 2 eV"),
        (
            {"potcars": {"Li": "PAW_PBE Li 17Jan2003", "S": TITLES["S"]}},
            "POTCAR of Li PAW_PBE Li_sv .* and PAW_PBE Li 17Jan2003",
        ),
    ],
)
def test_runs_of_different_levels_of_theory(theory, message):
    elements = [labelled(bulk("Li"), -1.9), labelled(bulk("S", "fcc", 4.0), -4.0)]
    sulfide = bulk("LiS", "zincblende", 4.5)
    check_one_theory([*elements, labelled(sulfide.copy(), -8.0, k_densities=[10.0, 30.0])])
    with pytest.raises(EnergyFrameError, match=f"met: {message}; they are separate"):
        check_one_theory([*elements, labelled(sulfide, -8.0, **theory)])


def run(atoms: Atoms, mesh: Kpoints, **incar) -> SimpleNamespace:
    """What of pymatgen's Vasprun the k-density is read from."""
    return SimpleNamespace(kpoints=mesh, initial_structure=AseAtomsAdaptor.get_structure(atoms), incar=incar)


def by_density(atoms: Atoms, density: float) -> SimpleNamespace:
    structure = AseAtomsAdaptor.get_structure(atoms)
    return run(atoms, Kpoints.automatic_density_by_vol(structure, density, force_gamma=True))


def by_spacing(atoms: Atoms, spacing: float) -> SimpleNamespace:
    """As VASP does it."""
    lengths = 2 * np.pi * atoms.cell.reciprocal().lengths()
    return run(atoms, Kpoints.gamma_automatic([math.ceil(length / spacing) for length in lengths]), KSPACING=spacing)


@pytest.mark.parametrize(("rule", "usual", "finer"), [(by_density, 64, 400), (by_spacing, 0.22, 0.12)])
def test_one_density_gives_cells_their_own_meshes(rule, usual, finer):
    cells = [bulk("Li"), bulk("Li", "fcc", 4.3), bulk("Li", "hcp", 3.1), bulk("LiS", "zincblende", 5.5)]
    cells += [bulk("Li", cubic=True) * size for size in ((1, 1, 1), (1, 1, 8), (2, 3, 4), (1, 6, 6), (9, 9, 9))]
    cells += [Atoms("Li", cell=cell, pbc=True) for cell in ([3, 3, 9, 55, 60, 100], [2.5, 12, 3, 120, 60, 80])]
    runs = [rule(atoms, usual) for atoms in cells]
    assert len({run.kpoints.kpts[0] for run in runs}) > 5
    for atoms, one in zip(cells, runs, strict=True):
        labelled(atoms, -1.9, k_densities=k_densities(one))
    check_one_theory(cells)
    with pytest.raises(EnergyFrameError, match="met: k-meshes of"):
        check_one_theory([*cells, labelled(bulk("Li"), -1.9, k_densities=k_densities(rule(bulk("Li"), finer)))])


def test_an_uneven_mesh_and_a_list_of_k_points():
    low, high = k_densities(run(bulk("Li", cubic=True), Kpoints.gamma_automatic((9, 9, 2))))
    assert low < high
    check_one_theory([labelled(bulk("Li"), -1.9, k_densities=[low, high])])
    listed = Kpoints("a list", 1, Kpoints.supported_modes.Reciprocal, [(0, 0, 0)], kpts_weights=[1])
    assert k_densities(run(bulk("Li"), listed)) is None


def test_labels_of_earlier_versions_say_less():
    earlier = labelled(bulk("Li"), -1.9)
    for key in ("ismear", "sigma", "ispin", "k_densities"):
        del earlier.info[THEORY][key]
    check_one_theory([earlier, labelled(bulk("Li"), -1.9)])
