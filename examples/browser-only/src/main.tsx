import { DurablyProvider } from "durably-react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { Booting, Trouble } from "./boot";
import { durably } from "./durably";
import "./style.css";

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");

createRoot(root).render(
  <StrictMode>
    <Trouble>
      <DurablyProvider durably={durably} fallback={<Booting />}>
        <App />
      </DurablyProvider>
    </Trouble>
  </StrictMode>,
);

if (import.meta.env.PROD) {
  // "none": a new release is looked for on the host, not in the browser's HTTP cache.
  navigator.serviceWorker?.register("sw.js", { updateViaCache: "none" }).catch(console.warn);
}
