// A script that never ends, with a process of its own that would outlive it.
import { spawn } from "node:child_process";

spawn("sleep", ["600"], { detached: true, stdio: "ignore" });
console.error("waiting");
setInterval(() => {}, 1000);
