"use strict";
// The gallery: filters, a strip for each run, and a viewer that steps through one sequence.
const runs = JSON.parse(document.getElementById("runs").textContent);
const at = (id) => document.getElementById(id);
const GREYS = 15;
const PAGE = 24; // cards that appear at once
const shown = { run: null, timer: null, chosen: [] };

// --- boards

function unpack(text, side) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const area = side[0] * side[1];
  const boards = Math.floor((2 * bytes.length) / area);
  const cell = (n) => (n % 2 ? bytes[n >> 1] & 15 : bytes[n >> 1] >> 4) / GREYS;
  return Array.from({ length: boards }, (_, b) => Float32Array.from({ length: area }, (_, k) => cell(b * area + k)));
}

// Rows of boards, one pixel to a cell, with a gap of one. 0 is white and 1 is black.
function paint(canvas, rows, [high, wide]) {
  const most = Math.max(...rows.map((row) => row.length));
  canvas.width = most * (wide + 1) - 1;
  canvas.height = rows.length * (high + 1) - 1;
  const context = canvas.getContext("2d");
  rows.forEach((row, r) => row.forEach((board, c) => {
    const image = context.createImageData(wide, high);
    board.forEach((value, k) => image.data.set([0, 0, 0].fill(Math.round(255 * (1 - value))).concat(255), 4 * k));
    context.putImageData(image, c * (wide + 1), r * (high + 1));
  }));
}

// --- words

const show = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value);
const named = (cell) => Object.entries(cell).filter(([, value]) => value !== undefined)
  .map(([key, value]) => `${key} ${value}`).join(", ");
const told = (run) => (run.score === null ? "no score" : `score ${run.score.toFixed(2)}`);

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// --- filters

const varied = Object.keys(runs[0].cell).filter((key) => new Set(runs.map((run) => run.cell[key])).size > 1);
const selects = varied.map((key) => {
  const values = [...new Set(runs.map((run) => run.cell[key]))].filter((value) => value !== undefined)
    .sort((a, b) => (a > b) - (a < b));
  const select = element("select", { onchange: list });
  select.dataset.key = key;
  select.append(element("option", { value: "" }, "all"), ...values.map((value) => element("option", {}, String(value))));
  at("filters").append(element("label", {}, `${key} `, select));
  return select;
});
const order = element("select", { onchange: list, id: "order" });
order.append(...["stored order", "best first", "worst first"].map((word) => element("option", {}, word)));
at("filters").append(element("label", {}, "order ", order));
at("filters").onsubmit = () => false;

function list() {
  const chosen = runs.filter((run) =>
    selects.every((select) => !select.value || String(run.cell[select.dataset.key]) === select.value));
  const sign = { "best first": -1, "worst first": 1 }[order.value];
  if (sign) chosen.sort((a, b) => sign * ((a.score ?? -1) - (b.score ?? -1)));
  shown.chosen = chosen;
  at("cards").replaceChildren();
  more();
}

function more() {
  const begin = at("cards").children.length, end = begin + PAGE;
  at("cards").append(...shown.chosen.slice(begin, end).map(card));
  at("more").hidden = end >= shown.chosen.length;
  at("count").textContent = `${Math.min(end, shown.chosen.length)} of ${shown.chosen.length} chosen runs, ${runs.length} in all`;
}

function card(run) {
  const median = run.sequences.find((one) => one.name === "median") ?? run.sequences[0];
  const canvas = element("canvas");
  canvas.setAttribute("aria-hidden", "true");
  const [first, ...others] = Object.values(median.rows).map((text) => unpack(text, median.side));
  paint(canvas, [first.slice(0, median.overview ?? first.length), ...others], median.side);
  const few = Object.fromEntries(varied.map((key) => [key, run.cell[key]]));
  const button = element("button", { type: "button", className: "card", onclick: () => open(run, true) },
    element("b", {}, `${run.id}, seed ${run.seed}`), `${named(few)}${varied.length ? ", " : ""}${told(run)}`, canvas);
  button.setAttribute("aria-pressed", String(run === shown.run));
  return button;
}

// --- viewer

function open(run, focus) {
  shown.run = run;
  at("viewer").hidden = false;
  at("viewer-head").textContent = `Run ${run.id}, seed ${run.seed}: ${told(run)}`;
  at("pick").replaceChildren(...run.sequences.map((one, place) =>
    element("option", { value: place }, `${one.name || "sequence"} (no. ${one.index})`)));
  const facts = { ...run.metrics, ...run.about, ...run.config };
  at("facts").replaceChildren(...Object.entries(facts).flatMap(([key, value]) =>
    [element("dt", {}, key), element("dd", {}, String(show(value)))]));
  for (const each of at("cards").children) each.setAttribute("aria-pressed", "false");
  [...at("cards").children].find((each) => each.textContent.startsWith(run.id))?.setAttribute("aria-pressed", "true");
  choose();
  if (focus) at("viewer-head").focus();
}

function choose() {
  const one = shown.run.sequences[at("pick").value];
  const rows = Object.entries(one.rows).map(([name, text]) => [name, unpack(text, one.side)]);
  Object.assign(shown, { one, steps: one.said.length, rows });
  at("live").replaceChildren(...shown.rows.map(([name]) => {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}, the board of the chosen place`);
    return element("figure", {}, canvas, element("figcaption", {}, name));
  }));
  at("step").max = shown.steps - 1;
  go(0);
}

function go(step) {
  const place = Math.min(Math.max(step, 0), shown.steps - 1);
  at("step").value = place;
  [...at("live").querySelectorAll("canvas")].forEach((canvas, row) => {
    const boards = shown.rows[row][1];
    paint(canvas, [[boards[Math.min(place, boards.length - 1)]]], shown.one.side);
  });
  at("said").textContent = shown.one.said[place];
}

function play(on) {
  clearInterval(shown.timer);
  at("play").setAttribute("aria-pressed", String(on));
  at("play").textContent = on ? "Stop" : "Play";
  if (on) shown.timer = setInterval(() => go((Number(at("step").value) + 1) % shown.steps), 700);
}

at("pick").onchange = choose;
at("step").oninput = () => go(Number(at("step").value));
at("back").onclick = () => go(Number(at("step").value) - 1);
at("on").onclick = () => go(Number(at("step").value) + 1);
at("play").onclick = () => play(at("play").getAttribute("aria-pressed") !== "true");

at("more").onclick = more;

list();
open(runs[0], false);
