// JSON towards the core: option names as it calls them, and values that have a JSON form.

import { failure } from "./errors.js";
import { Code } from "./generated.js";

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

/** Options as the core reads them. A name that is not in the table goes as it is, and the core refuses it by that name. */
export function optionsJson({ what, names, except, preset }: Options, options: object): string {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw failure(Code.INVALID_ARG, `the options of ${what} must be an object`);
  }
  const named: Record<string, unknown> = Object.create(null);
  for (const [key, value] of Object.entries(preset === undefined ? options : { ...preset, ...options })) {
    if (key !== except) named[names.get(key) ?? key] = value;
  }
  try {
    return JSON.stringify(named);
  } catch (cause) {
    throw failure(Code.INVALID_ARG, `the options of ${what} hold a value that has no JSON form`, cause);
  }
}

/** A value as JSON text; bytes are taken as JSON text already. Undefined if the value has no JSON form. */
export function encode(value: unknown): string | Uint8Array | undefined {
  return value instanceof Uint8Array ? value : JSON.stringify(value);
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
