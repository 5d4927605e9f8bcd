// What code of the application's is given to learn that nobody waits for it any more.

import { type IicpError, failure } from "./errors.js";
import { Code } from "./generated.js";

/** Makes its signal when it is asked for: most functions never do. */
export class Context {
  readonly #what: string;
  #controller: AbortController | undefined;
  #reason: IicpError | undefined;

  /** `what` needs no answer any more, once it is cancelled. */
  constructor(what: string) {
    this.#what = what;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  cancel(): void {
    this.#reason = failure(Code.CANCELLED, `${this.#what} needs no answer any more`);
    this.#controller?.abort(this.#reason);
  }
}
