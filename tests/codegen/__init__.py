"""``durably codegen``: the golden file, and TypeScript's own opinion of it."""
