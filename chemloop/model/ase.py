"""Any ASE calculator as a force field, for everything except fine-tuning: what it knows is its own business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from chemloop.runtime.errors import ConfigError, ItemFailed

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from chemloop.model.potential import NetworkPotential
    from chemloop.protocols import Batch, Prediction

REFUSAL = "model=ase cannot be fine-tuned: its calculator has no weights here; choose another model, --help lists them"


@dataclass
class AseForceField:
    """An ASE calculator as configured in `conf/model/ase.yaml`.

    calculator: `_target_`, the class or function that makes it, and its arguments, which may have a `_target_` too
    cutoff: A; an atom that has no neighbour within it is taken as evaporated
    checkpoint: the calculator's name and the hash of its arguments, which null becomes
    """

    can_learn: ClassVar[bool] = False

    calculator: dict[str, Any]
    cutoff: float = 6.0
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.cutoff <= 0:
            raise ConfigError(f"model.cutoff = {self.cutoff:g}: must be above 0 A")
        name = f"{self.calculator.get('_target_')}-{digest(self.calculator)}"
        if self.checkpoint not in (None, name):
            raise ConfigError(
                f"model.checkpoint = {self.checkpoint}: model=ase has none, leave it null; a calculator that reads"
                " weights is told so by an argument in model.calculator"
            )
        self.checkpoint = name

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential; results are in double precision whatever dtype is, as calculators give them.

        Raises: ConfigError
        """
        import torch

        from chemloop.model.potential import NetworkPotential

        network = torch.nn.Module()
        # no weight, but what tells others the device and the precision of the results
        place = torch.zeros(0, dtype=torch.float64, device=device)
        network.register_parameter("place", torch.nn.Parameter(place, requires_grad=False))
        backend = CalculatorBackend(str(self.checkpoint), self.cutoff, self.reference_calculator())
        return NetworkPotential(network, backend)

    def reference_calculator(self) -> Calculator:
        """The calculator itself.

        Raises: ConfigError
        """
        return build_calculator(self.calculator, "model.calculator")


@dataclass(frozen=True)
class CalculatorBackend:
    """Predictions of an ASE calculator, one structure after the other."""

    name: str
    cutoff: float
    calculator: Calculator
    elements: Collection[int] = range(1, 119)

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> list[Atoms]:
        return [atoms.copy() for atoms in structures]

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        """Without gradients.

        Raises: ItemFailed where the calculator fails; ConfigError in training mode
        """
        import numpy as np
        import torch

        from chemloop.protocols import Prediction

        if is_training:
            raise ConfigError(REFUSAL)
        energies, forces, stresses = zip(*(self._calculate(atoms) for atoms in batch.inputs), strict=True)
        arrays = np.array(energies), np.concatenate(forces), np.array(stresses)
        return Prediction(*(torch.as_tensor(x, dtype=torch.float64, device=batch.numbers.device) for x in arrays))

    def _calculate(self, atoms: Atoms) -> tuple[Any, Any, Any]:
        atoms.calc = self.calculator
        try:
            return (
                atoms.get_potential_energy(apply_constraint=False),
                atoms.get_forces(apply_constraint=False),
                atoms.get_stress(voigt=False, apply_constraint=False),
            )
        except Exception as error:
            # calculators raise what they like, for elements that they do not know just as for atoms too close
            raise ItemFailed(f"{self.name} failed on {atoms.symbols}: {type(error).__name__} {error}") from error

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        raise ConfigError(REFUSAL)

    def checkpoint(self, network: Any) -> Any:
        raise ConfigError(REFUSAL)


def build_calculator(specification: dict[str, Any], key: str) -> Calculator:
    """The ASE calculator that `_target_` and its arguments describe.

    key: of the configuration, for messages
    Raises: ConfigError
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    rule = "_target_ must name an ASE calculator class or a function that returns one, the other keys its arguments"
    try:
        calculator = instantiate(specification, _convert_="all")
    except HydraException as error:
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise ConfigError(f"{key} = {specification}: cannot be built ({reason}); {rule}") from error
    able = getattr(calculator, "implemented_properties", ())
    if missing := [name for name in ("energy", "forces", "stress") if name not in able]:
        raise ConfigError(f"{key} = {specification}: it computes no {', no '.join(missing)}; {rule}")
    return calculator


def digest(*content: Any) -> str:
    """Eight hexadecimal digits that change with any setting."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
