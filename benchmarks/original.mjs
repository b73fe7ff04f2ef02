// The driver of the TypeScript original, on better-sqlite3 with WAL and synchronous=FULL.
// Run with the folder of its node_modules in PEERS; the command line is that of the Python drivers.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'

const peers = createRequire(`${process.env.PEERS}/`)
// The original is published for `import` only, which createRequire does not resolve.
const { createDurably, createDurablyHandler, defineJob } = await import(
  pathToFileURL(`${process.env.PEERS}/node_modules/@coji/durably/dist/index.js`).href
)
const Database = peers('better-sqlite3')
const { SqliteDialect } = peers('kysely')
const { z } = peers('zod')

const WARM_UP = 50
const trivial = async (i) => i + 1

function open(path) {
  const database = new Database(path)
  database.pragma('journal_mode = WAL')
  database.pragma('synchronous = FULL')
  database.pragma('busy_timeout = 5000')
  return database
}

function instance(path, jobs, options = {}) {
  const dialect = new SqliteDialect({ database: open(path) })
  // Steps are kept, as ours are; the default deletes them when a run ends, which costs one more write.
  return createDurably({ dialect, jobs, preserveSteps: true, pollingIntervalMs: 10, ...options })
}

function define(name, run, input = z.number()) {
  return defineJob({ name, input, output: z.number(), run })
}

class Meter {
  constructor() {
    this.cpuBefore = process.cpuUsage()
    this.before = performance.now()
  }

  stop() {
    this.wall = (performance.now() - this.before) / 1000
    const { user, system } = process.cpuUsage(this.cpuBefore)
    this.cpu = user + system
    return this
  }

  perStep(steps) {
    return { steps_s: steps / this.wall, cpu_us: this.cpu / steps }
  }
}

function percentile(values, percent) {
  const ordered = [...values].sort((a, b) => a - b)
  return ordered[Math.min(ordered.length - 1, Math.round((percent / 100) * (ordered.length - 1)))]
}

const rssMb = () => process.memoryUsage().rss / 1e6
const monotonicMs = () => Number(process.hrtime.bigint()) / 1e6 // the system's clock, over processes
const pause = (i) => sleep(11 + (i % 7) * 1.7)
const numbers = (count) => Array.from({ length: count }, (_, i) => i)

async function untilOver(durably, allEnded) {
  while (!allEnded()) await sleep(2)
  while ((await durably.getRuns({ status: ['pending', 'leased'], limit: 1 })).length > 0) await sleep(1)
}

async function sequential({ db, steps }) {
  let took = []
  let meter
  const job = define('sequential', async (step, count) => {
    took = []
    meter = new Meter()
    for (let i = 0; i < count; i++) {
      const began = performance.now()
      await step.run(`step-${i}`, () => trivial(i))
      took.push(performance.now() - began)
    }
    meter.stop()
    return count
  })
  const durably = instance(db, { job })
  await durably.init()
  await durably.jobs.job.triggerAndWait(WARM_UP)
  await durably.jobs.job.triggerAndWait(steps)
  await durably.stop()
  return { ...meter.perStep(steps), p50_ms: percentile(took, 50) }
}

async function concurrent({ db, runs, steps, concurrency }) {
  let ended = 0
  const job = define('plain', async (step, i) => {
    for (let n = 0; n < steps; n++) await step.run(`step-${n}`, () => trivial(n))
    ended++
    return i
  })
  const durably = instance(db, { job }, { maxConcurrentRuns: concurrency })
  await durably.init()
  await sleep(200)
  const idle = rssMb()
  await durably.jobs.job.batchTrigger(numbers(WARM_UP))
  await untilOver(durably, () => ended === WARM_UP)
  ended = 0
  const meter = new Meter()
  await durably.jobs.job.batchTrigger(numbers(runs))
  await untilOver(durably, () => ended === runs)
  meter.stop()
  const after = rssMb()
  await durably.stop()
  return { ...meter.perStep(runs * steps), rss_idle_mb: idle, rss_after_mb: after }
}

async function trigger({ db, singles, batches, size }) {
  const job = define('triggered', async (_, i) => i)
  const durably = instance(db, { job })
  await durably.migrate() // and no worker
  const handle = durably.jobs.job
  await handle.batchTrigger(numbers(WARM_UP))
  for (let i = 0; i < WARM_UP; i++) await handle.trigger(i)
  const one = new Meter()
  for (let i = 0; i < singles; i++) await handle.trigger(i)
  one.stop()
  const many = new Meter()
  for (let i = 0; i < batches; i++) await handle.batchTrigger(numbers(size))
  many.stop()
  return { single_s: singles / one.wall, batch_s: (batches * size) / many.wall }
}

async function latency({ db, count, across = false }) {
  let waits = []
  const job = define('latency', async (_, triggeredAt) => {
    waits.push(monotonicMs() - triggeredAt)
    return 0
  })
  const durably = instance(db, { job })
  await durably.init()
  await durably.jobs.job.triggerAndWait(monotonicMs())
  waits = []
  if (across) {
    const options = JSON.stringify({ db, count })
    const other = spawn(
      process.execPath,
      [fileURLToPath(import.meta.url), 'trigger_from_afar', options],
      { stdio: 'ignore' },
    )
    await new Promise((resolve) => other.on('exit', resolve))
  } else {
    for (let i = 0; i < count; i++) {
      await durably.jobs.job.trigger(monotonicMs())
      await pause(i)
    }
  }
  while (waits.length < count) await sleep(5)
  await durably.stop()
  return Object.fromEntries([50, 95, 99].map((p) => [`p${p}_ms`, percentile(waits, p)]))
}

async function trigger_from_afar({ db, count }) {
  const job = define('latency', async () => 0)
  const durably = instance(db, { job })
  await durably.migrate()
  await sleep(300)
  for (let i = 0; i < count; i++) {
    await durably.jobs.job.trigger(monotonicMs())
    await pause(i)
  }
  return {}
}

async function seed({ db, pending, finished }) {
  const durably = instance(db, { job: define('drain', async (_, i) => i) })
  await durably.migrate()
  const database = open(db)
  const insert = database.prepare(
    `insert into durably_runs (id, job_name, input, status, labels, output, lease_generation,
       started_at, completed_at, created_at, updated_at)
     values (?, 'drain', ?, ?, '{}', ?, ?, ?, ?, ?, ?)`,
  )
  const start = Date.now() - 600_000
  const at = (i, offset) => new Date(start + offset + Math.floor(i / 10)).toISOString()
  database.transaction(() => {
    for (let i = 0; i < finished; i++) {
      const t = at(i, -1_000_000)
      insert.run(`F${String(i).padStart(25, '0')}`, `${i}`, 'completed', `${i}`, 1, t, t, t, t)
    }
    for (let i = 0; i < pending; i++) {
      const t = at(i, 0)
      insert.run(`P${String(i).padStart(25, '0')}`, `${i}`, 'pending', null, 0, null, null, t, t)
    }
  })()
  database.pragma('wal_checkpoint(TRUNCATE)')
  database.close()
  return {}
}

async function drain({ db, base, first, last, rounds, concurrency }) {
  const rates = []
  for (let round = 0; round < rounds; round++) {
    const copy = `${db}.${round}`
    copyFileSync(base, copy)
    let count = 0
    let began = 0
    let reached
    const over = new Promise((resolve) => {
      reached = resolve
    })
    const job = define('drain', async (_, i) => {
      count++
      if (count === first) began = performance.now()
      if (count === last) reached(performance.now())
      return i
    })
    const durably = instance(copy, { job }, { maxConcurrentRuns: concurrency })
    await durably.init()
    rates.push(((last - first) / ((await over) - began)) * 1000)
    await durably.stop()
  }
  return { runs_s: percentile(rates, 50) }
}

async function claim({ db, base, count }) {
  copyFileSync(base, db)
  const durably = instance(db, { job: define('drain', async (_, i) => i) })
  await durably.migrate()
  const took = []
  for (let i = 0; i < count; i++) {
    const before = process.cpuUsage()
    const run = await durably.storage.claimNext('me', new Date().toISOString(), 30_000)
    const { user, system } = process.cpuUsage(before)
    took.push((user + system) / 1000)
    if (!run) throw new Error('nothing was claimed')
  }
  return { claim_ms: percentile(took, 50) }
}

function longRun(steps, newStep) {
  return define('long', async (step) => {
    for (let n = 0; n < steps; n++) await step.run(`step-${n}`, () => trivial(n))
    return await step.run('new', newStep)
  })
}

async function replay_prepare({ db, steps }) {
  const job = longRun(steps, async () => {
    console.log('{}')
    process.exit(0)
  })
  const durably = instance(db, { job }, { leaseMs: 1000, leaseRenewIntervalMs: 300 })
  await durably.init()
  await durably.jobs.job.trigger(0)
  await sleep(60_000)
}

async function replay({ db, steps }) {
  let began = 0
  let reached
  const over = new Promise((resolve) => {
    reached = resolve
  })
  const job = longRun(steps, async () => {
    reached(performance.now())
    return 1
  })
  const durably = instance(db, { job })
  durably.on('run:leased', () => {
    began = performance.now()
  })
  await durably.init()
  const ended = await over
  await sleep(50)
  await durably.stop()
  return { replay_ms: ended - began }
}

// Serves until it is killed, by its own handler over node:http; POST /go lets "burst" begin its steps.
async function serve({ db, worker = true }) {
  let go
  const quick = define('quick', async (step, i) => await step.run('step', () => trivial(i)))
  const burst = define('burst', async (step, count) => {
    await new Promise((resolve) => {
      go = resolve
    })
    for (let i = 0; i < count; i++) await step.run(`step-${i}`, () => trivial(i))
    return count
  })
  const durably = instance(db, { quick, burst })
  await (worker ? durably.init() : durably.migrate())
  const handler = createDurablyHandler(durably)
  const server = createServer(async (request, response) => {
    if (request.url === '/go') {
      go()
      response.end()
      return
    }
    const answer = await handler.handle(await asRequest(request), '/api/durably')
    response.writeHead(answer.status, Object.fromEntries(answer.headers))
    const reader = answer.body.getReader()
    const left = once(response, 'close')
    left.then(() => reader.cancel()).catch(() => {})
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      if (!response.write(value)) await Promise.race([once(response, 'drain'), left])
    }
    response.end()
  })
  server.listen({ port: 0, host: '127.0.0.1', backlog: 2048 })
  await once(server, 'listening')
  console.log(JSON.stringify({ port: server.address().port }))
  await new Promise(() => {})
}

async function asRequest(request) {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  const { method, headers, url } = request
  const body = chunks.length > 0 ? Buffer.concat(chunks) : undefined
  return new Request(`http://127.0.0.1${url}`, { method, headers, body })
}

const measures = {
  sequential,
  concurrent,
  trigger,
  latency,
  trigger_from_afar,
  seed,
  drain,
  claim,
  replay_prepare,
  replay,
  serve,
}
const result = await measures[process.argv[2]](JSON.parse(process.argv[3]))
console.log(JSON.stringify(result))
process.exit(0)
