"""generator=command in tests: programs and how they run, the options of `conf/`, the example of the documentation."""

import re
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from chemloop.config import build

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs/generators.md").read_text()
ELEMENTS = ["Li", "P", "S"]
CONDITIONS = {"energy_above_hull": 0.03}


def snippets(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


def generator_of(option, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = compose("config", [f"generator={option}", *overrides]).generator
    return build(OmegaConf.to_container(node, resolve=True), "generator")


def program(folder, text, name="make.py"):
    """A Python program and the command that runs it."""
    (folder / name).write_text(text)
    return ["{python}", str(folder / name)]


def documented_generator(folder):
    """The generator of the documentation, its YAML and its script."""
    (script,), node = snippets("python"), yaml.safe_load(snippets("yaml")[0])
    program(folder, script)
    node["command"] = [word.replace("/home/me", str(folder)) for word in node["command"]]
    return build(node, "generator")


def run(generator, folder, n=4, conditions=None, seed=7):
    return generator.generate(n, ELEMENTS, CONDITIONS if conditions is None else conditions, seed, folder)
