// Fits a figure to the width of its place (pixels): a phone, half a page, or all of it.

const NARROW = 430; // below which a figure saves room
const SIDE_BY_SIDE = 280; // width of a panel, below which panels are stacked
const LETTER = 0.56; // width of a letter, in font sizes

function fit(layout, data, width) {
  stackPanels(layout, width);
  if (width >= NARROW) return;
  layout.font.size = 11;
  layout.margin = { ...layout.margin, l: Math.min(layout.margin.l, 52), r: Math.min(layout.margin.r, 36) };
  for (const note of layout.annotations ?? []) {
    if (note.xref !== "paper") continue;
    note.font = { ...note.font, size: 12 };
    note.text = wrapped(note.text, width / (12 * LETTER));
  }
  for (const [key, axis] of Object.entries(layout)) {
    if (!/^[xy]axis\d*$/.test(key) || !axis.title?.text) continue;
    const share = axis.domain ? axis.domain[1] - axis.domain[0] : 1;
    const length = key[0] === "x" ? share * (width - 80) : share * (layout.height - 120);
    axis.title.font = { ...axis.title.font, size: 11.5 };
    axis.title.text = wrapped(axis.title.text, length / (11.5 * LETTER));
    axis.automargin = true;
  }
  layColorBarsDown(layout, data);
  // Where both axes have one scale, a figure higher than wide would be mostly empty.
  if (layout.yaxis?.scaleanchor) layout.height = Math.min(layout.height, width + 190);
}

// Panels side by side come to lie below one another where they would be too narrow.
function stackPanels(layout, width) {
  const axes = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key) && layout[key].domain);
  const starts = [...new Set(axes.map((key) => layout[key].domain[0]))].sort((a, b) => a - b);
  const isOneRow = axes.every((key) => layout[key.replace("x", "y")]?.domain?.[0] === 0);
  if (starts.length < 2 || starts.length !== axes.length || !isOneRow || width / starts.length >= SIDE_BY_SIDE) return;
  const gap = 0.3 / starts.length;
  const size = (1 - gap * (starts.length - 1)) / starts.length;
  for (const key of axes) {
    const [left, right] = layout[key].domain;
    const top = 1 - starts.indexOf(left) * (size + gap);
    const other = layout[key.replace("x", "y")];
    for (const note of layout.annotations ?? []) {
      if (note.xref === "paper" && Math.abs(note.x - (left + right) / 2) < 1e-6) Object.assign(note, { x: 0.5, y: top });
    }
    layout[key].domain = [0, 1];
    other.domain = [Math.max(0, top - size), top];
    other.showticklabels = true;
  }
  if (layout.annotations?.length) layout.margin.t += 16;
  layout.height = Math.round(layout.height * 0.8 * starts.length);
}

function layColorBarsDown(layout, data) {
  const bars = [layout.coloraxis?.colorbar, ...data.map((trace) => trace.marker?.colorbar)].filter(Boolean);
  for (const bar of bars) {
    const title = { ...bar.title, text: bar.title?.text.replaceAll("<br>", " "), side: "top" };
    Object.assign(bar, { orientation: "h", x: 0.5, xanchor: "center", y: -0.2, yanchor: "top", len: 0.9, thickness: 10, title });
  }
}

// In lines of about so many letters; tags do not count.
function wrapped(text, letters) {
  const lines = [""];
  for (const word of text.replaceAll("<br>", " ").split(" ")) {
    const longer = lines.at(-1) === "" ? word : `${lines.at(-1)} ${word}`;
    if (lines.at(-1) !== "" && longer.replace(/<[^>]*>/g, "").length > letters) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.join("<br>");
}
