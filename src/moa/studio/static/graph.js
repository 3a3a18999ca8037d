// The graph as it is drawn, with what became of each node; a click shows its rows.
import { count, dollars, el, percent, seconds, svg } from "./dom.js";

const EDGE = 8;
let drawings = 0;

export class GraphView {
  constructor(app) {
    this.app = app;
    this.node = el("section", { class: "graph", "aria-label": "Graph" });
  }

  setUp() {
    const { graph, stats } = this.app.overview;
    const parts = [];
    if (graph) parts.push(el("div", { class: "drawing", tabindex: "0", role: "group", "aria-label": `The graph ${graph.name}` }, drawGraph(graph, (path) => this.pick(path))));
    if (stats.length) parts.push(this.table(stats));
    if (!parts.length) parts.push(el("p", { class: "empty" }, "These rows say nothing of nodes."));
    this.node.replaceChildren(...parts);
  }

  show() {
    const drawing = this.node.querySelector(".drawing");
    if (drawing) center(drawing);
  }

  pick(path) {
    const node = this.app.overview.nodes.indexOf(path);
    if (node >= 0) this.app.go("rows", { node });
  }

  table(stats) {
    const heads = ["Node", "Rows", "Share", "p50", "p95", "Cost"];
    return el(
      "div",
      { class: "scroll" },
      el(
        "table",
        { class: "table" },
        el("caption", { class: "hidden" }, "What each node took"),
        el("thead", {}, el("tr", {}, heads.map((one, i) => el("th", { scope: "col", class: i ? "number" : "" }, one)))),
        el(
          "tbody",
          {},
          stats.map((one) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, el("button", { type: "button", class: "link", onclick: () => this.pick(one.node) }, one.label)),
              el("td", {}, count(one.rows)),
              el("td", {}, percent(one.share)),
              el("td", {}, seconds(one.p50)),
              el("td", {}, seconds(one.p95)),
              el("td", {}, one.cost === null ? "" : dollars(one.cost)),
            ),
          ),
        ),
      ),
    );
  }
}

// On a narrow page the middle of a graph is seen first.
export function center(drawing) {
  drawing.scrollLeft = (drawing.scrollWidth - drawing.clientWidth) / 2;
}

export function drawGraph(graph, onpick) {
  const pad = 10;
  drawings += 1;
  const tip = `tip-${drawings}`;
  const made = svg("svg", {
    class: "nodes",
    viewBox: `${-pad} ${-pad} ${graph.width + 2 * pad} ${graph.height + 2 * pad}`,
    width: graph.width + 2 * pad,
    height: graph.height + 2 * pad,
    role: "group",
    "aria-label": `Nodes of ${graph.name}`,
  });
  made.append(
    svg(
      "defs",
      {},
      svg("marker", { id: tip, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,1 L7,4 L0,7 Z" })),
    ),
    ...graph.lines.map((line) => drawLine(line, tip)),
    ...graph.places.map((place) => drawPlace(place, onpick)),
  );
  return made;
}

function drawLine(line, tip) {
  const [first, ...rest] = line.points;
  let path = `M${first[0]},${first[1]}`;
  let at = first;
  for (const to of rest) {
    const middle = (at[1] + to[1]) / 2;
    path += at[0] === to[0] ? ` L${to[0]},${to[1]}` : ` C${at[0]},${middle} ${to[0]},${middle} ${to[0]},${to[1]}`;
    at = to;
  }
  const made = svg("path", { d: path, class: line.decides ? "line decides" : "line", "marker-end": `url(#${tip})` });
  if (line.label) made.append(svg("title", {}, line.label));
  return made;
}

function drawPlace(place, onpick) {
  const middle = place.x + place.width / 2;
  const figures = [place.share === null ? "" : percent(place.share), place.p50 === null ? "" : seconds(place.p50)].filter(Boolean).join(" · ");
  const details = [place.detail, place.rows === null ? "" : `${count(place.rows)} rows`, place.p95 === null ? "" : `p50 ${seconds(place.p50)}, p95 ${seconds(place.p95)}`, place.cost === null ? "" : dollars(place.cost)];
  const said = `${place.label}: ${details.filter(Boolean).join(", ")}`;
  const can = onpick && place.node;
  const group = svg("g", {
    class: `place ${place.look}${can ? " can" : ""}`,
    "data-node": place.label,
    role: can ? "button" : "img",
    tabindex: can ? "0" : undefined,
    "aria-label": said,
    onclick: can ? () => onpick(place.node) : undefined,
    onkeydown: can
      ? (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            onpick(place.node);
          }
        }
      : undefined,
  });
  const round = place.look === "terminal" ? place.height / 2 : EDGE / 2;
  group.append(
    svg("title", {}, said),
    svg("rect", { x: place.x, y: place.y, width: place.width, height: place.height, rx: round }),
    svg("text", { class: "name", x: middle, y: place.y + (figures ? 20 : 28), "text-anchor": "middle" }, short(place.label, place.width)),
    figures && svg("text", { class: "figure", x: middle, y: place.y + 36, "text-anchor": "middle" }, figures),
  );
  return group;
}

function short(text, width) {
  const most = Math.floor((width - 12) / 6.6);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}
