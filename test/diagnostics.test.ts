/** What others are told of streams: by node:diagnostics_channel, and by the log, one line for each stream. */
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import diagnostics from 'node:diagnostics_channel'
import http2 from 'node:http2'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { memoryBroker, type SseDiagnostics, type SseOptions } from '../index.ts'
import { tell } from '../lib/diagnostics.ts'
import { BrokerUnavailable } from '../lib/errors.ts'
import type { EndReason } from '../lib/stats.ts'
import { untilLagging } from './behind.ts'
import { connect, createApp, idleSource, listen, logInto, turns, until, type RawClient } from './helpers.ts'

type Name = keyof SseDiagnostics

const NAMES: Name[] = ['open', 'close', 'refuse', 'drop', 'replay', 'gap', 'lag'].map((name) => `fastify-typed-sse:${name}` as Name)

interface Told { name: string, message: any }

/** All that is published of one app, in order. */
function watch (t: Test, app: FastifyInstance): Told[] {
  const told: Told[] = []
  const note = (message: any, name: string | symbol) => {
    const request = message.connection?.request ?? message.request
    if (request.server === app) told.push({ name: String(name).replace('fastify-typed-sse:', ''), message })
  }
  for (const name of NAMES) {
    diagnostics.subscribe(name, note)
    t.after(() => diagnostics.unsubscribe(name, note))
  }
  return told
}

const names = (told: Told[]) => told.map(({ name }) => name)

interface Line { level: number, msg: string, sse?: Record<string, any>, err?: { message: string } }

const [DEBUG, INFO, WARN, ERROR] = [20, 30, 40, 50] as const

/** An app of which all that is logged is written down. */
async function observe (t: Test, options: SseOptions = {}, server: FastifyServerOptions = {}) {
  const lines: Line[] = []
  const app = await createApp(t, options, { ...logInto(lines), ...server })
  return { app, lines, told: watch(t, app), ends: () => lines.filter(({ sse }) => sse !== undefined) }
}

const flood = async function * () { for (;;) yield { raw: 'x'.repeat(65_536) } }

async function stall (app: FastifyInstance, client: RawClient): Promise<void> {
  client.socket.pause()
  await until(() => [...app.sse.connections][0]?.behind === true, () => 'a client that is behind')
}

t.test('a stream is told of when it is opened and when it is gone, with all that is known then', async (t) => {
  const { app, told } = await observe(t)
  const { source } = idleSource({ data: 1 }, { data: 2 })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/?a')
  await client.until('data: 2\n\n')
  t.same(names(told), ['open'])
  const [connection] = app.sse.connections
  t.same(Object.keys(told[0]!.message), ['connection'])
  t.equal(told[0]!.message.connection, connection)
  t.equal(connection!.request.url, '/?a')
  t.ok(connection!.openedAt instanceof Date)
  client.destroy()
  await until(() => told.length > 1)
  await turns()
  t.same(names(told), ['open', 'close'])
  const { ms, ...message } = told[1]!.message
  t.strictSame(Object.keys(message).sort(), ['connection', 'reason'])
  t.equal(message.connection, connection)
  t.equal(message.reason, 'client-gone')
  t.ok(Number.isInteger(ms) && ms >= 0)
  t.match(connection, { events: 2, bytes: 18 })
})

t.test('when a stream is told of as open, its source has not started; when it is told of as gone, it counts as closed', async (t) => {
  const app = await createApp(t)
  const seen: unknown[] = []
  const { state, source } = idleSource({ data: 1 })
  const onOpen = ({ connection }: any) => {
    const { open } = app.sse.stats()
    if (connection.request.server === app) seen.push({ started: state.started, open, size: [...app.sse.connections].length })
  }
  const onClose = ({ connection }: any) => {
    const { open, closed } = app.sse.stats()
    if (connection.request.server === app) seen.push({ finished: state.finished, open, closed: closed.ended })
  }
  diagnostics.subscribe('fastify-typed-sse:open', onOpen)
  diagnostics.subscribe('fastify-typed-sse:close', onClose)
  t.after(() => {
    diagnostics.unsubscribe('fastify-typed-sse:open', onOpen)
    diagnostics.unsubscribe('fastify-typed-sse:close', onClose)
  })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1\n\n')
  ;[...app.sse.connections][0]!.end()
  await until(() => seen.length === 2)
  t.same(seen, [{ started: false, open: 1, size: 1 }, { finished: true, open: 0, closed: 1 }])
})

t.test('a subscriber can end a stream as it is opened: its source never starts', async (t) => {
  const { app, told } = await observe(t)
  const end = ({ connection }: any) => { if (connection.request.server === app) connection.end('revoked') }
  diagnostics.subscribe('fastify-typed-sse:open', end)
  t.after(() => diagnostics.unsubscribe('fastify-typed-sse:open', end))
  const { state, source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).get('/')
  await client.until(/\r\n\r\n/)
  await until(() => told.length === 2)
  t.equal(client.body, '')
  t.same(told[1]!.message.reason, 'revoked')
  t.equal(state.started, false)
})

t.test('drop: each invalid event that is left out, with what is wrong with it', async (t) => {
  const { app, told } = await observe(t, { onInvalidEvent: 'drop' })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }, { retry: -1 }, { data: 2 }, { event: 'a\nb', data: 3 }]))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\ndata: 2\n\n')
  await until(() => told.at(-1)?.name === 'close')
  t.same(names(told), ['open', 'drop', 'drop', 'close'])
  for (const [n, text] of [[1, "'retry'"], [2, "'event'"]] as const) {
    t.same(Object.keys(told[n]!.message).sort(), ['connection', 'error'])
    t.equal(told[n]!.message.connection, told[0]!.message.connection)
    t.match(told[n]!.message.error, { code: 'FST_SSE_INVALID_EVENT', message: text })
  }
  t.notOk('error' in told[3]!.message, 'it has not failed')
})

t.test('replay and gap: how readers of a channel have gone on', async (t) => {
  const { app, told } = await observe(t)
  const channel = app.sse.channel('c', { history: { events: 2 } })
  app.get('/', (_, reply) => reply.sse(channel))
  const port = await listen(app)
  const ids: string[] = []
  for (let n = 0; n < 4; n++) ids.push(await channel.publish({ data: n }))
  for (const [id, expected] of [[undefined, []], [ids[2], ['replay']], [ids[3], ['replay']], [ids[0], ['gap']]] as const) {
    told.length = 0
    const client = connect(t, port).get('/', ...(id === undefined ? [] : [`Last-Event-ID: ${id}`]))
    await client.until(`id: ${ids[3]}`)
    client.destroy()
    await until(() => told.at(-1)?.name === 'close')
    t.same(names(told), ['open', ...expected, 'close'])
    for (const { name, message } of told.slice(1, -1)) {
      t.equal(message.connection, told[0]!.message.connection)
      t.strictSame(Object.keys(message), ['connection'], `${name}: its message is as SseDiagnostics has it`)
    }
  }
})

t.test('lag: a reader that has fallen behind and goes on', async (t) => {
  const { app, told } = await observe(t, { writeTimeout: false, keepAlive: false })
  const channel = app.sse.channel('c', { history: { events: 2, bytes: 100_000_000 }, onLag: 'gap' })
  app.get('/', (_, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/')
  await client.until('id: ')
  client.socket.pause()
  const [connection] = app.sse.connections
  await untilLagging(app.sse, channel)
  t.same(names(told), ['open'])
  client.socket.resume()
  await until(() => app.sse.stats().lags === 1)
  await client.until('event: gap')
  await turns()
  t.same(names(told).sort(), ['gap', 'lag', 'open'])
  const { message } = told.find(({ name }) => name === 'lag')!
  t.equal(message.connection, connection)
  t.strictSame(Object.keys(message), ['connection'], 'its message is as SseDiagnostics has it')
})

t.test('refuse: a request that got no stream, because the server closes, or has no room', async (t) => {
  const { app, told } = await observe(t, { maxConnections: 1 })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source, { writeTimeout: false }))
  let entered = false
  app.get('/late', async (_, reply) => {
    entered = true
    await until(() => app.sse.stats().closed.shutdown === 1)
    return reply.sse([])
  })
  const port = await listen(app)
  await connect(t, port).get('/').until('data: 1\n\n')
  await connect(t, port).get('/?full').until('503')
  t.same(names(told), ['open', 'refuse'])
  t.same(Object.keys(told[1]!.message).sort(), ['reason', 'request'])
  t.equal(told[1]!.message.request.url, '/?full')
  t.equal(told[1]!.message.reason, 'max-connections')
  // The handler is under way when the server begins to close.
  const late = connect(t, port).get('/late')
  await until(() => entered)
  const closing = app.close()
  await late.until(/HTTP[^]*\}/)
  late.destroy()
  await closing
  const { message } = told.filter(({ name }) => name === 'refuse')[1]!
  t.equal(message.request.url, '/late')
  t.equal(message.reason, 'shutdown')
  t.same(names(told).sort(), ['close', 'open', 'refuse', 'refuse'])
})

t.test('close has the error of a source that has failed, early or late', async (t) => {
  const error = new Error('no coffee')
  const sources: Record<string, [source: () => unknown, reason: EndReason]> = {
    'threw late': [function * () { yield { data: 1 }; throw error }, 'source-threw'],
    'rejected late': [async function * () { yield { data: 1 }; await turns(); throw error }, 'source-threw'],
    'threw nothing, late': [function * () { yield { data: 1 }; throw undefined }, 'source-threw'], // eslint-disable-line no-throw-literal
    'invalid late': [() => [{ data: 1 }, { retry: -1 }], 'invalid-event'],
    'threw early': [function * () { throw error }, 'source-threw'],
    'invalid early': [() => [{ retry: -1 }], 'invalid-event']
  }
  for (const [name, [source, reason]] of Object.entries(sources)) {
    await t.test(name, async (t) => {
      const { app, told } = await observe(t)
      app.get('/', async (_, reply) => (reply as any).sse(source))
      await connect(t, await listen(app)).get('/').until(/\r\n0\r\n\r\n$|\}$/)
      await until(() => told.at(-1)?.name === 'close')
      t.same(names(told), ['open', 'close'])
      const { message } = told[1]!
      t.equal(message.reason, reason)
      t.ok('error' in message, 'there is an error')
      if (reason === 'invalid-event') t.equal(message.error?.code, 'FST_SSE_INVALID_EVENT')
      else t.equal(message.error, name.startsWith('threw nothing') ? undefined : error)
    })
  }
})

t.test('close has the error of a revalidate that has failed, and none where it has said no', async (t) => {
  const error = new Error('no such user')
  for (const [answer, expected] of [[() => Promise.reject(error), error], [() => false, undefined]] as const) {
    const { app, told } = await observe(t, { revalidate: answer as () => Promise<boolean>, revalidateEvery: 1 })
    app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
    await connect(t, await listen(app)).get('/').until('0\r\n\r\n')
    await until(() => told.length === 2)
    t.equal(told[1]!.message.reason, 'revoked')
    t.equal(told[1]!.message.error, expected)
    t.equal('error' in told[1]!.message, expected !== undefined)
  }
})

t.test('a stream over HTTP/2 is told of, and logged, once', async (t) => {
  for (const path of ['/done', '/idle']) {
    const { app, told, ends } = await observe(t, {}, { http2: true } as FastifyServerOptions)
    app.get('/done', (_, reply) => reply.sse([{ data: 1 }]))
    app.get('/idle', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
    const session = http2.connect(`http://127.0.0.1:${await listen(app)}`)
    t.after(() => session.destroy())
    const stream = session.request({ ':path': path }).setEncoding('utf8')
    stream.on('error', () => {})
    stream.once('data', () => { if (path === '/idle') stream.close(http2.constants.NGHTTP2_CANCEL) })
    await until(() => told.some(({ name }) => name === 'close'))
    await turns()
    t.same(names(told), ['open', 'close'], path)
    t.equal(ends().length, 1, 'one line')
  }
})

t.test('without a subscriber nothing is published, and no message is made', async (t) => {
  for (const name of NAMES) {
    let made = 0
    const message = () => {
      made++
      return { n: made } as never
    }
    tell(name, message)
    t.equal(made, 0, name)
    const seen: unknown[] = []
    const note = (message: unknown) => { seen.push(message) }
    diagnostics.subscribe(name, note)
    tell(name, message)
    t.same(seen, [{ n: 1 }])
    diagnostics.unsubscribe(name, note)
    tell(name, message)
    t.equal(made, 1, 'nor after the last one has gone')
    t.equal(diagnostics.hasSubscribers(name), false)
  }
})

t.test('a subscriber that throws takes no stream with it', async (t) => {
  const { app, ends } = await observe(t, { onInvalidEvent: 'drop' })
  const thrown: unknown[] = []
  const fail = (message: any) => { if ((message.connection?.request ?? message.request).server === app) throw new Error('a subscriber') }
  // By design diagnostics_channel makes of it an uncaught exception, which tap would take for a failure of this test.
  const listeners = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => { thrown.push(error.message) })
  t.after(() => {
    process.removeAllListeners('uncaughtException')
    for (const listener of listeners) process.on('uncaughtException', listener)
  })
  for (const name of NAMES) {
    diagnostics.subscribe(name, fail)
    t.after(() => diagnostics.unsubscribe(name, fail))
  }
  app.get('/', (_, reply) => reply.sse([{ data: 1 }, { retry: -1 }, { data: 2 }]))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'data: 1\n\ndata: 2\n\n')
  await until(() => ends().length > 0 && thrown.length >= 3)
  await turns()
  t.same(thrown, ['a subscriber', 'a subscriber', 'a subscriber'], 'open, drop, close')
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1 }, dropped: 1 })
  t.equal(ends().length, 1)
})

interface Logged {
  level: number
  facts: { reason: EndReason, events: number }
  options?: SseOptions
  err?: string | RegExp
  msg?: string
  prepare?: (app: FastifyInstance) => void
  route: (reply: any, app: FastifyInstance) => unknown
  act: (app: FastifyInstance, client: RawClient) => unknown
}

const whole = (_: unknown, client: RawClient) => client.until(/\r\n\r\n[^]*(\n0\r\n\r\n|\})$/)
const idle = (reply: any) => reply.sse(idleSource({ data: 1 }).source)

const LOGGED: Record<string, Logged> = {
  'source done': { level: DEBUG, facts: { reason: 'source-done', events: 2 }, route: (reply) => reply.sse([{ data: 1 }, { data: 2 }]), act: whole },
  'client gone': {
    level: DEBUG,
    facts: { reason: 'client-gone', events: 1 },
    route: idle,
    async act (_, client) {
      await client.until('data: 1\n\n')
      client.destroy()
    }
  },
  'max duration': { level: DEBUG, facts: { reason: 'max-duration', events: 1 }, options: { maxDuration: 30 }, route: idle, act: whole },
  shutdown: {
    level: DEBUG,
    facts: { reason: 'shutdown', events: 1 },
    route: idle,
    async act (app, client) {
      await client.until('data: 1\n\n')
      await app.close()
    }
  },
  ended: {
    level: DEBUG,
    facts: { reason: 'ended', events: 1 },
    route: idle,
    async act (app, client) {
      await client.until('data: 1\n\n')
      for (const connection of app.sse.connections) connection.end()
    }
  },
  superseded: {
    level: DEBUG,
    facts: { reason: 'superseded', events: 0 },
    async route (reply) {
      reply.sse(async function * () { await new Promise(() => {}) })
      throw Object.assign(new Error('no'), { statusCode: 403 })
    },
    act: whole
  },
  'write timeout': {
    level: INFO, facts: { reason: 'write-timeout', events: -1 }, options: { writeTimeout: 30 }, route: (reply) => reply.sse(flood), act: stall
  },
  lagged: {
    level: INFO,
    facts: { reason: 'lagged', events: -1 },
    options: { writeTimeout: false, keepAlive: false },
    prepare: (app) => { app.sse.channel('c', { history: { events: 2, bytes: 100_000_000 } }) },
    route: (reply, app) => reply.sse(app.sse.channel('c')),
    async act (app, client) {
      await client.until('id: ')
      client.socket.pause()
      await untilLagging(app.sse, app.sse.channel('c'))
      client.socket.resume()
    }
  },
  'revoked: false': {
    level: INFO, facts: { reason: 'revoked', events: 1 }, options: { revalidate: () => false, revalidateEvery: 30 }, route: idle, act: whole
  },
  'revoked: an error': {
    level: INFO,
    facts: { reason: 'revoked', events: 1 },
    err: 'no such user',
    options: { revalidate: () => { throw new Error('no such user') }, revalidateEvery: 30 },
    route: idle,
    act: whole
  },
  'source threw': {
    level: ERROR,
    facts: { reason: 'source-threw', events: 1 },
    err: 'no coffee',
    msg: 'event stream failed',
    route: (reply) => reply.sse(function * () { yield { data: 1 }; throw new Error('no coffee') }),
    act: whole
  },
  'invalid event': {
    level: ERROR,
    facts: { reason: 'invalid-event', events: 1 },
    err: /^Invalid event: 'retry'/,
    msg: 'event stream failed',
    route: (reply) => reply.sse([{ data: 1 }, { retry: -1 }]),
    act: whole
  }
}

for (const [name, { level, facts, options, err, msg = 'event stream ended', prepare, route, act }] of Object.entries(LOGGED)) {
  t.test(`one line of the log for each stream: ${name}`, async (t) => {
    const { app, told, ends, lines } = await observe(t, options)
    prepare?.(app)
    app.get('/', async (_, reply) => route(reply, app))
    const client = connect(t, await listen(app)).get('/')
    await act(app, client)
    await until(() => told.at(-1)?.name === 'close')
    await turns()
    t.equal(ends().length, 1, 'one line')
    const [line] = ends()
    t.equal(line!.level, level)
    t.equal(line!.msg, msg)
    t.same(Object.keys(line!.sse!), ['reason', 'events', 'bytes', 'ms'])
    const { connection, ms, reason } = told.at(-1)!.message
    t.same(line!.sse, { reason, events: connection.events, bytes: connection.bytes, ms }, 'what the diagnostics say')
    t.equal(reason, facts.reason)
    if (facts.events >= 0) t.equal(line!.sse!.events, facts.events)
    if (err === undefined) t.notOk(line!.err)
    else t.match(line!.err!.message, err)
    t.equal(lines.filter((line) => line.level > DEBUG && line.level !== INFO).length, level === ERROR ? 1 : 0, 'nothing louder')
  })
}

t.test('a soft refusal is a line at info, a status is none of ours', async (t) => {
  const { app, lines } = await observe(t, { maxConnections: 1 })
  app.get('/', (_, reply) => idle(reply))
  const port = await listen(app)
  await connect(t, port).get('/').until('data: 1\n\n')
  await connect(t, port).get('/', 'Accept: text/event-stream').until(/retry: \d+\n/)
  const ours = () => lines.filter(({ msg }) => msg.startsWith('event stream'))
  t.match(ours(), [{ level: INFO, msg: 'event stream refused', sse: { refused: 'max-connections' } }])
  await connect(t, port).get('/').until('}')
  t.equal(ours().length, 1)
})

t.test('a refusal because the broker is away is a warning with its error, and one stream that has ended', async (t) => {
  const away = () => Promise.reject(new BrokerUnavailable('not today'))
  const { app, lines, told } = await observe(t, { broker: Object.assign(memoryBroker(), { read: away, listen: away }) })
  app.get('/', (_, reply) => reply.sse(app.sse.channel('c')))
  await connect(t, await listen(app)).get('/', 'Accept: text/event-stream').until(/retry: \d+\n/)
  await until(() => told.at(-1)?.name === 'close')
  t.same(names(told), ['open', 'refuse', 'close'])
  t.equal(told[1]!.message.reason, 'broker-away')
  const ours = lines.filter(({ msg }) => msg.startsWith('event stream'))
  t.match(ours, [
    { level: WARN, msg: 'event stream refused', err: { message: /not today/ } },
    { level: DEBUG, msg: 'event stream ended', sse: { reason: 'source-threw' } }
  ])
  t.equal(ours.length, 2)
})

t.test('who is told that a stream is open can end it at once, and its source is let go of', async (t) => {
  const app = await createApp(t)
  const end = (message: unknown) => (message as SseDiagnostics['fastify-typed-sse:open']).connection.end('revoked')
  diagnostics.subscribe('fastify-typed-sse:open', end)
  t.after(() => diagnostics.unsubscribe('fastify-typed-sse:open', end))
  const stream = new Readable({ objectMode: true, read () {} })
  let aborted = false
  app.get('/stream', (_, reply) => reply.sse(stream))
  app.get('/function', (_, reply) => reply.sse(({ signal }) => {
    signal.addEventListener('abort', () => { aborted = true })
    return idleSource().source({ signal })
  }))
  for (const path of ['/stream', '/function']) t.equal((await app.inject(path)).payload, '')
  t.ok(stream.destroyed)
  t.ok(aborted)
  t.match(app.sse.stats(), { open: 0, closed: { revoked: 2 } })
})
