// Builds the package: TypeScript to `dist`, the addon to `iicp-core.<platform>.node`.
//
//   node scripts/build.mjs [--profile NAME] [--no-native]
//
// The profile is cargo's, by default `release`; what is published is built with `dist`: smaller, and slower to build.

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const dist = join(root, "dist");
const { values } = parseArgs({
  options: { profile: { type: "string", default: "release" }, "no-native": { type: "boolean", default: false } },
});
const run = (program, args) => execFileSync(program, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });

function buildFacade() {
  rmSync(dist, { recursive: true, force: true });
  mkdirSync(dist);
  const require = createRequire(import.meta.url);
  const tsc = join(dirname(require.resolve("typescript/package.json")), "bin/tsc");
  run(process.execPath, [tsc, "--project", root]);
  const names = Object.keys(require(join(dist, "index.js"))).sort();
  // One implementation for both module systems: two would mean two queues, and errors that are not each other's.
  writeFileSync(
    join(dist, "index.mjs"),
    `import core from "./index.js";\n\nexport const { ${names.join(", ")} } = core;\n`,
  );
  writeFileSync(join(dist, "index.d.mts"), 'export * from "./index.js";\n');
}

function buildAddon(profile) {
  run("cargo", ["build", "--locked", "--package", "iicp-core-node", "--profile", profile]);
  const metadata = execFileSync("cargo", ["metadata", "--format-version", "1", "--no-deps"], { cwd: root });
  const target = JSON.parse(metadata).target_directory;
  const [prefix, suffix] = { win32: ["", "dll"], darwin: ["lib", "dylib"] }[process.platform] ?? ["lib", "so"];
  const built = join(target, profile === "dev" ? "debug" : profile, `${prefix}iicp_core_node.${suffix}`);
  if (!existsSync(built)) throw new Error(`cargo left no ${built}`);
  const { platformName } = createRequire(import.meta.url)(join(dist, "native.js"));
  const addon = join(root, `iicp-core.${platformName()}.node`);
  // Renamed into its place: a process that has the old one loaded keeps it.
  copyFileSync(built, `${addon}.new`);
  renameSync(`${addon}.new`, addon);
}

// npm packs a licence that lies beside the package.json.
copyFileSync(join(root, "../LICENSE"), join(root, "LICENSE"));
buildFacade();
if (!values["no-native"]) buildAddon(values.profile);
