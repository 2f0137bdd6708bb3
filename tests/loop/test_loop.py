"""The closed loop with real components, small."""

import json
import re
from pathlib import Path

import numpy as np

from chemloop.config import load
from chemloop.physics.completeness import Completeness
from chemloop.physics.motifs import MotifCatalogue
from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.ledger import Ledger
from chemloop.runtime.process import cpu_seconds
from chemloop.workflow.ledger import rebuild
from tests.loop import small


def test_what_is_printed(undisturbed):
    folder, printed = undisturbed
    lines = [line for line in printed.splitlines() if line.startswith("iteration ")]
    assert len(lines) == 2
    for text in ("generated", "valid", "converged", "stable", "unique", "novel", "S.U.N.", "lowest E_hull", "frames"):
        assert text in lines[1]
    for text in ("entropy", "dH/dN", "test RMSE"):
        assert text in lines[0] and text in lines[1]
    assert "coverage" in lines[1] and "% of motifs" in lines[1] and "coverage" not in lines[0]
    assert "loop.max_iterations = 1 reached" in printed
    (expected,) = re.findall(r"^expected  (.*)$", printed, flags=re.MULTILINE)
    assert expected.startswith("Of the environments of a further new structure (converged, unique and novel), ")
    assert re.search(r"novel\), \d+(\.\d)? % \(95 % interval ", expected)
    assert re.search(r"another \d+ such structures would bring about \d+ \(\d+ to \d+\) new kinds of env", expected)
    assert str(folder / "report.html") in printed
    assert "teacher-7net-0" in printed
    assert "DFT" not in printed


def test_running_again_changes_nothing(undisturbed):
    folder, _ = undisturbed
    before = small.snapshot(folder)
    begin = cpu_seconds()
    ended = small.run(folder.parent)
    assert ended.returncode == 0, ended.stderr
    assert "finished; nothing was done" in ended.stdout
    assert cpu_seconds() - begin < 20, "this takes about two seconds"
    after = small.snapshot(folder)
    assert {path for path in after if after[path] != before.get(path)} <= {"campaign.lock"}


def test_another_configuration_is_refused(undisturbed):
    folder, _ = undisturbed
    ended = small.run(folder.parent, "loop.relax.fmax=0.31")
    assert ended.returncode != 0
    assert re.search(r"changed: loop\.relax\.fmax: 0\.3 -> 0\.31", ended.stderr)


def test_ledger_rebuilt_from_the_folders_is_the_same(undisturbed, tmp_path):
    folder, _ = undisturbed
    campaign = Campaign(folder)
    rows = Ledger(campaign.ledger).rows()
    rebuild(campaign, load(campaign.config()))
    assert Ledger(campaign.ledger).rows() == rows
    stages = {row["stage"] for row in rows}
    assert {"seed", "label"} <= stages


def test_damaged_outputs_are_computed_again(undisturbed, tmp_path):
    import shutil

    folder, _ = undisturbed
    copy = tmp_path / "outputs" / small.NAME
    shutil.copytree(folder, copy)
    shutil.copytree(folder.parent / "label-cache", copy.parent / "label-cache")
    rows = Ledger(copy / "structures.db").rows()
    relaxed = copy / "iter-001/2-relax/output.extxyz"
    relaxed.write_bytes(relaxed.read_bytes()[:-100])
    item = copy / "iter-001/2-relax/items/0001/output.extxyz"
    item.write_bytes(item.read_bytes()[:-100])
    checkpoint = next((copy / "iter-001/8-finetune/items/0000").glob("*.p*"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    ended = small.run(copy.parent)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert Ledger(copy / "structures.db").rows() == rows
    assert read_structures(relaxed) == read_structures(folder / "iter-001/2-relax/output.extxyz")


def test_frames_never_move_from_train_to_test(undisturbed):
    folder, _ = undisturbed
    splits = [json.loads((folder / f"iter-00{k}/7-curate/split.json").read_text()) for k in (0, 1)]
    assert splits[1]["train"][: len(splits[0]["train"])] == splits[0]["train"]
    for split in splits:
        assert not set(split["train"]) & set(split["test"])
        assert len(split["test"]) > 0


def test_every_iteration_is_described_and_measured(undisturbed):
    folder, _ = undisturbed
    ids = []
    for iteration in ("iter-000", "iter-001"):
        described, curated = folder / iteration / "4-describe", folder / iteration / "7-curate"
        structures = read_structures(described / "output.extxyz")
        ids += [atoms.info["id"] for atoms in structures]
        motifs = json.loads((described / "motifs.json").read_text())
        assert set(motifs) == {atoms.info["id"] for atoms in structures}
        with np.load(described / "fingerprints.npz") as arrays:
            assert len(arrays["ids"]) == len(arrays["whole"]) == len(structures)
        completeness = Completeness.from_json(json.loads((curated / "completeness.json").read_text()))
        assert np.isfinite(completeness.entropy)
    catalogue = MotifCatalogue.from_json(json.loads((curated / "catalogue.json").read_text()))
    assert {entry.host for entry in catalogue.entries} <= set(ids)
    assert catalogue.n_structures == len(structures) == completeness.environments.n_samples > 0


def test_only_one_offline_run_holds_all_metrics(undisturbed):
    folder, _ = undisturbed
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))
    assert sum('"screen/n_sun"' in line for line in lines) == 1


def test_report_is_one_file_that_names_the_teacher(undisturbed):
    folder, _ = undisturbed
    text = Path(folder / "report.html").read_text()
    assert "teacher-7net-0" in text and "not DFT" in text
    assert "loop.max_iterations = 1 reached" in text
