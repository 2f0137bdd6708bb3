"""The forward pass of a DPA-3 on lists of pairs and angles.

This module imports torch: backends import it inside their methods.
"""

from __future__ import annotations

from typing import Any

import torch

from chemloop.model.dpa3 import Inputs


def atomic_energies(atomic_model: Any, vectors: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """The energy of each atom, (n_atoms,) eV, in double precision.

    The layers are deepmd-kit's; what it computes from padded arrays before them (`DescrptBlockRepflows.forward`) is
    done here for all structures as one.
    vectors: (n_pairs, 3) A
    """
    descriptor = atomic_model.descriptor
    block = descriptor.repflows
    pairs, types, edges, angles = inputs
    first, second = torch.cat([pairs.first, pairs.second])[edges], torch.cat([pairs.second, pairs.first])[edges]
    lengths, directions, edge_switch, angle_switch = _geometry(block, torch.cat([vectors, -vectors])[edges])
    edge_input, frame = _edge_inputs(block, lengths, directions * lengths, edge_switch, types[first])
    embedded = descriptor.type_embedding(types[None])
    nodes = block.act(embedded)
    edge_features = block.edge_embd(edge_input)
    if not block.edge_init_use_dist:
        edge_features = block.act(edge_features)
    # as deepmd-kit does: short of 1 by 1e-6 twice
    directions = directions * (lengths / (lengths + 1e-6))
    cosines = (directions[angles[0]] * directions[angles[1]]).sum(dim=1, keepdim=True) * (1 - 1e-6)
    angle_features = block.angle_embd(cosines / torch.pi**0.5)
    weights = angle_switch[angles[0]] * angle_switch[angles[1]]
    angle_index = torch.stack([first[angles[0]], angles[0], angles[1]])
    unused = types.new_zeros(1, len(types), 1)
    for layer in block.layers:
        if layer is block.layers[-1] and not block.sequential_update:
            # atoms no longer see what the last layer makes of angles
            angle_features, weights, angle_index = angle_features[:0], weights[:0], angle_index[:, :0]
        nodes, edge_features, angle_features = layer(
            node_ebd_ext=nodes,
            edge_ebd=edge_features,
            h2=frame,
            angle_ebd=angle_features,
            nlist=unused,
            nlist_mask=unused,
            sw=edge_switch[:, 0],
            a_nlist=unused,
            a_nlist_mask=unused,
            a_sw=weights,
            edge_index=torch.stack([first, second]),
            angle_index=angle_index,
        )
    if descriptor.concat_output_tebd:
        nodes = torch.cat([nodes, embedded], dim=-1)
    results = atomic_model.fitting_net(nodes, types[None])
    return atomic_model.apply_out_stat(results, types[None])["energy"].flatten()


def _geometry(block: Any, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lengths (n_edges, 1), directions (n_edges, 3), and how much an edge counts for atoms (n_edges, 1) and angles."""
    from deepmd.pt.utils.preprocess import compute_exp_sw, compute_smooth_weight

    switch = compute_exp_sw if block.use_exp_switch else compute_smooth_weight
    lengths = torch.linalg.norm(vectors, dim=1, keepdim=True)
    angle_switch = switch(lengths, block.a_rcut_smth, block.a_rcut)[:, 0]
    return lengths, vectors / lengths, switch(lengths, block.e_rcut_smth, block.e_rcut), angle_switch


def _edge_inputs(
    block: Any, lengths: torch.Tensor, vectors: torch.Tensor, switch: torch.Tensor, types: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network sees of the length (n_edges, 1) and the direction (n_edges, 3) of edges."""
    protected = lengths + block.env_protection
    environment = torch.cat([1 / protected, vectors / protected**2], dim=1) * switch
    # the statistics are the same for all neighbours of an atom
    environment = (environment - block.mean[types, 0]) / block.stddev[types, 0]
    return lengths if block.edge_init_use_dist else environment[:, :1], environment[:, 1:]
