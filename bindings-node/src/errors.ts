// Errors: the core's, as JavaScript throws them.

import { CODE_NAMES, Code, type CodeName } from "./generated.js";

/** What is known of a failure. */
export interface ErrorFields {
  /** Stable number of the error, one of `Code`. */
  code: number;
  /** What happened, what it was about and what to do next. */
  message: string;
  /** Whether the same call may succeed later without a change; by default as the code says. */
  retryable?: boolean | undefined;
  /** How long the peer asked to wait before trying again, in milliseconds. */
  retryAfterMs?: number | undefined;
  /** The HTTP status that the peer answered. */
  httpStatus?: number | undefined;
  /** The protocol's own code as the peer wrote it, such as `capacity_exceeded`. */
  wireCode?: string | undefined;
  /** What lies beneath. */
  cause?: unknown;
}

/** An error as the core writes it. */
export interface CoreError {
  code: number;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  http_status?: number;
  wire_code?: string;
  cause?: string;
}

const BRAND = Symbol.for("@iicp/core.IicpError");
const REJECTED = Symbol.for("@iicp/core.RejectedError");

function has(value: unknown, brand: symbol): boolean {
  return typeof value === "object" && value !== null && brand in value;
}

/** Every failure of this library. `instanceof` also knows the errors of another copy of the package. */
export class IicpError extends Error {
  /** Stable number of the error, one of `Code`. */
  readonly code: number;
  /** Name of the error in every language, such as `NO_NODES`. */
  readonly codeName: CodeName;
  /** Whether the same call may succeed later without a change. */
  readonly retryable: boolean;
  /** How long the peer asked to wait before trying again, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** The HTTP status that the peer answered. */
  readonly httpStatus: number | undefined;
  /** The protocol's own code as the peer wrote it, such as `capacity_exceeded`. */
  readonly wireCode: string | undefined;

  static {
    Object.defineProperty(this.prototype, BRAND, { value: true });
    Object.defineProperty(this.prototype, "name", { value: "IicpError", writable: true, configurable: true });
  }

  constructor(fields: ErrorFields) {
    super(fields.message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.code = fields.code;
    this.codeName = CODE_NAMES.get(fields.code) ?? "INTERNAL";
    this.retryable = fields.retryable ?? false;
    this.retryAfterMs = fields.retryAfterMs;
    this.httpStatus = fields.httpStatus;
    this.wireCode = fields.wireCode;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return this === IicpError ? has(value, BRAND) : Function.prototype[Symbol.hasInstance].call(this, value);
  }
}

/** Thrown by a handler, it refuses a task: unlike any other error of a handler, its message is shown to the caller. */
export class RejectedError extends Error {
  static {
    Object.defineProperty(this.prototype, REJECTED, { value: true });
    Object.defineProperty(this.prototype, "name", { value: "RejectedError", writable: true, configurable: true });
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return this === RejectedError ? has(value, REJECTED) : Function.prototype[Symbol.hasInstance].call(this, value);
  }
}

/** Where a call was made: the stack of an error that is only known later. */
export interface CallSite {
  stack?: string;
}

/** Notes the stack of whoever called `entry`, which is left out of it. */
export function noteCallSite(site: CallSite, entry: Function): void {
  Error.captureStackTrace(site, entry);
}

/** The public error of one that the core wrote, with the stack of the call that failed; see `standAt`. */
export function fromCore(core: CoreError, site?: CallSite, entry?: Function, thrown?: unknown): IicpError {
  const error = new IicpError({
    code: core.code,
    message: core.message,
    retryable: core.retryable,
    retryAfterMs: core.retry_after_ms,
    httpStatus: core.http_status,
    wireCode: core.wire_code,
    cause: core.cause === undefined ? thrown : new Error(core.cause),
  });
  if (site !== undefined) standAt(error, site, entry);
  return error;
}

/** The public error of what the addon or the facade threw. */
export function fromThrown(thrown: unknown, site?: CallSite, entry?: Function): unknown {
  if (thrown instanceof IicpError) {
    if (site !== undefined) standAt(thrown, site, entry);
    return thrown;
  }
  if (!(thrown instanceof Error)) return thrown;
  let core: CoreError;
  try {
    core = JSON.parse(thrown.message) as CoreError;
  } catch {
    // Thrown by the layer between: a value of the wrong type, or a panic that was caught.
    const { code = "" } = thrown as NodeJS.ErrnoException;
    const wrongType = code === "InvalidArg" || code.endsWith("Expected");
    core = { code: wrongType ? Code.INVALID_ARG : Code.PANIC, message: thrown.message, retryable: false };
  }
  return fromCore(core, site, entry);
}

/** An error that is made where the call is made. */
export function failure(code: number, message: string, cause?: unknown): IicpError {
  return new IicpError({ code, message, cause });
}

/** Gives an error the stack of its call: the noted one, else that of now, without `entry` and what it called. */
function standAt(error: Error, site: CallSite, entry?: Function): void {
  if (site.stack === undefined && entry !== undefined) noteCallSite(site, entry);
  const { stack } = site;
  // A program may have its own idea of stacks (`Error.prepareStackTrace`).
  if (typeof stack !== "string") return;
  const frames = stack.indexOf("\n");
  error.stack = `${error.name}: ${error.message}${frames < 0 ? "" : stack.slice(frames)}`;
}
