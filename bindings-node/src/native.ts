// The native addon: finding it, loading it, and what it offers.

import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";

import { Code } from "./generated.js";
import { IicpError } from "./errors.js";

/** What the addon exports. Ids are opaque text; what refuses throws an error whose message is the core's error as JSON. */
export interface Native {
  version(): string;
  open(ring: () => void): string;
  drain(queue: string): string[];
  leave(queue: string): void;
  cancel(operation: string): void;
  clientNew(options: string): string;
  clientClose(client: string): void;
  discover(client: string, queue: string, query: string, tag: number): string;
  submit(client: string, queue: string, task: string, body: string | Uint8Array, tag: number): string;
  chat(client: string, queue: string, chat: string, tag: number): string;
  stream(client: string, queue: string, ask: string, body: string | Uint8Array, tag: number): string;
  used(operation: string): void;
  infer(client: string, queue: string, kind: number, ask: string, sound: Uint8Array, tag: number): string;
  rankFinish(operation: string, choice: string): void;
  directoryBind(queue: string, options: string, tag: number): string;
  directoryClose(directory: string, queue: string, graceMs: number, tag: number): string;
  nodeServe(queue: string, options: string, tag: number): string;
  nodeStatus(node: string): string;
  nodeNatReport(node: string): string;
  nodeClose(node: string, queue: string, graceMs: number, tag: number): string;
  taskChunk(task: string, meta: string, body: string | Uint8Array): boolean;
  taskFinish(task: string, meta: string, body: string | Uint8Array): void;
  taskFail(task: string, code: number, message: string): void;
}

const PACKAGE = "@iicp/core";
const ROOT = resolve(__dirname, "..");

let loaded: Native | undefined;

/** The addon, loaded when it is first needed. */
export function native(): Native {
  return (loaded ??= load());
}

/** The version of the library. */
export function version(): string {
  return native().version();
}

function load(): Native {
  const platform = platformName();
  const given = process.env["IICP_CORE_NATIVE_PATH"];
  const place = given ? resolve(given) : join(ROOT, `iicp-core.${platform}.node`);
  let addon: Native;
  try {
    addon = require(place) as Native;
  } catch (cause) {
    const on = `${platform} (Node ${process.versions.node})`;
    const message = `${PACKAGE} has no native addon that loads on ${on}: ${place}: ${reason(place, cause)}\n${advice(given)}`;
    throw new IicpError({ code: Code.UNSUPPORTED, message, cause });
  }
  checkVersion(addon, place);
  return addon;
}

/** `linux-x64-gnu` and the like, as the addons are called. */
export function platformName(): string {
  const { platform, arch } = process;
  if (platform === "linux") return `${platform}-${arch}-${isMusl() ? "musl" : "gnu"}`;
  if (platform === "win32") return `${platform}-${arch}-msvc`;
  return `${platform}-${arch}`;
}

function isMusl(): boolean {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  if (report?.header) return report.header.glibcVersionRuntime === undefined;
  try {
    return readdirSync("/lib").some((name) => name.startsWith("ld-musl-"));
  } catch {
    return false;
  }
}

/** An addon of another version speaks another language: refused before it is used. */
function checkVersion(addon: Native, place: string): void {
  const wanted = (require("../package.json") as { version: string }).version;
  if (typeof addon.version === "function" && addon.version() === wanted) return;
  const found = typeof addon.version === "function" ? `version ${addon.version()}` : "no addon of this library";
  throw new IicpError({
    code: Code.ABI_MISMATCH,
    message: `${place} is ${found}, but ${PACKAGE} is ${wanted}; install both in the same version`,
  });
}

function reason(place: string, cause: unknown): string {
  const text = (cause as Error).message.split("\n", 1)[0] ?? "";
  const isFile = place.endsWith(".node");
  return isFile && !existsSync(place) ? "no such file" : text;
}

function advice(given: string | undefined): string {
  if (given) return "IICP_CORE_NATIVE_PATH names the only place to look in: correct it, or unset it.";
  const { repository } = require("../package.json") as { repository: { url: string; directory: string } };
  return [
    `To fix it: build the package on a machine like this one. With Rust (https://rustup.rs), in a clone of`,
    `${repository.url.replace(/^git\+/, "")}: cd ${repository.directory} && npm ci && npm pack`,
    `Then install the iicp-core-*.tgz that this makes. Or name an addon of this version in IICP_CORE_NATIVE_PATH.`,
  ].join("\n");
}
