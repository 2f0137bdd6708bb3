"""MatterGen's configuration as plain data: the keys and classes of its published checkpoints, with sizes of our own.

A checkpoint's `config.yaml` is such a dictionary, so this is also the form in which others are read.

Source: `checkpoints/chemical_system_energy_above_hull/config.yaml` in github.com/microsoft/mattergen
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]
CONDITIONS = ("chemical_system", "energy_above_hull")
MASK = {"_target_": "mattergen.denoiser.mask_disallowed_elements", "_partial_": True}


def model_config(
    hidden: int, blocks: int, cutoff: float, neighbours: int, diffusion_steps: int, density: float
) -> Config:
    """A network with both conditions, of the kind of the published one: 512, 4, 7.0, 50, 1000, 0.0577.

    cutoff: A; density: atoms/A^3, of the cells from which sampling starts
    """
    gemnet = {
        "_target_": "mattergen.common.gemnet.gemnet.GemNetT",
        "atom_embedding": {
            "_target_": "mattergen.common.gemnet.layers.embedding_block.AtomEmbedding",
            "emb_size": hidden,
            "with_mask_type": True,
        },
        "cutoff": cutoff,
        "emb_size_atom": hidden,
        "emb_size_edge": hidden,
        "latent_dim": hidden,
        "max_cell_images_per_dim": 5,
        "max_neighbors": neighbours,
        "num_blocks": blocks,
        "num_targets": 1,
        "otf_graph": True,
        "regress_stress": True,
    }
    model = {
        "_target_": "mattergen.denoiser.GemNetTDenoiser",
        "atom_type_diffusion": "mask",
        "denoise_atom_types": True,
        "gemnet": gemnet,
        "hidden_dim": hidden,
        "property_embeddings": {},
    }
    diffusion = {
        "_target_": "mattergen.diffusion.diffusion_module.DiffusionModule",
        "corruption": _corruption(diffusion_steps, density),
        "loss_fn": {
            "_target_": "mattergen.common.loss.MaterialsLoss",
            "d3pm_hybrid_lambda": 0.01,
            "reduce": "sum",
            "weights": {"atomic_numbers": 1.0, "cell": 1.0, "pos": 0.1},
        },
        "model": model,
        "pre_corruption_fn": {
            "_target_": "mattergen.property_embeddings.SetEmbeddingType",
            "dropout_fields_iid": False,
            "p_unconditional": 0.2,
        },
    }
    module = {
        "_target_": "mattergen.diffusion.lightning_module.DiffusionLightningModule",
        "diffusion_module": diffusion,
    }
    return with_conditions({"lightning_module": module})


def _corruption(diffusion_steps: int, density: float) -> Config:
    """What noise does to atom types, cells and positions."""
    return {
        "_target_": "mattergen.diffusion.corruption.multi_corruption.MultiCorruption",
        "discrete_corruptions": {
            "atomic_numbers": {
                "_target_": "mattergen.diffusion.corruption.d3pm_corruption.D3PMCorruption",
                "d3pm": {
                    "_target_": "mattergen.diffusion.d3pm.d3pm.MaskDiffusion",
                    "dim": 101,
                    "schedule": {
                        "_target_": "mattergen.diffusion.d3pm.d3pm.create_discrete_diffusion_schedule",
                        "kind": "standard",
                        "num_steps": diffusion_steps,
                    },
                },
                "offset": 1,
            }
        },
        "sdes": {
            "cell": {
                "_target_": "mattergen.common.diffusion.corruption.LatticeVPSDE.from_vpsde_config",
                "vpsde_config": {
                    "beta_max": 20,
                    "beta_min": 0.1,
                    "limit_density": density,
                    "limit_var_scaling_constant": 0.25,
                },
            },
            "pos": {
                "_target_": "mattergen.common.diffusion.corruption.NumAtomsVarianceAdjustedWrappedVESDE",
                "limit_info_key": "num_atoms",
                "sigma_max": 5.0,
                "wrapping_boundary": 1.0,
            },
        },
    }


def conditions_of(config: Mapping[str, Any]) -> list[str]:
    """The properties that a network was trained on."""
    model = config["lightning_module"]["diffusion_module"]["model"]
    return [*model.get("property_embeddings", {}), *model.get("property_embeddings_adapt", {})]


def with_conditions(config: Mapping[str, Any]) -> Config:
    """The same network with both conditions, those that it lacked through adapter layers, and with the element mask.

    The mask has no weights, and the published networks were trained without it: one sample in ten leaves the system.
    """
    changed: Config = copy.deepcopy(dict(config))
    model = changed["lightning_module"]["diffusion_module"]["model"]
    missing = [name for name in CONDITIONS if name not in conditions_of(config)]
    if missing:
        model["_target_"] = "mattergen.adapter.GemNetTAdapter"
        adapted = model.get("property_embeddings_adapt", {})
        model["property_embeddings_adapt"] = adapted | {name: _embedding(name, model["hidden_dim"]) for name in missing}
        model["gemnet"]["_target_"] = "mattergen.common.gemnet.gemnet_ctrl.GemNetTCtrl"
        model["gemnet"]["condition_on_adapt"] = list(model["property_embeddings_adapt"])
    model["element_mask_func"] = dict(MASK)
    return changed


def _embedding(name: str, hidden: int) -> Config:
    if name == "chemical_system":
        embedded = {"_target_": "mattergen.property_embeddings.ChemicalSystemMultiHotEmbedding", "hidden_dim": hidden}
        scaler = "torch.nn.Identity"
    else:
        embedded = {"_target_": "mattergen.diffusion.model_utils.NoiseLevelEncoding", "d_model": hidden}
        scaler = "mattergen.common.utils.data_utils.StandardScalerTorch"
    return {
        "_target_": "mattergen.property_embeddings.PropertyEmbedding",
        "conditional_embedding_module": embedded,
        "name": name,
        "scaler": {"_target_": scaler},
        "unconditional_embedding_module": {
            "_target_": "mattergen.property_embeddings.EmbeddingVector",
            "hidden_dim": hidden,
        },
    }
