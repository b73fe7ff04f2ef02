/** The hook of the original package that is measured; it is not among our own dependencies. */
declare module "@coji/durably-react" {
  export function useJobLogs(options: { api: string; runId: string; maxLogs: number }): {
    logs: { id: string; message: string }[];
  };
}
