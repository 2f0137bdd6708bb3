"""The promises that every force field keeps, as tests that you can run on your own.

    from chemloop.model.contract import check
    check(MyForceField(checkpoint="my.pth"), structures)       # raises AssertionError with everything that fails

`structures`: two to four small crystals of different sizes (2 to 20 atoms) of elements that the model knows.
With pytest, one test per promise:

    @pytest.mark.parametrize("name", CHECKS)
    def test_contract(contract, name):                         # contract = Contract(force_field, structures)
        getattr(contract, name)()

Where the force field has a method `reference_calculator() -> ase Calculator` (its package's own, single precision),
predictions are compared with it too, also for the structures given as `references`. All other comparisons are made in
double precision. A force field with `can_learn = False` has no weights to check; what is checked is that it says so.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from chemloop.physics.calculator import Results, evaluate
from chemloop.physics.dynamics import simulate
from chemloop.physics.structures import set_results
from chemloop.runtime.errors import CheckpointError, ConfigError, ItemFailed

# double precision; networks carry constants in single precision, which limits how well symmetries hold
EXACT = (1e-9, 1e-8, 1e-9)
SYMMETRIC = (2e-6, 2e-5, 2e-6)
SINGLE = (5e-5, 2e-3, 2e-4)


def check(force_field: Any, structures: Sequence[Atoms], references: Sequence[Atoms] = ()) -> None:
    """Run all checks on one force field.

    Raises: AssertionError that lists every promise that is broken
    """
    contract = Contract(force_field, structures, references)
    broken = []
    for name in CHECKS:
        try:
            getattr(contract, name)()
        except AssertionError as error:
            broken.append(f"{name}: {error}")
    assert not broken, f"{type(force_field).__name__} breaks the contract:\n" + "\n".join(broken)


def assert_equal(found: Sequence[Results], expected: Sequence[Results], tolerances: Sequence[float]) -> None:
    """Energies per atom (eV), forces (eV/A) and stresses (eV/A^3) agree within the tolerances."""
    for one, other in zip(found, expected, strict=True):
        errors = (
            abs(one.energy - other.energy) / len(other.forces),
            np.abs(one.forces - other.forces).max(),
            np.abs(one.stress - other.stress).max(),
        )
        for what, error, tolerance in zip(("energy per atom", "forces", "stress"), errors, tolerances, strict=True):
            assert error <= tolerance, f"{what} differ by {error:.2g}, allowed is {tolerance:g}"


def of_weights(check: Callable[[Contract], None]) -> Callable[[Contract], None]:
    """A promise about weights, which a force field that cannot learn has not made."""

    @wraps(check)
    def checked(contract: Contract) -> None:
        if contract.can_learn:
            check(contract)

    return checked


class Contract:
    """One force field under test.

    references: more structures, which are compared with the package's own calculator and with nothing else
    """

    def __init__(self, force_field: Any, structures: Sequence[Atoms], references: Sequence[Atoms] = ()):
        self.force_field = force_field
        self.can_learn = force_field.can_learn
        self.crystals = [_bare(atoms) for atoms in structures]
        self.references = [_bare(atoms) for atoms in references]
        self.rng = np.random.default_rng(1)
        self.structures = [self._distorted(atoms) for atoms in self.crystals]

    def _distorted(self, atoms: Atoms) -> Atoms:
        copied = atoms.copy()
        copied.set_cell(copied.cell.array @ (np.eye(3) + self.rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        copied.positions += self.rng.normal(0, 0.08, copied.positions.shape)
        return copied

    @cached_property
    def potential(self) -> Any:
        return self.force_field.load("cpu", "float64")

    @cached_property
    def single(self) -> Any:
        return self.force_field.load("cpu", "float32")

    @cached_property
    def results(self) -> list[Results]:
        return evaluate(self.structures, self.potential, len(self.structures))

    def _evaluate(self, structures: Sequence[Atoms]) -> list[Results]:
        return evaluate(structures, self.potential, len(structures))

    def check_shapes(self) -> None:
        n_atoms = [len(atoms) for atoms in self.structures]
        batch = self.potential.collate(self.structures)
        assert batch.n_atoms.tolist() == n_atoms, "Batch.n_atoms are not the atoms per structure"
        assert batch.numbers.tolist() == np.concatenate([atoms.numbers for atoms in self.structures]).tolist()
        prediction = self.potential(batch)
        expected = {"energies": (len(n_atoms),), "forces": (sum(n_atoms), 3), "stresses": (len(n_atoms), 3, 3)}
        for (name, shape), tensor in zip(expected.items(), prediction, strict=True):
            assert tuple(tensor.shape) == shape, f"{name} have shape {tuple(tensor.shape)}, not {shape}"
            assert bool(tensor.isfinite().all()), f"{name} are not finite"
            assert not tensor.requires_grad, f"{name} carry gradients in evaluation mode"
        assert self.potential.cutoff > 0, f"cutoff is {self.potential.cutoff}"

    def check_batch_equals_one_by_one(self) -> None:
        alone = [self._evaluate([atoms])[0] for atoms in self.structures]
        assert_equal(self.results, alone, EXACT)
        assert_equal(self._evaluate(self.structures[::-1])[::-1], alone, EXACT)

    def check_padding_does_not_leak(self) -> None:
        """Cells of one atom and of 40 or more beside each other get what they get alone."""
        one = Atoms(self.crystals[0][:1].numbers, [[0.0, 0.0, 0.0]], cell=np.diag([3.0, 3.2, 3.4]), pbc=True)
        many = self._distorted(self.crystals[-1].repeat((-(-40 // len(self.crystals[-1])), 1, 1)))
        alone = [self._evaluate([atoms])[0] for atoms in (one, many)]
        assert_equal(self._evaluate([one, many, self.structures[0]]), [*alone, self.results[0]], EXACT)
        assert_equal(self._evaluate([many, one]), alone[::-1], EXACT)

    def check_forces_are_gradients(self, step: float = 1e-4) -> None:
        for atoms, result in zip(self.structures, self.results, strict=True):
            direction = self.rng.normal(size=(len(atoms), 3))
            direction /= np.linalg.norm(direction)
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions += sign * step * direction
                energies.append(self._evaluate([moved])[0].energy)
            slope = (energies[0] - energies[1]) / (2 * step)
            expected = -float((result.forces * direction).sum())
            assert abs(slope - expected) < 1e-5 + 1e-4 * abs(expected), f"dE/dx is {slope:.6f}, -F says {expected:.6f}"

    def check_stress_is_strain_derivative(self, step: float = 1e-4) -> None:
        for atoms, result in zip(self.structures, self.results, strict=True):
            strain = self.rng.normal(size=(3, 3))
            strain = (strain + strain.T) / np.linalg.norm(strain + strain.T)
            energies = []
            for sign in (1, -1):
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
                energies.append(self._evaluate([strained])[0].energy)
            slope = (energies[0] - energies[1]) / (2 * step * atoms.cell.volume)
            expected = float((result.stress * strain).sum())
            assert abs(slope - expected) < 1e-6 + 1e-4 * abs(expected), (
                f"dE/d(strain)/V is {slope:.7f}, the stress says {expected:.7f} eV/A^3"
            )
            assert np.allclose(result.stress, result.stress.T, atol=1e-8), "stress is not symmetric"

    def check_dynamics_conserves_energy(self, n_steps: int = 40, timesteps_fs: Sequence[float] = (0.5, 0.05)) -> None:
        """Side by side, without a bath: kinetic energy gains what the forces' own energy loses, if steps are small."""
        for timestep_fs in timesteps_fs:
            share = self._drift(n_steps, timestep_fs)
            if share < 5e-3:
                return
        raise AssertionError(f"in steps of {timestep_fs} fs the energy changes by {share:.2g} of what becomes kinetic")

    def _drift(self, n_steps: int, timestep_fs: float) -> float:
        """Change of the total energy over that of the kinetic energy, of the worse of two structures."""
        structures = self.structures[:2]
        path = simulate(structures, self.potential, n_steps, timestep_fs, 300.0, seed=1, friction_per_ps=0)
        frames = [list(found.values()) for found in path]
        if len(frames[-1]) < len(structures):
            return np.inf
        kinetic = np.array([[atoms.get_kinetic_energy() for atoms in found] for found in frames])
        total = kinetic + np.array([[atoms.get_potential_energy() for atoms in found] for found in frames])
        return float((np.ptp(total, axis=0) / np.maximum(np.ptp(kinetic, axis=0), 1e-9)).max())

    def check_translation(self) -> None:
        moved = [atoms.copy() for atoms in self.structures]
        for atoms in moved:
            atoms.positions += self.rng.normal(size=3)
        assert_equal(self._evaluate(moved), self.results, SYMMETRIC)

    def check_lattice_vector(self) -> None:
        moved = [atoms.copy() for atoms in self.structures]
        for atoms in moved:
            atoms.positions += self.rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
        assert_equal(self._evaluate(moved), self.results, SYMMETRIC)

    def check_rotation(self) -> None:
        rotation = Rotation.random(random_state=2).as_matrix()
        rotated = [atoms.copy() for atoms in self.structures]
        for atoms in rotated:
            atoms.set_cell(atoms.cell.array @ rotation.T, scale_atoms=True)
        expected = [
            Results(result.energy, result.forces @ rotation.T, rotation @ result.stress @ rotation.T)
            for result in self.results
        ]
        assert_equal(self._evaluate(rotated), expected, SYMMETRIC)

    def check_permutation(self) -> None:
        orders = [self.rng.permutation(len(atoms)) for atoms in self.structures]
        permuted = [atoms[order] for atoms, order in zip(self.structures, orders, strict=True)]
        expected = [r._replace(forces=r.forces[order]) for r, order in zip(self.results, orders, strict=True)]
        assert_equal(self._evaluate(permuted), expected, SYMMETRIC)

    def check_supercell(self) -> None:
        doubled = [atoms.repeat((1, 2, 1)) for atoms in self.structures[:2]]
        expected = [
            Results(2 * result.energy, np.tile(result.forces, (2, 1)), result.stress) for result in self.results[:2]
        ]
        assert_equal(self._evaluate(doubled), expected, SYMMETRIC)

    def check_input_is_not_changed(self) -> None:
        given = [atoms.copy() for atoms in self.structures]
        batch = self.potential.collate(given)
        first = self.potential(batch).forces.clone()
        if self.can_learn:
            trained = copy.deepcopy(self.potential).train()
            trained(batch).forces.square().sum().backward()
        assert bool((self.potential(batch).forces == first).all()), "a second use of a batch gives other forces"
        for atoms, original in zip(given, self.structures, strict=True):
            assert atoms == original and atoms.calc is None, "collate or forward changed a structure"

    @of_weights
    def check_save_and_load(self) -> None:
        import torch

        potential = copy.deepcopy(self.single).train()
        with torch.no_grad():
            for weight in potential.parameters():
                if weight.requires_grad:
                    weight *= 1 + 0.01 * torch.sin(torch.arange(weight.numel()).reshape(weight.shape))
        potential.shift_energies({int(number): 0.5 for number in self.crystals[0].numbers})
        expected = evaluate(self.structures, potential)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "saved.pt"
            potential.save(path)
            saved = dataclasses.replace(self.force_field, checkpoint=str(path))
            assert_equal(evaluate(self.structures, saved.load("cpu", "float32")), expected, (0, 0, 0))
            _compare_with_reference(saved, self.structures, expected)

    @of_weights
    def check_zero_step_finetuning(self) -> None:
        """A pass of the training over frames that it already predicts, with a learning rate of 0, changes nothing."""
        import torch

        from chemloop.training.averaging import MovingAverage
        from chemloop.training.data import targets
        from chemloop.training.loss import channel_losses, choose_weights
        from chemloop.training.recipe import Recipe

        potential, recipe = copy.deepcopy(self.single), Recipe()
        before = evaluate(self.structures, potential)
        frames = [
            set_results(atoms.copy(), "label", *result, "itself")
            for atoms, result in zip(self.structures, before, strict=True)
        ]
        weights = choose_weights(potential, [])
        optimizer, average = torch.optim.Adam(weights, lr=0), MovingAverage(weights, recipe.ema_decay)
        potential.train()
        for frame in frames:
            batch = potential.collate([frame])
            losses = channel_losses(potential(batch), targets([frame], weights[0]), batch.n_atoms, recipe)
            for channel, loss in losses.items():
                assert loss.item() < 1e-5, f"the {channel} loss of its own predictions is {loss.item():.2g}"
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            average.update()
        with average.applied():
            assert_equal(evaluate(self.structures, potential), before, (0, 0, 0))

    def check_reference_calculator(self) -> None:
        structures = [*self.structures, *self.references]
        _compare_with_reference(self.force_field, structures, evaluate(structures, self.single))

    def check_refusal_to_learn(self) -> None:
        """Who cannot learn says so before any work, and is left out by whoever asks for `can_learn`."""
        if self.can_learn:
            return
        batch = self.single.collate(self.structures[:1])
        for name, learn in (
            ("training mode", lambda: copy.copy(self.single).train()(batch)),
            ("shift_energies", lambda: self.single.shift_energies({1: 1.0})),
            ("save", lambda: self.single.save(Path("never-written"))),
        ):
            try:
                learn()
            except ConfigError as error:
                assert "cannot be fine-tuned" in str(error), f"{name}: the message does not say why: {error}"
            else:
                raise AssertionError(f"{name} is allowed, though the force field says that it cannot learn")

    @of_weights
    def check_shift_energies(self) -> None:
        potential = copy.deepcopy(self.potential)
        numbers = sorted({int(number) for atoms in self.structures for number in atoms.numbers})
        potential.shift_energies(dict.fromkeys(numbers, 0.0))
        assert_equal(evaluate(self.structures, potential, 4), self.results, (0, 0, 0))
        shifts = {number: 0.1 * (k + 1) for k, number in enumerate(numbers)}
        potential.shift_energies(shifts)
        expected = [
            result._replace(energy=result.energy + sum(shifts[int(number)] for number in atoms.numbers))
            for result, atoms in zip(self.results, self.structures, strict=True)
        ]
        assert_equal(evaluate(self.structures, potential, 4), expected, EXACT)

    @of_weights
    def check_gradients_reach_weights(self) -> None:
        potential = copy.deepcopy(self.single).train()
        batch = potential.collate(self.structures)
        weights = [weight for weight in potential.parameters() if weight.requires_grad]
        assert weights, "no weight is trainable"
        reached = [False] * len(weights)
        for name, least in (("energies", 0.5), ("forces", 0.5), ("stresses", 0.5)):
            potential.zero_grad()
            getattr(potential(batch), name).square().sum().backward()
            touched = [w.grad is not None and bool((w.grad != 0).any()) for w in weights]
            assert all(w.grad is None or bool(w.grad.isfinite().all()) for w in weights), f"{name}: gradient not finite"
            share = sum(touched) / len(weights)
            assert share >= least, f"the loss in {name} reaches only {share:.0%} of the weights"
            reached = [one or other for one, other in zip(reached, touched, strict=True)]
        lost = len(weights) - sum(reached)
        assert not lost, f"{lost} trainable weights have no influence on any prediction: set requires_grad to False"

    @of_weights
    def check_training_mode_predicts_the_same(self) -> None:
        prediction = copy.deepcopy(self.potential).train()(self.potential.collate(self.structures))
        energies = [result.energy for result in self.results]
        assert np.allclose(prediction.energies.detach().numpy(), energies, atol=1e-8), "training mode changes energies"

    def check_lone_atom(self) -> None:
        lone = Atoms(self.crystals[0][:1].numbers, [[0.0, 0.0, 0.0]], cell=np.eye(3) * 30, pbc=True)
        try:
            alone, among = self._evaluate([lone])[0], self._evaluate([lone, self.structures[0]])
        except ItemFailed:
            return
        assert np.abs(alone.forces).max() < 1e-8 and np.isfinite(alone.energy), "an atom alone feels a force"
        assert_equal(among, [alone, self.results[0]], EXACT)

    def check_unknown_element(self) -> None:
        heavy = self.crystals[0].copy()
        heavy.numbers[:] = 118
        try:
            self._evaluate([heavy])
        except (CheckpointError, ItemFailed) as error:
            assert "Og" in str(error), f"the message does not name the element: {error}"

    @of_weights
    def check_bad_checkpoints(self) -> None:
        import torch

        with tempfile.TemporaryDirectory() as folder:
            missing, garbage, foreign, cut = (Path(folder) / name for name in ("missing", "garbage", "foreign", "cut"))
            garbage.write_bytes(b"not a checkpoint")
            torch.save({"weights": torch.zeros(3)}, foreign)
            self.single.save(cut)
            cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
            for path in (missing, garbage, foreign, cut):
                try:
                    dataclasses.replace(self.force_field, checkpoint=str(path)).load("cpu", "float32")
                except CheckpointError as error:
                    assert str(path) in str(error), f"the message does not name the file: {error}"
                else:
                    raise AssertionError(f"a {path.name} checkpoint is accepted")


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.array, pbc=True)


def _compare_with_reference(force_field: Any, structures: Sequence[Atoms], expected: Sequence[Results]) -> None:
    if not hasattr(force_field, "reference_calculator"):
        return
    calculator = force_field.reference_calculator()
    found = []
    for atoms in structures:
        probe = atoms.copy()
        probe.calc = calculator
        found.append(Results(probe.get_potential_energy(), probe.get_forces(), probe.get_stress(voigt=False)))
    assert_equal(found, expected, SINGLE)


CHECKS = [name for name in vars(Contract) if name.startswith("check_")]
