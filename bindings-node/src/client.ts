// The client: discover, submit, chat.

import { failure, fromThrown } from "./errors.js";
import {
  type Chat,
  CHAT_NAMES,
  CLIENT_NAMES,
  type ClientOptions,
  Code,
  type Discover,
  DISCOVER_NAMES,
  TASK_NAMES,
  type TaskOptions,
} from "./generated.js";
import { type Options, camelKeys, encode, optionsJson } from "./json.js";
import { type CallOptions, engine, settled, start } from "./loop.js";
import { native } from "./native.js";

const CLIENT: Options = { what: "a client", names: CLIENT_NAMES };
const DISCOVER: Options = { what: "a discovery", names: DISCOVER_NAMES };
const TASK: Options = { what: "a task", names: TASK_NAMES, except: "payload" };
const CHAT: Options = { what: "a chat", names: CHAT_NAMES };

/** A task: its options and its payload. */
export interface Task extends TaskOptions {
  /** Any value that has a JSON form. A `Uint8Array` is taken as JSON text and passed on as it is. */
  payload: unknown;
}

/** Where the time of a submit went, in milliseconds. */
export interface TimingsMs {
  /** Asking the directory; zero if a known route was used. */
  discover: number;
  /** From the first byte of the submit to its result. */
  total: number;
}

/** A finished task. */
export interface TaskResult<R = unknown> {
  /** Id of the task. */
  taskId: string;
  /** Id of the node that ran it. */
  nodeId: string;
  /** How often the task was sent, at least once. */
  attempts: number;
  /** The trace that all calls of this submit carried. */
  traceparent: string;
  /** Where the time went. */
  timingsMs: TimingsMs;
  /** What the handler returned. */
  result: R;
}

/** Tokens that a chat used, as the provider counted them. */
export interface Usage {
  /** Tokens of the messages. */
  promptTokens: number;
  /** Tokens of the answer. */
  completionTokens: number;
  /** Both together. */
  totalTokens: number;
}

/** The answer to a chat; `result` is the provider's whole reply. */
export interface ChatReply extends TaskResult {
  /** The text of the answer. */
  text: string;
  /** Tokens used, if the provider counted them. */
  usage: Usage | null;
  /** The model that answered, if the provider says. */
  model: string | null;
}

/** A provider as the directory describes it. */
export interface NodeInfo {
  /** Id of the node. */
  nodeId: string;
  /** Base URL of the node. */
  endpoint: string;
  /** The directory's score, 0 to 1; 0 if it gave none. */
  score: number;
  /** Whether the directory calls the node available. */
  available: boolean;
  /** Region of the node. */
  region: string | null;
  /** Models that the node serves. */
  models: string[];
  /** Share of the node's slots in use, 0 to 1. */
  load: number | null;
  /** Reputation of the node, 0 to 1. */
  reputationScore: number | null;
  /** The key to seal tasks to, as the directory shows it. */
  cxPublicKey: unknown;
}

interface CoreTask {
  task_id: string;
  node_id: string;
  attempts: number;
  traceparent: string;
  timings_ms: TimingsMs;
}

interface CoreChat extends CoreTask {
  text: string;
  usage: object | null;
  model: string | null;
}

/** A client that was forgotten without `close`. */
const forgotten = new FinalizationRegistry<string>((client) => {
  try {
    native().clientClose(client);
  } catch {
    // Gone with its engine.
  }
});

/** Finds nodes and sends them tasks. Cheap to keep and made to be shared; an idle one keeps no process alive. */
export class Client {
  readonly #id: string;
  #closed: Promise<void> | undefined;

  /** Nothing is sent before the first call. */
  constructor(options: ClientOptions = {}) {
    const json = optionsJson(CLIENT, options);
    try {
      this.#id = engine().native.clientNew(json);
    } catch (thrown) {
      throw fromThrown(thrown);
    }
    forgotten.register(this, this.#id, this);
  }

  /** Asks the directory for nodes, best first. */
  discover(query: Discover, call?: CallOptions): Promise<NodeInfo[]> {
    return start<NodeInfo[]>(
      {
        entry: this.discover,
        owner: this,
        start: (native, queue, tag) =>
          native.discover(this.#open(), queue, optionsJson(DISCOVER, query), tag),
        read: readNodes,
      },
      call,
    );
  }

  /** Sends a task to the best node that serves its intent, and returns what that node's handler returned. */
  submit<R = unknown>(task: Task, call?: CallOptions): Promise<TaskResult<R>> {
    return start<TaskResult<R>>(
      {
        entry: this.submit,
        owner: this,
        start: (native, queue, tag) => {
          const json = optionsJson(TASK, task);
          const payload = encode(task.payload, "the payload", Code.PAYLOAD_INVALID);
          return native.submit(this.#open(), queue, json, payload, tag);
        },
        read: readTask<R>,
      },
      call,
    );
  }

  /** Chats with a language model of the mesh: one user message, or a whole conversation. */
  chat(chat: string | Chat, call?: CallOptions): Promise<ChatReply> {
    return start<ChatReply>(
      {
        entry: this.chat,
        owner: this,
        start: (native, queue, tag) => {
          const options: Chat = typeof chat === "string" ? { messages: [{ role: "user", content: chat }] } : chat;
          return native.chat(this.#open(), queue, optionsJson(CHAT, options), tag);
        },
        read: readChat,
      },
      call,
    );
  }

  /** Closes the client. What it is doing ends with `CLOSED`; resolved when all of it has ended. */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      forgotten.unregister(this);
      try {
        native().clientClose(this.#id);
      } catch {
        // Gone with its engine.
      }
      this.#closed = settled(this);
    }
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #open(): string {
    if (this.#closed !== undefined) throw failure(Code.CLOSED, "the client was closed; make a new one");
    return this.#id;
  }
}

function readNodes(nodes: object[]): NodeInfo[] {
  return nodes.map((node) => camelKeys(node) as NodeInfo);
}

function readTask<R>(task: CoreTask, body: unknown): TaskResult<R> {
  return {
    taskId: task.task_id,
    nodeId: task.node_id,
    attempts: task.attempts,
    traceparent: task.traceparent,
    timingsMs: task.timings_ms,
    result: body as R,
  };
}

function readChat(chat: CoreChat, body: unknown): ChatReply {
  const usage = chat.usage && (camelKeys(chat.usage) as Usage);
  return { ...readTask(chat, body), text: chat.text, usage, model: chat.model };
}
