// Serving: a handler of yours behind the engine's node.

import { Context } from "./context.js";
import { RejectedError, failure, fromThrown } from "./errors.js";
import { type BackendOptions, Code, NODE_NAMES, type NodeOptions } from "./generated.js";
import { type CloseOptions, type Options, camelKeys, encode, graceOf, onlyKnown, optionsJson } from "./json.js";
import { type Server, quietly, recruit, start } from "./loop.js";
import { native } from "./native.js";
import { Chunk } from "./stream.js";
import { type Written, Yielding, valuesOf } from "./yielding.js";

const OPTIONS: Options = { what: "a node", names: NODE_NAMES };

/** Grace of a close that names none, in milliseconds. */
const GRACE_MS = 10_000;

/** What is known of a caller. */
export interface Caller {
  /** Address of the connection. */
  readonly peer: string;
  /** The node that the caller says it is. Nothing proves it. */
  readonly sourceNodeId: string | null;
  /** Whether the caller has shown a good consumer token, or a token of this node. */
  readonly verified: boolean;
  /** The node that the caller is, by the word of the directory that signed its consumer token. */
  readonly verifiedNodeId: string | null;
}

/** A task as the handler sees it. */
export interface Inbound<P = unknown> {
  /** Id of the task, as the caller chose it. */
  readonly taskId: string;
  /** The intent, one of those that the node serves. */
  readonly intent: string;
  /** The caller's payload. */
  readonly payload: P;
  /** Quality of service that the caller asked for. */
  readonly qos: string;
  /** How the task stands among others of its class: `critical`, `high`, `normal` or `low`. */
  readonly priority: string;
  /** The model that the caller asked for outside of the payload. */
  readonly model: string | null;
  /** Most tokens of the answer, as the caller asked outside of the payload. */
  readonly maxTokens: number | null;
  /** Milliseconds that were left of the task's time when it came in. */
  readonly deadlineMs: number;
  /** The caller's W3C trace context, if it sent one. */
  readonly traceparent: string | null;
  /** What the systems on the way wrote beside it (W3C `tracestate`), as it came. */
  readonly tracestate: string | null;
  /** Whether the caller takes what a generator yields as it comes; for others it is put together. */
  readonly takesEvents: boolean;
  /** What is known of the caller. */
  readonly caller: Caller;
  /** Id of the node that serves it. */
  readonly nodeId: string;
}

/** What a handler is given besides the task. */
export interface HandlerContext {
  /** Fires when the caller went away, the deadline passed or the node stops: nobody waits for the answer any more. */
  readonly signal: AbortSignal;
}

/**
 * Serves tasks: returns a value that has a JSON form, or a `Reply`, or a promise of one. What it throws is answered as a
 * failure without its message, because the message may hold what the caller must not see; `RejectedError` is the
 * exception, made to be shown.
 *
 * A generator function, `async` or not, gives its caller part by part what it yields: a text is what a chat says next, any
 * other value with a JSON form or a `Chunk` a part as it is. It is told to return when its caller leaves, and waits for a
 * slow one.
 */
export type Handler<P = unknown> = (task: Inbound<P>, context: HandlerContext) => unknown;

/** What `serve` may be given besides the node's options. */
export interface ServeOptions {
  /** Told what the caller is not: a handler's failure, or a value of it that is no reply. By default `console.error`. */
  onError?: ((error: unknown, task: Inbound) => void) | undefined;
}

/** How a node is. */
export interface NodeStatus {
  /** Id of the node. */
  nodeId: string;
  /** URL under which callers reach it. */
  url: string;
  /** Whether the directory knows it. */
  registered: boolean;
  /** Tasks that run. */
  activeJobs: number;
  /** How many may run now: fewer than `maxConcurrent` where `availability` says so. */
  effectiveMaxConcurrent: number;
  /** The models that the directory knows of. */
  models: string[];
  /** `degraded`: it works, but slowly or nobody knows how; `draining`: it takes no tasks. */
  backendState: "ok" | "degraded" | "draining";
  /** Why. */
  backendReason: "ok" | "backend_cold" | "backend_loading" | "backend_unstable" | "observer_error";
}

/** What was tried on a rung of the ladder by which a node is reached. */
export interface NatRung {
  /** Which one. */
  rung: "direct_ipv4" | "pcp" | "nat_pmp" | "upnp" | "direct_ipv6" | "ipv6_pinhole" | "quick_tunnel" | "relay";
  /** What became of it. */
  state: "not_tried" | "failed" | "reached";
  /** What was done and what came back. */
  lines: string[];
  /** What to do about it, if there is anything. */
  fix: string | null;
}

/** How a node can be reached from outside: what was tried, what came back, what to do about it. */
export interface NatReport {
  /** The same for people. */
  text: string;
  /** The rung that the node is reached by; null if nobody reaches it, or if the ladder was not asked. */
  reachedBy: NatRung["rung"] | null;
  /** The URL that is advertised for it. */
  endpoint: string | null;
  /** Addresses of this machine; a temporary one will be replaced by and by. */
  interfaces: { name: string; address: string; public: boolean; temporary: boolean; vpn: boolean }[];
  /** The gateways that lead outside. */
  gateways: string[];
  /** By what a container was recognised, if this is one. */
  container: string | null;
  /** The address that a gateway says it has outside. */
  wanAddress: string | null;
  /** Whether there is another NAT behind the gateway. */
  doubleNat: boolean;
  /** What was tried, in the order of preference. */
  rungs: NatRung[];
  /** How long the last climb took, in milliseconds. */
  tookMs: number;
  /** How often the ladder was climbed. */
  climbs: number;
}

/** A handler's answer with what there is to say about it. */
export class Reply {
  private constructor(
    readonly value: unknown,
    readonly tokensUsed: number,
  ) {}

  /** A value, and how many tokens it took, for the metrics. */
  static json(value: unknown, about: { tokensUsed?: number } = {}): Reply {
    return new Reply(value, about.tokensUsed ?? 0);
  }

  /** The answer to a chat, in the form that chat clients read. */
  static chat(text: string, about: { tokensUsed?: number } = {}): Reply {
    const message = { role: "assistant", content: text };
    return Reply.json({ choices: [{ index: 0, message, finish_reason: "stop" }] }, about);
  }
}

interface CoreTask {
  task_id: string;
  intent: string;
  qos: string;
  priority: string;
  model: string | null;
  max_tokens: number | null;
  takes_events: boolean;
  deadline_ms: number;
  traceparent: string | null;
  tracestate: string | null;
  peer: string;
  source_node_id: string | null;
  verified: boolean;
  verified_node_id: string | null;
  node: string;
}

/** A task that runs. */
interface Run {
  context: Context;
  /** What it yields, if it comes in parts. */
  yielding?: Yielding;
}

/** The tasks of one node that run. */
class Desk implements Server {
  readonly #handler: Handler<never>;
  readonly #onError: (error: unknown, task: Inbound) => void;
  readonly #running = new Map<string, Run>();

  constructor(handler: Handler<never>, onError: ServeOptions["onError"]) {
    this.#handler = handler;
    this.#onError = onError ?? report;
  }

  onTask(id: string, about: CoreTask, payload: unknown): void {
    const task = {
      taskId: about.task_id,
      intent: about.intent,
      payload: payload as never,
      qos: about.qos,
      priority: about.priority,
      model: about.model,
      maxTokens: about.max_tokens,
      deadlineMs: about.deadline_ms,
      traceparent: about.traceparent,
      tracestate: about.tracestate,
      takesEvents: about.takes_events,
      caller: {
        peer: about.peer,
        sourceNodeId: about.source_node_id,
        verified: about.verified,
        verifiedNodeId: about.verified_node_id,
      },
      nodeId: about.node,
    };
    const context = new Context("the task");
    this.#running.set(id, { context });
    try {
      const answer = this.#handler(task, context);
      if (typeof (answer as PromiseLike<unknown> | null)?.then === "function") {
        (answer as PromiseLike<unknown>).then(
          (value) => this.#finish(id, value, task),
          (error: unknown) => this.#fail(id, error, task),
        );
      } else {
        this.#finish(id, answer, task);
      }
    } catch (error) {
      this.#fail(id, error, task);
    }
  }

  onCancel(id: string): void {
    const run = this.#running.get(id);
    this.#running.delete(id);
    run?.context.cancel();
    run?.yielding?.leave();
  }

  onRoom(id: string): void {
    this.#running.get(id)?.yielding?.room();
  }

  #finish(id: string, answer: unknown, task: Inbound): void {
    let reply: Written;
    try {
      const values = valuesOf(answer);
      if (values !== undefined) {
        this.#yield(id, new Yielding(id, values, yielded), task);
        return;
      }
      // Nobody waits any more.
      if (!this.#running.has(id)) return;
      reply = written(answer);
    } catch (error) {
      if (!this.#running.delete(id)) return;
      this.#answer(task, () => native().taskFail(id, Code.HANDLER, "the handler's reply was refused"));
      this.#tell(error, task);
      return;
    }
    this.#end(id, reply, task);
  }

  #yield(id: string, yielding: Yielding, task: Inbound): void {
    const run = this.#running.get(id);
    if (run === undefined) {
      yielding.leave();
      return;
    }
    run.yielding = yielding;
    yielding.run().then(
      (last) => last && this.#end(id, last, task),
      (error: unknown) => this.#fail(id, error, task),
    );
  }

  #end(id: string, { json, meta }: Written, task: Inbound): void {
    if (this.#running.delete(id)) this.#answer(task, () => native().taskFinish(id, meta, json));
  }

  #fail(id: string, error: unknown, task: Inbound): void {
    // A handler that obeyed its signal has not failed.
    if (!this.#running.delete(id)) return;
    if (error instanceof RejectedError) {
      this.#answer(task, () => native().taskFail(id, Code.TASK_REJECTED, error.message));
      return;
    }
    this.#answer(task, () => native().taskFail(id, Code.BACKEND, "the handler failed"));
    this.#tell(error, task);
  }

  #answer(task: Inbound, act: () => void): void {
    try {
      quietly(act);
    } catch (error) {
      this.#tell(error, task);
    }
  }

  #tell(error: unknown, task: Inbound): void {
    try {
      this.#onError(error, task);
    } catch (thrown) {
      // As any other exception that nobody awaits; the task has its answer already.
      queueMicrotask(() => {
        throw thrown;
      });
    }
  }
}

/** What a handler returned, as the core takes it. */
function written(value: unknown, what = "what the handler returned"): Written {
  let [said, tokensUsed] = [value, 0];
  if (value instanceof Reply) [said, tokensUsed] = [value.value, value.tokensUsed];
  if (value instanceof Chunk) [said, tokensUsed] = [value.result, value.tokensUsed ?? 0];
  return { json: encode(said, what, Code.HANDLER), meta: tokensUsed ? JSON.stringify({ tokens_used: tokensUsed }) : "" };
}

/** The same for what a generator yielded. */
function yielded(value: unknown): Written {
  return written(typeof value === "string" ? Chunk.delta(value) : value, "what the handler yielded");
}

/** A backend's tasks come to nobody here, but the node keeps the process alive. */
const BACKEND: Server = { onTask() {}, onCancel() {}, onRoom() {} };

function report(error: unknown, task: Inbound): void {
  console.error(`@iicp/core: the handler failed on task ${task.taskId}:`, error);
}

let made: (id: string, status: NodeStatus, retire: () => void) => Node;

/** A node that serves. It keeps the process alive until it is closed. */
export class Node {
  /** Id of the node. */
  readonly nodeId: string;
  /** URL under which callers reach it. */
  readonly url: string;
  readonly #id: string;
  readonly #retire: () => void;
  #closed: Promise<boolean> | undefined;

  static {
    made = (id, status, retire) => new Node(id, status, retire);
  }

  private constructor(id: string, status: NodeStatus, retire: () => void) {
    this.#id = id;
    this.#retire = retire;
    this.nodeId = status.nodeId;
    this.url = status.url;
  }

  /** How the node is now. */
  status(): NodeStatus {
    if (this.#closed !== undefined) throw failure(Code.CLOSED, "the node was closed; serve again");
    try {
      return readStatus(JSON.parse(native().nodeStatus(this.#id)) as object);
    } catch (thrown) {
      throw fromThrown(thrown);
    }
  }

  /** How the node can be reached from outside: what was tried, what came back, what to do about it. */
  natReport(): NatReport {
    if (this.#closed !== undefined) throw failure(Code.CLOSED, "the node was closed; serve again");
    try {
      return camelKeys(JSON.parse(native().nodeNatReport(this.#id)) as object) as NatReport;
    } catch (thrown) {
      throw fromThrown(thrown);
    }
  }

  /**
   * Leaves the directory and takes no new task; running ones have `graceMs` (by default 10,000) to end. True if all did.
   */
  async close(options: CloseOptions = {}): Promise<boolean> {
    const grace = graceOf(options, GRACE_MS);
    return await (this.#closed ??= start({
      entry: this.close,
      start: (native, queue, tag) => native.nodeClose(this.#id, queue, grace, tag),
      read: (ended: { in_time: boolean }) => ended.in_time,
    }).finally(this.#retire));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * Serves tasks with the inference server that `options.backend` names: they never come to JavaScript. Intents and models
 * are the backend's, unless the options name them. Resolved as with a handler.
 */
export async function serve(options: NodeOptions & { backend: BackendOptions }): Promise<Node>;
/** Serves tasks with `handler`; resolved when the node listens and has tried to register with its directory. */
export async function serve<P = unknown>(options: NodeOptions, handler: Handler<P>, more?: ServeOptions): Promise<Node>;
export async function serve(options: NodeOptions, handler?: Handler<never>, more: ServeOptions = {}): Promise<Node> {
  onlyKnown("the third argument of serve", more, "onError");
  if (!["function", "undefined"].includes(typeof handler) || !["function", "undefined"].includes(typeof more.onError)) {
    throw failure(Code.INVALID_ARG, "serve takes the node's options and a function that handles tasks; onError is one too");
  }
  if ((handler === undefined) === ((options?.backend ?? undefined) === undefined)) {
    const wrong = handler === undefined ? "nothing that serves" : "both a handler and a backend";
    throw failure(Code.INVALID_ARG, `the node has ${wrong}; give serve either a handler or the option backend`);
  }
  const { tag, retire } = recruit(handler === undefined ? BACKEND : new Desk(handler, more.onError));
  try {
    return await start({
      entry: serve,
      // Tasks carry the tag of the operation that began to serve.
      tag,
      start: (native, queue) => native.nodeServe(queue, optionsJson(OPTIONS, options), tag),
      read: (status: object, _body, id) => made(id, readStatus(status), retire),
    });
  } catch (error) {
    retire();
    throw error;
  }
}

function readStatus(status: object): NodeStatus {
  return camelKeys(status) as NodeStatus;
}
