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

// The next state of Life; everything outside the board is dead.
function next(board, [high, wide]) {
  const alive = (y, x) => y >= 0 && y < high && x >= 0 && x < wide && board[y * wide + x] > 0.5;
  return Float32Array.from(board, (_, k) => {
    const y = Math.floor(k / wide), x = k % wide;
    let around = 0;
    for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) if (dy || dx) around += alive(y + dy, x + dx);
    return around === 3 || (around === 2 && alive(y, x)) ? 1 : 0;
  });
}

// Rows of boards, one pixel to a cell, with a gap of one. Dead is white and alive is black, as in the paper.
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
const score = (run) => run.metrics.metric ?? run.metrics.correlation;
const told = (run) => (score(run) === undefined ? "no score" : `score ${score(run).toFixed(2)}`);

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
  if (sign) chosen.sort((a, b) => sign * ((score(a) ?? -1) - (score(b) ?? -1)));
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
  paint(canvas, [median.truth, ...Object.values(median.decoded)].map((text) => unpack(text, median.side)), median.side);
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
  const truth = unpack(one.truth, one.side);
  const decoded = Object.entries(one.decoded).map(([name, text]) => [name, unpack(text, one.side)]);
  const steps = Math.max(truth.length, ...decoded.map(([, boards]) => boards.length));
  const states = [truth[0]];
  while (states.length < steps) states.push(next(states.at(-1), one.side));
  Object.assign(shown, { one, steps, rows: [["Life", states], ...decoded] });
  at("live").replaceChildren(...shown.rows.map(([name]) => {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name}, the board of the chosen state`);
    return element("figure", {}, canvas, element("figcaption", {}, name === "Life" ? "Life itself" : `decoded, ${name}`));
  }));
  at("step").max = steps - 1;
  go(0);
}

function go(step) {
  const place = Math.min(Math.max(step, 0), shown.steps - 1);
  at("step").value = place;
  [...at("live").querySelectorAll("canvas")].forEach((canvas, row) => {
    const boards = shown.rows[row][1];
    paint(canvas, [[boards[Math.min(place, boards.length - 1)]]], shown.one.side);
  });
  // With unequal timesteps a decoded board has no true state of its own, so each is named by the nearest one.
  const nearest = shown.rows.slice(1).map(([name, boards]) => {
    const board = boards[Math.min(place, boards.length - 1)];
    const equal = shown.rows[0][1].map((truth) =>
      board.reduce((sum, value, k) => sum + (value > 0.5 === truth[k] > 0.5), 0) / board.length);
    const most = Math.max(...equal), best = equal[place] === most ? place : equal.indexOf(most);
    return `${name} is nearest to state ${best + 1} of Life (${Math.floor(100 * equal[best])}% of the cells)`;
  });
  at("said").textContent = `State ${place + 1} of ${shown.steps}: ${nearest.join("; ")}.`;
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
