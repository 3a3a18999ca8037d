// What a graph asks a person while it is tried: buttons, a text or JSON, by what may be answered.
import { el, longText } from "./dom.js";

export function questionForm(question, answer) {
  const named = `question-${question.id}`;
  return el(
    "div",
    { class: "question", role: "group", "aria-labelledby": named, "data-id": question.id },
    el("h2", { id: named }, "You are asked"),
    longText(question.asked),
    control(question.answers, answer),
  );
}

function control(schema, answer) {
  if (schema.type === "boolean") return buttons([[true, "Yes"], [false, "No"]], answer);
  const choices = schema.enum ?? (schema.const === undefined ? null : [schema.const]);
  if (choices) return buttons(choices.map((one) => [one, String(one)]), answer);
  return written(schema, answer);
}

function buttons(choices, answer) {
  return el("div", { class: "actions" }, choices.map(([value, said]) => el("button", { type: "button", onclick: () => answer(value) }, said)));
}

function written(schema, answer) {
  const isText = schema.type === "string";
  const input = el("textarea", { rows: "3", "aria-label": isText ? "Your answer" : "Your answer, as JSON" });
  if (!isText) input.value = skeleton(schema);
  const note = el("p", { class: "note", role: "status" });
  const send = () => {
    try {
      answer(isText ? input.value : JSON.parse(input.value));
    } catch (error) {
      note.textContent = `That is no JSON: ${error.message}`;
    }
  };
  return el("div", {}, input, el("div", { class: "actions" }, el("button", { type: "button", onclick: send }, "Answer"), note));
}

function skeleton(schema) {
  const fields = Object.entries(schema.properties ?? {});
  if (!fields.length) return "";
  return JSON.stringify(Object.fromEntries(fields.map(([name, one]) => [name, one.default ?? (one.type === "string" ? "" : null)])), null, 2);
}
