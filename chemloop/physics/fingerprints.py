"""Fingerprints of coordination: matminer's CrystalNN order parameters of sites and structures, and their map.

As in the paper: `CrystalNNFingerprint` of preset "ops", oxidation states guessed from the formula, the mean over the
sites, with all atoms or without the mobile ion.

Source: N. E. R. Zimmermann, A. Jain, RSC Advances 10, 6063 (2020), doi 10.1039/C9RA07755C; L. Ward et al.,
Computational Materials Science 152, 60 (2018), doi 10.1016/j.commatsci.2018.05.018
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from chemloop.physics.oxidation import guess_oxidation_states
from chemloop.physics.structures import check_structure

if TYPE_CHECKING:
    from matminer.featurizers.site import CrystalNNFingerprint

N_FEATURES = 61
"""Of matminer's preset "ops": the weight of each coordination number to 24, and its order parameters."""


@lru_cache(maxsize=1)
def featurizer() -> CrystalNNFingerprint:
    """matminer's, whose `feature_labels()` name the columns."""
    from matminer.featurizers.site import CrystalNNFingerprint

    return CrystalNNFingerprint.from_preset("ops")


def site_fingerprints(atoms: Atoms, reasons: Counter[str] | None = None) -> np.ndarray:
    """(n_atoms, N_FEATURES) order parameters of each site; a row is NaN where CrystalNN finds no neighbours.

    reasons: counts, in place, why rows are NaN
    """
    check_structure(atoms)
    return _rows(atoms, _oxidation_states(atoms), reasons)


def structure_fingerprint(atoms: Atoms, leave_out: str | None, reasons: Counter[str] | None = None) -> np.ndarray:
    """(N_FEATURES,) mean over the sites; NaN where a site has no fingerprint, or nothing is left.

    leave_out: element whose atoms are taken out first, such as the mobile ion; oxidation states stay those with it
    reasons: counts, in place, why sites or structures have none
    """
    check_structure(atoms)
    kept = atoms[[symbol != leave_out for symbol in atoms.get_chemical_symbols()]]
    if len(kept) == 0:
        if reasons is not None:
            reasons[f"there are no atoms besides {leave_out}"] += 1
        return np.full(N_FEATURES, np.nan)
    return _rows(kept, _oxidation_states(atoms), reasons).mean(axis=0)


def _rows(atoms: Atoms, oxidation_states: Mapping[str, float], reasons: Counter[str] | None) -> np.ndarray:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.get_scaled_positions())
    structure.add_oxidation_state_by_element(dict(oxidation_states))
    rows = np.full((len(atoms), N_FEATURES), np.nan)
    with warnings.catch_warnings():
        # One for every site without an oxidation state or a radius.
        warnings.simplefilter("ignore", UserWarning)
        for site in range(len(atoms)):
            try:
                rows[site] = featurizer().featurize(structure, site)
            except (RuntimeError, ValueError) as error:
                if reasons is not None:
                    reasons[f"CrystalNN: {error}"] += 1
    return rows


def _oxidation_states(atoms: Atoms) -> Mapping[str, float]:
    """Of the reduced formula, so that they do not depend on the choice of the cell."""
    counts = atoms.symbols.formula.reduce()[0].count()
    return guess_oxidation_states(tuple(sorted(counts.items())))


def embed(fingerprints: np.ndarray, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """(n, 2) t-SNE coordinates of all rows jointly; rows that are not finite stay NaN and move no other.

    Without scaling, as in the paper: the features share one scale. Begun with the first two principal components, in
    one thread, so the same rows and seed give the same map. One row, or equal rows, are at the origin, two at -1 and 1.

    fingerprints: (n, n_features)
    perplexity: about how many neighbours a point has; at most a third of the other points

    Source: L. van der Maaten, G. Hinton, Journal of Machine Learning Research 9, 2579 (2008); scikit-learn's Barnes-Hut
    variant, L. van der Maaten, Journal of Machine Learning Research 15, 3221 (2014)
    """
    points = np.full((len(fingerprints), 2), np.nan)
    is_known = np.isfinite(fingerprints).all(axis=1)
    points[is_known] = _embed_finite(np.asarray(fingerprints, dtype=float)[is_known], seed, perplexity)
    return points


def _embed_finite(fingerprints: np.ndarray, seed: int, perplexity: float) -> np.ndarray:
    n = len(fingerprints)
    if n < 2 or np.ptp(fingerprints, axis=0).max() == 0.0:
        return np.zeros((n, 2))
    if n == 2:
        return np.array([[-1.0, 0.0], [1.0, 0.0]])
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(perplexity, max((n - 1) / 3.0, 1.0))
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(limits=1):  # sums over several threads depend on their number
        return np.asarray(tsne.fit_transform(fingerprints), dtype=float)
