// Draws the figures: one after the other, and in the colours that the reader prefers.

const PRINTED = 680; // pixels, width of a figure on paper

class Figures {
  // figures: {name: {data, layout, config}}; darkColors: what takes the place of a colour on a dark page
  // whenDrawn: called with each figure's place whenever it was drawn
  constructor(figures, darkColors, whenDrawn) {
    this.whenDrawn = whenDrawn;
    this.texts = Object.fromEntries(Object.entries(figures).map(([name, figure]) => [name, JSON.stringify(figure)]));
    this.darkColors = darkColors;
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    for (const name of Object.keys(this.texts)) {
      document.getElementById(name).style.minHeight = `${this.read(name, false).layout.height}px`;
    }
  }

  names() {
    return Object.keys(this.texts);
  }

  // With a pause after each figure, so that the page answers while it fills.
  async drawAll() {
    for (const name of this.names()) {
      await this.draw(name);
      await new Promise((resume) => setTimeout(resume));
    }
    this.dark.addEventListener("change", () => this.redraw());
    window.addEventListener("beforeprint", () => this.redraw(PRINTED));
    window.addEventListener("afterprint", () => this.redraw());
    let [width, pause] = [window.innerWidth, null];
    window.addEventListener("resize", () => {
      if (width === window.innerWidth) return;
      width = window.innerWidth;
      clearTimeout(pause);
      pause = setTimeout(() => this.redraw(), 200);
    });
  }

  redraw(width) {
    for (const name of this.names()) this.draw(name, width);
  }

  // width: in pixels, on paper, which is never dark; else the figure is as wide as its place.
  async draw(name, width) {
    const place = document.getElementById(name);
    const { data, layout, config } = this.read(name, this.dark.matches && width === undefined);
    if (width !== undefined) layout.width = width;
    fit(layout, data, width ?? place.clientWidth);
    place.style.minHeight = `${layout.height}px`;
    // Not Plotly.react, which keeps sizes of axes and colour bars that are no longer there.
    Plotly.purge(place);
    await Plotly.newPlot(place, data, layout, config);
    this.describe(place);
    this.whenDrawn(place);
  }

  // To a screen reader the drawing is one image, named by its title; the buttons beside it stay buttons.
  describe(place) {
    const [drawing, ...layers] = place.querySelectorAll(".main-svg");
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", place.dataset.title);
    for (const layer of layers) layer.setAttribute("aria-hidden", "true");
  }

  read(name, isDark) {
    const recolor = (_, value) => (typeof value === "string" ? (this.darkColors[value] ?? value) : value);
    return JSON.parse(this.texts[name], isDark ? recolor : undefined);
  }
}

