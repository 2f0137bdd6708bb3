"""All backends in one process, each computing something small; prints one JSON object for `test_environment.py`."""

from __future__ import annotations

import json
import sys
import types
import warnings
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk


def rocksalt() -> Atoms:
    """Eight atoms of LiS, displaced."""
    atoms = bulk("NaCl", "rocksalt", a=5.1, cubic=True)
    atoms.numbers = np.where(atoms.numbers == 11, 3, 16)
    atoms.rattle(0.1, seed=1)
    return atoms


def pretrained_energies() -> dict[str, float]:
    """eV, with the weights that come inside the packages."""
    from chgnet.model import CHGNetCalculator
    from sevenn.calculator import SevenNetCalculator

    calculators = {
        "chgnet": CHGNetCalculator(use_device="cpu", verbose=False),
        "sevennet": SevenNetCalculator("7net-0", device="cpu"),
    }
    return {name: float(calculator.get_potential_energy(rocksalt())) for name, calculator in calculators.items()}


def mace() -> dict[str, float]:
    """A MACE whose weights are sines of their position: the same in every version of every package."""
    import torch
    from e3nn import o3
    from mace import data, modules
    from mace.tools import AtomicNumberTable, torch_geometric

    torch.set_default_dtype(torch.float64)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    network = modules.ScaleShiftMACE(
        r_max=4.5,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("4x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([-1.0, -2.0]),
        avg_num_neighbors=20.0,
        atomic_numbers=[3, 16],
        correlation=2,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    position = 0
    with torch.no_grad():
        for weights in network.parameters():
            values = torch.arange(position, position + weights.numel(), dtype=torch.float64)
            weights.copy_(2 * torch.sin(values).reshape(weights.shape))
            position += weights.numel()
    configuration = data.config_from_atoms(rocksalt())
    graph = data.AtomicData.from_config(configuration, z_table=AtomicNumberTable([3, 16]), cutoff=4.5)
    batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
    output = network(batch.to_dict(), compute_stress=True)
    torch.set_default_dtype(torch.float32)
    sums = {key: float(output[key].detach().abs().sum()) for key in ("forces", "stress")}
    return {"energy": float(output["energy"]), **sums}


def mattersim() -> dict[str, float]:
    """Force on one coordinate of an untrained M3GNet, from the network and from two energies."""
    import torch
    from mattersim.forcefield import MatterSimCalculator, Potential
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    torch.manual_seed(0)
    network = M3Gnet(num_blocks=2, units=16, max_l=3, max_n=3, cutoff=4.5, threebody_cutoff=3.5, device="cpu")
    calculator = MatterSimCalculator(Potential(network, device="cpu"), device="cpu")
    step, energies = 0.01, []
    for sign in (1, -1):
        atoms = rocksalt()
        atoms.positions[0, 0] += sign * step
        energies.append(float(calculator.get_potential_energy(atoms)))
    force = float(calculator.get_forces(rocksalt())[0, 0])
    return {"force": force, "difference_quotient": (energies[1] - energies[0]) / (2 * step)}


def dpa() -> dict[str, float]:
    """Energies of an untrained DPA-3, eager and compiled with TorchScript as deepmd-kit does for checkpoints."""
    import torch

    from chemloop.model.dpa3_checkpoint import import_deepmd

    import_deepmd()
    from deepmd.pt.model.model import get_model

    repflow = {
        "n_dim": 8,
        "e_dim": 4,
        "a_dim": 4,
        "nlayers": 2,
        "e_rcut": 4.5,
        "e_rcut_smth": 4.0,
        "e_sel": 60,
        "a_rcut": 3.5,
        "a_rcut_smth": 3.0,
        "a_sel": 20,
        "axis_neuron": 2,
        "use_dynamic_sel": True,
        "smooth_edge_update": True,
        "sel_reduce_factor": 10.0,
    }
    network = get_model(
        {
            "type_map": ["Li", "S"],
            "descriptor": {"type": "dpa3", "repflow": repflow, "precision": "float64", "seed": 1},
            "fitting_net": {"neuron": [16, 16], "precision": "float64", "seed": 1},
        }
    )
    atoms = rocksalt()
    kinds = torch.tensor((atoms.numbers == 16).astype(int)[None])
    box = torch.tensor(atoms.cell.array.reshape(1, 9))
    energies = {}
    for name, model in {"eager": network, "compiled": torch.jit.script(network)}.items():
        positions = torch.tensor(atoms.positions[None], requires_grad=True)
        energies[name] = float(model(positions, kinds, box)["energy"])
    return energies


def stand_in_for_torch_scatter() -> None:
    """MatterGen imports the compiled torch_scatter; torch-geometric's own `scatter` does what is used here."""
    from torch_geometric.utils import scatter

    module: Any = types.ModuleType("torch_scatter")
    module.scatter = lambda src, index, dim=0, dim_size=None, reduce="sum": scatter(src, index, dim, dim_size, reduce)
    module.scatter_add = lambda src, index, dim=0, dim_size=None: scatter(src, index, dim, dim_size)
    module.segment_coo = module.segment_csr = None
    sys.modules["torch_scatter"] = module


def mattergen() -> dict[str, float]:
    """Losses of MatterGen's diffusion, data set and trainer, with a linear layer per field in place of GemNet."""
    import torch

    stand_in_for_torch_scatter()
    import pytorch_lightning
    from mattergen.common.data.collate import collate
    from mattergen.common.data.dataset import CrystalDataset
    from mattergen.common.data.transform import set_chemical_system_string, symmetrize_lattice
    from mattergen.common.diffusion.corruption import LatticeVPSDE, NumAtomsVarianceAdjustedWrappedVESDE
    from mattergen.common.loss import MaterialsLoss
    from mattergen.diffusion.corruption.d3pm_corruption import D3PMCorruption
    from mattergen.diffusion.corruption.multi_corruption import MultiCorruption
    from mattergen.diffusion.d3pm.d3pm import MaskDiffusion, create_discrete_diffusion_schedule
    from mattergen.diffusion.diffusion_module import DiffusionModule
    from mattergen.diffusion.lightning_module import DiffusionLightningModule

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos, self.cell = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.logits = torch.nn.Embedding(102, 101)

        def forward(self, x: Any, t: Any) -> Any:
            return x.replace(pos=self.pos(x.pos), cell=self.cell(x.cell), atomic_numbers=self.logits(x.atomic_numbers))

    losses: list[float] = []

    class Record(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(float(outputs["loss"]))

    crystals = [bulk("NaCl", "rocksalt", a=5.6), bulk("Li", "bcc", a=3.4), bulk("Si")]
    dataset = CrystalDataset(
        pos=np.concatenate([atoms.get_scaled_positions() for atoms in crystals]),
        cell=np.array([atoms.cell.array for atoms in crystals]),
        atomic_numbers=np.concatenate([atoms.numbers for atoms in crystals]),
        num_atoms=np.array([len(atoms) for atoms in crystals]),
        structure_id=np.array(["a", "b", "c"]),
        properties={"energy_above_hull": np.zeros(3, dtype=np.float32)},
        transforms=[symmetrize_lattice, set_chemical_system_string],
    )
    schedule = create_discrete_diffusion_schedule(kind="standard", num_steps=20)
    positions = NumAtomsVarianceAdjustedWrappedVESDE(wrapping_boundary=1.0, sigma_max=5.0, limit_info_key="num_atoms")
    corruption = MultiCorruption(
        sdes={"pos": positions, "cell": LatticeVPSDE()},
        discrete_corruptions={"atomic_numbers": D3PMCorruption(MaskDiffusion(dim=101, schedule=schedule), offset=1)},
    )
    torch.manual_seed(0)
    module = DiffusionLightningModule(
        DiffusionModule(Linear(), corruption, MaterialsLoss(d3pm_hybrid_lambda=0.01)),
        optimizer_partial=lambda params: torch.optim.Adam(params, lr=0.02),
    )
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu",
        max_epochs=60,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Record()],
    )
    trainer.fit(module, torch.utils.data.DataLoader(dataset, batch_size=3, collate_fn=collate))
    return {"first_loss": float(np.mean(losses[:15])), "last_loss": float(np.mean(losses[-15:]))}


def torchsim() -> dict[str, float]:
    """Energies of two Lennard-Jones argon crystals, together and one by one."""
    import torch
    import torch_sim
    from torch_sim.models.lennard_jones import LennardJonesModel

    model = LennardJonesModel(sigma=3.4, epsilon=0.0104, cutoff=8.5, device=torch.device("cpu"), dtype=torch.float64)
    crystals = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.2, 5.4)]

    def energies(batch: list[Atoms]) -> list[float]:
        state = torch_sim.io.atoms_to_state(batch, torch.device("cpu"), torch.float64)
        return model(state)["energy"].tolist()

    together, apart = energies(crystals), energies(crystals[:1]) + energies(crystals[1:])
    return {"together": sum(together), "apart": sum(apart)}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    parts = (pretrained_energies, mace, mattersim, dpa, mattergen, torchsim)
    print("\n" + json.dumps({part.__name__: part() for part in parts}))
