/** Three event streams of real data, and a page that shows them: `npm run demo`, then open the URL that it prints. */
import { Type, type Static } from '@sinclair/typebox'
import fastify, { type FastifyBaseLogger } from 'fastify'
import sse, { type EventOf } from 'fastify-typed-sse'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import os from 'node:os'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cpuMeter, Feed, listFiles } from './sources.ts'

const PORT = Number(process.env.PORT || 3_000)
const HOST = process.env.HOST || '127.0.0.1'
const FOLDER = process.env.DEMO_FOLDER || fileURLToPath(new URL('../../node_modules', import.meta.url))
const MAX_FILES = 18_000 // some seconds' worth

/** Fastify's own log lines, the last 200. */
const log = new Feed<string>(200)
const app = fastify({
  logger: {
    stream: {
      write (line: string) {
        process.stdout.write(line)
        log.push(line.trimEnd())
      }
    }
  },
  // Browsers open spare connections, which Node would wait for. By then the plugin has ended its streams in good order.
  forceCloseConnections: true
})

// Clients come back soon after a restart, though not all in the same moment.
await app.register(sse, { retry: { min: 500, max: 1_500 } })

const page = await readFile(new URL('page.html', import.meta.url))
app.get('/', (request, reply) => reply.type('text/html; charset=utf-8').send(page))

// 1. This machine, twice a second. What the handler sends is checked against the schema, by the compiler too.

const Stats = Type.Object({
  cpu: Type.Number({ minimum: 0, maximum: 100 }),
  cores: Type.Integer(),
  load: Type.Array(Type.Number()),
  free: Type.Integer(),
  total: Type.Integer(),
  host: Type.String(),
  uptime: Type.Number(),
  streams: Type.Integer()
})

/** The last minute, so that a new page begins with a full chart. */
const stats = new Feed<Static<typeof Stats>>(120)
const cpu = cpuMeter()
const sampling = setInterval(() => {
  stats.push({
    cpu: cpu(),
    cores: os.cpus().length,
    load: os.loadavg(),
    free: os.freemem(),
    total: os.totalmem(),
    host: os.hostname(),
    uptime: process.uptime(),
    streams: app.sse.connections.size
  })
}, 500)
app.addHook('onClose', async () => clearInterval(sampling))

app.get('/events/stats', { schema: { events: { stats: Stats } } }, (request, reply) =>
  // The signal tells the generator that its client has gone; the ID, what a client that comes back has had.
  reply.sse(async function * ({ signal, lastEventId }) {
    for await (const { id, value } of stats.after(lastEventId, signal)) yield { event: 'stats', id, data: value }
  }))

// 2. The log, as raw text. Who reads it writes no line: else each reader would be news to all the others.

app.get('/events/log', { logLevel: 'warn', schema: { events: { message: Type.String() } } }, (request, reply) =>
  reply.sse(async function * ({ signal, lastEventId }) {
    for await (const { id, value } of log.after(lastEventId, signal)) yield { id, raw: value }
  }))

// 3. A job that lives as long as its stream. `finite`: it ends for good, where an EventSource would start it again.

const Done = Type.Object({ files: Type.Integer(), bytes: Type.Integer(), ms: Type.Number() })
const job = {
  events: {
    progress: Type.Composite([Done, Type.Object({ of: Type.Integer(), file: Type.String() })]),
    result: Type.Composite([Done, Type.Object({ sha256: Type.String() })]),
    failed: Type.String()
  }
}

app.get('/events/job', {
  schema: job,
  // A client learns nothing of what has gone wrong, unless it is told.
  sse: { finite: true, onError: () => ({ event: 'failed', data: 'a file could not be read, the log knows which' }) }
}, (request, reply) => reply.sse(({ signal }) => hashFolder(signal, request.log)))

/** One SHA-256 over all files, in the order of their paths. */
async function * hashFolder (signal: AbortSignal, log: FastifyBaseLogger): AsyncGenerator<EventOf<typeof job>> {
  const started = performance.now()
  const sha256 = createHash('sha256')
  const done = { files: 0, bytes: 0, ms: 0 }
  try {
    const paths = await listFiles(FOLDER, MAX_FILES)
    for (const path of paths) {
      for await (const chunk of createReadStream(path, { signal })) {
        sha256.update(chunk)
        done.bytes += chunk.length
      }
      done.files++
      const ms = performance.now() - started
      if (ms - done.ms < 50) continue // no eye follows more than 20 events a second
      done.ms = ms
      yield { event: 'progress', id: done.files, data: { ...done, of: paths.length, file: relative(FOLDER, path) } }
    }
    done.ms = performance.now() - started
    log.info(done, 'job finished')
    yield { event: 'result', id: done.files, data: { ...done, sha256: sha256.digest('hex') } }
  } finally {
    if (signal.aborted) log.info(done, 'job stopped: its stream has ended')
  }
}

// Streams never end by themselves: the plugin ends them as the server closes, and tells clients when to come back.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

try {
  const address = await app.listen({ port: PORT, host: HOST })
  console.log(`\n  The demo is at http://localhost:${new URL(address).port}\n`)
} catch (error) {
  const inUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
  console.error(inUse ? `Port ${PORT} is in use. Choose another one: PORT=3001 npm run demo` : String(error))
  process.exitCode = 1
  await app.close()
}
