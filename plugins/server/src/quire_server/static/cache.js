// The live view: asks for the engine's state while the page is visible, and draws it.

import { fit, showBlocks, style } from "./blocks.js";

const EVERY_MS = 250;
const KEEP = 240; // points of the rate's line: a minute
const find = (id) => document.getElementById(id);
const rates = [];
const latencies = []; // null where no token came
let before = null;

export async function watchCache(onState) {
  for (;;) {
    if (!document.hidden) {
      try {
        const response = await fetch("page/state/now");
        const state = await response.json();
        if (!response.ok) throw new Error(state.error.message);
        onState(state);
        show(state);
      } catch (error) {
        find("about").textContent = error.message;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

function show(state) {
  const engine = state.engine;
  find("about").textContent =
    `${state.model} on ${engine.backend} (${engine.device}), context ${engine.max_model_len.toLocaleString()} tokens` +
    (state.state === "serving" ? "" : `: ${state.state}`);
  note(state);
  showFigures(state);
  showBlocks(state);
  drawLine("rate", rates, "tokens a second");
  drawLine("latency", latencies, "milliseconds between tokens");
}

function note(state) {
  const [count, seconds] = state.latency.next;
  const now = { time: performance.now(), tokens: state.stats.num_scheduled_tokens, count, seconds };
  if (before) {
    rates.push((1000 * (now.tokens - before.tokens)) / (now.time - before.time));
    const isNew = now.count > before.count;
    latencies.push(isNew ? (1000 * (now.seconds - before.seconds)) / (now.count - before.count) : null);
  }
  for (const values of [rates, latencies]) if (values.length > KEEP) values.shift();
  before = now;
}

function showFigures(state) {
  const stats = state.stats;
  const hits = stats.num_prefix_queries ? (100 * stats.num_prefix_hits) / stats.num_prefix_queries : 0;
  const figures = {
    Running: stats.num_running,
    Waiting: stats.num_waiting,
    "Blocks in use": `${Math.round(stats.kv_usage * state.num_blocks)} / ${state.num_blocks}`,
    "Tokens a second": Math.round(rates.at(-1) ?? 0),
    "Prefix hits": `${hits.toFixed(0)}%`,
    Preemptions: stats.num_preemptions,
  };
  find("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => figure(name, value)));
}

function figure(name, value) {
  const box = document.createElement("div");
  const term = Object.assign(document.createElement("dt"), { textContent: name });
  const text = Object.assign(document.createElement("dd"), { textContent: value });
  text.id = `figure-${name.toLowerCase().replaceAll(" ", "-")}`;
  box.append(term, text);
  return box;
}

// Draws a line of the last minute, now at its right; `unit` is for those who cannot see it.
function drawLine(id, values, unit) {
  const canvas = find(id);
  const context = fit(canvas);
  const most = Math.max(1, ...values.filter((value) => value !== null));
  const edge = 2 * (window.devicePixelRatio || 1);
  const place = (value, index) => ({
    x: ((KEEP - values.length + index) / (KEEP - 1)) * (canvas.width - edge),
    y: canvas.height - edge - (value / most) * (canvas.height - 2 * edge),
  });
  context.strokeStyle = context.fillStyle = style("--accent");
  context.lineWidth = edge;
  context.lineJoin = "round";
  for (const stretch of stretches(values.map((value, index) => (value === null ? null : place(value, index))))) {
    drawStretch(context, stretch, canvas.height);
  }
  const now = values.at(-1) ?? null;
  find(`${id}-now`).textContent = now === null ? "–" : now.toLocaleString(undefined, { maximumFractionDigits: now < 10 ? 1 : 0 });
  canvas.setAttribute("aria-label", `${now === null ? "no" : Math.round(now)} ${unit} now, at most ${Math.round(most)}`);
}

// Parts points at the gaps between them, which are null.
function stretches(points) {
  const found = [[]];
  for (const point of points) {
    if (point !== null) found.at(-1).push(point);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((stretch) => stretch.length);
}

function drawStretch(context, points, ground) {
  const path = new Path2D();
  points.forEach(({ x, y }) => path.lineTo(x, y));
  context.globalAlpha = 1;
  context.stroke(path);
  path.lineTo(points.at(-1).x, ground);
  path.lineTo(points[0].x, ground);
  context.globalAlpha = 0.12;
  context.fill(path);
}
