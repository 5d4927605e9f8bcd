// Finding the addon: what is tried, and what is said when nothing loads.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

const root = fileURLToPath(new URL("..", import.meta.url));
const { platformName } = createRequire(import.meta.url)("../dist/native.js");
const addon = join(root, `iicp-core.${platformName()}.node`);

/** What `new Client()` says in a copy of the package without its addon. */
function tryWithout(t, { env = {}, also = () => {} } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "iicp-loader-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const part of ["dist", "package.json"]) cpSync(join(root, part), join(folder, part), { recursive: true });
  also(folder);
  const program = `const { Client } = require("./dist/index.js");
    try { new Client().close(); console.log("loaded"); } catch (e) { console.log(e.codeName + " " + e.message); }`;
  const options = { cwd: folder, encoding: "utf8", env: { ...process.env, ...env } };
  return execFileSync(process.execPath, ["--eval", program], options);
}

test("loading the package loads no addon and starts nothing", () => {
  const program = `require(${JSON.stringify(join(root, "dist/index.js"))});
    console.log(Object.keys(require.cache).some((file) => file.endsWith(".node")));`;
  assert.equal(execFileSync(process.execPath, ["--eval", program], { encoding: "utf8" }), "false\n");
});

test("without an addon the error says platform, what was tried and how to build one", (t) => {
  const said = tryWithout(t);
  assert.match(said, /^UNSUPPORTED /);
  const build = "https://github.com/iicp-network/iicp-core.git: cd bindings-node && npm ci && npm pack";
  for (const part of [platformName(), `iicp-core.${platformName()}.node: no such file`, build, "IICP_CORE_NATIVE_PATH"]) {
    assert.ok(said.includes(part), `${part} in ${said}`);
  }
  // What it says to do builds what is published.
  const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  assert.equal(scripts.prepack, "node scripts/build.mjs --profile dist");
});

test("IICP_CORE_NATIVE_PATH is the only place when it is set", (t) => {
  assert.equal(tryWithout(t, { env: { IICP_CORE_NATIVE_PATH: addon } }), "loaded\n");
  const said = tryWithout(t, { env: { IICP_CORE_NATIVE_PATH: "/nowhere/x.node" }, also: (folder) => cpSync(addon, join(folder, `iicp-core.${platformName()}.node`)) });
  assert.match(said, /^UNSUPPORTED [^]*\/nowhere\/x\.node: no such file[^]*correct it, or unset it/);
});

test("an addon of another version is refused before it is used", (t) => {
  const said = tryWithout(t, {
    env: { IICP_CORE_NATIVE_PATH: addon },
    also: (folder) => writeFileSync(join(folder, "package.json"), '{ "name": "@iicp/core", "version": "99.0.0" }'),
  });
  assert.match(said, /^ABI_MISMATCH .*version 0\.\d+\.\d+, but @iicp\/core is 99\.0\.0/);
});

test("a file that is no addon is named with the system's reason", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "iicp-loader-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "x.node");
  writeFileSync(file, "no addon");
  assert.match(tryWithout(t, { env: { IICP_CORE_NATIVE_PATH: file } }), /x\.node: .*(too short|invalid ELF|not a mach-o|not a valid)/i);
});

test("there is an addon for this platform beside the package", () => {
  assert.ok(readdirSync(root).includes(`iicp-core.${platformName()}.node`));
});
