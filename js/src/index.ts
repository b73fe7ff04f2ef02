"use client";
/** `durably-react`: the same, and the provider. */

export * from "./client.js";
export { DurablyProvider, type DurablyProviderProps, useDurably } from "./hooks/source.js";
