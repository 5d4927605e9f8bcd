// What a handler of the application's yields, on its way to the caller.

import { setImmediate as turn } from "node:timers/promises";

import { quietly } from "./loop.js";
import { native } from "./native.js";

/** A part as the core takes it. */
export interface Written {
  json: string | Uint8Array;
  /** What is said beside it, as JSON; maybe nothing. */
  meta: string;
}

type Values = AsyncIterator<unknown> | Iterator<unknown>;

/** Parts of one generator between two turns of the loop, which one that never waits would keep to itself. */
const MOST_AT_ONCE = 64;

/** What a handler has returned, if it comes in parts. A list is a value, a generator is not. */
export function valuesOf(answer: unknown): Values | undefined {
  if (typeof answer !== "object" || answer === null) return undefined;
  const given = answer as AsyncIterable<unknown> & Iterable<unknown> & Iterator<unknown>;
  if (typeof given[Symbol.asyncIterator] === "function") return given[Symbol.asyncIterator]();
  return typeof given[Symbol.iterator] === "function" && typeof given.next === "function" ? given[Symbol.iterator]() : undefined;
}

/** The parts of one task. */
export class Yielding {
  readonly #task: string;
  readonly #values: Values;
  readonly #write: (value: unknown) => Written;
  #left = false;
  #goOn: (() => void) | undefined;

  constructor(task: string, values: Values, write: (value: unknown) => Written) {
    this.#task = task;
    this.#values = values;
    this.#write = write;
  }

  /** Gives the caller part after part, each when there is room for it. What the generator returns is the last one. */
  async run(): Promise<Written | undefined> {
    try {
      // Says that parts will come.
      quietly(() => native().taskChunk(this.#task, "", ""));
      for (let given = 1; ; given++) {
        const { done, value } = await this.#values.next();
        if (this.#left) return undefined;
        if (done === true) return value === undefined ? { json: "", meta: "" } : this.#write(value);
        await this.#give(this.#write(value));
        if (given % MOST_AT_ONCE === 0) await turn();
      }
    } catch (error) {
      this.leave();
      throw error;
    }
  }

  async #give({ json, meta }: Written): Promise<void> {
    while (!this.#left) {
      let taken = true;
      if (!quietly(() => (taken = native().taskChunk(this.#task, meta, json)))) this.leave();
      if (taken) return;
      await new Promise<void>((resolve) => (this.#goOn = resolve));
    }
  }

  /** There is room for more. */
  room(): void {
    this.#goOn?.();
  }

  /** Nobody waits any more: the generator is told to return, and does when it does not itself wait for something. */
  leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#goOn?.();
    // What it throws on its way out concerns nobody who waits.
    const returns = async () => void (await this.#values.return?.());
    returns().catch(() => {});
  }
}
