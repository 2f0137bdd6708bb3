"""generator=mattergen: training, fine-tuning, sampling and bad input, with a network too small to make crystals."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from chemloop.config import build
from chemloop.generator import mattergen_package as package
from chemloop.generator.mattergen import MatterGenGenerator
from chemloop.generator.mattergen_checkpoint import read_checkpoint
from chemloop.generator.mattergen_data import Schedule, stretches_of
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import CheckpointError, ConfigError
from tests.toy_mattergen import ELEMENTS, TINY, small_references

CONF = Path(__file__).parents[2] / "conf"


def process_state() -> dict[str, object]:
    """What the import of the package is known to change."""
    root = logging.getLogger()
    return {
        "resolver": OmegaConf.has_resolver("eval"),
        "project": os.environ.get("PROJECT_ROOT"),
        "handlers": list(root.handlers),
        "level": root.level,
        "compiled": sorted(name for name in sys.modules if name.startswith(("torch_scatter", "torch_sparse"))),
        "numpy": hasattr(np, "math"),
    }


@pytest.fixture(scope="module", autouse=True)
def imported(capfd_module) -> str:
    """What the import printed."""
    before = process_state()
    package.import_mattergen.__wrapped__()
    assert process_state() == before
    return capfd_module.readouterr().out


@pytest.fixture(scope="module")
def capfd_module(request):
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        from _pytest.capture import FDCapture, MultiCapture

        streams = MultiCapture(in_=None, out=FDCapture(1), err=None)
        streams.start_capturing()
        yield streams
        streams.stop_capturing()


@pytest.fixture(scope="module")
def crystals():
    return small_references()


@pytest.fixture(scope="module")
def learned(crystals, tmp_path_factory) -> list[Path]:
    """Folders of a network from scratch, and of the same one fine-tuned once and once more."""
    generator, folders = TINY, []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("learn")
        state = torch.get_rng_state()
        checkpoint = generator.finetune(crystals, folder, seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert Path(checkpoint).is_relative_to(folder)
        generator = replace(generator, checkpoint=checkpoint)
        folders.append(Path(checkpoint))
    return folders


@pytest.fixture
def trained(learned) -> MatterGenGenerator:
    return replace(TINY, checkpoint=str(learned[0]))


def test_import_prints_nothing(imported):
    assert imported == ""


def test_yaml_is_the_schema(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", ["generator=mattergen"]).generator, resolve=True)
    assert set(node) - {"_target_", "python"} == {field.name for field in fields(MatterGenGenerator)} - {"scorer"}
    assert build(node, "generator") == MatterGenGenerator()


def test_fine_tuning_continues_twice(learned, crystals):
    first, second, third = (read_checkpoint(str(folder)) for folder in learned)
    name = "diffusion_module.model.gemnet.cond_mixin_layers.energy_above_hull.0.weight"
    assert not torch.equal(first.weights[name], second.weights[name])
    assert not torch.equal(second.weights[name], third.weights[name])
    # what the network has learned of a value of a condition must keep its meaning
    scaler = "diffusion_module.model.property_embeddings_adapt.energy_above_hull.scaler.stds"
    assert first.weights[scaler] == second.weights[scaler] == third.weights[scaler]
    assert third.config == first.config
    assert sum(third.trained_on.n_atoms.values()) == 36


def test_samples_stay_in_the_system_and_repeat_themselves(trained, learned):
    network = read_checkpoint(str(learned[0])).network("cpu")
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        wanted = {"chemical_system": "Li-S", "energy_above_hull": 0.0}
        made.append(package.sample(network, [4, 6, 1], wanted, 2.0, [2.0, 3.0]))
    assert [len(atoms) for atoms in made[0]] == [4, 6, 1]
    assert {symbol for atoms in made[0] for symbol in atoms.symbols} <= {"Li", "S"}
    assert all(np.linalg.det(atoms.cell.array) >= 0 for atoms in made[0])
    first, again, other = ([atoms.positions for atoms in group] for group in made)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_generating_counts_what_became_of_samples(trained, tmp_path):
    # a network of 8 steps has no idea of volumes: any volume will do
    generator = replace(trained, volume_margin=1e9)
    state = torch.get_rng_state()
    made = generator.generate(3, ELEMENTS, {"energy_above_hull": 0.05, "n_atoms": 4.0}, 5, tmp_path)
    again = generator.generate(3, ELEMENTS, {"energy_above_hull": 0.05, "n_atoms": 4.0}, 5, tmp_path)
    counts = read_json(tmp_path / "yield.json")
    assert torch.equal(torch.get_rng_state(), state)
    assert counts["attempts"] == len(made) + sum(counts["rejected"].values()) <= 6
    assert counts["warnings"] == [] and counts["cpu_seconds"] > 0
    assert all(len(atoms) == 4 and set(atoms.symbols) <= set(ELEMENTS) for atoms in made)
    assert [atoms.get_volume() for atoms in made] == [atoms.get_volume() for atoms in again]


def test_unusable_samples_are_rejected_with_a_reason(trained, tmp_path, monkeypatch, crystals):
    def lost(*_):
        raise RuntimeError("max(): Expected reduction dim to be specified for input.numel() == 0")

    monkeypatch.setattr(package, "sample", lost)
    assert trained.generate(2, ELEMENTS, {}, 0, tmp_path) == []
    assert read_json(tmp_path / "yield.json")["rejected"] == {"sampling failed": 4}
    good = crystals[0]
    blown, strange, broken = good.copy(), good.copy(), good.copy()
    blown.set_cell(good.cell * 4, scale_atoms=True)
    strange.numbers[0] = 11
    broken.positions[0] = np.nan
    reasons = [trained.flaw(atoms, ELEMENTS, [10.0, 40.0]) for atoms in (good, blown, strange, broken)]
    assert reasons == [None, "volume out of range", "outside the system", "not finite"]


def test_an_error_of_another_kind_is_passed_on(trained, tmp_path, monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(package, "sample", out_of_memory)
    with pytest.raises(ConfigError, match="batch_size = 4: the samples do not fit into memory; lower it"):
        trained.generate(2, ELEMENTS, {}, 0, tmp_path)

    def mistaken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(package, "sample", mistaken)
    with pytest.raises(RuntimeError, match="mat1"):
        trained.generate(2, ELEMENTS, {}, 0, tmp_path)


def test_conditions_outside_the_training_are_warned_about(trained, tmp_path, monkeypatch, caplog):
    generator = replace(trained, attempts_per_crystal=1)
    seen = read_checkpoint(trained.checkpoint).trained_on
    found = seen.warnings(["Li", "Na"], {"energy_above_hull": 0.3, "n_atoms": 40.0})
    largest = max(seen.n_atoms)
    assert found == [
        "Na asked for: the generator has seen Li, P, S only",
        "energy_above_hull = 0.3 eV/atom asked for: the generator has seen 0.000 to 0.110",
        f"n_atoms = 40 asked for: the generator has seen cells of {min(seen.n_atoms)} to {largest}",
    ]
    monkeypatch.setattr(package, "sample", lambda *_: (_ for _ in ()).throw(IndexError("index 0 is out of bounds")))
    generator.generate(1, ELEMENTS, {"energy_above_hull": 0.3}, 0, tmp_path)
    assert read_json(tmp_path / "yield.json")["warnings"] == [found[1]]
    assert found[1] in caplog.text


def test_hydra_is_left_as_it_was(trained, crystals, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        trained.generate(1, ELEMENTS, {}, 0, tmp_path)
        trained.finetune(crystals, tmp_path, 0)
        assert GlobalHydra.instance().hydra is before


def test_the_scorer_chooses_the_checkpoint(trained, crystals, tmp_path, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(package, "sample", lambda network, sizes, *_: [crystals[0].copy() for _ in sizes])

    def scorer(structures):
        calls.append(len(structures))
        # the second of three: before, step 2, step 4
        return np.full(len(structures), 0.1), np.full(len(structures), len(calls) == 2)

    folder = Path(replace(trained, scorer=scorer).finetune(crystals, tmp_path, 0))
    choice = read_json(tmp_path / "choice.json")
    assert calls == [2, 2, 2] and choice["chosen"] == "step 2"
    assert set(choice["scores"]) == {"before", "step 2", "step 4"}
    assert choice["scores"]["step 2"] == {"n_valid": 2, "n_sun": 2, "best_half_ev_per_atom": 0.1, "rejected": {}}
    assert read_checkpoint(str(folder)).lacking == []


def test_elements_of_one_atom_per_cell_can_be_learned(tmp_path):
    crystals = [bulk("Li", "bcc", a=3.4 + 0.02 * number) for number in range(5)]
    for atoms in crystals:
        atoms.info["e_above_hull"] = 0.0
    generator = replace(TINY, scratch=Schedule(n_steps=6, batch_size=2), n_checkpoints=1)
    folder = generator.finetune(crystals, tmp_path, 0)
    trained = replace(generator, checkpoint=folder, volume_margin=1e9)
    assert [len(atoms) for atoms in trained.generate(1, ["Li"], {}, 0, tmp_path)] == [1]


def test_candidates_are_learned_from_only_when_asked(crystals, tmp_path):
    pool = [atoms.copy() for atoms in crystals[:5]]
    for number, atoms in enumerate(pool):
        atoms.info["role"] = "label" if number == 0 else "candidate"
    with pytest.raises(ConfigError, match="there are 1 of 5; it needs 4"):
        TINY.finetune(pool, tmp_path, 0)
    generator = replace(TINY, learns_from_candidates=True, scratch=Schedule(1, 1, 2))
    generator.finetune(pool, tmp_path, 0)
    assert read_json(tmp_path / "metrics.json")["n_structures"] == 5


def test_cells_stay_within_what_was_seen(learned):
    """Where the network would let them grow without end, as one of 8 steps does."""
    checkpoint = read_checkpoint(str(learned[0]))
    low, high = checkpoint.trained_on.stretch
    torch.manual_seed(0)
    wanted = {"chemical_system": "Li-P-S", "energy_above_hull": 0.0}
    made = package.sample(checkpoint.network("cpu"), [4, 8, 12], wanted, 2.0, [low, high])
    found = np.array([stretches_of(atoms) for atoms in made])
    assert found.min() > 0.9 * low and found.max() < 1.1 * high


@dataclass
class Crystals:
    """As much of a batch as cells need."""

    cell: torch.Tensor
    num_atoms: torch.Tensor

    def __getitem__(self, key):
        return getattr(self, key)


def test_the_bound_leaves_good_predictions_alone(learned):
    network = read_checkpoint(str(learned[0])).network("cpu")
    sde = network.corruption.sdes["cell"]
    x = Crystals(torch.eye(3)[None] * 6.0, torch.tensor([8]))
    t = torch.tensor([0.3])
    final = torch.eye(3)[None] * 5.0
    keep, std = sde._marginal_mean_coeff(t)[:, None, None], sde.marginal_prob(x=x.cell, t=t, batch=x)[1]
    scores = (keep * final + (1 - keep) * sde.get_limit_mean(x=x.cell, batch=x) - x.cell) / std**2
    assert torch.allclose(package.bounded_score(sde, x, t, scores, [2.0, 3.0]), scores, rtol=1e-4)
    narrowed = package.bounded_score(sde, x, t, scores, [1.0, 2.0])
    assert torch.allclose((narrowed - scores) * std**2 / keep, torch.eye(3)[None] * (4.0 - 5.0), atol=1e-4)


class TestBadInput:
    def test_nothing_learned_yet(self, tmp_path):
        with pytest.raises(ConfigError, match="checkpoint = null: a MatterGen from scratch generates nothing before"):
            TINY.generate(1, ELEMENTS, {}, 0, tmp_path)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"guidance": -1.0}, "generator.guidance = -1.0: must be 0 or above"),
            ({"batch_size": 0}, "generator.batch_size = 0: must be 1 or above"),
            ({"volume_margin": 0.5}, "generator.volume_margin = 0.5: must be 1 or above"),
            ({"checkpoint": ""}, "generator.checkpoint = : must be a folder, the name of a published one, or null"),
        ],
    )
    def test_values(self, values, message):
        with pytest.raises(ConfigError, match=message):
            MatterGenGenerator(**values)

    def test_training_that_diverges(self, crystals, tmp_path, monkeypatch):
        generator = replace(TINY, scratch=Schedule(2, 1, 4))
        monkeypatch.setattr(
            "mattergen.diffusion.diffusion_module.DiffusionModule.calc_loss",
            lambda self, batch: (torch.tensor(torch.nan, requires_grad=True), {}),
        )
        with pytest.raises(CheckpointError, match="diverged in step 0; lower its learning_rate"):
            generator.finetune(crystals, tmp_path, 0)
