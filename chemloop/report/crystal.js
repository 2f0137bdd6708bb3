// Crystals as the page carries them, their geometry, and the files that a reader takes away.

const STEPS = 10000; // of a fractional coordinate, an angstrom, a degree: packing.py has the same

class Crystals {
  // bytes: as crystal_bytes in packing.py lays them out
  constructor(bytes) {
    const end = bytes.indexOf(10);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    const blocks = [];
    let start = end + 1;
    for (const size of header.bytes) blocks.push(bytes.subarray(start, (start += size)));
    this.elements = header.elements;
    this.counts = Array.from({ length: blocks[0].length / 2 }, (_, k) => blocks[0][2 * k] + 256 * blocks[0][2 * k + 1]);
    this.species = blocks[1];
    this.cells = joinPlanes(blocks[2], this.counts.length, 6, 3);
    this.coordinates = joinPlanes(blocks[3], this.species.length, 3, 2);
    this.starts = [0];
    for (const count of this.counts) this.starts.push(this.starts.at(-1) + count);
  }

  get(index) {
    const [start, end] = [this.starts[index], this.starts[index + 1]];
    const cell = this.cells.map((column) => column[index] / STEPS);
    const periods = cellVectors(cell);
    const fractional = [];
    for (let k = start; k < end; k++) fractional.push(this.coordinates.map((column) => column[k] / STEPS));
    return {
      cell,
      periods,
      fractional,
      symbols: Array.from(this.species.subarray(start, end), (number) => this.elements[number]),
      positions: fractional.map((point) => combine(point, periods)),
    };
  }
}

function joinPlanes(bytes, nRows, nColumns, nBytes) {
  return Array.from({ length: nColumns }, (_, column) => {
    const values = new Float64Array(nRows);
    for (let byte = 0; byte < nBytes; byte++) {
      const start = (column * nBytes + byte) * nRows;
      for (let row = 0; row < nRows; row++) values[row] += bytes[start + row] * 256 ** byte;
    }
    return values;
  });
}

// a along x, b in the plane of x and y.
function cellVectors([a, b, c, alpha, beta, gamma]) {
  const [cosA, cosB, cosC] = [alpha, beta, gamma].map((angle) => Math.cos((angle * Math.PI) / 180));
  const sinC = Math.sqrt(1 - cosC ** 2);
  const y = (cosA - cosB * cosC) / sinC;
  return [
    [a, 0, 0],
    [b * cosC, b * sinC, 0],
    [c * cosB, c * y, c * Math.sqrt(Math.max(0, 1 - cosB ** 2 - y ** 2))],
  ];
}

function combine(coefficients, vectors) {
  return [0, 1, 2].map((axis) => vectors.reduce((sum, vector, k) => sum + coefficients[k] * vector[axis], 0));
}

const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const norm = (a) => Math.hypot(...a);

// For each atom the bonds that leave it: the other atom, the cells in between, the length. cutoffs: by pairs, `P-S`.
function bondsOf({ symbols, positions, periods }, cutoffs) {
  const limits = new Map();
  for (const [pair, cutoff] of Object.entries(cutoffs)) {
    const [first, second] = pair.split("-");
    limits.set(`${first}-${second}`, cutoff).set(`${second}-${first}`, cutoff);
  }
  const bonds = symbols.map(() => []);
  const longest = Math.max(0, ...limits.values());
  for (const shift of shiftsWithin(longest, positions, periods)) {
    const step = combine(shift, periods);
    for (let i = 0; i < symbols.length; i++) {
      for (let j = 0; j < symbols.length; j++) {
        const limit = limits.get(`${symbols[i]}-${symbols[j]}`);
        if (limit === undefined || (i === j && shift.every((n) => n === 0))) continue;
        const length = norm(subtract(add(positions[j], step), positions[i]));
        if (length < limit) bonds[i].push({ other: j, shift, length });
      }
    }
  }
  return bonds;
}

// All cells in which an atom may lie that is within reach of one of these.
function shiftsWithin(reach, positions, periods) {
  let shifts = [[]];
  for (let k = 0; k < periods.length; k++) {
    const others = periods.filter((_, index) => index !== k);
    const across = perpendicular(periods[k], others);
    const along = positions.map((point) => dot(point, across));
    const most = Math.ceil((reach + Math.max(...along) - Math.min(...along)) / dot(periods[k], across));
    const steps = Array.from({ length: 2 * most + 1 }, (_, n) => n - most);
    shifts = shifts.flatMap((shift) => steps.map((n) => [...shift, n]));
  }
  return shifts;
}

// The unit vector at right angles to the others, on the side of `vector`.
function perpendicular(vector, others) {
  let direction = vector;
  if (others.length === 2) direction = cross(...others);
  if (others.length === 1) {
    const [other] = others;
    direction = subtract(vector, other.map((x) => (x * dot(vector, other)) / dot(other, other)));
  }
  const length = norm(direction) * Math.sign(dot(direction, vector));
  return direction.map((x) => x / length);
}

// In the order of first appearance: [[symbol, how many], ...].
function countElements(symbols) {
  const counts = new Map();
  for (const symbol of symbols) counts.set(symbol, (counts.get(symbol) ?? 0) + 1);
  return [...counts];
}

// Without symmetry (P 1), comments: lines that go on top.
function cifText(name, crystal, comments) {
  const [a, b, c, alpha, beta, gamma] = crystal.cell.map((value) => value.toFixed(4));
  const seen = new Map();
  const rows = crystal.symbols.map((symbol, k) => {
    seen.set(symbol, (seen.get(symbol) ?? 0) + 1);
    const place = crystal.fractional[k].map((x) => x.toFixed(4)).join(" ");
    return `${symbol} ${symbol}${seen.get(symbol)} 1.0 ${place}`;
  });
  return [
    ...comments.map((line) => `# ${line}`),
    `data_${name}`,
    `_chemical_formula_sum '${countElements(crystal.symbols).map((pair) => pair.join("")).join(" ")}'`,
    `_cell_length_a ${a}`,
    `_cell_length_b ${b}`,
    `_cell_length_c ${c}`,
    `_cell_angle_alpha ${alpha}`,
    `_cell_angle_beta ${beta}`,
    `_cell_angle_gamma ${gamma}`,
    "_symmetry_space_group_name_H-M 'P 1'",
    "_symmetry_Int_Tables_number 1",
    "loop_",
    "_symmetry_equiv_pos_as_xyz",
    "'x, y, z'",
    "loop_",
    "_atom_site_type_symbol",
    "_atom_site_label",
    "_atom_site_occupancy",
    "_atom_site_fract_x",
    "_atom_site_fract_y",
    "_atom_site_fract_z",
    ...rows,
    "",
  ].join("\n");
}

// Extended xyz, with the periods of a chain, a sheet or a network.
function xyzText(title, { symbols, positions, periods }) {
  const is = [0, 1, 2].map((axis) => axis < periods.length);
  const lattice = is.flatMap((isPeriodic, axis) => (isPeriodic ? periods[axis] : [0, 0, 0])).join(" ");
  const cell = periods.length ? `Lattice="${lattice}" ` : "";
  const rows = symbols.map((symbol, k) => `${symbol} ${positions[k].map((x) => x.toFixed(4)).join(" ")}`);
  const flags = is.map((isPeriodic) => (isPeriodic ? "T" : "F")).join(" ");
  const comment = `${cell}Properties=species:S:1:pos:R:3 name="${title}" pbc="${flags}"`;
  return [symbols.length, comment, ...rows, ""].join("\n");
}
