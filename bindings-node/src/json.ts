// JSON towards the core: option names as it calls them, and values that have a JSON form.

import { failure } from "./errors.js";
import { Code, NESTED } from "./generated.js";

/** An option struct of the core. */
export interface Options {
  /** What the options belong to, for error messages. */
  what: string;
  /** What the core calls them. */
  names: ReadonlyMap<string, string>;
  /** Name of a field that is no option. */
  except?: string;
  /** Values of options that are not given, where they are not the core's own. */
  preset?: object;
}

/** An object that inherits nothing, not even a setter of `__proto__`, and is as fast as any other. */
class Named {
  [name: string]: unknown;
}
Object.setPrototypeOf(Named.prototype, null);

/**
 * Options as the core reads them. A name that is in no table goes as it is, and the core refuses it by that name.
 * `fixed` are set by the call itself, by the core's names.
 */
export function optionsJson({ what, names, except, preset }: Options, options: object, fixed: object = {}): string {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw failure(Code.INVALID_ARG, `the options of ${what} must be an object`);
  }
  const given = (preset === undefined ? options : { ...preset, ...options }) as Named;
  const named = coreNames(what, names, given, except);
  for (const [name, value] of Object.entries(fixed)) {
    if (name in named) throw failure(Code.INVALID_ARG, `the options of ${what} cannot have ${name}: the call itself sets it`);
    named[name] = value;
  }
  return encode(named, `the options of ${what}`, Code.INVALID_ARG) as string;
}

/** Options under the core's names, those that options hold as well. */
function coreNames(what: string, names: ReadonlyMap<string, string>, given: Named, except?: string): Named {
  const named = new Named();
  for (const key of Object.keys(given)) {
    if (key === except) continue;
    const name = names.get(key);
    if (name === undefined) refuseCoreName(what, names, key);
    const inner = name === undefined ? undefined : NESTED.get(name);
    const value = given[key];
    // JSON would leave it out in silence.
    if (typeof value === "function" || typeof value === "symbol") {
      throw failure(Code.INVALID_ARG, `option ${key} of ${what} cannot be a ${typeof value}; functions are given beside the options`);
    }
    const held = (options: unknown): unknown =>
      inner !== undefined && typeof options === "object" && options !== null && !Array.isArray(options)
        ? coreNames(what, inner, options as Named)
        : options;
    named[name ?? key] = Array.isArray(value) ? value.map(held) : held(value);
  }
  return named;
}

/** The core would take an option by its own name. */
function refuseCoreName(what: string, names: ReadonlyMap<string, string>, key: string): void {
  for (const [ours, cores] of names) {
    if (cores === key) throw failure(Code.CONFIG_INVALID, `the options of ${what} have no ${key}; give ${ours}`);
  }
}

/** Refuses what is no object, and a name that would be ignored. */
export function onlyKnown(what: string, given: object, ...names: string[]): void {
  if (typeof given !== "object" || given === null) throw failure(Code.INVALID_ARG, `${what} must be an object`);
  for (const name of Object.keys(given)) {
    if (names.includes(name)) continue;
    throw failure(Code.INVALID_ARG, `${what} cannot have ${name}; what they may have is ${names.join(", ")}`);
  }
}

/** How something is closed. */
export interface CloseOptions {
  /** Time for what runs to end by itself, in milliseconds. */
  graceMs?: number | undefined;
}

/** The grace of a close, checked. */
export function graceOf(options: CloseOptions, preset: number): number {
  onlyKnown("the options of a close", options, "graceMs");
  const { graceMs = preset } = options;
  if (typeof graceMs === "number" && graceMs >= 0) return graceMs;
  throw failure(Code.INVALID_ARG, "option graceMs of a close must be a number of milliseconds, 0 or more");
}

/**
 * A value as JSON text; bytes are taken as JSON text already. What JSON cannot hold is refused with `code`, also where
 * `JSON.stringify` would write something else in its place.
 */
export function encode(value: unknown, what: string, code: number): string | Uint8Array {
  if (value instanceof Uint8Array) return value;
  const refuse = (why: string, cause?: unknown) => failure(code, `${what} has no JSON form: ${why}`, cause);
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (cause) {
    throw refuse("in it is a BigInt, an object inside itself, or one whose toJSON fails", cause);
  }
  if (text === undefined) throw refuse("undefined, a function or a symbol; give null for nothing");
  // Looking at every value takes its time, and is of use only where a null may stand for something else.
  if (text.includes("null")) {
    JSON.stringify(value, function (this: unknown, _name, inner: unknown) {
      if (typeof inner === "number" && !Number.isFinite(inner)) throw refuse("in it is NaN or an infinite number");
      const none = inner === undefined || typeof inner === "function" || typeof inner === "symbol";
      if (none && Array.isArray(this)) throw refuse("in a list of it is undefined, a function or a symbol; give null");
      return inner;
    });
  }
  // An even number of backslashes before it: then this one is not itself escaped.
  if (text.includes("\\ud") && /(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(text)) {
    throw refuse("a text in it ends or begins in the middle of a character (a lone surrogate); see toWellFormed");
  }
  return text;
}

/** An object of the core with its names in camel case, all the way down `depth` levels. */
export function camelKeys(value: object, depth = 0): object {
  const named: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(value)) {
    const nested = depth > 0 && typeof inner === "object" && inner !== null && !Array.isArray(inner);
    named[camel(key)] = nested ? camelKeys(inner as object, depth - 1) : inner;
  }
  return named;
}

const CAMEL = new Map<string, string>();

function camel(name: string): string {
  let known = CAMEL.get(name);
  if (known === undefined) {
    known = name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    CAMEL.set(name, known);
  }
  return known;
}
