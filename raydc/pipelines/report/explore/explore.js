// The page: filters that all views share, and the views: map, list of clusters, tree, rows, decisions.

const SHOWN_ROWS = 200;
const NUMBERED = 40; // clusters whose names the map has room for
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function floats(text) {
  return new Float32Array(bytes(text).buffer);
}

function integers(text) {
  return new Int32Array(bytes(text).buffer);
}

function element(name, text = "", classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = classes;
  return made;
}

// What a column says of a row: of numbers, digits that are fine against how far they vary.
function told(column, value) {
  if (column.kind !== "number") return column.names[value];
  if (Number.isNaN(value)) return "none";
  const digits = Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(column.high - column.low || 1))));
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

const labels = integers(data.labels);
const columns = data.columns.map((column) => ({
  ...column,
  values: column.kind === "number" ? Float64Array.from(floats(column.values), (part) => column.base + part) : integers(column.values),
}));
const maps = data.maps.map((map) => ({ ...map, x: floats(map.x), y: floats(map.y) }));
const clusters = new Clusters(data.clusters, data.joins);
const pictured = data.thumbnails && new Map(data.thumbnails.rows.map((row, place) => [row, place]));
const looks = new Map(data.clusters.map((cluster) => [cluster.id, cluster]));
const rows = {
  count: labels.length,
  passes: new Uint8Array(labels.length).fill(1),
  filtered: false,
  hue: new Int32Array(labels.length),
  colours: new Uint8Array(0),
};
const filters = { clusters: new Set(), lasso: null, text: "", column: null, low: -Infinity, high: Infinity };
const ticked = new Set();
let colouring = null; // a column, or null: by cluster

function clusterOf(row) {
  return clusters.of(labels[row]) ?? NOWHERE;
}

function passes(row) {
  if (filters.clusters.size && !filters.clusters.has(clusterOf(row))) return false;
  if (filters.lasso && !filters.lasso[row]) return false;
  if (filters.column) {
    const value = filters.column.values[row];
    if (!(value >= filters.low && value <= filters.high)) return false;
  }
  if (filters.text) {
    const text = `${data.ids[row]} ${data.excerpts ? data.excerpts[row] : ""}`;
    if (!text.toLowerCase().includes(filters.text)) return false;
  }
  return true;
}

function filter() {
  rows.filtered = Boolean(filters.clusters.size || filters.lasso || filters.text || filters.column);
  for (let row = 0; row < rows.count; row++) rows.passes[row] = passes(row) ? 1 : 0;
  map.draw();
  list();
  table();
}

function paint() {
  if (colouring === null) {
    const hues = new Map(data.clusters.map(({ id }, place) => [id, place]));
    rows.colours = Uint8Array.from([...data.clusters.flatMap(({ colour }) => colour), 120, 120, 120]);
    for (let row = 0; row < rows.count; row++) rows.hue[row] = hues.get(clusterOf(row)) ?? data.clusters.length;
  } else if (colouring.kind === "category") {
    rows.colours = Uint8Array.from(colouring.names.flatMap((_, place) => data.palette[place % data.palette.length]));
    rows.hue.set(colouring.values);
  } else {
    const steps = data.ramp.length, { low, high, values } = colouring;
    rows.colours = Uint8Array.from([...data.ramp.flat(), 200, 200, 200]);
    for (let row = 0; row < rows.count; row++) {
      const share = (values[row] - low) / (high - low || 1);
      rows.hue[row] = Number.isNaN(share) ? steps : Math.min(steps - 1, Math.max(0, Math.floor(share * steps)));
    }
  }
  legend();
  map.draw();
}

function swatch(colour) {
  const made = element("span", "", "swatch");
  made.style.background = `rgb(${colour.join(",")})`;
  return made;
}

function legend() {
  const place = get("legend");
  place.replaceChildren();
  if (colouring === null) return;
  if (colouring.kind === "category") {
    colouring.names.forEach((name, i) => place.append(swatch(data.palette[i % data.palette.length]), element("span", name)));
    return;
  }
  const bar = element("span", "", "ramp");
  bar.style.background = `linear-gradient(to right, ${data.ramp.map((colour) => `rgb(${colour.join(",")})`).join(",")})`;
  place.append(element("span", told(colouring, colouring.low)), bar, element("span", told(colouring, colouring.high)));
}

// Where the names of clusters stand: at the median of their rows.
function namesOnMap(points) {
  if (colouring !== null) return [];
  if (namesOnMap.of !== points || namesOnMap.shown !== clusters.shown || namesOnMap.named !== clusters.names.size) {
    const members = new Map(clusters.ids.map((id) => [id, []]));
    for (let row = 0; row < rows.count; row++) members.get(clusterOf(row))?.push(row);
    const largest = [...members].filter(([, own]) => own.length).sort(([, a], [, b]) => b.length - a.length).slice(0, NUMBERED);
    const middle = (values, own) => Float32Array.from(own, (row) => values[row]).sort()[own.length >> 1];
    namesOnMap.found = largest.map(([id, own]) => ({
      x: middle(points.x, own),
      y: middle(points.y, own),
      text: clusters.nameOf(id) ? `${id} ${clusters.nameOf(id)}` : String(id),
    }));
    namesOnMap.of = points;
    namesOnMap.shown = clusters.shown;
    namesOnMap.named = clusters.names.size;
  }
  return namesOnMap.found;
}

function thumbnail(row) {
  const { edge, across } = data.thumbnails, place = pictured.get(row);
  if (place === undefined) return null;
  const made = element("span", "", "thumbnail");
  made.style.width = made.style.height = `${edge}px`;
  made.style.backgroundPosition = `${-edge * (place % across)}px ${-edge * Math.floor(place / across)}px`;
  return made;
}

function member(row) {
  const made = (data.thumbnails && thumbnail(row)) || element("span", data.excerpts ? data.excerpts[row] : String(data.ids[row]), data.excerpts ? "excerpt" : "member");
  made.title = String(data.ids[row]);
  return made;
}

function hover(row, event) {
  const box = get("hover");
  box.hidden = row === NONE;
  if (row === NONE) return;
  const cluster = clusterOf(row);
  box.replaceChildren(element("b", `${data.ids[row]}`), element("div", `cluster ${cluster} ${clusters.nameOf(cluster) || looks.get(labels[row])?.suggested || ""}`));
  const picture = data.thumbnails && thumbnail(row);
  if (picture) box.append(picture);
  if (data.excerpts) box.append(element("p", data.excerpts[row]));
  const values = element("table");
  for (const column of columns) {
    const line = values.insertRow(), value = column.values[row];
    line.insertCell().textContent = column.name;
    line.insertCell().textContent = told(column, value);
  }
  box.append(values);
  box.style.left = `${Math.min(event.clientX + 16, window.innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${Math.min(event.clientY + 16, Math.max(8, window.innerHeight - box.offsetHeight - 8))}px`;
}

function passing() {
  const found = [];
  for (let row = 0; row < rows.count; row++) if (rows.passes[row]) found.push(row);
  return found;
}

function table() {
  const found = passing(), place = get("rows"), body = place.tBodies[0];
  get("passing").textContent = rows.filtered
    ? `${count(found.length)} of ${count(rows.count)} rows pass the filters`
    : `${count(rows.count)} rows`;
  get("download").textContent = `Save ${count(found.length)} ids`;
  body.replaceChildren();
  for (const row of found.slice(0, SHOWN_ROWS)) {
    const line = body.insertRow(), cells = [String(data.ids[row]), String(clusterOf(row))];
    if (data.thumbnails) line.insertCell().append(thumbnail(row) || "");
    if (data.excerpts) cells.push(data.excerpts[row]);
    for (const column of columns) cells.push(told(column, column.values[row]));
    for (const text of cells) Object.assign(line.insertCell(), { textContent: text, title: text });
  }
  get("more").textContent = found.length > SHOWN_ROWS ? `The first ${SHOWN_ROWS}; the file has all of them.` : "";
}

function list() {
  const within = new Map();
  for (let row = 0; row < rows.count; row++) if (rows.passes[row]) within.set(clusterOf(row), (within.get(clusterOf(row)) || 0) + 1);
  const body = get("clusters").tBodies[0];
  body.replaceChildren(...clusters.ids.map((id) => listed(id, within.get(id) || 0)));
}

function listed(id, within) {
  const own = clusters.members(id), first = looks.get(id), line = element("tr");
  line.dataset.cluster = id;
  line.className = filters.clusters.has(id) ? "chosen" : "";
  const tick = element("input");
  tick.type = "checkbox";
  tick.checked = ticked.has(id);
  tick.ariaLabel = `tick cluster ${id}`;
  tick.addEventListener("change", () => (tick.checked ? ticked.add(id) : ticked.delete(id)));
  const name = element("input", "", "name");
  name.value = clusters.nameOf(id);
  name.placeholder = own.length === 1 ? first.suggested || "name" : "name";
  name.ariaLabel = `name of cluster ${id}`;
  name.maxLength = 100;
  name.disabled = clusters.level !== null;
  name.addEventListener("change", () => rename(id, name.value.trim()));
  const choose = element("button", String(id), "link");
  choose.title = "show this cluster alone, or all again";
  choose.addEventListener("click", () => toggle([id]));
  const size = own.reduce((sum, cluster) => sum + cluster.size, 0);
  const doubtful = own.filter((cluster) => cluster.clear === false).map((cluster) => cluster.id);
  const standing = own.every((cluster) => cluster.clear === null) ? "" : doubtful.length ? (own.length > 1 ? `doubtful: ${doubtful.join(", ")}` : "doubtful") : "clear";
  const confidence = own.every((cluster) => cluster.confidence !== null)
    ? (own.reduce((sum, cluster) => sum + cluster.confidence * cluster.size, 0) / Math.max(1, size)).toFixed(2)
    : "";
  const members = element("td", "", "members");
  members.append(...own.flatMap((cluster) => cluster.typical).slice(0, 6).map(member));
  const nearest = own.length === 1 ? first.nearest.map((other) => clusters.of(other)).filter((other) => other !== id && other !== NOWHERE) : [];
  const cells = [tick, swatch(first.colour), choose, name, count(size), count(within), confidence, standing, members, [...new Set(nearest)].join(", "), own.map((cluster) => cluster.told).filter(Boolean).join(" | ")];
  for (const cell of cells) {
    if (cell === members) line.append(members);
    else line.insertCell().append(cell);
  }
  return line;
}

function toggle(ids) {
  const all = ids.every((id) => filters.clusters.has(id)) && filters.clusters.size === ids.length;
  filters.clusters = new Set(all ? [] : ids);
  filter();
}

function said(text) {
  get("said").textContent = text;
}

function decide(decision) {
  const why = clusters.refuses(decision);
  said(why);
  if (!why) clusters.decide(decision);
  renew();
}

function rename(cluster, name) {
  if (name && name !== clusters.nameOf(cluster)) decide({ kind: "rename", cluster, name });
}

// Everything after the clusters changed.
function renew() {
  ticked.clear();
  filters.clusters.clear();
  get("level").value = clusters.level ?? clusters.list.length;
  get("level").disabled = clusters.decisions.length > 0 || data.joins.length === 0;
  get("levelled").textContent = levelled();
  get("adopt").disabled = clusters.level === null;
  get("decided").replaceChildren(...clusters.decisions.map((decision) => element("li", worded(decision))));
  get("undo").disabled = get("save").disabled = clusters.decisions.length === 0;
  for (const name of ["merge", "drop"]) get(name).disabled = clusters.level !== null;
  paint();
  filter();
}

function levelled() {
  if (clusters.level === null) return `${clusters.ids.length} clusters`;
  const stability = data.levels[clusters.level];
  return `${clusters.level} clusters` + (stability === undefined ? "" : `, stability ${stability.toFixed(2)}`);
}

function worded(decision) {
  if (decision.kind === "rename") return `rename ${decision.cluster} = ${decision.name}`;
  return decision.kind === "merge" ? `merge ${decision.clusters.join(", ")}` : `drop ${decision.cluster}`;
}

function save(name, type, text) {
  const link = element("a"), address = URL.createObjectURL(new Blob([text], { type }));
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function quoted(value) {
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// The tree as a dendrogram: leaves from the top down, levels from the left (many clusters) to the right (one).
function tree() {
  if (!data.joins.length) return;
  const names = "http://www.w3.org/2000/svg", step = 18, wide = 560, start = 46, leaves = leavesInOrder();
  const make = (name, attributes, text = "") => {
    const made = document.createElementNS(names, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const high = step * leaves.length + 40, picture = make("svg", { viewBox: `0 0 ${wide + 30} ${high}`, width: wide + 30, height: high, role: "img" });
  picture.append(make("title", {}, "The tree of clusters: which are joined at which level"));
  const nodes = new Map(leaves.map((id, i) => [id, { x: start, y: step * (i + 0.7), ids: [id] }]));
  const at = (joined) => start + ((wide - start) * joined) / data.joins.length;
  leaves.forEach((id, i) => picture.append(make("text", { x: start - 8, y: step * (i + 0.7) + 4, "text-anchor": "end" }, String(id))));
  data.joins.forEach(([one, other], i) => {
    const a = nodes.get(one), b = nodes.get(other), x = at(i + 1), level = data.joins.length - i;
    const path = make("path", { d: `M${a.x} ${a.y}H${x}V${b.y}H${b.x}`, class: "branch", tabindex: 0 });
    const ids = [...a.ids, ...b.ids], stability = data.levels[level];
    path.append(make("title", {}, `level ${level}: joins ${one} and ${other}` + (stability === undefined ? "" : `, stability ${stability.toFixed(2)}`)));
    path.addEventListener("click", () => toggle([...new Set(ids.map((id) => clusters.of(id)))]));
    picture.append(path);
    if (stability !== undefined) {
      const tall = 26 * Math.max(0, stability), gap = (wide - start) / data.joins.length;
      const bar = make("rect", { x: x - gap * 0.4, y: high - 4 - tall, width: Math.max(1, gap * 0.8), height: tall, class: stability >= data.stable ? "stable" : "unstable" });
      bar.append(make("title", {}, `level ${level}: stability ${stability.toFixed(2)}`));
      bar.addEventListener("click", () => cut(level));
      picture.append(bar);
    }
    const node = { x, y: (a.y + b.y) / 2, ids };
    nodes.set(Math.min(one, other), node);
  });
  get("tree").append(picture);
}

function leavesInOrder() {
  const held = new Map(data.clusters.map(({ id }) => [id, [id]]));
  for (const [one, other] of data.joins) held.set(Math.min(one, other), [...held.get(one), ...held.get(other)]);
  return held.get(Math.min(...held.keys()));
}

function cut(level) {
  if (clusters.decisions.length) return;
  clusters.cut(level < clusters.list.length ? level : null);
  renew();
}

function options(select, names) {
  select.append(...names.map((name, i) => Object.assign(element("option", name), { value: i })));
}

function filterBy(column) {
  filters.column = column;
  for (const [name, bound] of [["low", -Infinity], ["high", Infinity]]) {
    get(name).disabled = column === null;
    get(name).placeholder = column === null ? name : told(column, column[name]);
    get(name).value = "";
    filters[name] = bound;
  }
  filter();
}

function listen() {
  options(get("map-name"), maps.map(({ name }) => name));
  options(get("colour"), ["cluster", ...columns.map(({ name }) => name)]);
  const numbers = columns.filter(({ kind }) => kind === "number");
  options(get("column"), ["any value of", ...numbers.map(({ name }) => name)]);
  get("map-name").addEventListener("change", (event) => showMap(Number(event.target.value)));
  get("colour").addEventListener("change", (event) => {
    colouring = columns[event.target.value - 1] || null;
    paint();
  });
  get("column").addEventListener("change", (event) => filterBy(numbers[event.target.value - 1] || null));
  for (const [name, bound] of [["low", -Infinity], ["high", Infinity]]) {
    get(name).addEventListener("input", (event) => {
      filters[name] = event.target.value === "" ? bound : Number(event.target.value);
      filter();
    });
  }
  get("text").addEventListener("input", (event) => {
    filters.text = event.target.value.trim().toLowerCase();
    filter();
  });
  get("lasso").addEventListener("click", () => {
    map.lassoing = !map.lassoing;
    get("lasso").ariaPressed = String(map.lassoing);
  });
  get("home").addEventListener("click", () => map.home());
  get("all").addEventListener("click", () => {
    Object.assign(filters, { clusters: new Set(), lasso: null, text: "" });
    get("text").value = "";
    get("column").value = 0;
    filterBy(null);
  });
  get("download").addEventListener("click", () => {
    const lines = passing().map((row) => `${quoted(data.ids[row])},${clusterOf(row)}`);
    save("ids.csv", "text/csv", ["id,cluster", ...lines, ""].join("\n"));
  });
  get("level").max = clusters.list.length;
  get("level").addEventListener("input", (event) => cut(Number(event.target.value)));
  get("adopt").addEventListener("click", () => {
    clusters.adopt();
    renew();
  });
  get("merge").addEventListener("click", () => decide({ kind: "merge", clusters: [...ticked].sort((a, b) => a - b) }));
  get("drop").addEventListener("click", () => {
    if (!ticked.size) said("Tick the clusters to drop.");
    for (const cluster of [...ticked]) decide({ kind: "drop", cluster });
  });
  get("undo").addEventListener("click", () => {
    clusters.undo();
    said("");
    renew();
  });
  get("save").addEventListener("click", () => save("decisions.json", "application/json", JSON.stringify({ edits: clusters.decisions }, null, 1)));
}

function showMap(place) {
  const { x, y, low, high, density } = maps[place];
  if (!density) return map.show({ x, y, low, high }, null);
  const picture = new Image();
  picture.addEventListener("load", () => map.show({ x, y, low, high }, { picture, low: density.low, high: density.high }));
  picture.src = density.picture;
}

const map = new RowMap(get("map"), rows, { hover, labels: namesOnMap, lasso: (inside) => { filters.lasso = inside; filter(); } });
listen();
tree();
renew();
if (maps.length) showMap(0);
