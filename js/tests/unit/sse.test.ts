import { describe, expect, test } from "vitest";
import { type Frame, FrameParser } from "../../src/core/sse.js";

const TEXT =
  ': hello\n\nretry: 1500\n\nid: 1\ndata: {"name":"Zoë 🎉"}\n\n' +
  "event: ignored\nid: 2\ndata: one\ndata:two\ndata\n\nid\ndata:  indented\n\n: ping\n\n";

const FRAMES: Frame[] = [
  { data: "", id: null, retry: null },
  { data: "", id: null, retry: 1500 },
  { data: '{"name":"Zoë 🎉"}', id: "1", retry: null },
  { data: "one\ntwo\n", id: "2", retry: null },
  { data: " indented", id: "", retry: null },
  { data: "", id: null, retry: null },
];

/** What the parser makes of bytes that come in these pieces. */
function parse(bytes: Uint8Array, cuts: number[]): Frame[] {
  const parser = new FrameParser();
  const decoder = new TextDecoder();
  const ends = [...cuts, bytes.length];
  return ends.flatMap((end, index) => {
    const piece = bytes.subarray(ends[index - 1] ?? 0, end);
    return parser.push(decoder.decode(piece, { stream: true }));
  });
}

describe.each([
  ["LF", "\n"],
  ["CRLF", "\r\n"],
  ["CR", "\r"],
])("with %s", (_, end) => {
  // After a last CR nobody knows yet whether an LF follows: a comment more lets it be known.
  const bytes = new TextEncoder().encode(`${TEXT.replaceAll("\n", end)}:`);

  test("whole", () => {
    expect(parse(bytes, [])).toEqual(FRAMES);
  });

  test("cut in two, anywhere", () => {
    for (let cut = 0; cut <= bytes.length; cut++) expect(parse(bytes, [cut])).toEqual(FRAMES);
  });

  test("byte by byte", () => {
    expect(parse(bytes, [...bytes.keys()])).toEqual(FRAMES);
  });
});

test("a stream that ends in the middle of a frame gives no frame", () => {
  expect(parse(new TextEncoder().encode("data: half"), [])).toEqual([]);
  expect(parse(new TextEncoder().encode("data: half\n"), [])).toEqual([]);
});

test.each(["id: a\0b", "retry: soon", "retry: -1", "retry: 1.5", "unknown: field"])(
  "%j says nothing",
  (line) => {
    expect(new FrameParser().push(`${line}\n\n`)).toEqual([{ data: "", id: null, retry: null }]);
  },
);

test("a megabyte in small pieces is parsed in time", () => {
  const bytes = new TextEncoder().encode(`data: ${"x".repeat(2 ** 20)}\n\n`);
  const cuts = Array.from({ length: 1_000 }, (_, index) => index * 1_000);
  expect(parse(bytes, cuts)[0]?.data).toHaveLength(2 ** 20);
});
