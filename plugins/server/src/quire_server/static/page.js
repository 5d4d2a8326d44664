// The playground: sends prompts, shows tokens as they stream, stops when told to. The cache's view is in cache.js.

import { choose } from "./blocks.js";
import { watchCache } from "./cache.js";
import { showEngine } from "./engine.js";
import { onPointed, showLanes } from "./lanes.js";

const find = (id) => document.getElementById(id);
const output = find("output");
let conversation = [];
let running = null; // AbortController of the request under way
let model = null;

function body() {
  const seed = find("seed").value;
  const shared = {
    model,
    stream: true,
    temperature: Number(find("temperature").value),
    top_p: Number(find("top-p").value),
    max_tokens: Number(find("max-tokens").value),
    ...(seed === "" ? {} : { seed: Number(seed) }),
    stream_options: { include_usage: true },
  };
  const heat = find("heat").checked;
  if (find("mode").value === "chat") {
    return { ...shared, messages: conversation, ...(heat ? { logprobs: true, top_logprobs: 3 } : {}) };
  }
  return { ...shared, prompt: find("prompt").value, ...(heat ? { logprobs: 3 } : {}) };
}

function append(text, kind, title) {
  const span = document.createElement("span");
  span.textContent = text;
  if (kind) span.className = kind;
  if (title) span.title = title;
  output.append(span);
  output.scrollTop = output.scrollHeight;
  return span;
}

// Green is sure, red is a surprise.
function appendToken(text, logprob, best) {
  const probability = Math.exp(logprob);
  const lines = best.map(([token, value]) => `${JSON.stringify(token)} ${(100 * Math.exp(value)).toFixed(1)}%`);
  const span = append(text, "token", `${(100 * probability).toFixed(1)}%\n${lines.join("\n")}`);
  span.style.backgroundColor = `hsl(${Math.round(120 * probability)} 70% 75%)`;
}

function showChoice(choice) {
  const logprobs = choice.logprobs;
  if (logprobs?.content) {
    for (const item of logprobs.content) {
      appendToken(item.token, item.logprob, item.top_logprobs.map((each) => [each.token, each.logprob]));
    }
  } else if (logprobs?.tokens) {
    logprobs.tokens.forEach((token, index) => {
      appendToken(token, logprobs.token_logprobs[index], Object.entries(logprobs.top_logprobs[index]));
    });
  } else {
    append(choice.text ?? choice.delta?.content ?? "");
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.slice(part.indexOf("data: ") + 6);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function send() {
  const isChat = find("mode").value === "chat";
  const asked = find("prompt").value;
  if (isChat) conversation.push({ role: "user", content: asked });
  append((output.childNodes.length ? "\n\n" : "") + asked + (isChat ? "\n" : ""), "said");
  const started = performance.now();
  let first = null;
  let said = "";
  running = new AbortController();
  setRunning(true);
  try {
    const path = isChat ? "v1/chat/completions" : "v1/completions";
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body()), signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.choices.length) {
        first ??= performance.now() - started;
        said += event.choices[0].text ?? event.choices[0].delta?.content ?? "";
        showChoice(event.choices[0]);
      } else {
        tell(event.usage, first, performance.now() - started);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") find("note").textContent = "stopped";
    else append(`\n${error.message}`, "error");
  } finally {
    if (isChat) conversation.push({ role: "assistant", content: said });
    running = null;
    setRunning(false);
  }
}

function tell(usage, first, whole) {
  const rate = usage.completion_tokens > 1 ? (1000 * (usage.completion_tokens - 1)) / (whole - first) : 0;
  const cached = usage.prompt_tokens_details.cached_tokens;
  find("note").textContent =
    `${usage.prompt_tokens} prompt tokens (${cached} cached), ${usage.completion_tokens} new, ` +
    `first after ${Math.round(first)} ms, ${rate.toFixed(1)} a second`;
}

function setRunning(isRunning) {
  find("send").disabled = isRunning;
  find("stop").disabled = !isRunning;
  if (isRunning) find("note").textContent = "running";
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) send();
});
find("stop").addEventListener("click", () => running?.abort());
find("clear").addEventListener("click", () => {
  conversation = [];
  output.replaceChildren();
  find("note").textContent = "";
});
find("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("form").requestSubmit();
});

showEngine().catch((error) => (find("engine").textContent = error.message));
onPointed(choose);
watchCache((state) => {
  showLanes(state);
  if (model !== null) return;
  model = state.model;
  if (!state.has_chat) find("mode").querySelector("[value=chat]").disabled = true;
});
