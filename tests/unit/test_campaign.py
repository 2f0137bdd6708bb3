"""The campaign folder: begun once, driven by one process, honest about what it cannot do."""

import copy
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chemloop.runtime.campaign import STAGES, Campaign
from chemloop.runtime.disk import is_intact, write_json, write_whole
from chemloop.runtime.errors import CampaignError
from chemloop.runtime.item import Item, derived_seed

CONFIG = {"seed": 0, "model": {"checkpoint": "0.3.0"}, "loop": {"max_iterations": 2, "relax": {"fmax": 0.1}}}


def test_begin_is_repeatable_and_lists_changed_keys(tmp_path):
    campaign = Campaign(tmp_path / "c")
    campaign.begin(CONFIG)
    campaign.begin(CONFIG)
    changed = copy.deepcopy(CONFIG)
    changed["loop"]["relax"]["fmax"] = 0.2
    changed["seed"] = 1
    with pytest.raises(CampaignError, match=r"loop\.relax\.fmax: 0\.1 -> 0\.2; seed: 0 -> 1.*campaign=NAME"):
        campaign.begin(changed)
    assert campaign.config() == CONFIG


def test_settings_that_do_not_change_results_may_change(tmp_path):
    campaign = Campaign(tmp_path / "c")
    campaign.begin(CONFIG | {"generator": {"device": "cuda"}})
    longer = copy.deepcopy(CONFIG)
    longer["loop"]["max_iterations"] = 5
    longer["compute"] = {"cluster": "slurm"}
    longer["generator"] = {"device": "cpu"}
    campaign.begin(longer)
    assert campaign.config() == longer


def test_campaigns_of_the_version_without_learning_go_on(tmp_path):
    campaign = Campaign(tmp_path / "c")
    for number, name in enumerate(("seed", "generate", "relax", "screen", "describe", "select", "label", "curate")):
        (campaign.iteration(0) / f"{number}-{name}").mkdir(parents=True)
    (campaign.iteration(0) / "8-finetune").mkdir()
    campaign.begin(CONFIG)
    assert STAGES.index("learn") == 9
    (campaign.iteration(0) / "8-learn").mkdir()
    with pytest.raises(CampaignError, match="iter-000/8-learn, which this version calls 9-learn"):
        campaign.begin(CONFIG)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CampaignError, match="cannot be written.*outputs=FOLDER"):
        Campaign(tmp_path / "file" / "c").begin(CONFIG)


def test_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CampaignError, match="No space left on device.*continues where it stopped"):
        Campaign(tmp_path / "c").begin(CONFIG)
    assert list((tmp_path / "c").iterdir()) == []


def test_second_driver_is_refused_and_first_lock_released(tmp_path):
    campaign = Campaign(tmp_path)
    with campaign.drive(), pytest.raises(CampaignError, match=f"driven by process {os.getpid()} on"), campaign.drive():
        pass
    with campaign.drive():
        pass


def test_lock_of_a_killed_driver_is_taken_over(tmp_path):
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from chemloop.runtime.campaign import STAGES, Campaign
        with Campaign(Path({str(tmp_path)!r})).drive():
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (tmp_path / "campaign.lock").read_text().startswith(socket.gethostname())
    with Campaign(tmp_path).drive():
        pass


def test_lock_left_on_another_machine_is_not_guessed_about(tmp_path):
    (tmp_path / "campaign.lock").write_text("elsewhere 123\n")
    with pytest.raises(CampaignError, match="process 123 on elsewhere.*delete"), Campaign(tmp_path).drive():
        pass


def test_whole_files_leave_nothing_behind_when_they_fail(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_seen_by_hash(tmp_path):
    item = Item(tmp_path)
    (tmp_path / "output.extxyz").write_text("12345")
    item.finish(["output.extxyz"], 0.1)
    assert item.is_intact
    (tmp_path / "output.extxyz").write_text("1234")
    assert not item.is_intact
    (tmp_path / "output.extxyz").unlink()
    assert not item.is_intact
    write_json(tmp_path / "DONE", {"unexpected": 1})
    assert not is_intact(Path(tmp_path / "DONE"))


def test_seeds_depend_on_every_part():
    seeds = {
        derived_seed(*parts) for parts in ((0, 1, "relax", 2), (1, 1, "relax", 2), (0, 2, "relax", 2), (0, 1, "relax"))
    }
    assert len(seeds) == 4
    assert derived_seed(0, 1, "relax", 2) == derived_seed(0, 1, "relax", 2) < 2**32
