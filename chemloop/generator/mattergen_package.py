"""All contact with the package `mattergen`: import without traces, networks, training steps, sampling.

Its wheel holds classes but no YAML, so networks are built from dictionaries (`mattergen_config`) and no command line,
Hydra composition, data folder or CIF file of its own is used. Pinned at 1.0.3; `tests/unit/test_generator_mattergen.py`
and `test_mattergen_checkpoint.py` go through everything that is used here.

Source: doi:10.1038/s41586-025-08628-5; github.com/microsoft/mattergen
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import math
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from chemloop.generator.mattergen_data import TrainedOn
from chemloop.generator.mattergen_scatter import stand_ins
from chemloop.runtime.errors import CheckpointError, ConfigError

MODULES = (
    "adapter",
    "common.data.collate",
    "common.data.dataset",
    "common.data.num_atoms_distribution",
    "common.data.transform",
    "common.diffusion.corruption",
    "common.diffusion.predictors_correctors",
    "common.gemnet.gemnet_ctrl",
    "common.gemnet.layers.basis_utils",
    "common.gemnet.layers.scaling",
    "common.loss",
    "common.utils.globals",
    "denoiser",
    "diffusion.corruption.d3pm_corruption",
    "diffusion.corruption.multi_corruption",
    "diffusion.d3pm.d3pm_predictors_correctors",
    "diffusion.lightning_module",
    "diffusion.sampling.classifier_free_guidance",
    "diffusion.wrapped.wrapped_predictors_correctors",
    "property_embeddings",
)
N_ALEX_MP_20 = 607_684
# A^3/atom and A of Alex-MP-20, wide: its structures themselves are not published with the networks
WIDE_VOLUMES, WIDE_STRETCHES = [5.0, 80.0], [0.8, 12.0]
BLOW_UPS = ("Expected reduction dim", "out of bounds", "to satisfy the constraint", "singular", "failed to converge")
"""In what torch says where a cell blew up, and the graph of its batch has no edge or no triplet left."""


class _NumpyWithMath(types.ModuleType):
    """numpy with the `math` that it had until version 1.24."""

    math = math

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@functools.cache
def import_mattergen() -> None:
    """Import what is used of the package, once, and put back what the import changes in this process.

    It prints, sets PROJECT_ROOT, a resolver `eval` and the root logger, and asks for compiled packages.
    Raises: ConfigError where it is not installed
    """
    if importlib.util.find_spec("mattergen") is None:
        raise ConfigError(
            "generator=mattergen needs a package that is not installed; run"
            " `pip install 'chemloop[mattergen]' && pip install --no-deps mattergen==1.0.3`"
        )
    with _unchanged_process(), _with_stand_ins():
        for name in MODULES:
            importlib.import_module(f"mattergen.{name}")
    layers: Any = importlib.import_module("mattergen.common.gemnet.layers.scaling")
    # Its file of scale factors is not in the wheel. A checkpoint brings its own; from scratch, 1 learns as fast.
    layers.read_value_json = lambda path, key: None
    importlib.import_module("mattergen.common.gemnet.layers.basis_utils").np = _NumpyWithMath("numpy")  # type: ignore[attr-defined]


def _module(name: str) -> Any:
    """A module of the package, never imported but through `import_mattergen`."""
    import_mattergen()
    return importlib.import_module(f"mattergen.{name}")


@contextlib.contextmanager
def _unchanged_process() -> Iterator[None]:
    from omegaconf import OmegaConf

    root, had_resolver = logging.getLogger(), OmegaConf.has_resolver("eval")
    handlers, level, project = root.handlers[:], root.level, os.environ.get("PROJECT_ROOT")
    if had_resolver:
        raise ConfigError("mattergen registers the OmegaConf resolver `eval`, and this process already has one")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        OmegaConf.clear_resolver("eval")
        root.handlers[:] = handlers
        root.setLevel(level)
        os.environ.pop("PROJECT_ROOT", None)
        if project is not None:
            os.environ["PROJECT_ROOT"] = project


@contextlib.contextmanager
def _with_stand_ins() -> Iterator[None]:
    """Pure-torch modules where the compiled ones are absent, seen by nobody else.

    torch_geometric is imported before: it would take them for the real ones.
    """
    importlib.import_module("torch_geometric")
    added = {name: module for name, module in stand_ins().items() if importlib.util.find_spec(name) is None}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def seen_by_published() -> TrainedOn:
    """Alex-MP-20, on which the published networks were trained: up to 20 atoms, up to 0.1 eV/atom above the hull."""
    from ase.data import chemical_symbols

    shares = _module("common.data.num_atoms_distribution").NUM_ATOMS_DISTRIBUTIONS["ALEX_MP_20"]
    numbers = _module("common.utils.globals").SELECTED_ATOMIC_NUMBERS
    sizes = {n: share * N_ALEX_MP_20 for n, share in shares.items()}
    return TrainedOn(
        sorted(chemical_symbols[number] for number in numbers), [0.0, 0.1], WIDE_VOLUMES, WIDE_STRETCHES, sizes
    )


def build(config: Mapping[str, Any]) -> Any:
    """The DiffusionModule that a configuration describes, with random weights from torch's generator.

    Raises: CheckpointError where it describes none
    """
    import_mattergen()
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        diffusion = instantiate(OmegaConf.create(config["lightning_module"]["diffusion_module"]))
    except (InstantiationException, OmegaConfBaseException) as error:
        raise CheckpointError(f"its config.yaml describes no network of mattergen 1.0.3: {error}") from error
    if "atomic_numbers" not in diffusion.corruption.discrete_corruptions:
        raise CheckpointError(
            "it places atoms of given compositions and proposes no elements; give one that also diffuses atom types"
        )
    return diffusion


def set_weights(diffusion: Any, weights: Mapping[str, torch.Tensor], added: Sequence[str] = ()) -> None:
    """Load `state_dict`s of the package's LightningModule.

    added: conditions whose layers the weights may lack
    Raises: CheckpointError where they belong to another network
    """
    plain = {name.removeprefix("diffusion_module."): values for name, values in weights.items()}
    own = diffusion.state_dict()
    wrong = [name for name in plain if name not in own or plain[name].shape != own[name].shape]
    missing = [name for name in own if name not in plain and not any(f".{key}." in name for key in added)]
    if wrong or missing:
        raise CheckpointError(
            f"its weights belong to another network than its config.yaml: {len(wrong)} do not fit and {len(missing)}"
            f" are missing, e.g. {(wrong + missing)[0]}"
        )
    diffusion.load_state_dict(plain, strict=False)


def weights_of(diffusion: Any) -> dict[str, torch.Tensor]:
    """Under the names of the package's LightningModule, on the CPU."""
    return {f"diffusion_module.{name}": x.detach().cpu().clone() for name, x in diffusion.state_dict().items()}


def dataset_of(structures: Sequence[Atoms], energies_above_hull: Sequence[float]) -> Any:
    """The package's data set, in memory."""
    transform = _module("common.data.transform")
    return _module("common.data.dataset").CrystalDataset(
        pos=np.concatenate([atoms.get_scaled_positions() for atoms in structures]),
        cell=np.array([atoms.cell.array for atoms in structures]),
        atomic_numbers=np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64),
        num_atoms=np.array([len(atoms) for atoms in structures]),
        structure_id=np.array([str(number) for number in range(len(structures))]),
        properties={"energy_above_hull": np.array(energies_above_hull, dtype=np.float32)},
        transforms=[transform.symmetrize_lattice, transform.set_chemical_system_string],
    )


def fit_scalers(diffusion: Any, dataset: Any, conditions: Sequence[str]) -> None:
    """Mean and spread of the conditions that are new to the network.

    The others keep theirs: what the network has learned of a value would otherwise change its meaning.
    """
    for name in conditions:
        if name in dataset.properties:
            diffusion.model.property_embeddings_adapt[name].fit_scaler(torch.tensor(dataset.properties[name]))


def collated(structures: Sequence[Any]) -> Any:
    """Structures of a data set as one batch."""
    return _module("common.data.collate").collate(structures)


def sample(
    diffusion: Any,
    n_atoms: Sequence[int],
    conditions: Mapping[str, str | float],
    guidance: float,
    stretches: Sequence[float],
) -> list[Atoms]:
    """One crystal of each number of atoms, as the sampler left it; cells may be anything. Uses torch's generator.

    guidance: 0 ignores the conditions, 1 samples the conditional distribution, above 1 sharpens it
    stretches: lowest and highest of the cells that a sample may be heading for, see `stretches_of`
    """
    transform, dataset = _module("common.data.transform"), _module("common.data.dataset")
    conditioned = [transform.SetProperty(name, value) for name, value in conditions.items()]
    wanted = dataset.NumAtomsCrystalDataset(num_atoms=np.array(n_atoms), properties={}, transforms=conditioned)
    batch = _module("common.data.collate").collate([wanted[i] for i in range(len(n_atoms))])
    with contextlib.redirect_stderr(io.StringIO()):
        _, mean = _sampler(diffusion, guidance, stretches).sample(batch)
    cells, sizes = mean.cell.cpu().numpy().astype(float), mean.num_atoms.cpu().numpy()
    split = np.cumsum(sizes)[:-1]
    positions = np.split(mean.pos.cpu().numpy().astype(float), split)
    numbers = np.split(mean.atomic_numbers.cpu().numpy(), split)
    made = []
    for cell, scaled, kinds in zip(cells, positions, numbers, strict=True):
        # an inverted lattice gives the mirror image of the same crystal, right-handed
        cell = -cell if np.linalg.det(np.nan_to_num(cell)) < 0 else cell
        made.append(Atoms(kinds, positions=scaled @ cell, cell=cell, pbc=True))
    return made


def is_blow_up(error: Exception) -> bool:
    """Whether sampling failed by what it had sampled, so that another attempt may do better."""
    return any(words in str(error) for words in BLOW_UPS)


def n_steps_of(diffusion: Any) -> int:
    """Diffusion steps that the network was trained with, and sampling takes."""
    return int(diffusion.corruption.discrete_corruptions["atomic_numbers"].N)


def _sampler(diffusion: Any, guidance: float, stretches: Sequence[float]) -> Any:
    """Predictor and corrector with the published settings, and a bound on the cells that they are heading for."""
    guided = _module("diffusion.sampling.classifier_free_guidance")
    lattice = _module("common.diffusion.predictors_correctors")
    wrapped = _module("diffusion.wrapped.wrapped_predictors_correctors")
    discrete = _module("diffusion.d3pm.d3pm_predictors_correctors")
    embeddings = _module("property_embeddings")

    class Bounded(guided.GuidedPredictorCorrector):  # type: ignore[name-defined, misc]  # known when it runs
        def _score_fn(self, x: Any, t: torch.Tensor) -> Any:
            scores = super()._score_fn(x, t)
            return scores.replace(cell=bounded_score(diffusion.corruption.sdes["cell"], x, t, scores.cell, stretches))

    n_steps = n_steps_of(diffusion)
    return Bounded(
        diffusion_module=diffusion,
        device=next(diffusion.parameters()).device,
        guidance_scale=guidance,
        remove_conditioning_fn=embeddings.SetUnconditionalEmbeddingType(),
        keep_conditioning_fn=embeddings.SetConditionalEmbeddingType(),
        predictor_partials={
            "pos": wrapped.WrappedAncestralSamplingPredictor,
            "cell": lattice.LatticeAncestralSamplingPredictor,
            "atomic_numbers": functools.partial(discrete.D3PMAncestralSamplingPredictor, predict_x0=True),
        },
        corrector_partials={
            "pos": functools.partial(wrapped.WrappedLangevinCorrector, max_step_size=1e6, snr=0.4),
            "cell": functools.partial(lattice.LatticeLangevinDiffCorrector, max_step_size=1e6, snr=0.2),
        },
        n_steps_corrector=1,
        N=n_steps,
        eps_t=1 / n_steps,
    )


def bounded_score(sde: Any, x: Any, t: torch.Tensor, scores: torch.Tensor, stretches: Sequence[float]) -> torch.Tensor:
    """(n, 3, 3) scores of cells, of which the final cell that they predict has been moved into the bounds.

    A network that has learned little lets cells grow a thousandfold, and the batch is lost. The bounds are a convex set
    that holds the true cell, so the prediction can only get better.
    Source: doi:10.48550/arXiv.2006.11239, the clipped prediction of the clean sample
    """
    keep = sde._marginal_mean_coeff(t)[:, None, None]
    variance = sde.marginal_prob(x=x.cell, t=t, batch=x)[1] ** 2
    rest = (1 - keep) * sde.get_limit_mean(x=x.cell, batch=x)
    final = (x.cell - rest + variance * scores) / keep
    values, vectors = torch.linalg.eigh((final + final.transpose(1, 2)) / 2)
    size = x.num_atoms.to(values.dtype)[:, None] ** (1 / 3)
    values = torch.minimum(torch.maximum(values, stretches[0] * size), stretches[1] * size)
    final = vectors @ torch.diag_embed(values) @ vectors.transpose(1, 2)
    return (keep * final + rest - x.cell) / variance
