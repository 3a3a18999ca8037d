// Elements, and how figures are written. Texts are only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// Puts other children into a node; who was on a control stays on the one in its place.
export function redraw(node, ...children) {
  const controls = () => [...node.querySelectorAll("button, input, select, textarea, summary, [tabindex]")];
  const at = controls().indexOf(document.activeElement);
  node.replaceChildren(...children.flat().filter(Boolean));
  if (at >= 0) controls()[at]?.focus();
}

// A text that may be long: where it scrolls, the keyboard can scroll it too.
export function longText(text) {
  const made = el("p", { class: "whole" }, text);
  requestAnimationFrame(() => {
    if (made.scrollHeight <= made.clientHeight) return;
    fill(made, { tabindex: "0", role: "region", "aria-label": "Text" }, []);
  });
  return made;
}

export function isNarrow() {
  return matchMedia("(max-width: 760px)").matches;
}

export function percent(share) {
  if (share === null || share === undefined) return "";
  const value = 100 * share;
  const digits = value > 0 && value < 10 ? (value < 1 ? 2 : 1) : value > 99 && value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} %`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "0 s";
  if (value < 0.001) return "< 1 ms";
  if (value < 1) return `${Math.round(1000 * value)} ms`;
  if (value < 120) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function dollars(value) {
  if (value === null || value === undefined) return "unknown";
  if (value === 0) return "$0";
  return `$${value.toFixed(value >= 1 ? 2 : value >= 0.01 ? 4 : 6)}`;
}

export function wait(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

export function count(value) {
  return value.toLocaleString("en-US");
}

export function field(label, control) {
  return el("label", { class: "field" }, el("span", {}, label), control);
}

export function select(options, value, onchange) {
  const made = el("select", { onchange: (event) => onchange(event.target.value) });
  for (const [key, said] of options) {
    made.append(el("option", { value: key, selected: key === value }, said));
  }
  return made;
}
