/** What a route says of its streams, and what becomes of a reply that is answered in more ways than one. */
import { Type } from '@sinclair/typebox'
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import sse, { type SseOptions } from '../index.ts'
import { connect, createApp, fetchBody, idleSource, listen, logInto, until } from './helpers.ts'

interface Line { level: number, msg: string, err?: { code?: string, message?: string }, sse?: Record<string, unknown> }

const WARN = 40
const ERROR = 50

/** An app whose log a test can read. */
async function logged (t: Test, options?: SseOptions): Promise<{ app: FastifyInstance, lines: (level: number) => Line[] }> {
  const log: Line[] = []
  const app = fastify(logInto(log)) as unknown as FastifyInstance
  t.after(() => app.close())
  if (options !== undefined) await app.register(sse, options)
  return { app, lines: (level) => log.filter((line) => line.level === level) }
}

const events = { n: Type.Number(), message: Type.String() }
const N = { event: 'n' as const, data: 1 }
const WRONG = { event: 'n', data: 'x' } as unknown as typeof N

t.test('a route sends what its schema declares, GET or POST, by any way of adding it', async (t) => {
  const app = await createApp(t)
  const handler = async (request: unknown, reply: FastifyReply) => reply.sse([N])
  app.get('/get', { schema: { events } }, handler)
  app.post('/post', { schema: { events } }, handler)
  app.route({ method: ['PUT', 'DELETE'], url: '/route', schema: { events }, handler })
  await app.register(async (app) => { app.get('/nested', { schema: { events } }, handler) }, { prefix: '/prefix' })
  for (const [method, url] of [['GET', '/get'], ['POST', '/post'], ['PUT', '/route'], ['DELETE', '/route'], ['GET', '/prefix/nested']] as const) {
    const response = await app.inject({ method, url })
    t.equal(response.payload, 'event: n\ndata: 1\n\n', `${method} ${url}`)
    t.equal(response.headers['content-type'], 'text/event-stream')
  }
})

t.test('a POST route streams what its body asks for', async (t) => {
  const app = await createApp(t)
  app.post<{ Body: { words: string[] } }>('/', (request, reply) => {
    reply.code(201).header('x-own', 'yes').header('cache-control', 'no-store').sse(request.body.words)
  })
  const response = await app.inject({ method: 'POST', url: '/', payload: { words: ['a', 'b'] } })
  t.equal(response.payload, 'data: a\n\ndata: b\n\n')
  t.match(response, { statusCode: 201, headers: { 'x-own': 'yes', 'cache-control': 'no-store', 'x-accel-buffering': 'no' } })
})

t.test('routes that were added before the plugin has loaded are checked, and one warning tells of it', async (t) => {
  const { app, lines } = await logged(t)
  app.register(sse, { retry: 5 })
  const early = { schema: { events }, sse: { retry: 6 } }
  app.get<{ Querystring: { wrong?: string } }>('/early', early, async (request, reply) => reply.sse([request.query.wrong ? WRONG : N]))
  await app.register(async (app) => { app.get('/late', early, async (request, reply) => reply.sse([N])) })
  t.equal((await app.inject('/late')).payload, 'retry: 6\n\nevent: n\ndata: 1\n\n')
  t.same(lines(WARN), [])
  t.equal((await app.inject('/early')).payload, 'retry: 5\n\nevent: n\ndata: 1\n\n', "the plugin's options hold")
  t.match((await app.inject('/early?wrong=1')).json(), { statusCode: 500, code: 'FST_SSE_INVALID_EVENT' })
  t.equal(lines(WARN).length, 1)
  t.match(lines(WARN)[0]?.msg, /^GET \/early was added before fastify-typed-sse had loaded/)
  t.equal((await app.inject({ method: 'HEAD', url: '/early' })).statusCode, 200)
})

t.test('a bad schema of such a route fails its requests', async (t) => {
  const { app } = await logged(t)
  app.register(sse)
  app.get('/', { schema: { events: { n: { type: 'nope' } } } }, async (request, reply) => reply.sse([N] as never))
  for (let i = 0; i < 2; i++) t.match((await app.inject('/')).json(), { statusCode: 500, code: 'FST_SSE_INVALID_SCHEMA' })
})

t.test('a not-found handler may stream, without a warning', async (t) => {
  const { app, lines } = await logged(t, {})
  app.setNotFoundHandler((request, reply) => { reply.code(404).sse(['lost']) })
  const response = await app.inject('/nowhere')
  t.match(response, { statusCode: 404, payload: 'data: lost\n\n' })
  t.same(lines(WARN), [])
})

t.test('the plugin knows its own context and those inside, no others', async (t) => {
  const app = fastify()
  t.after(() => app.close())
  await app.register(async (app) => {
    await app.register(async (app) => {
      app.get('/outside', async (request, reply) => ({ sse: typeof reply.sse, id: request.lastEventId ?? 'none' }))
    })
    await app.register(async (app) => {
      await app.register(sse)
      await app.register(async (app) => { app.get('/inside', async (request, reply) => reply.sse(['x'])) })
    })
    app.get('/beside', { sse: { keepAlive: 'nonsense' } as never }, async () => 'fine')
  })
  t.same((await app.inject({ url: '/outside', headers: { 'last-event-id': '1' } })).json(), { sse: 'undefined', id: 'none' })
  t.equal((await app.inject('/inside')).payload, 'data: x\n\n')
  t.equal((await app.inject('/beside')).payload, 'fine')
})

t.test('HEAD sends the head of GET alone, and no source is started', async (t) => {
  const app = await createApp(t)
  let runs = 0
  const handler = async (request: unknown, reply: FastifyReply) => reply.header('x-own', 'yes').sse(function * () { runs++; yield 'x' })
  app.get('/twin', handler)
  app.route({ method: ['GET', 'HEAD'], url: '/both', handler })
  app.head('/custom', handler)
  app.get('/custom', handler)
  const port = await listen(app)
  for (const path of ['/twin', '/both', '/custom']) {
    const [get, head] = await Promise.all(['GET', 'HEAD'].map(async (method) => {
      const client = connect(t, port).send(`${method} ${path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n`)
      await client.untilClosed()
      return client
    }))
    const fields = (client: typeof head) => client!.head.toLowerCase().split('\r\n')
      .filter((line) => !/^(date|transfer-encoding|connection):/.test(line)).sort()
    t.same(fields(head), fields(get), path)
    t.match(head!.head, /^HTTP\/1\.1 200 OK\r\n[^]*content-type: text\/event-stream/)
    t.equal(head!.received.slice(head!.head.length), '\r\n\r\n', 'not a byte of a body')
    t.equal(get!.body, 'data: x\n\n')
  }
  t.equal(runs, 3)
  t.equal(app.sse.stats().opened, 3)
})

t.test('a reply is answered once', async (t) => {
  const app = await createApp(t)
  const code = 'FST_SSE_ALREADY_SENT'
  const { state, source } = idleSource('x')
  app.get('/twice', async (request, reply) => {
    reply.sse(['x'])
    t.throws(() => reply.sse(source), { code, message: 'reply.sse: it was called already for this request, which gets one stream: make one source of all' })
    return reply
  })
  app.get('/after', (request, reply) => {
    reply.send('first')
    t.throws(() => reply.sse(source), { code, message: /^reply\.sse: another answer was sent before: / })
  })
  app.get('/hijacked', (request, reply) => {
    reply.hijack()
    t.throws(() => reply.sse(source), { code })
    reply.raw.end('mine')
  })
  app.get('/uncaught', async (request, reply) => { reply.sse(source); reply.sse(source) })
  t.equal((await app.inject('/twice')).payload, 'data: x\n\n')
  t.equal((await app.inject('/after')).payload, 'first')
  t.equal((await app.inject('/hijacked')).payload, 'mine')
  t.equal(state.started, false)
  t.match((await app.inject('/uncaught')).json(), { statusCode: 500, code })
  t.ok(state.finished, 'the first stream is let go of')
  t.equal(app.sse.connections.size, 0)
})

t.test('a handler need not return the reply', async (t) => {
  const { app, lines } = await logged(t, {})
  app.get('/async', async (request, reply) => { reply.sse(['x']) })
  app.get('/sync', (request, reply) => { reply.sse(['x']) })
  app.get('/late', async (request, reply) => {
    reply.sse(['x'])
    await until(() => app.sse.stats().closed['source-done'] === 3)
  })
  app.get('/later', (request, reply) => { setImmediate(() => reply.sse(['x'])) })
  for (const url of ['/async', '/sync', '/late', '/later']) t.equal((await app.inject(url)).payload, 'data: x\n\n', url)
  t.same([...lines(WARN), ...lines(ERROR)], [])
})

t.test('a handler that throws after reply.sse is answered with its error, and the source is stopped', async (t) => {
  const app = await createApp(t)
  const failure = () => Object.assign(new Error('late'), { statusCode: 409 })
  const sources: Record<string, ReturnType<typeof idleSource>> = {}
  const open = (reply: FastifyReply, url: string) => reply.sse((sources[url] = idleSource('x')).source)
  app.get('/async', async (request, reply) => { open(reply, '/async'); throw failure() })
  app.get('/sync', (request, reply) => { open(reply, '/sync'); throw failure() })
  app.get('/send', (request, reply) => { open(reply, '/send'); reply.send(failure()) })
  for (const url of ['/async', '/sync', '/send']) {
    t.match((await app.inject(url)).json(), { statusCode: 409, message: 'late' }, url)
    await until(() => sources[url]!.state.finished)
    t.equal(sources[url]!.state.started, true)
  }
  t.match(app.sse.stats(), { open: 0, opened: 3, closed: { superseded: 3 } })
})

t.test('an invalid event ends the stream, or is dropped, logged and counted', async (t) => {
  const { app, lines } = await logged(t, {})
  const source = async function * () {
    yield N
    yield WRONG
    yield { id: '\n' } as unknown as typeof N
    yield N
  }
  const sent = 'event: n\ndata: 1\n\n'
  app.get('/fail', { schema: { events } }, async (request, reply) => reply.sse(source))
  app.get('/drop', { schema: { events }, sse: { onInvalidEvent: 'drop' } }, async (request, reply) => reply.sse(source))
  t.equal((await app.inject('/fail')).payload, sent)
  await until(() => lines(ERROR).length > 0)
  t.match(lines(ERROR), [{ sse: { reason: 'invalid-event', events: 1 }, err: { code: 'FST_SSE_INVALID_EVENT' } }])
  t.same(lines(WARN), [])
  t.equal((await app.inject('/drop')).payload, sent + sent)
  t.match(lines(WARN).map(({ msg, err }) => [msg, err?.code, err?.message]), [
    ['invalid event dropped', 'FST_SSE_INVALID_EVENT', /event 'n', data: expected number/],
    ['invalid event dropped', 'FST_SSE_INVALID_EVENT', /'id' has a line end/]
  ])
  t.match(app.sse.stats(), { dropped: 2, gaps: 0, lags: 0, events: 3, closed: { 'invalid-event': 1, 'source-done': 1 } })
})

t.test('onError gives the last event; without it nothing of the error is told', async (t) => {
  const { app, lines } = await logged(t, {})
  const error = new Error('secret')
  let returned: unknown
  const given: unknown[][] = []
  async function * failing () {
    yield N
    throw error
  }
  app.get('/silent', { schema: { events } }, async (request, reply) => reply.sse(failing))
  const onError = (...args: unknown[]) => {
    given.push(args)
    return typeof returned === 'function' ? returned() : returned
  }
  app.get('/told', { schema: { events }, sse: { onError } }, async (request, reply) => reply.sse(failing))
  const start = 'event: n\ndata: 1\n\n'
  t.equal((await app.inject('/silent')).payload, start)
  await until(() => lines(ERROR).length > 0)
  t.match(lines(ERROR), [{ msg: 'event stream failed', sse: { reason: 'source-threw' }, err: { message: 'secret' } }])

  const farewells: [unknown, string][] = [
    [undefined, ''], ['bye', 'data: bye\n\n'], [{ event: 'n', data: 2, id: 9 }, 'id: 9\nevent: n\ndata: 2\n\n'],
    [{ event: 'oops', data: { any: 'thing' } }, 'event: oops\ndata: {"any":"thing"}\n\n'], [{ retry: 60_000 }, 'retry: 60000\n\n'],
    [{ comment: 'x' }, ': x\n\n']
  ]
  for (const [last, sent] of farewells) {
    returned = last
    const before = lines(ERROR).length
    t.equal((await app.inject('/told')).payload, start + sent)
    await until(() => lines(ERROR).length === before + 1)
  }
  t.equal(given[0]![0], error)
  t.match((given[0]![1] as { url: string }).url, '/told')

  const nonsense = [
    null, 5, {}, { event: 'n', data: 'x' }, { data: 5 }, { event: 'a\nb', data: 1 }, { data: 1n, event: 'oops' }, Promise.resolve('bye'),
    () => { throw new Error('onError failed') }
  ]
  for (const value of nonsense) {
    const before = lines(ERROR).length
    returned = value
    t.equal((await app.inject('/told')).payload, start, 'the stream ends all the same')
    await until(() => lines(ERROR).length >= before + 2)
    t.match(lines(ERROR).slice(before).map(({ msg }) => msg).sort(), ['event stream failed', /^onError has /])
    t.equal(lines(ERROR).length, before + 2)
  }
  t.equal(app.sse.stats().closed['source-threw'], 1 + farewells.length + nonsense.length)
})

t.test('a source that fails before its first event gets the error handler, and onError is not asked', async (t) => {
  const app = await createApp(t, { onError: () => { t.fail('asked'); return 'x' } })
  app.setErrorHandler((error: Error, request, reply) => { reply.code(418).send({ own: error.message, cause: error.cause }) })
  app.get('/throws', async (request, reply) => reply.sse(async function * () { throw new Error('early') } as () => AsyncGenerator<string>))
  app.get('/invalid', { schema: { events } }, async (request, reply) => reply.sse([WRONG]))
  app.get('/other', async (request, reply) => reply.sse(function * () { throw 'a string' } as () => Generator<string>)) // eslint-disable-line no-throw-literal
  t.match(await app.inject('/throws'), { statusCode: 418, payload: '{"own":"early"}' })
  t.match((await app.inject('/invalid')).json(), { own: /data: expected number/ })
  t.match((await app.inject('/other')).json(), { own: 'The source of an event stream failed', cause: 'a string' })
})

t.test('stats counts; connections shows what is open', async (t) => {
  const app = await createApp(t)
  const { source } = idleSource({ data: 'é' })
  app.get('/idle', async (request, reply) => reply.sse(source))
  app.get('/done', async (request, reply) => reply.sse(['x', { comment: 'c' }]))
  const closed = {
    'source-done': 0,
    'client-gone': 0,
    'source-threw': 0,
    'invalid-event': 0,
    'write-timeout': 0,
    lagged: 0,
    'max-duration': 0,
    shutdown: 0,
    ended: 0,
    revoked: 0,
    superseded: 0
  }
  const refused = { shutdown: 0, 'broker-away': 0, 'max-connections': 0, 'max-connections-per-client': 0 }
  const none = { open: 0, opened: 0, closed, refused, events: 0, bytes: 0, dropped: 0, replays: 0, gaps: 0, lags: 0 }
  t.same(app.sse.stats(), none)
  const port = await listen(app)
  const done = await fetchBody(t, port, '/done')
  const first = connect(t, port).get('/idle')
  const second = connect(t, port).get('/idle')
  for (const client of [first, second]) await client.until('data: "Ã©"')
  const bytes = Buffer.byteLength(done) + 2 * Buffer.byteLength('data: "é"\n\n')
  t.same(app.sse.stats(), { ...none, open: 2, opened: 3, events: 4, bytes, closed: { ...closed, 'source-done': 1 } })
  t.equal(app.sse.connections.size, 2)
  const [one, two] = [...app.sse.connections]
  t.match(one, { request: { url: '/idle' }, openedAt: Date, events: 1, bytes: Buffer.byteLength('data: "é"\n\n'), behind: false })
  one!.end()
  t.same([...app.sse.connections], [two])
  second.destroy()
  first.destroy()
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats().closed, { ended: 1, 'client-gone': 1 })
  app.sse.stats().opened = 99
  t.equal(app.sse.stats().opened, 3, 'what is given is a copy')
  t.same([...app.sse.connections], [])
})
