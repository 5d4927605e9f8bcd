// A node that runs a language model, with its directory: `node gemma.js MODEL.gguf`. Ctrl-C drains and leaves.

import { CHAT, Directory, type HandlerContext, type Inbound, RejectedError, Reply, serve } from "@iicp/core";
import { LlamaCompletion, getLlama } from "node-llama-cpp";

const [modelPath] = process.argv.slice(2);
if (modelPath === undefined) throw new Error("usage: node gemma.js MODEL.gguf");

const atOnce = 4;
// A model of this size needs no more than one thread.
const llama = await getLlama({ build: "never", gpu: false, maxThreads: 1 });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: 1024, sequences: atOnce });

interface Asked {
  messages: { content: unknown }[];
  max_tokens?: number;
}

async function answer({ payload }: Inbound<Asked>, { signal }: HandlerContext): Promise<Reply> {
  const question = payload.messages.at(-1)?.content;
  if (typeof question !== "string") throw new RejectedError("the last message of the chat has no text");
  // Gemma 3 270M was never taught to chat, so an example shows it what is wanted.
  const prompt = `Question: What is the capital of Italy?\nAnswer: Rome.\n\nQuestion: ${question}\nAnswer:`;
  const contextSequence = context.getSequence();
  try {
    const text = await new LlamaCompletion({ contextSequence }).generateCompletion(prompt, {
      maxTokens: payload.max_tokens ?? 64,
      temperature: 0,
      customStopTriggers: ["\n"],
      signal, // the model stops when nobody waits any more
    });
    return Reply.chat(text.trim(), { tokensUsed: contextSequence.nextTokenIndex });
  } finally {
    contextSequence.dispose();
  }
}

const mesh = await Directory.loopback({ port: Number(process.env["PORT"] ?? 9480) });
const options = { intents: [CHAT], models: ["gemma-3-270m"], directory: mesh.url, maxConcurrent: atOnce };
const node = await serve(options, answer);
console.log(`node ${node.nodeId} serves gemma-3-270m; directory: ${mesh.url}`);

process.once("SIGINT", async () => {
  await node.close();
  await mesh.close();
  await llama.dispose();
});
