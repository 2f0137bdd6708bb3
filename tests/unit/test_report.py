"""The report says what the data say, names who made the labels, needs no network, and bears half-finished campaigns."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from pymatgen.core import Structure
from pymatgen.io.cif import CifParser

from chemloop.report import captions
from chemloop.report.best import N_BEST
from chemloop.report.data import Drop, Find, Iteration, Parity, ReportData, formula, plain_formula
from chemloop.report.distribution import binned
from chemloop.report.page import Panel, panels, write_report
from chemloop.report.parity import N_DRAWN, drawn
from chemloop.report.phase_diagram import corner_positions, hull_view
from chemloop.report.picture import write_picture
from chemloop.runtime.errors import EnergyFrameError, StructureError

SOURCE = "teacher 7net-0 (not DFT)"
FIGURES = ("e-hull", "yield", "hull-known", "hull", "entropy", "training", "errors", "parity-energies", "parity-forces")
"""Of a campaign of which nothing but curves, parities and a hull is known."""
LOSSES = ("losses",)


def crystal(name: str, energy_per_atom: float, id: str, frame: str = "chgnet-a") -> Atoms:
    rng = np.random.default_rng(len(id))
    atoms = Atoms(name, cell=[7, 8, 9], pbc=True)
    atoms.set_scaled_positions(rng.random((len(atoms), 3)))
    atoms.info.update(id=id, mlff_energy=energy_per_atom * len(atoms), energy_frame=frame)
    return atoms


def iteration(number: int) -> Iteration:
    metrics = {
        "curate/entropy_nats": 5.0 + 0.3 * number,
        "curate/entropy_error_nats": 0.02,
        "curate/entropy_growth_nats_per_frame": 10.0 ** (-1 - number),
        "curate/n_train": 100.0 * (number + 1),
    }
    for channel, unit in (("energy", "mev_per_atom"), ("force", "mev_per_ang")):
        metrics[f"finetune/test_{channel}_rmse_base_{unit}"] = 120.0
        metrics[f"finetune/test_{channel}_rmse_before_{unit}"] = 90.0
        metrics[f"finetune/test_{channel}_rmse_after_{unit}"] = 40.0
    if number == 0:
        return Iteration(0, metrics | {"seed/n_frames": 310})
    metrics |= {
        "generate/n_generated": 64,
        "screen/n_stable": 9,
        "screen/n_unique": 50,
        "screen/n_novel": 40,
        "screen/n_sun": 4,
        "screen/lowest_e_above_hull_ev_per_atom": -0.012,
        "label/n_frames": 120,
    }
    return Iteration(number, metrics, np.concatenate([np.linspace(-0.03, 0.5, 40), [1.7, np.nan]]))


def parity(n: int, error: float) -> Parity:
    rng = np.random.default_rng(n)
    label = rng.normal(size=n)
    noise = rng.choice([-1.0, 1.0], size=n)
    return Parity(label, label + 2 * error * noise, label + error * noise)


@pytest.fixture
def data() -> ReportData:
    references = [("Li", -1.9), ("P", -5.4), ("S", -4.1), ("Li2S", -4.0), ("Li3PS4", -4.6), ("Li4S2", -3.95)]
    finds = [("Li2PS3", -4.7), ("LiS", -3.8), ("Li4P2S6", -4.65)]
    return ReportData(
        campaign="li-p-s <test>",
        elements=["Li", "P", "S"],
        label_source=SOURCE,
        config_yaml="loop:\n  note: </pre><script>alert(1)</script>\n",
        versions={"torch": "2.13.0", "ase": "3.29.0"},
        stop_reason="loop.max_iterations = 2 reached",
        iterations=[iteration(number) for number in range(3)],
        energy_parity=parity(500, 0.03),
        force_parity=replace(parity(9000, 0.15), sampled_from=36_000),
        parity_iteration=2,
        references=[crystal(name, energy, f"r{number}") for number, (name, energy) in enumerate(references)],
        finds=[Find(crystal(name, e, f"i01-g{n}"), 1, "P2_1/c") for n, (name, e) in enumerate(finds)],
        drops=[Drop("generate", "distances too small", 7), Drop("label", "no convergence", 9, "i01-g0002")],
    )


def page(data: ReportData, tmp_path) -> str:
    write_report(data, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text()


def without_scripts(text: str) -> str:
    return re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL)


def words(text: str) -> str:
    """What a reader sees of the page, without scripts and tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_scripts(text))))


def drawn_panels(data: ReportData) -> dict[str, Panel]:
    """The panels by name."""
    return {panel.name: panel for panel in panels(data)}


def test_one_file_without_network(data, tmp_path):
    text = page(data, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 8e6
    ours = without_scripts(text)
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?(https?:)?//""", ours)
    assert not re.search(r"<(link|iframe|img|object)\b|@import|url\(|<script[^>]*\bsrc", ours)
    for name in FIGURES:
        assert f'id="{name}"' in ours, name


def test_figures_name_their_axes_with_units(data):
    wanted = {
        "e-hull": ["Energy above the hull (eV/atom)", "Iteration"],
        "yield": ["Fraction of generated (%)", "Iteration"],
        "entropy": ["Information entropy (nats)", "Labelled frames, all iterations", "Iteration"],
        "training": ["log₁₀ dH/dN", "Energy RMSE", "Force RMSE", "Training frames"],
        "errors": ["Energy RMSE (meV/atom)", "Force RMSE (meV/Å)", "Iteration"],
        "parity-energies": [f"Energy by {SOURCE} (eV/atom)", "Energy by the force field (eV/atom)"],
        "parity-forces": [f"Force component by {SOURCE} (eV/Å)"],
        "hull": ["(meV/atom)"],
    }
    made = drawn_panels(data)
    assert {name for name, panel in made.items() if panel.figure} == {*FIGURES, *LOSSES}
    for name, titles in wanted.items():
        for title in titles:
            assert title in made[name].figure, (name, title)
        assert len(made[name].caption) > 60


def test_curves_in_numbers(data, tmp_path):
    made = {name: panel.tables[0] for name, panel in drawn_panels(data).items() if panel.tables}
    assert list(made) == ["yield", "entropy", "training", "errors"]
    assert made["yield"].columns == ("Iteration", "Generated", "Stable", "Unique", "Novel", "S.U.N.")
    assert made["yield"].rows[0] == ("1", "64", "9 (14.1 %)", "50 (78.1 %)", "40 (62.5 %)", "4 (6.2 %)")
    assert made["entropy"].rows == [
        *(("0", "5.000", "0.020", "310"), ("1", "5.300", "0.020", "430"), ("2", "5.600", "0.020", "550"))
    ]
    assert made["training"].columns[1:3] == ("Training frames", "dH/dN, nats per frame")
    assert made["training"].rows[2] == ("2", "300", "1.00e−03", "120.0", "40.0", "120.0", "40.0")
    assert made["errors"].columns[1:3] == tuple(
        f"Energy RMSE (meV/atom) {when} fine-tuning" for when in ("before", "after")
    )
    assert made["errors"].rows[0] == ("0", "90.0", "40.0", "90.0", "40.0")
    ours = without_scripts(page(data, tmp_path))
    assert 'data-title="Stable, unique, novel"' in ours and "<summary>Errors by iteration, in numbers</summary>" in ours
    assert '<th scope="row">1</th><td class="number">64</td><td class="number">9 (14.1 %)</td>' in ours


def test_labels_are_called_by_their_source(data, tmp_path):
    text = page(data, tmp_path)
    assert f"labelled by {SOURCE}" in words(text)
    assert words(text).count(SOURCE) >= 8
    assert "DFT" not in words(text).replace(SOURCE, "")
    assert not any("DFT" in panel.figure.replace(SOURCE, "") for panel in panels(data))
    for atoms in [*data.references, *(find.atoms for find in data.finds)]:
        atoms.info["label_energy"] = atoms.info.pop("mlff_energy")
    by_labels = replace(data, hull_energies="label")
    assert f"by energies of {SOURCE}" in words(page(by_labels, tmp_path))


def test_headline_numbers(data, tmp_path):
    text = words(page(data, tmp_path))
    for phrase in (
        "128 structures generated in 2 iterations; 8 structures are stable, unique and novel (S.U.N.), 6.2 %.",
        f"550 frames labelled by {SOURCE}.",
        "Why it ended: loop.max_iterations = 2 reached.",
        "−12 meV/atom",
        "5.60 nats from 5.00 in iteration 0",
        "120 → 40 meV/atom",
        "120 → 40 meV/Å",
        "2 structures more than 1 eV/atom above or below the hull not drawn.",
        "All 500 test values of iteration 2",
        "of 9,000 test values of iteration 2, a sample of 36,000, labelled by",
        "RMSE over these 9,000.",
        "Hull of 6 known structures (circles) and 3 S.U.N. structures (diamonds) by energies of the force field.",
        "label no convergence i01-g0002 9 generate distances too small all 7",
    ):
        assert phrase in text, phrase


def test_errors_are_those_of_all_points(data):
    made = drawn_panels(data)
    for name, titles in {
        "energies": ("60.0 meV/atom", "30.0 meV/atom"),
        "forces": ("300.0 meV/Å", "150.0 meV/Å"),
    }.items():
        for title in titles:
            assert f"RMSE {title}" in made[f"parity-{name}"].figure
    outlier = parity(20_000, 0.1)
    outlier.after[12_345] += 5.0
    indices = drawn(outlier)
    assert len(indices) <= N_DRAWN
    assert 12_345 in indices
    assert outlier.rmse("after") == pytest.approx(np.sqrt(np.mean((outlier.after - outlier.label) ** 2)))


def test_configuration_and_names_cannot_break_the_page(data, tmp_path):
    text = page(data, tmp_path)
    assert "<script>alert(1)" not in text
    assert "<test>" not in text
    assert "</pre><script>alert(1)</script>" in html.unescape(re.split("<pre[^>]*>", text)[1].split("</pre>")[0])


def test_cif_downloads_are_the_structures(data, tmp_path):
    text = page(data, tmp_path)
    links = re.findall(r'download="([^"]+)" href="data:chemical/x-cif;base64,([^"]+)"', text)
    assert [name for name, _ in links] == ["Li2PS3_i01-g0.cif", "Li2PS3_i01-g2.cif", "LiS_i01-g1.cif"]
    for (_, content), index in zip(links, (0, 2, 1), strict=True):
        (parsed,) = CifParser.from_str(base64.b64decode(content).decode()).parse_structures(primitive=False)
        atoms = data.finds[index].atoms
        original = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())
        np.testing.assert_allclose(parsed.lattice.parameters, original.lattice.parameters, atol=1e-5)
        np.testing.assert_allclose(parsed.distance_matrix, original.distance_matrix, atol=1e-4)


def test_table_measures_against_known_and_against_all(data, tmp_path):
    text = words(page(data, tmp_path))
    rows = re.findall(r"(i01-g\d) (\S+) P2₁/c (\d+) 1 ([−+][\d.]+) ([\d.]+)", text)
    assert [row[:2] for row in rows] == [("i01-g0", "Li₂PS₃"), ("i01-g2", "Li₂PS₃"), ("i01-g1", "LiS")]
    assert rows[0][3].startswith("−")
    assert float(rows[0][4]) == 0.0
    assert float(rows[1][4]) == pytest.approx(50.0)
    # LiS between Li2S and S: -4.0 - 0.1 / 4 = -4.025
    assert rows[2][3] == "+225.0"
    many = [Find(crystal("LiS", -3.8 + 0.001 * n, f"i01-g{n}"), 1, "P1") for n in range(N_BEST + 5)]
    assert f"The {N_BEST} of {N_BEST + 5} S.U.N. structures" in words(page(replace(data, finds=many), tmp_path))


def test_hull_view(data):
    view = hull_view(data)
    names = {(marker.formula, marker.is_new): marker for marker in view.markers}
    assert set(names) == {(n, False) for n in ("Li", "P", "S", "Li₂S", "Li₃PS₄")} | {("Li₂PS₃", True)}
    assert view.n_hidden == 1  # LiS
    np.testing.assert_allclose(names["Li₂S", False].position, [1 / 3, 0.0], atol=1e-12)
    assert names["Li₂S", False].text.startswith("<b>Li₂S</b>, 2 known<br>r3: 0 meV/atom<br>r5: 50 meV/atom")
    assert names["Li₂PS₃", True].is_on_hull
    assert all(0 <= a[1] <= np.sqrt(0.75) + 1e-9 for a, _ in view.lines)
    assert len({tuple(np.round(np.concatenate(pair), 6)) for pair in view.lines}) == len(view.lines)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_corners_are_equally_far_apart(n):
    corners = corner_positions(n)
    distances = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    np.testing.assert_allclose(distances, 1 - np.eye(n), atol=1e-12)


@pytest.mark.parametrize("elements", [["S"], ["Li", "S"], ["Li", "P", "S", "Cl"], ["Li", "P", "S", "Cl", "O"]])
def test_any_number_of_elements(data, tmp_path, elements):
    references = [crystal(element, -2.0, element) for element in elements]
    references += [crystal(elements[0] + elements[-1], -2.5, "pair"), crystal(elements[0], -1.97, "polymorph")]
    finds = [Find(crystal("".join(elements) + elements[0], -3.0, "i01-g0000"), 1, "P1")]
    other = replace(data, elements=elements, references=references, finds=finds)
    text = page(other, tmp_path)
    made = drawn_panels(other)["hull"]
    if len(elements) == 5:
        assert made.figure == ""
        assert "A system of 5 elements has no drawing" in words(text)
    else:
        title = {1: "Volume of S (Å³/atom)", 2: "Formation energy (eV/atom)", 4: "scatter3d"}
        assert title[len(elements)] in made.figure
    write_picture(other, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_campaign_that_has_hardly_begun(data, tmp_path):
    fresh = ReportData("new", ["Li", "P", "S"], SOURCE, "seed: 0", {})
    text = words(page(fresh, tmp_path))
    assert "Nothing is finished yet. No frames labelled" in text
    assert text.count("No structure has been screened so far") == 2
    assert text.count("No fine-tuning is finished") == 3
    assert "No reference has an energy so far" in text
    assert "No stable, unique and novel structure has been found so far." in text
    assert "Nothing was dropped and nothing failed." in text
    assert not any(panel.figure for panel in panels(fresh))
    known_only = replace(
        data, iterations=[iteration(0)], energy_parity=None, force_parity=None, finds=[], stop_reason=""
    )
    text = words(page(known_only, tmp_path))
    assert "Only the known structures have been looked at so far" in text
    assert "The campaign has not ended." in text
    for case in (fresh, known_only):
        write_picture(case, tmp_path / "picture.svg")
        assert "</svg>" in (tmp_path / "picture.svg").read_text()


def test_iteration_in_progress_and_nothing_found(data, tmp_path):
    begun = Iteration(3, {"generate/n_generated": 64})
    barren = Iteration(4, {"generate/n_generated": 64, "screen/n_sun": 0, "screen/n_stable": 0}, np.zeros(0))
    flat = Iteration(5, {"curate/entropy_growth_nats_per_frame": -0.001, "curate/entropy_nats": float("nan")})
    text = page(replace(data, iterations=[*data.iterations, begun, barren, flat], finds=[]), tmp_path)
    assert "192 structures generated in 3 iterations; 8 structures are" in words(text) and "4.2 %" in words(text)
    assert "64 other structures not screened yet." in words(text) and "of 192 generated" in words(text)
    assert "NaN" not in words(text) and "nan" not in words(text).split()
    text = words(page(replace(data, iterations=[begun], finds=[]), tmp_path))
    assert "64 structures generated, and not screened yet." in text
    only_far = Iteration(1, {"generate/n_generated": 64, "screen/n_sun": 0}, np.array([1.5, 2.0]))
    text = words(page(replace(data, iterations=[only_far], finds=[]), tmp_path))
    assert "64 structures generated in 1 iteration; no structures are stable, unique and novel (S.U.N.)." in text
    assert "or none within 1 eV/atom of the hull" in text


def test_bars_count_every_structure(data):
    edges, counts, beyond = binned(data)
    assert list(counts) == [1, 2]
    assert all(values.sum() == 40 for values in counts.values())
    assert beyond == 2
    assert np.isclose(edges, data.stable_below).any()


def test_energies_of_a_force_field_that_failed_do_not_widen_the_bars(data):
    far = replace(data.iterations[1], e_above_hull=np.array([-1e9, -1.5, -0.2, 0.3, 1.5]))
    edges, counts, beyond = binned(replace(data, iterations=[far]))
    assert edges[0] >= -1 and counts[1].sum() == 2 and beyond == 3
    assert "3 structures more than 1 eV/atom above or below the hull not drawn." in captions.e_hull(
        replace(data, iterations=[far])
    )


def test_energies_of_two_frames_do_not_share_a_hull(data, tmp_path):
    data.finds[0].atoms.info["energy_frame"] = "chgnet-b"
    with pytest.raises(EnergyFrameError, match="2 levels of theory met: "):
        write_report(data, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
    data.finds[0].atoms.info["energy_frame"] = "chgnet-a"
    with pytest.raises(StructureError, match="no structure of the element P alone"):
        write_report(replace(data, references=[data.references[0], data.references[2]]), tmp_path / "report.html")


def test_formula():
    assert plain_formula(Atoms("Li6P2S8")) == "Li3PS4"
    assert formula(Atoms("Li6P2S8")) == "Li₃PS₄"
    assert formula(Atoms("S8")) == "S"
