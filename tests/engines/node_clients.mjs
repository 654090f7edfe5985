// Asks by a client for Node.js, one request after the other, and prints what it made of each stream.
//
//     node --input-type=module - < node_clients.mjs CLIENT BASE_URL HEARD_URL ASKED MODEL...
//
// CLIENT is openai, anthropic or ai; ASKED is "usage" when usage is asked for. Read from its standard input, so that the
// packages are those of the current folder. HEARD_URL is fetched when what two whole events make is there: as many as come
// before a break. Prints one JSON list: {objects, error} for each model.

const [client, baseURL, heardURL, asked, ...models] = process.argv.slice(2);
const messages = [{ role: "user", content: "a" }];

const clients = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const sdk = new OpenAI({ baseURL, apiKey: "k", maxRetries: 0 });
    const options = asked === "usage" ? { stream_options: { include_usage: true } } : {};
    return (model) => sdk.chat.completions.create({ model, messages, stream: true, max_tokens: 9, ...options });
  },
  async anthropic() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const sdk = new Anthropic({ baseURL, apiKey: "k", maxRetries: 0 });
    return (model) => sdk.messages.create({ model, messages, stream: true, max_tokens: 9 });
  },
  async ai() {
    const { streamText } = await import("ai");
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const provider = createOpenAICompatible({ name: "l", baseURL, apiKey: "k", includeUsage: asked === "usage" });
    const onError = () => {}; // it would print what is in the stream anyway
    return (model) => streamText({ model: provider(model), prompt: "a", maxOutputTokens: 9, maxRetries: 0, onError }).fullStream;
  },
};

// An error in its own words. Its cause is what a break looked like to the socket: a reset, or an end too early.
const told = (error) => [error.constructor.name, error.message, error.status ?? null, error.code ?? null];

// Everything but times, ids that a client makes up and headers, which are another test's.
const plain = (part) =>
  JSON.parse(JSON.stringify(part, (key, value) => {
    if (value instanceof Error) return told(value);
    if (["headers", "timestamp", "performance"].includes(key) || String(value).startsWith("aitxt-")) return undefined;
    return value;
  }));

const ask = await clients[client]();
const all = [];
for (const model of models) {
  const found = { objects: [], error: null };
  let heard = false;
  try {
    for await (const part of await ask(model)) {
      found.objects.push(plain(part));
      // the first of the two events holds no text, and the AI SDK has parts of its own before it
      if (!heard && (client === "ai" ? part.type === "text-delta" : found.objects.length === 2)) {
        heard = true;
        await (await fetch(heardURL)).text();
      }
    }
  } catch (error) {
    found.error = told(error);
  }
  all.push(found);
}
console.log(JSON.stringify(all));
