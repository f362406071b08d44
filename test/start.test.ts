/** The time between reply.sse and the head: whoever answers then, the request gets one answer, and nothing is left behind. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import type { FastifyServerOptions } from 'fastify'
import { connect, createApp, deferred, idleSource, listen, logInto, turns, until } from './helpers.ts'

/** An app whose onSend hook waits until it is let go on; `reached` counts how often it was reached. */
async function createSlowApp (t: Test, serverOptions: FastifyServerOptions = {}) {
  const app = await createApp(t, {}, serverOptions)
  const hook = { gate: deferred(), reached: 0 }
  app.addHook('onSend', async () => {
    hook.reached++
    await hook.gate.promise
  })
  return { app, hook }
}

t.test('a source that fails while onSend hooks run is still answered as an error', async (t) => {
  const { app, hook } = await createSlowApp(t)
  const failure = deferred()
  app.get('/', async (request, reply) => reply.sse(async function * () {
    await failure.promise
    throw Object.assign(new Error('no tea'), { statusCode: 418 })
  }))
  const client = connect(t, await listen(app)).get('/')
  await until(() => hook.reached === 1)
  failure.resolve()
  await turns()
  hook.gate.resolve()
  await client.until('no tea')
  t.match(client.head, /^HTTP\/1.1 418 /)
  t.match(client.head, /^content-type: application\/json/m)
  t.match(app.sse.stats(), { open: 0, closed: { 'source-threw': 1 } })
})

t.test('a handler that throws while onSend hooks run: its error is the one answer, and well-formed', async (t) => {
  const { app, hook } = await createSlowApp(t)
  const { state, source } = idleSource({ data: 1 })
  const failure = deferred()
  app.get('/', async (request, reply) => {
    reply.sse(source)
    await failure.promise
    throw new Error('changed my mind')
  })
  const client = connect(t, await listen(app)).get('/')
  await until(() => hook.reached === 1)
  failure.resolve()
  await turns()
  hook.gate.resolve()
  await client.until('changed my mind')
  t.match(client.head, /^HTTP\/1.1 500 /)
  t.equal(client.body, '{"statusCode":500,"error":"Internal Server Error","message":"changed my mind"}')
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { superseded: 1 } })
})

t.test('a client that leaves while onSend hooks run leaves nothing waiting behind', async (t) => {
  const { app, hook } = await createSlowApp(t)
  const { state, source } = idleSource({ data: 1 })
  app.get('/', { sse: { keepAlive: 5, writeTimeout: 10 } }, async (request, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await until(() => hook.reached === 1)
  client.destroy()
  await until(() => state.finished)
  hook.gate.resolve()
  await turns()
  t.match(app.sse.stats(), { open: 0, bytes: 0, closed: { 'client-gone': 1 } })
  t.same(process.getActiveResourcesInfo().filter((name) => name === 'Timeout'), [], 'no timer')
})

t.test('a handler that returns something else is told so, and answers with that', async (t) => {
  const lines: { level: number, msg: string }[] = []
  const app = await createApp(t, {}, logInto(lines, 'warn'))
  const { state, source } = idleSource()
  app.get('/', async (request, reply) => {
    reply.sse(source)
    return { json: true }
  })
  const response = await app.inject('/')
  t.same(response.json(), { json: true })
  t.equal(state.finished, true)
  t.match(lines, [{ level: 40, msg: /return reply\.sse\(…\)/ }])
})

t.test('a handler that does not return the reply is let pass, however slow the onSend hooks are', async (t) => {
  const lines: { level: number, msg: string }[] = []
  const { app, hook } = await createSlowApp(t, logInto(lines, 'warn'))
  const later = deferred()
  app.get('/', async (request, reply) => {
    reply.sse([{ data: 1 }])
    await later.promise
  })
  const client = connect(t, await listen(app)).get('/')
  await until(() => hook.reached === 1)
  later.resolve()
  await turns()
  hook.gate.resolve()
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\n')
  t.same(lines, [])
})

t.test('an error handler may answer with a stream in its turn', async (t) => {
  const app = await createApp(t)
  app.setErrorHandler((error, request, reply) => reply.code(200).sse([{ event: 'failure', data: (error as Error).message }]))
  app.get('/', async (request, reply) => reply.sse(function * () { throw new Error('no tea') }))
  app.get('/thrown', async () => { throw new Error('no tea') })
  for (const url of ['/', '/thrown']) {
    const response = await app.inject(url)
    t.equal(response.statusCode, 200, url)
    t.equal(response.payload, 'event: failure\ndata: "no tea"\n\n')
  }
})

t.test('a status without content ends the stream and keeps the connection in order', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  app.get('/:status', async (request, reply) => reply.code(Number((request.params as { status: string }).status)).sse(source))
  app.get('/next', async () => 'next')
  const port = await listen(app)
  for (const status of [204, 304]) {
    const client = connect(t, port).get(`/${status}`).get('/next')
    await client.until(/next$/)
    t.match(client.received, new RegExp(`^HTTP/1.1 ${status} [^]*\r\n\r\nHTTP/1.1 200 `))
    t.equal(state.finished, true)
    t.equal(app.sse.stats().open, 0)
  }
})

t.test('a source that is refused with its call is let go of', async (t) => {
  const app = await createApp(t)
  const streams = [Readable.from([{ data: 1 }]), Readable.from([{ data: 2 }]), Readable.from([{ data: 3 }])] as const
  app.get('/option', async (request, reply) => reply.sse(streams[0], { keepAlive: 0 }))
  app.get('/twice', async (request, reply) => {
    reply.sse(streams[1])
    return reply.sse(streams[2])
  })
  t.equal((await app.inject('/option')).json().code, 'FST_SSE_INVALID_OPTION')
  t.equal((await app.inject('/twice')).json().code, 'FST_SSE_ALREADY_SENT')
  for (const stream of streams) t.equal(stream.destroyed, true)
})

t.test('a source ends in the async context of its own request, whoever ends it', async (t) => {
  const app = await createApp(t)
  const storage = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  app.addHook('onRequest', (request, reply, done) => storage.run(request.url, done))
  app.get('/stream', async (request, reply) => reply.sse(async function * ({ signal }) {
    yield { data: 1 }
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => {
      seen.push(storage.getStore())
      resolve()
    }))
  }))
  app.get('/end', async () => {
    for (const connection of app.sse.connections) connection.end()
    return 'ended'
  })
  const port = await listen(app)
  await connect(t, port).get('/stream').until('data: 1')
  await connect(t, port).get('/end').until('ended')
  const gone = connect(t, port).get('/stream')
  await gone.until('data: 1')
  gone.destroy()
  await until(() => seen.length === 2)
  t.same(seen, ['/stream', '/stream'])
})

t.test('a synchronous generator that yields a promise which rejects is ended', async (t) => {
  const app = await createApp(t)
  let finished = false
  app.get('/', async (request, reply) => reply.sse(function * () {
    try {
      yield Promise.reject(new Error('late')) as never
    } finally {
      finished = true
    }
  }))
  t.equal((await app.inject('/')).statusCode, 500)
  t.equal(finished, true)
})
