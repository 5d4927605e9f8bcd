// The READMEs' programs run as they stand there.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";

function output(page, heading) {
  const readme = readFileSync(new URL(page, import.meta.url), "utf8");
  const [, program] = /^```js\n([^]*?)^```$/m.exec(readme.slice(readme.indexOf(`\n## ${heading}\n`)));
  return execFileSync(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: new URL("..", import.meta.url),
    encoding: "utf8",
    timeout: 60_000,
  });
}

test("the README's quickstart runs and prints what it promises", () => {
  assert.equal(
    output("../README.md", "Quickstart"),
    "1 node serves urn:iicp:intent:llm:chat:v1\nYou said: Are you there?\nYou said: Hello, mesh.\n",
  );
});

test("the README's stream arrives and is put together", () => {
  assert.equal(output("../README.md", "Results in parts"), "Hello, mesh. 3 true\nHello, mesh.\n");
});

test("the README's model task is sealed, ranked and answered", () => {
  assert.equal(
    output("../README.md", "Model tasks and routing"),
    "[ [ 3, 0.5 ], [ 5, 0.5 ] ] true external_ranker/least-busy/normal\n",
  );
});

test("the project's README runs", () => {
  assert.equal(output("../../README.md", "Write it"), "Hello!\n");
});
