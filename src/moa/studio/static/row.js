// One row: what went in, what was decided, what happened when, and another beside it.
import { el, longText, redraw, seconds } from "./dom.js";
import { labelOf } from "./rows.js";

export class RowPane {
  constructor(app) {
    this.app = app;
    this.pinned = null;
    this.node = el("aside", { class: "pane", "aria-label": "One row", hidden: true });
    this.node.addEventListener("keydown", (event) => {
      if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.app.labelKey(event.key, this.detail?.line)) event.preventDefault();
    });
  }

  async show(place) {
    if (place === null) {
      this.node.hidden = true;
      this.detail = null;
      this.pinned = null;
      return;
    }
    this.detail = await this.app.source.row(place);
    if (this.app.opened !== place) return;
    this.node.hidden = false;
    this.draw();
    this.node.scrollTop = 0;
  }

  replace(line) {
    if (this.detail && this.detail.line.place === line.place) {
      this.detail = { ...this.detail, line };
      this.draw();
    }
  }

  draw() {
    const { line } = this.detail;
    const both = this.pinned && this.pinned.line.place !== line.place ? [this.pinned, this.detail] : [this.detail];
    this.node.classList.toggle("two", both.length > 1);
    const isPinned = this.pinned && this.pinned.line.place === line.place;
    redraw(
      this.node,
      el(
        "div",
        { class: "tools" },
        el("h2", {}, both.map((one) => one.line.id).join(" and ")),
        el("button", { type: "button", "aria-pressed": String(Boolean(isPinned)), onclick: () => this.pin() }, this.pinned && !isPinned ? "Unpin" : isPinned ? "Pinned" : "Compare"),
        el("button", { type: "button", class: "close", onclick: () => this.app.open(null) }, "Close"),
      ),
      isPinned ? el("p", { class: "note" }, "Choose another row: it is shown beside this one.") : "",
      el("div", { class: "sides" }, both.map((one) => this.side(one))),
    );
  }

  pin() {
    this.pinned = this.pinned ? null : this.detail;
    this.draw();
  }

  side(detail) {
    const { line } = detail;
    const text = detail.fields.find(([name]) => name === "input.text" || name === "input");
    const rest = detail.fields.filter((one) => one !== text);
    return el(
      "article",
      {},
      this.badges(line),
      text && longText(text[1]),
      line.error && el("p", { class: "error" }, line.error),
      Object.entries(detail.likely).map(([name, likely]) => this.decision(line, name, likely)),
      detail.bars.length ? waterfall(detail) : "",
      rest.length ? el("h3", {}, "Fields") : "",
      rest.length ? el("dl", { class: "fields" }, rest.map(([name, said]) => el("div", {}, el("dt", {}, name), el("dd", {}, said)))) : "",
      notesOf(detail),
    );
  }

  badges(line) {
    const said = [line.queue, ...line.tags, line.by && `by ${line.by}`, seconds(line.seconds)].filter(Boolean);
    return el("p", { class: "badges" }, [...new Set(said)].map((one) => el("span", {}, one)));
  }

  decision(line, name, likely) {
    const said = line.said[name];
    const question = this.app.overview.questions.find((one) => one.name === name);
    const options = question ? question.options : likely.map(([option]) => option);
    const by = new Map(likely);
    const isMain = this.app.question && this.app.question.name === name;
    const can = this.app.overview.can.label && question;
    return el(
      "div",
      { class: isMain ? "decision main" : "decision" },
      el("h3", {}, name, " ", el("span", { class: "answer" }, labelOf(said))),
      el(
        "div",
        { class: "options", role: "group", "aria-label": `Right answer to ${name}` },
        options.map((option, i) => {
          const p = by.get(option);
          const kind = option === said.label && said.right && said.right !== option ? "wrong" : "";
          const parts = [
            el("span", { class: "key", "aria-hidden": "true" }, isMain && can && i < 9 ? String(i + 1) : ""),
            el("span", { class: "name" }, option),
            el("span", { class: `meter ${kind}` }, el("span", { style: { width: `${100 * (p || 0)}%` } })),
            el("span", { class: "p" }, p === undefined ? "" : p.toFixed(3)),
          ];
          if (!can) return el("div", { class: "option" }, parts);
          return el(
            "button",
            { type: "button", class: "option", "aria-pressed": String(said.right === option), onclick: () => this.app.label(line, name, option) },
            parts,
          );
        }),
      ),
    );
  }
}

function waterfall(detail) {
  const { bars } = detail;
  const end = Math.max(...bars.map((one) => one.start + one.seconds), 1e-9);
  return el(
    "div",
    { class: "waterfall" },
    el("h3", {}, detail.timed ? "What happened when" : "Seconds of each node", el("span", { class: "answer" }, seconds(end))),
    bars.map((bar) => {
      const left = (100 * bar.start) / end;
      const width = Math.max((100 * bar.seconds) / end, 0.4);
      const whole = el(
        "div",
        { class: `span ${bar.kind}${bar.error ? " failed" : ""}`, title: `${bar.kind} ${bar.name}` },
        el("span", { class: "name", style: { "padding-left": `${Math.min(bar.depth, 6) * 9}px` } }, bar.name),
        el("span", { class: "track" }, el("span", { style: { left: `${left}%`, width: `${Math.min(width, 100 - left)}%` } })),
        el("span", { class: "time" }, seconds(bar.seconds)),
        bar.marks.length || bar.detail || bar.error
          ? el("span", { class: "marks" }, bar.marks.map((mark) => el("b", {}, mark)), bar.detail, bar.error && [" ", el("em", {}, bar.error)])
          : "",
      );
      if (!bar.asked && !bar.answered) return whole;
      return el(
        "details",
        {},
        el("summary", {}, whole),
        bar.asked && el("pre", { tabindex: "0", "aria-label": "Prompt" }, bar.asked),
        bar.answered && el("pre", { tabindex: "0", "aria-label": "Answer", class: "answered" }, bar.answered),
      );
    }),
  );
}

function notesOf(detail) {
  const told = detail.notes.filter((one) => one.kind !== "answered");
  if (!told.length) return "";
  return el(
    "details",
    { class: "notes" },
    el("summary", {}, `Notes of the trace (${told.length})`),
    el("ul", {}, told.map((one) => el("li", {}, el("b", {}, one.kind), ` ${one.node}${one.text ? `: ${one.text}` : ""}`))),
  );
}
