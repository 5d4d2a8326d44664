// The live view: asks for the engine's state while the page is visible, and draws it.

const EVERY_MS = 250;
const KEEP = 240; // points of the rate's line: a minute
const find = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rates = [];
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
    `${state.model} on ${engine.backend} (${engine.device}), context ${engine.max_model_len.toLocaleString()} tokens`;
  noteRate(state.stats);
  showFigures(state);
  drawBlocks(state);
  drawRate();
  showRequests(state);
}

function noteRate(stats) {
  const now = performance.now();
  if (before) rates.push((1000 * (stats.num_scheduled_tokens - before.tokens)) / (now - before.time));
  if (rates.length > KEEP) rates.shift();
  before = { tokens: stats.num_scheduled_tokens, time: now };
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

// Neighbouring requests get colours far apart on the wheel.
function colour(requestId) {
  let hash = 0;
  for (const letter of requestId) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return `hsl(${(hash * 137.5) % 360} 65% 52%)`;
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

function drawRate() {
  const canvas = find("rate");
  const context = fit(canvas);
  const most = Math.max(1, ...rates);
  context.strokeStyle = style("--accent");
  context.lineWidth = 2;
  context.beginPath();
  rates.forEach((rate, index) => {
    context.lineTo((index / (KEEP - 1)) * canvas.width, canvas.height * (1 - (0.95 * rate) / most) - 1);
  });
  context.stroke();
  canvas.setAttribute("aria-label", `${Math.round(rates.at(-1) ?? 0)} tokens a second, at most ${Math.round(most)}`);
}

function showRequests(state) {
  const items = state.running.slice(0, 24).map((request) => {
    const item = document.createElement("li");
    const mark = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const context = mark.getContext("2d");
    context.fillStyle = colour(request.request_id);
    context.fillRect(0, 0, 1, 1);
    const text = document.createElement("span");
    text.textContent =
      `${request.request_id}: ${request.num_computed_tokens} of ${request.num_tokens} tokens computed, ` +
      `${request.num_cached_tokens} from the cache, ${request.block_ids.length} blocks`;
    item.append(mark, text);
    return item;
  });
  const waiting = Object.assign(document.createElement("li"), { textContent: `${state.stats.num_waiting} waiting` });
  find("requests").replaceChildren(...items, waiting);
}
