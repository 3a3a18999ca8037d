// What goes on: an input that is tried while its nodes light up, a job, a cascade that learns.
import { count, dollars, el, field, isNarrow, percent, seconds, select, svg, wait } from "./dom.js";
import { center, drawGraph } from "./graph.js";
import { questionForm } from "./question.js";

export class LiveView {
  constructor(app) {
    this.app = app;
    this.node = el("section", { class: "live", "aria-label": "Live" });
  }

  setUp() {
    const { overview } = this.app;
    this.job = el("div", { class: "job" });
    this.curve = el("div", { class: "learning" });
    const parts = [overview.job && this.job, overview.learning && this.curve, overview.can.run.length && this.tried(overview), overview.can.learn && this.lesson(overview)];
    this.node.replaceChildren(...parts.filter(Boolean));
    this.refresh();
  }

  refresh() {
    const { job, learning } = this.app.overview;
    if (job) this.drawJob(job);
    if (learning) this.curve.replaceChildren(...learningCurve(learning));
  }

  show() {
    const drawing = this.node.querySelector(".drawing");
    if (drawing) center(drawing);
  }

  tried(overview) {
    this.name = overview.can.run[0];
    this.input = el("textarea", { rows: "3", spellcheck: "false", placeholder: "A text, or JSON of what it takes" });
    this.out = el("pre", { class: "result", tabindex: "0", "aria-label": "Result" });
    this.state = el("p", { class: "note", role: "status" });
    this.drawing = overview.graph ? drawGraph(overview.graph, null) : null;
    this.button = el("button", { type: "submit", class: "go" }, "Run");
    this.asked = el("div", { class: "asked", "aria-live": "polite" });
    this.key = el("input", { type: "password", autocomplete: "off" });
    this.keyField = el("div", { hidden: true }, field("Key of the server, which pays for it", this.key));
    return el(
      "form",
      {
        class: "try",
        onsubmit: (event) => {
          event.preventDefault();
          this.run();
        },
      },
      overview.can.run.length > 1 && field("Graph", select(overview.can.run.map((one) => [one, one]), this.name, (name) => (this.name = name))),
      field(`Try ${this.name}`, this.input),
      this.keyField,
      el("div", { class: "actions" }, this.button, this.state),
      this.asked,
      this.out,
      this.drawing && el("div", { class: "drawing", tabindex: "0", role: "group", "aria-label": "Nodes as they run" }, this.drawing),
    );
  }

  lesson(overview) {
    this.learnt = el("pre", { class: "result", tabindex: "0", "aria-label": "What moa learn says" });
    this.learns = el("button", { type: "button", onclick: () => this.learn(true) }, "Learn from the labels");
    this.lessonState = el("p", { class: "note", role: "status" }, `from ${overview.labels}`);
    return el("div", {}, el("h2", {}, "Learn"), el("div", { class: "actions" }, this.learns, this.lessonState), this.learnt);
  }

  async learn(start) {
    try {
      const now = await this.app.source.learn(start);
      this.learnt.textContent = now.said;
      this.learns.disabled = now.running;
      const ended = now.code === 0 ? "done" : now.code === null ? "" : `it ended with ${now.code}`;
      this.lessonState.textContent = now.running ? `${now.command} …` : ended || now.command;
      if (now.running) setTimeout(() => this.learn(false), 1000);
    } catch (error) {
      this.lessonState.textContent = error.message;
      this.learns.disabled = false;
    }
  }

  async run() {
    const given = this.input.value.trim();
    if (!given) return;
    let body;
    try {
      body = JSON.parse(given);
    } catch {
      body = given;
    }
    this.light(null);
    this.out.textContent = "";
    this.button.disabled = true;
    this.state.textContent = "running …";
    this.isRunning = true;
    this.watchQuestions();
    const headers = { "content-type": "application/json", ...this.app.source.headers("text/event-stream") };
    if (this.key.value) headers["x-moa-server-key"] = this.key.value;
    try {
      const response = await fetch(`api/run/${encodeURIComponent(this.name)}`, { method: "POST", headers, body: JSON.stringify(body) });
      if (response.status === 401) this.keyField.hidden = false;
      if (!response.ok) throw new Error((await response.json()).error?.message || response.statusText);
      await this.listen(response.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (error) {
      this.state.textContent = error.message;
    } finally {
      this.isRunning = false;
      this.button.disabled = false;
      this.asked.replaceChildren();
    }
  }

  // What the graph asks people, and their answers; each is drawn once, so that nothing typed is lost.
  async watchQuestions() {
    for (; this.isRunning; await wait(500)) {
      try {
        this.drawQuestions(await this.app.source.questions());
      } catch (error) {
        this.state.textContent = error.message;
      }
    }
  }

  drawQuestions(questions) {
    if (!this.isRunning) return;
    const open = new Set(questions.map((one) => one.id));
    for (const form of [...this.asked.children]) if (!open.has(form.dataset.id)) form.remove();
    const drawn = new Set([...this.asked.children].map((form) => form.dataset.id));
    for (const question of questions) {
      if (!drawn.has(question.id)) this.asked.append(questionForm(question, (answer) => this.answer(question.id, answer)));
    }
    this.state.textContent = questions.length ? "waits for your answer" : "running …";
  }

  async answer(id, answer) {
    try {
      this.drawQuestions(await this.app.source.answer(id, answer));
    } catch (error) {
      this.state.textContent = error.message;
    }
  }

  async listen(reader) {
    let waiting = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      waiting += value.replaceAll("\r\n", "\n");
      const messages = waiting.split("\n\n");
      waiting = messages.pop();
      for (const message of messages) this.heard(message);
    }
  }

  heard(message) {
    const lines = message.split("\n");
    const event = lines.find((one) => one.startsWith("event: "))?.slice(7);
    const data = lines.filter((one) => one.startsWith("data: ")).map((one) => one.slice(6)).join("\n");
    if (!event || !data) return;
    const said = JSON.parse(data);
    if (event === "node_started") this.light(said.node, "runs");
    else if (event === "node_finished") this.light(said.node, "done");
    else if (event === "node_skipped") this.light(said.node, "skipped");
    else if (event === "text") this.out.textContent += said.text;
    else if (event === "result") {
      this.out.textContent = typeof said.output === "string" ? said.output : JSON.stringify(said.output, null, 2);
      this.state.textContent = `done in ${seconds(said.seconds)}, cost ${dollars(said.usage.cost)}`;
    } else if (event === "error") this.state.textContent = said.error?.message || "it failed";
  }

  light(path, how) {
    if (!this.drawing) return;
    const name = path ? path.split("/").slice(1).join("/") : null;
    for (const place of this.drawing.querySelectorAll(".place")) {
      if (path && place.dataset.node !== name) continue;
      place.classList.remove("runs", "done", "skipped");
      if (how) place.classList.add(how);
    }
  }

  drawJob(job) {
    const done = job.total - job.left;
    const parts = [
      `${count(done)} of ${count(job.total)} rows`,
      dollars(job.cost),
      job.rate ? `${job.rate.toFixed(1)} rows/s` : "",
      job.left && job.left_s !== null ? `${seconds(job.left_s)} left` : "",
    ];
    const states = Object.entries(job.rows).map(([state, rows]) => `${state} ${count(rows)}`);
    this.job.replaceChildren(
      el("h2", {}, "Job"),
      el("progress", { max: String(job.total || 1), value: String(done), "aria-label": "Rows that are done" }),
      el("p", {}, parts.filter(Boolean).join(" · ")),
      el("p", { class: "note" }, states.join(" · ")),
    );
  }
}

const CURVE = { high: 220, left: 44, top: 10, bottom: 34 };

// The bill: calls of each hundred inputs, and how many there would have been without its tests.
function learningCurve(found) {
  const { hundreds } = found;
  const wide = isNarrow() ? 370 : 720;
  const inside = CURVE.high - CURVE.top - CURVE.bottom;
  const step = Math.min(40, (wide - CURVE.left) / Math.max(hundreds.length, 1));
  const y = (share) => CURVE.top + inside * (1 - Math.min(1, share));
  const rules = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "rule", x1: CURVE.left, x2: wide, y1: y(share), y2: y(share) }),
    svg("text", { x: CURVE.left - 8, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
  ]);
  const bars = hundreds.flatMap((one, i) => {
    const inputs = one.last - one.first + 1;
    const x = CURVE.left + i * step;
    const width = step - Math.min(3, step / 4);
    return [
      svg("rect", { class: "calls", x, y: y(one.calls / inputs), width, height: inside * Math.min(1, one.calls / inputs) }, svg("title", {}, `inputs ${one.first} to ${one.last}: ${one.calls} calls`)),
      svg("rect", { class: "would", x, y: y(one.would / inputs) - 1, width, height: 2 }),
    ];
  });
  const last = hundreds.at(-1);
  const below = CURVE.high - CURVE.bottom + 16;
  const axis = last
    ? [
        svg("text", { x: CURVE.left, y: below }, `input ${count(hundreds[0].first)}`),
        hundreds.length > 4 && svg("text", { x: CURVE.left + hundreds.length * step, y: below, "text-anchor": "end" }, count(last.last)),
      ]
    : [];
  return [
    el("h2", {}, "Calls of the large model, of each hundred inputs"),
    el("figure", {}, svg("svg", { viewBox: `0 0 ${wide} ${CURVE.high}`, class: "chart", role: "img", "aria-label": last ? `Of the last hundred inputs ${last.calls} took a call of the large model` : "No input yet" }, rules, bars, axis)),
    el("p", { class: "key-of" }, el("span", { class: "calls" }, "calls made"), el("span", { class: "would" }, "calls without its tests and checks")),
    el("p", {}, `${found.promise}. ${found.next}.`),
    el("ul", { class: "looks" }, found.looks.map(lookLine)),
  ];
}

function lookLine(one) {
  const passed = `${percent(one.accepted / Math.max(1, one.held_out))} of ${count(one.held_out)} held-out texts accepted, ${one.differ} differ`;
  return el("li", {}, `Epoch ${one.epoch}, look ${one.look} at row ${count(one.row)}: `, one.passed ? passed : "nothing passed", one.in_use && el("b", {}, " in use"));
}
