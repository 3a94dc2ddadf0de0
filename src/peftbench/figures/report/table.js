// A table of many rows: sorted by its headings, filtered by words and choices, shown page by page, saved as CSV.
// All text is set as text, never as HTML, so that nothing in the data can become part of the page.

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return node;
}

function number(value, digits) {
  if (value === null || value === undefined) return "";
  return value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

// Text that a spreadsheet would run as a formula is made inert by a quote, as in leaderboard.csv.
const FORMULA = /^\s*[=+\-@]|[\t\r\n]/;

function csvCell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && FORMULA.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

// columns: {name, label, number (digits; absent for text), title, choice, show(row, value) -> node or text}
class Table {
  constructor(name, columns, rows, values, by) {
    const same = (c) => c.choice && rows.length && rows.every((r) => values(r, c.name) === values(rows[0], c.name));
    const shared = columns.filter((c, i) => i && same(c));  // what all rows agree in is said once, above
    columns = columns.filter((c) => !shared.includes(c));
    Object.assign(this, {name, columns, rows, values, size: 100, page: 0, sorted: null, down: false});
    this.shared = shared;
    this.chosen = {};
    this.words = "";
    this.texts = [];
    this.found = rows.map((_, i) => i);
    this.body = el("tbody");
    this.headings = columns.map((c, i) => el("th", {scope: "col", class: "digits" in c ? "number" : null, title: c.title},
      el("button", {type: "button", onclick: () => this.sort(i)}, c.label)));
    this.status = el("span", {class: "quiet", role: "status"});
    this.back = el("button", {type: "button", onclick: () => this.turn(-1)}, "‹ back");
    this.next = el("button", {type: "button", onclick: () => this.turn(1)}, "next ›");
    const said = shared.map((c) => [c.label, values(rows[0], c.name)]).filter(([, v]) => v !== "" && v !== null);
    this.node = el("div", {class: "table"}, this.controls(),
      said.length ? el("p", {class: "quiet"}, said.map(([label, v]) => `${label} ${v}`).join(", ")) : null,
      el("div", {class: "scroll"}, el("table", {class: "board"}, el("thead", {}, el("tr", {}, this.headings)), this.body)),
      el("div", {class: "controls"}, this.back, this.next, this.status));
    const first = columns.findIndex((c) => c.name === by);
    if (first >= 0) this.sort(first);
    else this.show();
  }

  controls() {
    const search = el("input", {type: "search", class: "grow", placeholder: "filter: words that must all occur",
      "aria-label": "filter by words", oninput: (e) => { this.words = e.target.value.toLowerCase(); this.filter(); }});
    const choices = this.columns.map((c, i) => c.choice && this.choice(c, i));
    const save = el("button", {type: "button", onclick: () => this.save()}, "save as CSV");
    return el("div", {class: "controls"}, search, choices.filter(Boolean), save);
  }

  choice(column, index) {
    const values = [...new Set(this.rows.map((r) => this.values(r, column.name)))];
    if (values.length < 2 || values.length > 400) return null;
    const known = values.every((v) => typeof v === "number");
    values.sort(known ? (a, b) => a - b : (a, b) => String(a).localeCompare(String(b), "en", {numeric: true}));
    const options = values.map((v, i) => el("option", {value: i}, String(v)));
    return el("select", {"aria-label": "filter by " + column.label, "data-column": column.name, onchange: (e) => {
      if (e.target.value === "") delete this.chosen[column.name];
      else this.chosen[column.name] = values[e.target.value];
      this.filter();
    }}, el("option", {value: ""}, "every " + column.label), options);
  }

  text(i) {
    if (this.texts[i] === undefined) {
      this.texts[i] = this.columns.map((c) => this.values(this.rows[i], c.name)).join("\n").toLowerCase();
    }
    return this.texts[i];
  }

  filter() {
    const words = this.words.split(/\s+/).filter(Boolean);
    const chosen = Object.entries(this.chosen);
    this.found = [];
    for (let i = 0; i < this.rows.length; i++) {
      if (chosen.every(([name, value]) => this.values(this.rows[i], name) === value)
        && (!words.length || words.every((w) => this.text(i).includes(w)))) this.found.push(i);
    }
    this.order();
  }

  sort(index) {
    const numeric = "digits" in this.columns[index];
    this.down = this.sorted === index ? !this.down : numeric;
    this.sorted = index;
    this.headings.forEach((h, i) => {
      if (i === index) h.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else h.removeAttribute("aria-sort");
    });
    this.order();
  }

  order() {
    if (this.sorted !== null) {
      const name = this.columns[this.sorted].name, sign = this.down ? -1 : 1;
      const keys = new Map(this.found.map((i) => [i, this.values(this.rows[i], name)]));
      const none = (v) => v === null || v === undefined;
      const compare = new Intl.Collator("en", {numeric: true}).compare;
      this.found.sort((a, b) => {
        const x = keys.get(a), y = keys.get(b);
        if (none(x) || none(y)) return none(x) - none(y) || a - b;  // what has no value comes last either way
        const both = typeof x === "number" && typeof y === "number";
        return sign * (both ? x - y : compare(String(x), String(y))) || a - b;
      });
    }
    this.page = 0;
    this.show();
  }

  turn(by) {
    this.page += by;
    this.show();
  }

  show() {
    const first = this.page * this.size, last = Math.min(first + this.size, this.found.length);
    this.body.replaceChildren(...this.found.slice(first, last).map((i) => this.line(this.rows[i])));
    this.back.disabled = this.page === 0;
    this.next.disabled = last >= this.found.length;
    const all = this.found.length === this.rows.length ? "" : ` (of ${number(this.rows.length, 0)} in all)`;
    this.status.textContent = this.found.length
      ? `${number(first + 1, 0)} to ${number(last, 0)} of ${number(this.found.length, 0)}${all}` : "nothing fits these filters";
  }

  line(row) {
    return el("tr", {}, this.columns.map((c) => {
      const value = this.values(row, c.name);
      const shown = c.show ? c.show(row, value) : "digits" in c ? number(value, c.digits) : value === null ? "" : String(value);
      return el("td", {class: "digits" in c ? "number" : "text"}, shown);
    }));
  }

  csv() {
    const names = [...this.columns, ...this.shared].flatMap((c) => c.csv || [c.name]);
    const lines = [names, ...this.found.map((i) => names.map((name) => this.values(this.rows[i], name)))];
    return lines.map((line) => line.map(csvCell).join(",") + "\r\n").join("");
  }

  save() {
    const url = URL.createObjectURL(new Blob([this.csv()], {type: "text/csv"}));
    el("a", {href: url, download: this.name + ".csv"}).click();
    URL.revokeObjectURL(url);
  }
}
