/** Compression: what a client that accepts it gets is what another gets, event by event, and shared where many read. */
import { EventSource } from 'eventsource'
import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import fastify from 'fastify'
import http from 'node:http'
import http2 from 'node:http2'
import { PassThrough, Readable } from 'node:stream'
import zlib from 'node:zlib'
import t, { type Test } from 'tap'
import sse from '../index.ts'
import { Chunk } from '../lib/chunk.ts'
import { FramedEvent } from '../lib/channels/framed-event.ts'
import { CODINGS, type Coding } from '../lib/coding.ts'
import { compressPiece, Pieces, storePiece } from '../lib/pieces.ts'
import { connect, createApp, deferred, idleSource, listen, turns, until } from './helpers.ts'

/** Node has them since 22.15. */
const { createZstdDecompress, zstdDecompressSync } = zlib as typeof zlib & {
  createZstdDecompress: typeof zlib.createGunzip
  zstdDecompressSync: typeof zlib.gunzipSync
}

const TEXT = 'the quick brown fox jumps over the lazy dog, '.repeat(10)

/** Zstd frames, of which Node decodes one at a time. No test has their magic number in its text. */
function framesOf (stream: Buffer): Buffer[] {
  const magic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd])
  const frames: Buffer[] = []
  for (let at = 0; at < stream.length;) {
    const next = stream.indexOf(magic, at + 4)
    const end = next === -1 ? stream.length : next
    frames.push(stream.subarray(at, end))
    at = end
  }
  return frames
}

/** A client that decodes as it reads, and keeps what it has decoded so far. */
function read (t: Test, port: number, path: string, acceptEncoding = 'gzip', headers: http.OutgoingHttpHeaders = {}) {
  const client = {
    text: '',
    bytes: 0,
    headers: {} as http.IncomingHttpHeaders,
    statusCode: 0,
    ended: false,
    error: undefined as unknown,
    destroy: () => { request.destroy() }
  }
  const request: http.ClientRequest = http.get({ port, path, agent: false, headers: { 'accept-encoding': acceptEncoding, ...headers } }, (response) => {
    client.headers = response.headers
    client.statusCode = response.statusCode!
    const { 'content-encoding': coding } = response.headers
    response.on('data', (chunk: Buffer | string) => { client.bytes += Buffer.byteLength(chunk) })
    const decoder = coding === 'gzip' ? zlib.createGunzip() : coding === 'zstd' ? createZstdDecompress() : undefined
    const decoded = decoder === undefined ? response : response.pipe(decoder)
    decoded.setEncoding('utf8')
    decoded.on('data', (text: string) => { client.text += text })
    decoded.on('end', () => { client.ended = true })
    decoded.on('error', (error) => { client.error = error })
  })
  request.on('error', () => {})
  t.after(() => request.destroy())
  return client
}

const EVENTS = Array.from({ length: 20 }, (_, n) => ({ event: 'e', data: { n, text: TEXT } }))

t.test('a channel: each coding gives what the plain stream gives, at once, and ends as it should', async (t) => {
  const app = await createApp(t, { retry: 5 })
  const channel = app.sse.channel('c', { compress: true })
  app.get('/', async (request, reply) => reply.sse(channel, { first: [{ event: 'hello', data: 'é' }] }))
  const port = await listen(app)
  const clients = ['identity', 'gzip'].map((coding) => ({ coding, client: read(t, port, '/', coding) }))
  for (const { client } of clients) await until(() => client.text.includes('hello'))
  for (const event of EVENTS) {
    const id = await channel.publish(event)
    for (const { client } of clients) await until(() => client.text.includes(`id: ${id}\nevent: e\n`) && client.text.endsWith('\n\n'))
  }
  await channel.close()
  for (const { coding, client } of clients) {
    await until(() => client.ended)
    t.equal(client.headers['content-encoding'], coding === 'identity' ? undefined : coding)
    t.equal(client.headers.vary, 'accept-encoding')
    t.equal(client.text, clients[0]!.client.text, `${coding}: the same text`)
    t.equal(client.error, undefined)
    if (coding !== 'identity') t.ok(client.bytes * 2 < clients[0]!.client.bytes, `${coding}: fewer bytes`)
  }
  await until(() => app.sse.stats().open === 0)
  t.equal(app.sse.stats().bytes, clients.reduce((sum, { client }) => sum + client.bytes, 0), 'bytes are counted as they are sent')
})

t.test('a handler: each event is there before the next is made, and what was before helps to compress it', async (t) => {
  const app = await createApp(t)
  let step = deferred()
  app.get('/', async (request, reply) => reply.sse(async function * () {
    for (const event of EVENTS) {
      yield event
      await step.promise
    }
  }, { compress: true }))
  const port = await listen(app)
  for (const coding of CODINGS) {
    const client = read(t, port, '/', coding)
    for (const [n, event] of EVENTS.entries()) {
      await until(() => client.text.endsWith(`data: ${JSON.stringify(event.data)}\n\n`), () => `event ${n} in ${coding}`)
      const { resolve } = step
      step = deferred()
      resolve()
    }
    await until(() => client.ended)
    t.equal(client.text, EVENTS.map(({ event, data }) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join(''))
    t.equal(client.error, undefined, 'with a right checksum')
    const alone = compressPiece(coding, Buffer.from(JSON.stringify(EVENTS[0]))).length * EVENTS.length
    t.ok(client.bytes < alone / 2, `${coding}: ${client.bytes} bytes, where each event by itself would have made ${alone}`)
  }
  await until(() => app.sse.stats().open === 0)
  const { bytes } = app.sse.stats()
  t.ok(bytes < EVENTS.length * TEXT.length / 2, 'bytes are counted as they are sent')
})

t.test('an idle stream: the head is there at once, and silence is broken by comments', async (t) => {
  const app = await createApp(t, { keepAlive: 20, compress: true })
  const { source } = idleSource()
  const channel = app.sse.channel('c')
  app.get('/own', async (request, reply) => reply.sse(source))
  app.get('/channel', async (request, reply) => reply.sse(channel))
  const port = await listen(app)
  for (const path of ['/own', '/channel']) {
    for (const coding of path === '/own' ? CODINGS : ['gzip']) {
      const client = read(t, port, path, coding)
      await until(() => client.headers['content-encoding'] === coding)
      await until(() => client.text.endsWith(':\n\n:\n\n:\n\n'), () => `comments on ${path} in ${coding}`)
      client.destroy()
    }
  }
})

t.test('nothing is compressed for a client that does not accept it, or where nobody has asked for it', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('plain')
  const compressed = app.sse.channel('compressed', { compress: true })
  app.get('/plain', async (request, reply) => reply.sse(channel))
  app.get('/compressed', async (request, reply) => reply.sse(compressed))
  app.get('/both', async (request, reply) => reply.sse(app.sse.subscribe([channel, compressed])))
  app.get('/off', { sse: { compress: false } }, async (request, reply) => reply.sse(compressed))
  app.get('/on', { sse: { compress: true } }, async (request, reply) => reply.sse(channel))
  app.get('/handler', async (request, reply) => reply.header('content-encoding', 'identity').sse(compressed))
  const port = await listen(app)
  const codingOf = async (path: string, accept: string) => {
    const client = read(t, port, path, accept)
    await until(() => client.statusCode === 200)
    client.destroy()
    return client.headers['content-encoding']
  }
  for (const accept of ['', 'br', 'deflate', 'gzip;q=0', 'identity', 'gzip;q=0, zstd;q=0', 'x-gzip', ';;,,q', '\t']) {
    t.equal(await codingOf('/compressed', accept), undefined, `accept-encoding: ${accept}`)
  }
  for (const accept of ['gzip', 'GZIP', 'br, gzip;q=0.5', ' deflate , gzip']) {
    t.equal(await codingOf('/compressed', accept), 'gzip', `accept-encoding: ${accept}`)
  }
  for (const path of ['/plain', '/both', '/off']) t.equal(await codingOf(path, 'gzip'), undefined, path)
  t.equal(await codingOf('/on', 'gzip'), 'gzip', 'a stream says more than its channel')
  t.equal(await codingOf('/handler', 'gzip'), 'identity', 'and a handler more than both')
  const head = await app.inject({ method: 'HEAD', url: '/compressed', headers: { 'accept-encoding': 'gzip' } })
  t.match(head.headers, { 'content-type': 'text/event-stream', vary: 'accept-encoding' })
  t.notOk(head.headers['content-encoding'])
})

t.test('a channel is zstd for a client that is known to read more than one frame, and gzip for others', async (t) => {
  const app = await createApp(t, { compress: true })
  const channel = app.sse.channel('c')
  app.get('/', async (request, reply) => reply.sse(channel))
  const port = await listen(app)
  const chromium = { 'user-agent': 'Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/142.0.0.0 Safari/537.36' }
  const expected = [[chromium, CODINGS[0]], [{}, 'gzip'], [{ 'user-agent': 'node' }, 'gzip']] as const
  for (const [headers, coding] of expected) {
    const client = read(t, port, '/', 'gzip, deflate, br, zstd', headers)
    await until(() => client.statusCode === 200)
    t.equal(client.headers['content-encoding'], coding)
    client.destroy()
  }
})

t.test('vary is added to what is there', async (t) => {
  const app = await createApp(t, { compress: true })
  app.get('/:vary', async (request, reply) => {
    return reply.header('vary', decodeURIComponent((request.params as { vary: string }).vary)).sse(['x'])
  })
  const varyOf = async (vary: string) => (await app.inject(`/${encodeURIComponent(vary)}`)).headers.vary
  t.equal(await varyOf('Origin'), 'Origin, accept-encoding')
  t.equal(await varyOf('Accept-Encoding'), 'Accept-Encoding')
  t.equal(await varyOf('*'), '*')
})

t.test('an event is compressed once, however many read it, live or later, alone or with others', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('a', { compress: true })
  const others = Array.from({ length: 9 }, (_, n) => app.sse.channel(`other ${n}`, { compress: true }))
  app.get('/', async (request, reply) => reply.sse(channel))
  // With an ID for each stream, which is longer than what is worth compressing.
  app.get('/both', async (request, reply) => reply.sse(app.sse.subscribe([channel, ...others])))
  const port = await listen(app)
  const deflated: Buffer[] = []
  const { deflateRawSync } = zlib
  zlib.deflateRawSync = (bytes, options) => {
    deflated.push(bytes as Buffer)
    return deflateRawSync(bytes, options)
  }
  t.after(() => { zlib.deflateRawSync = deflateRawSync })
  const start = await channel.publish({ data: 'before' })
  const clients = ['/', '/', '/both', '/both', '/'].map((path) => read(t, port, path, 'gzip', { 'last-event-id': start }))
  await until(() => app.sse.stats().open === 5 && clients.every(({ text }) => text !== ''))
  for (const event of EVENTS) await channel.publish(event)
  clients.push(read(t, port, '/', 'gzip', { 'last-event-id': start }))
  for (const client of clients) await until(() => client.text.endsWith(`data: ${JSON.stringify(EVENTS.at(-1)!.data)}\n\n`))
  t.equal(deflated.filter((bytes) => String(bytes).includes('brown fox')).length, EVENTS.length)
  t.ok(deflated.length - EVENTS.length <= clients.length, `${deflated.length} in all: positions are told once for each stream`)
  const dataOf = (text: string) => text.split('\n').filter((line) => line.startsWith('data: {"n"'))
  for (const client of clients) t.same(dataOf(client.text), dataOf(clients[0]!.text))
  t.equal(dataOf(clients[0]!.text).length, EVENTS.length)
})

t.test('a failure before the head is answered as any error, without a coding', async (t) => {
  const app = await createApp(t, { compress: true })
  app.addHook('onSend', async () => { await new Promise((resolve) => setTimeout(resolve, 5)) })
  app.get('/at-once', async (request, reply) => reply.sse(async function * () { throw new Error('early') }))
  app.get('/in-the-hook', async (request, reply) => reply.sse(async function * () {
    await new Promise((resolve) => setTimeout(resolve, 1))
    throw new Error('early')
  }))
  const port = await listen(app)
  for (const path of ['/at-once', '/in-the-hook']) {
    const client = read(t, port, path)
    await until(() => client.ended)
    t.equal(client.statusCode, 500)
    t.equal(client.headers['content-encoding'], undefined)
    t.match(JSON.parse(client.text), { message: 'early' })
  }
})

t.test('a client that reads no more is cut off, and its source is stopped', async (t) => {
  for (const shared of [false, true]) {
    const app = await createApp(t, { compress: true, writeTimeout: 50 })
    const channel = app.sse.channel('c')
    let stopped = false
    app.get('/', async (request, reply) => reply.sse(shared
      ? channel
      : (async function * () {
          try {
            for (;;) yield { data: Array.from({ length: 2_000 }, () => Math.random()) }
          } finally {
            stopped = true
          }
        })()))
    const port = await listen(app)
    const client = connect(t, port).get('/', 'Accept-Encoding: gzip')
    await client.until('content-encoding: gzip')
    client.socket.pause()
    const publish = () => channel.publish({ data: Array.from({ length: 5_000 }, () => Math.random()) })
    const publishing = shared && setInterval(publish, 1)
    await until(() => app.sse.stats().closed['write-timeout'] === 1, () => JSON.stringify(app.sse.stats()))
    clearInterval(publishing || undefined)
    t.equal(stopped, !shared)
    t.equal(app.sse.stats().open, 0)
  }
})

t.test('a client that leaves stops its source; one that is ended gets all of it', async (t) => {
  const app = await createApp(t, { compress: true })
  const { source, state } = idleSource({ data: 1 })
  app.get('/', async (request, reply) => reply.sse(source))
  const port = await listen(app)
  const leaving = read(t, port, '/')
  await until(() => leaving.text === 'data: 1\n\n')
  leaving.destroy()
  await until(() => state.finished)
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 1 } })
  const ended = read(t, port, '/')
  await until(() => ended.text === 'data: 1\n\n')
  for (const connection of app.sse.connections) connection.end()
  await until(() => ended.ended)
  t.equal(ended.error, undefined)
  t.equal(app.sse.stats().closed.ended, 1)
})

t.test('a server that closes tells compressed streams when to come back', async (t) => {
  const app = await createApp(t, { compress: true })
  const channel = app.sse.channel('c')
  const { source } = idleSource({ data: 1 })
  app.get('/own', async (request, reply) => reply.sse(source))
  app.get('/channel', async (request, reply) => reply.sse(channel))
  const port = await listen(app)
  const clients = ['/own', '/channel'].map((path) => read(t, port, path))
  for (const client of clients) await until(() => client.text !== '')
  await app.close()
  for (const client of clients) {
    await until(() => client.ended)
    t.match(client.text, /\n\nretry: \d+\n\n$/)
    t.equal(client.error, undefined)
  }
})

t.test('HTTP/2', async (t) => {
  const app = fastify({ http2: true })
  t.after(() => app.close())
  await app.register(sse, { compress: true })
  const channel = app.sse.channel('c')
  app.get('/own', async (request, reply) => reply.sse(EVENTS))
  app.get('/channel', async (request, reply) => reply.sse(channel.subscribe({ after: 'earliest' })))
  for (const event of EVENTS) await channel.publish(event)
  const port = await listen(app as never)
  const session = http2.connect(`http://127.0.0.1:${port}`)
  t.after(() => session.destroy())
  for (const path of ['/own', '/channel']) {
    const stream = session.request({ ':path': path, 'accept-encoding': 'gzip' })
    let coding: unknown
    stream.on('response', (headers) => { coding = headers['content-encoding'] })
    let text = ''
    // It will be cut off.
    stream.pipe(zlib.createGunzip()).on('data', (chunk) => { text += String(chunk) }).on('error', () => {})
    await until(() => text.split('event: e\n').length === EVENTS.length + 1, () => path)
    t.equal(coding, 'gzip')
    stream.close()
  }
})

t.test('clients as they are: fetch, and EventSource', async (t) => {
  const app = await createApp(t, { compress: true })
  const channel = app.sse.channel('c')
  app.get('/own', { sse: { finite: true } }, async (request, reply) => reply.sse(EVENTS))
  app.get('/channel', async (request, reply) => reply.sse(channel.subscribe({ after: 'earliest' })))
  for (const event of EVENTS) await channel.publish(event)
  const port = await listen(app)
  const response = await fetch(`http://127.0.0.1:${port}/own`)
  t.ok(CODINGS.some((coding) => coding === response.headers.get('content-encoding')))
  const events: unknown[] = []
  createParser({ onEvent: ({ data }) => events.push(JSON.parse(data)) }).feed(await response.text())
  t.same(events, EVENTS.map(({ data }) => data))
  const received: unknown[] = []
  const source = new EventSource(`http://127.0.0.1:${port}/channel`)
  t.after(() => source.close())
  source.addEventListener('e', ({ data }) => received.push(JSON.parse(data)))
  await until(() => received.length === EVENTS.length)
  t.same(received, EVENTS.map(({ data }) => data))
})

t.test('pieces in any order, short and long, make one stream', async (t) => {
  const piece = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom(':\n\n', 'x'.repeat(63), 'x'.repeat(64), TEXT.repeat(500)))
  const stretch = fc.array(fc.record({ text: piece, shared: fc.boolean() }))
  fc.assert(fc.property(fc.constantFrom(...CODINGS), stretch, (coding, pieces) => {
    const put = new Pieces(coding)
    const compressed = pieces.map(({ text, shared }) => {
      const bytes = Buffer.from(text)
      const compress = (coding: Coding) => bytes.length < 1_000 ? storePiece(coding, bytes) : compressPiece(coding, bytes)
      return shared ? put.shared({ chunk: Chunk.ofPieces([bytes]), compressed: compress }) : put.text(text)
    })
    const stream = Buffer.concat([put.begin(), ...compressed, put.end()])
    const decoded = coding === 'gzip' ? zlib.gunzipSync(stream) : Buffer.concat(framesOf(stream).map((frame) => zstdDecompressSync(frame)))
    t.ok(decoded.equals(Buffer.from(pieces.map(({ text }) => text).join(''))))
  }), { numRuns: 50 })
})

t.test('what is retained compressed takes the memory of its bytes, and not of the chunks that they were made in', async (t) => {
  for (const coding of CODINGS) {
    const events = Array.from({ length: 200 }, (_, n) => new FramedEvent('', { event: '', data: `"${n} ${TEXT}"` }))
    const pieces = events.map((event) => event.compressed(coding))
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0)
    const held = [...new Set(pieces.map(({ buffer }) => buffer))].reduce((sum, { byteLength }) => sum + byteLength, 0)
    t.equal(held, bytes, coding)
  }
})

t.test('a hook that puts a stream before the response gets compressed bytes, and the head has its headers', async (t) => {
  const app = await createApp(t, { compress: true })
  app.addHook('onSend', async (request, reply, payload) => (payload as Readable).pipe(new PassThrough()))
  const channel = app.sse.channel('c')
  app.get('/own', async (request, reply) => reply.header('x-mine', '1').sse([{ data: 1 }]))
  app.get('/idle', async (request, reply) => reply.header('x-mine', '1').sse(idleSource().source, { keepAlive: 20 }))
  app.get('/channel', async (request, reply) => reply.header('x-mine', '1').sse(channel.subscribe({ after: 'earliest' })))
  await channel.publish({ data: 1 })
  const port = await listen(app)
  for (const [path, text] of [['/own', 'data: 1\n\n'], ['/idle', ':\n\n'], ['/channel', 'data: 1\n\n']] as const) {
    const client = read(t, port, path)
    await until(() => client.text.includes(text), () => path)
    t.match(client.headers, { 'x-mine': '1', 'content-type': 'text/event-stream', 'content-encoding': 'gzip' })
    client.destroy()
  }
})

t.test('an answer that takes the place of a compressed stream has none of its headers', async (t) => {
  for (const answer of ['throws', 'answers']) {
    const app = await createApp(t, { compress: true })
    app.addHook('onSend', async (request, reply, payload) => {
      if (typeof payload === 'string') return payload
      if (answer === 'throws') throw new Error('no')
      reply.send({ answer: 42 })
    })
    const channel = app.sse.channel('c')
    app.get('/own', async (request, reply) => reply.sse(idleSource().source))
    app.get('/channel', async (request, reply) => reply.sse(channel))
    const port = await listen(app)
    for (const path of ['/own', '/channel']) {
      const client = read(t, port, path)
      await until(() => client.ended)
      t.equal(client.headers['content-encoding'], undefined)
      t.match(client.headers['content-type'], /^application\/json/)
      t.match(JSON.parse(client.text), answer === 'throws' ? { statusCode: 500, message: 'no' } : { answer: 42 })
    }
    await until(() => app.sse.stats().closed.superseded === 2)
  }
})

t.test('a compressor goes with its client, also where that leaves before the head', async (t) => {
  const made: zlib.Gzip[] = []
  const { prototype } = (zlib as unknown as { Gzip: { prototype: zlib.Gzip } }).Gzip
  prototype.pipe = function pipe (this: zlib.Gzip, ...args: Parameters<Readable['pipe']>) {
    made.push(this)
    return Readable.prototype.pipe.apply(this, args)
  } as typeof prototype.pipe
  t.after(() => { delete (prototype as { pipe?: unknown }).pipe })
  const app = await createApp(t, { compress: true })
  let sending = deferred()
  let send = deferred()
  app.addHook('onSend', async () => {
    sending.resolve()
    await send.promise
  })
  app.get('/', async (request, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const early = connect(t, port).get('/', 'Accept-Encoding: gzip')
  await sending.promise
  for (const connection of app.sse.connections) connection.end()
  early.destroy()
  await until(() => app.sse.stats().closed.ended === 1)
  await turns()
  send.resolve()
  await turns()
  sending = deferred()
  send = deferred()
  send.resolve()
  const late = read(t, port, '/')
  await until(() => late.text === 'data: 1\n\n')
  late.destroy()
  await until(() => app.sse.stats().open === 0)
  await turns()
  t.ok(made.length >= 1)
  t.ok(made.every(({ destroyed }) => destroyed), `${made.length} were made`)
})
