// The KV cache as a grid. A block has the colour of its request and is filled from below as tokens come; what a request
// leaves in the cache keeps a trace of its colour; blocks that several own are striped with all their colours.

import { colour } from "./lanes.js";

const CHANGE_MS = 600; // how long a block takes from one look to the next
const STRIPES = 4; // colours that a shared block shows at most
const LEAST_SHOWN = 256;
const isCalm = window.matchMedia("(prefers-reduced-motion: reduce)");
const canvas = document.getElementById("blocks");
const blockNote = document.getElementById("block-note");
const cells = []; // by block: { look, before, since, flash, owners, level }
let grid = { count: 0, columns: 1, side: 1, gap: 0 };
let chosen = null; // the request whose blocks stand out
let isDrawing = false;

export function fit(element) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(element.clientWidth * scale);
  const height = Math.round(element.clientHeight * scale);
  if (element.width !== width || element.height !== height) Object.assign(element, { width, height });
  const context = element.getContext("2d");
  context.clearRect(0, 0, width, height);
  return context;
}

export const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Lets a request's blocks stand out, or all again with null.
export function choose(requestId) {
  chosen = requestId;
  draw();
}

export function showBlocks(state) {
  while (cells.length < state.num_blocks) cells.push({ kind: "free", colours: [], level: 0, since: -Infinity, flash: 0 });
  const owned = findOwners(state);
  const cached = new Set(state.cached_blocks.map((block) => block - state.first_block));
  const now = performance.now();
  cells.forEach((cell, index) => update(cell, owned.get(index), cached.has(index), now));
  layOut(state, owned, cached);
  draw();
  const numShared = [...owned.values()].filter((owners) => owners.length > 1).length;
  canvas.setAttribute("aria-label", `${owned.size} of ${state.num_blocks} KV blocks are owned, ${numShared} shared`);
}

// Returns by block who owns it, and how much of it holds tokens.
function findOwners(state) {
  const owned = new Map();
  const size = state.engine.block_size;
  for (const request of state.running) {
    request.block_ids.forEach((block, place) => {
      const level = Math.min(1, Math.max(0, (request.num_computed_tokens - place * size) / size));
      const owners = owned.get(block - state.first_block) ?? [];
      owners.push({ id: request.request_id, level, isHit: (place + 1) * size <= request.num_cached_tokens });
      owned.set(block - state.first_block, owners);
    });
  }
  return owned;
}

function update(cell, owners, isCached, now) {
  const kind = owners ? "owned" : isCached ? "cached" : "free";
  const ids = owners?.map((owner) => owner.id) ?? [];
  if (kind !== cell.kind || ids.join() !== (cell.ids ?? []).join()) {
    cell.before = { kind: cell.kind, colours: cell.colours, level: cell.level };
    cell.since = now;
    cell.isHit = owners?.some((owner) => owner.isHit) ?? false;
  }
  cell.kind = kind;
  cell.ids = ids;
  if (owners) cell.colours = ids.slice(0, STRIPES).map(colour);
  if (kind === "free") cell.colours = [];
  cell.level = owners ? Math.max(...owners.map((owner) => owner.level)) : 1;
}

// A large cache is shown as far as it has been used: up to a power of two.
function layOut(state, owned, cached) {
  const last = Math.max(-1, ...owned.keys(), ...cached);
  let count = Math.max(LEAST_SHOWN, grid.count);
  while (count < last + 1) count *= 2;
  count = Math.min(count, state.num_blocks);
  const context = fit(canvas);
  const { width, height } = context.canvas;
  let side = Math.max(1, Math.floor(Math.sqrt((width * height) / count)));
  while (side > 1 && Math.floor(width / side) * Math.floor(height / side) < count) side -= 1;
  grid = { count, columns: Math.floor(width / side), side, gap: side > 12 ? 2 : side > 3 ? 1 : 0 };
  const rest = state.num_blocks - count;
  document.getElementById("blocks-rest").textContent = rest ? `, and ${rest.toLocaleString()} more that are free` : "";
}

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(drawFrame);
}

function drawFrame(now) {
  isDrawing = false;
  const context = fit(canvas);
  const paint = { free: style("--free"), cached: style("--cached"), shared: style("--shared") };
  let isMoving = false;
  for (let index = 0; index < grid.count; index += 1) {
    const cell = cells[index];
    const share = isCalm.matches ? 1 : Math.min(1, (now - cell.since) / CHANGE_MS);
    if (share < 1) isMoving = true;
    drawCell(context, index, cell, share, paint);
  }
  context.globalAlpha = 1;
  if (isMoving) draw();
}

function drawCell(context, index, cell, share, paint) {
  const side = grid.side - grid.gap;
  const x = (index % grid.columns) * grid.side;
  const y = Math.floor(index / grid.columns) * grid.side;
  const isDim = chosen !== null && !cell.ids?.includes(chosen);
  const strength = isDim ? 0.25 : 1;
  const box = { x, y, side };
  fillBox(context, box, 0, side, paint.free, 1);
  if (share < 1 && cell.before) drawLook(context, box, cell.before, (1 - share) * strength, paint);
  drawLook(context, box, cell, share * strength, paint);
  if (share < 1 && cell.kind === "owned" && side > 3) {
    context.globalAlpha = (1 - share) * strength; // newly owned: it lights up, and one found in the cache is framed
    if (cell.isHit) frame(context, box, paint.shared);
    else fillBox(context, box, 0, side, "#fff", (1 - share) * 0.5 * strength);
  }
}

function drawLook(context, box, look, strength, paint) {
  if (look.kind === "free") return;
  if (look.kind === "cached") {
    fillBox(context, box, 0, box.side, paint.cached, strength);
    if (look.colours.length) fillBox(context, box, 0, box.side, look.colours[0], 0.3 * strength);
    return;
  }
  const width = box.side / look.colours.length;
  look.colours.forEach((each, number) => {
    fillBox(context, box, number * width, width, each, 0.35 * strength);
    fillBox(context, box, number * width, width, each, strength, look.level);
  });
  if (look.colours.length > 1 && box.side > 5) {
    context.globalAlpha = strength;
    frame(context, box, paint.shared);
  }
}

// Fills a part of a cell from its bottom up to `level`.
function fillBox(context, box, left, width, paint, strength, level = 1) {
  context.globalAlpha = strength;
  context.fillStyle = paint;
  const height = box.side * level;
  context.fillRect(box.x + left, box.y + box.side - height, width, height);
}

function frame(context, box, paint) {
  context.strokeStyle = paint;
  context.lineWidth = Math.max(1, box.side / 9);
  const inset = context.lineWidth / 2;
  context.strokeRect(box.x + inset, box.y + inset, box.side - 2 * inset, box.side - 2 * inset);
}

function tell(event) {
  const scale = canvas.width / canvas.clientWidth;
  const column = Math.floor((event.offsetX * scale) / grid.side);
  const index = Math.floor((event.offsetY * scale) / grid.side) * grid.columns + column;
  const cell = column < grid.columns && index < grid.count ? cells[index] : undefined;
  const words = { free: "free", cached: "free, content can be found again", owned: cell?.ids?.join(" and ") };
  blockNote.textContent = cell ? `block ${index + 1}: ${words[cell.kind]}` : "";
  const [only] = cell?.ids ?? [];
  choose(only ?? null);
}

canvas.addEventListener("pointermove", tell);
canvas.addEventListener("pointerleave", () => {
  blockNote.textContent = "";
  choose(null);
});
