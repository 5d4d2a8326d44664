// Requests as chips that move from lane to lane: waiting, running, done. A chip keeps its colour, which its blocks have.

const MOST = 24; // chips in a lane
const KEEP_DONE = 12;
const find = (id) => document.getElementById(id);
const chips = new Map(); // request id → { element, lane, started, text }
const hues = new Map(); // request id → its place among all that were seen
const isCalm = window.matchMedia("(prefers-reduced-motion: reduce)");
let numDone = 0;

// Each request that comes gets a colour far from those of the ones before it: by the golden angle, all equally bright.
export function colour(requestId) {
  if (!hues.has(requestId)) hues.set(requestId, hues.size);
  return `oklch(68% 0.15 ${(235 + hues.get(requestId) * 137.508) % 360})`;
}

// Calls back with a request's id while its chip is pointed at, and with null afterwards.
export function onPointed(callback) {
  for (const lane of ["waiting", "running", "done"]) {
    find(lane).addEventListener("pointerover", (event) => callback(event.target.closest("li")?.dataset.request ?? null));
    find(lane).addEventListener("pointerleave", () => callback(null));
  }
}

export function showLanes(state) {
  const seen = new Map();
  for (const [id, tokens] of Object.entries(state.waiting).slice(0, MOST)) seen.set(id, ["waiting", `${tokens} tokens`]);
  for (const request of state.running.slice(0, MOST)) seen.set(request.request_id, ["running", progress(request)]);
  for (const [id, chip] of chips) if (!seen.has(id) && chip.lane !== "done") finish(id, chip, state);
  for (const [id, [lane, text]] of seen) place(id, lane, text);
  forgetOldest();
  find("count-waiting").textContent = state.stats.num_waiting;
  find("count-running").textContent = state.stats.num_running;
  find("count-done").textContent = numDone;
}

function progress(request) {
  const cached = request.num_cached_tokens ? `, ${request.num_cached_tokens} from the cache` : "";
  return `${request.num_computed_tokens} tokens, ${request.block_ids.length} blocks${cached}`;
}

// A request that is not among those shown any more has ended, unless there are more than are shown.
function finish(id, chip, state) {
  const hidden = state.running.length > MOST || Object.keys(state.waiting).length > MOST;
  if (hidden) {
    chip.element.remove();
    chips.delete(id);
    return;
  }
  numDone += 1;
  place(id, "done", `${((performance.now() - chip.started) / 1000).toFixed(1)} s, ${chip.text}`);
}

function place(id, lane, text) {
  const chip = chips.get(id) ?? make(id);
  chip.element.lastChild.textContent = `${id}: ${text}`;
  chip.text = text.split(",")[0];
  if (chip.lane === lane) return;
  chip.lane = lane;
  move(chip.element, find(lane), lane === "done");
}

function make(id) {
  const element = document.createElement("li");
  element.dataset.request = id;
  const mark = document.createElement("span");
  mark.className = "mark";
  mark.style.backgroundColor = colour(id);
  element.append(mark, document.createElement("span"));
  const chip = { element, lane: null, started: performance.now(), text: "" };
  chips.set(id, chip);
  return chip;
}

// Puts a chip into a lane and lets it glide there from where it was.
function move(element, lane, isFirst) {
  const from = element.isConnected ? element.getBoundingClientRect() : null;
  if (isFirst) lane.prepend(element);
  else lane.append(element);
  if (isCalm.matches || !element.animate) return;
  if (from === null) {
    element.animate([{ opacity: 0 }, { opacity: 1 }], 200);
    return;
  }
  const to = element.getBoundingClientRect();
  const way = `translate(${from.left - to.left}px, ${from.top - to.top}px)`;
  element.animate([{ transform: way }, { transform: "none" }], { duration: 350, easing: "ease-out" });
}

function forgetOldest() {
  const done = [...chips].filter(([, chip]) => chip.lane === "done");
  for (const [id, chip] of done.slice(0, Math.max(0, done.length - KEEP_DONE))) {
    chip.element.remove();
    chips.delete(id);
  }
}
