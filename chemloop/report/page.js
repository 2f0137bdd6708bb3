// Starts a page: unpacks what it carries, draws its figures, fills its table, opens what is clicked.

const content = (id) => JSON.parse(document.getElementById(id).textContent);

async function startPage() {
  if (!("DecompressionStream" in window)) {
    throw new Error("it has to unpack gzip (DecompressionStream): Chrome 80, Firefox 113, Safari 16.4, or newer");
  }
  const dialog = document.getElementById("viewer") ? await startStructures() : null;
  const script = build("script", { textContent: await unpackText("plotly") });
  document.head.append(script);
  const whenDrawn = (place) => dialog && openOnClick(place, dialog);
  await new Figures(await unpackJson("figures"), content("dark-colors"), whenDrawn).drawAll();
}

async function startStructures() {
  const [columns, bytes, motifs] = await Promise.all([unpackJson("table"), unpack("crystals"), unpackJson("motifs")]);
  const { looks, cutoffs } = content("elements");
  const index = new Map(columns.ids.map((id, row) => [id, row]));
  const crystals = new Crystals(bytes);
  const source = { columns, index, crystals, motifs, looks, cutoffs };
  const dialog = new StructureDialog(document.getElementById("viewer"), source);
  const root = document.getElementById("structure-table");
  if (root) new StructureTable(root, columns, crystals.counts);
  for (const place of document.querySelectorAll("[data-drawing]")) {
    place.innerHTML = motifs[place.dataset.drawing].svg;
  }
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-structure], [data-motif]");
    if (opener?.dataset.structure) dialog.openStructure(opener.dataset.structure);
    if (opener?.dataset.motif) dialog.openMotif(opener.dataset.motif);
  });
  return dialog;
}

// Points that are structures carry their id.
function openOnClick(place, dialog) {
  const idOf = (value) => (Array.isArray(value) ? value[0] : value);
  const isStructure = (value) => dialog.has(idOf(value));
  if (!place.data.some(({ customdata }) => Array.isArray(customdata) && customdata.some(isStructure))) return;
  place.closest("figure").querySelector(".hint").hidden = false;
  place.classList.add("pickable");
  place.on("plotly_click", ({ points }) => {
    const picked = points.find(({ customdata }) => isStructure(customdata));
    if (picked) dialog.openStructure(idOf(picked.customdata));
  });
}

startPage().then(
  () => (document.body.dataset.state = "drawn"),
  (error) => {
    const notice = document.getElementById("notice");
    notice.textContent = `This browser cannot show the figures: ${error.message}.`;
    notice.hidden = false;
    document.body.dataset.state = "failed";
    throw error;
  },
);
