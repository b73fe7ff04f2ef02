/** Server-sent events, parsed as they come, wherever the chunks are cut. */

export interface Frame {
  /** Its text; empty for a frame that only carries an id or a hint. */
  data: string;
  id: string | null;
  /** After how many milliseconds to come back, if the stream ends. */
  retry: number | null;
}

const LINE = /\r\n|\n|\r/g;

/** Takes text in any pieces; gives the frames that they complete. */
export class FrameParser {
  #rest = "";
  #lines: string[] = [];

  push(text: string): Frame[] {
    const frames: Frame[] = [];
    for (const line of this.#linesOf(text)) {
      if (line !== "") {
        this.#lines.push(line);
      } else if (this.#lines.length > 0) {
        frames.push(frameOf(this.#lines));
        this.#lines = [];
      }
    }
    return frames;
  }

  /** The lines that have ended. A last CR may be half of a CRLF: it waits for what follows. */
  #linesOf(text: string): string[] {
    const all = this.#rest + text;
    const usable = all.endsWith("\r") ? all.length - 1 : all.length;
    const lines: string[] = [];
    let start = 0;
    // What waited has no line end in it, but for that last CR.
    LINE.lastIndex = Math.max(0, this.#rest.length - 1);
    for (let end = LINE.exec(all); end && end.index < usable; end = LINE.exec(all)) {
      lines.push(all.slice(start, end.index));
      start = LINE.lastIndex;
    }
    this.#rest = all.slice(start);
    return lines;
  }
}

function frameOf(lines: string[]): Frame {
  const frame: Frame = { data: "", id: null, retry: null };
  const data: string[] = [];
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") data.push(value);
    else if (name === "id" && !value.includes("\0")) frame.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) frame.retry = Number(value);
  }
  frame.data = data.join("\n");
  return frame;
}
