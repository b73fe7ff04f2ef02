import { DurablyProvider } from "durably-react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { durably } from "./durably";
import "./style.css";

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");

createRoot(root).render(
  <StrictMode>
    <DurablyProvider durably={durably}>
      <App />
    </DurablyProvider>
  </StrictMode>,
);
