// OpenAI's own client for Node against a server: what is asked for on the command line is done, and told as JSON.
//
// node node_client.cjs BASE_URL TASK
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const patient = { maxRetries: 2 };
const once = { maxRetries: 0 };
const messages = [{ role: "user", content: "hello" }];
const short = { model: "demo", max_tokens: 6, temperature: 0 };

async function join(stream, text) {
  let whole = "";
  for await (const chunk of stream) whole += text(chunk.choices[0]) ?? "";
  return whole;
}

async function failure(work) {
  try {
    await work;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const tasks = {
  async completions() {
    const asked = { ...short, prompt: "import os\n" };
    const whole = await client.completions.create(asked, once);
    const streamed = await join(await client.completions.create({ ...asked, stream: true }, once), (item) => item.text);
    return { whole: whole.choices[0].text, streamed, usage: whole.usage };
  },
  async chat() {
    const asked = { ...short, messages };
    const whole = await client.chat.completions.create(asked, once);
    const stream = await client.chat.completions.create({ ...asked, stream: true }, once);
    return { whole: whole.choices[0].message.content, streamed: await join(stream, (item) => item.delta.content) };
  },
  async logprobs() {
    const answer = await client.chat.completions.create({ ...short, messages, logprobs: true, top_logprobs: 2 }, once);
    return { text: answer.choices[0].message.content, entries: answer.choices[0].logprobs.content };
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "demo", input: ["hello", "other"] }, once);
    return answer.data.map((item) => item.embedding.reduce((sum, x) => sum + x * x, 0));
  },
  async responses() {
    const answer = await client.responses.create({ model: "demo", input: "hello", max_output_tokens: 6 }, once);
    return { text: answer.output_text, status: answer.status };
  },
  async models() {
    const names = [];
    for await (const model of client.models.list(once)) names.push(model.id);
    return names;
  },
  async errors() {
    return {
      value: await failure(client.chat.completions.create({ ...short, messages, temperature: -1 }, once)),
      model: await failure(client.chat.completions.create({ ...short, messages, model: "gpt-4" }, once)),
    };
  },
  async stop() {
    const stream = await client.completions.create({ ...short, prompt: "a", max_tokens: 1500, stream: true }, once);
    for await (const chunk of stream) break; // leaving the loop ends the request
    return "left";
  },
  async retry() {
    const answer = await client.chat.completions.create({ ...short, messages }, patient);
    return answer.choices.length;
  },
};

tasks[process.argv[3]]().then(
  (told) => console.log(JSON.stringify(told)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
