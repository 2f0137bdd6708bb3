"""The report as a reader meets it: figures, viewer, downloads, table, keyboard, dark pages, phones, paper."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from ase.io import read
from playwright.sync_api import expect
from pymatgen.core import Structure
from pymatgen.io.cif import CifParser

from chemloop.report.packing import right_handed_coordinates
from chemloop.report.page import panels
from chemloop.report.style import DARK, INK

CANVAS = "#viewer canvas"


@pytest.fixture(scope="module")
def desk(open_page, report):
    """The report on a wide, light screen."""
    return open_page(report)


@pytest.fixture
def page(desk):
    """That page with the viewer closed and no filter set."""
    if desk.run("document.getElementById('viewer').open"):
        desk.page.keyboard.press("Escape")
    desk.page.get_by_role("button", name="Clear").click()
    yield desk.page
    assert desk.complaints == []


def pixels(page) -> str:
    return page.locator(CANVAS).evaluate("canvas => canvas.toDataURL()")


def open_first(page) -> str:
    """Open the structure in the first row; its id."""
    first = page.locator("#structure-table tbody tr").first.get_by_role("button")
    first.click()
    expect(page.locator(CANVAS)).to_be_visible()
    return first.inner_text()


def choose(page, name: str, value: str) -> None:
    page.locator(f"[data-table={name}]").select_option(value)


def enter(page, name: str, text: str) -> None:
    page.locator(f"[data-table={name}]").fill(text)


def status(page) -> str:
    return page.locator("[data-table=status]").inner_text()


def rows(page) -> list[list[str]]:
    return page.locator("#structure-table tbody tr").evaluate_all(
        "rows => rows.map(row => Array.from(row.cells, cell => cell.innerText))"
    )


def test_every_figure_draws(desk, data):
    wanted = [panel for panel in panels(data) if panel.figure]
    assert len(wanted) >= 15
    for panel in wanted:
        found = desk.run(
            """name => {
                const place = document.getElementById(name);
                const {width, height} = place.querySelector(".main-svg").getBoundingClientRect();
                const shapes = place.querySelectorAll(".trace, .bars .point, .scatterlayer path, canvas").length;
                return {width, height, shapes, traces: place.data.length,
                    images: Array.from(place.querySelectorAll("[role=img]"), (image) => image.ariaLabel),
                    exposed: place.querySelectorAll(".main-svg:not([role=img]):not([aria-hidden])").length};
            }""",
            panel.name,
        )
        assert found["traces"] > 0 and found["shapes"] > 0, panel.name
        assert found["width"] > 300 and found["height"] > 200, panel.name
        assert found["images"] == [panel.title] and found["exposed"] == 0, "the caption is read once, below"
    assert desk.run("document.body.dataset.state") == "drawn"
    assert desk.complaints == []


def test_named_as_a_demonstration(page):
    expect(page.locator("h1")).to_have_text("DEMONSTRATION, not a campaign")


def test_viewer_turns(page):
    open_first(page)
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    seen = [pixels(page)]
    box = page.locator(CANVAS).bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 180, steps=3)
    page.mouse.up()
    seen.append(pixels(page))
    for key in ("ArrowLeft", "ArrowUp", "+"):
        page.keyboard.press(key)
        seen.append(pixels(page))
    page.mouse.wheel(0, 200)
    # unlike a key or a button, the wheel is not waited for
    page.wait_for_function(
        "([name, before]) => document.querySelector(name).toDataURL() !== before", arg=[CANVAS, seen[-1]]
    )
    seen.append(pixels(page))
    for name in ("a", "b", "c"):
        page.locator("#viewer").get_by_role("button", name=name, exact=True).click()
        seen.append(pixels(page))
    assert len(set(seen)) == len(seen)
    page.locator(CANVAS).press("Home")
    assert pixels(page) == seen[0]
    page.get_by_label("2×2×2").check()
    assert pixels(page) not in seen


def test_viewer_describes_what_it_draws(page, data):
    id = open_first(page)
    facts = page.locator("#viewer-facts").inner_text()
    atoms = data.structures[id].atoms
    assert id in facts and f"{1000 * data.structures[id].e_above_hull:.1f}".replace("-", "−") in facts
    assert f"a, b, c {', '.join(f'{x:.3f}' for x in atoms.cell.lengths())} Å" in facts
    assert page.locator("#viewer tbody tr").count() == len(atoms)
    label = page.locator(CANVAS).get_attribute("aria-label")
    assert label.startswith("Drawing of ") and "Arrow keys turn it" in label
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    focused = page.evaluate("document.activeElement.innerText")
    assert focused == id


def cif_of(page, id: str) -> Structure:
    page.evaluate("id => document.querySelector(`#structure-table [data-structure='${id}']`).click()", id)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CIF").click()
    assert re.fullmatch(rf"[A-Za-z0-9]+_{id}\.cif", download.value.suggested_filename)
    (parsed,) = CifParser.from_str(download.value.path().read_text()).parse_structures(primitive=False)
    page.keyboard.press("Escape")
    return parsed


@pytest.mark.parametrize("kind", ["new", "known"])
def test_downloaded_cif_is_the_structure(page, data, kind):
    choose(page, "kind", kind)
    for row in rows(page)[:3]:
        atoms = data.structures[row[0]].atoms
        parsed = cif_of(page, row[0])
        np.testing.assert_allclose(parsed.lattice.parameters, atoms.cell.cellpar(), atol=1e-4)
        assert parsed.composition.get_el_amt_dict() == atoms.symbols.formula.count()
        symbols = np.array([site.specie.symbol for site in parsed])
        for symbol, place in zip(atoms.get_chemical_symbols(), right_handed_coordinates(atoms), strict=True):
            apart = parsed.frac_coords[symbols == symbol] - place
            assert np.abs(apart - np.rint(apart)).max(axis=1).min() < 1e-4


def test_click_on_a_point_opens_its_structure(desk, page, data):
    places = desk.run(
        """() => Array.from(document.querySelectorAll(".plot.pickable"), place => {
            const trace = place.data.findIndex(({customdata}) => Array.isArray(customdata));
            place.emit("plotly_click", {points: [{customdata: place.data[trace].customdata[0]}]});
            const facts = document.getElementById("viewer-facts").innerText;
            document.getElementById("viewer").close();
            const id = [place.data[trace].customdata[0]].flat()[0];
            return {name: place.id, id, isShown: facts.includes(id)};
        })"""
    )
    assert {"hull", "map-framework", "parity-hull"} <= {place["name"] for place in places}
    assert all(place["isShown"] and place["id"] in data.structures for place in places)
    # Once with a real pointer.
    plot = page.locator("#map-framework")
    plot.scroll_into_view_if_needed()
    plot.locator(".scatterlayer .point").first.hover(force=True)
    x, y = desk.run(
        """() => {
            const place = document.getElementById("map-framework");
            const box = place.querySelector(".scatterlayer .point").getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }"""
    )
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    expect(page.locator("#viewer")).to_be_visible()
    assert page.locator("#viewer-facts dd").first.inner_text() in data.structures


def test_table_filters_sorts_and_pages(page, data):
    new = {id: card for id, card in data.structures.items() if card.iteration}
    energies = [card.e_above_hull for card in new.values()]
    assert status(page) == f"{len(new)} structures"
    assert len(rows(page)) == 25
    shown = [float(row[5].replace("−", "-")) for row in rows(page)]
    assert shown == sorted(shown) and shown[0] == pytest.approx(1000 * min(energies), abs=0.06)
    page.get_by_role("button", name="Next page").click()
    assert float(rows(page)[0][5].replace("−", "-")) >= shown[-1]
    header = page.locator("th[data-key=nAtoms]")
    header.get_by_role("button").click()
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert int(rows(page)[0][3]) == max(len(card.atoms) for card in new.values())
    enter(page, "highest", "100")
    assert status(page).startswith(f"{sum(energy <= 0.1 for energy in energies)} ")
    page.get_by_role("button", name="Clear").click()
    choose(page, "iteration", "3")
    assert status(page).startswith(f"{sum(card.iteration == 3 for card in new.values())} ")
    enter(page, "text", "Li-P")
    wanted = [c for c in new.values() if c.iteration == 3 and set(c.atoms.symbols) == {"Li", "P"}]
    assert status(page).startswith(f"{len(wanted)} ")
    page.get_by_role("button", name="Clear").click()
    id = next(iter(new))
    enter(page, "text", id)
    assert [row[0] for row in rows(page)] == [id] and status(page) == "1 structure"


def test_table_filters_by_motif_and_writes_csv(page, data):
    with_motif = [id for id, card in data.structures.items() if card.iteration and "PS4^3-" in card.motifs]
    option = page.locator("[data-table=motif] option", has_text="PS₄³⁻ (").first.get_attribute("value")
    choose(page, "motif", option)
    assert status(page).split()[0] == str(len(with_motif)) != "0"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download these as CSV").click()
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert {row["id"] for row in table} == set(with_motif)
    for row in table:
        card = data.structures[row["id"]]
        assert float(row["e_above_hull_ev_per_atom"]) == pytest.approx(card.e_above_hull, abs=6e-5)
        assert row["motifs"].split("; ") == card.motifs
        assert int(row["n_atoms"]) == len(card.atoms)


def test_motif_turns_and_is_taken_away(page, data):
    card = next(card for card in data.gallery if card.dimensionality)
    entry = page.locator(f"[id='motif-{card.file_stem}']")
    entry.evaluate("entry => entry.closest('details')?.setAttribute('open', '')")
    assert entry.locator("svg").count() == 1
    entry.get_by_role("button", name="Turn ").click()
    before = pixels(page)
    page.keyboard.press("ArrowRight")
    assert pixels(page) != before
    with page.expect_download() as download:
        page.get_by_role("button", name="Download xyz").click()
    (atoms,) = read(download.value.path(), index=":", format="extxyz")
    assert atoms.get_chemical_symbols() == card.atoms.get_chemical_symbols()
    assert list(atoms.pbc) == list(card.atoms.pbc)
    np.testing.assert_allclose(atoms.positions, card.atoms.positions, atol=1e-4)
    np.testing.assert_allclose(atoms.cell.array, card.atoms.cell.array, atol=1e-4)


def test_host_of_a_motif_opens(page, data):
    card = next(card for card in data.gallery if card.e_above_hull is not None)
    page.locator(f"[id='motif-{card.file_stem}']").get_by_role("button", name="Open ").click()
    assert page.locator("#viewer-facts dd").first.inner_text() == card.host


def test_keyboard_alone_reaches_everything(page):
    assert page.evaluate("document.querySelector('a, button, input, select, [tabindex]').className") == "skip"
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(landmark).count() == 1, landmark
    unnamed = page.evaluate(
        """() => Array.from(document.querySelectorAll("button, a, select, input, canvas"), (element) => element)
            .filter((element) => !(element.innerText?.trim() || element.ariaLabel || element.labels?.length
                || element.closest("dialog")))
            .map((element) => element.outerHTML)"""
    )
    assert unnamed == []
    # An image has no parts to a screen reader, so nothing in one may wait for the keyboard.
    inside = page.evaluate(
        """() => Array.from(document.querySelectorAll("[role=img] *"))
            .filter((element) => element.tabIndex >= 0)
            .map((element) => element.outerHTML)"""
    )
    assert inside == []
    page.locator("#structure-table tbody button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()


def test_curves_have_their_numbers_in_tables(page, data):
    """All values of a figure's curves stand in the table below it, which opens by the keyboard."""
    drawn = {panel.name: panel for panel in panels(data)}
    for name in ("yield", "entropy", "coverage", "accumulation", "overlap", "news", "training", "errors"):
        (table,) = drawn[name].tables
        place = page.locator(f"section[aria-labelledby=title-{name}]")
        place.locator("summary").focus()
        page.keyboard.press("Enter")
        expect(place.get_by_role("table")).to_be_visible()
        assert place.get_by_role("rowheader").all_inner_texts() == [row[0] for row in table.rows]
        assert place.get_by_role("columnheader").all_inner_texts() == list(table.columns)
        cells = place.get_by_role("cell").all_inner_texts()
        assert cells == [cell for row in table.rows for cell in row[1:]] and any(
            re.search(r"\d", cell) for cell in cells
        )
        page.keyboard.press("Enter")
        expect(place.get_by_role("table")).to_be_hidden()


@pytest.fixture(scope="module")
def dark(open_page, report):
    return open_page(report, color_scheme="dark")


def test_dark_page_has_dark_figures(dark):
    background = dark.run("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background))) < 120
    colors = "Array.from(document.querySelectorAll('.plot'), place => place.layout.font.color)"
    assert set(dark.run(colors)) == {DARK[INK]}
    assert dark.complaints == []


def test_phone_scrolls_in_one_direction_only(open_page, report):
    phone = open_page(report, width=360, height=740, has_touch=True, is_mobile=True)
    assert phone.run("document.documentElement.scrollWidth") == 360
    too_wide = phone.run(
        """() => Array.from(document.querySelectorAll(".plot"), place =>
            [place.id, place.querySelector(".main-svg").getBoundingClientRect().right])
            .filter(([, right]) => right > 360)"""
    )
    assert too_wide == []
    phone.page.locator("#structure-table tbody button").first.tap()
    box = phone.page.locator(CANVAS).bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    phone.page.keyboard.press("Escape")
    extent = "document.querySelector('#hull .scatterlayer').getBoundingClientRect().width"
    assert 180 < phone.run(extent) < 330
    phone.page.set_viewport_size({"width": 1280, "height": 740})
    phone.page.wait_for_function(f"{extent} > 400")
    assert phone.complaints == []


def test_paper_is_never_dark(dark):
    dark.run(
        """() => window.addEventListener("beforeprint", () => {
            const {font, width} = document.querySelector(".plot").layout;
            window.printed = [font.color, width];
        })"""
    )
    assert dark.page.pdf(format="A4").startswith(b"%PDF")
    assert dark.run("window.printed") == [INK, 680]
    assert dark.run("document.querySelector('.plot').layout.font.color") == DARK[INK]


def test_page_follows_the_reader_s_change_of_mind(dark):
    dark.page.emulate_media(color_scheme="light")
    dark.page.wait_for_function(
        "color => Array.from(document.querySelectorAll('.plot'), place => place.layout.font.color)"
        ".every(found => found === color)",
        arg=INK,
    )


def test_old_browser_is_told_what_it_lacks(open_page, report):
    old = open_page(report, script="delete window.DecompressionStream")
    notice = old.page.get_by_role("alert")
    expect(notice).to_be_visible()
    assert "This browser cannot show the figures: it has to unpack gzip (DecompressionStream)" in notice.inner_text()
    assert old.run("document.body.dataset.state") == "failed"
