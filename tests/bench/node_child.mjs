// How a child of the benches answers: one line of JSON when it is ready, then one for each line that it gets.

import { createInterface } from "node:readline";

const cpuNs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1_000;
};

/** Answers `cpu` with the CPU time of this process so far, `run N` with what N operations took. */
export async function obey(ready, run) {
  console.log(JSON.stringify(ready));
  for await (const line of createInterface({ input: process.stdin })) {
    if (!line.startsWith("run ")) {
      console.log(JSON.stringify({ cpu_ns: cpuNs() }));
      continue;
    }
    const [before, since] = [cpuNs(), process.hrtime.bigint()];
    try {
      await run(Number(line.slice(4)));
      console.log(JSON.stringify({ cpu_ns: cpuNs() - before, wall_ns: Number(process.hrtime.bigint() - since) }));
    } catch (error) {
      console.log(JSON.stringify({ failure: String(error) }));
    }
  }
}

/** Runs `count` operations, `inFlight` at a time. */
export async function many(count, inFlight, once) {
  let left = count;
  const lane = async () => {
    while (left-- > 0) await once();
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
}
