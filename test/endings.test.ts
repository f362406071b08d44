/** Each way in which a stream ends: what the client got, what the source learnt, what was counted and logged. */
import type { FastifyInstance } from 'fastify'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import { createStats, type EndReason } from '../lib/stats.ts'
import { connect, createApp, deferred, idleSource, listen, logInto, turns, until } from './helpers.ts'

interface Line { level: number, msg: string, sse?: { reason: string, events: number, bytes: number }, err?: { message: string } }

const DEBUG = 20
const INFO = 30
const ERROR = 50

/** An app of which everything is written down; `ended` checks all that an ending must leave behind. */
async function observe (t: Test, options: SseOptions = {}) {
  const lines: Line[] = []
  const app = await createApp(t, options, logInto(lines))
  let responses = 0
  app.addHook('onResponse', async () => { responses++ })

  async function ended (reason: EndReason, level = reason === 'write-timeout' || reason === 'lagged' ? INFO : DEBUG, message?: string) {
    await until(() => app.sse.stats().open === 0 && responses > 0, () => `the end of the stream, ${reason}`)
    await turns()
    const { open, opened, closed } = app.sse.stats()
    t.same({ open, opened, closed }, { open: 0, opened: 1, closed: { ...createStats().closed, [reason]: 1 } }, 'counted once')
    t.equal(app.sse.connections.size, 0)
    t.same([...app.sse.connections], [])
    t.equal(responses, 1, 'onResponse ran once')
    const ends = lines.filter((line) => line.sse !== undefined)
    t.equal(ends.length, 1, 'one line for the stream')
    t.equal(ends[0]?.sse?.reason, reason)
    t.equal(ends[0]?.level, level)
    t.equal(ends[0]?.err?.message, message)
  }
  return { app, lines, ended, responses: () => responses }
}

/** A source of texts so large that no socket takes them all. */
function floodSource () {
  const state = { pulls: 0, aborted: false, finished: false }
  async function * source ({ signal }: { signal: AbortSignal }) {
    signal.addEventListener('abort', () => { state.aborted = true })
    try {
      for (;;) {
        state.pulls++
        yield { raw: 'x'.repeat(65_536) }
      }
    } finally {
      state.finished = true
    }
  }
  return { state, source }
}

const onlyConnection = (app: FastifyInstance) => [...app.sse.connections][0]!

/** Opens an idle stream and sees its first event. */
async function openIdle (t: Test, app: FastifyInstance) {
  const { state, source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1\n\n')
  t.equal(app.sse.stats().open, 1)
  t.equal(app.sse.connections.size, 1)
  return { state, client }
}

t.test('source done: all that was yielded, and the end of the response', async (t) => {
  const { app, ended } = await observe(t)
  let signal: AbortSignal | undefined
  app.get('/', (_, reply) => reply.sse(async function * (context) {
    signal = context.signal
    yield { data: 1 }
    await turns()
    yield { data: 2 }
  }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\ndata: 2\n\n')
  await ended('source-done')
  t.equal(signal?.aborted, true, 'what else listens to the signal is let go of')
  t.equal(app.sse.stats().events, 2)
  t.equal(app.sse.stats().bytes, 18)
})

t.test('client gone while the source is idle: its signal aborts, and its finally runs', async (t) => {
  const { app, ended } = await observe(t)
  const { state, client } = await openIdle(t, app)
  client.destroy()
  await ended('client-gone')
  t.same(state, { started: true, aborted: true, finished: true })
})

t.test('client gone while a next() is pending: return() is called once, without waiting for either', async (t) => {
  const { app, ended } = await observe(t)
  let returned = 0
  const iterator = {
    next: () => new Promise<IteratorResult<{ data: number }>>(() => {}),
    return () {
      returned++
      return Promise.reject(new Error('a rejection that is nobody\'s concern'))
    }
  }
  app.get('/', (_, reply) => reply.sse({ [Symbol.asyncIterator]: () => iterator }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('\r\n\r\n')
  client.destroy()
  await ended('client-gone')
  t.equal(returned, 1)
})

t.test('client gone while the source waits for drain', async (t) => {
  const { app, ended } = await observe(t)
  const { state, source } = floodSource()
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  client.socket.pause()
  await until(() => app.sse.connections.size === 1 && onlyConnection(app).behind)
  client.destroy()
  await ended('client-gone')
  t.match(state, { aborted: true, finished: true })
})

t.test('client gone before the stream was opened: nothing of the source ever runs', async (t) => {
  const { app, lines, responses } = await observe(t)
  const gate = deferred()
  const entered = deferred()
  const { state, source } = idleSource({ data: 1 })
  let generated = false
  let returned = 0
  const iterator = {
    next: async () => ({ done: true as const, value: undefined }),
    return: async () => { returned++; return { done: true as const, value: undefined } }
  }
  const readable = Readable.from([{ data: 1 }])
  const sources = [
    source,
    (async function * () { generated = true; yield { data: 1 } })(),
    { [Symbol.asyncIterator]: () => iterator },
    readable
  ]
  let gone = 0
  app.addHook('preHandler', async (request) => {
    request.raw.socket.once('close', () => { if (++gone === sources.length) entered.resolve() })
    await gate.promise
  })
  app.get<{ Params: { index: number } }>('/:index', (request, reply) => reply.sse(sources[request.params.index]!))
  const port = await listen(app)
  for (const index of sources.keys()) {
    const client = connect(t, port).get(`/${index}`)
    await until(() => lines.filter((line) => line.msg === 'incoming request').length === index + 1)
    client.destroy()
  }
  await entered.promise
  gate.resolve()
  await until(() => responses() === sources.length, () => 'onResponse of each')
  await turns()
  t.equal(responses(), sources.length, 'onResponse ran once for each')
  t.match(state, { started: false })
  t.equal(generated, false)
  t.equal(returned, 1, 'what an iterator holds is released')
  t.equal(readable.destroyed, true)
  const { open, opened, closed } = app.sse.stats()
  t.equal(open, 0)
  t.equal(Object.values(closed).reduce((sum, count) => sum + count), opened)
  t.same(lines.filter((line) => line.level >= ERROR), [], 'no error is logged')
})

t.test('client gone while an onSend hook is pending: the source is stopped at once', async (t) => {
  const { app, ended, lines } = await observe(t)
  const gate = deferred()
  const entered = deferred()
  const { state, source } = idleSource({ data: 1 })
  app.addHook('onSend', async () => {
    entered.resolve()
    await gate.promise
  })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await entered.promise
  t.same(state, { started: true, aborted: false, finished: false })
  client.destroy()
  await until(() => state.finished)
  t.same(state, { started: true, aborted: true, finished: true })
  gate.resolve()
  await ended('client-gone')
  t.same(lines.filter((line) => line.level > 30), [], 'neither warning nor error is logged')
})

t.test('source threw in the turn of the call, before an event: Fastify\'s ordinary error response', async (t) => {
  const teapot = () => Object.assign(new Error('no coffee'), { statusCode: 418 })
  async function * rejecting () { throw teapot() }
  function * throwing () { throw teapot() }
  async function * rejectingLater () {
    await null
    throw teapot()
  }
  for (const source of [rejecting, throwing, rejectingLater, rejecting(), throwing(), rejectingLater()]) {
    const { app, ended } = await observe(t)
    app.setErrorHandler((error: Error & { statusCode: number }, _, reply) => {
      reply.code(error.statusCode).send({ handled: error.message })
    })
    app.get('/', (_, reply) => reply.sse(source as () => AsyncGenerator<never>))
    const client = connect(t, await listen(app)).get('/')
    await client.until('}')
    t.match(client.head, /^HTTP\/1\.1 418 /)
    t.match(client.head, /content-type: application\/json/)
    t.equal(client.body, '{"handled":"no coffee"}')
    await ended('source-threw')
    t.equal(app.sse.stats().bytes, 0)
  }
})

t.test('source threw later: the stream ends, and the error stays on the server', async (t) => {
  async function * afterAnEvent () {
    yield { data: 1 }
    await turns()
    throw new Error('secret')
  }
  async function * inTheSameTurn () {
    yield { data: 1 }
    throw new Error('secret')
  }
  function * synchronously () {
    yield { data: 1 }
    throw new Error('secret')
  }
  async function * beforeAnEvent () {
    await turns()
    throw new Error('secret')
  }
  for (const source of [afterAnEvent, inTheSameTurn, synchronously, beforeAnEvent]) {
    const { app, ended, lines } = await observe(t)
    app.get('/', (_, reply) => reply.sse(source as () => AsyncGenerator<{ data: number }>))
    const client = connect(t, await listen(app)).get('/')
    await client.until('0\r\n\r\n')
    t.match(client.head, /^HTTP\/1\.1 200 /)
    t.equal(client.body, source === beforeAnEvent ? '' : 'data: 1\n\n', source.name)
    t.notMatch(client.received, 'secret')
    await ended('source-threw', ERROR, 'secret')
    t.equal(lines.filter((line) => line.level >= ERROR).length, 1, 'one error line in all')
  }
})

t.test('a source function that throws: Fastify\'s ordinary error response, and no stream was opened', async (t) => {
  const { app, responses } = await observe(t)
  let signal: AbortSignal | undefined
  app.get('/', (_, reply) => reply.sse((context) => {
    signal = context.signal
    throw Object.assign(new Error('no coffee'), { statusCode: 418 })
  }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('}')
  t.match(client.head, /^HTTP\/1\.1 418 /)
  t.match(JSON.parse(client.body), { message: 'no coffee', statusCode: 418 })
  t.equal(signal?.aborted, true)
  await until(() => responses() === 1)
  t.match(app.sse.stats(), { open: 0, opened: 0 })
})

t.test('invalid event, the first: 500 with its code', async (t) => {
  const { app, ended } = await observe(t)
  let finished = false
  app.get('/', (_, reply) => reply.sse(async function * () {
    try {
      yield { event: 'a\nb', data: 1 }
    } finally {
      finished = true
    }
  }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('}')
  t.match(client.head, /^HTTP\/1\.1 500 /)
  t.match(JSON.parse(client.body), { statusCode: 500, code: 'FST_SSE_INVALID_EVENT' })
  t.equal(finished, true)
  await ended('invalid-event')
})

t.test('invalid event, a later one: the stream ends without a byte of it', async (t) => {
  const { app, ended } = await observe(t)
  let finished = false
  app.get('/', (_, reply) => reply.sse(async function * () {
    try {
      yield { data: 1 }
      await turns()
      yield { id: 'half\nway', data: 2 }
      yield { data: 3 }
    } finally {
      finished = true
    }
  }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\n')
  t.equal(finished, true)
  await ended('invalid-event', ERROR, "Invalid event: 'id' has a line end (CR or LF) or a NUL")
})

t.test('write timeout: a client that reads no more is cut off', async (t) => {
  const { app, ended } = await observe(t, { writeTimeout: 50 })
  const { state, source } = floodSource()
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  client.socket.pause()
  await ended('write-timeout')
  t.match(state, { aborted: true, finished: true })
  client.socket.resume()
  await client.untilClosed()
  t.notMatch(client.received.slice(-10), '0\r\n\r\n', 'it can tell that this was no end')
})

t.test('max duration: the stream is ended, its connection is not', async (t) => {
  const { app, ended } = await observe(t, { maxDuration: 30 })
  const { state, client } = await openIdle(t, app)
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\n')
  t.same(state, { started: true, aborted: true, finished: true })
  await ended('max-duration')
  t.equal(client.closed, false)
})

t.test('shutdown: a time to come back, and the connection is closed', async (t) => {
  const { app, ended } = await observe(t)
  const { state, client } = await openIdle(t, app)
  await app.close()
  await client.untilClosed()
  t.match(client.body, /^data: 1\n\nretry: \d+\n\n$/)
  t.match(client.received.slice(-5), '0\r\n\r\n')
  t.same(state, { started: true, aborted: true, finished: true })
  await ended('shutdown')
})

t.test('ended by the application: all that was yielded so far, and the end of the response', async (t) => {
  const { app, ended } = await observe(t)
  const { state, client } = await openIdle(t, app)
  const connection = onlyConnection(app)
  t.match(connection, { events: 1, bytes: 9, behind: false })
  connection.end()
  connection.end()
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\n')
  t.same(state, { started: true, aborted: true, finished: true })
  await ended('ended')
})
