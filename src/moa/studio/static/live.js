// What goes on: an input that is tried while its nodes light up, a job, a cascade that learns.
import { count, dollars, el, field, percent, seconds, select, svg } from "./dom.js";
import { center, drawGraph } from "./graph.js";

export class LiveView {
  constructor(app) {
    this.app = app;
    this.node = el("section", { class: "live", "aria-label": "Live" });
  }

  setUp() {
    const { overview } = this.app;
    const parts = [];
    if (overview.can.run.length) parts.push(this.tried(overview));
    if (overview.job) {
      this.job = el("div", { class: "job" });
      parts.push(el("h2", {}, "Job"), this.job);
      this.drawJob(overview.job);
    }
    if (overview.can.learn) parts.push(this.lesson(overview));
    if (overview.learning) parts.push(learningCurve(overview.learning));
    this.node.replaceChildren(...parts);
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
      el("div", { class: "actions" }, this.button, this.state),
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
    try {
      const response = await fetch(`../run/${encodeURIComponent(this.name)}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...this.app.source.headers("text/event-stream") },
        body: JSON.stringify(body),
      });
      if (!response.ok) throw new Error((await response.json()).error?.message || response.statusText);
      await this.listen(response.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (error) {
      this.state.textContent = error.message;
    } finally {
      this.button.disabled = false;
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
      this.out.textContent = JSON.stringify(said.output, null, 2);
      this.state.textContent = `done in ${seconds(said.seconds)}, ${dollars(said.usage.cost)}`;
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
      el("progress", { max: String(job.total || 1), value: String(done), "aria-label": "Rows that are done" }),
      el("p", {}, parts.filter(Boolean).join(" · ")),
      el("p", { class: "note" }, states.join(" · ")),
    );
  }
}

function learningCurve(found) {
  const wide = 720;
  const high = 180;
  const { hundreds } = found;
  const step = Math.min(40, wide / Math.max(hundreds.length, 1));
  const bars = hundreds.map((one, i) => {
    const inputs = one.last - one.first + 1;
    const share = Math.min(1, one.calls / inputs);
    const would = Math.min(1, one.would / inputs);
    const gap = Math.min(3, step / 4);
    return [
      svg("rect", { class: "calls", x: i * step, y: high * (1 - share), width: step - gap, height: high * share }, svg("title", {}, `inputs ${one.first} to ${one.last}: ${one.calls} calls`)),
      svg("rect", { class: "would", x: i * step, y: high * (1 - would) - 1, width: step - gap, height: 2 }),
    ];
  });
  return el(
    "div",
    { class: "learning" },
    el("h2", {}, "Calls of the large model, of each hundred inputs"),
    el("figure", {}, svg("svg", { viewBox: `0 0 ${wide} ${high}`, class: "chart", role: "img", "aria-label": "Calls of the large model over time" }, svg("line", { class: "rule", x1: 0, x2: wide, y1: high - 0.5, y2: high - 0.5 }), bars.flat())),
    el("p", {}, `${found.promise}. ${found.next}.`),
    el(
      "ul",
      { class: "looks" },
      found.looks.map((one) =>
        el(
          "li",
          {},
          `Epoch ${one.epoch}, look ${one.look} at row ${count(one.row)}: `,
          one.passed ? `${percent(one.accepted / Math.max(1, one.held_out))} of ${count(one.held_out)} held-out texts accepted, ${one.differ} differ` : "nothing passed",
          one.in_use ? el("b", {}, " in use") : "",
        ),
      ),
    ),
  );
}
