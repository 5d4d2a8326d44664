// The live view: asks for the engine's state while the page is visible, and draws it.

import { colour } from "./lanes.js";

const EVERY_MS = 250;
const KEEP = 240; // points of the rate's line: a minute
const find = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
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
  drawBlocks(state);
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

function fit(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return context;
}

function drawBlocks(state) {
  const canvas = find("blocks");
  const context = fit(canvas);
  const { width, height } = canvas;
  let cell = Math.max(1, Math.floor(Math.sqrt((width * height) / state.num_blocks)));
  while (cell > 1 && Math.floor(width / cell) * Math.floor(height / cell) < state.num_blocks) cell -= 1;
  const columns = Math.floor(width / cell);
  const gap = cell > 3 ? 1 : 0;
  const fill = (block, style) => {
    const index = block - state.first_block;
    context.fillStyle = style;
    context.fillRect((index % columns) * cell, Math.floor(index / columns) * cell, cell - gap, cell - gap);
  };
  const free = style("--free");
  for (let index = 0; index < state.num_blocks; index += 1) fill(index + state.first_block, free);
  const cached = style("--cached");
  for (const block of state.cached_blocks) fill(block, cached);
  const owners = new Map();
  for (const request of state.running) {
    const paint = colour(request.request_id);
    for (const block of request.block_ids) {
      fill(block, paint);
      owners.set(block, (owners.get(block) ?? 0) + 1);
    }
  }
  context.strokeStyle = style("--shared");
  context.lineWidth = Math.max(1, cell / 6);
  let numShared = 0;
  for (const [block, count] of owners) {
    if (count < 2) continue;
    numShared += 1;
    const index = block - state.first_block;
    const inset = context.lineWidth / 2;
    const side = cell - gap - context.lineWidth;
    context.strokeRect((index % columns) * cell + inset, Math.floor(index / columns) * cell + inset, side, side);
  }
  canvas.setAttribute("aria-label", `${owners.size} of ${state.num_blocks} KV blocks are owned, ${numShared} shared`);
}

// Draws a line of the last minute; `unit` is for those who cannot see it.
function drawLine(id, values, unit) {
  const canvas = find(id);
  const context = fit(canvas);
  const shown = values.filter((value) => value !== null);
  const most = Math.max(1, ...shown);
  context.strokeStyle = style("--accent");
  context.lineWidth = 2 * (window.devicePixelRatio || 1);
  context.lineJoin = "round";
  context.beginPath();
  let isDown = false;
  values.forEach((value, index) => {
    const x = (index / (KEEP - 1)) * canvas.width;
    if (value !== null) context[isDown ? "lineTo" : "moveTo"](x, canvas.height * (1 - (0.9 * value) / most) - 2);
    isDown = value !== null;
  });
  context.stroke();
  const now = values.at(-1) ?? null;
  find(`${id}-now`).textContent = now === null ? "–" : now.toLocaleString(undefined, { maximumFractionDigits: now < 10 ? 1 : 0 });
  canvas.setAttribute("aria-label", `${now === null ? "no" : Math.round(now)} ${unit} now, at most ${Math.round(most)}`);
}
