// The README's quickstart runs as it stands there.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";

test("the README's quickstart runs and prints what it promises", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [, program] = /^## Quickstart$[^]*?^```js\n([^]*?)^```$/m.exec(readme);
  const out = execFileSync(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: new URL("..", import.meta.url),
    encoding: "utf8",
    timeout: 60_000,
  });
  assert.equal(out, "1 node serves urn:iicp:intent:llm:chat:v1\nYou said: Are you there?\nYou said: Hello, mesh.\n");
});
