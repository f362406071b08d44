/**
 * The short way to a socket, past the response: it is taken where the response would write a chunk and do nothing else.
 * Whichever way is taken, a client gets the same bytes.
 */
import type { FastifyInstance, FastifyReply } from 'fastify'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { ServerResponse } from 'node:http'
import http2 from 'node:http2'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { Transform, type Readable } from 'node:stream'
import t, { } from 'tap'
import tls from 'node:tls'
import zlib from 'node:zlib'
import { FramedEvent } from '../lib/channels/framed-event.ts'
import { Batch } from '../lib/channels/reading.ts'
import { chunked, Chunk } from '../lib/chunk.ts'
import { isStuck, untilBehind } from './behind.ts'
import { connect, given, listen, ownClock, turns, until } from './helpers.ts'
import {
  type Feed, ofChannel, ofSource, eachFeed, start, isWholeChunk, chunkOf, parse, bytesOf,
  gets, opened, sendSome, only, responseOf, noteResponses
} from './writes.ts'

t.test('a chunk is its size in hexadecimal digits, its bytes, and CRLF around them', async (t) => {
  for (const text of ['x', 'x'.repeat(15), 'x'.repeat(16), 'ä€\n\u{1F600}', 'x'.repeat(65_537)]) {
    const bytes = Buffer.from(text)
    t.equal(chunked(text, bytes.length), `${bytes.length.toString(16)}\r\n${text}\r\n`)
    for (const pieces of [[bytes], [bytes.subarray(0, 1), bytes.subarray(1)], [...bytes].map((byte) => Buffer.from([byte]))]) {
      const chunk = Chunk.ofPieces(pieces)
      t.ok(chunk.whole.equals(Buffer.from(chunked(text, bytes.length))))
      t.ok(chunk.bytes.equals(bytes))
      t.equal(chunk.bytes.buffer, chunk.whole.buffer, 'in the same memory')
    }
  }
})

eachFeed('in the plain case each event goes to the socket in one piece, a whole chunk', async (t, makeFeed) => {
  const { app, writes } = await start(t)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  writes.length = 0
  const before = feed.sent
  await sendSome(feed)
  await gets(t, client, feed.sent)
  const blocks = bytesOf(feed.sent.slice(before.length)).split(/(?<=\n\n)/)
  t.equal(blocks.length, 3)
  t.same(writes, blocks.map(chunkOf))
  t.equal(app.sse.stats().bytes, Buffer.byteLength(feed.sent), 'chunk sizes and CRLF are not counted')
})

t.test('the events of a channel that are published in one turn go to each of its clients in one piece, the same bytes', async (t) => {
  const { app, writes } = await start(t)
  const feed = await ofChannel(app)
  const port = await listen(app)
  const clients = [await opened(t, port, feed), await opened(t, port, feed)]
  writes.length = 0
  const before = feed.sent
  await Promise.all(['a', 'b', 'c'].map((text) => feed.send(text)))
  for (const client of clients) await gets(t, client, feed.sent)
  t.same(writes, Array(2).fill(chunkOf(feed.sent.slice(before.length))))
})

t.test('comments that break silence take it, too', async (t) => {
  const { app, writes } = await start(t, {}, { keepAlive: 1_000 })
  const feed = await ofSource(app)
  const port = await listen(app)
  const clock = ownClock(t)
  const client = await opened(t, port, feed)
  writes.length = 0
  for (const many of [1, 2]) {
    await clock.tickAsync(1_000)
    await given(t, client, ':\n\n'.repeat(many))
  }
  t.same(writes, [chunkOf(':\n\n'), chunkOf(':\n\n')])
})

eachFeed('HTTP/1.0 has no chunks', async (t, makeFeed) => {
  const { app, short } = await start(t)
  const feed = await makeFeed(app)
  const client = connect(t, await listen(app)).send('GET / HTTP/1.0\r\nHost: test\r\n\r\n')
  await given(t, client, feed.sent)
  await sendSome(feed)
  await given(t, client, feed.sent)
  only(app).end()
  await client.untilClosed()
  t.equal(client.received, `${client.head}\r\n\r\n${bytesOf(feed.sent)}`)
  t.same(short(), [])
})

for (const [name, prepare] of Object.entries({
  'a content-length': (reply: FastifyReply) => { reply.header('content-length', '100000') },
  'the end of the connection as its end': (reply: FastifyReply) => { reply.raw.removeHeader('transfer-encoding') }
})) {
  eachFeed(`a response that a hook gives ${name} has no chunks`, async (t, makeFeed) => {
    const { app, short } = await start(t)
    app.addHook('onSend', async (request, reply) => prepare(reply))
    const feed = await makeFeed(app, '/')
    const client = await opened(t, await listen(app), feed)
    await sendSome(feed)
    await given(t, client, feed.sent)
    t.notMatch(client.head, /transfer-encoding/i)
    t.equal(client.received, `${client.head}\r\n\r\n${bytesOf(feed.sent)}`)
    t.same(short(), [])
  })
}

eachFeed('HTTP/2 has frames of its own', async (t, makeFeed) => {
  const { app } = await start(t, { http2: true })
  const feed = await makeFeed(app)
  const session = http2.connect(`http://127.0.0.1:${await listen(app)}`)
  session.on('error', () => {})
  t.after(() => session.destroy())
  const stream = session.request({ ':path': '/' })
  stream.on('error', () => {})
  let body = ''
  stream.setEncoding('utf8').on('data', (text: string) => { body += text })
  await once(stream, 'response')
  await until(() => body === feed.sent)
  await sendSome(feed)
  await until(() => body.length >= feed.sent.length, () => feed.sent)
  await turns()
  t.equal(body, feed.sent)
})

eachFeed('what an onSend hook has put before the response sees all of it', async (t, makeFeed) => {
  const { app, short } = await start(t)
  app.addHook('onSend', async (_, reply, payload) => (payload as Readable).pipe(new Transform({
    transform (bytes: Buffer, _, callback) { callback(null, bytes.toString().replaceAll('data', 'DATA')) }
  })))
  const feed = await makeFeed(app)
  const client = connect(t, await listen(app)).get('/')
  await until(() => app.sse.stats().open === 1)
  await sendSome(feed)
  await gets(t, client, feed.sent.replaceAll('data', 'DATA'))
  t.same(short(), [])
})

eachFeed('what is compressed goes the long way', async (t, makeFeed) => {
  const { app, short } = await start(t)
  const feed = await makeFeed(app, '/', { stream: { compress: true } })
  const client = connect(t, await listen(app)).get('/', 'Accept-Encoding: gzip')
  await client.until('\r\n\r\n')
  await turns()
  await sendSome(feed)
  await feed.send('long '.repeat(100))
  await turns()
  t.same(short(), [])
  only(app).end()
  await client.until('0\r\n\r\n')
  t.match(client.head, /^content-encoding: gzip$/im)
  const { chunks, isEnded, rest } = parse(client)
  t.equal(zlib.gunzipSync(Buffer.from(chunks.join(''), 'latin1')).toString(), feed.sent)
  t.same([isEnded, rest], [true, ''])
})

eachFeed('compress without a client that accepts it is the plain case', async (t, makeFeed) => {
  const { app, short } = await start(t)
  const feed = await makeFeed(app, '/', { stream: { compress: true } })
  const client = await opened(t, await listen(app), feed)
  short()
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.equal(short().length, 3)
})

/** Puts a `write` of its own in the place of the response's, as instrumentation does. */
function instrument (response: ServerResponse): { seen: string, restore: () => void } {
  const { write } = response
  const instrumented = { seen: '', restore: () => { response.write = write } }
  response.write = function (this: ServerResponse, ...args: any[]) {
    instrumented.seen += Buffer.from(args[0]).toString()
    return write.apply(this, args as never)
  } as typeof write
  return instrumented
}

eachFeed('who has patched response.write before the stream sees all of it', async (t, makeFeed) => {
  const { app, short } = await start(t)
  let seen: { seen: string } | undefined
  app.addHook('onRequest', async (_, reply) => { seen = instrument(reply.raw) })
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.equal(seen!.seen, feed.sent)
  t.same(short(), [])
})

eachFeed('who patches response.write in the middle of the stream sees all from there on, until it takes that back', async (t, makeFeed) => {
  const { app, short } = await start(t)
  noteResponses(app)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  await sendSome(feed)
  t.not(short().length, 0)
  const before = feed.sent.length
  const patched = instrument(responseOf(app))
  await sendSome(feed)
  await gets(t, client, feed.sent)
  const seen = feed.sent.slice(before)
  t.equal(patched.seen, seen)
  t.same(short(), [])
  patched.restore()
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.equal(patched.seen, seen)
  t.equal(short().length, 2, 'the first of these goes the long way, and finds it free again')
})

for (const corked of ['response', 'socket'] as const) {
  eachFeed(`what comes while the application has corked the ${corked} comes after what it has written, once it uncorks it`, async (t, makeFeed) => {
    const { app, short } = await start(t)
    noteResponses(app)
    const feed = await makeFeed(app)
    const client = await opened(t, await listen(app), feed)
    await sendSome(feed)
    await gets(t, client, feed.sent)
    const response = responseOf(app)
    short()
    const before = feed.sent
    const it = corked === 'response' ? response : response.socket!
    it.cork()
    response.write(': by hand\n\n')
    await sendSome(feed)
    // What is written to a corked socket waits behind what the response has written there: either way is right.
    if (corked === 'response') t.same(short(), [], 'none goes past the response')
    t.equal(client.body, before, 'none goes out')
    it.uncork()
    await gets(t, client, `${before}: by hand\n\n${feed.sent.slice(before.length)}`)
    short()
    await sendSome(feed)
    await gets(t, client, `${before}: by hand\n\n${feed.sent.slice(before.length)}`)
    t.ok(short().length >= 2, 'then, or after one more, it is free again')
  })
}

eachFeed('what the application writes to the response itself stays in its place', async (t, makeFeed) => {
  const { app } = await start(t)
  noteResponses(app)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  let expected = feed.sent
  for (let n = 0; n < 5; n++) {
    const before = feed.sent.length
    await feed.send(`event ${n}`)
    await turns()
    responseOf(app).write(`: ${n}\n\n`)
    if (n % 2 === 0) await turns()
    expected += `${feed.sent.slice(before)}: ${n}\n\n`
  }
  await gets(t, client, expected)
})

/** Sends small events to a client that does not read, until some of their bytes are left in this process. */
async function untilUnread (app: FastifyInstance, feed: Feed): Promise<Socket> {
  const { socket } = only(app).request.raw
  while (!await isStuck(socket)) {
    await feed.send('x'.repeat(4_096))
    await turns(3)
  }
  t.equal(only(app).behind, false, 'the socket has not asked for a pause')
  return socket
}

eachFeed('a response that the application has ended: the next one on its socket gets none of what comes then', async (t, makeFeed) => {
  const { app, faults } = await start(t, {}, { writeTimeout: false })
  noteResponses(app)
  const feed = await makeFeed(app)
  app.get('/json', async () => ({ ok: true }))
  const client = await opened(t, await listen(app), feed)
  client.get('/json')
  client.socket.pause()
  await untilUnread(app, feed)
  const { sent } = feed
  responseOf(app).end()
  await sendSome(feed)
  client.socket.resume()
  await client.until('{"ok":true}')
  const { chunks, isEnded, rest } = parse(client)
  t.ok(chunks.join('') === sent, 'what came before')
  t.ok(isEnded)
  t.match(rest, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)+\r\n\{"ok":true\}$/)
  client.received = ''
  await sendSome(feed)
  await client.get('/json').until('{"ok":true}')
  t.match(client.received, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)+\r\n\{"ok":true\}$/, 'nor those after it')
  t.same(faults, [])
  t.match(app.sse.stats(), { open: 0 })
})

eachFeed('a response that the application has ended in the turn of an event', async (t, makeFeed) => {
  const { app, faults } = await start(t)
  noteResponses(app)
  const feed = await makeFeed(app)
  app.get('/json', async () => ({ ok: true }))
  const client = await opened(t, await listen(app), feed)
  const { sent } = feed
  const response = responseOf(app)
  response.end()
  const sending = sendSome(feed)
  await client.get('/json').until('{"ok":true}')
  await sending
  await turns()
  const { chunks, rest } = parse(client)
  t.equal(chunks.join(''), sent)
  t.match(rest, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)+\r\n\{"ok":true\}$/)
  t.same(faults, [])
})

eachFeed('a response whose socket was taken away writes nothing to it', async (t, makeFeed) => {
  const { app, writes, faults } = await start(t)
  noteResponses(app)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  await sendSome(feed)
  await gets(t, client, feed.sent)
  const response = responseOf(app)
  const socket = response.socket!
  const before = feed.sent
  response.detachSocket(socket)
  writes.length = 0
  await sendSome(feed)
  t.same(writes, [])
  t.equal(client.body, before)
  response.assignSocket(socket)
  await gets(t, client, feed.sent, 'what the response has held, once it has its socket again')
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.same(faults, [])
})

eachFeed('pipelining: a stream that waits behind another is served after its end, and no byte of one is in the other', async (t, makeFeed) => {
  const { app, short } = await start(t)
  const [first, second] = [await makeFeed(app, '/first'), await makeFeed(app, '/second')]
  const client = await opened(t, await listen(app), first, '/first')
  client.get('/second')
  await until(() => app.sse.stats().opened === 2)
  await sendSome(first)
  if (second.kind === 'a source') await second.send('waits')
  await turns()
  await gets(t, client, first.sent)
  const { sent } = first
  only(app).end()
  await first.send('late')
  await until(() => parse(client).rest.includes('\r\n\r\n'))
  const { chunks, isEnded, rest } = parse(client)
  t.equal(chunks.join(''), bytesOf(sent))
  t.ok(isEnded)
  client.received = rest
  short()
  await given(t, client, second.sent)
  for (const feed of [second, first, second]) {
    await sendSome(feed)
    await turns()
  }
  await gets(t, client, second.sent)
  t.equal(short().length, 6, 'the second goes the short way in its turn')
})

eachFeed('keep-alive: the next stream on a socket gets its own events alone', async (t, makeFeed) => {
  const { app, writes } = await start(t)
  const [first, second] = [await makeFeed(app, '/first'), await makeFeed(app, '/second')]
  const client = await opened(t, await listen(app), first, '/first')
  await sendSome(first)
  only(app).end()
  await client.until('0\r\n\r\n')
  t.same(parse(client), { chunks: parse(client).chunks, isEnded: true, rest: '' })
  client.received = ''
  client.get('/second')
  await given(t, client, second.sent)
  await turns()
  writes.length = 0
  await first.send('late')
  await sendSome(second)
  await gets(t, client, second.sent)
  t.equal(writes.filter(isWholeChunk).length, 3)
})

eachFeed('a client that half-closes while events come: no error, and others notice nothing', async (t, makeFeed) => {
  const { app, faults } = await start(t)
  const feed = await makeFeed(app)
  const otherFeed = await makeFeed(app, '/other')
  const port = await listen(app)
  const other = await opened(t, port, otherFeed, '/other')
  const client = await opened(t, port, feed)
  const { socket } = [...app.sse.connections].find(({ request }) => request.url === '/')!.request.raw
  const before = feed.sent
  let ended = false
  socket.on('end', () => {
    ended = true
    t.equal(socket.writable, false, 'Node has ended the socket')
    feed.send('one')
  })
  client.socket.end()
  await until(() => ended)
  await feed.send('two')
  await sendSome(otherFeed)
  await client.untilClosed()
  await until(() => app.sse.stats().open === 1)
  await sendSome(feed)
  await gets(t, other, otherFeed.sent)
  t.equal(client.body, before)
  t.same(faults, [])
  t.match(app.sse.stats(), { open: 1, closed: { 'client-gone': 1 } })
})

eachFeed('a socket that is destroyed while events come: no error, and others notice nothing', async (t, makeFeed) => {
  const { app, faults, writes } = await start(t)
  const feed = await makeFeed(app)
  const otherFeed = await makeFeed(app, '/other')
  const port = await listen(app)
  const other = await opened(t, port, otherFeed, '/other')
  await opened(t, port, feed)
  const { socket } = [...app.sse.connections].find(({ request }) => request.url === '/')!.request.raw
  await feed.send('one')
  writes.length = 0
  socket.destroy()
  await feed.send('two')
  await turns()
  t.same(writes, [], 'nothing is written to it')
  await sendSome(otherFeed)
  await gets(t, other, otherFeed.sent)
  t.same(faults, [])
  t.match(app.sse.stats(), { open: 1, closed: { 'client-gone': 1 } })
})

eachFeed('an event of more than 64 KiB goes in slices, each of which a slow client is seen to take, and what follows after it', async (t, makeFeed) => {
  const { app } = await start(t)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  for (const size of [65_000, 65_537, 200_000, 300_000, 1]) {
    await feed.send('x'.repeat(size))
    if (size % 2 === 1) await feed.send('small')
  }
  await given(t, client, feed.sent)
  const { chunks } = parse(client)
  t.ok(chunks.join('') === feed.sent)
  t.ok(Math.max(...chunks.map(({ length }) => length)) <= 65_536, `chunks of ${Math.max(...chunks.map(({ length }) => length))} bytes`)
})

eachFeed('many small events, several in each turn, then one in each', async (t, makeFeed) => {
  const { app } = await start(t)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  for (let n = 0; n < 2_000; n++) {
    await feed.send(`event ${n} €`)
    if (n % 7 === 0 || n > 1_800) await turns(1)
  }
  await given(t, client, feed.sent)
  t.ok(parse(client).chunks.join('') === bytesOf(feed.sent), 'in well-formed chunks')
})

for (const size of [1_000, 20_000, 300_000]) {
  eachFeed(`a client that stalls on events of ${size} bytes gets all of them when it reads on, twice`, async (t, makeFeed) => {
    const { app, short } = await start(t, {}, { writeTimeout: false })
    const feed = await makeFeed(app)
    const client = await opened(t, await listen(app), feed)
    const drained = only(app).request.raw.socket.listenerCount('drain')
    for (let round = 0; round < 2; round++) {
      client.socket.pause()
      await untilBehind(app.sse, (n) => feed.send(`${n} ${'x'.repeat(size)}`))
      short()
      for (let n = 0; n < 10; n++) {
        await feed.send(`behind ${round} ${n}`)
        await turns(1)
      }
      t.same(short(), [], 'nothing is written while it is behind')
      client.socket.resume()
      await until(() => client.received.includes(`behind ${round} 9\n\n`))
      t.ok(client.body === feed.sent, 'all of it, in order')
      t.equal(only(app).behind, false)
      t.equal(only(app).request.raw.socket.listenerCount('drain'), drained, 'nobody waits for it any more')
      short()
      await sendSome(feed)
      await until(() => client.received.endsWith('data: 3\n\n\r\n'))
      t.ok(parse(client).chunks.join('') === bytesOf(feed.sent), 'in well-formed chunks')
      t.equal(short().length, 3, 'and then the short way')
    }
  })
}

t.test('the last text of a stream comes after what a client that is behind has not read', async (t) => {
  const { app } = await start(t, {}, { writeTimeout: false, retry: 5 })
  const feed = await ofSource(app)
  const client = connect(t, await listen(app)).get('/')
  await client.until('retry: 5\n\n')
  client.socket.pause()
  await untilBehind(app.sse, (n) => feed.send(`${n} ${'x'.repeat(1_000_000)}`))
  const closing = app.close()
  await turns()
  client.socket.resume()
  await client.untilClosed()
  await closing
  const { chunks, isEnded, rest } = parse(client)
  const [, last] = /(retry: \d+\n\n)$/.exec(chunks.join('')) ?? []
  t.ok(chunks.join('') === `retry: 5\n\n${feed.sent}${last}`, 'all of it, then when to come back')
  t.same([isEnded, rest], [true, ''])
})

t.test('text that has gathered goes before bytes of the same turn', async (t) => {
  const { app } = await start(t, {}, { writeTimeout: false })
  const channel = app.sse.channel('c', { history: { events: 4, bytes: 100_000_000 }, onLag: 'gap' })
  app.get('/', (_, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/')
  await client.until(/id: .*\n\n/)
  await turns()
  client.socket.pause()
  const ids: string[] = []
  const publish = async () => {
    // All that is retained fits into one chunk.
    ids.push(await channel.publish({ raw: `${ids.length} ${'x'.repeat(12_000)}` }))
    await turns(3)
  }
  await untilBehind(app.sse, publish)
  for (let n = 0; n < 10; n++) await publish()
  client.socket.resume()
  await client.until(`data: ${ids.length - 1} `)
  await client.until(/x\n\n\r\n$/)
  const gap = /event: gap\ndata: .*\n\n[^]*$/.exec(parse(client).chunks.join(''))?.[0].replace(/x+/g, '')
  const [, requested] = /"requested":"([^"]+)"/.exec(gap ?? '') ?? []
  t.equal(gap, `event: gap\ndata: ${JSON.stringify({ requested, earliest: ids.at(-4) })}\n\nid: ${ids.at(-5)}\n\n` +
    ids.slice(-4).map((id, n) => `id: ${id}\ndata: ${ids.length - 4 + n} \n\n`).join(''))
})

t.test('readers that are urged to take a burst while they are behind: it waits for the client, not in the socket', async (t) => {
  const { app, writes } = await start(t, {}, { writeTimeout: false })
  const channel = app.sse.channel('c', { history: { events: 2, bytes: 100_000_000 } })
  let sent = `id: ${await channel.publish({ raw: 'before' })}\n\n`
  app.get('/', (_, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/')
  await given(t, client, sent)
  await turns()
  client.socket.pause()
  const publish = async (text: string) => {
    const id = await channel.publish({ raw: text })
    sent += `id: ${id}\ndata: ${text}\n\n`
  }
  // The last of them is taken whole, so that the client has had everything when the burst begins.
  await untilBehind(app.sse, () => publish('x'.repeat(20_000)))
  writes.length = 0
  for (let n = 0; n < 20; n++) publish(`burst ${n}`)
  await turns()
  t.same(writes, [])
  client.socket.resume()
  await until(() => client.received.includes('burst 19\n\n'))
  t.ok(client.body === sent, 'all of it, in order')
  t.ok(parse(client).chunks.join('') === sent, 'in well-formed chunks')
})

eachFeed('an injected request has no socket', async (t, makeFeed) => {
  const { app } = await start(t)
  const feed = await makeFeed(app)
  const injected = app.inject({ url: '/' })
  await until(() => app.sse.stats().open === 1)
  await turns()
  await sendSome(feed)
  only(app).end()
  const { body } = await injected
  t.equal(body, feed.sent)
})

eachFeed('trailers come after the last event', async (t, makeFeed) => {
  const { app, short } = await start(t)
  const feed = await makeFeed(app, '/', { prepare: (reply) => { reply.trailer('x-end', async () => 'yes') } })
  const client = await opened(t, await listen(app), feed)
  short()
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.equal(short().length, 3)
  only(app).end()
  await client.until('x-end')
  await turns()
  t.match(client.head, /^trailer: x-end$/im)
  t.ok(client.received.endsWith('data: 3\n\n\r\n0\r\nx-end: yes\r\n\r\n'), JSON.stringify(client.received.slice(-60)))
  await until(() => app.sse.stats().open === 0)
})

eachFeed('TLS: the chunks go into the encrypted socket', async (t, makeFeed) => {
  const dir = t.testdir()
  const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-keyout', key, '-out', cert, '-days', '1', '-subj', '/CN=localhost'], { stdio: 'ignore' })
  const { app, writes } = await start(t, { https: { key: readFileSync(key), cert: readFileSync(cert) } })
  const feed = await makeFeed(app)
  const socket = tls.connect({ port: await listen(app), host: '127.0.0.1', rejectUnauthorized: false })
  t.after(() => socket.destroy())
  let received = ''
  socket.setEncoding('latin1').on('data', (text: string) => { received += text }).on('error', () => {})
  socket.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n')
  await until(() => received.includes('\r\n\r\n'))
  await turns()
  writes.length = 0
  const before = { sent: feed.sent.length, received: received.length }
  await sendSome(feed)
  const expected = bytesOf(feed.sent.slice(before.sent)).split(/(?<=\n\n)/).map(chunkOf)
  await until(() => received.length >= before.received + expected.join('').length)
  t.equal(received.slice(before.received), expected.join(''))
  t.same(writes, expected)
  // The server waits for it otherwise.
  socket.destroy()
  await until(() => app.sse.stats().open === 0)
})

t.test('a response whose write was replaced before the plugin was loaded is not gone past', async (t) => {
  const seen: string[] = []
  const { write } = ServerResponse.prototype
  t.after(() => { delete (ServerResponse.prototype as Partial<ServerResponse>).write })
  ServerResponse.prototype.write = function instrumented (this: ServerResponse, ...args: any[]) {
    seen.push(String(args[0]))
    return write.apply(this, args as never)
  } as ServerResponse['write']
  const { app } = await start(t)
  const feed = await ofSource(app)
  const client = await opened(t, await listen(app), feed)
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.equal(seen.join(''), feed.sent)
})

t.test('an event that is delivered by itself is held once, however many readers and forms it has', async (t) => {
  const event = new FramedEvent('1-0', { event: '', data: '1' })
  t.equal(new Batch([event]).chunk, event.chunk)
  t.equal(new Batch([event]).chunk.whole, event.chunk.whole)
})
