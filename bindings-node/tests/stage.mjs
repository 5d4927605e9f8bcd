// The stage as a child process: one JSON object per line in, one per line out.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Longest that the stage may take for one line, beyond what an `await` asks for. */
const PATIENCE_MS = 60_000;

export class Stage {
  #child;
  #answers;

  /** Starts the program that `IICP_STAGE` names. */
  constructor() {
    const program = process.env.IICP_STAGE;
    if (!program) throw new Error("IICP_STAGE must name the stage: cargo build -p iicp-tests --bin stage");
    this.#child = spawn(program, { stdio: ["pipe", "pipe", "inherit"] });
    this.#answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** Sends one command and returns what was answered as `ok`. */
  async call(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`the stage does not answer ${JSON.stringify(command)}`)), PATIENCE_MS);
    });
    const { value, done } = await Promise.race([this.#answers.next(), late]).finally(() => clearTimeout(timer));
    if (done) throw new Error(`the stage ended at ${JSON.stringify(command)}`);
    const answer = JSON.parse(value);
    if (!("ok" in answer)) throw new Error(`${JSON.stringify(command)}: ${answer.error}`);
    return answer.ok;
  }

  /** Waits until the ledger holds `ledger`. */
  waitFor(ledger, withinMs) {
    return this.call({ await: { ledger, within_ms: withinMs } });
  }

  close() {
    this.#child.stdin.end();
  }
}
