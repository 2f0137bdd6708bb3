"""A MatterGen too small to make crystals, and structures that it learns from."""

from importlib.resources import files

from ase import Atoms

from chemloop.generator.mattergen import MatterGenGenerator
from chemloop.generator.mattergen_data import Architecture, Schedule
from chemloop.physics.structures import read_structures

ELEMENTS = ["Li", "P", "S"]
TINY = MatterGenGenerator(
    checkpoint=None,
    batch_size=4,
    attempts_per_crystal=2,
    architecture=Architecture(hidden=32, blocks=1, cutoff=5.0, neighbours=8, diffusion_steps=20),
    scratch=Schedule(n_steps=40, max_epochs=2, batch_size=4),
    finetuning=Schedule(n_steps=40, max_epochs=1, batch_size=4, learning_rate=2e-5),
    n_checkpoints=2,
    n_scored=2,
)


def small_references() -> list[Atoms]:
    """Twelve small references that pretend to lie 0 to 0.11 eV/atom above the hull."""
    references = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    small = [atoms for atoms in references if len(atoms) <= 12]
    chosen = small[:: len(small) // 12][:12]
    for number, atoms in enumerate(chosen):
        atoms.info["e_above_hull"] = 0.01 * number
    return chosen
