// What is drawn of a structure: spheres, half bonds and cell edges, in angstrom around the centre of what is shown.

const AT_BOUNDARY = 0.005; // fraction of a period from a face, within which an atom is drawn on both faces

// repetition: how many cells along each period. Atoms that only complete a bond lie outside: isOutside.
function buildScene(model, bonds, repetition) {
  const { symbols, positions, periods } = model;
  const shown = new Map();
  const place = (atom, shift, isOutside) => {
    const key = [atom, ...shift].join();
    if (!shown.has(key)) {
      const point = add(positions[atom], combine(shift, periods));
      shown.set(key, { atom, shift, key, point, isOutside, symbol: symbols[atom] });
    }
    return shown.get(key);
  };
  for (const shift of cellsWithin(periods.length, repetition)) {
    for (let atom = 0; atom < symbols.length; atom++) {
      if (shift.every((n, axis) => n < repetition || isAtStart(model, atom, axis))) place(atom, shift, false);
    }
  }
  const halves = [];
  for (const sphere of [...shown.values()]) {
    for (const { other, shift } of bonds[sphere.atom]) {
      const end = place(other, shift.map((n, axis) => n + sphere.shift[axis]), true);
      if (end.isOutside || sphere.key < end.key) halves.push(...halfBonds(sphere, end));
    }
  }
  const edges = model.cell ? cellEdges(periods, repetition) : [];
  const scene = { spheres: [...shown.values()], halves, edges, axes: model.cell ? periods : [] };
  return centred(scene);
}

// One more cell than asked for where there is a cell to close: its faces show atoms of the first one again.
function cellsWithin(nPeriods, repetition) {
  let cells = [[]];
  for (let axis = 0; axis < nPeriods; axis++) {
    cells = cells.flatMap((cell) => Array.from({ length: repetition + 1 }, (_, n) => [...cell, n]));
  }
  return cells;
}

function isAtStart(model, atom, axis) {
  return model.fractional !== undefined && model.fractional[atom][axis] < AT_BOUNDARY;
}

function halfBonds(first, second) {
  const middle = add(first.point, second.point).map((x) => x / 2);
  const isOutside = first.isOutside || second.isOutside;
  return [first, second].map(({ point, symbol }) => ({ from: point, to: middle, symbol, isOutside }));
}

// In short pieces, so that each can lie before or behind an atom.
function cellEdges(periods, repetition) {
  const pieces = 8;
  const edges = [];
  for (let axis = 0; axis < 3; axis++) {
    for (const corner of cellsWithin(3, repetition).filter((cell) => cell[axis] === 0)) {
      for (let n = 0; n < pieces * repetition; n++) {
        const [from, to] = [n, n + 1].map((step) => {
          const coefficients = corner.map((value, k) => (k === axis ? step / pieces : value));
          return combine(coefficients, periods);
        });
        edges.push({ from, to });
      }
    }
  }
  return edges;
}

function centred({ spheres, halves, edges, axes }) {
  const points = [...spheres.map((sphere) => sphere.point), ...edges.flatMap((edge) => [edge.from, edge.to])];
  const middle = [0, 1, 2].map((axis) => {
    const values = points.map((point) => point[axis]);
    return (values.reduce((a, b) => Math.min(a, b)) + values.reduce((a, b) => Math.max(a, b))) / 2;
  });
  const move = (point) => subtract(point, middle);
  const moveBoth = (line) => ({ ...line, from: move(line.from), to: move(line.to) });
  return {
    spheres: spheres.map((sphere) => ({ ...sphere, point: move(sphere.point) })),
    halves: halves.map(moveBoth),
    edges: edges.map(moveBoth),
    axes: axes.map((axis) => move(axis)),
    radius: points.reduce((most, point) => Math.max(most, norm(move(point))), 1) + 0.5,
  };
}
