// A whole mesh in this process: directory, node, client.

import { CHAT, Client, Directory, serve } from "@iicp/core";

/** Intent of the tests' tasks. */
export const ECHO = "urn:iicp:intent:x.test:echo:v1";

/** Directory, node and client; closed when the test `t` is over. */
export async function mesh(t, handler, { node = {}, client = {}, onError = () => {} } = {}) {
  const directory = await Directory.loopback();
  const live = await serve({ intents: [CHAT, ECHO], directory: directory.url, ...node }, handler, { onError });
  const made = new Client({ directory: directory.url, ...client });
  t.after(async () => {
    await made.close();
    await live.close({ graceMs: 0 });
    await directory.close();
  });
  return { directory, node: live, client: made };
}

/** A promise, and what settles it. */
export function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
}

/** The error that a promise is rejected with. */
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not rejected");
}

/** Waits until something is so. */
export async function until(holds, what = String(holds), ms = 10_000) {
  for (const end = performance.now() + ms; !holds(); ) {
    if (performance.now() > end) throw new Error(`it did not come about: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
