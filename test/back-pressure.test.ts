/** A client that is slower than its source, and a source that is faster than everybody: neither may harm the others. */
import type { FastifyInstance } from 'fastify'
import { spawn } from 'node:child_process'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { Connection } from '../lib/connection.ts'
import { Feed } from '../lib/feed.ts'
import { DEFAULTS } from '../lib/options.ts'
import { Pump } from '../lib/pump.ts'
import { openSource } from '../lib/source.ts'
import { Reporter } from '../lib/reporter.ts'
import { createStats, type EndReason } from '../lib/stats.ts'
import { Lines } from '../lib/timeouts.ts'
import { untilBehind } from './behind.ts'
import { connect, createApp, deferred, fetchBody, listen, turns, until, type RawClient } from './helpers.ts'

const EVENTS = 3_000
const TEXT = 'x'.repeat(8_192)

/**
 * A client that reads all as fast as it can, and forgets it; in a process of its own, as here it could not read while a
 * source runs, which would give the others their turn.
 */
async function devour (t: Test, app: FastifyInstance, port: number, path: string): Promise<void> {
  const client = spawn(process.execPath, ['-e', `
    require('node:net').connect(${port}, '127.0.0.1').on('error', () => {}).on('close', () => process.exit()).resume()
      .write('GET ${path} HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n')
  `], { stdio: 'ignore' })
  t.after(() => { client.kill() })
  await until(() => app.sse.stats().bytes > 1_000_000, () => 'a megabyte to be sent')
}

function chunks (client: RawClient): string[] {
  const sizes = []
  let at = client.received.indexOf('\r\n\r\n') + 4
  for (;;) {
    const lineEnd = client.received.indexOf('\r\n', at)
    const size = parseInt(client.received.slice(at, lineEnd), 16)
    if (!(size > 0)) return sizes
    sizes.push(client.received.slice(lineEnd + 2, lineEnd + 2 + size))
    at = lineEnd + 2 + size + 2
  }
}

t.test('a source is pulled no faster than its client reads, and no event is lost or out of order', async (t) => {
  let pulls = 0
  function * values () {
    for (let id = 0; id < EVENTS; id++) {
      pulls++
      yield { id, raw: TEXT }
    }
  }
  async function * asyncValues () { yield * values() }
  let expected = ''
  for (let id = 0; id < EVENTS; id++) expected += `id: ${id}\ndata: ${TEXT}\n\n`
  for (const source of [values, asyncValues, () => Readable.from(values())]) {
    pulls = 0
    const app = await createApp(t)
    app.get('/', (_, reply) => reply.sse(source()))
    const client = connect(t, await listen(app)).get('/', 'Connection: close')
    client.socket.pause()
    await untilBehind(app.sse)
    t.ok(pulls < EVENTS / 2, `stopped after ${pulls} pulls`)
    const before = pulls
    await turns(200)
    t.equal(pulls, before, 'pulled no more while the client stands still')
    client.socket.resume()
    await client.untilClosed()
    t.equal(pulls, EVENTS)
    t.ok(client.body === expected, 'all that was yielded has arrived, in order')
    t.match(app.sse.stats(), { open: 0, events: EVENTS, bytes: expected.length, closed: { 'source-done': 1 } })
  }
})

t.test('what is held for a client that is behind is no more than a few writes', async (t) => {
  const app = await createApp(t)
  let writable = () => 0
  app.get('/', (_, reply) => {
    writable = () => reply.raw.writableLength
    return reply.sse(function * () {
      for (;;) yield { raw: TEXT }
    })
  })
  const client = connect(t, await listen(app)).get('/')
  client.socket.pause()
  await untilBehind(app.sse)
  t.ok(writable() < 16 * TEXT.length, `${writable()} bytes in the response`)
  const [connection] = app.sse.connections
  const held = connection!.events * (TEXT.length + 'data: \n\n'.length) - connection!.bytes
  t.ok(held < 16 * TEXT.length, `${held} bytes in the connection`)
})

t.test('a source that is always ready, read by a client that is always ready, starves nobody', async (t) => {
  // Ends by itself, late, so that a failure is a failed assertion rather than a process that hangs.
  function * ready () {
    const deadline = Date.now() + 5_000
    for (let n = 0; Date.now() < deadline; n++) yield { data: n }
  }
  const sources = {
    'sync iterable': ready,
    'async generator': async function * () { yield * ready() },
    'Readable.from': () => Readable.from(ready()),
    'small steps': async function * () {
      for (const event of ready()) {
        await null
        yield event
      }
    }
  }
  for (const [name, source] of Object.entries(sources)) {
    const app = await createApp(t)
    app.get('/stream', (_, reply) => reply.sse(source()))
    app.get('/json', async () => ({ ok: true }))
    const port = await listen(app)
    await devour(t, app, port, '/stream')
    const { bytes } = app.sse.stats()
    for (let round = 0; round < 3; round++) {
      const client = connect(t, port).get('/json')
      await client.until('{"ok":true}')
    }
    t.match(app.sse.stats(), { open: 1 }, `${name}: another route answers while the stream runs`)
    await until(() => app.sse.stats().bytes > bytes)
    t.ok(app.sse.stats().bytes > bytes, `${name}: and the stream goes on`)
    await app.close()
  }
})

t.test('a source that is always ready does not stop another stream, nor its own end', async (t) => {
  const app = await createApp(t)
  let finished = false
  app.get('/stream', (_, reply) => reply.sse(function * () {
    const deadline = Date.now() + 5_000
    try {
      for (let n = 0; Date.now() < deadline; n++) yield { data: n }
    } finally {
      finished = true
    }
  }))
  app.get('/short', (_, reply) => reply.sse([{ data: 'short' }]))
  const port = await listen(app)
  await devour(t, app, port, '/stream')
  t.equal(await fetchBody(t, port, '/short'), 'data: "short"\n\n')
  const [connection] = app.sse.connections
  connection!.end()
  t.equal(finished, true)
  t.match(app.sse.stats(), { closed: { ended: 1, 'source-done': 1 } })
})

t.test('no promise is left unsettled when a client that is behind goes away, or is cut off, or the stream is ended', async (t) => {
  const endings: Record<string, (client: RawClient, connection: Connection) => void> = {
    'client-gone': (client) => client.destroy(),
    ended: (_, connection) => connection.end(),
    'source-done': (_, connection) => connection.finish('source-done'),
    'write-timeout': () => {}
  }
  for (const [reason, end] of Object.entries(endings)) {
    const app = await createApp(t)
    const parts = { connections: new Set<Connection>(), reporter: new Reporter(createStats()), lines: new Lines() }
    const pumping = deferred<{ connection: Connection, pumped: Promise<void> }>()
    let finished = false
    app.get('/', (request, reply) => {
      reply.hijack()
      const options = { ...DEFAULTS, writeTimeout: reason === 'write-timeout' ? 30 : 60_000 }
      const connection = new Connection(request, reply.raw, parts, { options, place: { leave () {} } })
      function * source () {
        try {
          for (;;) yield TEXT
        } finally {
          finished = true
        }
      }
      const pump = new Pump(openSource(source(), undefined), connection, new Feed(connection, undefined))
      connection.filledBy(pump)
      const pumped = pump.run()
      connection.handOver(reply.raw, () => reply.raw.end())
      pumping.resolve({ connection, pumped })
    })
    const client = connect(t, await listen(app)).get('/')
    client.socket.pause()
    const { connection, pumped } = await pumping.promise
    if (reason !== 'write-timeout') await untilBehind(parts)
    end(client, connection)
    await pumped
    t.equal(connection.reason, reason as EndReason, `${reason}: the pump that waited has come to its end`)
    t.equal(finished, true)
    await t.resolves(connection.ready(), 'to wait on an ended connection is to wait for nothing')
    client.destroy()
    await until(() => parts.connections.size === 0)
  }
})

t.test('the events of one turn leave in one write', async (t) => {
  const app = await createApp(t)
  const gate = deferred()
  const ten = (from: number) => Array.from({ length: 10 }, (_, index) => ({ data: from + index }))
  const text = (from: number) => ten(from).map(({ data }) => `data: ${data}\n\n`).join('')
  app.get('/', (_, reply) => reply.sse(async function * () {
    yield * ten(0)
    await gate.promise
    yield * ten(10)
    await turns()
    yield { data: 'last' }
  }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 9\n\n')
  gate.resolve()
  await client.until('0\r\n\r\n')
  t.same(chunks(client), [text(0), text(10), 'data: "last"\n\n'])
})

t.test('a burst of one turn that is too large for one write leaves in a few', async (t) => {
  const app = await createApp(t)
  app.get('/', (_, reply) => reply.sse(Array.from({ length: 4_000 }, (_, data) => ({ data }))))
  const client = connect(t, await listen(app)).get('/')
  await client.until('0\r\n\r\n')
  t.equal(client.body, Array.from({ length: 4_000 }, (_, data) => `data: ${data}\n\n`).join(''))
  t.ok(chunks(client).length <= 4_000 / 64 + 2, `${chunks(client).length} chunks`)
})
