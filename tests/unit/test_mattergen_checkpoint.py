"""Checkpoints of MatterGen: written and read again, read by the package itself, given conditions, fetched, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from chemloop.generator import mattergen_checkpoint
from chemloop.generator import mattergen_package as package
from chemloop.generator.mattergen_checkpoint import Checkpoint, read_checkpoint
from chemloop.generator.mattergen_config import CONDITIONS, conditions_of, model_config
from chemloop.generator.mattergen_data import TrainedOn, learnable
from chemloop.model import weights
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import CheckpointError, ConfigError, WeightsUnavailable
from tests.toy_mattergen import ELEMENTS, TINY, small_references


@pytest.fixture(scope="module")
def crystals():
    return small_references()


@pytest.fixture(scope="module")
def scratch(crystals, tmp_path_factory) -> Path:
    """The folder of a network from scratch."""
    return Path(TINY.finetune(crystals, tmp_path_factory.mktemp("scratch"), 0))


def test_training_leaves_a_checkpoint_that_reloads(scratch, crystals):
    checkpoint = read_checkpoint(str(scratch))
    metrics = read_json(scratch.parent / "metrics.json")
    assert metrics["n_structures"] == 12 and metrics["n_steps"] == 8 and metrics["batch_size"] == 3
    assert checkpoint.lacking == [] and checkpoint.trained_on.elements == ELEMENTS
    assert checkpoint.trained_on.energy_above_hull == pytest.approx([0.0, 0.11])
    assert sum(checkpoint.trained_on.n_atoms.values()) == 12
    again = package.weights_of(checkpoint.network("cpu"))
    assert all(torch.equal(again[name], values) for name, values in checkpoint.weights.items())
    scaler = "diffusion_module.model.property_embeddings_adapt.energy_above_hull.scaler.means"
    assert float(checkpoint.weights[scaler]) == pytest.approx(0.055)


def test_the_packages_own_loader_reads_it(scratch):
    from mattergen.common.utils.data_classes import MatterGenCheckpointInfo

    with package._with_stand_ins(), package._unchanged_process():
        from mattergen.common.utils.eval_utils import load_model_diffusion

    module = load_model_diffusion(MatterGenCheckpointInfo(model_path=str(scratch)))
    ours = read_checkpoint(str(scratch)).weights
    theirs = module.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name].cpu(), ours[name]) for name in ours)


def test_a_base_without_conditions_gets_both(crystals, tmp_path):
    config = model_config(32, 1, 5.0, 8, 20, 0.05)
    model = config["lightning_module"]["diffusion_module"]["model"]
    model["_target_"] = "mattergen.denoiser.GemNetTDenoiser"
    model["gemnet"]["_target_"] = "mattergen.common.gemnet.gemnet.GemNetT"
    del model["gemnet"]["condition_on_adapt"], model["property_embeddings_adapt"], model["element_mask_func"]
    base = Checkpoint(
        config,
        package.weights_of(package.build(config)),
        TrainedOn(ELEMENTS, [0.0, 0.1], [10.0, 30.0], [1.0, 5.0], {8: 1.0}),
    )
    base.write(tmp_path / "base")
    generator = replace(TINY, checkpoint=str(tmp_path / "base"))
    with pytest.raises(ConfigError, match="not trained on chemical_system, energy_above_hull; fine-tune it first"):
        generator.generate(1, ELEMENTS, {}, 0, tmp_path)
    # new layers add nothing before they have learned
    losses = []
    dataset = package.dataset_of(*learnable(crystals))
    plain, extended = package.build(config), base.network("cpu")
    package.fit_scalers(extended, dataset, CONDITIONS)  # mean and spread are whatever is in memory before, even NaN
    for network in (plain, extended):
        package.set_weights(network, base.weights, CONDITIONS)
        network.train()
        torch.manual_seed(0)
        losses.append(float(network.calc_loss(_collated(dataset))[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    folder = Path(generator.finetune(crystals, tmp_path, 0))
    assert sorted(conditions_of(read_checkpoint(str(folder)).config)) == sorted(CONDITIONS)
    assert (tmp_path / "choice.json").exists()


def _collated(dataset):
    from mattergen.common.data.collate import collate

    return collate([dataset[i] for i in range(len(dataset))])


def test_published_networks_have_seen_alex_mp_20():
    seen = package.seen_by_published()
    assert seen.energy_above_hull == [0.0, 0.1] and max(seen.n_atoms) == 20
    assert {"Li", "P", "S"} <= set(seen.elements) and "Xe" not in seen.elements


class TestBadInput:
    def test_no_folder(self, tmp_path):
        generator = replace(TINY, checkpoint=str(tmp_path / "nowhere"))
        with pytest.raises(CheckpointError, match="there is no such folder.*chemical_system_energy_above_hull"):
            generator.generate(1, ELEMENTS, {}, 0, tmp_path)

    def test_checkpoint_of_another_model(self, tmp_path):
        torch.save({"model": {}}, tmp_path / "mace.pt")
        for name in (str(tmp_path), str(tmp_path / "mace.pt")):
            with pytest.raises(CheckpointError, match="or it is the checkpoint of another model") as raised:
                read_checkpoint(name)
            assert "\n" not in str(raised.value)

    def test_config_of_another_model(self, scratch, tmp_path):
        _copy(scratch, tmp_path)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"name": "diffcsp"}}))
        with pytest.raises(CheckpointError, match="its config.yaml does not describe a MatterGen"):
            read_checkpoint(str(tmp_path))

    def test_weights_of_another_network(self, scratch, tmp_path):
        _copy(scratch, tmp_path)
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        config["lightning_module"]["diffusion_module"]["model"]["gemnet"]["num_blocks"] = 2
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(CheckpointError, match="belong to another network than its config.yaml: 0 do not fit"):
            read_checkpoint(str(tmp_path)).network("cpu")

    def test_weights_that_run_code(self, scratch, tmp_path):
        _copy(scratch, tmp_path)
        torch.save({"state_dict": {}, "callbacks": Path("x")}, tmp_path / "checkpoints/last.ckpt")
        with pytest.raises(CheckpointError, match="more than weights and plain data"):
            read_checkpoint(str(tmp_path))
        (tmp_path / "checkpoints/last.ckpt").write_bytes(b"truncated")
        with pytest.raises(CheckpointError, match="last.ckpt"):
            read_checkpoint(str(tmp_path))

    def test_a_network_that_proposes_no_elements(self, scratch):
        config = read_checkpoint(str(scratch)).config
        del config["lightning_module"]["diffusion_module"]["corruption"]["discrete_corruptions"]
        with pytest.raises(CheckpointError, match="proposes no elements"):
            package.build(config)

    def test_no_hub(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path))
        monkeypatch.setattr(weights, "is_reachable", lambda *_: False)
        with pytest.raises(WeightsUnavailable, match="put the file at .*config.yaml, or set generator.checkpoint to"):
            replace(TINY, checkpoint="chemical_system_energy_above_hull").generate(1, ELEMENTS, {}, 0, tmp_path)

    def test_a_download_that_is_not_the_published_file(self, tmp_path, monkeypatch):
        def download(hub, name, local_dir):
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True)
            path.write_text(name)
            return str(path)

        monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path))
        monkeypatch.setattr(weights, "is_reachable", lambda *_: True)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        with pytest.raises(CheckpointError, match="has the SHA-256 .* delete the file to fetch it again"):
            mattergen_checkpoint.fetch("mattergen_base")
        fetched = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
        assert fetched == ["config.yaml", "last.ckpt"]


def _copy(folder: Path, target: Path) -> None:
    (target / "checkpoints").mkdir()
    for name in ("config.yaml", "checkpoints/last.ckpt", "trained_on.json"):
        (target / name).write_bytes((folder / name).read_bytes())
