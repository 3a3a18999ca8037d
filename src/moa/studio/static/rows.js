// The list of rows: only those that are seen are in the page, and others are fetched as one scrolls.
import { count, dollars, el, field, isNarrow, redraw, seconds, select } from "./dom.js";

const PAGE = 100;
const TAGS = [
  ["", "All"],
  ["corrected", "Corrected"],
  ["doubt", "In doubt"],
  ["quarantine", "Quarantined"],
  ["failed", "Failed"],
  ["large", "Asked the large model"],
  ["accepted", "Accepted"],
  ["slow", "Slow"],
  ["dear", "Expensive"],
  ["labelled", "Labelled"],
];
const MARKS = {
  corrected: ["✕", "the decision contradicts the label"],
  doubt: ["?", "in doubt"],
  quarantine: ["!", "quarantined"],
  failed: ["✕", "failed"],
  rest: ["", ""],
};

export class RowsView {
  constructor(app) {
    this.app = app;
    this.total = 0;
    this.pages = new Map();
    this.at = 0;
    this.drawn = new Map();
    this.asked = 0;
    this.node = el("section", { class: "rows", "aria-label": "Rows" });
    this.bar = el("div", { class: "bar" });
    this.tags = el("div", { class: "chips", role: "group", "aria-label": "Which rows" });
    this.body = el("div", { class: "body", role: "rowgroup" });
    this.grid = el(
      "div",
      {
        class: "grid",
        role: "grid",
        tabindex: "0",
        "aria-label": "Rows, those to look at first on top",
        onscroll: () => this.draw(),
        onkeydown: (event) => this.pressed(event),
      },
      this.head(),
      this.body,
    );
    this.note = el("p", { class: "note" });
    this.node.append(this.bar, this.tags, this.grid, this.note);
    new ResizeObserver(() => this.draw()).observe(this.grid);
  }

  get question() {
    return this.app.question;
  }

  head() {
    const names = ["", "Id", "Text", "Label", "Probability", "Answered by", "Queue", "Cost", "Time"];
    const kinds = ["mark", "id", "text", "label", "likely", "by", "queue", "cost", "time"];
    return el(
      "div",
      { class: "head", role: "rowgroup" },
      el(
        "div",
        { class: "row", role: "row" },
        names.map((name, i) =>
          el("span", { class: kinds[i], role: "columnheader" }, name || el("span", { class: "hidden" }, "Why")),
        ),
      ),
    );
  }

  setUp() {
    const { overview, query } = this.app;
    const names = overview.questions.map((one) => [one.name, one.name]);
    const labels = this.question ? this.question.options.map((one) => [one, one]) : [];
    this.search = el("input", {
      type: "search",
      placeholder: overview.texts ? "Search texts and ids" : "Search ids",
      value: query.search,
      oninput: (event) => {
        clearTimeout(this.waiting);
        this.waiting = setTimeout(() => this.app.filter({ search: event.target.value }), 150);
      },
    });
    const queues = overview.queues.map((one) => [one, one]);
    const nodes = overview.nodes.map((one, place) => [String(place), one]);
    redraw(
      this.bar,
      field("Search", this.search),
      names.length > 1 && field("Question", select(names, this.app.query.question, (name) => this.app.ask(name))),
      labels.length > 1 &&
        field("Label", select([["", "any"], ...labels], query.label, (label) => this.app.filter({ label }))),
      queues.length > 1 &&
        field("Queue", select([["", "any"], ...queues], query.queue, (queue) => this.app.filter({ queue }))),
      nodes.length > 1 &&
        field(
          "Node",
          select([["", "any"], ...nodes], query.node === "" ? "" : String(query.node), (place) =>
            this.app.filter({ node: place === "" ? "" : Number(place) }),
          ),
        ),
    );
    this.drawTags();
  }

  drawTags() {
    const { overview, query } = this.app;
    const shown = TAGS.filter(([tag]) => !tag || overview.counts[tag]);
    redraw(
      this.tags,
      shown.map(([tag, said]) =>
        el(
          "button",
          { type: "button", "aria-pressed": String(query.tag === tag), onclick: () => this.app.filter({ tag }) },
          said,
          el("span", { class: "count" }, count(tag ? overview.counts[tag] : overview.total)),
        ),
      ),
    );
  }

  async show() {
    const before = this.pages;
    this.pages = new Map();
    this.asked += 1;
    this.at = 0;
    this.grid.scrollTop = 0;
    if (!(await this.fetch(0))) {
      this.pages = before;
      return;
    }
    this.drawNew();
    const { overview } = this.app;
    const found = this.total === overview.total ? "" : `${count(this.total)} of ${count(overview.sample ?? overview.total)} rows. `;
    const sample = overview.sample
      ? `This file has the ${count(overview.sample)} rows to look at first, of ${count(overview.total)}; figures are of all. `
      : "";
    const keys = overview.can.label
      ? `Keys: 1–9 set ${this.question ? this.question.name : "a label"}, r confirms, R confirms all questions, u undoes, Enter opens, / searches.`
      : "Keys: arrows, Enter opens, / searches.";
    this.note.textContent = [found + sample + keys, ...overview.notes].join(" ");
  }

  // Returns false where the server doesn't answer: what was shown then stays.
  async fetch(page) {
    if (this.pages.has(page)) return true;
    this.pages.set(page, null);
    const asked = this.asked;
    const { query } = this.app;
    const sent = { ...query, question: query.label ? query.question : "", offset: page * PAGE, limit: PAGE };
    let found;
    try {
      found = await this.app.source.rows(sent);
    } catch (error) {
      if (asked === this.asked) this.pages.delete(page); // scrolling there asks for it again
      this.app.say(error.message);
      return false;
    }
    if (asked !== this.asked) return true;
    this.total = found.total;
    this.pages.set(page, found.rows);
    this.grid.setAttribute("aria-rowcount", String(found.total + 1));
    this.draw();
    return true;
  }

  rowAt(place) {
    const page = this.pages.get(Math.floor(place / PAGE));
    return page ? page[place % PAGE] : undefined;
  }

  get high() {
    return isNarrow() ? 74 : 33;
  }

  drawNew() {
    this.drawn.forEach((node) => node.remove());
    this.drawn.clear();
    this.draw();
  }

  draw() {
    const high = this.high;
    if (high !== this.drawnHigh) {
      this.drawnHigh = high;
      this.drawn.forEach((node) => node.remove());
      this.drawn.clear();
    }
    this.body.style.setProperty("height", `${this.total * high}px`);
    const first = Math.max(0, Math.floor(this.grid.scrollTop / high) - 5);
    const last = Math.min(this.total, Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / high) + 5);
    for (const [place, node] of this.drawn) {
      if (place < first || place >= last) {
        node.remove();
        this.drawn.delete(place);
      }
    }
    for (let place = first; place < last; place += 1) {
      if (this.drawn.has(place)) continue;
      const row = this.rowAt(place);
      if (row === undefined) {
        this.fetch(Math.floor(place / PAGE));
        continue;
      }
      const node = this.rowNode(row, place);
      node.style.setProperty("top", `${place * high}px`);
      this.drawn.set(place, node);
      this.body.append(node);
    }
    this.mark();
  }

  rowNode(row, place) {
    const said = this.question ? row.said[this.question.name] : undefined;
    const [sign, why] = MARKS[row.why];
    const tier = { small: "small model", large: "large model", none: "no model" }[row.tier];
    return el(
      "div",
      {
        class: `row ${row.why}`,
        role: "row",
        id: `row-${place}`,
        "aria-rowindex": String(place + 2),
        "aria-selected": "false",
        onclick: () => {
          this.choose(place);
          this.app.open(row.place);
        },
      },
      el("span", { class: "mark", role: "gridcell", title: why }, sign, why && el("span", { class: "hidden" }, why)),
      el("span", { class: "id", role: "gridcell" }, row.id),
      el(
        "span",
        { class: "text", role: "gridcell" },
        row.error ? el("em", {}, row.error) : row.text || el("i", {}, this.app.overview.texts ? "no text" : "text left out"),
      ),
      el("span", { class: "label", role: "gridcell" }, labelOf(said), othersOf(row, said)),
      el("span", { class: "likely", role: "gridcell" }, likelyOf(said)),
      el("span", { class: "by", role: "gridcell", title: tier }, el("span", { class: `dot ${row.tier}` }), row.by || tier),
      el("span", { class: "queue", role: "gridcell" }, row.queue),
      el("span", { class: "cost", role: "gridcell" }, dollars(row.cost)),
      el("span", { class: "time", role: "gridcell" }, seconds(row.seconds)),
    );
  }

  mark() {
    for (const [place, node] of this.drawn) node.setAttribute("aria-selected", String(place === this.at));
    if (this.drawn.has(this.at)) this.grid.setAttribute("aria-activedescendant", `row-${this.at}`);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  choose(place) {
    this.at = Math.max(0, Math.min(this.total - 1, place));
    const high = this.high;
    const head = this.grid.firstChild.offsetHeight;
    const top = this.at * high;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    const bottom = top + high + head - this.grid.clientHeight;
    if (bottom > this.grid.scrollTop) this.grid.scrollTop = bottom;
    this.draw();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.grid.clientHeight / this.high) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      this.choose(this.at + steps[event.key]);
      if (this.app.opened !== null) this.openCurrent();
    } else if (event.key === "Enter") this.openCurrent();
    else if (!this.app.labelKey(event.key, this.rowAt(this.at))) return;
    event.preventDefault();
  }

  openCurrent() {
    const row = this.rowAt(this.at);
    if (row) this.app.open(row.place);
  }

  // A row has a new label: it stays where it is, so that nothing moves under one's hand.
  replace(row) {
    for (const page of this.pages.values()) {
      const at = page ? page.findIndex((one) => one.place === row.place) : -1;
      if (at >= 0) page[at] = row;
    }
    this.drawNew();
  }
}

export function labelOf(said) {
  if (!said) return "";
  if (said.right === null || said.right === undefined) return said.label;
  if (said.right === said.label) return el("span", { class: "right", title: "right" }, said.label, el("span", { "aria-label": "right" , role: "img"}, " ✓"));
  return el("span", {}, el("s", {}, said.label), " ", el("b", {}, said.right));
}

// Which other questions were decided wrongly, where that of the list is not among them.
function othersOf(row, said) {
  if (said && isWrong(said)) return "";
  const wrong = Object.entries(row.said).filter(([, one]) => isWrong(one)).map(([name]) => name);
  return wrong.length ? el("span", { class: "also" }, `✕ ${wrong.join(", ")}`) : "";
}

function isWrong(said) {
  return said.right !== null && said.right !== undefined && said.right !== said.label;
}

export function likelyOf(said) {
  if (!said || said.p === null) return "";
  const kind = isWrong(said) ? "wrong" : said.accepted === true ? "accepted" : "";
  return [
    el("span", { class: `meter ${kind}` }, el("span", { style: { width: `${100 * said.p}%` } })),
    el("span", { class: "p" }, said.p.toFixed(2)),
  ];
}
