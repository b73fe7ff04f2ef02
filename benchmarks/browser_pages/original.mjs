// The TypeScript original in a page, as its documents say: sqlocal in a worker, the file in OPFS.

import { createDurably, defineJob } from '@coji/durably'
import { SQLocalKysely } from 'sqlocal/kysely'
import { z } from 'zod'

const trivial = async (i) => i + 1

const sequential = defineJob({
  name: 'sequential',
  input: z.object({ steps: z.number() }),
  output: z.object({ took: z.array(z.number()) }),
  run: async (step, { steps }) => {
    const took = []
    for (let i = 0; i < steps; i++) {
      const began = performance.now()
      await step.run(`s${i}`, () => trivial(i))
      took.push(performance.now() - began)
    }
    return { took }
  },
})

const { dialect } = new SQLocalKysely('bench.sqlite3')
const durably = createDurably({ dialect, jobs: { sequential }, preserveSteps: true, pollingIntervalMs: 10 })
await durably.init()
window.took = async (steps) => (await durably.jobs.sequential.triggerAndWait({ steps })).output.took
await window.took(1)
window.readyAfter = performance.now()
