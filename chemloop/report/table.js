// The table of structures: filtered, sorted, a page at a time, and as a file with all rows that pass.

const ROWS = 25; // of a page

class StructureTable {
  // columns: as table_pack in packing.py lays them out; counts: numbers of atoms
  constructor(root, columns, counts) {
    this.columns = columns;
    this.counts = counts;
    this.plain = columns.formulas.map(plainFormula);
    this.find = (name) => root.querySelector(`[data-table="${name}"]`);
    this.order = { key: "eAboveHull", isDescending: false };
    this.page = 0;
    this.keys = {
      id: (row) => columns.ids[row],
      formula: (row) => this.plain[row],
      spacegroup: (row) => columns.spacegroups[row],
      nAtoms: (row) => counts[row],
      iteration: (row) => columns.iterations[row],
      eAboveHull: (row) => columns.eAboveHull[row],
    };
    this.fillChoices();
    const filters = this.find("filters");
    filters.addEventListener("input", () => this.refresh());
    filters.addEventListener("reset", () => setTimeout(() => this.refresh()));
    filters.addEventListener("submit", (event) => event.preventDefault());
    for (const header of root.querySelectorAll("th[data-key]")) {
      header.querySelector("button").addEventListener("click", () => this.sortBy(header.dataset.key));
    }
    for (const [name, page] of [
      ["first", () => 0],
      ["previous", () => this.page - 1],
      ["next", () => this.page + 1],
      ["last", () => this.lastPage()],
    ]) {
      this.find(name).addEventListener("click", () => this.showPage(page()));
    }
    this.find("csv").addEventListener("click", () => saveFile("structures.csv", "text/csv", this.csvText()));
    this.headers = [...root.querySelectorAll("th[data-key]")];
    this.refresh();
  }

  fillChoices() {
    const { iterations, motifs, motifNames } = this.columns;
    for (const number of [...new Set(iterations)].sort((a, b) => a - b)) {
      this.find("iteration").append(new Option(number === 0 ? "0 (known)" : number, number));
    }
    const held = new Map();
    for (const index of motifs.flat()) held.set(index, (held.get(index) ?? 0) + 1);
    for (const [index, count] of [...held].sort((a, b) => b[1] - a[1])) {
      this.find("motif").append(new Option(`${motifNames[index]} (${count})`, index));
    }
  }

  // Rows that pass all filters, in order.
  refresh() {
    const { ids, iterations, eAboveHull, isSun, motifs } = this.columns;
    const value = (name) => this.find(name).value.trim();
    const isKind = {
      new: (row) => iterations[row] > 0,
      sun: (row) => isSun[row],
      known: (row) => iterations[row] === 0,
      all: () => true,
    }[value("kind")];
    const isText = textFilter(value("text"), this.plain, ids);
    const [iteration, motif] = [value("iteration"), value("motif")];
    const most = value("highest") === "" ? Infinity : 10 * Number(value("highest"));
    this.rows = ids
      .map((_, row) => row)
      .filter(isKind)
      .filter(isText)
      .filter((row) => iteration === "" || iterations[row] === Number(iteration))
      .filter((row) => motif === "" || motifs[row].includes(Number(motif)))
      .filter((row) => most === Infinity || (eAboveHull[row] !== null && eAboveHull[row] <= most));
    this.sort();
  }

  sortBy(key) {
    this.order = { key, isDescending: this.order.key === key && !this.order.isDescending };
    this.sort();
  }

  sort() {
    const [value, sign] = [this.keys[this.order.key], this.order.isDescending ? -1 : 1];
    this.rows.sort((a, b) => compare(value(a), value(b), sign) || a - b);
    for (const header of this.headers) {
      const isSorted = header.dataset.key === this.order.key;
      const direction = this.order.isDescending ? "descending" : "ascending";
      header.setAttribute("aria-sort", isSorted ? direction : "none");
    }
    this.showPage(0);
  }

  lastPage() {
    return Math.max(0, Math.ceil(this.rows.length / ROWS) - 1);
  }

  showPage(page) {
    this.page = page;
    const rows = this.rows.slice(page * ROWS, (page + 1) * ROWS);
    this.find("rows").replaceChildren(...rows.map((row) => this.rowElement(row)));
    const noun = this.rows.length === 1 ? "structure" : "structures";
    this.find("status").textContent = `${this.rows.length.toLocaleString("en")} ${noun}`;
    this.find("page").textContent = `Page ${page + 1} of ${this.lastPage() + 1}`;
    for (const name of ["first", "previous"]) this.find(name).disabled = page === 0;
    for (const name of ["next", "last"]) this.find(name).disabled = page === this.lastPage();
    this.find("csv").disabled = this.rows.length === 0;
  }

  rowElement(row) {
    const { ids, formulas, spacegroups, iterations, isSun, motifs, motifNames } = this.columns;
    const open = build("button", { type: "button", className: "link", textContent: ids[row] });
    open.dataset.structure = ids[row];
    const cell = (content, className = "") => build("td", { className }, [content]);
    return build("tr", {}, [
      build("th", { scope: "row" }, [open]),
      cell(formulas[row]),
      cell(spacegroups[row]),
      cell(this.counts[row], "number"),
      cell(iterations[row] === 0 ? "known" : iterations[row], "number"),
      cell(hullText(this.columns.eAboveHull[row]), "number"),
      cell(isSun[row] ? "yes" : ""),
      cell(motifs[row].map((index) => motifNames[index]).join(", "), "motifs"),
    ]);
  }

  csvText() {
    const { ids, spacegroups, iterations, isSun, eAboveHull, motifs, motifTitles, frames, frameNames } = this.columns;
    const header =
      "id,formula,spacegroup,n_atoms,iteration,e_above_hull_ev_per_atom,is_sun,motifs,energy_frame".split(",");
    const lines = this.rows.map((row) => [
      ids[row],
      this.plain[row],
      spacegroups[row],
      this.counts[row],
      iterations[row],
      eAboveHull[row] === null ? "" : (eAboveHull[row] / 10000).toFixed(4),
      isSun[row] ? "true" : "false",
      motifs[row].map((index) => motifTitles[index]).join("; "),
      frameNames[frames[row]],
    ]);
    return [header, ...lines].map((fields) => fields.map(csvField).join(",") + "\r\n").join("");
  }
}

const csvField = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

const inOrder = new Intl.Collator("en", { numeric: true });

// What is not known comes last, whatever the direction.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" ? a - b : inOrder.compare(a, b));
}

// `Li-P-S`: exactly these elements; else a part of the formula or of the id.
function textFilter(text, formulas, ids) {
  if (/^[A-Z][a-z]?(-[A-Z][a-z]?)+$/.test(text)) {
    const wanted = text.split("-").sort().join("-");
    return (row) => formulas[row].match(/[A-Z][a-z]?/g).sort().join("-") === wanted;
  }
  const part = text.toLowerCase();
  return (row) => formulas[row].toLowerCase().includes(part) || ids[row].toLowerCase().includes(part);
}

const plainFormula = (formula) => formula.replace(/[₀-₉]/g, (digit) => digit.charCodeAt(0) - 0x2080);

// In meV/atom, from 0.1 meV/atom.
function hullText(value) {
  return value === null ? "unknown" : (value / 10).toFixed(1).replace("-", "−");
}
