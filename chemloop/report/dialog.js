// The window in which a structure, or a motif, is turned, described and taken away.

class StructureDialog {
  // source: {columns, index, crystals, motifs, looks, cutoffs}
  constructor(dialog, source) {
    this.dialog = dialog;
    this.source = source;
    this.find = (name) => dialog.querySelector(`[data-viewer="${name}"]`);
    this.viewer = new Viewer(this.find("canvas"), source.looks);
    this.find("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    this.choice = this.find("controls").elements;
    this.find("repetition").addEventListener("change", () => this.draw());
    this.find("larger").addEventListener("click", () => this.viewer.magnify(1.25));
    this.find("smaller").addEventListener("click", () => this.viewer.magnify(1 / 1.25));
    this.find("reset").addEventListener("click", () => this.viewer.reset());
    this.find("axes").addEventListener("click", (event) => {
      const axis = event.target.dataset.axis;
      if (axis !== undefined) this.viewer.lookAlong(Number(axis), this.model.periods);
    });
    this.find("save").addEventListener("click", () => this.save());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.viewer.draw());
  }

  has(id) {
    return this.source.index.has(id);
  }

  openStructure(id) {
    const { columns, index, crystals } = this.source;
    const row = index.get(id);
    const formula = columns.formulas[row];
    const motifs = columns.motifs[row].map((number) => columns.motifNames[number]);
    const model = crystals.get(row);
    const iteration = columns.iterations[row];
    this.file = () => {
      const name = `${plainFormula(formula)}_${id.replaceAll("/", "-")}`;
      const hull = `E_hull ${hullText(columns.eAboveHull[row])} meV/atom (${columns.frameNames[columns.frames[row]]})`;
      const comments = [id, hull, `space group before symmetry was left out: ${columns.spacegroups[row]}`];
      saveFile(`${name}.cif`, "chemical/x-cif", cifText(name, model, comments));
    };
    this.open(formula, model, "Download CIF", [
      ["Structure", id],
      ["Found in", iteration === 0 ? "known before" : `iteration ${iteration}${columns.isSun[row] ? ", S.U.N." : ""}`],
      ["Energy above the hull", `${hullText(columns.eAboveHull[row])} meV/atom`],
      ["Energies by", columns.frameNames[columns.frames[row]]],
      ["Space group", columns.spacegroups[row]],
      ["Cell", cellText(model.cell)],
      ["Motifs", motifs.join(", ") || "none"],
    ]);
  }

  openMotif(stem) {
    const motif = this.source.motifs[stem];
    this.file = () => saveFile(`${stem}.xyz`, "chemical/x-xyz", xyzText(motif.title, motif));
    const facts = document.querySelectorAll(`[id="motif-${stem}"] dl > div`);
    this.open(motif.name, motif, "Download xyz", Array.from(facts, (fact) => fact.innerText.split("\n")));
  }

  open(title, model, saveText, facts) {
    this.model = model;
    this.bonds = bondsOf(model, this.source.cutoffs);
    const isPeriodic = model.periods.length > 0;
    this.find("title").textContent = title;
    this.find("save").textContent = saveText;
    this.find("repetition").hidden = !isPeriodic;
    this.find("axes").hidden = model.periods.length < 3;
    this.choice.repetition.value = model.cell || !isPeriodic ? "1" : "2";
    const described = [...facts, ["Atoms", atomsText(model.symbols)], ["Bonds", bondsText(model.symbols, this.bonds)]];
    this.find("facts").replaceChildren(
      ...described.flatMap(([name, value]) => [
        build("dt", { textContent: name }),
        build("dd", { textContent: value }),
      ]),
    );
    this.find("legend").replaceChildren(...countElements(model.symbols).map(([symbol]) => this.legendEntry(symbol)));
    this.find("canvas").setAttribute(
      "aria-label",
      `Drawing of ${title} in three dimensions. Arrow keys turn it, plus and minus change its size, Home starts again.`,
    );
    this.find("atoms").replaceChildren(...this.atomRows());
    this.dialog.showModal();
    this.viewer.reset();
    this.draw();
    this.find("canvas").focus();
  }

  draw() {
    const repetition = this.model.periods.length ? Number(this.choice.repetition.value) : 1;
    this.viewer.show(buildScene(this.model, this.bonds, repetition));
  }

  save() {
    this.file();
  }

  legendEntry(symbol) {
    const dot = build("span", { className: "dot" });
    dot.style.background = css(this.source.looks[symbol].color);
    return build("li", {}, [dot, symbol]);
  }

  atomRows() {
    const { symbols, fractional, positions } = this.model;
    return symbols.map((symbol, k) => {
      const numbers = (fractional ?? positions)[k].map((x) => build("td", { textContent: x.toFixed(4) }));
      return build("tr", {}, [build("th", { scope: "row", textContent: `${symbol} ${k + 1}` }), ...numbers]);
    });
  }
}

function cellText([a, b, c, alpha, beta, gamma]) {
  const [lengths, angles] = [[a, b, c].map((x) => x.toFixed(3)), [alpha, beta, gamma].map((x) => x.toFixed(2))];
  return `a, b, c ${lengths.join(", ")} Å; α, β, γ ${angles.join(", ")}°`;
}

function atomsText(symbols) {
  const counts = countElements(symbols).map(([symbol, n]) => `${n} ${symbol}`);
  return counts.length === 1 ? counts[0] : `${symbols.length}: ${counts.join(", ")}`;
}

// How many bonds of each kind there are in the cell, and how long they are.
function bondsText(symbols, bonds) {
  const lengths = new Map();
  bonds.forEach((leaving, i) => {
    for (const { other, length } of leaving) {
      const pair = [symbols[i], symbols[other]].sort().join("–");
      lengths.set(pair, [...(lengths.get(pair) ?? []), length]);
    }
  });
  const described = [...lengths].map(([pair, values]) => {
    const [shortest, longest] = [Math.min(...values).toFixed(2), Math.max(...values).toFixed(2)];
    const range = shortest === longest ? shortest : `${shortest} to ${longest}`;
    return `${values.length / 2} ${pair} (${range} Å)`; // each bond leaves both of its atoms
  });
  return described.join(", ") || "none within the cut-offs";
}
