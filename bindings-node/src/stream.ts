// Results in parts, as who asked for them takes them.

import { type CallSite, failure, fromCore, noteCallSite } from "./errors.js";
import { Code } from "./generated.js";
import { type CallOptions, type Event, type Followed, type Verb, follow, hold, quietly, release, signalOf } from "./loop.js";
import { native } from "./native.js";
import type { StreamResult } from "./replies.js";

interface CoreChunk {
  sequence: number;
  text: string;
  tokens_used: number | null;
  task_id: string;
  node_id: string;
}

let madeChunk: (about: CoreChunk, body: unknown) => Chunk<never>;

/** A part of a result, in the order in which the provider made it; also what a handler may yield. */
export class Chunk<R = unknown> {
  private constructor(
    /** The part: of a chat a delta in the OpenAI dialect, from a provider that does not stream the whole result. */
    readonly result: R,
    /** What a chat or a completion says next, or the part itself if it is a text; empty if it says nothing. */
    readonly text: string,
    /** Tokens that the task has used so far, if the provider counts them. */
    readonly tokensUsed: number | null,
    /** Its place among the parts, from 0. */
    readonly sequence: number,
    /** Id of the task; empty for a part that a handler makes. */
    readonly taskId: string,
    /** Id of the node that runs the task; empty for a part that a handler makes. */
    readonly nodeId: string,
  ) {}

  static {
    madeChunk = (about, body) =>
      new Chunk(body as never, about.text, about.tokens_used, about.sequence, about.task_id, about.node_id);
  }

  /** The next words of a chat, as chat clients read them: what a text becomes that a handler yields. */
  static delta(text: string, about: { tokensUsed?: number } = {}): Chunk {
    const result = { choices: [{ index: 0, delta: { content: text } }] };
    return new Chunk<unknown>(result, text, about.tokensUsed ?? null, 0, "", "");
  }

  /** Any value with a JSON form, and how many tokens the task has used so far. */
  static json<R>(result: R, about: { tokensUsed?: number } = {}): Chunk<R> {
    return new Chunk(result, "", about.tokensUsed ?? null, 0, "", "");
  }
}

/** The parts of one stream that came and were not read. Nothing here leads to who reads them. */
class Parts {
  readonly result: Promise<StreamResult>;
  readonly #verb: Verb<StreamResult>;
  readonly #call: CallOptions | undefined;
  readonly #site: CallSite;
  readonly #events: Event[] = [];
  #settle!: (result: StreamResult | PromiseLike<StreamResult>) => void;
  #signal: AbortSignal | undefined;
  #running: Followed<StreamResult> | undefined;
  /** Nobody reads any more. */
  #left = false;
  #over = false;
  #wake: (() => void) | undefined;

  constructor(verb: Verb<StreamResult>, call: CallOptions | undefined, site: CallSite) {
    this.#verb = verb;
    this.#call = call;
    this.#site = site;
    this.result = new Promise((resolve) => (this.#settle = resolve));
    // Who reads the parts learns it from them; who does not ask for the result need not.
    this.result.catch(nothing);
  }

  /** The next part; none after the last. */
  async next(): Promise<Event | undefined> {
    const { operation } = (this.#running ??= this.#begin());
    for (;;) {
      if (this.#signal?.aborted) throw this.#signal.reason;
      const event = this.#events.shift();
      if (event !== undefined) {
        native().used(operation);
        const error = event[5];
        if (error !== null) throw fromCore(error, this.#site, this.#verb.entry);
        return event;
      }
      if (this.#over) {
        await this.result;
        return undefined;
      }
      hold();
      try {
        await new Promise<void>((resolve) => (this.#wake = resolve));
      } finally {
        release();
      }
    }
  }

  #begin(): Followed<StreamResult> {
    try {
      this.#signal = this.#call && signalOf(this.#call, this.#site, this.#verb.entry);
      if (this.#signal?.aborted) throw this.#signal.reason;
      return follow(this.#verb, this.#signal, this.#site, (event) => this.#add(event), (event) => this.#end(event));
    } catch (error) {
      this.#over = true;
      this.#settle(Promise.reject(error));
      throw error;
    }
  }

  #add(event: Event): void {
    if (this.#left) return;
    this.#events.push(event);
    this.#wake?.();
  }

  #end(event: Event): void {
    this.#over = true;
    try {
      this.#settle(this.#running!.result(event));
    } catch (error) {
      this.#settle(Promise.reject(error));
    }
    this.#wake?.();
  }

  /** Cancels what still runs; resolved when it is over. */
  async leave(): Promise<void> {
    this.#left = true;
    this.#events.length = 0;
    const running = this.#running;
    if (this.#over) return;
    if (running === undefined) {
      this.#over = true;
      this.#settle(Promise.reject(failure(Code.CANCELLED, "the stream was closed before its first part was asked for")));
      return;
    }
    quietly(() => native().cancel(running.operation));
    hold();
    try {
      await this.result.catch(nothing);
    } finally {
      release();
    }
  }
}

function nothing(): void {}

async function* read<R>(parts: Parts): AsyncGenerator<Chunk<R>, undefined, undefined> {
  try {
    for (;;) {
      const event = await parts.next();
      if (event === undefined) return undefined;
      yield madeChunk(event[3] as CoreChunk, event[4]);
    }
  } finally {
    await parts.leave();
  }
}

/** Streams that were forgotten in the middle: those of whom somebody waits for the next part cannot be. */
const forgotten = new FinalizationRegistry<Parts>((parts) => {
  // What cannot be cancelled is gone with its engine.
  parts.leave().catch(nothing);
});

let madeStream: (parts: Parts) => TaskStream<never>;

/**
 * The parts of a result as the provider makes them: `for await (const chunk of client.stream(...))`.
 *
 * Nothing is sent before the first part is asked for. Leaving the loop in any way cancels the task at the provider, whose
 * handler stops; so do `close` and `await using`. A slow reader slows the provider down: nothing is lost, and a
 * megabyte is kept at most. After an error the result stays incomplete, and nothing more comes.
 */
export class TaskStream<R = unknown> implements AsyncIterableIterator<Chunk<R>, undefined, undefined> {
  readonly #parts: Parts;
  readonly #reader: AsyncGenerator<Chunk<R>, undefined, undefined>;

  static {
    madeStream = (parts) => new TaskStream(parts);
  }

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.#reader = read(parts);
    forgotten.register(this.#reader, parts);
  }

  /** What is known of the task when its last part has come. Rejected if the stream fails or is left before. */
  get result(): Promise<StreamResult> {
    return this.#parts.result;
  }

  /** The next part. */
  next(): Promise<IteratorResult<Chunk<R>, undefined>> {
    return this.#reader.next();
  }

  /** Closes the stream, as leaving a loop does. */
  async return(): Promise<IteratorResult<Chunk<R>, undefined>> {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Cancels the task, if it still runs; resolved when it is over. */
  async close(): Promise<void> {
    await this.#parts.leave();
    await this.#reader.return(undefined);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A stream of what `verb` starts. Its errors have the stack of this call. */
export function stream<R>(verb: Verb<StreamResult>, call?: CallOptions): TaskStream<R> {
  const site: CallSite = {};
  noteCallSite(site, verb.entry);
  return madeStream(new Parts(verb, call, site));
}
