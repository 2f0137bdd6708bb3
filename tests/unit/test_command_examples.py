"""The worked examples of generator=command: that of the documentation, and AIRSS and DiffCSP with stand-ins."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from chemloop.runtime.errors import CheckpointError, ConfigError
from tests.toy_command import CONDITIONS, DOCS, ELEMENTS, ROOT, documented_generator, generator_of, run


@pytest.fixture
def grid(tmp_path):
    return documented_generator(tmp_path)


def test_the_worked_example_runs(grid, tmp_path):
    made = run(grid, tmp_path / "a", n=5)
    assert len(made) == 5 and all(4 <= len(atoms) <= 12 and atoms.pbc.all() for atoms in made)
    assert {symbol for atoms in made for symbol in atoms.symbols} == set(ELEMENTS)
    assert run(grid, tmp_path / "b", n=5) == made
    assert run(grid, tmp_path / "c", n=5, seed=8) != made
    report = json.loads((tmp_path / "a/yield.json").read_text())
    assert report["attempts"] == 5 and report["rejected"] == {} and report["cpu_seconds"] > 0


def test_the_request(grid, tmp_path):
    run(grid, tmp_path, conditions=CONDITIONS | {"n_atoms": 6.0})
    assert yaml.safe_load((tmp_path / "run-00/request.yaml").read_text()) == {
        "version": 1,
        "n": 4,
        "elements": ELEMENTS,
        "formula": None,
        "conditions": {"energy_above_hull": 0.03, "n_atoms": 6.0},
        "seed": 7,
        "min_atoms": 6,
        "max_atoms": 6,
        "checkpoint": None,
    }
    (table,) = re.findall(r"`request.yaml`:\n(.*?)Placeholders", DOCS, re.DOTALL)
    documented = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", table, re.MULTILINE)
    keys = {key for row in documented for key in row if key}
    assert set(yaml.safe_load((tmp_path / "run-00/request.yaml").read_text())) == keys


AIRSS = """#!{python}
import sys
assert sys.argv[1:] == ["-build", "-max", "4", "-seed", "chemloop"], sys.argv
cell = open("chemloop.cell").read()
assert "#SPECIES=Li,P,S\\n" in cell and "#NATOM=4-16\\n" in cell, cell
for k in range(4):
    with open(f"chemloop-1234-5678-{{k + 1}}.res", "w") as file:
        file.write(f'''TITL chemloop-1234-5678-{{k + 1}} 0 80.0 0 0 0 4 (n/a) n - 1
REM
CELL 1.54180    4.0  4.0  5.0  90.0  90.0  90.0
LATT -1
SFAC Li S
Li     1  0.0000000000000  0.0000000000000  0.0000000000000 1.0
Li     1  0.5000000000000  0.5000000000000  0.{{k}}000000000000 1.0
S      2  0.5000000000000  0.0000000000000  0.5000000000000 1.0
S      2  0.0000000000000  0.5000000000000  0.5000000000000 1.0
END
''')
"""


def test_airss_yaml_with_a_stand_in(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin/airss.pl"
    path.write_text(AIRSS.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    made = run(generator_of("airss"), tmp_path / "item")
    assert [atoms.get_chemical_formula() for atoms in made] == ["Li2S2"] * 4
    assert made[3].get_scaled_positions()[1] == pytest.approx([0.5, 0.5, 0.3])


SAMPLE = """
import argparse, os
from ase import Atoms
from ase.io import write
parser = argparse.ArgumentParser()
parser.add_argument("--model_path", required=True)
parser.add_argument("--save_path", required=True)
parser.add_argument("--formula", required=True)
parser.add_argument("--num_evals", default=1, type=int)
parser.add_argument("--batch_size", default=500, type=int)
parser.add_argument("--step_lr", default=1e-5, type=float)
args = parser.parse_args()
assert os.path.isabs(args.model_path) and os.path.exists(args.model_path + "/hparams.yaml")
folder = os.path.join(args.save_path, args.formula)
os.makedirs(folder, exist_ok=True)
for k in range(args.num_evals):
    atoms = Atoms(args.formula, cell=[4, 4, 60], pbc=True)
    atoms.positions[:, 2] = [3 * i for i in range(len(atoms))]
    write(os.path.join(folder, f"{args.formula}_{k + 1}.cif"), atoms)
"""


def test_diffcsp_yaml_with_a_stand_in(tmp_path, monkeypatch):
    (tmp_path / "DiffCSP/scripts").mkdir(parents=True)
    (tmp_path / "DiffCSP/scripts/sample.py").write_text(SAMPLE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/hparams.yaml").write_text("")
    for key, value in (("ROOT", tmp_path / "DiffCSP"), ("MODEL", tmp_path / "model"), ("PYTHON", sys.executable)):
        monkeypatch.setenv(f"DIFFCSP_{key}", str(value))
    made = run(generator_of("diffcsp", "generator.n_per_formula=2"), tmp_path / "item", n=5)
    assert len(made) == 5 and all(4 <= len(atoms) <= 20 for atoms in made)
    assert len({str(atoms.symbols) for atoms in made}) == 3


@pytest.mark.parametrize(("option", "sentence"), [("airss", "install AIRSS"), ("diffcsp", "clone https://github.com")])
def test_worked_examples_without_their_program_say_so(option, sentence, tmp_path, monkeypatch):
    for name in ("DIFFCSP_ROOT", "DIFFCSP_MODEL", "DIFFCSP_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, CheckpointError), match=sentence) as error:
        run(generator_of(option), tmp_path)
    assert "\n" not in str(error.value)


def test_the_command_line_of_the_documentation(grid, tmp_path):
    (line,) = re.findall(r"python -m chemloop (generator=command .*)", DOCS)
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], cwd=tmp_path, capture_output=True, text=True)
    made = run(generator_of(*[word.removeprefix("generator=") for word in words.stdout.split()]), tmp_path / "item")
    assert len(made) == 4


def test_the_documentation_names_every_placeholder_and_generator():
    from chemloop.generator.command import FINETUNE, GENERATE

    assert all(f"`{{{name}}}`" in DOCS or f"{{{name}}}" in DOCS for name in (*GENERATE, *FINETUNE))
    assert {path.stem for path in (ROOT / "conf/generator").glob("*.yaml")} <= set(re.findall(r"`(\w+)`", DOCS))
