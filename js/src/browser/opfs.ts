/**
 * A file system for Emscripten over the origin-private file system: synchronous, and on disk once synced.
 *
 * OPFS hands out access handles asynchronously, but SQLite opens files synchronously. So the files have
 * fixed names, and all their handles are taken before anything opens one. They are exclusive: as long as
 * we hold them nobody else has the database, and when we get them whoever had it is dead.
 *
 * A file "exists" when it has a size, or was created since; deleting cuts it to nothing, which SQLite
 * reads as no journal. A crash between the two is harmless.
 */

/** A database and what SQLite keeps beside it. */
const SUFFIXES = ["", "-journal", "-wal"];
const HANDLE_PATIENCE = 10_000; // ms: a dead tab's handles are freed a little after its locks
const HANDLE_PAUSE = 50;

// Emscripten's numbers.
const EEXIST = 20;
const EINVAL = 28;
const EIO = 29;
const ENODEV = 43;
const ENOENT = 44;
const ENOSPC = 51;
const EPERM = 63;
const DIRECTORY = 0o40777;
const FILE = 0o100666;

interface AccessHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(from: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

interface OpfsFile {
  number: number;
  handle: AccessHandle;
  exists: boolean;
  changedAt: number;
}

/** Files whose handles we hold, by name. */
export interface OpfsFiles {
  byName: Map<string, OpfsFile>;
  /** How often one was flushed to the disk. */
  flushes: number;
}

/** Take the handles of some databases. Waits for those of a tab that has just died. */
export async function openFiles(
  directory: FileSystemDirectoryHandle,
  databases: readonly string[],
): Promise<OpfsFiles> {
  const files: OpfsFiles = { byName: new Map(), flushes: 0 };
  try {
    for (const name of databases.flatMap((database) =>
      SUFFIXES.map((suffix) => database + suffix),
    )) {
      const handle = await take(await directory.getFileHandle(name, { create: true }));
      const exists = handle.getSize() > 0;
      const number = files.byName.size + 2; // 1 is the directory
      files.byName.set(name, { number, handle, exists, changedAt: Date.now() });
    }
  } catch (error) {
    closeFiles(files);
    throw error;
  }
  return files;
}

export function closeFiles(files: OpfsFiles): void {
  for (const { handle } of files.byName.values()) handle.close();
  files.byName.clear();
}

async function take(file: FileSystemFileHandle): Promise<AccessHandle> {
  const { createSyncAccessHandle } = file as unknown as {
    createSyncAccessHandle(): Promise<AccessHandle>;
  };
  for (const end = Date.now() + HANDLE_PATIENCE; ; ) {
    try {
      return await createSyncAccessHandle.call(file);
    } catch (error) {
      const isTaken = error instanceof DOMException && error.name === "NoModificationAllowedError";
      if (!isTaken || Date.now() > end) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, HANDLE_PAUSE));
  }
}

// -- Emscripten's side, as far as it is used

interface Node {
  id: number;
  mode: number;
  file: OpfsFile | null;
  node_ops: object;
  stream_ops: object;
}

interface Stream {
  node: Node;
  position: number;
  stream_ops: { fsync?: (stream: Stream) => number };
}

interface Attributes {
  mode?: number;
  size?: number;
}

/** Emscripten's `FS`. */
export interface EmscriptenFS {
  ErrnoError: new (errno: number) => Error;
  createNode(parent: Node | null, name: string, mode: number, device: number): Node;
  getStream(descriptor: number): Stream | null;
  isDir(mode: number): boolean;
  mkdirTree(path: string): void;
  mount(type: { mount(): Node }, options: object, path: string): void;
  unmount(path: string): void;
  writeFile(path: string, data: string | Uint8Array): void;
}

/** Mount the files as a directory. */
export function mountFiles(fs: EmscriptenFS, files: OpfsFiles, path: string): void {
  const operations = { node_ops: {}, stream_ops: {} };
  const nodeOf = (parent: Node | null, name: string, mode: number, file: OpfsFile | null) =>
    Object.assign(fs.createNode(parent, name, mode, 0), operations, { file });
  operations.node_ops = guarded(fs, nodeOperations(fs, files, nodeOf));
  operations.stream_ops = guarded(fs, streamOperations(fs, files));
  fs.mkdirTree(path);
  fs.mount({ mount: () => nodeOf(null, "/", DIRECTORY, null) }, {}, path);
  synced = fs;
}

type NodeOf = (parent: Node | null, name: string, mode: number, file: OpfsFile | null) => Node;

function nodeOperations(fs: EmscriptenFS, files: OpfsFiles, nodeOf: NodeOf) {
  const refuse = (errno: number) => () => {
    throw new fs.ErrnoError(errno);
  };
  const existing = (name: string): OpfsFile => {
    const file = files.byName.get(name);
    if (!file?.exists) throw new fs.ErrnoError(ENOENT);
    return file;
  };
  return {
    getattr: ({ file, mode }: Node) => attributesOf(file, mode),
    setattr(node: Node, { mode, size }: Attributes) {
      if (mode !== undefined) node.mode = mode;
      if (size !== undefined) node.file?.handle.truncate(size);
    },
    lookup: (parent: Node, name: string) => nodeOf(parent, name, FILE, existing(name)),
    mknod(parent: Node, name: string, mode: number) {
      const file = files.byName.get(name);
      // Only the files whose handles were taken can be made here.
      if (file === undefined || fs.isDir(mode)) throw new fs.ErrnoError(EPERM);
      if (file.exists) throw new fs.ErrnoError(EEXIST);
      file.exists = true;
      return nodeOf(parent, name, mode, file);
    },
    unlink(_parent: Node, name: string) {
      const file = existing(name);
      file.handle.truncate(0);
      file.handle.flush();
      files.flushes++;
      file.exists = false;
    },
    readdir: () => [".", "..", ...[...files.byName].filter(([, f]) => f.exists).map(([n]) => n)],
    rename: refuse(EPERM),
    rmdir: refuse(EPERM),
    symlink: refuse(EPERM),
    readlink: refuse(EINVAL),
  };
}

function attributesOf(file: OpfsFile | null, mode: number) {
  const size = file?.handle.getSize() ?? 4096;
  const at = new Date(file?.changedAt ?? 0);
  return {
    dev: 1,
    ino: file?.number ?? 1,
    mode,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    size,
    atime: at,
    mtime: at,
    ctime: at,
    blksize: 4096,
    blocks: Math.ceil(size / 512),
  };
}

type Bytes = { buffer: ArrayBuffer; byteOffset: number };

function streamOperations(fs: EmscriptenFS, files: OpfsFiles) {
  const handleOf = ({ node }: Stream): AccessHandle => {
    if (node.file === null) throw new fs.ErrnoError(EINVAL);
    return node.file.handle;
  };
  return {
    open() {},
    close() {},
    read(stream: Stream, { buffer, byteOffset }: Bytes, offset: number, size: number, at: number) {
      return handleOf(stream).read(new Uint8Array(buffer, byteOffset + offset, size), { at });
    },
    write(stream: Stream, { buffer, byteOffset }: Bytes, offset: number, size: number, at: number) {
      const bytes = new Uint8Array(buffer, byteOffset + offset, size);
      const written = handleOf(stream).write(bytes, { at });
      if (stream.node.file) stream.node.file.changedAt = Date.now();
      return written;
    },
    llseek(stream: Stream, offset: number, whence: number) {
      const from = [0, stream.position, stream.node.file?.handle.getSize() ?? 0][whence] ?? 0;
      if (from + offset < 0) throw new fs.ErrnoError(EINVAL);
      return from + offset;
    },
    fsync({ node }: Stream) {
      if (node.file) {
        files.flushes++;
        node.file.handle.flush();
      }
      return 0; // SQLite syncs the directory, too
    },
    mmap() {
      throw new fs.ErrnoError(ENODEV);
    },
    msync: () => 0,
  };
}

/** An exception that Emscripten does not know would end the whole interpreter. */
function guarded<T extends object>(fs: EmscriptenFS, operations: T): T {
  const guard = (act: (...args: unknown[]) => unknown) =>
    function (this: unknown, ...args: unknown[]) {
      try {
        return act.apply(this, args);
      } catch (error) {
        if (error instanceof fs.ErrnoError) throw error;
        const isFull = error instanceof Error && error.name === "QuotaExceededError";
        throw new fs.ErrnoError(isFull ? ENOSPC : EIO);
      }
    };
  const entries = Object.entries(operations).map(([name, act]) => [name, guard(act)]);
  return Object.fromEntries(entries) as T;
}

// -- fdatasync

type Syscall = (descriptor: number) => number;
let synced: EmscriptenFS | undefined;

/**
 * SQLite syncs with fdatasync, for which Emscripten has a function that does nothing; fsync does reach
 * the file system. To be called before Pyodide is loaded: what it gives to WebAssembly is where the two
 * can still be made one. `check_commits` then proves that it worked.
 */
export function mendFdatasync(): void {
  const mended = (imports: WebAssembly.Imports | undefined) => {
    const { env } = imports ?? {};
    const nothing = env?.__syscall_fdatasync as Syscall | undefined;
    if (env === undefined || nothing === undefined) return;
    env.__syscall_fdatasync = (descriptor: number) => {
      const stream = synced?.getStream(descriptor);
      return stream?.stream_ops.fsync?.(stream) ?? nothing(descriptor);
    };
  };
  const { instantiate, instantiateStreaming } = WebAssembly;
  Object.assign(WebAssembly, {
    instantiate(source: BufferSource, imports?: WebAssembly.Imports) {
      mended(imports);
      return instantiate.call(WebAssembly, source, imports);
    },
    instantiateStreaming(source: Response | Promise<Response>, imports?: WebAssembly.Imports) {
      mended(imports);
      return instantiateStreaming.call(WebAssembly, source, imports);
    },
  });
}
