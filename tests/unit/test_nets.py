"""Whether two bond graphs are the same: exactly, and soon for nets of any symmetry."""

import networkx as nx
import numpy as np
import pytest
from ase import Atoms

from chemloop.physics.motifs import find_motifs
from chemloop.physics.nets import Ball, _is_isomorphic, is_same_net

CUTOFFS = {"P-S": 2.35, "S-S": 2.20, "P-P": 2.50}


@pytest.mark.timeout(60)
def test_nets_of_high_symmetry_take_no_longer():
    """Corner-sharing octahedra, in one cell and in a rattled larger one: a search atom by atom may take for ever."""
    cubic = Atoms("PS3", scaled_positions=[(0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)], cell=[4.4] * 3, pbc=True)
    large = cubic.repeat((2, 2, 2))[np.random.default_rng(0).permutation(32)]
    large.rattle(0.02, seed=0)
    (a,), (b,) = find_motifs(cubic, CUTOFFS, "Li"), find_motifs(large, CUTOFFS, "Li")
    assert a.title == b.title == "(PS3)_n network"
    assert is_same_net(a.net, b.net) and is_same_net(b.net, a.net)


@pytest.mark.parametrize("kind", ["any", "cubic"])
def test_graphs_are_equal_where_networkx_says_so(kind):
    """Small graphs of two labels, and those of three bonds per atom, of which colours say nothing."""
    rng = np.random.default_rng(0)
    n_equal = 0
    for _ in range(300):
        n = 10 if kind == "cubic" else int(rng.integers(2, 7))
        graphs = []
        for _ in range(2):
            seed = int(rng.integers(10**9))
            graph = nx.random_regular_graph(3, n, seed) if kind == "cubic" else nx.gnm_random_graph(n, n, seed)
            atoms = ["P"] * n if kind == "cubic" else rng.permutation(["P", *"S" * (n - 1)]).tolist()
            nx.set_node_attributes(graph, dict(enumerate(atoms)), "label")
            graphs.append(graph)
        a, b = (
            Ball([(graph.nodes[k]["label"], 0) for k in range(n)], [list(graph.adj[k]) for k in range(n)])
            for graph in graphs
        )
        is_equal = nx.is_isomorphic(*graphs, node_match=lambda one, other: one["label"] == other["label"])
        assert _is_isomorphic(a, b) == is_equal
        n_equal += is_equal
    assert 20 < n_equal < 280
