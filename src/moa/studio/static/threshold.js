// The slider: coverage against error, with the exact bound of each point, which guarantees nothing.
import { count, dollars, el, isNarrow, percent, redraw, svg } from "./dom.js";

const PAD = { left: 48, right: 20, top: 28, bottom: 40 };
const SCALES = [
  [0.02, 4],
  [0.05, 5],
  [0.1, 5],
  [0.2, 4],
  [0.3, 3],
  [0.4, 4],
  [0.5, 5],
  [0.75, 3],
  [1, 4],
];

// The slider stands where the point does on the axis: points are not evenly apart.
function nearest(points, share) {
  const far = points.map((one) => Math.abs(one.share - share));
  return far.indexOf(Math.min(...far));
}

export class ThresholdView {
  constructor(app) {
    this.app = app;
    this.at = new Map();
    this.node = el("section", { class: "threshold", "aria-label": "Threshold" });
  }

  setUp() {
    this.show();
  }

  show() {
    const { curves } = this.app.overview;
    const name = this.app.question ? this.app.question.name : "";
    const curve = curves.find((one) => one.question === name) || curves[0];
    if (!curve) {
      this.node.replaceChildren(el("p", { class: "empty" }, "Nothing was decided in these rows."));
      return;
    }
    const picker = el(
      "div",
      { class: "chips", role: "group", "aria-label": "Question" },
      curves.map((one) =>
        el(
          "button",
          {
            type: "button",
            "aria-pressed": String(one === curve),
            onclick: () => this.app.ask(one.question),
          },
          one.question,
          el("span", { class: "count" }, count(one.labelled)),
        ),
      ),
    );
    const parts = curve.points.length ? this.drawn(curve) : [el("p", { class: "empty" }, curve.why_not)];
    redraw(this.node, picker, ...parts);
  }

  drawn(curve) {
    const last = curve.points.length - 1;
    const wanted = this.at.get(curve.question) ?? this.start(curve);
    this.read = el("dl", { class: "readout" });
    this.wish = el("code", { class: "command" });
    const picture = this.picture(curve);
    const [before, behind] = [PAD.left, PAD.right].map((pad) => `${(100 * pad) / this.wide}%`);
    this.slider = el("input", {
      type: "range",
      min: "0",
      max: "1",
      step: "any",
      "aria-label": `Threshold of ${curve.question}`,
      style: { "margin-left": `calc(${before} - 8px)`, width: `calc(100% - ${before} - ${behind} + 16px)` },
      oninput: (event) => this.move(curve, nearest(curve.points, Number(event.target.value))),
      onkeydown: (event) => {
        const at = this.at.get(curve.question);
        const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -last, End: last };
        if (!(event.key in steps)) return;
        event.preventDefault();
        this.move(curve, Math.min(last, Math.max(0, at + steps[event.key])));
      },
    });
    this.move(curve, wanted);
    const tested = curve.tested
      ? `◆ the tested threshold, ${curve.tested.threshold.toFixed(3)}: ${curve.tested.summary}`
      : "No threshold of this question was tested, so nothing is guaranteed.";
    const chosen = curve.chosen
      ? ` ${count(curve.chosen)} more rows with labels aren't counted: somebody chose them, so they are no random sample.`
      : "";
    return [
      el(
        "div",
        { class: "curve" },
        el("figure", {}, picture, this.slider, el("figcaption", {}, "← stricter, accepts less · accepts more →")),
        el("div", { class: "side" }, this.read),
      ),
      el("p", { class: "tested" }, tested),
      el(
        "p",
        { class: "note" },
        `From ${count(curve.labelled)} labelled rows.${chosen} The band is the exact bound (Clopper and Pearson, 95 % on each side) of each point by itself. `,
        "Moving the slider guarantees nothing. To guarantee such a risk, calibrate for it on new rows that are drawn at random:",
      ),
      el("div", { class: "wish" }, this.wish, this.copyButton()),
    ];
  }

  copyButton() {
    return el(
      "button",
      {
        type: "button",
        onclick: async () => {
          await navigator.clipboard.writeText(this.wish.textContent);
          this.app.say("copied");
        },
      },
      "Copy",
    );
  }

  start(curve) {
    if (curve.tested) {
      const behind = curve.points.findIndex((one) => one.threshold < curve.tested.threshold);
      return Math.max(0, (behind < 0 ? curve.points.length : behind) - 1);
    }
    return Math.floor(curve.points.length / 2);
  }

  move(curve, at) {
    this.at.set(curve.question, at);
    const point = curve.points[at];
    this.slider.value = String(point.share);
    this.slider.setAttribute("aria-valuetext", `${point.threshold.toFixed(3)}, accepts ${percent(point.share)}`);
    const x = this.x(point.share);
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
    this.spot.setAttribute("cx", x);
    this.spot.setAttribute("cy", this.y(point.error));
    const rows = [
      ["Threshold", point.threshold.toFixed(3)],
      ["Accepts", `${percent(point.share)} of all rows`],
      ["Wrong", `${percent(point.error)} · ${count(point.errors)} of ${count(point.accepted)} labelled`],
      ["Bounds", `${percent(point.lower)} to ${percent(point.upper)}`],
      ["Large model", `${count(Math.round(1000 * (1 - point.share)))} of 1,000 rows`],
      ["Its cost", point.cost === null ? "unknown: no price" : `${dollars(point.cost)} for 1,000 rows`],
    ];
    this.read.replaceChildren(...rows.map(([name, said]) => el("div", {}, el("dt", {}, name), el("dd", {}, said))));
    this.wish.textContent = curve.next.replace("{risk}", point.wish);
  }

  x(share) {
    return PAD.left + share * (this.wide - PAD.left - PAD.right);
  }

  y(error) {
    return this.high - PAD.bottom - (Math.min(error, this.most) / this.most) * (this.high - PAD.top - PAD.bottom);
  }

  picture(curve) {
    const { points } = curve;
    const narrow = isNarrow();
    this.wide = narrow ? 370 : 720;
    this.high = narrow ? 250 : 310;
    const told = points.filter((one) => one.accepted >= 20);
    const high = Math.max(...(told.length ? told : points).map((one) => one.upper));
    [this.most, this.steps] = SCALES.find(([one]) => one >= high) || SCALES.at(-1);
    const upper = points.map((one) => `${this.x(one.share)},${this.y(one.upper)}`);
    const lower = points.map((one) => `${this.x(one.share)},${this.y(one.lower)}`).reverse();
    const line = points.map((one) => `${this.x(one.share)},${this.y(one.error)}`);
    this.line = svg("line", { class: "at", y1: PAD.top, y2: this.high - PAD.bottom });
    this.spot = svg("circle", { class: "spot", r: 4.5 });
    return svg(
      "svg",
      { viewBox: `0 0 ${this.wide} ${this.high}`, class: "chart", role: "img", "aria-label": `Share of wrong answers to ${curve.question} by what is accepted` },
      this.axes(),
      svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") }),
      svg("polyline", { class: "errors", points: line.join(" ") }),
      this.line,
      this.spot,
      curve.tested && this.diamond(curve.tested),
    );
  }

  diamond(tested) {
    const x = this.x(tested.share);
    const y = this.y(tested.risk);
    return svg(
      "g",
      { class: "tested" },
      svg("path", { d: `M${x - 6},${y} L${x},${y - 6} L${x + 6},${y} L${x},${y + 6} Z` }),
      svg("line", { x1: PAD.left, x2: x - 6, y1: y, y2: y }),
    );
  }

  axes() {
    const made = [];
    for (let step = 0; step <= this.steps; step += 1) {
      const error = (this.most * step) / this.steps;
      const y = this.y(error);
      made.push(svg("line", { class: "rule", x1: PAD.left, x2: this.wide - PAD.right, y1: y, y2: y }));
      made.push(svg("text", { x: PAD.left - 8, y: y + 4, "text-anchor": "end" }, percent(error)));
    }
    const below = this.high - PAD.bottom + 18;
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      made.push(svg("text", { x: this.x(share), y: below, "text-anchor": "middle" }, percent(share)));
    }
    made.push(svg("text", { x: 2, y: 12 }, "wrong among the accepted"));
    made.push(svg("text", { x: (this.wide + PAD.left) / 2, y: this.high - 4, "text-anchor": "middle" }, "of all rows accepted"));
    return made;
  }
}
