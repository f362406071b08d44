/** What Fastify does with any other reply, it does with an event stream: hooks, headers, errors, inject, logging. */
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import http2 from 'node:http2'
import { PassThrough, Transform, type Readable } from 'node:stream'
import t from 'tap'
import { untilBehind } from './behind.ts'
import { connect, createApp, deferred, fetchBody, idleSource, listen, logInto, ownClock, turns, until } from './helpers.ts'

/** Notes the hooks in the order in which they run. */
function noteHooks (app: FastifyInstance): string[] {
  const ran: string[] = []
  app.addHook('onRequest', async () => { ran.push('onRequest') })
  app.addHook('preParsing', async () => { ran.push('preParsing') })
  app.addHook('preValidation', async () => { ran.push('preValidation') })
  app.addHook('preHandler', async () => { ran.push('preHandler') })
  app.addHook('preSerialization', async (_request, _reply, payload) => { ran.push('preSerialization'); return payload })
  app.addHook('onSend', async (_request, _reply, payload) => { ran.push('onSend'); return payload })
  app.addHook('onResponse', async () => { ran.push('onResponse') })
  app.addHook('onError', async () => { ran.push('onError') })
  app.addHook('onTimeout', async () => { ran.push('onTimeout') })
  app.addHook('onRequestAbort', async (_request) => { ran.push('onRequestAbort') })
  return ran
}

const BEFORE = ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'handler', 'onSend']

t.test('hooks run as for any reply, onResponse when the stream has ended', async (t) => {
  const app = await createApp(t)
  const ran = noteHooks(app)
  const gate = deferred()
  app.get('/', (_, reply) => {
    ran.push('handler')
    return reply.sse(async function * () {
      yield { data: 1 }
      await gate.promise
      yield { data: 2 }
    })
  })
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1\n\n')
  await turns()
  t.same(ran, BEFORE)
  gate.resolve()
  await client.until('0\r\n\r\n')
  await until(() => ran.includes('onResponse'))
  await turns()
  t.same(ran, [...BEFORE, 'onResponse'])
})

t.test('hooks run as for any reply, onResponse once also when the client has aborted', async (t) => {
  const app = await createApp(t)
  const ran = noteHooks(app)
  app.get('/', (_, reply) => {
    ran.push('handler')
    return reply.sse(idleSource({ data: 1 }).source)
  })
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1\n\n')
  await turns()
  client.destroy()
  await until(() => ran.includes('onResponse'))
  await turns()
  t.same(ran.filter((name) => name !== 'onRequestAbort'), [...BEFORE, 'onResponse'])
})

t.test('a handler may be synchronous, asynchronous, and need not return the reply', async (t) => {
  const app = await createApp(t)
  const events = [{ data: 1 }]
  app.get('/sync', (_, reply) => { reply.sse(events) })
  app.get('/sync-return', (_, reply) => reply.sse(events))
  app.get('/async', async (_, reply) => { reply.sse(events) })
  app.get('/async-return', async (_, reply) => {
    await turns()
    return reply.sse(events)
  })
  const port = await listen(app)
  for (const path of ['/sync', '/sync-return', '/async', '/async-return']) {
    t.equal(await fetchBody(t, port, path), 'data: 1\n\n', path)
  }
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 4 } })
})

t.test('@fastify/cors, @fastify/cookie and @fastify/helmet, and headers of the handler, arrive', async (t) => {
  const app = await createApp(t)
  await app.register(cors, { origin: 'https://example.test', credentials: true })
  await app.register(cookie)
  await app.register(helmet)
  app.get('/', (_, reply) => reply
    .setCookie('a', '1', { httpOnly: true, sameSite: 'lax' })
    .setCookie('b', '2', { sameSite: 'lax' })
    .header('x-own', 'yes')
    .header('link', ['<a>', '<b>'])
    .sse([{ data: 1 }]))
  const client = connect(t, await listen(app)).get('/', 'Origin: https://example.test')
  await client.until('0\r\n\r\n')
  for (const line of [
    'access-control-allow-origin: https://example.test', 'access-control-allow-credentials: true',
    'set-cookie: a=1; HttpOnly; SameSite=Lax', 'set-cookie: b=2; SameSite=Lax', 'x-own: yes', 'link: <a>', 'link: <b>',
    'X-Content-Type-Options: nosniff', 'X-Frame-Options: SAMEORIGIN', 'content-type: text/event-stream'
  ]) t.ok(client.head.split('\r\n').includes(line), line)
  t.equal(client.body, 'data: 1\n\n')
})

t.test('an onSend hook may take its time: it sets headers, and the events wait for it', async (t) => {
  const app = await createApp(t)
  const gate = deferred()
  let yielded = 0
  app.addHook('onSend', async (_, reply) => {
    await gate.promise
    reply.header('x-late', 'yes')
  })
  app.get('/', (_, reply) => reply.sse(function * () {
    for (let n = 0; n < 100; n++) {
      yielded++
      yield { data: n }
    }
  }))
  const client = connect(t, await listen(app)).get('/')
  await until(() => yielded === 100)
  await turns()
  t.equal(client.received, '')
  gate.resolve()
  await client.until('0\r\n\r\n')
  t.match(client.head, /\r\nx-late: yes(\r\n|$)/)
  t.equal(client.body, Array.from({ length: 100 }, (_, n) => `data: ${n}\n\n`).join(''))
})

t.test('a source is not pulled without bound while an onSend hook takes its time', async (t) => {
  const app = await createApp(t)
  const gate = deferred()
  let pulls = 0
  app.addHook('onSend', async () => { await gate.promise })
  app.get('/', (_, reply) => reply.sse(function * () {
    while (pulls++ < 1_000) yield { raw: 'x'.repeat(1_024) }
  }))
  const client = connect(t, await listen(app)).get('/', 'Connection: close')
  await until(() => pulls > 0)
  await turns(100)
  t.ok(pulls < 100, `stopped after ${pulls} pulls`)
  gate.resolve()
  await client.untilClosed()
  t.equal(client.body.length, 1_000 * (1_024 + 'data: \n\n'.length))
})

t.test('an onSend hook that fails: Fastify\'s ordinary error response, and the source is stopped', async (t) => {
  for (const options of [{}, { http2: true }] as FastifyServerOptions[]) {
    const app = await createApp(t, {}, options)
    const { state, source } = idleSource({ data: 1 })
    let responses = 0
    let fails = true
    app.addHook('onSend', async () => {
      if (!fails) return
      fails = false
      throw new Error('hook failed')
    })
    app.addHook('onResponse', async () => { responses++ })
    app.get('/', (_, reply) => reply.sse(source))
    const port = await listen(app)
    let status = ''
    let body = ''
    if ('http2' in options) {
      const session = http2.connect(`http://127.0.0.1:${port}`)
      t.after(() => session.destroy())
      const stream = session.request({ ':path': '/' }).setEncoding('utf8')
      stream.on('response', (headers) => { status = String(headers[':status']) })
      stream.on('data', (text) => { body += text })
      await until(() => body.endsWith('}'))
    } else {
      const client = connect(t, port).get('/')
      await client.until('}')
      status = client.head.slice(9, 12)
      body = client.body
    }
    t.equal(status, '500')
    t.match(JSON.parse(body), { statusCode: 500, message: 'hook failed' })
    await until(() => state.finished, () => 'the source to be stopped')
    await until(() => responses === 1)
    await turns()
    t.equal(responses, 1)
    t.same(state, { started: true, aborted: true, finished: true })
    t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 0 } }, 'for which the client is not to blame')
  }
})

t.test('inject: a finite stream', async (t) => {
  const app = await createApp(t)
  app.get('/', (_, reply) => reply.code(201).sse([{ data: 1 }, { data: 'é' }]))
  const response = await app.inject('/')
  t.equal(response.statusCode, 201)
  t.equal(response.body, 'data: 1\n\ndata: "é"\n\n')
  t.match(response.headers, {
    'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no'
  })
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1 } })
})

t.test('inject: the first events of an endless stream, as a stream', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 }, { data: 2 })
  app.get('/', (_, reply) => reply.sse(source))
  const response = await app.inject({ url: '/', payloadAsStream: true })
  t.equal(response.statusCode, 200)
  const stream: Readable = response.stream().setEncoding('utf8')
  let body = ''
  stream.on('data', (text: string) => { body += text })
  stream.on('error', () => {})
  await until(() => body === 'data: 1\n\ndata: 2\n\n')
  t.equal(state.finished, false)
  // What was injected has no socket that closes: to destroy the stream alone reaches no handler of Fastify's.
  response.raw.res.destroy()
  await until(() => state.finished, () => 'the source to be stopped')
  t.same(state, { started: true, aborted: true, finished: true })
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { closed: { 'client-gone': 1 } })
})

t.test('inject: app.close() ends an endless stream', async (t) => {
  const app = await createApp(t)
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const injected = app.inject('/')
  await until(() => app.sse.stats().events === 1)
  await turns()
  await app.close()
  t.match((await injected).body, /^data: 1\n\nretry: \d+\n\n$/)
  t.match(app.sse.stats(), { open: 0, closed: { shutdown: 1 } })
})

t.test('handlerTimeout does not cut a stream that runs', async (t) => {
  const app = await createApp(t, { keepAlive: false }, { handlerTimeout: 1_000 })
  const ran = noteHooks(app)
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await client.until('data: 1\n\n')
  await clock.tickAsync(10_000)
  await turns()
  t.equal(client.closed, false)
  t.equal(client.body, 'data: 1\n\n')
  t.match(app.sse.stats(), { open: 1 })
  t.notOk(ran.includes('onError'))
})

t.test('handlerTimeout before reply.sse: 503, and the late stream is refused', async (t) => {
  const app = await createApp(t, {}, { handlerTimeout: 1_000 })
  const gate = deferred()
  const { state, source } = idleSource({ data: 1 })
  let code: string | undefined
  let entered = false
  app.get('/', async (_, reply) => {
    entered = true
    await gate.promise
    try {
      reply.sse(source)
    } catch (error) {
      code = (error as { code: string }).code
    }
    return reply
  })
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  await until(() => entered)
  await clock.tickAsync(1_000)
  await client.until('}')
  t.match(client.head, /^HTTP\/1\.1 503 /)
  gate.resolve()
  await turns()
  t.equal(code, 'FST_SSE_ALREADY_SENT')
  t.equal(state.started, false)
  t.match(app.sse.stats(), { open: 0, opened: 0 })
})

t.test('trailers come after the last event', async (t) => {
  const app = await createApp(t)
  app.get('/', (_, reply) => {
    reply.trailer('server-timing', async () => 'total;dur=1')
    return reply.sse(async function * () {
      yield { data: 1 }
      await turns()
      yield { data: 2 }
    })
  })
  const client = connect(t, await listen(app)).get('/')
  await client.until('total;dur=1\r\n\r\n')
  t.match(client.head, /\r\ntrailer: server-timing(\r\n|$)/)
  t.equal(client.received.slice(client.head.length),
    '\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\nserver-timing: total;dur=1\r\n\r\n')
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1 } })
})

/** What compression does, as an onSend hook. */
function pipeThrough (app: FastifyInstance, create: () => Transform) {
  app.addHook('onSend', async (_request, reply, payload) => {
    reply.header('x-piped', 'yes')
    return (payload as { pipe (to: Transform): Transform }).pipe(create())
  })
}

const upperCase = () => new Transform({
  transform (chunk, _, done) { done(null, String(chunk).toUpperCase()) }
})

t.test('an onSend hook that pipes the payload through a Transform: it still streams, and ends', async (t) => {
  const app = await createApp(t)
  const gate = deferred()
  let responses = 0
  app.addHook('onResponse', async () => { responses++ })
  pipeThrough(app, upperCase)
  app.get('/', (_, reply) => reply.sse(async function * () {
    yield { raw: 'a' }
    await gate.promise
    yield { raw: 'b' }
  }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('DATA: A\n\n')
  t.match(client.head, /\r\nx-piped: yes(\r\n|$)/)
  await turns()
  t.equal(client.body, 'DATA: A\n\n')
  gate.resolve()
  await client.until('0\r\n\r\n')
  t.equal(client.body, 'DATA: A\n\nDATA: B\n\n')
  await until(() => responses === 1)
  await turns()
  t.equal(responses, 1)
  t.match(app.sse.stats(), { open: 0, closed: { 'source-done': 1 } })
})

t.test('an onSend hook that pipes the payload on: back-pressure and an abort reach the source', async (t) => {
  const app = await createApp(t)
  const { state, source } = idleSource({ data: 1 })
  let pulls = 0
  let responses = 0
  app.addHook('onResponse', async () => { responses++ })
  pipeThrough(app, () => new PassThrough())
  app.get('/', (_, reply) => reply.sse(source))
  app.get('/flood', (_, reply) => reply.sse(function * () {
    while (pulls++ < 1_000_000) yield { raw: 'x'.repeat(65_536) }
  }))
  const port = await listen(app)
  const idle = connect(t, port).get('/')
  await idle.until('data: 1\n\n')
  idle.destroy()
  await until(() => state.finished && responses === 1, () => 'the end of the idle stream')
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
  const flooded = connect(t, port).get('/flood')
  flooded.socket.pause()
  await untilBehind(app.sse)
  const before = pulls
  await turns(200)
  t.equal(pulls, before, 'it is not pulled any more')
  flooded.destroy()
  await until(() => responses === 2)
  await turns()
  t.equal(responses, 2)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 2 } })
})

t.test('the log has one line when a request came, one when it is completed, whoever has ended it', async (t) => {
  const lines: { msg: string, level: number, res?: { statusCode: number } }[] = []
  const app = await createApp(t, {}, logInto(lines, 'info'))
  app.get('/idle', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  app.get('/finite', (_, reply) => reply.sse([{ data: 1 }]))
  const port = await listen(app)
  lines.length = 0
  const client = connect(t, port).get('/idle')
  await client.until('data: 1\n\n')
  await turns()
  t.same(lines.map(({ msg }) => msg), ['incoming request'])
  client.destroy()
  await until(() => lines.length > 1)
  await turns()
  t.same(lines.map(({ msg }) => msg), ['incoming request', 'request completed'])
  t.equal(lines[1]?.res?.statusCode, 200)
  lines.length = 0
  t.equal(await fetchBody(t, port, '/finite'), 'data: 1\n\n')
  await until(() => lines.length > 1)
  await turns()
  t.same(lines.map(({ msg }) => msg), ['incoming request', 'request completed'])
})
