// The views of the report. Addresses: #cells, #runs, #plots, #cell=NUMBER, #run=RUN_ID.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MAIN = document.getElementById("main");
const PLACE = {
  cells: new Map(DATA.cells.columns.map((name, i) => [name, i])),
  runs: new Map(DATA.runs.columns.map((name, i) => [name, i])),
};
const ofCell = (row, name) => row[PLACE.cells.get(name)] ?? null;
const ofRun = (row, name) => row[PLACE.runs.get(name)] ?? null;
const NUMBER = new Map(DATA.cells.rows.map((row, i) => [row, i]));
const RUN = new Map(DATA.runs.rows.map((row) => [ofRun(row, "run_id"), row]));
const made = {};  // tables keep their filters while one looks at a run

// --- the leaderboard

function interval(row) {
  const [score, low, high] = ["score", "low", "high"].map((n) => ofCell(row, n));
  if (score === null) return "";
  const words = low === null ? "" : ` [${number(low, 1)}, ${number(high, 1)}]`;
  const text = el("span", {class: ofCell(row, "best") ? "best" : null}, number(score, 1));
  const bar = low === null ? null : el("span", {class: "bar", "aria-hidden": "true"},
    el("i", {style: `left:${clamp(low)}%;width:${clamp(high) - clamp(low)}%`}), el("b", {style: `left:${clamp(score)}%`}));
  return el("span", {title: "interval over " + (ofCell(row, "covers") || "nothing: a single run")},
    text, el("span", {class: "quiet"}, words), bar);
}

const method = (name, texts) => texts ? el("span", {title: "trained with the texts of test: " + texts}, name + " ‡") : name;

const model = (name, seen) => seen ? el("span", {title: "the backbone has seen this task: " + seen}, name + " †") : name;

const clamp = (value) => Math.max(0, Math.min(100, value));

const CELLS = [
  {name: "method", label: "method", choice: true, show: (row, v) => [swatch(v), el("a", {href: "#cell=" + NUMBER.get(row)},
    method(v, ofCell(row, "test_texts")))]},
  {name: "score", label: "score", digits: 1, show: interval, csv: ["score", "low", "high"],
    title: "mean over draws and seeds in percent, with its 95 % interval; bold: best, or not told apart from the best"},
  {name: "ties", label: "ties", title: "methods of one setting that share a letter are not told apart; a is the best"},
  {name: "task", label: "task", choice: true}, {name: "subset", label: "subset", choice: true},
  {name: "shots", label: "shots", choice: true},
  {name: "model", label: "model", choice: true, show: (row, v) => model(v, ofCell(row, "seen"))},
  {name: "protocol", label: "protocol", choice: true}, {name: "metric", label: "metric", choice: true},
  {name: "runs", label: "runs", digits: 0, show: (row, v) => runsOf(row, v), title: "finished runs; in brackets failed ones"},
  {name: "draws", label: "draws", digits: 0}, {name: "seeds", label: "seeds", digits: 0},
  {name: "trainable_params", label: "trained", digits: 0, title: "trainable parameters, the head included"},
  {name: "train_seconds", label: "train s", digits: 1, title: "seconds of training, mean"},
  {name: "train_peak_mib", label: "peak MiB", digits: 0, title: "peak memory of training, mean"},
];

function runsOf(row, count) {
  const failed = ofCell(row, "failed"), odd = ofCell(row, "outliers").length;
  return el("span", {}, String(count), failed ? el("span", {class: "warn"}, ` (${failed})`) : null,
    odd ? el("span", {class: "warn", title: "runs that lie far from the others"}, ` !${odd}`) : null);
}

const runLink = (id) => el("a", {href: "#run=" + encodeURIComponent(id)}, id);

const RUNS = [
  {name: "method", label: "method", choice: true,
    show: (row, v) => el("a", {href: "#run=" + encodeURIComponent(ofRun(row, "run_id"))}, method(v, ofRun(row, "test_texts")))},
  {name: "score", label: "score", digits: 2}, {name: "status", label: "status", choice: true,
    show: (row, v) => el("span", {class: v === "done" ? null : "warn", title: ofRun(row, "reason")}, v)},
  {name: "warnings", label: "warnings", digits: 0, show: (row, v) => v ? el("span", {class: "warn"}, String(v)) : ""},
  {name: "task", label: "task", choice: true}, {name: "subset", label: "subset", choice: true},
  {name: "shots", label: "shots", choice: true},
  {name: "model", label: "model", choice: true, show: (row, v) => model(v, ofRun(row, "seen"))},
  {name: "data_seed", label: "data seed", digits: 0, choice: true}, {name: "seed", label: "seed", digits: 0, choice: true},
  {name: "protocol", label: "protocol", choice: true}, {name: "metric", label: "metric", choice: true},
  {name: "trainable_params", label: "trained", digits: 0}, {name: "train_seconds", label: "train s", digits: 1},
  {name: "total_seconds", label: "total s", digits: 1}, {name: "train_peak_mib", label: "peak MiB", digits: 0},
  {name: "device", label: "device"}, {name: "precision", label: "precision"}, {name: "created", label: "started"},
  {name: "run_id", label: "run", show: (row, v) => runLink(v)},
];

// --- parts of pages

function facts(pairs) {
  const shown = Object.entries(pairs).filter(([, v]) => v !== null && v !== undefined && v !== "");
  return el("dl", {}, shown.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v instanceof Node ? v : plain(v))]));
}

// Names and amounts for people: adapter_bytes 4096 -> "adapter" "4.1 kB".
const UNITS = [[/_bytes$/, "B"], [/_?flops$/, "FLOP"], [/_mib$/, "MiB"], [/_seconds$/, "s"]];

function readable(pairs) {
  return Object.fromEntries(Object.entries(pairs).map(([key, value]) => {
    const [suffix, unit] = UNITS.find(([s]) => s.test(key)) || [null, ""];
    const name = key.replace(suffix || "", "").replaceAll("_", " ") || key;
    return [unit ? name : key.replaceAll("_", " "), typeof value === "number" && unit ? amount(value, unit) : value];
  }));
}

function amount(value, unit) {
  if (unit === "MiB") return value >= 1024 ? `${number(value / 1024, 2)} GiB` : `${number(value, 0)} MiB`;
  if (unit === "s") return `${number(value, 1)} s`;
  const prefixes = ["", "k", "M", "G", "T", "P", "E"];
  const power = Math.max(0, Math.min(prefixes.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3)));
  return `${+(value / 1000 ** power).toPrecision(3)} ${prefixes[power]}${unit}`;
}

function plain(value) {
  if (typeof value === "number") return Number.isInteger(value) ? number(value, 0) : String(+value.toPrecision(6));
  if (Array.isArray(value)) return value.map(plain).join(", ") || "none";
  if (value === null) return "none";
  return typeof value === "object" ? Object.entries(value).map(([k, v]) => `${k} ${plain(v)}`).join(", ") : String(value);
}

const part = (title, ...nodes) => el("section", {}, el("h3", {}, title), nodes);
const folded = (title, ...nodes) => el("details", {}, el("summary", {}, title), nodes);

function simpleTable(head, rows, numeric) {
  const cls = (i) => ({class: numeric && numeric.includes(i) ? "number" : "text"});
  return el("div", {class: "scroll"}, el("table", {}, el("thead", {}, el("tr", {}, head.map((h, i) => el("th", cls(i), h)))),
    el("tbody", {}, rows.map((r) => el("tr", {}, r.map((v, i) =>
      el("td", cls(i), v === null || v === undefined ? "" : typeof v === "number" ? plain(v) : v)))))));
}

function phases(seconds) {
  const spent = Object.entries(seconds).filter(([name]) => name !== "total").sort((a, b) => b[1] - a[1]);
  const most = Math.max(...spent.map(([, s]) => s), 1e-9);
  return el("div", {class: "phases"}, spent.flatMap(([name, s]) =>
    [el("span", {}, name), el("span", {class: "quiet"}, number(s, 1) + " s"), el("i", {style: `width:${100 * s / most}%`})]));
}

function matrix(confusion) {
  const {labels, columns, counts} = confusion;
  const rows = labels.map((label, i) => {
    const all = counts[i].reduce((a, b) => a + b, 0) || 1;
    return el("tr", {}, el("th", {scope: "row"}, label), counts[i].map((n, j) => el("td", {
      class: columns[j] === label ? "right" : null, title: `${label} answered as ${columns[j]}: ${n}`,
      style: `background:rgba(var(--shade),${(0.75 * n / all).toFixed(2)})`}, n ? String(n) : "")));
  });
  return el("div", {class: "scroll"}, el("table", {class: "matrix"},
    el("thead", {}, el("tr", {}, el("td", {class: "quiet"}, "target \\ answer"), columns.map((c) => el("th", {scope: "col"}, c)))),
    el("tbody", {}, rows)));
}

// --- pictures

const swatch = (method) => el("i", {class: "swatch drawn", style: `background:${DATA.colours[method] || "transparent"}`});

// A figure of `peftbench plot`, one part at a time, with a legend that picks methods out.
function chart(views) {
  const node = el("div", {class: "chart scroll drawn"}), legend = el("div", {class: "legend", role: "group", "aria-label": "methods"});
  const chosen = new Set();
  const fade = () => {
    node.querySelectorAll("[data-method]").forEach((g) =>
      { g.style.opacity = chosen.size && !chosen.has(g.dataset.method) ? 0.08 : ""; });
    legend.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", chosen.has(b.value)));
  };
  const pick = (method) => { chosen.delete(method) || chosen.add(method); fade(); };
  const view = (index) => {
    const picture = document.importNode(new DOMParser().parseFromString(views[index].svg, "image/svg+xml").documentElement, true);
    const wide = parseFloat(picture.getAttribute("width")) * 4 / 3;  // points to pixels
    picture.setAttribute("style", `min-width:${wide}px;max-width:${1.4 * wide}px`);
    picture.setAttribute("class", "marks");
    picture.removeAttribute("height");
    picture.setAttribute("width", "100%");
    node.replaceChildren(picture);
    const methods = [...new Set([...node.querySelectorAll("[data-method]")].map((g) => g.dataset.method))].sort();
    legend.replaceChildren(...methods.map((m) => el("button", {type: "button", value: m, onclick: () => pick(m)}, swatch(m), m)));
    fade();
  };
  const select = views.length < 2 ? null : el("select", {"aria-label": "which part", onchange: (e) => view(+e.target.value)},
    views.map((v, i) => el("option", {value: i}, v.name)));
  view(0);
  return el("div", {}, select || (views[0].name ? el("p", {class: "quiet"}, views[0].name) : null), node, legend);
}

const SVG = "http://www.w3.org/2000/svg", WIDE = 420, HIGH = 170, EDGE = {left: 52, right: 8, top: 8, bottom: 34};
const LINES = [["#0072b2", ""], ["#d55e00", "6 2"], ["#009e73", "1 2"], ["#cc79a7", "7 2 1 2"]];

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Curves of one run over its steps. series: name -> [[step, value], ...]
function curve(title, series, log) {
  const of = (v) => log ? Math.log10(v) : v;
  const points = Object.values(series).flat().filter(([, v]) => Number.isFinite(v));
  const range = (k, f) => { const all = points.map((p) => f(p[k])); return [Math.min(...all), Math.max(...all)]; };
  const [first, last] = range(0, (v) => v), [low, high] = range(1, of);
  const x = (v) => EDGE.left + (WIDE - EDGE.left - EDGE.right) * (last > first ? (v - first) / (last - first) : 0.5);
  const y = (v) => HIGH - EDGE.bottom - (HIGH - EDGE.top - EDGE.bottom) * (high > low ? (of(v) - low) / (high - low) : 0.5);
  const svg = shape("svg", {viewBox: `0 0 ${WIDE} ${HIGH}`, class: "marks curve", role: "img", "aria-label": title});
  for (const share of [0, 0.5, 1]) {
    const at = HIGH - EDGE.bottom - share * (HIGH - EDGE.top - EDGE.bottom), value = low + share * (high - low);
    svg.append(shape("line", {x1: EDGE.left, x2: WIDE - EDGE.right, y1: at, y2: at, class: "grid"}),
      shape("text", {x: EDGE.left - 5, y: at + 4, "text-anchor": "end"}, String(+(log ? 10 ** value : value).toPrecision(3))));
    if (last > first || !share) svg.append(shape("text", {x: x(first + share * (last - first)), y: HIGH - EDGE.bottom + 14,
      "text-anchor": share === 1 ? "end" : share ? "middle" : "start"}, String(Math.round(first + share * (last - first)))));
  }
  svg.append(shape("text", {x: (EDGE.left + WIDE) / 2, y: HIGH - 4, "text-anchor": "middle"}, "step"));
  Object.values(series).forEach((line, i) => {
    const [stroke, dash] = LINES[i % LINES.length];
    const drawn = shape("polyline", {fill: "none", stroke, "stroke-dasharray": dash, "stroke-width": 1.6,
      points: line.filter(([, v]) => Number.isFinite(v)).map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" ")});
    svg.append(drawn);
  });
  const names = Object.keys(series);
  return el("figure", {}, el("figcaption", {}, title), svg, names.length < 2 ? null : el("div", {class: "legend"}, names.map((name, i) => {
    const [stroke, dash] = LINES[i % LINES.length], sample = shape("svg", {viewBox: "0 0 24 6", width: 24, height: 6});
    sample.append(shape("line", {x1: 0, x2: 24, y1: 3, y2: 3, stroke, "stroke-dasharray": dash, "stroke-width": 2}));
    return el("span", {}, sample, " " + name);
  })));
}

function curves(found) {
  const line = (x, y) => (found[x] || []).map((step, i) => [step, found[y][i]]).filter(([, v]) => v !== null);
  const norms = Object.keys(found).filter((n) => /^(gradient|update)\//.test(n));
  const positive = norms.map((n) => [n, line("norm_step", n).filter(([, v]) => v > 0)]).filter(([, points]) => points.length);
  return [line("step", "loss").length ? curve("training loss", {loss: line("step", "loss")}) : null,
    line("dev_step", "dev").length ? curve("score on dev", {dev: line("dev_step", "dev")}) : null,
    ...[["reward", "mean reward"], ["kl", "KL an answer, nats"]].map(([name, title]) =>
      line("round_step", name).length ? curve(title, {[name]: line("round_step", name)}) : null),
    line("round_step", "invalid").length ? curve("shares of drawn answers",
      {invalid: line("round_step", "invalid"), right: line("round_step", "right")}) : null,
    positive.length ? curve("norms", Object.fromEntries(positive), true) : null].filter(Boolean);
}

// --- views

function cellsView() {
  made.cells ??= new Table("leaderboard", CELLS, DATA.cells.rows, ofCell, "score");
  const notes = DATA.notes.map((note) => el("li", {}, note));
  return [made.cells.node, notes.length ? el("footer", {}, el("ul", {}, notes)) : null];
}

function runsView() {
  made.runs ??= new Table("runs", RUNS, DATA.runs.rows, ofRun, "score");
  return [made.runs.node];
}

function plotsView() {
  if (!DATA.plots.length) return [el("p", {}, "No plot can be made of these runs.")];
  return DATA.plots.map((plot) => el("section", {class: "plot"}, el("h2", {}, plot.title), chart(plot.views),
    plot.notes.map((note) => el("p", {class: "quiet"}, note))));
}

function cellView(index) {
  const row = DATA.cells.rows[index];
  if (!row) return [el("p", {}, "There is no such line in the leaderboard.")];
  const odd = ofCell(row, "outliers");
  const names = odd.map((i) => ofRun(DATA.runs.rows[i], "run_id"));
  const runs = ofCell(row, "ids").map((i) => DATA.runs.rows[i]);
  return [el("h2", {}, `${ofCell(row, "method")} on ${setting(row, ofCell)}`), el("p", {}, ofCell(row, "metric") + " ", interval(row)),
    odd.length ? el("ul", {class: "warnings"}, names.map((id) => el("li", {}, "far from the others of this cell, look at its seed: ",
      runLink(id)))) : null,
    new Table("runs", RUNS, runs, ofRun).node];
}

function setting(row, of) {
  const subset = of(row, "subset"), model = of(row, "model"), shots = of(row, "shots");
  return of(row, "task") + (subset ? "/" + subset : "") + (model && model !== "none" ? " with " + model : "")
    + (shots === "full" ? ", all rows" : `, ${shots} shots`);
}

function runView(id) {
  const row = RUN.get(id);
  if (!row) return [el("p", {}, "There is no run of this name in the report.")];
  const more = DATA.details[id], score = ofRun(row, "score");
  const head = [el("h2", {}, `${ofRun(row, "method")} on ${setting(row, ofRun)}`), facts({
    "run": el("code", {}, id), "status": ofRun(row, "status"), "reason": ofRun(row, "reason"),
    [ofRun(row, "metric")]: score === null ? null : number(score, 2), "dev": more && more.dev_score !== null ? number(more.dev_score, 2) : null,
    "protocol": ofRun(row, "protocol"), "data seed": ofRun(row, "data_seed"), "training seed": ofRun(row, "seed"),
    "started": ofRun(row, "created")})];
  const command = `peftbench reproduce ${id}`;
  const copy = el("button", {type: "button", onclick: () => navigator.clipboard?.writeText(command)}, "copy");
  const again = part("The command that runs it again", el("div", {class: "command"}, el("code", {}, command), copy));
  if (!more) return [...head, again, el("p", {class: "quiet"}, "More about this run is not in this file; --details N makes room for it.")];
  const warnings = (more.diagnosis.warnings || []).map((w) => el("li", {}, w));
  return [...head, warnings.length ? el("ul", {class: "warnings"}, warnings) : null, again,
    el("div", {class: "columns"},
      part("Seconds by phase", phases(more.seconds)),
      part("Cost", facts(readable({...more.parameters, ...more.memory, ...more.compute}))),
      part("Scores", facts(more.scores)), part("Draw", drawn(more.draw))),
    more.stages.length ? part("Stages", simpleTable(["stage", "seconds", "steps", "tokens", "teachers", "unlabelled passes", "train peak MiB"],
      more.stages.map(([name, seconds, ...rest]) => [name, number(seconds, 1), ...rest]), [1, 2, 3, 4, 5, 6])) : null,
    (more.candidates || []).length ? part(`Prompts that were tried (${number(more.candidates.length, 0)})`, triedPrompts(more.candidates)) : null,
    part("Curves", el("div", {class: "columns"}, curves(more.curves))),
    more.classes.length ? part("By class", simpleTable(["class", "test items", "precision", "recall", "F1"],
      more.classes.map(([name, n, ...shares]) => [name, n, ...shares.map((v) => v === null ? "" : number(v, 1))]), [1, 2, 3, 4])) : null,
    more.confusion ? part("Confusion matrix", matrix(more.confusion)) : null,
    more.items ? part(`Errors (${number(more.wrong, 0)} of ${number(more.items, 0)} test items)`, wrongAnswers(more)) : null,
    part("Details", folded("config", facts(more.config)), folded("diagnosis", facts({...more.diagnosis, warnings: null})),
      folded("environment", facts(more.environment))),
    more.notes.length ? part("Notes", el("ul", {}, more.notes.map((n) => el("li", {}, n)))) : null];
}

function drawn(draw) {
  const {counts, ...rest} = draw;
  const names = Object.keys(counts || {});
  const labels = [...new Set(names.flatMap((n) => Object.keys(counts[n])))];
  return [facts(rest), labels.length
    ? simpleTable(["class", ...names], labels.map((l) => [l, ...names.map((n) => counts[n][l] ?? null)]), names.map((_, i) => i + 1)) : null];
}

function wrongAnswers(more) {
  const shown = [0, 1, 2, 3, ...[4, 5].filter((column) => more.errors.some((e) => e[column] !== null))];
  const heads = ["item", "target", "answer", "margin", "text written", "prompt"];
  const note = more.errors.length < more.wrong ? el("p", {class: "quiet"}, `the ${more.errors.length} surest`) : null;
  return [note, simpleTable(shown.map((column) => heads[column]),
    more.errors.map((e) => shown.map((column) => column === 5 && e[5] !== null ? folded(e[5]) : e[column])), [3])];
}

function triedPrompts(tried) {
  return simpleTable(["prompt", "from", "part", "operator", "batch before", "after", "dev", "p", "", "text"],
    tried.map((line) => line.map((v, i) => i === 9 ? folded(v) : i > 3 && i < 8 && v !== null ? number(v, i === 7 ? 3 : 1) : v)),
    [0, 1, 4, 5, 6, 7]);
}

function folded(text) {
  return el("details", {}, el("summary", {}, text.slice(-60)), el("pre", {}, text));
}

// --- addresses, theme

function address() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || "cells";
  } catch {
    return "cells";
  }
}

function show() {
  const [view, ...rest] = address().split("=");
  const views = {cells: cellsView, runs: runsView, plots: plotsView, cell: cellView, run: runView};
  MAIN.replaceChildren(...(views[view] || cellsView)(rest.join("=")).flat(Infinity).filter(Boolean));
  document.querySelectorAll("nav a").forEach((a) => {
    if (a.getAttribute("href") === "#" + view) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  });
  scrollTo(0, 0);
}

document.getElementById("counts").textContent =
  `${number(DATA.runs.rows.length, 0)} runs up to ${DATA.newest.slice(0, 10)}, peftbench ${DATA.version}`;
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  show();
});
addEventListener("hashchange", show);
show();
window.report = {data: DATA, tables: made};  // for those who look at the page with a program
