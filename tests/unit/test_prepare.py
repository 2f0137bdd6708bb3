"""What a campaign begins with is settled before any work."""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import chgnet
import pytest
from ase.build import bulk
from ase.io import write

from chemloop.config import load
from chemloop.model.chgnet import PACKAGED
from chemloop.model.dpa3 import DPA3ForceField
from chemloop.physics import throughput
from chemloop.runtime import device
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import file_hash, read_json, write_json
from chemloop.runtime.errors import CheckpointError, ChemLoopError, ConfigError
from chemloop.stages.prepare import Prepare
from chemloop.stages.relax import Relax
from chemloop.stages.stage import base_model, current_model, stage_folder
from tests.unit.explored import run

COARSE = ("loop.relax.coarse.max_steps=5",)
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def prepare(compose_config, tmp_path, monkeypatch):
    monkeypatch.setenv("CHEMLOOP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("https_proxy", UNREACHABLE)

    def build(*overrides: str) -> Prepare:
        config = compose_config(*overrides)
        campaign = Campaign(tmp_path / "outputs" / "new")
        campaign.begin(config)
        return Prepare(campaign, load(config), 0)

    return build


def test_packaged_weights(prepare):
    stage = prepare("model=chgnet")
    assert stage.ensure() == {"prepare/is_untrained": 0.0, "prepare/batch_size": 8.0}
    model, frame = base_model(stage)
    assert (model.checkpoint, frame, stage.notice) == ("0.3.0", "chgnet-0.3.0", None)


def test_the_batch_size_is_measured_when_asked_for(prepare):
    stage = prepare("model=sevennet", "model.checkpoint=null", "loop.relax.batch_size=auto")
    metrics = stage.ensure()
    assert metrics["prepare/batch_size"] == read_json(stage.folder / "base.json")["batch_size"] >= 1


def test_few_references_are_enough_to_measure_the_batches_of_an_item(prepare, tmp_path, monkeypatch):
    """By this clock all calls take as long, so the largest batch is the fastest."""
    ticks = itertools.count()
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: 0.001 * next(ticks)))
    write(tmp_path / "known.extxyz", [bulk(element, "fcc", a=3.9) for element in ("Li", "P", "S")])
    stage = prepare(
        "model=ase", "model.calculator._target_=ase.calculators.lj.LennardJones",
        f"system.reference={tmp_path / 'known.extxyz'}", "loop.relax.batch_size=auto", "loop.relax.per_item=16",
    )  # fmt: skip
    assert run(stage)["batch_size"] == 16


def test_without_its_named_weights_a_model_begins_untrained_and_says_so(prepare, tmp_path):
    stage = prepare("model=mattersim")
    assert stage.ensure() == {"prepare/is_untrained": 1.0, "prepare/batch_size": 8.0}
    model, frame = base_model(stage)
    assert (model.checkpoint, frame) == (None, "mattersim-untrained")
    for text in ("MatterSim-v1.0.0-5M", "cannot be reached", str(tmp_path / "weights"), "random weights"):
        assert text in stage.notice


@pytest.mark.parametrize("head", ["A", "B"])
def test_each_head_of_a_file_has_an_energy_frame_of_its_own(prepare, tmp_path, head):
    DPA3ForceField(None, elements=["Li", "P", "S"]).load().save(tmp_path / "dpa3.pt")
    stage = prepare("model=dpa3", f"model.checkpoint={tmp_path / 'dpa3.pt'}", f"model.head={head}")
    stage.ensure()
    assert base_model(stage)[1] == f"dpa3-{file_hash(tmp_path / 'dpa3.pt')[:8]}-{head}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=sevennet", f"model.checkpoint={Path(chgnet.__file__).parent}/pretrained/{PACKAGED['0.3.0']}"],
         "another architecture, not of sevenn"),
        (["model=sevennet", "model.checkpoint=null", "model.elements=[Li,P]"], "does not know S; .*Li P"),
        (["model=chgnet", "model.checkpoint=/no/such/file"], "/no/such/file: no such file"),
        (["model=chgnet", *COARSE, "+model@loop.relax.coarse.model=chgnet", "loop.relax.coarse.model.checkpoint=/no"],
         "loop.relax.coarse.model cannot be used: .*/no: no such file"),
        (["model=chgnet", *COARSE, "+model@loop.relax.coarse.model=ase",
          "loop.relax.coarse.model.calculator._target_=ase.calculators.emt.EMT"],
         "loop.relax.coarse.model cannot be used: .*EMT"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_serve_is_refused_before_any_work(prepare, overrides, message):
    stage = prepare(*overrides)
    with pytest.raises(ChemLoopError, match=message):
        stage.ensure()


def test_a_gpu_that_is_not_there_is_refused_before_any_work(prepare):
    """And the command goes on as soon as it asks for a device that is there."""
    stage = prepare("model=chgnet", "compute.gpu.device=cuda:99")
    with pytest.raises(ChemLoopError, match=r"compute\.gpu\.device = cuda:99: .*this process sees (none|\d)"):
        stage.ensure()
    assert prepare("model=chgnet").ensure()["prepare/is_untrained"] == 0


def test_a_checkpoint_that_was_overwritten_is_not_used(prepare, tmp_path):
    """Also where a fine-tuning kept it; campaigns that recorded no hash go on as before."""
    file = tmp_path / "weights.pth.tar"
    shutil.copy(Path(chgnet.__file__).parent / "pretrained" / PACKAGED["0.3.0"], file)
    stage = prepare("model=chgnet", f"model.checkpoint={file}")
    run(stage)
    later = Relax(stage.campaign, stage.settings, 1)
    kept = stage_folder(stage.campaign, 0, "finetune")
    kept.mkdir()
    assert base_model(stage) == current_model(later)
    write_json(kept / "fit.json", {"checkpoint": str(file), "energy_frame": base_model(stage)[1]})
    write_json(kept / "DONE", {})
    assert base_model(stage) == current_model(later)
    with open(file, "ab") as content:
        content.write(b"more")
    for find, asking in ((base_model, stage), (current_model, later)):
        with pytest.raises(CheckpointError, match=f"{file} has changed since it was first used here, .* campaign=NAME"):
            find(asking)
    base = read_json(stage.folder / "base.json")
    del base["sha256"]
    write_json(stage.folder / "base.json", base)
    assert base_model(stage) == current_model(later)


def test_gpus_are_counted_from_0(monkeypatch):
    monkeypatch.setattr(device, "n_visible_gpus", lambda: 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        device.check_visible(name)
    with pytest.raises(ConfigError, match=r"compute\.gpu\.device = cuda:2: this process sees 2 GPUs, .* to cuda:1;"):
        device.check_visible("cuda:2")
