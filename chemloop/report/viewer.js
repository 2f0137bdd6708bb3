// Draws a structure on a canvas and turns it: with the mouse, a finger, or the keyboard.

const BALL = 0.4; // radius of a ball, in covalent radii
const STICK = 0.13; // radius of a bond in angstrom
const FOG_LEVELS = 8;
const START = multiply(turnAbout(0, -1.25), turnAbout(2, -1.9)); // c nearly upright, a towards the reader, b to the right

class Viewer {
  // looks: {symbol: {color: [r, g, b], radius}}
  constructor(canvas, looks) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.looks = looks;
    this.rotation = START;
    this.zoom = 1;
    this.sprites = new Map();
    this.pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => this.grab(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => this.scroll(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(scene) {
    this.scene = scene;
    this.draw();
  }

  reset() {
    this.rotation = START;
    this.zoom = 1;
    this.draw();
  }

  turn(x, y) {
    this.rotation = multiply(multiply(turnAbout(0, y), turnAbout(1, x)), this.rotation);
    this.draw();
  }

  magnify(factor) {
    this.zoom = Math.min(8, Math.max(0.4, this.zoom * factor));
    this.draw();
  }

  // Look along one of the periods, with another one upright.
  lookAlong(axis, periods) {
    const forward = unit(periods[axis]);
    const right = unit(cross(periods[(axis + 2) % 3], forward));
    this.rotation = [right, cross(forward, right), forward];
    this.draw();
  }

  grab(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  drag(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const [before, now] = [this.pointers.get(event.pointerId), [event.clientX, event.clientY]];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (other) {
      this.magnify(Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.hypot(before[0] - other[0], before[1] - other[1]));
    } else {
      this.turn((now[0] - before[0]) / 110, (now[1] - before[1]) / 110);
    }
  }

  scroll(event) {
    event.preventDefault();
    this.magnify(Math.exp(-event.deltaY / 600));
  }

  press(event) {
    const step = event.shiftKey ? 0.5 : 0.12;
    const actions = {
      ArrowLeft: () => this.turn(-step, 0),
      ArrowRight: () => this.turn(step, 0),
      ArrowUp: () => this.turn(0, -step),
      ArrowDown: () => this.turn(0, step),
      "+": () => this.magnify(1.15),
      "=": () => this.magnify(1.15),
      "-": () => this.magnify(1 / 1.15),
      Home: () => this.reset(),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  draw() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!this.scene || width === 0) return;
    const sharpness = window.devicePixelRatio;
    this.canvas.width = Math.round(width * sharpness);
    this.canvas.height = Math.round(height * sharpness);
    const style = getComputedStyle(this.canvas);
    this.colors = { page: parseColor(style.backgroundColor), ink: parseColor(style.color) };
    this.context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    this.scale = (this.zoom * 0.47 * Math.min(width, height)) / this.scene.radius;
    this.middle = [width / 2, height / 2];
    const pieces = [
      ...this.scene.spheres.map((sphere) => this.sphere(sphere)),
      ...this.scene.halves.map((half) => this.half(half)),
      ...this.scene.edges.map((edge) => this.edge(edge)),
    ];
    pieces.sort((a, b) => a.depth - b.depth);
    for (const piece of pieces) piece.paint();
    this.nameAxes();
  }

  // Screen x and y, how much larger than at the centre, and the distance towards the reader.
  project(point) {
    const [x, y, z] = this.rotation.map((row) => dot(row, point));
    const far = 7 * this.scene.radius;
    const larger = (far / (far - z)) * this.scale;
    return { x: this.middle[0] + x * larger, y: this.middle[1] - y * larger, larger, z };
  }

  fog(z) {
    return Math.min(1, Math.max(0, 0.5 - z / (2 * this.scene.radius)));
  }

  sphere({ point, symbol, isOutside }) {
    const at = this.project(point);
    const radius = this.looks[symbol].radius * BALL * at.larger * (isOutside ? 0.8 : 1);
    const level = Math.round(this.fog(at.z) * FOG_LEVELS) + (isOutside ? 5 : 0);
    const paint = () =>
      this.context.drawImage(this.sprite(symbol, level), at.x - radius, at.y - radius, 2 * radius, 2 * radius);
    return { depth: at.z, paint };
  }

  half({ from, to, symbol, isOutside }) {
    // From inside the ball's surface, so that the near end of a bond does not lie upon the ball.
    const along = subtract(to, from);
    const inside = (0.85 * BALL * this.looks[symbol].radius) / norm(along);
    const [a, b] = [this.project(add(from, along.map((x) => x * Math.min(inside, 0.9)))), this.project(to)];
    const fog = 0.05 * Math.round(this.fog(a.z) * FOG_LEVELS) + (isOutside ? 0.25 : 0);
    const color = mix(this.looks[symbol].color, this.colors.page, fog);
    const paint = () => {
      this.line(a, b, css(mix(color, [0, 0, 0], 0.35)), 2 * STICK * a.larger);
      this.line(a, b, css(color), 1.3 * STICK * a.larger);
    };
    return { depth: (a.z + b.z) / 2, paint };
  }

  edge({ from, to }) {
    const [a, b] = [this.project(from), this.project(to)];
    const color = css(mix(this.colors.ink, this.colors.page, 0.25 + 0.5 * this.fog(a.z)));
    return { depth: (a.z + b.z) / 2, paint: () => this.line(a, b, color, 1.2) };
  }

  line(a, b, color, width) {
    this.context.beginPath();
    this.context.moveTo(a.x, a.y);
    this.context.lineTo(b.x, b.y);
    this.context.lineWidth = width;
    this.context.lineCap = "butt";
    this.context.strokeStyle = color;
    this.context.stroke();
  }

  nameAxes() {
    this.context.font = "italic 600 15px system-ui, sans-serif";
    this.context.textAlign = "center";
    this.context.textBaseline = "middle";
    this.context.lineWidth = 4;
    this.context.strokeStyle = css(this.colors.page);
    this.context.fillStyle = css(this.colors.ink);
    this.scene.axes.forEach((end, axis) => {
      const at = this.project(end);
      const origin = this.project(this.scene.edges[0].from);
      const length = Math.hypot(at.x - origin.x, at.y - origin.y) || 1;
      const [x, y] = [at.x + (14 * (at.x - origin.x)) / length, at.y + (14 * (at.y - origin.y)) / length];
      this.context.strokeText("abc"[axis], x, y);
      this.context.fillText("abc"[axis], x, y);
    });
  }

  // A shaded ball, paler the farther it is; painted once and copied.
  sprite(symbol, level) {
    const key = [symbol, level, ...this.colors.page].join();
    if (!this.sprites.has(key)) this.sprites.set(key, paintBall(this.looks[symbol].color, this.colors.page, 0.05 * level));
    return this.sprites.get(key);
  }
}

function paintBall(color, page, fog) {
  const size = 128;
  const canvas = build("canvas", { width: size, height: size });
  const context = canvas.getContext("2d");
  const shade = context.createRadialGradient(0.36 * size, 0.32 * size, 0, 0.46 * size, 0.45 * size, 0.56 * size);
  const stops = [[0, [255, 255, 255], 0.75], [0.3, color, 0], [0.75, [0, 0, 0], 0.22], [1, [0, 0, 0], 0.55]];
  for (const [at, towards, share] of stops) shade.addColorStop(at, css(mix(mix(color, towards, share), page, fog)));
  context.fillStyle = shade;
  context.beginPath();
  context.arc(size / 2, size / 2, size / 2 - 1, 0, 2 * Math.PI);
  context.fill();
  return canvas;
}

function turnAbout(axis, angle) {
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  if (axis === 0) return [[1, 0, 0], [0, c, -s], [0, s, c]];
  if (axis === 1) return [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  return [[c, -s, 0], [s, c, 0], [0, 0, 1]];
}

function multiply(a, b) {
  return a.map((row) => [0, 1, 2].map((column) => dot(row, b.map((other) => other[column]))));
}

const unit = (vector) => vector.map((x) => x / norm(vector));
const mix = (color, other, share) => color.map((x, k) => Math.round(x + share * (other[k] - x)));
const css = (color) => `rgb(${color.join()})`;
const parseColor = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);
