/** app.close(): the open streams are ended, clients are told when to come back, and nothing can hold the server up. */
import fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import http2 from 'node:http2'
import t, { type Test } from 'tap'
import sse from '../index.ts'
import { untilBehind } from './behind.ts'
import { connect, createApp, deferred, idleSource, listen, ownClock, turns, until, watch, type RawClient } from './helpers.ts'

async function openIdle (t: Test, port: number, count: number): Promise<RawClient[]> {
  const clients = []
  for (let n = 0; n < count; n++) {
    const client = connect(t, port).get('/')
    await client.until('data: 1\n\n')
    clients.push(client)
  }
  return clients
}

/** A client that reads nothing of a flood, until that stands. */
async function stall (t: Test, app: FastifyInstance, port: number): Promise<RawClient> {
  const client = connect(t, port).get('/')
  client.socket.pause()
  await untilBehind(app.sse)
  return client
}

function * flood () {
  for (;;) yield { raw: 'x'.repeat(65_536) }
}

t.test('app.close() ends the open streams: a time to come back, the end, the end of the connection', async (t) => {
  const app = await createApp(t)
  const sources = [idleSource({ data: 1 }), idleSource({ data: 1 }), idleSource({ data: 1 })]
  let opened = 0
  app.get('/', (_, reply) => reply.sse(sources[opened++]!.source))
  const clients = await openIdle(t, await listen(app), 3)
  await app.close()
  for (const client of clients) {
    await client.untilClosed()
    const ms = Number(/^data: 1\n\nretry: (\d+)\n\n$/.exec(client.body)?.[1])
    t.ok(ms >= 2_000 && ms <= 6_000, `comes back in ${ms} ms`)
    t.equal(client.received.slice(-7), '\r\n0\r\n\r\n', 'a whole response')
  }
  t.ok(sources.every(({ state }) => state.aborted && state.finished))
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: 3, 'client-gone': 0 } })
})

t.test('each client gets a time of its own within the range of retry', async (t) => {
  const app = await createApp(t, { retry: { min: 100, max: 300 } })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const clients = await openIdle(t, await listen(app), 3)
  const { random } = Math
  t.after(() => { Math.random = random })
  const draws = [0, 0.5, 1 - Number.EPSILON]
  Math.random = () => draws.shift() ?? random()
  await app.close()
  await Promise.all(clients.map((client) => client.untilClosed()))
  t.same(clients.map(({ body }) => body.slice(body.indexOf('data'))),
    [1_100, 1_200, 1_300].map((ms) => `data: 1\n\nretry: ${ms}\n\n`))
})

t.test('drain: the streams are ended one after the other, and none is told to come back before all is over', async (t) => {
  const app = await createApp(t, { drain: 1_000, retry: { min: 50, max: 50 } })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const clients = await openIdle(t, port, 4)
  const closing = app.close()
  const closed = watch(closing)
  await turns()
  for (const [ms, ended] of [[0, 1], [249, 1], [1, 2], [249, 2], [1, 3], [249, 3]] as const) {
    await clock.tickAsync(ms)
    await turns()
    t.equal(app.sse.stats().closed.shutdown, ended)
    t.equal(closed.settled, false)
  }
  await clock.tickAsync(1)
  await closing
  await Promise.all(clients.map((client) => client.untilClosed()))
  t.same(clients.map(({ body }) => body), [2_050, 1_800, 1_550, 1_300].map((ms) => `retry: 50\n\ndata: 1\n\nretry: ${ms}\n\n`))
})

t.test('a drain that Fastify would not wait for is refused at registration', async (t) => {
  // Fastify gives hooks as long as a plugin may take to start, and app.close() would reject.
  for (const drain of [9_000, 60_000]) {
    const app = fastify()
    t.after(() => app.close())
    app.register(sse, { drain })
    await t.rejects(async () => { await app.ready() }, { code: 'FST_SSE_INVALID_OPTION', message: /fastify\(\{ pluginTimeout: \d+ \}\)/ }, `${drain}`)
  }
  await createApp(t, { drain: 8_999 })
  await createApp(t, { drain: 60_000 }, { pluginTimeout: 61_001 })
  await createApp(t, { drain: 60_000 }, { pluginTimeout: 0 })
})

t.test('without open streams nothing is waited for', async (t) => {
  const app = await createApp(t, { drain: 60_000 }, { pluginTimeout: 0 })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }]))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  ownClock(t)
  await app.close()
  t.equal(app.server.listening, false, 'closed, on a clock that stands still')
})

t.test('streams that end by themselves while the server drains are not waited for', async (t) => {
  const app = await createApp(t, { drain: 60_000 }, { pluginTimeout: 0 })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const clients = await openIdle(t, port, 3)
  const closing = app.close()
  await turns()
  await clock.tickAsync(0)
  await clients[0]!.until('retry')
  clients[1]!.destroy()
  ;[...app.sse.connections].at(-1)!.end()
  await closing
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: 1, 'client-gone': 1, ended: 1 } })
})

t.test('a stalled client holds the server up for no longer than drain and a second', async (t) => {
  for (const drain of [0, 500]) {
    await t.test(`drain ${drain}`, async (t) => {
      const app = await createApp(t, { drain, writeTimeout: false })
      app.get('/', (_, reply) => reply.sse(flood))
      const port = await listen(app)
      const clock = ownClock(t)
      await stall(t, app, port)
      const closing = app.close()
      const closed = watch(closing)
      await turns()
      await clock.tickAsync(drain + 999)
      await turns()
      t.equal(closed.settled, false, 'it had its time to read the rest')
      await clock.tickAsync(1)
      await closing
      t.match(app.sse.stats(), { open: 0, closed: { shutdown: 1 } })
    })
  }
})

t.test('a stream that has ended, and is not read by its stalled client, does not hold the server up', async (t) => {
  for (const writeTimeout of [false, 60_000] as const) {
    await t.test(`writeTimeout ${writeTimeout}`, async (t) => {
      const app = await createApp(t, { writeTimeout })
      app.get('/', (_, reply) => reply.sse(flood))
      const port = await listen(app)
      const clock = ownClock(t)
      await stall(t, app, port)
      ;[...app.sse.connections][0]!.end()
      t.equal(app.sse.stats().open, 0)
      const closing = app.close()
      const closed = watch(closing)
      await turns()
      await clock.tickAsync(999)
      await turns()
      t.equal(closed.settled, false)
      await clock.tickAsync(1)
      await closing
      t.match(app.sse.stats(), { open: 0, closed: { ended: 1, shutdown: 0 } }, 'the first reason stays')
    })
  }
})

t.test('a client that reads its rest in time gets it whole', async (t) => {
  const app = await createApp(t, { writeTimeout: false })
  app.get('/', (_, reply) => reply.sse(flood))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = await stall(t, app, port)
  const [connection] = app.sse.connections
  const closing = app.close()
  await turns()
  await clock.tickAsync(500)
  client.socket.resume()
  await closing
  await client.untilClosed()
  t.match(client.body.slice(-20), /x\n\nretry: \d+\n\n$/)
  t.equal(Buffer.byteLength(client.body), connection!.bytes)
})

t.test('streams in a pipeline, one behind the other, go with the first of them, and do not hold the server up', async (t) => {
  for (const drain of [0, 1_000]) {
    const app = await createApp(t, { drain })
    const sources = [idleSource({ data: 1 }), idleSource({ data: 2 })]
    let opened = 0
    app.get('/', (_, reply) => reply.sse(sources[opened++]!.source))
    const client = connect(t, await listen(app)).get('/').get('/')
    await until(() => app.sse.stats().open === 2)
    await client.until('data: 1\n\n')
    await app.close()
    await client.untilClosed()
    t.ok(sources.every(({ state }) => state.finished))
    t.match(client.received, /data: 1\n\n[^]*retry: \d+\n\n/)
    t.match(app.sse.stats(), { open: 0, closed: { shutdown: 2 } })
  }
})

t.test('HTTP/2: streams are ended, their session is closed', async (t) => {
  const app = await createApp(t, {}, { http2: true } as FastifyServerOptions)
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const session = http2.connect(`http://127.0.0.1:${await listen(app)}`)
  t.after(() => session.destroy())
  const bodies = ['', '', '']
  let ended = 0
  for (const index of bodies.keys()) {
    const stream = session.request({ ':path': '/' }).setEncoding('utf8')
    stream.on('data', (text: string) => { bodies[index] += text })
    stream.on('end', () => { ended++ })
  }
  await until(() => bodies.every((body) => body === 'data: 1\n\n'))
  await app.close()
  await until(() => ended === 3 && session.closed)
  for (const body of bodies) t.match(body, /^data: 1\n\nretry: \d+\n\n$/)
  await until(() => session.destroyed)
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: 3 } })
})

t.test('HTTP/2: a client that reads no more holds the server up for no longer than a second', async (t) => {
  const app = await createApp(t, { writeTimeout: false }, { http2: true } as FastifyServerOptions)
  app.get('/', (_, reply) => reply.sse(flood))
  const port = await listen(app)
  const clock = ownClock(t)
  const session = http2.connect(`http://127.0.0.1:${port}`)
  t.after(() => session.destroy())
  session.on('error', () => {})
  const stream = session.request({ ':path': '/' })
  stream.on('error', () => {})
  await until(() => [...app.sse.connections][0]?.behind === true)
  await turns(200)
  const closing = app.close()
  const closed = watch(closing)
  await turns()
  await clock.tickAsync(999)
  await turns()
  t.equal(closed.settled, false)
  await clock.tickAsync(1)
  await turns(200)
  t.equal(closed.settled, true, 'closed, though the client keeps its end of the session')
  session.destroy()
  await closing
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: 1 } })
})

/** A server that is closing, held open by a stream whose turn has not come. */
async function startClosing (t: Test, options: FastifyServerOptions = { return503OnClosing: false }) {
  const app = await createApp(t, { drain: 5_000, retry: { min: 2_500, max: 2_500 } }, options)
  const late = idleSource({ data: 'late' })
  const gate = deferred()
  let entered = false
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  app.get('/late', (_, reply) => reply.sse(late.source))
  app.get('/gated', async (_, reply) => {
    entered = true
    await gate.promise
    return reply.sse(late.source)
  })
  const port = await listen(app)
  const clock = ownClock(t)
  await openIdle(t, port, 2)
  return {
    app,
    port,
    late,
    gate,
    untilEntered: () => until(() => entered),
    async close () {
      const closing = app.close()
      await turns()
      await clock.tickAsync(0)
      return { async closed () { await clock.tickAsync(6_000); await closing } }
    }
  }
}

t.test('a new stream while the server closes: 503, and when to come back', async (t) => {
  const { app, port, late, close } = await startClosing(t)
  const { closed } = await close()
  const client = connect(t, port).get('/late')
  await client.until('}')
  t.match(client.head, /^HTTP\/1\.1 503 /)
  t.match(client.head, /\r\nretry-after: 3(\r\n|$)/)
  t.match(JSON.parse(client.body), { statusCode: 503, code: 'FST_SSE_SHUTTING_DOWN' })
  t.equal(late.state.started, false)
  t.match(app.sse.stats(), { open: 1, opened: 2, refused: { shutdown: 1 } })
  await closed()
})

t.test('a new stream while the server closes, for an EventSource: an empty stream that says when to come back', async (t) => {
  const { app, port, late, close } = await startClosing(t)
  const { closed } = await close()
  for (const accept of ['text/event-stream', 'application/json;q=0.5, Text/Event-Stream;q=0.9']) {
    const client = connect(t, port).get('/late', `Accept: ${accept}`)
    await client.until('retry: 2500\n')
    t.match(client.head, /^HTTP\/1\.1 200 /)
    t.match(client.head, /\r\ncontent-type: text\/event-stream(\r\n|$)/)
    t.match(client.head, /\r\ncache-control: no-cache, no-transform(\r\n|$)/)
    t.equal(client.body, 'retry: 2500\n')
    await client.untilClosed()
  }
  t.equal(late.state.started, false)
  t.match(app.sse.stats(), { open: 1, opened: 2, refused: { shutdown: 2 } })
  await closed()
})

t.test('a handler that is in flight when closing starts gets no stream, and holds nothing up', async (t) => {
  for (const accept of ['*/*', 'text/event-stream']) {
    await t.test(`Accept: ${accept}`, async (t) => {
      const { app, port, late, gate, untilEntered, close } = await startClosing(t, {})
      const client = connect(t, port).get('/gated', `Accept: ${accept}`)
      await untilEntered()
      const { closed } = await close()
      gate.resolve()
      await client.until(accept === '*/*' ? '}' : 'retry: 2500\n')
      t.match(client.head, accept === '*/*' ? /^HTTP\/1\.1 503 / : /^HTTP\/1\.1 200 /)
      t.equal(late.state.started, false)
      t.match(app.sse.stats(), { open: 1, opened: 2, refused: { shutdown: 1 } })
      await closed()
    })
  }
})

t.test('a stream whose onSend hook is pending when closing starts is ended, once that goes on', async (t) => {
  const app = await createApp(t)
  const gate = deferred()
  const { state, source } = idleSource({ data: 1 })
  app.addHook('onSend', async () => { await gate.promise })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await until(() => state.started)
  await turns()
  const closing = app.close()
  await until(() => state.finished)
  gate.resolve()
  await closing
  await client.untilClosed()
  t.match(client.body, /^data: 1\n\nretry: \d+\n\n$/)
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: 1 } })
})

t.test('a stream whose onSend hook never goes on does not hold the server up', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  app.addHook('onSend', () => new Promise(() => {}))
  app.get('/', (_, reply) => reply.sse(source))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await until(() => state.started)
  await turns()
  const closing = app.close()
  await turns()
  await clock.tickAsync(1_000)
  await closing
  await client.untilClosed()
  t.equal(state.finished, true)
})
