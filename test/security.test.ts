/**
 * Attacks: what clients, the data of events and whoever writes to Redis could try. SECURITY.md names these tests, and those
 * elsewhere, threat by threat.
 */
import { Type } from '@sinclair/typebox'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { parseStored, toRecord } from '../lib/brokers/redis/record.ts'
import { readVector } from '../lib/channels/vector.ts'
import { acceptedCoding } from '../lib/coding.ts'
import { isEntryId } from '../lib/entry-id.ts'
import { idAlone } from '../lib/id-alone.ts'
import { lastEventIdOf } from '../lib/last-event-id.ts'
import { connect, createApp, fetchBody, listen, turns, until } from './helpers.ts'

t.test('every test that SECURITY.md names is there', (t) => {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  const named = [...readFileSync(join(root, 'SECURITY.md'), 'utf8').matchAll(/^- `(test\/[\w-]+\.test\.ts)`: (.+)$/gm)]
  t.ok(named.length > 40, `${named.length} of them`)
  for (const [, file, title] of named) {
    const text = readFileSync(join(root, file!), 'utf8').replaceAll("\\'", "'")
    t.ok(text.includes(`test('${title}'`) || text.includes(`test("${title}"`), `${file}: ${title}`)
  }
  t.end()
})

/** What a stream means to a client. */
function parse (stream: string) {
  const events: EventSourceMessage[] = []
  const comments: string[] = []
  const retries: number[] = []
  const parser = createParser({
    onEvent: (event) => { events.push(event) },
    onComment: (comment) => { comments.push(comment) },
    onRetry: (ms) => { retries.push(ms) },
    onError: (error) => { throw error }
  })
  parser.feed(stream)
  return { events, comments, retries }
}

/** A body as soon as it has this in it. */
async function bodyWith (t: Test, port: number, path: string, text: string | RegExp, ...headers: string[]): Promise<string> {
  const client = connect(t, port).get(path, ...headers)
  await client.until(text)
  client.destroy()
  return client.body
}

/** Text that would begin a field, a block or a stream of its own, wherever a line ended or was taken to end. */
const BREAKERS = ['\n', '\r', '\r\n', '\n\n', '\0', '\u000b', '\u000c', '\u001c', '\u0085', '\u2028', '\u2029', '\ufeff', '\ud800', '\udc00']
const PAYLOADS = BREAKERS.map((breaker) => `a${breaker}event: evil${breaker}id: 666${breaker}retry: 1${breaker}data: evil${breaker}${breaker}`)

/** As the name of an assertion, in a report that has lines of its own. */
function shown (text: string): string {
  return encodeURIComponent(text.toWellFormed())
}

t.test('text that others have chosen stays in its field, or its event is not sent', async (t) => {
  const app = await createApp(t, { onInvalidEvent: 'drop' })
  let event: object
  app.get('/', async (request, reply) => reply.sse([{ id: 'first', data: 1 }, event, { id: 'last', data: 2 }] as never))
  const port = await listen(app)
  for (const [index, text] of PAYLOADS.entries()) {
    for (const field of ['event', 'id', 'raw', 'comment', 'data']) {
      event = field === 'data' || field === 'raw' ? { [field]: text } : { data: 'x', [field]: text }
      const { events, comments, retries } = parse(await fetchBody(t, port, '/'))
      const what = `${field}: ${shown(BREAKERS[index]!)}`
      t.strictSame([events[0], events.at(-1)], [{ id: 'first', event: undefined, data: '1' }, { id: 'last', event: undefined, data: '2' }], what)
      t.ok(events.length === 3 || (events.length === 2 && ['event', 'id', 'raw'].includes(field)), `${what}: one event, or none`)
      t.notOk(events.some(({ event, id }) => event === 'evil' || id === '666'), what)
      t.strictSame(retries, [], what)
      if (field !== 'comment') t.strictSame(comments, [], what)
    }
  }
  t.ok(app.sse.stats().dropped > 10, 'those that no field can carry')
})

t.test('an event whose getters change their minds adds no lines to a stream', async (t) => {
  const evil = 'a\n\nevent: evil\nid: 666\ndata: evil'
  const app = await createApp(t, { onInvalidEvent: 'drop' })
  const channel = app.sse.channel('getters', { history: { events: 100 } })
  function changing (from: number) {
    let reads = 0
    return { data: 1, get raw () { return ++reads >= from ? evil : undefined } } as unknown as { data: unknown }
  }
  app.get('/', (_, reply) => reply.sse([1, 2, 3, 4, 5, 6].map(changing)))
  app.get('/channel', (_, reply) => reply.sse(channel.subscribe({ after: 'earliest' })))
  const port = await listen(app)
  for (const from of [1, 2, 3, 4, 5, 6]) await channel.publish(changing(from)).catch(() => {})
  await channel.close()
  for (const path of ['/', '/channel']) {
    const { events } = parse(await fetchBody(t, port, path))
    t.ok(events.some(({ data }) => data === '1'), path)
    t.same(events.filter(({ event, id, data }) => event === 'evil' || id === '666' || data === 'evil'), [], path)
  }
})

t.test('a reconnection time is digits, and nothing that can be written as something else', async (t) => {
  const app = await createApp(t, { onInvalidEvent: 'drop' })
  const wrong = ['5', '1\ndata: evil', 1e21, -1, 1.5, NaN, Infinity, { toString: () => '1\ndata: evil' }, [1], 5n, true]
  app.get('/', async (request, reply) => reply.sse(wrong.map((retry) => ({ data: 1, retry })) as never))
  t.equal((await app.inject('/')).payload, '')
  t.equal(app.sse.stats().dropped, wrong.length)
})

t.test('the ID that ends a finite stream for good is no ID for an event', async (t) => {
  const app = await createApp(t, { onInvalidEvent: 'drop' })
  app.get('/', async (request, reply) => reply.sse([{ id: 'fastify-typed-sse:finished', data: 1 }, { id: 'fastify-typed-sse:finished' }, { data: 2 }]))
  t.equal((await app.inject('/')).payload, 'data: 2\n\n')
  t.equal(app.sse.stats().dropped, 2)
})

t.test('a last event ID that is told back is one ID, and one string of JSON, whatever is in it', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('news')
  const other = app.sse.channel('more')
  app.get('/one', async (request, reply) => reply.sse(channel))
  app.get('/two', async (request, reply) => reply.sse(app.sse.subscribe([channel, other])))
  await channel.publish({ data: 1 })
  const port = await listen(app)
  const hostile = [...PAYLOADS, 'data: evil', ': comment', '","earliest":"0-0"}', '</script><script>', '\u202e', '%0d%0a', '\\n\\n', ' ', '~', '~~']
  for (const id of hostile) {
    for (const path of ['/one', '/two']) {
      const client = connect(t, port).get(`${path}?lastEventId=${encodeURIComponent(id.toWellFormed())}`)
      await client.until(/data: 1\n\n|"statusCode":400/)
      client.destroy()
      if (/[\r\n\0]/.test(id)) {
        t.match(client.head, /^HTTP\/1\.1 400 /, `${path} ${shown(id)}`)
        continue
      }
      const { events, comments, retries } = parse(client.body)
      t.strictSame(events.map(({ event }) => event), path === '/one' ? ['gap', undefined] : ['gap', 'gap', undefined].slice(-events.length))
      t.strictSame(JSON.parse(events[0]!.data).requested, id.toWellFormed(), `${path} ${shown(id)}`)
      t.strictSame([comments, retries], [[], []])
    }
  }
})

t.test('whatever stands in the headers that are read, each answer is well-formed, and no stream is left', async (t) => {
  const app = await createApp(t, { compress: true, finite: true, maxConnectionsPerClient: 3 })
  const channel = app.sse.channel('news')
  app.get('/own', async (request, reply) => reply.sse([{ id: 1, data: 1 }]))
  app.get('/channel', async (request, reply) => reply.sse(channel))
  await channel.publish({ data: 1 })
  await channel.close()
  const port = await listen(app)
  const byte = fc.integer({ min: 32, max: 255 }).filter((code) => code !== 127).map((code) => String.fromCharCode(code))
  const piece = fc.oneof(byte, fc.constantFrom('gzip', 'zstd', ';q=', '0', '1', 'NaN', '*', ',', '~', '-', '18446744073709551616', '.',
    'earliest',
    'text/event-stream', 'Firefox/', 'Safari/', 'Chrome/', ' ', '%00', 'é', '\xc0\x8a', '\xff'))
  const value = fc.array(piece, { maxLength: 30 }).map((pieces) => pieces.join(''))
  let answered = 0
  await fc.assert(fc.asyncProperty(value, value, value, value, fc.constantFrom('/own', '/channel'), async (id, coding, accept, agent, path) => {
    const client = connect(t, port).get(path, `Last-Event-ID: ${id}`, `Accept-Encoding: ${coding}`, `Accept: ${accept}`, `User-Agent: ${agent}`,
      'Connection: close')
    const received = await client.untilClosed()
    if (!/^HTTP\/1\.1 (200 OK|204 No Content|400 Bad Request|429 Too Many Requests)\r\n/.test(received)) throw new Error(received)
    if (/transfer-encoding: chunked/i.test(client.head) && !received.endsWith('\r\n0\r\n\r\n')) throw new Error(received)
    if (received.startsWith('HTTP/1.1 200')) answered++
  }), { numRuns: 200 })
  t.ok(answered > 50, `${answered} streams`)
  await until(() => app.sse.stats().open === 0)
  t.equal(app.sse.connections.size, 0)
})

t.test('an ID is a position in the channels that the route reads, and opens no others', async (t) => {
  const app = await createApp(t)
  const [mine, shared, secret] = [app.sse.channel('user:mine'), app.sse.channel('shared'), app.sse.channel('user:secret')]
  app.get('/mine', async (request, reply) => reply.sse(mine))
  app.get('/both', async (request, reply) => reply.sse(app.sse.subscribe([mine, shared])))
  app.get('/theirs', async (request, reply) => reply.sse(app.sse.subscribe([secret, shared])))
  const port = await listen(app)
  const before = /id: (\S+)/.exec(await bodyWith(t, port, '/theirs', 'id: '))![1]!
  const id = await secret.publish({ data: 'SECRET' })
  await secret.publish({ data: 'SECRET' })
  await shared.publish({ data: 'shared' })
  await mine.publish({ data: 'mine' })
  t.match(await bodyWith(t, port, '/theirs', 'shared"', `Last-Event-ID: ${before}`), /SECRET/, 'for those who read it the ID is good')
  for (const hostile of [id, before, 'earliest', '0-0', `${before}.${before.slice(1)}`, `~user:secret${id}`]) {
    for (const path of ['/mine', '/both']) {
      const body = await bodyWith(t, port, path, /"mine"|"shared"/, `Last-Event-ID: ${hostile}`)
      t.notMatch(body, /SECRET/, `${path} after ${hostile}`)
    }
  }
})

t.test('what Redis has is checked as any other input: an entry that could not have been published is damaged', (t) => {
  const read = (header: unknown, text: unknown, isText = false) => parseStored(
    ['5-1', ['p', '5-0', 'e', '', 'h', isText ? header : JSON.stringify(header), 't', text]])?.entry
  const { header, text } = toRecord({ event: 'price', data: '{"eur":1}', retry: 5, comment: 'c' }, 'token')
  t.strictSame(read(header, text, true)?.message, { event: 'price', data: '{"eur":1}', retry: 5, comment: 'c' }, 'one that was')
  for (const breaker of ['\n', '\r', '\r\n', '\ud800']) t.equal(read(['token', 'd', `a${breaker}data: evil`], '1'), undefined)
  t.equal(read(['token', 'd', 'a'], '1}\n\ndata: evil'), undefined, 'what is no JSON')
  t.equal(read(['token', 'r', 'a'], 'a\ud800'), undefined)
  for (const retry of ['1\ndata: evil', -1, 1.5, {}]) t.equal(read(['token', 'r', 'a', retry], 'x'), undefined, JSON.stringify(retry))
  t.equal(read(['token', 'x', 'a'], '1'), undefined, 'of no kind')
  for (const nonsense of ['', 'null', '{}', '[', '{"__proto__":{"event":"x"}}', '5']) t.equal(read(nonsense, '1', true), undefined, nonsense)
  for (const nonsense of [null, undefined, 5, [], {}]) t.equal(read(['token', 'd', 'a'], nonsense), undefined)
  t.end()
})

t.test('keys such as __proto__ are data, and change nothing else', async (t) => {
  const app = await createApp(t)
  const text = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"a":{"__proto__":{"polluted":1}}}'
  const open = Type.Object({}, { additionalProperties: true })
  const events = { open, map: Type.Record(Type.String(), Type.Unknown()), closed: Type.Object({ a: Type.Unknown() }) }
  const send = () => Object.keys(events).map((event) => ({ event, data: JSON.parse(text) }))
  app.get('/typed', { schema: { events } }, async (request, reply) => reply.sse(send() as never))
  app.get('/any', async (request, reply) => reply.sse(send()))
  const block = (event: string, data = text) => `event: ${event}\ndata: ${data}\n\n`
  t.equal((await app.inject('/typed')).payload, block('open') + block('map') + block('closed', '{"a":{"__proto__":{"polluted":1}}}'))
  t.equal((await app.inject('/any')).payload, block('open') + block('map') + block('closed'))
  const seen: unknown[] = []
  const channel = app.sse.channel('keys', { key: ({ data }) => (data as { a: object }).a, onLag: 'latest' })
  const reading = channel.subscribe({ filter: (event) => seen.push(event.data) })[Symbol.asyncIterator]()
  const next = reading.next()
  await channel.publish({ data: JSON.parse(text) })
  t.equal(JSON.stringify((await next).value.data), text)
  t.equal(JSON.stringify(seen), `[${text}]`)
  await reading.return!()
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    const named = app.sse.channel(name)
    t.equal(named.name, name, 'a channel of any name is one of its own')
    await t.rejects(app.sse.channel(`typed ${name}`, { events: { price: Type.Number() } }).publish({ event: name, data: 1 } as never),
      { code: 'FST_SSE_INVALID_EVENT' })
  }
  t.equal(({} as { polluted?: unknown }).polluted, undefined)
  t.strictSame(Object.keys(Object.prototype), [])
})

t.test('data that is too deep, too strange or never ends is refused with its event, and the server lives', async (t) => {
  const app = await createApp(t, { onInvalidEvent: 'drop' })
  let deep: unknown = 1
  for (let level = 0; level < 200_000; level++) deep = [deep]
  const cycle: Record<string, unknown> = {}
  cycle.cycle = cycle
  const data = [deep, cycle, 1n, () => 1, Symbol('s'), { toJSON () { throw new Error('no') } }, { get a () { throw new Error('no') } }]
  const Tree = Type.Recursive((This) => Type.Union([Type.Number(), Type.Array(This), Type.Object({ cycle: This })]))
  app.get('/any', async (request, reply) => reply.sse(data.map((each) => ({ event: 'e', data: each }))))
  app.get('/typed', { schema: { events: { e: Tree } } }, async (request, reply) => reply.sse(data.map((each) => ({ event: 'e', data: each })) as never))
  for (const path of ['/any', '/typed']) t.equal((await app.inject(path)).payload, '', path)
  t.equal(app.sse.stats().dropped, 2 * data.length)
})

t.test("an event of a compressed channel takes as many bytes whatever was sent before: the last one's secret is not in its size", async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('secrets', { compress: true })
  app.get('/', async (request, reply) => reply.sse(channel))
  const client = connect(t, await listen(app)).get('/', 'Accept-Encoding: gzip')
  await until(() => app.sse.stats().opened === 1)
  await turns()
  const sizeOf = async (data: string) => {
    const before = app.sse.stats().bytes
    const id = await channel.publish({ data })
    await until(() => app.sse.stats().bytes > before)
    await turns()
    return app.sse.stats().bytes - before - id.length
  }
  const secret = [...'0123456789abcdef'].map((digit) => digit + 'q7Zx'.repeat(Number.parseInt(digit, 16) % 3)).join('')
  const guess = await sizeOf(secret)
  await sizeOf('something else'.repeat(50))
  t.equal(await sizeOf(secret), guess, 'after something else')
  t.equal(await sizeOf(secret), guess, 'after itself')
  client.destroy()
})

t.test('nothing of an answer lets a page of another origin read it', async (t) => {
  const app = await createApp(t, { maxConnections: 1 })
  app.get('/', async (request, reply) => reply.sse(async function * ({ signal }) {
    yield { data: 1 }
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
  }))
  const port = await listen(app)
  const origin = ['Origin: https://evil.example', 'Cookie: session=1', 'Accept: text/event-stream']
  const stream = connect(t, port).get('/', ...origin)
  await stream.until('data: 1\n\n')
  const answers = [stream, connect(t, port).get('/', ...origin), connect(t, port).get('/', ...origin.slice(0, 2)),
    connect(t, port).get('/?lastEventId=%00', ...origin), connect(t, port).get('/', ...origin, 'Last-Event-ID: fastify-typed-sse:finished')]
  const statuses: string[] = []
  for (const answer of answers) {
    await answer.until('\r\n\r\n')
    statuses.push(answer.head.split(' ')[1]!)
    t.notMatch(answer.head, /access-control-|cross-origin/i)
  }
  t.strictSame(statuses, ['200', '200', '503', '400', '204'])
})

t.test('a client is counted by its address, whatever it says of itself, unless it is a proxy that is trusted', async (t) => {
  for (const [trustProxy, expected] of [[false, 1], [['10.0.0.1'], 1], [['127.0.0.1'], 3]] as const) {
    const app = await createApp(t, { maxConnectionsPerClient: 1 }, { trustProxy: trustProxy as string[] | false })
    app.get('/', async (request, reply) => reply.sse(async function * ({ signal }) {
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    }))
    const port = await listen(app)
    for (const name of ['1', '2', '3']) {
      await connect(t, port).get('/', `X-Forwarded-For: 192.0.2.${name}`, `X-Real-IP: 192.0.2.${name}`, `Forwarded: for=192.0.2.${name}`).until('\r\n\r\n')
    }
    t.equal(app.sse.stats().open, expected, JSON.stringify(trustProxy))
  }
})

t.test('the log has neither last event IDs that came in a header nor data, whatever happens', async (t) => {
  let log = ''
  const app = await createApp(t, { onInvalidEvent: 'drop', maxConnections: 5 }, { logger: { level: 'trace', stream: { write: (line: string) => { log += line } } } })
  const channel = app.sse.channel('news', { compress: true })
  const schema = { events: { price: Type.Object({ eur: Type.Number() }) } }
  app.get('/own', { schema }, async (request, reply) => reply.sse([
    { event: 'price', data: { eur: 'SECRET' } }, { event: 'price', data: 'SECRET' }, { event: 'price', raw: 'SECRET' },
    { event: 'price', data: { eur: 1, other: 'SECRET' }, id: 'SECRET', comment: 'SECRET' }
  ] as never))
  app.get('/any', async (request, reply) => reply.sse([{ data: { toJSON: () => { throw new TypeError('told') }, a: 'SECRET' } }, { data: 'SECRET' }]))
  app.get('/channel', async (request, reply) => reply.sse(channel))
  await channel.publish({ data: 'SECRET' })
  await channel.close()
  const port = await listen(app)
  for (const path of ['/own', '/any', '/channel']) {
    for (const id of ['SECRET', `SECRET${'x'.repeat(1_024)}`]) {
      await connect(t, port).get(path, `Last-Event-ID: ${id}`, 'Connection: close').untilClosed()
    }
  }
  t.equal(log.split('event stream ended').length - 1, 3)
  t.equal(log.split('invalid event dropped').length - 1, 4, 'it has something')
  t.notMatch(log, /SECRET/)
})

t.test('no header or ID costs more to be read than it is long', (t) => {
  const long = 16_384
  const start = process.cpuUsage()
  const repeat = (text: string) => text.repeat(long / text.length)
  const texts = [' ', ';', '; ', ';q', ';q =', 'gzip,', 'gzip;q=', '~', '~aaaaa1-1.', '0', '-', '1-', 'Safari/', 'Chrome', 'Firefo', '\xc3', '\xc3\xa9', '%', '&', '&lastEventId='].map(repeat)
  for (const text of [...texts, ...texts.map((text) => `~aaaaa1-1${text}`), ...texts.map((text) => `${text}!`)]) {
    for (let time = 0; time < 5; time++) {
      acceptedCoding({ 'accept-encoding': text, 'user-agent': text }, true)
      lastEventIdOf({ headers: { 'last-event-id': text } }, 'lastEventId')
      lastEventIdOf({ headers: {}, url: `/?${text}` }, 'lastEventId')
      idAlone('1', text)
      isEntryId(text)
      readVector(text, ['aaaaa'])
    }
  }
  const { user } = process.cpuUsage(start)
  // Half a second, for 300 times seven; in proportion to the square of the length it would be minutes.
  t.ok(user < 20_000_000, `${user / 1_000} ms`)
  t.end()
})
