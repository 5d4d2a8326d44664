// What serves: the backend's facts, and whose kernel computes each op.

const find = (id) => document.getElementById(id);

export async function showEngine() {
  const response = await fetch("page/engine/info");
  const info = await response.json();
  if (!response.ok) throw new Error(info.error.message);
  const facts = {
    Backend: info.backend,
    Device: info.device,
    "Data type": info.dtype,
    "KV cache": `${info.num_blocks.toLocaleString()} blocks of ${info.block_size} tokens, ${info.kv_dtype}`,
    "Prefix cache": info.prefix_caching ? "on" : "off",
    "Requests at once": info.max_num_seqs,
  };
  find("engine").replaceChildren(...Object.entries(facts).map(([name, value]) => fact(name, value)));
  const rows = info.kernels.map((each) => row([each.op, each.dtype, each.provider, each.passed_over.join("; ")]));
  find("kernels").replaceChildren(...(rows.length ? rows : [row(["none: this backend brings an executor of its own"])]));
}

function fact(name, value) {
  const box = document.createElement("div");
  box.append(
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: value }),
  );
  return box;
}

function row(texts) {
  const made = document.createElement("tr");
  made.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  if (texts.length === 1) made.firstChild.colSpan = 4;
  return made;
}
