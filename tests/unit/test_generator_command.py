"""generator=command: the folder contract, and every way in which a program can fail."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from omegaconf import OmegaConf

from chemloop.config import load
from chemloop.generator.command import CommandGenerator, draw_formulas
from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import CheckpointError, ConfigError, ItemFailed
from chemloop.stages.generate import Generate
from tests.toy_command import ELEMENTS, documented_generator, generator_of, program, run
from tests.unit import explored


def shell(text, **values):
    return CommandGenerator(["sh", "-c", text], **values)


@pytest.fixture
def grid(tmp_path):
    return documented_generator(tmp_path)


def test_placeholders_and_input_files(tmp_path):
    command = ["sh", "-c", 'cat in/set.txt; echo "$@"; cp "$0" structures.extxyz', str(tmp_path / "one.extxyz")]
    write(tmp_path / "one.extxyz", bulk("NaCl", "rocksalt", 5.64))
    words = "{n} {elements} {seed} {min_atoms} {max_atoms} {energy_above_hull} {{x}} {workdir} {request}"
    generator = CommandGenerator(
        [*command, *words.split()], inputs={"in/set.txt": "#NATOM={min_atoms}-{max_atoms} {n:03d}\n"}, max_atoms=9
    )
    assert len(run(generator, tmp_path)) == 1
    folder = tmp_path / "run-00"
    log = (folder / "output.log").read_text().splitlines()
    assert log == ["#NATOM=1-9 004", f"4 Li,P,S 7 1 9 0.03 {{x}} {folder} {folder}/request.yaml"]


def test_no_shell_sees_the_command(tmp_path):
    marker = tmp_path / "marker"
    generator = CommandGenerator(["echo", f"; touch {marker}", f"$(touch {marker})"])
    with pytest.raises(ItemFailed, match="wrote no file"):
        run(generator, tmp_path)
    assert not marker.exists()


def test_several_files_in_natural_order_of_any_format(tmp_path):
    text = """
from ase.build import bulk
from ase.io import write
for k in (10, 9, 1):
    write(f"x{k}.cif", bulk("NaCl", "rocksalt", 5 + k / 10))
"""
    made = run(CommandGenerator(program(tmp_path, text), outputs="*.cif"), tmp_path)
    assert [round(atoms.cell.cellpar()[0] * 2**0.5, 3) for atoms in made] == [5.1, 5.9, 6.0]
    assert not any(atoms.info for atoms in made)


def test_what_is_told_of_their_birth_is_kept(tmp_path):
    crystal = bulk("NaCl", "rocksalt", 5.64)
    crystal.info |= {"operator": "stretch", "parents": "i00-g000-0001", "generator": "me", "energy": -3.0}
    crystal.new_array("forces", np.zeros((2, 3)))
    write(tmp_path / "one.extxyz", crystal)
    (made,) = run(CommandGenerator(["cp", str(tmp_path / "one.extxyz"), "structures.extxyz"]), tmp_path)
    assert made.info == {"operator": "stretch", "parents": "i00-g000-0001"}
    assert set(made.arrays) == {"numbers", "positions"} and made.calc is None


def test_more_than_asked_for_are_cut_off(tmp_path):
    write(tmp_path / "many.extxyz", [bulk("Li", "bcc", 3 + k / 10) for k in range(6)])
    made = run(CommandGenerator(["cp", str(tmp_path / "many.extxyz"), "structures.extxyz"]), tmp_path)
    assert [round(2 * abs(atoms.cell[0, 0]), 6) for atoms in made] == [3.0, 3.1, 3.2, 3.3]
    report = json.loads((tmp_path / "yield.json").read_text())
    assert report["attempts"] == 6 and report["rejected"] == {"beyond what was asked for": 2}


def test_what_an_earlier_attempt_left_does_not_count(grid, tmp_path):
    run(grid, tmp_path)
    with pytest.raises(ItemFailed, match="wrote no file structures.extxyz"):
        run(CommandGenerator(["true"]), tmp_path)


def test_environment_and_directory(tmp_path):
    (tmp_path / "code").mkdir()
    write(tmp_path / "code/one.extxyz", bulk("Li", "bcc", 3.4))
    generator = CommandGenerator(
        ["sh", "-c", 'test "$COLOUR" = red && cp one.extxyz "$0"', "{workdir}/structures.extxyz"],
        directory=str(tmp_path / "code"),
        environment={"COLOUR": "red"},
    )
    assert len(run(generator, tmp_path / "item")) == 1


def test_what_it_prints_is_in_the_log_of_the_item(capfd, tmp_path):
    write(tmp_path / "one.extxyz", bulk("Li", "bcc", 3.4))
    run(shell(f"echo out; echo err >&2; cp {tmp_path}/one.extxyz structures.extxyz"), tmp_path)
    assert capfd.readouterr().out == "out\nerr\n"


def is_alive(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_times_out_is_killed_with_its_children(tmp_path):
    generator = shell("sleep 600 & echo $!; echo still busy; sleep 600", timeout_min=0.1)
    begin = time.monotonic()
    with pytest.raises(ItemFailed, match=r"stopped after generator.timeout_min = 0.1 min; last lines:.*busy") as e:
        run(generator, tmp_path)
    assert e.value.retryable and time.monotonic() - begin < 300
    child = int((tmp_path / "run-00/output.log").read_text().split()[0])
    end = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(child)


def test_a_command_that_ends_badly(tmp_path):
    with pytest.raises(
        ItemFailed, match=r"failed: exit code 3; last lines: b \| c \| d \(log: .*output.log\)"
    ) as error:
        run(shell("printf 'a\nb\n\nc\nd\n'; exit 3"), tmp_path)
    assert not error.value.retryable
    with pytest.raises(ItemFailed, match="killed by signal 9; last lines: nothing"):
        run(shell("kill -9 $$"), tmp_path)
    with pytest.raises(ItemFailed, match="exit code 127; install it from there; last lines: .*no_such_program"):
        run(shell("no_such_program", install="install it from there"), tmp_path)


def test_a_command_that_writes_nothing(tmp_path):
    with pytest.raises(ItemFailed, match=r"wrote no file \*.cif \(generator.outputs\) in .*run-00"):
        run(shell("echo x > y.txt", outputs="*.cif"), tmp_path)
    with pytest.raises(ItemFailed, match="structures.extxyz: ASE cannot read it"):
        run(shell(": > structures.extxyz"), tmp_path)


def test_a_command_that_writes_garbage(tmp_path, capfd):
    with pytest.raises(ItemFailed, match=r"b.cif: ASE cannot read it .*all 2 files; see whether generator.format fits"):
        run(shell("echo noise > b.cif; echo noise > c.cif", outputs="*.cif"), tmp_path)
    write(tmp_path / "good.cif", bulk("NaCl", "rocksalt", 5.64))
    made = run(shell(f"echo noise > b.cif; cp {tmp_path}/good.cif .", outputs="*.cif"), tmp_path)
    assert len(made) == 1 and "b.cif: ASE cannot read it" in capfd.readouterr().out
    report = json.loads((tmp_path / "yield.json").read_text())
    assert report["attempts"] == 2 and report["rejected"] == {"unreadable file": 1}


def test_partially_occupied_sites_are_no_structure(tmp_path):
    crystal = bulk("NaCl", "rocksalt", 5.64)
    crystal.info["occupancy"] = {"0": {"Na": 0.5, "K": 0.5}, "1": {"Cl": 1.0}}
    crystal.set_array("spacegroup_kinds", np.array([0, 1]))
    write(tmp_path / "half.cif", crystal)
    assert run(CommandGenerator(["cp", str(tmp_path / "half.cif"), "structures.cif"], "structures.cif"), tmp_path) == []
    assert json.loads((tmp_path / "yield.json").read_text())["rejected"] == {"partially occupied sites": 1}


def test_other_elements_are_left_to_the_check_of_all_generators(tmp_path):
    write(tmp_path / "one.extxyz", bulk("Cu"))
    (made,) = run(CommandGenerator(["cp", str(tmp_path / "one.extxyz"), "structures.extxyz"]), tmp_path)
    assert set(made.symbols) == {"Cu"}


def test_the_stage_checks_what_a_command_wrote(compose_config, tmp_path):
    good = explored.crystals(["mp-1153", "mp-736"])
    good[0].info = {"operator": "copied"}
    squeezed = good[1].copy()
    squeezed.set_cell(squeezed.cell * 0.5, scale_atoms=True)
    write(tmp_path / "all.extxyz", [*good, squeezed, bulk("Cu"), Atoms("LiS", [[0, 0, 0], [0, 0, 2.4]])])
    command = f"generator.command=[cp,{tmp_path}/all.extxyz,structures.extxyz]"
    config = compose_config("generator=command", command, "loop.generate.n=6", "loop.generate.per_item=6",
                            "selector@candidates=random")  # fmt: skip
    campaign = Campaign(tmp_path / "campaign")
    campaign.begin(config)
    stage = Generate(campaign, load(config), 1)
    metrics = explored.run(stage)
    valid = stage.output()
    assert [atoms.info["generator"] for atoms in valid] == ["command"] * 2
    assert valid[0].info["operator"] == "copied" and "operator" not in valid[1].info
    assert metrics["n_valid"] == 2 and metrics["n_asked"] == 6


def test_one_run_for_each_formula(tmp_path):
    text = """
import sys
from ase import Atoms
from ase.io import write
assert sys.argv[1] != "fail"
write("structures.extxyz", [Atoms(sys.argv[1], cell=[9, 9, 9], pbc=True)] * int(sys.argv[2]))
"""
    command = [*program(tmp_path, text), "{formula}", "{n}"]
    generator = CommandGenerator(command, min_atoms=4, max_atoms=10, n_per_formula=3)
    made = run(generator, tmp_path, n=7)
    formulas = [str(atoms.symbols.formula) for atoms in made]
    assert len(made) == 7 and len(set(formulas[:3])) == len(set(formulas[3:6])) == 1
    assert all(4 <= len(atoms) <= 10 for atoms in made)
    requests = [yaml.safe_load((tmp_path / f"run-0{k}/request.yaml").read_text()) for k in range(3)]
    assert [request["n"] for request in requests] == [3, 3, 1]
    assert len({request["seed"] for request in requests}) == 3
    assert run(generator, tmp_path / "again", n=7) == made


def test_one_failed_run_of_several_is_counted(tmp_path):
    write(tmp_path / "one.extxyz", bulk("Li", "bcc", 3.4))
    text = (
        'case "$PWD" in *run-00) echo bad; exit 1;; esac; : {formula}; cp ' + f"{tmp_path}/one.extxyz structures.extxyz"
    )
    assert len(run(shell(text, n_per_formula=2), tmp_path)) == 1
    assert json.loads((tmp_path / "yield.json").read_text())["rejected"] == {"failed run": 1}


def test_formulas():
    drawn = [Atoms(formula) for formula in draw_formulas(200, ELEMENTS, 4, 12, seed=1)]
    assert all(4 <= len(atoms) <= 12 and len(set(atoms.symbols)) >= 2 for atoms in drawn)
    share = np.mean([len(set(atoms.symbols)) == 3 for atoms in drawn])
    assert 0.4 < share < 0.6
    assert draw_formulas(5, ELEMENTS, 4, 12, seed=1) == draw_formulas(5, ELEMENTS, 4, 12, seed=1)
    assert set(draw_formulas(3, ["Li"], 4, 4, seed=1)) == {"Li4"}
    assert {len(set(Atoms(formula).symbols)) for formula in draw_formulas(9, ["Li", "S"], 3, 9, seed=1)} == {2}


def test_impossible_sizes(tmp_path):
    with pytest.raises(ConfigError, match="no composition of Li, P, S has 1 to 1 atoms; change generator.min_atoms"):
        run(CommandGenerator(["true", "{formula}"]), tmp_path, conditions={"n_atoms": 1.0})
    with pytest.raises(ConfigError, match="generator.max_atoms = 400 allows more than 2000000 compositions"):
        run(CommandGenerator(["true", "{formula}"], max_atoms=400), tmp_path)


def test_a_program_that_is_not_here(tmp_path):
    with pytest.raises(ConfigError, match="generator.command starts nosuch, which is not on this machine; ask me"):
        run(CommandGenerator(["nosuch"], install="ask me"), tmp_path)
    with pytest.raises(ConfigError, match="generator.directory = .*/gone: there is no such folder; ask me"):
        run(CommandGenerator(["true"], directory=str(tmp_path / "gone"), install="ask me"), tmp_path)
    (tmp_path / "plain").write_text("no program")
    with pytest.raises(ConfigError, match="which does not run .*Permission"):
        run(CommandGenerator(["./plain"], directory=str(tmp_path)), tmp_path)
    with pytest.raises(CheckpointError, match="generator.checkpoint = .*gone.pt: there is no such file"):
        run(CommandGenerator(["true"], checkpoint=str(tmp_path / "gone.pt")), tmp_path)
    with pytest.raises(ConfigError, match=r"has \{checkpoint\}, which has no value here; set generator.checkpoint"):
        run(CommandGenerator(["true", "{checkpoint}"]), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"command": []}, "generator.command is empty"),
        ({"command": ["a", "{size}"]}, r"generator.command has \{size\}: allowed are \{n\}, \{elements\}"),
        ({"command": ["a", "{n"]}, r"generator.command has '\{n': .*write \{\{ and \}\} for braces"),
        ({"inputs": {"a": "{size}"}}, r"has \{size\}"),
        ({"inputs": {"../a": ""}}, "generator.inputs has '../a': must be a path inside the command's folder"),
        ({"outputs": "/tmp/*.cif"}, "generator.outputs has '/tmp/.*inside"),
        ({"outputs": ""}, "generator.outputs has ''"),
        ({"finetune_command": ["a", "{n}"]}, r"generator.finetune_command has \{n\}: allowed are \{structures\}"),
        ({"timeout_min": 0.0}, "generator.timeout_min = 0: must be above 0"),
        ({"min_atoms": 0}, "generator.min_atoms = 0: must be 1 or above"),
        ({"max_atoms": 3, "min_atoms": 4}, "generator.max_atoms = 3: must be generator.min_atoms = 4 or above"),
        ({"n_per_formula": 0}, "generator.n_per_formula = 0"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        CommandGenerator(**({"command": ["true"]} | values))


def pool():
    structures = [bulk("Li", "bcc", 3.4), bulk("NaCl", "rocksalt", 5.6)]
    for number, atoms in enumerate(structures):
        atoms.info |= {"id": f"i00-r{number:04d}", "e_above_hull": 0.1 * number, "role": "label"}
    return structures


def test_a_command_that_learns(tmp_path):
    learn = """
import sys
from pathlib import Path
from ase.io import read
energies = [atoms.info["e_above_hull"] for atoms in read(sys.argv[1], ":")]
Path(sys.argv[2]).write_text(f"{sum(energies)} {sys.argv[3]}")
"""
    words = [*program(tmp_path, learn, "learn.py"), "{structures}", "{workdir}/checkpoint.pt", "{seed}"]
    write(tmp_path / "one.extxyz", bulk("Li", "bcc", 3.4))
    generator = shell(f'cat "{{checkpoint}}"; cp {tmp_path}/one.extxyz structures.extxyz', finetune_command=words)
    assert generator.can_learn and not shell("true").can_learn
    generator.checkpoint = generator.finetune(pool(), tmp_path / "learn", 5)
    assert Path(generator.checkpoint).is_relative_to(tmp_path / "learn")
    run(generator, tmp_path / "generate")
    assert (tmp_path / "generate/run-00/output.log").read_text() == "0.1 5"
    found = read_structures(tmp_path / "learn/run-00/structures.extxyz")
    assert [atoms.info["role"] for atoms in found] == ["label", "label"]


def test_a_command_that_fails_to_learn(tmp_path):
    with pytest.raises(ConfigError, match="cannot be fine-tuned without generator.finetune_command"):
        shell("true").finetune(pool(), tmp_path, 0)
    with pytest.raises(ItemFailed, match=r"must leave one file or folder checkpoint\* .*it left none"):
        shell("true", finetune_command=["true"]).finetune(pool(), tmp_path, 0)
    with pytest.raises(ItemFailed, match="failed: exit code 1"):
        shell("true", finetune_command=["false"]).finetune(pool(), tmp_path, 0)


def test_a_command_must_be_given():
    with pytest.raises(ConfigError, match="generator.command has no value; set it with generator.command="):
        generator_of("command")


def test_the_yaml_is_the_schema():
    node = OmegaConf.load("conf/generator/command.yaml")
    assert node.pop("_target_") == "chemloop.generator.command.CommandGenerator"
    assert node.pop("python") is None
    node.command = ["true"]
    generator = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CommandGenerator), node))
    assert generator == CommandGenerator(["true"])
    assert set(node) == set(generator.__dataclass_fields__)


def test_importing_it_is_cheap():
    script = "import sys, chemloop.generator.command; assert not {'torch', 'pymatgen', 'pyxtal'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_output_is_read_as_written(grid, tmp_path):
    made = run(grid, tmp_path)
    assert [atoms.info for atoms in made] == [{}] * 4
    written = read(tmp_path / "run-00/structures.extxyz", ":")
    assert [atoms.positions.tolist() for atoms in written] == [atoms.positions.tolist() for atoms in made]
