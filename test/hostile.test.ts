/** What clients and applications can do at their worst: the server lives, and counters come back to zero. */
import { once } from 'node:events'
import http2 from 'node:http2'
import net from 'node:net'
import t, { type Test } from 'tap'
import type { FastifyServerOptions } from 'fastify'
import { untilBehind } from './behind.ts'
import { connect, createApp, deferred, idleSource, listen, logInto, ownClock, turns, until } from './helpers.ts'
import { start } from './program.ts'
import { startProxy } from './tcp-proxy.ts'

t.test('HTTP/2: a client that resets its stream without an error is gone, at whatever time', async (t) => {
  for (const when of ['at once', 'while its handler waits', 'when it is open'] as const) {
    const app = await createApp(t, { writeTimeout: false }, { http2: true } as FastifyServerOptions)
    const counts = { waiting: 0, aborted: 0, answered: 0, running: 0 }
    const go = deferred()
    app.get('/', async (request, reply) => {
      counts.waiting++
      request.raw.once('aborted', () => counts.aborted++)
      if (when === 'while its handler waits') await go.promise
      counts.answered++
      return reply.sse(async function * ({ signal }) {
        counts.running++
        try {
          yield { data: 'x'.repeat(100_000) }
          await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        } finally {
          counts.running--
        }
      })
    })
    const session = http2.connect(`http://127.0.0.1:${await listen(app)}`)
    t.after(() => session.destroy())
    // Nobody reads: what is left unread keeps Node from closing a stream that was reset without an error.
    const requests = Array.from({ length: 20 }, () => session.request({ ':path': '/' }).on('error', () => {}))
    const now = () => `${when}: ${JSON.stringify({ ...counts, ...app.sse.stats() })}`
    if (when === 'when it is open') await until(() => app.sse.stats().open === 20 && counts.running === 20, now)
    if (when === 'while its handler waits') await until(() => counts.waiting === 20, now)
    for (const request of requests) request.close(http2.constants.NGHTTP2_NO_ERROR)
    await until(() => counts.aborted === 20, now)
    go.resolve()
    await until(() => counts.answered === 20 && counts.running === 0 && app.sse.stats().open === 0, now)
    await turns()
    const { open, opened, closed } = app.sse.stats()
    t.same([open, closed['client-gone'], counts.running], [0, opened, 0], now())
    if (when !== 'at once') t.equal(opened, when === 'when it is open' ? 20 : 0, now())
    t.equal(app.sse.connections.size, 0)
  }
})

t.test('HTTP/2: a connection that is reset while something is on its way to it does not hold up the process', async (t) => {
  // In one process with its clients, as it takes a certain turn of the event loop, which each of these may be.
  const { child, output } = start(t, `
    import fastify from 'fastify'
    import http2 from 'node:http2'
    import net from 'node:net'
    import sse from './index.js'
    const turns = async (count) => { for (; count > 0; count--) await new Promise((resolve) => setImmediate(resolve)) }
    const app = fastify({ http2: true })
    await app.register(sse)
    app.get('/', async (_, reply) => {
      await turns(3)
      return reply.sse(async function * ({ signal }) {
        yield { data: 1 }
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
      })
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    async function reset (before, after) {
      const socket = net.connect(app.server.address().port, '127.0.0.1').on('error', () => {})
      const session = http2.connect('http://127.0.0.1', { createConnection: () => socket }).on('error', () => {})
      const request = (path) => session.request({ ':path': path }).on('error', () => {}).resume()
      request('/')
      await turns(before)
      request('/unknown')
      await turns(after)
      socket.resetAndDestroy()
      await turns(5)
    }
    for (let before = 0; before < 8; before++) for (let after = 0; after < 6; after++) await reset(before, after)
    await app.close()
    console.log(JSON.stringify(app.sse.stats()))
    process.exit()`, 'ulimit -t 20')
  await until(() => child.exitCode !== null || child.signalCode !== null, () => `the end of the program: ${output()}`)
  t.match(JSON.parse(output()), { open: 0 })
})

t.test('whatever a source throws after the head, it is logged or said to be beyond logging, and the server lives', async (t) => {
  const lines: { level: number, msg: string }[] = []
  const app = await createApp(t, {}, logInto(lines, 'warn'))
  const thrown = [
    Object.freeze(new Error('frozen')),
    Object.defineProperty(new Error('x'), 'stack', { get () { throw new Error('no stack') } }),
    new Proxy({}, { get () { throw new Error('no get') }, getPrototypeOf () { throw new Error('no prototype') } }),
    undefined, null, 'text', Symbol('symbol')
  ]
  app.get('/late/:n', async (request, reply) => reply.sse(async function * () {
    yield { data: 1 }
    await turns()
    throw thrown[Number((request.params as { n: string }).n)]
  }))
  app.get('/early/:n', async (request, reply) => reply.sse(function * () {
    throw thrown[Number((request.params as { n: string }).n)]
  }))
  const port = await listen(app)
  for (const n of thrown.keys()) {
    const late = connect(t, port).get(`/late/${n}`)
    await late.until('0\r\n\r\n')
    t.equal(late.body, 'data: 1\n\n')
    const early = connect(t, port).get(`/early/${n}`)
    await early.until('\r\n\r\n')
    t.match(early.head, /^HTTP\/1.1 500 /)
  }
  await until(() => app.sse.stats().closed['source-threw'] === 2 * thrown.length)
  t.equal(lines.filter(({ msg }) => msg.startsWith('event stream failed')).length, thrown.length, 'once each')
})

/** A client that has not read a byte of one large event. */
async function startLarge (t: Test, size: number) {
  const app = await createApp(t, { writeTimeout: 1_000, keepAlive: false })
  app.get('/', async (request, reply) => reply.sse([{ raw: 'x'.repeat(size) }]))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = net.connect(port, '127.0.0.1', () => client.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n'))
  client.on('error', () => {}).pause()
  t.after(() => client.destroy())
  await untilBehind(app.sse)
  return { app, client, clock, connection: [...app.sse.connections][0]! }
}

t.test('a client that reads slowly but steadily is not cut off in the middle of a large event', async (t) => {
  const size = 30_000_000
  const { app, client, clock, connection } = await startLarge(t, size)
  let received = 0
  client.on('data', ({ length }) => { received += length }).pause()
  let steps = 0
  for (; connection.bytes < size && !client.destroyed; steps++) {
    const { bytes } = connection
    clock.tick(999)
    client.resume()
    await until(() => connection.bytes > bytes || client.destroyed)
    client.pause()
  }
  t.ok(steps > 1, `${steps} times it has read just in time`)
  client.resume()
  await until(() => received > size || client.destroyed)
  t.equal(client.destroyed, false)
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { closed: { 'source-done': 1, 'write-timeout': 0 } })
})

t.test('time during which the event loop was blocked is not counted as the delay of a client, once', async (t) => {
  for (const reads of [true, false]) {
    const { app, client, clock } = await startLarge(t, 20_000_000)
    clock.tick(500)
    clock.jump(1_000)
    await turns()
    clock.tick(999)
    await turns()
    t.equal(app.sse.stats().open, 1)
    if (reads) client.resume()
    else clock.tick(1)
    await until(() => app.sse.stats().open === 0)
    t.match(app.sse.stats(), { closed: { [reads ? 'source-done' : 'write-timeout']: 1 } })
    clock.uninstall()
  }
})

t.test('a synchronous source that ends its own stream while it runs is ended too', async (t) => {
  const app = await createApp(t)
  let finished = false
  app.get('/', async (request, reply) => reply.sse(function * () {
    try {
      yield { data: 1 }
      for (const connection of app.sse.connections) connection.end()
      yield { data: 2 }
    } finally {
      finished = true
    }
  }))
  t.equal((await app.inject('/')).payload, 'data: 1\n\n')
  t.equal(finished, true)
})

t.test('a thousand requests queued on one socket pull nothing before their turn, and end with it', async (t) => {
  const app = await createApp(t)
  let pulled = 0
  app.get('/', async (request, reply) => reply.sse(async function * ({ signal }) {
    pulled++
    yield { data: 1 }
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
  }))
  const client = connect(t, await listen(app)).send('GET / HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(1_000))
  await until(() => app.sse.stats().opened === 1_000)
  await turns()
  t.equal(pulled, 1)
  client.destroy()
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { closed: { 'client-gone': 1_000 } })
  t.equal(pulled, 1)
})

t.test('a client that begins another request in the middle of its stream has to finish it in headersTimeout, as Node has it', async (t) => {
  const app = await createApp(t, {}, { http: { headersTimeout: 200, connectionsCheckingInterval: 50 } } as FastifyServerOptions)
  const { source } = idleSource({ data: 1 })
  app.get('/', async (request, reply) => reply.sse(source))
  const port = await listen(app)
  const [quiet, halfway] = ['', 'G'].map((more) => connect(t, port).send(`GET / HTTP/1.1\r\nHost: test\r\n\r\n\r\n${more}`))
  await halfway!.untilClosed()
  t.match(halfway!.received, /data: 1\n\n\r\nHTTP\/1.1 408 Request Timeout/)
  await until(() => app.sse.stats().open === 1)
  t.match(app.sse.stats(), { closed: { 'client-gone': 1, 'write-timeout': 0, 'source-threw': 0 } })
  t.equal(quiet!.closed, false, 'a line end after a request begins no other')
})

t.test('a stream that waits behind an unanswered request does not hold a closing server up', async (t) => {
  const app = await createApp(t, {}, { forceCloseConnections: true })
  app.get('/never', () => new Promise(() => {}))
  app.get('/', async (request, reply) => reply.sse([{ data: 1 }]))
  const client = connect(t, await listen(app)).get('/never').get('/')
  await until(() => app.sse.stats().opened === 1)
  const clock = ownClock(t)
  const closing = app.close()
  await turns()
  await clock.tickAsync(1_000)
  await closing
  await client.untilClosed()
  t.equal(app.sse.stats().open, 0)
})

t.test('HTTP/2: a stream that is reset without an error, with its bytes unread, is let go of whenever that happens', async (t) => {
  const app = await createApp(t, {}, { http2: true } as FastifyServerOptions)
  const late = deferred()
  app.get('/ended', async (request, reply) => reply.sse(function * () { for (;;) yield { raw: 'x'.repeat(100_000) } }))
  app.get('/done', async (request, reply) => reply.sse([{ raw: 'x'.repeat(10_000) }]))
  app.get('/late', async (request, reply) => {
    await late.promise
    return reply.sse([{ raw: 'x'.repeat(100_000) }])
  })
  const streams = new Set<http2.ServerHttp2Stream>()
  app.server.on('stream', (stream: http2.ServerHttp2Stream) => {
    streams.add(stream)
    stream.on('close', () => streams.delete(stream))
  })
  const port = await listen(app)
  const session = http2.connect(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: 0 } }).on('error', () => {})
  t.after(() => session.destroy())
  const requests = ['/ended', '/ended', '/done', '/late'].map((path) => session.request({ ':path': path }).on('error', () => {}))
  await until(() => app.sse.stats().closed['source-done'] === 1 && streams.size === 4)
  await until(() => app.sse.connections.size === 2 && [...app.sse.connections].every(({ behind }) => behind))
  for (const connection of app.sse.connections) connection.end()
  for (const request of requests) request.close(http2.constants.NGHTTP2_NO_ERROR)
  await until(() => streams.size <= 1, () => `all but one of ${streams.size} streams to be let go of`)
  late.resolve()
  await until(() => streams.size === 0, () => 'the last stream to be let go of')
  // Of a session that is told goodbye and is gone Node asks those that are left.
  session.goaway()
  await turns()
  session.destroy()
  await app.close()
  t.match(app.sse.stats(), { open: 0, opened: 3, closed: { ended: 2, 'source-done': 1 } })
})

/** An HTTP/2 session whose client can be made to read nothing from its socket. */
async function startStallable (t: Test, port: number) {
  const proxy = await startProxy(t, { port })
  const session = http2.connect(`http://127.0.0.1:${proxy.port}`).on('error', () => {})
  t.after(() => session.destroy())
  return { session, stall: () => proxy.stall() }
}

/** @param leaves the client says GOAWAY before, after which Node waits for it */
async function closeUnread (t: Test, leaves: boolean): Promise<void> {
  const app = await createApp(t, {}, { http2: true } as FastifyServerOptions)
  app.get('/', async (request, reply) => reply.sse(idleSource({ data: 1 }).source))
  const { session, stall } = await startStallable(t, await listen(app))
  const clock = ownClock(t)
  const stream = session.request({ ':path': '/' }).on('error', () => {})
  await once(stream, 'data')
  stall()
  if (leaves) session.goaway()
  await turns(20)
  const closing = app.close()
  await turns()
  await clock.tickAsync(999)
  await until(() => app.sse.stats().open === 0)
  await turns(50)
  await clock.tickAsync(1)
  await closing
  t.match(app.sse.stats(), { closed: { shutdown: 1 } })
}

t.test('HTTP/2: a client that reads nothing from its socket holds no closing server up', (t) => closeUnread(t, false))

t.test('HTTP/2: a client that reads nothing from its socket, having said goodbye, holds no closing server up', (t) => closeUnread(t, true))

t.test('HTTP/2: a client that reads nothing from its socket for twice the writeTimeout has no connection any more', async (t) => {
  const app = await createApp(t, { writeTimeout: 1_000, keepAlive: false }, { http2: true } as FastifyServerOptions)
  app.get('/', async (request, reply) => reply.sse(function * () { for (;;) yield { raw: 'x'.repeat(10_000) } }))
  const sockets = new Set<net.Socket>()
  app.server.on('connection', (socket: net.Socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  const { session, stall } = await startStallable(t, await listen(app))
  const clock = ownClock(t)
  session.request({ ':path': '/' }).on('error', () => {}).once('data', stall).resume()
  await until(() => [...app.sse.connections].some(({ behind }) => behind))
  await turns(50)
  await clock.tickAsync(1_000)
  await until(() => app.sse.stats().closed['write-timeout'] === 1)
  t.equal(sockets.size, 1, 'it is asked whether it reads at all')
  await turns(50)
  await clock.tickAsync(1_000)
  await until(() => sockets.size === 0)
})

t.test('HTTP/2: a client that does not read one stream keeps the others', async (t) => {
  const app = await createApp(t, { writeTimeout: 1_000, keepAlive: false }, { http2: true } as FastifyServerOptions)
  app.get('/', async (request, reply) => reply.sse(function * () { for (;;) yield { raw: 'x'.repeat(10_000) } }))
  const channel = app.sse.channel('c')
  app.get('/channel', async (request, reply) => reply.sse(channel))
  const session = http2.connect(`http://127.0.0.1:${await listen(app)}`)
  t.after(() => session.destroy())
  const clock = ownClock(t)
  let received = ''
  session.request({ ':path': '/channel' }).setEncoding('utf8').on('data', (text: string) => { received += text })
  await until(() => received !== '')
  session.request({ ':path': '/' }).on('error', () => {})
  await until(() => [...app.sse.connections].some(({ behind }) => behind))
  await turns(50)
  await clock.tickAsync(1_000)
  await until(() => app.sse.stats().closed['write-timeout'] === 1)
  // Its answer to the question has come before that to this.
  await new Promise((resolve) => session.ping(resolve))
  await clock.tickAsync(1_000)
  await channel.publish({ data: 'still here' })
  await until(() => received.includes('still here'))
  t.match(app.sse.stats(), { open: 1, closed: { 'write-timeout': 1 } })
})
