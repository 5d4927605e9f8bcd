// The one queue of this environment: operations go out, events come in, and every event finds who waits for it.
//
// The addon only rings; everything is taken here, up to 256 events at a time, and what is left rings again. While an
// operation or a server is under way the process stays; an idle client keeps nothing alive.

import { type CallSite, type CoreError, failure, fromCore, fromThrown, noteCallSite } from "./errors.js";
import { Code, EventKind } from "./generated.js";
import { onlyKnown } from "./json.js";
import { type Native, native } from "./native.js";
import { type Ranker, Ranking } from "./ranker.js";

/** `[kind, tag, id, json, body, error]`, as the addon writes it. */
export type Event = [kind: number, tag: number, id: string, json: unknown, body: unknown, error: CoreError | null];

/** An operation that has not ended. */
interface Pending {
  done(event: Event): void;
  /** Kept alive until the operation has ended. */
  owner: object | undefined;
  signal: AbortSignal | undefined;
  operation: string;
  ranker: Ranker | undefined;
  ranking: Ranking | undefined;
  /** Takes the parts of a stream, which holds the process by itself: only while somebody waits for the next one. */
  part: ((event: Event) => void) | undefined;
  /** Called when the promise is settled. */
  over: (() => void) | undefined;
}

/** Whoever serves inbound tasks. */
export interface Server {
  onTask(id: string, about: never, payload: unknown): void;
  onCancel(id: string): void;
  /** A part of the task had no room, and there is some now. */
  onRoom(id: string): void;
}

/** What a call may be given besides its options. */
export interface CallOptions {
  /** Cancels the call, at the far end too, and rejects it with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** How an operation is started and read. */
export interface Verb<T> {
  /** The public function whose caller the error shall name. */
  entry: Function;
  /** The tag of the operation, if it must be a known one. */
  tag?: number;
  start(native: Native, queue: string, tag: number): string;
  /** Makes the result of what the core answered. */
  read(json: never, body: unknown, id: string): T;
  owner?: object;
  /** Asked before the task is sent. */
  ranker?: Ranker | undefined;
}

/** Longest time of a timer. It never has anything to do; it only holds the process. */
const FOR_EVER = 0x7fff_ffff;

/** So many calls under way are few. */
const FEW = 16;

const pending = new Map<number, Pending>();
const servers = new Map<number, Server>();
/** The operations that a signal cancels: one listener for all of them, as Node warns of more than ten. */
const watches = new WeakMap<AbortSignal, { operations: Set<string>; onAbort: () => void }>();
let queue: string | undefined;
let lastTag = 0;
let alive = 0;
let anchor: NodeJS.Timeout | undefined;

/** The addon with this environment's queue, both made at the first use. */
export function engine(): { native: Native; queue: string } {
  const addon = native();
  if (queue === undefined) {
    try {
      queue = addon.open(drain);
    } catch (thrown) {
      throw fromThrown(thrown);
    }
    const opened = queue;
    // A process that is told to exit does not end its environments; nothing of ours may run on while it dies.
    process.once("exit", () => addon.leave(opened));
  }
  return { native: addon, queue };
}

/**
 * Runs an operation. What goes wrong rejects the promise, with the stack of the call.
 *
 * To note that stack costs more than all else here. While few operations run it is noted at once, for whatever the caller
 * does with the promise. When many do, it is left to the engine of JavaScript: that knows who awaits this function, if
 * the error is made inside it.
 */
export async function start<T>(verb: Verb<T>, call?: CallOptions): Promise<T> {
  const site: CallSite = {};
  if (pending.size < FEW) noteCallSite(site, verb.entry);
  const signal = call === undefined ? undefined : signalOf(call, site, verb.entry);
  if (signal?.aborted) throw signal.reason;
  const tag = verb.tag ?? ++lastTag;
  const entry: Pending = {
    done: nobody,
    owner: verb.owner,
    signal,
    operation: "",
    ranker: verb.ranker,
    ranking: undefined,
    part: undefined,
    over: undefined,
  };
  begin(verb, tag, entry, site);
  hold();
  try {
    const done = await new Promise<Event>((resolve) => (entry.done = resolve));
    return result(verb, entry, done, site, start);
  } finally {
    entry.over?.();
  }
}

/** A stream that runs. */
export interface Followed<T> {
  readonly operation: string;
  /** Makes the result of the last event, or throws what that says. */
  result(done: Event): T;
}

/**
 * Starts an operation that comes in parts. `part` and then `done` are called with its events; neither may hold on to who
 * reads them, so that a stream that nobody reads any more can be found.
 */
export function follow<T>(
  verb: Verb<T>,
  signal: AbortSignal | undefined,
  site: CallSite,
  part: (event: Event) => void,
  done: (event: Event) => void,
): Followed<T> {
  const tag = ++lastTag;
  const entry: Pending = {
    done(event) {
      done(event);
      entry.over?.();
    },
    owner: verb.owner,
    signal,
    operation: "",
    ranker: verb.ranker,
    ranking: undefined,
    part,
    over: undefined,
  };
  begin(verb, tag, entry, site);
  return { operation: entry.operation, result: (event) => result(verb, entry, event, site, verb.entry) };
}

function begin(verb: Verb<unknown>, tag: number, entry: Pending, site: CallSite): void {
  try {
    const { native, queue } = engine();
    entry.operation = verb.start(native, queue, tag);
  } catch (thrown) {
    throw fromThrown(thrown, site, verb.entry);
  }
  pending.set(tag, entry);
  if (entry.signal !== undefined) watch(entry.signal, entry.operation);
}

function result<T>(verb: Verb<T>, entry: Pending, done: Event, site: CallSite, entrance: Function): T {
  const [, , id, json, body, error] = done;
  if (error === null) return verb.read(json as never, body, id);
  if (error.code === Code.CANCELLED && entry.signal?.aborted) throw entry.signal.reason;
  const cause = error.code === Code.RANKER_REFUSED ? entry.ranking?.refusal : undefined;
  throw fromCore(error, site, entrance, cause);
}

function nobody(): void {}

/** The signal of a call, checked. */
export function signalOf(call: CallOptions, site: CallSite, entry: Function): AbortSignal | undefined {
  try {
    onlyKnown("the options of a call", call, "signal");
    const { signal } = call;
    if (signal === undefined || typeof signal?.addEventListener === "function") return signal;
    throw failure(Code.INVALID_ARG, "option signal of a call must be an AbortSignal");
  } catch (thrown) {
    throw fromThrown(thrown, site, entry);
  }
}

/** Cancels an operation when the signal fires. The promise is rejected by the last event, when it really is over. */
function watch(signal: AbortSignal, operation: string): void {
  let watched = watches.get(signal);
  if (watched === undefined) {
    const operations = new Set<string>();
    const onAbort = () => operations.forEach((one) => quietly(() => native().cancel(one)));
    watched = { operations, onAbort };
    watches.set(signal, watched);
    signal.addEventListener("abort", onAbort, { once: true });
  }
  watched.operations.add(operation);
}

function unwatch(signal: AbortSignal, operation: string): void {
  const watched = watches.get(signal);
  if (watched === undefined || !watched.operations.delete(operation) || watched.operations.size > 0) return;
  watches.delete(signal);
  signal.removeEventListener("abort", watched.onAbort);
}

/** Starts to serve: `make` is given the tag that the server's tasks will carry. The process stays until `retire`. */
export function recruit(server: Server): { tag: number; retire(): void } {
  const tag = ++lastTag;
  servers.set(tag, server);
  hold();
  return {
    tag,
    retire() {
      if (servers.delete(tag)) release();
    },
  };
}

/** Resolves when every operation of `owner` that runs now is over. */
export async function settled(owner: object): Promise<void> {
  const running = [...pending.values()].filter((entry) => entry.owner === owner);
  hold();
  await Promise.all(running.map((entry) => new Promise<void>((resolve) => (entry.over = resolve))));
  release();
}

/** Holds the process until as many `release`s. */
export function hold(): void {
  if (alive++ > 0) return;
  anchor ??= setInterval(() => {}, FOR_EVER);
  anchor.ref();
}

export function release(): void {
  if (--alive === 0) anchor?.unref();
}

/** Runs what may find that it comes too late; false if it did. */
export function quietly(act: () => void): boolean {
  try {
    act();
    return true;
  } catch (thrown) {
    const error = fromThrown(thrown);
    const late = (error as { code?: unknown }).code;
    if (late !== Code.STALE_ID && late !== Code.CLOSED) throw error;
    return false;
  }
}

function drain(): void {
  for (const text of native().drain(queue!)) {
    for (const event of JSON.parse(text) as Event[]) dispatch(event);
  }
}

function dispatch(event: Event): void {
  const [kind, tag, id, json, body, error] = event;
  switch (kind) {
    case EventKind.DONE:
      finish(tag, event);
      break;
    case EventKind.CHUNK:
      pending.get(tag)?.part?.(event);
      break;
    case EventKind.TASK:
      serve(tag, id, json, body, error);
      break;
    case EventKind.TASK_CANCEL:
      servers.get(tag)?.onCancel(id);
      break;
    case EventKind.TASK_ROOM:
      servers.get(tag)?.onRoom(id);
      break;
    case EventKind.RANK:
      rank(tag, id, json);
      break;
  }
}

function finish(tag: number, event: Event): void {
  const entry = pending.get(tag);
  if (entry === undefined) return;
  pending.delete(tag);
  if (entry.part === undefined) release();
  if (entry.signal !== undefined) unwatch(entry.signal, entry.operation);
  entry.ranking?.end();
  entry.done(event);
}

/** Only operations of a client that has a ranker ask. */
function rank(tag: number, operation: string, request: unknown): void {
  const entry = pending.get(tag);
  if (entry?.ranker !== undefined) entry.ranking = new Ranking(entry.ranker, operation, request);
}

function serve(tag: number, id: string, json: unknown, payload: unknown, error: CoreError | null): void {
  const server = servers.get(tag);
  if (server !== undefined && error === null) {
    server.onTask(id, json as never, payload);
    return;
  }
  const code = error?.code ?? Code.CLOSED;
  quietly(() => native().taskFail(id, code, error?.message ?? "the node was closed"));
}
