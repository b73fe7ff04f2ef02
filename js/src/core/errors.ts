/** Why something did not happen: a server's refusal, a run that failed, a server that is away. */
export class DurablyError extends Error {
  override readonly name = "DurablyError";
  /** The HTTP status of the refusal; 0 when there was no answer, or when it is about a run's end. */
  readonly status: number;
  /**
   * A stable word: the server's (`run_not_found`, `invalid_input`, `conflict`, …), or `unreachable`,
   * `malformed_answer`, `headers_failed`, `invalid_headers`, `run_failed`, `run_cancelled`, `run_deleted`.
   * A value that JSON cannot hold is `invalid_input` too, with status 0.
   */
  readonly code: string;

  constructor(message: string, status: number, code: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.code = code;
  }

  /** Whether the same may succeed later, without anybody changing anything. */
  get isTransient(): boolean {
    return (
      /^(unreachable|headers_failed)$/.test(this.code) || this.status === 429 || this.status >= 500
    );
  }
}

/** What was thrown, as a text for a person. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
