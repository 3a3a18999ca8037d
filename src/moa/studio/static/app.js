// The page: its figures, its views, and the keys that label a row.
import { el } from "./dom.js";
import { Refused, openSource } from "./data.js";
import { RowsView } from "./rows.js";
import { ThresholdView } from "./threshold.js";
import { GraphView } from "./graph.js";
import { RowPane } from "./row.js";
import { LiveView } from "./live.js";

const VIEWS = [
  ["rows", "Rows"],
  ["threshold", "Threshold"],
  ["graph", "Graph"],
  ["live", "Live"],
];
const NO_QUERY = { search: "", tag: "", queue: "", label: "", node: "" };

class Page {
  constructor() {
    this.source = openSource();
    this.query = { ...NO_QUERY, question: "" };
    this.opened = null;
    this.main = document.getElementById("main");
    this.views = { rows: new RowsView(this), threshold: new ThresholdView(this), graph: new GraphView(this), live: new LiveView(this) };
    this.pane = new RowPane(this);
    this.holders = {};
    for (const [name] of VIEWS) {
      const parts = name === "rows" ? [this.views.rows.node, this.pane.node] : [this.views[name].node];
      this.holders[name] = el("div", { class: `view ${name}`, id: `view-${name}`, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true }, parts);
    }
    this.main.append(...Object.values(this.holders));
    addEventListener("hashchange", () => this.turn());
    addEventListener("keydown", (event) => this.pressed(event));
  }

  get question() {
    return this.overview.questions.find((one) => one.name === this.query.question);
  }

  async open_() {
    try {
      this.overview = await this.source.overview();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.askKey(error.message);
      else this.say(`The page can't be read: ${error.message}`);
      return;
    }
    this.query.question = this.overview.questions[0]?.name || "";
    this.setUp();
    await this.views.rows.show();
    this.turn();
    this.watch();
  }

  setUp() {
    const { overview } = this;
    document.getElementById("source").textContent = overview.source;
    document.getElementById("source").title = overview.about;
    document.title = `${overview.source} · moa`;
    this.drawFigures();
    const has = { live: overview.can.run.length || overview.job || overview.learning || overview.can.learn };
    this.tabs = VIEWS.filter(([name]) => has[name] ?? true);
    document.getElementById("tabs").replaceChildren(
      ...this.tabs.map(([name, said]) =>
        el("a", { href: `#${name}`, role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}` }, said),
      ),
    );
    for (const view of Object.values(this.views)) view.setUp();
  }

  drawFigures() {
    document.getElementById("figures").replaceChildren(
      ...this.overview.figures.map((one) =>
        el("div", { class: `figure ${one.tone}` }, el("h2", {}, one.title), el("p", { class: "value" }, one.value), el("p", { class: "detail" }, one.detail)),
      ),
    );
  }

  turn() {
    const asked = location.hash.slice(1);
    const name = this.tabs.some(([one]) => one === asked) ? asked : "rows";
    for (const [one] of VIEWS) this.holders[one].hidden = one !== name;
    for (const [one] of this.tabs) {
      const tab = document.getElementById(`tab-${one}`);
      tab.setAttribute("aria-selected", String(one === name));
    }
    this.name = name;
    if (name === "rows") this.views.rows.drawNew();
    else this.views[name].show();
  }

  go(name, query) {
    if (query) this.filter({ ...NO_QUERY, ...query });
    location.hash = name;
  }

  async filter(changed) {
    Object.assign(this.query, changed);
    if (!("search" in changed) || Object.keys(changed).length > 1) this.views.rows.setUp();
    await this.views.rows.show();
  }

  ask(question) {
    Object.assign(this.query, { question, label: "" });
    this.views.rows.setUp();
    this.views.rows.show();
    this.views.threshold.show();
    if (this.pane.detail) this.pane.draw();
  }

  async open(place) {
    this.opened = place;
    this.holders.rows.classList.toggle("with-pane", place !== null);
    await this.pane.show(place);
    if (place === null) this.views.rows.grid.focus();
  }

  labelKey(key, row) {
    if (key === "u") this.undo();
    else if (key === "Escape" && this.opened !== null) this.open(null);
    else if (!row || !this.question || !this.overview.can.label) return false;
    else if (key === "r") this.label(row, this.question.name, row.said[this.question.name]?.label);
    else if (/^[1-9]$/.test(key) && this.question.options[key - 1]) this.label(row, this.question.name, this.question.options[key - 1]);
    else return false;
    return true;
  }

  async label(row, question, label) {
    if (label === undefined) return;
    try {
      this.changed(await this.source.label(row.place, question, label));
      this.say(`${row.id}: ${question} is ${label}, written to ${this.overview.labels}. u takes it back.`);
    } catch (error) {
      this.say(error.message);
    }
  }

  async undo() {
    if (!this.overview.can.label) return;
    try {
      const row = await this.source.undo();
      this.changed(row);
      this.say(`${row.id}: the label is taken back.`);
    } catch (error) {
      this.say(error.message);
    }
  }

  changed(row) {
    this.views.rows.replace(row);
    this.pane.replace(row);
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.count(), 400);
  }

  async count() {
    this.overview = await this.source.overview();
    this.drawFigures();
    this.views.rows.drawTags();
    this.views.threshold.show();
  }

  pressed(event) {
    if (event.target.closest("input, textarea, select, button, a, .grid, .pane")) {
      if (event.key === "Escape") this.open(null);
      return;
    }
    if (event.key === "/" && this.name === "rows") {
      event.preventDefault();
      this.views.rows.search.focus();
    }
  }

  say(text) {
    document.getElementById("said").textContent = text;
    clearTimeout(this.saying);
    this.saying = setTimeout(() => (document.getElementById("said").textContent = ""), 6000);
  }

  askKey(why) {
    const input = el("input", { type: "password", autocomplete: "off", required: true });
    this.main.replaceChildren(
      el(
        "form",
        {
          class: "key-form",
          onsubmit: (event) => {
            event.preventDefault();
            this.source.setKey(input.value);
            location.reload();
          },
        },
        el("p", {}, why),
        el("label", { class: "field" }, el("span", {}, "Key"), input),
        el("button", { type: "submit", class: "go" }, "Show"),
      ),
    );
    input.focus();
  }

  watch() {
    if (this.overview.job?.left) {
      setInterval(async () => {
        const fresh = await this.source.overview();
        if (fresh.job) this.views.live.drawJob(fresh.job);
      }, 2000);
    }
  }
}

new Page().open_();
