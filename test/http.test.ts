/** HTTP/1.0, HTTP/1.1 with its pipelines and re-used sockets, HTTP/2 with and without TLS; methods, status, headers. */
import type { FastifyServerOptions } from 'fastify'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http2, { type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders } from 'node:http2'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { connect, createApp, deferred, idleSource, listen, ownClock, turns, until } from './helpers.ts'

const DEFAULT_HEADERS = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no'
}

/** The headers of a response that this plugin and the app have set: all but those that Node adds to every one. */
function headersOf (head: string): Record<string, string> {
  const lines = head.split('\r\n').slice(1).map((line) => line.split(': ') as [string, string])
  return Object.fromEntries(lines.filter(([name]) => !/^(Date|Connection|Keep-Alive|Transfer-Encoding)$/.test(name)))
}

t.test('HTTP/1.0: the plain bytes, ended by the end of the connection', async (t) => {
  const app = await createApp(t)
  app.get('/', (_, reply) => reply.sse([{ data: 1 }, { data: 2 }]))
  const client = connect(t, await listen(app)).send('GET / HTTP/1.0\r\nHost: test\r\n\r\n')
  await client.untilClosed()
  t.match(client.head, /^HTTP\/1\.1 200 /)
  t.notMatch(client.head, /transfer-encoding|content-length/i)
  t.same(headersOf(client.head), DEFAULT_HEADERS)
  t.equal(client.received.slice(client.head.length), '\r\n\r\ndata: 1\n\ndata: 2\n\n')
})

t.test('HTTP/1.0: each event goes out at once', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => reply.sse(source))
  const client = connect(t, await listen(app)).send('GET / HTTP/1.0\r\nHost: test\r\n\r\n')
  await client.until('\r\n\r\ndata: 1\n\n')
  client.destroy()
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
})

t.test('HTTP/1.1 pipelining: a stream, JSON and a stream, in this order', async (t) => {
  const app = await createApp(t)
  const gate = deferred()
  app.get('/first', (_, reply) => reply.sse(async function * () {
    yield { data: 'a' }
    await gate.promise
    yield { data: 'b' }
  }))
  app.get('/json', async () => ({ ok: true }))
  app.get('/third', (_, reply) => reply.sse([{ data: 'c' }], { retry: 1 }))
  const client = connect(t, await listen(app)).get('/first').get('/json').get('/third')
  await until(() => app.sse.stats().opened === 2)
  await client.until('data: "a"')
  await turns()
  t.match(client.body, /^data: "a"\n\n$/)
  t.notMatch(client.received, 'ok', 'what is behind a stream waits for its end')
  gate.resolve()
  await client.until('data: "c"\n\n\r\n0\r\n\r\n')
  const bodies = client.received.split(/HTTP\/1\.1 200 OK\r\n(?:.+\r\n)+\r\n/)
  t.same(bodies, [
    '',
    'b\r\ndata: "a"\n\n\r\nb\r\ndata: "b"\n\n\r\n0\r\n\r\n',
    '{"ok":true}',
    '15\r\nretry: 1\n\ndata: "c"\n\n\r\n0\r\n\r\n'
  ])
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 2 } })
})

t.test('HTTP/1.1 pipelining: a stream that waits behind a long one loses nothing, and is not cut off', async (t) => {
  const many = Array.from({ length: 3_000 }, (_, data) => ({ data }))
  for (const count of [1, 3_000]) {
    await t.test(`${count} events`, async (t) => {
      const app = await createApp(t, { keepAlive: 1_000, writeTimeout: 2_000 })
      const second = deferred()
      app.get('/first', (_, reply) => reply.sse(idleSource({ data: 'first' }).source))
      app.get('/second', (_, reply) => {
        second.resolve()
        return reply.sse(many.slice(0, count))
      })
      const port = await listen(app)
      const clock = ownClock(t)
      const client = connect(t, port).get('/first').get('/second')
      await client.until('data: "first"\n\n')
      await second.promise
      await turns()
      await clock.tickAsync(10_000)
      await turns()
      const [first] = app.sse.connections
      first!.end()
      await until(() => client.closed || /0\r\n\r\n[^]*\r\n0\r\n\r\n$/.test(client.received), () => 'the end of both')
      t.match(client.received, ('\ndata: "first"\n\n\r\n' + '3\r\n:\n\n\r\n'.repeat(10) + '0\r\n\r\n').slice(1),
        'the first was kept alive, ten times')
      client.received = client.received.slice(client.received.indexOf('\r\n0\r\n\r\n') + 7)
      t.match(client.head, /^HTTP\/1\.1 200 /)
      t.ok(client.body === many.slice(0, count).map(({ data }) => `data: ${data}\n\n`).join(''), 'all of the second')
      t.match(app.sse.stats(), { open: 0, closed: { ended: 1, 'source-done': 1 } })
    })
  }
})

t.test('HTTP/1.1 pipelining: a stream that waits behind an endless one has not started when the socket dies', async (t) => {
  const app = await createApp(t)
  const first = idleSource({ data: 1 })
  const second = idleSource({ data: 2 })
  let responses = 0
  app.addHook('onResponse', async () => { responses++ })
  app.get('/first', (_, reply) => reply.sse(first.source))
  app.get('/second', (_, reply) => reply.sse(second.source))
  const client = connect(t, await listen(app)).get('/first').get('/second')
  await client.until('data: 1\n\n')
  await until(() => app.sse.stats().opened === 2)
  await turns()
  t.equal(app.sse.stats().open, 2)
  client.destroy()
  await until(() => first.state.finished, () => 'the source to be stopped')
  await until(() => responses === 2, () => 'onResponse of both')
  await turns()
  t.equal(responses, 2)
  t.same(second.state, { started: false, aborted: false, finished: false })
  t.match(app.sse.stats(), { open: 0, opened: 2, closed: { 'client-gone': 2 } })
})

t.test('HTTP/1.1 pipelining: a stream that waits behind a route that takes its time ends when the socket dies', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  const gate = deferred()
  let responses = 0
  app.addHook('onResponse', async (request) => { if (request.url !== '/slow') responses++ })
  app.get('/slow', async () => { await gate.promise })
  app.get('/idle', (_, reply) => reply.sse(source))
  app.get('/finite', (_, reply) => reply.sse([{ data: 2 }]))
  const client = connect(t, await listen(app)).get('/slow').get('/idle').get('/finite')
  await until(() => app.sse.stats().opened === 2)
  await turns()
  client.destroy()
  await until(() => responses === 2, () => 'onResponse of both')
  await turns()
  gate.resolve()
  await turns()
  t.equal(responses, 2)
  t.equal(state.started, false, 'what waits for its turn pulls nothing')
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 2 } })
})

t.test('HTTP/1.1 pipelining: a request that waits behind another, whose client is gone before reply.sse', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  const gate = deferred()
  const gone = deferred()
  let responses = 0
  let entered = false
  app.addHook('onResponse', async (request) => { if (request.url === '/gated') responses++ })
  app.get('/slow', async () => { await gate.promise })
  app.get('/gated', async (request, reply) => {
    entered = true
    request.raw.socket.once('close', () => gone.resolve())
    await gone.promise
    await turns()
    return reply.sse(source)
  })
  const client = connect(t, await listen(app)).get('/slow').get('/gated')
  await until(() => entered)
  client.destroy()
  await until(() => responses === 1, () => 'onResponse')
  gate.resolve()
  await turns()
  t.equal(responses, 1)
  t.equal(state.started, false)
})

t.test('the socket of a finished stream takes the next request', async (t) => {
  const app = await createApp(t)
  app.get('/stream', (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/json', async () => ({ ok: true }))
  let connections = 0
  app.server.on('connection', () => { connections++ })
  const client = connect(t, await listen(app)).get('/stream')
  await client.until('9\r\ndata: 1\n\n\r\n0\r\n\r\n')
  client.received = ''
  await client.get('/json').until('{"ok":true}')
  client.received = ''
  await client.get('/stream').until('9\r\ndata: 1\n\n\r\n0\r\n\r\n')
  t.equal(connections, 1)
  t.equal(client.closed, false)
})

t.test('HEAD: the head alone, and no source is started', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => reply.code(202).header('x-own', 'yes').sse(source))
  app.get('/json', async () => ({ ok: true }))
  const client = connect(t, await listen(app)).send('HEAD / HTTP/1.1\r\nHost: test\r\n\r\n')
  await client.until('\r\n\r\n')
  await turns()
  t.match(client.head, /^HTTP\/1\.1 202 /)
  t.same(headersOf(client.head), { ...DEFAULT_HEADERS, 'x-own': 'yes' })
  t.equal(client.received, client.head + '\r\n\r\n')
  t.equal(state.started, false)
  t.match(app.sse.stats(), { open: 0, opened: 0 })
  await t.resolves(client.get('/json').until('{"ok":true}'), 'and the socket takes the next request')
})

t.test('the status code of the reply is kept', async (t) => {
  const app = await createApp(t)
  app.get('/', (_, reply) => reply.code(203).sse([{ data: 1 }]))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.match(client.head, /^HTTP\/1\.1 203 /)
  t.equal(client.body, 'data: 1\n\n')
})

t.test('POST: the body is read, and a client that goes away after it is noticed', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource()
  app.post('/', (request, reply) => reply.sse(async function * (context) {
    yield { data: request.body }
    yield * source(context)
  }))
  const client = connect(t, await listen(app)).send(
    'POST / HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}')
  await client.until('data: {"a":1}\n\n')
  await turns()
  t.equal(app.sse.stats().open, 1, 'that the request is read to its end is not the end')
  t.equal(state.finished, false)
  client.destroy()
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
})

t.test('GET with a body that nobody reads: a client that goes away is noticed, and the connection stays in order', async (t) => {
  const app = await createApp(t, { keepAlive: false })
  const { state, source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => reply.sse(source))
  app.get('/finite', (_, reply) => reply.sse([{ data: 2 }]))
  app.get('/reads', (request, reply) => reply.sse(async function * () {
    let length = 0
    for await (const bytes of request.raw) length += bytes.length
    yield { data: length }
  }))
  const port = await listen(app)
  // More than Node reads ahead.
  const body = 'GET /other HTTP/1.1\r\n\r\n'.padEnd(300_000, 'x')
  const withBody = (path: string) => `GET ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  const inOrder = connect(t, port).send(withBody('/finite') + withBody('/reads') + withBody('/finite'))
  await inOrder.until(/data: 2\n\n[^]*HTTP\/1.1 200[^]*data: 300000\n\n[^]*HTTP\/1.1 200[^]*data: 2\n\n/)
  const client = connect(t, port).send(withBody('/'))
  await client.until('data: 1\n\n')
  await turns()
  t.equal(state.finished, false, 'that the body is read to its end is not the end')
  client.destroy()
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
})

t.test('GET without a body: the request is closed, and aborted, when its client goes away, and not before', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  const told: string[] = []
  app.addHook('onRequestAbort', async (_request) => { told.push('onRequestAbort') })
  app.get('/', (request, reply) => {
    request.raw.on('close', () => told.push('close'))
    return reply.sse(source)
  })
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1\n\n')
  await turns()
  t.same(told, [])
  client.destroy()
  await until(() => state.finished && told.length === 2)
  t.same(told.sort(), ['close', 'onRequestAbort'])
})

t.test('headers: the defaults, and nothing that belongs to the connection', async (t) => {
  const app = await createApp(t)
  const seen: unknown[] = []
  app.addHook('onSend', async (_, reply) => { seen.push(reply.getHeaders()) })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }]))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.same(headersOf(client.head), DEFAULT_HEADERS)
  t.same(seen, [DEFAULT_HEADERS], 'neither connection nor content-length')
})

t.test('headers: the length of another answer does not end the stream, nor reach into the next one', async (t) => {
  const app = await createApp(t)
  const headers: Record<string, string>[] = [{ 'content-length': '5' }, { 'Content-Length': '5000' }]
  app.get('/:n', (request, reply) => {
    reply.headers(headers[Number((request.params as { n: string }).n)]!)
    return reply.sse([{ data: 1 }, { data: 2 }])
  })
  app.get('/json', async () => ({ json: true }))
  const port = await listen(app)
  for (const n of headers.keys()) {
    const client = connect(t, port).get(`/${n}`).get('/json')
    await client.until('{"json":true}')
    t.same(headersOf(client.head), DEFAULT_HEADERS)
    t.equal(client.body, 'data: 1\n\ndata: 2\n\n')
    t.match(client.received, /\n\r\n0\r\n\r\nHTTP\/1.1 200 OK\r\n[^]*\r\n\r\n\{"json":true\}$/)
  }
})

t.test('headers: each default gives way to what the handler has set', async (t) => {
  for (const [name, value] of Object.entries({
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    'x-accel-buffering': 'yes'
  })) {
    const app = await createApp(t)
    app.get('/', (_, reply) => reply.header(name, value).sse([{ data: 1 }]))
    const client = connect(t, await listen(app)).get('/')
    await client.until('0\r\n\r\n')
    t.same(headersOf(client.head), { ...DEFAULT_HEADERS, [name]: value })
  }
})

/** An HTTP/2 server and a client's session with it, over TLS or without. */
async function startHttp2 (t: Test, tls: boolean) {
  const options: Record<string, unknown> = { http2: true }
  if (tls) {
    const dir = t.testdir()
    const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')]
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
      '-keyout', key, '-out', cert, '-days', '1', '-subj', '/CN=localhost'], { stdio: 'ignore' })
    options.https = { key: readFileSync(key), cert: readFileSync(cert) }
  }
  const app = await createApp(t, {}, options as FastifyServerOptions)
  const responses: number[] = []
  app.addHook('onResponse', async (_, reply) => { responses.push(reply.statusCode) })
  async function openSession (): Promise<ClientHttp2Session> {
    const port = await listen(app)
    const session = http2.connect(`${tls ? 'https' : 'http'}://127.0.0.1:${port}`, { rejectUnauthorized: false })
    session.on('error', () => {})
    t.after(() => session.destroy())
    return session
  }
  return { app, responses, openSession }
}

/** What a stream of HTTP/2 gets, as it comes. */
async function receive (stream: ClientHttp2Stream) {
  const got = { headers: {} as IncomingHttpHeaders, body: '', ended: false }
  stream.setEncoding('utf8')
  stream.on('error', () => {})
  stream.on('data', (text: string) => { got.body += text })
  stream.on('end', () => { got.ended = true })
  ;[got.headers] = await once(stream, 'response')
  return got
}

/** All headers but the date. */
function sent (headers: IncomingHttpHeaders): Record<string, unknown> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name !== 'date'))
}

for (const tls of [false, true]) {
  t.test(tls ? 'HTTP/2 over TLS' : 'HTTP/2 without TLS', async (t) => {
    await t.test('a finite stream: its bytes, its headers, its end', async (t) => {
      const { app, responses, openSession } = await startHttp2(t, tls)
      app.get('/', (_, reply) => reply.code(203).header('x-own', 'yes').sse([{ data: 1 }, { data: 2 }]))
      const session = await openSession()
      const got = await receive(session.request({ ':path': '/' }))
      await until(() => got.ended)
      t.same(sent(got.headers), { ':status': 203, 'x-own': 'yes', ...DEFAULT_HEADERS }, 'no connection, no content-length')
      t.equal(got.body, 'data: 1\n\ndata: 2\n\n')
      await until(() => responses.length > 0)
      await turns()
      t.same(responses, [203])
      t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1 } })
    })

    await t.test('the head of an idle stream goes out at once, events as they come', async (t) => {
      const { app, openSession } = await startHttp2(t, tls)
      const gate = deferred()
      app.get('/', (_, reply) => reply.sse(async function * () {
        await gate.promise
        yield { data: 1 }
      }))
      const session = await openSession()
      const got = await receive(session.request({ ':path': '/' }))
      t.equal(got.headers[':status'], 200)
      t.equal(got.body, '')
      gate.resolve()
      await until(() => got.ended)
      t.equal(got.body, 'data: 1\n\n')
    })

    await t.test('many streams on one session, of which one is reset: its source stops, the others go on', async (t) => {
      const { app, responses, openSession } = await startHttp2(t, tls)
      const gate = deferred()
      const finished: number[] = []
      app.get<{ Params: { n: string } }>('/:n', (request, reply) => reply.sse(async function * ({ signal }) {
        const n = Number(request.params.n)
        try {
          yield { data: n }
          await Promise.race([gate.promise, once(signal, 'abort')])
          yield { data: n * 2 }
        } finally {
          finished.push(n)
        }
      }))
      const session = await openSession()
      const streams = Array.from({ length: 50 }, (_, n) => session.request({ ':path': `/${n}` }))
      const got = await Promise.all(streams.map(receive))
      await until(() => got.every(({ body }) => body !== ''))
      t.equal(app.sse.stats().open, 50)
      streams[7]!.close(http2.constants.NGHTTP2_CANCEL)
      await until(() => finished.length > 0)
      await turns()
      t.same(finished, [7])
      t.equal(app.sse.stats().open, 49)
      t.equal(responses.length, 1, 'onResponse ran for the one that was reset')
      gate.resolve()
      await until(() => got.every(({ ended }, n) => ended || n === 7))
      t.same(got.map(({ body }) => body), got.map((_, n) => n === 7 ? 'data: 7\n\n' : `data: ${n}\n\ndata: ${n * 2}\n\n`))
      await until(() => responses.length === 50)
      t.match(app.sse.stats(), { open: 0, opened: 50, closed: { 'source-done': 49, 'client-gone': 1 } })
    })

    await t.test('a session that is destroyed stops all its sources', async (t) => {
      const { app, responses, openSession } = await startHttp2(t, tls)
      const sources = Array.from({ length: 10 }, () => idleSource({ data: 1 }))
      app.get<{ Params: { n: number } }>('/:n', (request, reply) => reply.sse(sources[request.params.n]!.source))
      const session = await openSession()
      await Promise.all(sources.map((_, n) => receive(session.request({ ':path': `/${n}` }))))
      session.destroy()
      await until(() => sources.every(({ state }) => state.finished))
      await until(() => responses.length === 10)
      t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 10 } })
    })

    await t.test('a client that reads no more: the source waits, then goes on', async (t) => {
      const { app, openSession } = await startHttp2(t, tls)
      let pulls = 0
      app.get('/', (_, reply) => reply.sse(function * () {
        for (; pulls < 2_000; pulls++) yield { raw: 'x'.repeat(1_024) }
      }))
      const session = await openSession()
      const stream = session.request({ ':path': '/' })
      await once(stream, 'response')
      stream.on('error', () => {})
      await until(() => [...app.sse.connections][0]?.behind === true)
      await turns(200)
      t.ok(pulls < 1_000, `stopped after ${pulls} pulls`)
      const got = { bytes: 0, ended: false }
      stream.on('data', (data) => { got.bytes += data.length })
      stream.on('end', () => { got.ended = true })
      await until(() => got.ended)
      t.equal(got.bytes, 2_000 * (1_024 + 'data: \n\n'.length))
      t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1 } })
    })

    await t.test('POST with a body, and HEAD', async (t) => {
      const { app, openSession } = await startHttp2(t, tls)
      const { state, source } = idleSource()
      app.post('/', (request, reply) => reply.sse(async function * (context) {
        yield { data: request.body }
        yield * source(context)
      }))
      app.get('/', (_, reply) => reply.sse(source))
      const session = await openSession()
      const head = await receive(session.request({ ':path': '/', ':method': 'HEAD' }))
      await until(() => head.ended)
      t.same(sent(head.headers), { ':status': 200, ...DEFAULT_HEADERS })
      t.equal(head.body, '')
      t.equal(state.started, false)
      const post = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'application/json' })
      post.end('{"a":1}')
      const got = await receive(post)
      await until(() => got.body !== '')
      t.equal(got.body, 'data: {"a":1}\n\n')
      await turns()
      t.equal(app.sse.stats().open, 1)
      post.close(http2.constants.NGHTTP2_CANCEL)
      await until(() => state.finished)
      t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
    })
  })
}
