// The embedded directory.

import { DIRECTORY_NAMES, type DirectoryOptions, LOOPBACK } from "./generated.js";
import { type CloseOptions, type Options, graceOf, optionsJson } from "./json.js";
import { hold, release, start } from "./loop.js";

/** Grace of a close that names none, in milliseconds. */
const GRACE_MS = 1_000;

const OPTIONS: Options = { what: "a directory", names: DIRECTORY_NAMES };
const FOR_DEVELOPMENT: Options = { ...OPTIONS, preset: LOOPBACK };

let made: (id: string, url: string) => Directory;

/** A directory in this process. It keeps the process alive until it is closed. */
export class Directory {
  /** Base URL that clients and nodes take as their `directory`. */
  readonly url: string;
  readonly #id: string;
  #closed: Promise<void> | undefined;

  static {
    made = (id, url) => new Directory(id, url);
  }

  private constructor(id: string, url: string) {
    this.#id = id;
    this.url = url;
    hold();
  }

  /** A directory as a public one is: it probes the nodes, limits requests and gates by quality of service. */
  static bind(options: DirectoryOptions = {}): Promise<Directory> {
    return bound(this.bind, OPTIONS, options);
  }

  /** A directory for development on this machine: nothing is probed, limited or gated unless `options` say so. */
  static loopback(options: DirectoryOptions = {}): Promise<Directory> {
    return bound(this.loopback, FOR_DEVELOPMENT, options);
  }

  /** Stops listening; resolved when nothing of it runs any more. By default it has `graceMs: 1000` to end. */
  async close(options: CloseOptions = {}): Promise<void> {
    const grace = graceOf(options, GRACE_MS);
    await (this.#closed ??= start<void>({
      entry: this.close,
      start: (native, queue, tag) => native.directoryClose(this.#id, queue, grace, tag),
      read: () => undefined,
    }).finally(release));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function bound(entry: Function, kind: Options, options: DirectoryOptions): Promise<Directory> {
  return start({
    entry,
    start: (native, queue, tag) => native.directoryBind(queue, optionsJson(kind, options), tag),
    read: (directory: { url: string }, _body, id) => made(id, directory.url),
  });
}
