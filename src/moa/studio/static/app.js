// The page: its figures, its views, and the keys that label a row.
import { count, el, wait } from "./dom.js";
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
const PAUSE = 2000;

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
      this.holders[name] = el("div", { class: `view ${name}`, id: `view-${name}`, role: "tabpanel", tabindex: name === "rows" ? null : "0", "aria-labelledby": `tab-${name}`, hidden: true }, parts);
    }
    addEventListener("hashchange", () => this.turn());
    addEventListener("keydown", (event) => this.pressed(event));
  }

  get question() {
    return this.overview.questions.find((one) => one.name === this.query.question);
  }

  async open_() {
    try {
      await this.untilRead();
      this.overview = await this.source.overview();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.askKey(error.message);
      else this.main.replaceChildren(el("p", { class: "empty", role: "alert" }, `The rows can't be read: ${error.message}`));
      return;
    }
    this.main.replaceChildren(...Object.values(this.holders));
    this.query.question = this.overview.questions[0]?.name || "";
    this.setUp();
    await this.views.rows.show();
    this.turn();
    this.watch();
  }

  async untilRead() {
    const bar = el("progress", { "aria-label": "Rows that are read" });
    const said = el("p", {});
    for (;;) {
      const { ready, rows, total, failed } = await this.source.state();
      if (failed) throw new Error(failed);
      if (ready) return;
      if (!bar.isConnected) this.main.replaceChildren(el("div", { class: "reading" }, said, bar));
      said.textContent = total === null ? `${count(rows)} rows are read …` : `${count(rows)} of ${count(total)} rows are read …`;
      if (total) bar.max = total;
      if (total) bar.value = rows;
      await wait(250);
    }
  }

  setUp() {
    const { overview } = this;
    document.getElementById("source").textContent = overview.source;
    document.getElementById("about").textContent = overview.about;
    document.getElementById("about").title = overview.about;
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
    this.again = el("button", { type: "button", class: "again", hidden: !overview.can.reload, onclick: () => this.reload() }, "Reload");
    document.getElementById("tabs").after(this.again);
  }

  // Rows that came in between: they are shown where nobody is at work on those that are there.
  async reload() {
    const began = performance.now();
    this.again.disabled = true;
    try {
      this.overview = await this.source.reload();
      if (!this.question) this.query.question = this.overview.questions[0]?.name || "";
      if (this.opened !== null) await this.open(null);
      this.drawFigures();
      for (const view of Object.values(this.views)) (view.refresh ?? view.setUp).call(view);
      await this.views.rows.show();
      this.again.textContent = "Reload";
      this.again.classList.remove("new");
    } catch (error) {
      this.say(error.message);
    } finally {
      this.again.disabled = false;
      this.pause = Math.max(PAUSE, 10 * (performance.now() - began));
    }
  }

  get isAtWork() {
    return this.opened !== null || this.views.rows.at > 0 || this.views.rows.grid.scrollTop > 0 || this.views.rows.bar.contains(document.activeElement);
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
    try {
      await this.pane.show(place);
    } catch (error) {
      this.say(error.message);
      await this.open(null);
      return;
    }
    if (place === null) this.views.rows.grid.focus();
  }

  labelKey(key, row) {
    if (key === "u") this.undo();
    else if (key === "Escape" && this.opened !== null) this.open(null);
    else if (!row || !this.question || !this.overview.can.label) return false;
    else if (key === "r") this.label(row, this.question.name, row.said[this.question.name]?.label);
    else if (key === "R") this.confirmAll(row);
    else if (/^[1-9]$/.test(key) && this.question.options[key - 1]) this.label(row, this.question.name, this.question.options[key - 1]);
    else return false;
    return true;
  }

  // Labels are written one after another: a key may be pressed before the server has answered to the one before.
  inOrder(write) {
    this.written = (this.written ?? Promise.resolve()).then(async () => {
      try {
        await write();
      } catch (error) {
        this.say(error.message);
      }
    });
    return this.written;
  }

  label(row, question, label) {
    return this.inOrder(() => this.write(row, question, label));
  }

  async write(row, question, label) {
    if (label === undefined) return;
    const labelled = await this.source.label(row, question, label);
    Object.assign(row, labelled); // a key pressed since holds this object, and must know of the label
    this.changed(labelled);
    this.say(`${row.id}: ${question} is ${label}, written to ${this.overview.labels}. u takes it back.`);
  }

  // All decisions about a row that nobody has labelled yet are right.
  confirmAll(row) {
    return this.inOrder(async () => {
      for (const { name } of this.overview.questions) {
        const said = row.said[name];
        if (said && typeof said.right !== "string") await this.write(row, name, said.label);
      }
    });
  }

  async undo() {
    if (!this.overview.can.label) return;
    await this.inOrder(async () => {
      const row = await this.source.undo();
      this.changed(row);
      this.say(`${row.id}: the label is taken back.`);
    });
  }

  changed(row) {
    this.views.rows.replace(row);
    this.pane.replace(row);
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.count(), 400);
  }

  async count() {
    try {
      this.overview = await this.source.overview();
    } catch (error) {
      this.say(error.message);
      return;
    }
    this.drawFigures();
    this.views.rows.drawTags();
    this.views.threshold.show();
  }

  pressed(event) {
    if (event.defaultPrevented || !this.overview) return;
    const isWriting = event.target.closest("input, textarea, select");
    if (event.key === "Escape" && (isWriting || this.opened !== null)) this.open(null);
    else if (isWriting || this.name !== "rows") return;
    else if (event.key === "/") {
      event.preventDefault();
      this.views.rows.search.focus();
    } else if (event.target === document.body) this.views.rows.pressed(event);
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

  async watch() {
    if (!this.overview.can.reload) return;
    for (;;) {
      await wait(this.pause ?? PAUSE);
      if (document.hidden) continue;
      try {
        const { changed, job } = await this.source.state();
        if (job) this.views.live.drawJob(job);
        if (changed && this.isAtWork) {
          this.again.textContent = "Show new rows";
          this.again.classList.add("new");
        } else if (changed) await this.reload();
      } catch {
        this.pause = 5 * PAUSE; // the server is away; it may come back
      }
    }
  }
}

new Page().open_();
