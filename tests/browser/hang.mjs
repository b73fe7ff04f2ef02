// A script that never ends, with a process of its own that would outlive it.
import { spawn } from "node:child_process";

const [seconds] = JSON.parse(process.argv[2]);
spawn("sleep", [seconds], { detached: true, stdio: "ignore" });
console.error("waiting");
setInterval(() => {}, 1000);
