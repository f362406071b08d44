/** The server: channels with histories, sources of its own, runs, compressed streams and limits; and what it holds. */
import fastify from 'fastify'
import { EventEmitter } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import sse, { type SseChannel } from '../../index.ts'
import { below } from '../processes/random.ts'
import { serve } from '../processes/serve.ts'
import { CROWD_LIMIT, HISTORIES, textOf, TIMES, TOTALS, type Ends, type Name, type Told } from './plan.ts'

const { CLIENTS } = process.env

const app = fastify({ forceCloseConnections: true })
await app.register(sse, {
  keepAlive: TIMES.keepAlive,
  writeTimeout: TIMES.writeTimeout,
  // More want to be there nearly always.
  maxConnections: Math.ceil(Number(CLIENTS) * 0.5),
  maxConnectionsPerClient: CROWD_LIMIT,
  clientKey: (request) => request.headers['x-client']?.toString()
})

// On a machine that is busy a request may take its time.
app.server.headersTimeout = 0

const sources = { running: 0 }

/** The numbers from one on; a pause after every fourth, on average half as long as `longest`. */
async function * numbers (from: number, total: number, longest: number, signal: AbortSignal) {
  sources.running++
  try {
    for (let n = from; n < total; n++) {
      yield n
      if (n % 4 === 0) await pause(below(Math.random, longest), undefined, { signal })
    }
  } finally {
    sources.running--
  }
}

/** Goes on from where the client is. */
function counting (total: number, longest: number, filler?: string) {
  return async function * ({ lastEventId = '0', signal }: { lastEventId: string | undefined, signal: AbortSignal }) {
    for await (const n of numbers(Number(lastEventId), total, longest, signal)) {
      yield { id: n + 1, data: { n, text: textOf(n), filler } }
    }
  }
}

const channels: Record<Name, SseChannel<any>> = {
  long: app.sse.channel('long', { history: { events: HISTORIES.long, bytes: 1e9, age: false } }),
  short: app.sse.channel('short', { history: { events: HISTORIES.short, bytes: 1e9, age: false }, compress: true })
}
const rotated = { maxDuration: { min: 5_000, max: 30_000 } }
app.get<{ Params: { name: Name } }>('/channels/:name', { sse: rotated }, (request, reply) => reply.sse(channels[request.params.name]))
app.get('/both', { sse: rotated }, (_, reply) => reply.sse(app.sse.subscribe([channels.long, channels.short])))
app.get('/own', { sse: { ...rotated, finite: true, compress: true } }, (_, reply) => reply.sse(counting(TOTALS.own, 400)))
app.post('/answers', (_, reply) => reply.sse(counting(TOTALS.answers, 200)))
app.get('/crowd', (_, reply) => reply.sse(counting(Infinity, 400)))
app.get('/flood', (_, reply) => reply.sse(counting(Infinity, 20, 'x'.repeat(65_536))))
app.get<{ Params: { key: string } }>('/runs/:key', (request, reply) => reply.sse(app.sse.run.attach(request.params.key)))

const counts: Record<Name, number> = { long: 0, short: 0 }
const ids: Record<Name, string> = { long: '', short: '' }

async function publish (name: Name, size = 1): Promise<void> {
  const burst = Array.from({ length: size }, () => {
    const n = counts[name]++
    return channels[name].publish({ data: { name, n, text: textOf(n) } })
  })
  ids[name] = (await Promise.all(burst)).at(-1)!
}

let run = 0

function startRun (): void {
  app.sse.run(String(++run), async function * ({ signal }) {
    for await (const n of numbers(0, TOTALS.run, 200, signal)) yield { data: { n, text: textOf(n) } }
  }, { forgetAfter: TIMES.forgetAfter })
}

function tell (): Told {
  return { at: Date.now(), counts: { ...counts }, run: String(run) }
}

/** Publishes, now and then more than is retained, and starts runs, until it is stopped. */
class Activity {
  stopped = false
  readonly over = Promise.all([this.#publish(), this.#run()])

  async #publish (): Promise<void> {
    while (!this.stopped) {
      if (Math.random() < 0.4) await publish('short')
      if (Math.random() < 0.01) await publish('short', HISTORIES.short * 2)
      if (Math.random() < 0.2) await publish('long', 1 + below(Math.random, 3))
      process.send!({ told: tell() })
      await pause(below(Math.random, 100))
    }
  }

  async #run (): Promise<void> {
    while (!this.stopped) {
      startRun()
      await pause(1_000)
    }
  }
}

let activity: Activity | undefined

async function rest (): Promise<Ends> {
  if (activity !== undefined) activity.stopped = true
  await activity?.over
  return { told: tell(), ids: { ...ids } }
}

function connections (): Promise<number> {
  return new Promise((resolve, reject) => app.server.getConnections((error, count) => error ? reject(error) : resolve(count)))
}

function listeners (emitter: EventEmitter): number {
  return emitter.eventNames().reduce((sum, name) => sum + emitter.listenerCount(name), 0)
}

/** What there is when nobody is left, and may not be more each time. */
export interface Holdings {
  heap: number
  outside: number
  rss: number
  sockets: number
  /** Sources that run. */
  sources: number
  /** Streams that are open, as they are listed, and those that were opened and are not counted as closed. */
  open: number
  listed: number
  uncounted: number
  listeners: { server: number, process: number }
  /** What keeps the process alive, by kind. */
  handles: Record<string, number>
}

/** Collects until nothing more is let go of: on a busy machine some of it takes its time. */
async function collect (): Promise<void> {
  let least = Infinity
  for (let round = 0; round < 6; round++) {
    globalThis.gc!()
    await pause(20)
    const { heapUsed, external } = process.memoryUsage()
    if (heapUsed + external < least - 10_000) round = 0
    least = Math.min(least, heapUsed + external)
  }
}

/** Once everybody has gone, runs are forgotten, and timers have looked for somebody in vain. */
async function hold (): Promise<Holdings> {
  const isQuiet = async () => sources.running === 0 && app.sse.stats().open === 0 && await connections() === 0
  for (const deadline = performance.now() + 30_000; !await isQuiet() && performance.now() < deadline;) await pause(20)
  await pause(TIMES.forgetAfter + TIMES.writeTimeout + 500)
  const { open, opened, closed } = app.sse.stats()
  const handles: Record<string, number> = {}
  for (const kind of process.getActiveResourcesInfo()) handles[kind] = (handles[kind] ?? 0) + 1
  await collect()
  const { heapUsed, external, rss } = process.memoryUsage()
  return {
    heap: heapUsed,
    outside: external,
    rss,
    sockets: await connections(),
    sources: sources.running,
    open,
    listed: app.sse.connections.size,
    uncounted: opened - open - Object.values(closed).reduce((sum, count) => sum + count),
    listeners: { server: listeners(app.server), process: listeners(process) },
    handles
  }
}

// Histories are full from the beginning, and so take no more memory later.
for (const name of ['long', 'short'] as const) await publish(name, HISTORIES[name])

await app.listen({ port: 0, host: '127.0.0.1' })

serve({
  port: () => (app.server.address() as AddressInfo).port,
  start: () => { activity = new Activity() },
  rest,
  hold,
  stats: () => ({ ...app.sse.stats(), rss: process.memoryUsage().rss, heap: process.memoryUsage().heapUsed })
})
