"""The learning curve without any backend: its pool, its split, its rankings, its figures, and what it refuses."""

import base64
import gzip
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.io import write

from chemloop.config import campaign_name, load
from chemloop.physics.descriptors import environments
from chemloop.physics.entropy import greedy_selection
from chemloop.physics.entropy_series import entropy_growth
from chemloop.physics.structures import set_results, write_structures
from chemloop.report.curve_data import CurveData, CurveParity, CurveRow, markdown
from chemloop.report.learning_curve import write_curve_report
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CampaignError, ConfigError, EnergyFrameError, StructureError
from chemloop.runtime.item import Item
from chemloop.runtime.sharing import DRIVER, held, shared
from chemloop.stages.curve_point import (
    RANKING,
    Clock,
    Environments,
    Ranking,
    environments_item,
    growth,
    ranking_item,
)
from chemloop.stages.curve_pool import POOL, SPLIT, Sweep, check_pool, find_pool, identified, read_pool, split_by_parent
from chemloop.tracker import Point
from chemloop.workflow.curve_summary import table
from chemloop.workflow.learning_curve import SHARED, LearningCurve, plan_ranking, track


def labelled(number: int, frame: str = "teacher-x-1", parent: str | None = None) -> Atoms:
    """A small crystal with labels that mean nothing."""
    rng = np.random.default_rng(number)
    atoms = Atoms("LiS", [(0, 0, 0), rng.normal(1.8, 0.3, 3)], cell=[4, 4, 4], pbc=True)
    if parent is not None:
        atoms.info |= {"id": f"{parent}/f{number:02d}", "parent": parent}
    return set_results(atoms, "label", rng.normal(), rng.normal(0, 0.3, (2, 3)), np.eye(3) * 0.01, frame)


def frames_of(n_parents: int = 6, per_parent: int = 4) -> list[Atoms]:
    return [labelled(10 * p + k, parent=f"i00-{p:04d}") for p in range(n_parents) for k in range(per_parent)]


@pytest.fixture
def pool(tmp_path) -> Path:
    write_structures(tmp_path / "pool.extxyz", frames_of())
    return tmp_path / "pool.extxyz"


@pytest.fixture
def sweep(tmp_path, pool) -> Sweep:
    begun = Sweep(tmp_path / "outputs" / "sweep")
    begun.begin(pool, shared_settings())
    return begun


def shared_settings(**changed) -> dict:
    return {key: getattr(LearningCurve(**changed), key) for key in SHARED}


def run(item: Item, runner) -> Item:
    item.finish(runner.run(item), 0.0)
    return item


def test_no_structure_is_on_both_sides_and_the_split_is_always_the_same():
    frames = frames_of(20, 3)
    train, test = split_by_parent(frames, 0.2, 0)
    assert not {id.partition("/")[0] for id in train} & {id.partition("/")[0] for id in test}
    assert sorted(train + test) == sorted(atoms.info["id"] for atoms in frames)
    assert len(test) == 12
    assert split_by_parent(frames[::-1], 0.2, 0)[1] == test[::-1]
    assert split_by_parent(frames, 0.2, 1)[1] != test
    assert set(split_by_parent(frames, 0.4, 0)[1]) > set(test)


def test_frames_without_parents_are_grouped_by_formula(tmp_path):
    named = identified([labelled(0), labelled(1)], tmp_path / "mine.extxyz")
    assert [atoms.info["id"] for atoms in named] == ["mine-000000", "mine-000001"]
    assert {atoms.info["parent"] for atoms in named} == {"LiS"}
    with pytest.raises(StructureError, match=r"come from 1 structure \(LiS\).*info\['parent'\]"):
        split_by_parent(named, 0.2, 0)
    flat = [labelled(0), labelled(1)]
    for number, atoms in enumerate(flat):
        atoms.info["id"] = f"frame{number}"
    assert {atoms.info["parent"] for atoms in identified(flat, tmp_path / "mine.extxyz")} == {"LiS"}


def test_pool_of_a_campaign_is_what_its_finished_stages_labelled(tmp_path):
    campaign = tmp_path / "outputs" / "mine"
    frames = frames_of()
    for folder, part, is_done in (("0-seed", frames[:8], True), ("6-label", frames[8:], False)):
        stage = campaign / "iter-000" / folder
        stage.mkdir(parents=True)
        write_structures(stage / "output.extxyz", part)
        if is_done:
            write_json(stage / "DONE", {"outputs": {}})
    (campaign / "campaign.yaml").write_text("")
    assert find_pool(None, tmp_path / "outputs") == find_pool("mine", tmp_path / "outputs") == campaign
    assert [atoms.info["id"] for atoms in read_pool(campaign)] == [atoms.info["id"] for atoms in frames[:8]]
    (tmp_path / "outputs" / "other").mkdir()
    (tmp_path / "outputs" / "other" / "campaign.yaml").write_text("")
    assert find_pool(None, tmp_path / "outputs") == campaign, "a campaign without labels is no choice"


def test_pool_stays_what_it_was_when_the_sweep_began(sweep, pool):
    before = [atoms.info["id"] for atoms in sweep.frames("train")]
    write_structures(pool, frames_of(9))
    sweep.begin(pool, shared_settings())
    assert [atoms.info["id"] for atoms in sweep.frames("train")] == before
    assert sweep.record["n_train"] + sweep.record["n_test"] == 24


def test_outliers_are_left_out_and_counted(tmp_path):
    frames = frames_of()
    frames[3].arrays["label_forces"][0, 0] = 1000.0
    write_structures(tmp_path / "pool.extxyz", frames)
    sweep = Sweep(tmp_path / "outputs" / "sweep")
    sweep.begin(tmp_path / "pool.extxyz", shared_settings())
    ids = [atoms.info["id"] for part in ("train", "test") for atoms in sweep.frames(part)]
    assert len(ids) == 23 and frames[3].info["id"] not in ids
    assert sweep.record["n_outliers"] == 1


def test_rankings_use_the_cached_environments_and_smaller_sets_are_parts_of_larger_ones(sweep):
    environments_item(sweep).folder.mkdir(parents=True)
    run(environments_item(sweep), Environments())
    rankings = {}
    for selection, seed in (("entropy", 0), ("random", 0), ("random", 1)):
        item = plan_ranking(sweep, selection, seed)
        run(item, Ranking())
        with np.load(item.folder / RANKING) as arrays:
            rankings[selection, seed] = arrays["indices"]
            entropies = arrays["entropies"]
    frames = sweep.frames("train")
    described = environments(frames, ["Li", "S"])
    for n_frames in (3, 7, len(frames)):
        picked, _ = greedy_selection(described, np.zeros((0, 0)), n_frames)
        np.testing.assert_array_equal(rankings["entropy", 0][:n_frames], picked)
        in_order = [described[index] for index in rankings["random", 1][:n_frames]]
        assert growth(entropies, n_frames) == pytest.approx(entropy_growth(in_order).measured.value, abs=1e-9)
    assert not np.array_equal(rankings["random", 0], rankings["random", 1])
    assert sorted(rankings["random", 1]) == list(range(len(frames)))
    assert ranking_item(sweep, "entropy", 0) == ranking_item(sweep, "entropy", 1)


def test_time_before_a_kill_counts(tmp_path):
    clock = Clock(tmp_path / "elapsed.json")
    clock.last -= 10
    clock.begin -= 100
    clock.tick(1, 2)
    assert 100 <= Clock(tmp_path / "elapsed.json").stop() < 110


def test_item_of_another_job_is_waited_for_and_not_run(tmp_path, compose_config, capsys):
    item = Item(tmp_path / "item")
    item.folder.mkdir()
    is_held, may_finish = threading.Event(), threading.Event()

    def other_job() -> None:
        with held(item.folder / DRIVER):
            is_held.set()
            may_finish.wait(60)
            item.finish([], 1.0)

    other = threading.Thread(target=other_job)
    other.start()
    is_held.wait()
    with shared([item], tmp_path, "cpu", load(compose_config()).compute, "test") as mine:
        assert mine == [] and not item.is_done
        may_finish.set()
    assert item.is_done
    assert f"waiting for {item.folder}" in capsys.readouterr().out
    other.join()


@dataclass
class ListTracker:
    """Remembers what it was shown."""

    group: str | None = None
    log = []

    def begin(self, campaign, config) -> None:
        self.log.append((self.group, campaign.name, config["point"]["n_train"]))

    def show(self, history) -> None:
        self.log.append(history)

    def end(self) -> bool:
        return True


def test_each_point_is_shown_once_in_the_group_of_the_sweep(sweep, compose_config):
    config = compose_config("workflow=learning_curve", "workflow.pool=x")
    settings = load(config)
    object.__setattr__(settings, "tracker", ListTracker())
    item = Item(sweep.folder / "points" / "toy_random_n5_s1")
    item.folder.mkdir(parents=True)
    item.plan({"name": "toy", "selection": "random", "n_train": 5, "index": 1, "seed": 77})
    write_json(item.folder / "metrics.json", {"test_force_rmse_mev_per_ang": 3.0})
    (item.folder / "curves.jsonl").write_text('{"epoch": 0, "loss": 2.0}\n')
    for _ in range(2):
        track(item, sweep, settings, config)
    assert ListTracker.log == [
        ("sweep", "toy_random_n5_s1", 5),
        [
            Point(5, {"curves/epoch": 0, "curves/loss": 2.0}),
            Point(5, {"learning_curve/test_force_rmse_mev_per_ang": 3.0}),
        ],
    ]


def rows_for(folder: Path) -> list[CurveRow]:
    """Two models, both selections, three sizes, two seeds; one base kept."""
    rows = []
    for model, factor in (("chgnet", 1.0), ("dpa3", 0.5)):
        for selection in ("entropy", "random"):
            for n_train in (10, 40, 160):
                for seed in (0, 1):
                    error = factor * (100 + seed) / np.sqrt(n_train)
                    metrics = {
                        f"{who}test_{channel}": error
                        for who in ("", "base_")
                        for channel in (
                            "energy_rmse_mev_per_atom",
                            "force_rmse_mev_per_ang",
                            "stress_rmse_mev_per_ang3",
                        )
                    }
                    metrics |= dict.fromkeys(("n_train", "n_epochs", "wall_s", "frames_per_s"), 3.0)
                    metrics |= {"entropy_growth_nats_per_frame": 1 / n_train, "kept_base": float(n_train == 10)}
                    rows.append(CurveRow(model, selection, n_train, seed, metrics, folder))
    return rows


@pytest.fixture
def data(tmp_path) -> CurveData:
    rng = np.random.default_rng(0)
    rows = rows_for(tmp_path)
    arrays = {
        f"{who}_{channel}": rng.normal(size=90)
        for who in ("label", "before", "after")
        for channel in ("energy", "force")
    }
    sizes = np.arange(10, 161, 10)
    record = {
        "settings": {"pool": "/data/pool.extxyz", "max_force": 50.0},
        "energy_frame": "teacher-7net-0-1a2b3c4d",
        "elements": ["Li", "P", "S"],
        "n_train": 160,
        "n_test": 30,
        "n_outliers": 2,
    }
    return CurveData(
        "mine_learning_curve",
        record,
        rows,
        {name: (sizes, np.append(1 / sizes[:-1], -1e-3)) for name in ("entropy", "random")},
        [CurveParity(row, arrays | {"n_forces": np.array(90)}) for row in (rows[4], rows[-1])],
        ["dpa3: no weights. This model begins without them, from random weights"],
    )


def test_figures_are_files_that_need_no_network(data, tmp_path):
    names = write_curve_report(data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    page = (tmp_path / "learning_curve.html").read_text()
    packed = re.search(r'id="figures">([^<]*)<', page)
    assert packed is not None
    page += gzip.decompress(base64.b64decode(packed[1])).decode()
    for text in ("log₁₀ dH", "Energy RMSE", "Force RMSE", "chgnet, entropy", "dpa3, random", "not DFT"):
        assert text in page
    assert "begins without them, from random weights" in page
    assert "2 frames with" in page and "160 labelled frames may train, 30 of other" in page
    assert "<script src" not in page and "<link" not in page
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "parity.svg").read_bytes()


def test_lines_are_means_over_seeds(data):
    sizes, means, spread = data.line("chgnet", "random", "test_force_rmse_mev_per_ang")
    assert list(sizes) == [10, 40, 160]
    np.testing.assert_allclose(means, 100.5 / np.sqrt(sizes))
    np.testing.assert_allclose(spread, np.sqrt(0.5) / np.sqrt(sizes))


def test_tables_hold_every_point_with_units(data):
    lines = table(data.rows).splitlines()
    assert lines[0].startswith("model,selection,n_train,seed,base_test_energy_rmse_mev_per_atom")
    assert len(lines) == 25
    shown = markdown(data.rows).splitlines()
    assert len({len(line) for line in shown}) == 1
    assert shown[2].startswith("| chgnet (base kept) | entropy ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n_train=0"], "n_train = 0: must be whole numbers of frames, 1 or above"),
        (["n_train=[250,-5]"], "n_train = -5"),
        (["n_train=many"], "n_train = 'many'"),
        (["n_train=2.5"], "n_train = 2.5"),
        (["n_train=[]"], r"workflow.n_train = \[\]: name at least one"),
        (["workflow.selections=[best]"], "workflow.selections: 'best' is unknown; allowed are entropy, random"),
        (["workflow.seeds=[-1]"], r"workflow.seeds = \[-1\]"),
        (["workflow.test_fraction=1"], "workflow.test_fraction = 1: must be between 0 and 1"),
        (["workflow.max_force=0"], "workflow.max_force = 0"),
        (["workflow.cutoff=-1"], "workflow.cutoff = -1"),
        (["workflow.mode=best"], "workflow.mode = 'best'"),
    ],
)
def test_bad_settings_are_refused(compose_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(compose_config("workflow=learning_curve", *overrides))


def test_more_training_frames_than_there_are(sweep):
    with pytest.raises(ConfigError, match=r"n_train = 500: 20 frames of the pool .*pool.extxyz may train, the other 4"):
        LearningCurve(n_train=[5, 500]).sizes(sweep)
    assert LearningCurve(n_train=20).sizes(sweep) == [20]
    assert LearningCurve().sizes(sweep) == [5, 10, 20]


def test_pools_that_are_not_there(tmp_path, compose_config):
    outputs = tmp_path / "outputs"
    with pytest.raises(ConfigError, match="holds no campaign with labelled frames; choose .* workflow.pool"):
        find_pool(None, outputs)
    with pytest.raises(ConfigError, match="workflow.pool = 'nowhere': neither a campaign in .* nor an extxyz file"):
        find_pool("nowhere", outputs)
    for name in ("a", "b"):
        (outputs / name / "iter-000" / "0-seed").mkdir(parents=True)
        (outputs / name / "iter-000" / "0-seed" / "DONE").write_text("{}")
        (outputs / name / "campaign.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"holds 2 campaigns with labelled frames \(a, b\)"):
        find_pool(None, outputs)
    with pytest.raises(ConfigError, match="campaigns there are a, b"):
        find_pool("c", outputs)
    settings = load(compose_config("workflow=learning_curve", "workflow.pool=b"))
    assert campaign_name(None, settings) == "b_learning_curve"
    assert campaign_name("mine", settings) == "mine"


def test_pools_that_cannot_be_learned(tmp_path):
    source = tmp_path / "pool.extxyz"
    source.write_text("")
    with pytest.raises(StructureError, match="pool.extxyz holds no labelled frames"):
        check_pool(read_pool(source), source)
    for key, where in (("label_stress", "info"), ("label_forces", "arrays"), ("energy_frame", "info")):
        frames = frames_of()
        del getattr(frames[5], where)[key]
        with pytest.raises(StructureError, match=rf"1 of 24 .* have no {key} \(i00-0001/f11\).*: a .*curve measures"):
            check_pool(frames, source)
    with pytest.raises(EnergyFrameError, match=r"labelled at 2 levels of theory \(dft, teacher-x-1\)"):
        check_pool([*frames_of(), labelled(99, "dft", "other")], source)
    with pytest.raises(StructureError, match="2 frames of the pool .* have the id i00-0000/f00"):
        check_pool([*frames_of(), labelled(0, parent="i00-0000")], source)
    write(source, Atoms("Li", cell=[3, 3, 3]), format="extxyz")
    with pytest.raises(StructureError, match="periodic"):
        read_pool(source)


def test_folder_that_is_something_else(tmp_path, pool, sweep):
    with pytest.raises(CampaignError, match="workflow.test_fraction: 0.2 -> 0.3.*campaign=NAME"):
        sweep.begin(pool, shared_settings(test_fraction=0.3))
    write_structures(tmp_path / "other.extxyz", frames_of())
    with pytest.raises(CampaignError, match="workflow.pool: .*pool.extxyz -> .*other.extxyz"):
        sweep.begin(tmp_path / "other.extxyz", shared_settings())
    (sweep.folder / SPLIT).write_text("{}")
    with pytest.raises(CampaignError, match="split.json is missing or damaged.*campaign=NAME"):
        sweep.begin(pool, shared_settings())
    (sweep.folder / POOL).unlink()
    with pytest.raises(CampaignError, match="pool.extxyz is missing or damaged"):
        sweep.begin(pool, shared_settings())
    campaign = Sweep(tmp_path / "outputs" / "campaign")
    campaign.folder.mkdir()
    (campaign.folder / "campaign.yaml").write_text("")
    with pytest.raises(CampaignError, match="is a campaign, a learning curve needs a folder of its own"):
        campaign.begin(pool, shared_settings())
    assert yaml.safe_load((sweep.folder / "sweep.yaml").read_text())["energy_frame"] == "teacher-x-1"
    assert read_json(sweep.folder / SPLIT) == {}
