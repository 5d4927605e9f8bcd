// The package as users get it: packed, checked, and installed into an empty project.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";

const root = fileURLToPath(new URL("..", import.meta.url));
let folder;
let tarball;

const run = (program, args, cwd = folder) => execFileSync(program, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const tool = (name, ...args) => run(join(root, "node_modules/.bin", name), args);

before(() => {
  folder = mkdtempSync(join(tmpdir(), "iicp-package-"));
  // Built already: this is about what is packed.
  const packed = JSON.parse(run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], root));
  tarball = join(folder, packed[0].filename);
  const files = packed[0].files.map(({ path }) => path);
  assert.ok(files.some((path) => /^iicp-core\..*\.node$/.test(path)), files.join(" "));
  assert.ok(files.includes("LICENSE") && files.includes("README.md"), files.join(" "));
  assert.ok(!files.some((path) => /^(native|src|tests|scripts)\//.test(path)), files.join(" "));
});

after(() => rmSync(folder, { recursive: true, force: true }));

test("publint finds nothing", () => {
  tool("publint", "run", tarball, "--strict");
});

test("the types are right for every way to import it", () => {
  tool("attw", tarball);
});

test("it installs into an empty project and works there as ESM, as CommonJS and in strict TypeScript", () => {
  writeFileSync(join(folder, "package.json"), '{ "private": true }');
  run("npm", ["install", "--offline", "--no-audit", "--no-fund", tarball]);
  const names = "Client, Code, Directory, IicpError, Node, RejectedError, Reply, serve, CHAT";
  const program = `
    const directory = await Directory.loopback();
    const node = await serve({ intents: [CHAT], directory: directory.url }, () => "pong");
    const client = new Client({ directory: directory.url });
    console.log((await client.chat("ping")).text);
    await client.close(); await node.close(); await directory.close();`;
  writeFileSync(join(folder, "esm.mjs"), `import { ${names} } from "@iicp/core";\n${program}`);
  writeFileSync(join(folder, "cjs.cjs"), `const { ${names} } = require("@iicp/core");\n(async () => {${program}})();`);
  writeFileSync(
    join(folder, "both.mjs"),
    `import { createRequire } from "node:module";\nimport * as esm from "@iicp/core";
    const cjs = createRequire(import.meta.url)("@iicp/core");
    console.log(Object.keys(cjs).every((name) => cjs[name] === esm[name]));`,
  );
  assert.equal(run(process.execPath, ["esm.mjs"]), "pong\n");
  assert.equal(run(process.execPath, ["cjs.cjs"]), "pong\n");
  assert.equal(run(process.execPath, ["both.mjs"]), "true\n", "one implementation, whichever way it is imported");

  const typed = `import { ${names}, type Inbound } from "@iicp/core";
    async function main(): Promise<void> {
      await using directory = await Directory.loopback();
      await using node = await serve<unknown>({ intents: [CHAT], directory: directory.url }, (task: Inbound) => task.caller.peer.length > 0 && "pong");
      await using client = new Client({ directory: directory.url });
      const { text }: { text: string } = await client.chat("ping");
      console.log(text, node.status().registered, [Code.OK, IicpError, Node, RejectedError, Reply].length);
    }
    void main();`;
  for (const file of ["typed.mts", "typed.cts"]) writeFileSync(join(folder, file), typed);
  // The user's own types of Node.js, and nothing skipped: our declarations are checked as well.
  const types = ["--types", "node", "--typeRoots", join(root, "node_modules/@types")];
  tool("tsc", "--strict", "--target", "es2022", "--module", "nodenext", ...types, "typed.mts", "typed.cts");
  for (const file of ["typed.mjs", "typed.cjs"]) assert.equal(run(process.execPath, [file]), "pong true 5\n");
});
