/** What many streams leave behind when they are over: nothing. */
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { EventEmitter } from 'node:events'
import http2 from 'node:http2'
import t, { type Test } from 'tap'
import { connect, createApp, gc, listen, ownClock, turns, until } from './helpers.ts'
import { createRandom } from './processes/random.ts'

const ROUNDS = 300

function listeners (emitter: EventEmitter): Record<string, number> {
  return Object.fromEntries(emitter.eventNames().map((name) => [String(name), emitter.listenerCount(name)]))
}

/** What keeps the process alive, by kind, beside what the test itself runs with. */
function resources (): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const kind of process.getActiveResourcesInfo()) {
    if (kind !== 'Immediate') counts[kind] = (counts[kind] ?? 0) + 1
  }
  return counts
}

/** What Node warns of, such as of too many listeners. */
function noteWarnings (t: Test): string[] {
  const warnings: string[] = []
  const note = (warning: Error) => { warnings.push(`${warning.name}: ${warning.message}`) }
  process.on('warning', note)
  t.after(() => process.off('warning', note))
  return warnings
}

function connections (app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => error ? reject(error) : resolve(count))
  })
}

async function untilDisconnected (app: FastifyInstance): Promise<void> {
  let count = -1
  await until(() => {
    connections(app).then((now) => { count = now })
    return count === 0
  }, () => 'all sockets to be closed')
}

/** Routes for sources of every kind, counting those that run. */
function addRoutes (app: FastifyInstance) {
  const sources = { started: 0, finished: 0 }
  app.get('/idle', (_, reply) => reply.sse(async function * ({ signal }) {
    sources.started++
    try {
      yield { data: 'idle' }
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    } finally {
      sources.finished++
    }
  }))
  app.get('/flood', (_, reply) => reply.sse(async function * () {
    sources.started++
    try {
      for (;;) yield { raw: 'x'.repeat(16_384) }
    } finally {
      sources.finished++
    }
  }))
  app.get('/slow', async (_, reply) => {
    await turns(3)
    return reply.sse(function * () {
      sources.started++
      try {
        for (;;) yield { data: 'slow' }
      } finally {
        sources.finished++
      }
    })
  })
  app.get('/short', (_, reply) => reply.sse(async function * () {
    sources.started++
    try {
      yield { data: 1 }
      await turns(2)
      yield { data: 2 }
    } finally {
      sources.finished++
    }
  }))
  app.get('/throws', (_, reply) => reply.sse(async function * () {
    sources.started++
    try {
      yield { data: 1 }
      await turns(2)
      throw new Error('a failure')
    } finally {
      sources.finished++
    }
  }))
  return sources
}

t.test('clients that come, and go at any moment, leave no handle, no listener, no timer', async (t) => {
  const warnings = noteWarnings(t)
  const app = await createApp(t, { keepAlive: 1_000, writeTimeout: 2_000, maxDuration: 60_000, retry: 1 })
  const sources = addRoutes(app)
  const port = await listen(app)
  const clock = ownClock(t)
  const random = createRandom(1)
  const paths = ['/idle', '/flood', '/slow', '/short', '/throws']

  async function round (): Promise<void> {
    const path = paths[Math.floor(random() * paths.length)]!
    const client = connect(t, port)
    if (random() < 0.3) client.socket.pause()
    const point = Math.floor(random() * 6)
    if (point > 0) client.get(path)
    if (point > 4) client.get('/idle')
    if (point > 1) await turns(Math.floor(random() * 20))
    if (point > 2 && !client.socket.isPaused()) await client.until('\r\n\r\n')
    if (random() < 0.5) client.destroy()
    else client.socket.end()
    await turns(Math.floor(random() * 5))
    client.destroy()
  }
  async function rounds (count: number): Promise<void> {
    for (let n = 0; n < count; n++) await round()
    await until(() => app.sse.stats().open === 0, () => 'all streams to be over')
    await untilDisconnected(app)
    await turns()
  }

  await rounds(20)
  const before = { server: listeners(app.server), process: listeners(process), resources: resources() }
  await rounds(ROUNDS)
  t.same({ server: listeners(app.server), process: listeners(process), resources: resources() }, before)
  const { open, opened, closed } = app.sse.stats()
  t.equal(open, 0)
  t.ok(opened > ROUNDS / 2, `${opened} streams`)
  t.equal(Object.values(closed).reduce((sum, count) => sum + count), opened, 'each stream has ended for one reason')
  t.ok(closed['client-gone'] > ROUNDS / 5, `${closed['client-gone']} clients went away`)
  t.equal(app.sse.connections.size, 0)
  t.ok(sources.started > ROUNDS / 2)
  t.equal(sources.finished, sources.started, 'each source that has run is stopped')
  t.ok(clock.countTimers() <= 2, 'a timer for each line of waiters, none for any connection')
  await clock.tickAsync(2_000)
  t.equal(clock.countTimers(), 0)
  t.same(warnings, [])
})

t.test('three hundred streams, one after the other, on one socket', async (t) => {
  const warnings = noteWarnings(t)
  const app = await createApp(t, { maxDuration: 60_000 })
  const sources = addRoutes(app)
  const counts: unknown[] = []
  app.addHook('onRequest', async (request) => {
    counts.push({ socket: listeners(request.raw.socket), server: listeners(app.server) })
  })
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port)
  for (let n = 0; n < ROUNDS; n++) {
    client.received = ''
    client.get(n % 3 === 2 ? '/throws' : '/short')
    await client.until('\r\n0\r\n\r\n')
  }
  t.equal(counts.length, ROUNDS)
  t.same(counts.at(-1), counts[1], 'no listener is left on the socket, nor on the server')
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { opened: ROUNDS, closed: { 'source-done': 200, 'source-threw': 100 } })
  t.equal(sources.finished, ROUNDS)
  t.equal(client.closed, false)
  t.ok(clock.countTimers() <= 2, `${clock.countTimers()} timers`)
  t.same(warnings, [])
})

t.test('pipelined streams leave no listener on their socket', async (t) => {
  const warnings = noteWarnings(t)
  const app = await createApp(t)
  addRoutes(app)
  let socket: EventEmitter | undefined
  app.get('/socket', async (request) => {
    socket = request.raw.socket
    return listeners(socket)
  })
  const client = connect(t, await listen(app)).get('/socket')
  await client.until('}')
  const before = listeners(socket!)
  for (let n = 0; n < 50; n++) client.get('/short')
  await until(() => client.received.split('\r\n0\r\n\r\n').length === 51, () => 'fifty streams')
  client.received = ''
  await client.get('/socket').until('}')
  await turns()
  t.same(listeners(socket!), before)
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 50 } })
  t.same(warnings, [])
})

t.test('three hundred streams on one session of HTTP/2, half of them reset', async (t) => {
  const warnings = noteWarnings(t)
  const app = await createApp(t, { maxDuration: 60_000 }, { http2: true } as FastifyServerOptions)
  const sources = addRoutes(app)
  const counts: unknown[] = []
  app.addHook('onRequest', async (request) => {
    const { session } = (request.raw as unknown as { stream: { session: EventEmitter } }).stream
    counts.push({ session: listeners(session), server: listeners(app.server) })
  })
  const port = await listen(app)
  const clock = ownClock(t)
  const session = http2.connect(`http://127.0.0.1:${port}`)
  t.after(() => session.destroy())
  for (let n = 0; n < ROUNDS; n++) {
    const reset = n % 2 === 1
    const stream = session.request({ ':path': reset ? '/idle' : '/short' })
    stream.on('error', () => {})
    let closed = false
    let received = false
    stream.on('close', () => { closed = true })
    stream.on('data', () => { received = true })
    await until(() => received)
    if (reset) stream.close(http2.constants.NGHTTP2_CANCEL)
    await until(() => closed && app.sse.stats().open === 0)
  }
  t.same(counts.at(-1), counts[1])
  t.match(app.sse.stats(), { open: 0, opened: ROUNDS, closed: { 'source-done': 150, 'client-gone': 150 } })
  t.equal(sources.finished, ROUNDS)
  t.ok(clock.countTimers() <= 2, `${clock.countTimers()} timers`)
  t.same(warnings, [])
})

t.test('what a stream has held can be collected', async (t) => {
  const app = await createApp(t)
  const held: WeakRef<object>[] = []
  app.get('/', (request, reply) => {
    const event = { data: { large: 'x'.repeat(1_000) } }
    held.push(new WeakRef(event), new WeakRef(request), new WeakRef(reply))
    return reply.sse([event])
  })
  const client = connect(t, await listen(app))
  for (let n = 0; n < 20; n++) {
    client.received = ''
    await client.get('/').until('\r\n0\r\n\r\n')
  }
  await turns()
  gc()
  await turns()
  gc()
  t.ok(held.filter((reference) => reference.deref() !== undefined).length <= 6, 'the last request, at most')
})
