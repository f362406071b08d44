/** Subscriptions: a filter, several channels as one stream whose IDs resume all of them, and a signal that ends it. */
import { createHash } from 'node:crypto'
import t, { type Test } from 'tap'
import { createHub, memoryBroker } from '../index.ts'
import type { Broker, ChannelOptions, ReceivedEvent, SseChannel, SseOptions, SubscribeOptions } from '../index.ts'
import { compareEntryIds } from '../lib/entry-id.ts'
import { type RawClient, connect, createApp, gc, given, listen, logInto, ownClock, turns, until } from './helpers.ts'

interface Line { level: number, sse?: object, err?: { message: string } }

const ERROR = 50

type Any = SseChannel<any>

/** An app with a route for any lists of its channels: `/a,b`. */
async function start (t: Test, channelOptions: Record<string, ChannelOptions> = {}, options: SseOptions = {}) {
  const lines: Line[] = []
  const app = await createApp(t, options, logInto(lines))
  const channel = (name: string): Any => app.sse.channel(name, channelOptions[name] as object)
  /** Kept, as the app would. */
  const channels = Object.fromEntries([...'abcdef'].map((name) => [name, channel(name)])) as Record<string, Any>
  let subscribe: SubscribeOptions = {}
  app.get<{ Params: { names: string } }>('/:names', (request, reply) => {
    const list = request.params.names.split(',').map((name) => channels[name]!)
    return reply.sse(list.length === 1 ? list[0]!.subscribe(subscribe) : app.sse.subscribe(list, subscribe))
  })
  const port = await listen(app)
  return {
    app,
    lines,
    channels,
    a: channels.a!,
    b: channels.b!,
    c: channels.c!,
    port,
    with (options: SubscribeOptions) { subscribe = options },
    read: (names: string, id?: string) => connect(t, port).get(`/${names}`, ...(id === undefined ? [] : [`Last-Event-ID: ${id}`]))
  }
}

async function publish (channel: Any, ...data: unknown[]): Promise<string[]> {
  const ids = []
  for (const each of data) ids.push(await channel.publish({ data: each }))
  return ids
}

/** The position of a channel before its first event; listened to, as the channel could begin elsewhere otherwise. */
async function origin (broker: Broker, channel: string): Promise<string> {
  const { position } = await broker.listen(channel, { entry () {}, closed () {}, failed () {}, lost () {} })
  return position
}

const at = (id: string | undefined) => `id: ${id}\n\n`
const event = (id: string | undefined, data: unknown) => `id: ${id}\ndata: ${data}\n\n`
const gap = (requested: string | undefined, earliest: string | null | undefined, channel?: string) =>
  `event: gap\ndata: ${JSON.stringify({ ...(channel !== undefined && { channel }), requested, earliest })}\n\n`

/** The ID of a stream of several channels, as it is documented: this is not how the library makes it. */
function vector (positions: Record<string, string | undefined>): string {
  return '~' + Object.entries(positions).map(([channel, position]) => {
    const [ms, sequence] = position!.split('-').map((part) => BigInt(part).toString(36))
    return `${createHash('sha256').update(channel).digest('base64url').slice(0, 5)}${ms}-${sequence}`
  }).join('.')
}

t.test('a filter leaves out the same of what was, of what comes, and of a snapshot', async (t) => {
  const seen: ReceivedEvent[] = []
  const { app, a, read, with: use } = await start(t, {
    a: { snapshot: () => [{ data: 100 }, { data: 101 }, { data: 102 }] }
  })
  use({ filter: (event) => { seen.push(event); return (event.data as number) % 2 } })
  const [first, , third] = await publish(a, 1, 2, 3)
  const fresh = read('a')
  await given(t, fresh, 'data: 101\n\n' + at(third))
  await given(t, read('a', first), at(first) + event(third, 3))
  const [, fifth] = await publish(a, 4, 5)
  await given(t, fresh, 'data: 101\n\n' + at(third) + event(fifth, 5))
  t.same(seen.slice(0, 3), [100, 101, 102].map((data) => ({ event: 'message', data })), 'it sees what a client would')
  t.same(seen.find(({ data }) => data === 2), { event: 'message', data: 2, id: seen.find(({ data }) => data === 2)!.id })
  t.match(app.sse.stats(), { gaps: 0 })
})

t.test('each client can have a filter of its own', async (t) => {
  const app = await createApp(t)
  const prices = app.sse.channel('prices')
  app.get<{ Querystring: { symbol: string } }>('/prices', (request, reply) => {
    const { symbol } = request.query
    return reply.sse(prices.subscribe({ filter: ({ data }) => (data as { symbol: string }).symbol === symbol }))
  })
  const port = await listen(app)
  const [apple, other] = ['AAPL', 'MSFT'].map((symbol) => connect(t, port).get(`/prices?symbol=${symbol}`))
  await Promise.all([apple!.until('id: '), other!.until('id: ')])
  const data = [{ symbol: 'AAPL', price: 1 }, { symbol: 'MSFT', price: 2 }, { symbol: 'AAPL', price: 3 }]
  const ids = []
  for (const each of data) ids.push(await prices.publish({ data: each }))
  const body = (client: RawClient) => client.body.replace(/^id: .*\n\n/, '')
  await until(() => apple!.body.includes('"price":3') && other!.body.includes('"price":2'))
  await turns()
  t.equal(body(apple!), event(ids[0], JSON.stringify(data[0])) + event(ids[2], JSON.stringify(data[2])))
  t.equal(body(other!), event(ids[1], JSON.stringify(data[1])))
})

t.test('what is left out moves the position by the next keep-alive, so that it is no gap later', async (t) => {
  const { app, a, read, with: use } = await start(t, { a: { history: { events: 2 } } }, { keepAlive: 1_000 })
  const clock = ownClock(t)
  use({ filter: ({ data }) => data !== 'x' })
  const [first] = await publish(a, 1)
  const client = read('a')
  let body = at(first)
  await given(t, client, body)
  const pass = async (ms: number) => {
    await clock.tickAsync(ms)
    await turns()
  }
  await pass(1_000)
  await given(t, client, body += ':\n\n', 'nothing was left out: a comment')
  const ids = await publish(a, 'x', 'x', 'x', 'x', 'x')
  await given(t, client, body, 'what is left out is not told at once')
  await pass(1_000)
  await given(t, client, body += at(ids.at(-1)), 'but instead of the comment')
  await pass(1_000)
  await given(t, client, body += at(ids.at(-1)), 'and again: it costs no more than a comment')
  const [wanted] = await publish(a, 2)
  await given(t, client, body += event(wanted, 2))
  await pass(1_000)
  await given(t, client, body += ':\n\n', 'the event has told it already')
  const [both, left] = await publish(a, 2, 'x')
  await given(t, client, body += event(both, 2))
  await pass(1_000)
  await given(t, client, body += at(left), 'what comes after it in the same turn it has not')
  const more = await publish(a, 'x', 'x', 'x', 'x')
  await pass(1_000)
  await given(t, client, body += at(more.at(-1)))
  client.destroy()
  const [last] = await publish(a, 3)
  await given(t, read('a', more.at(-1)), at(more.at(-1)) + event(last, 3), 'no gap')
  t.equal(app.sse.stats().gaps, 0)
  await given(t, read('a', wanted), at(wanted) + gap(wanted, more.at(-1)) + at(more.at(-2)) + event(last, 3), 'without it: a gap')
  clock.uninstall()
})

t.test('the same of a stream of several channels', async (t) => {
  const { a, b, read, with: use } = await start(t, {}, { keepAlive: 1_000 })
  const clock = ownClock(t)
  use({ filter: ({ data }) => data !== 'x' })
  const [[one], [two]] = [await publish(a, 1), await publish(b, 2)]
  const client = read('a,b')
  let body = at(vector({ a: one, b: two }))
  await given(t, client, body)
  const [left] = await publish(b, 'x')
  await given(t, client, body)
  await clock.tickAsync(1_000)
  await given(t, client, body += at(vector({ a: one, b: left })))
  clock.uninstall()
})

t.test('a filter that throws ends its own stream, and no other', async (t) => {
  const { app, lines, a, read, with: use } = await start(t)
  const [first] = await publish(a, 1)
  const other = read('a')
  await given(t, other, at(first))
  use({ filter: ({ data }) => { if (data === 2) throw new Error('no filter'); return true } })
  const client = read('a')
  await given(t, client, at(first))
  const [second] = await publish(a, 2)
  await client.until('\r\n0\r\n\r\n')
  t.equal(client.body, at(first))
  await given(t, other, at(first) + event(second, 2))
  t.match(app.sse.stats(), { open: 1, closed: { 'source-threw': 1 } })
  await until(() => lines.some(({ sse }) => sse !== undefined))
  t.match(lines.filter(({ sse }) => sse !== undefined), [{ level: ERROR, err: { message: 'no filter' } }])
  const refused = read('a', first)
  await refused.until('no filter')
  t.match(refused.head, /^HTTP\/1.1 500 /, 'before anything was sent it is answered as any error')
})

t.test('for await: what the filter throws is thrown', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const channel = hub.channel('a')
  const failing = channel.subscribe({ filter: () => { throw new Error('no filter') } })[Symbol.asyncIterator]()
  const other = channel.subscribe({ filter: ({ data }) => data })[Symbol.asyncIterator]()
  const nexts = [failing.next(), other.next()]
  await publish(channel, 0, 1)
  await t.rejects(nexts[0]!, { message: 'no filter' })
  t.same(await failing.next(), { done: true, value: undefined })
  t.match(await nexts[1], { value: { data: 1 } })
})

t.test('the ID of several channels has the position in each, and resumes all of them exactly', async (t) => {
  const broker = memoryBroker()
  const origins = [await origin(broker, 'a'), await origin(broker, 'b')]
  const { app, a, b, read } = await start(t, {}, { broker })
  const fresh = read('a,b')
  let position = { a: origins[0], b: origins[1] }
  const all = [{ id: vector(position), event: at(vector(position)) }]
  await given(t, fresh, all[0]!.event)
  const order = 'aabababbbaab'
  for (const [n, name] of [...order].entries()) {
    const [id] = await publish(name === 'a' ? a : b, n)
    position = { ...position, [name]: id }
    all.push({ id: vector(position), event: event(vector(position), n) })
    // Each in a turn of its own: then they are sent in the order in which they were published.
    await given(t, fresh, all.map((each) => each.event).join(''))
  }
  for (const [n, { id }] of all.entries()) {
    t.match(id, /^~[\w-]{5}[0-9a-z]+-[0-9a-z]+\.[\w-]{5}[0-9a-z]+-[0-9a-z]+$/)
    const rest = all.slice(n + 1).map((each) => each.event).join('')
    await given(t, read('a,b', id), at(id) + rest, `from ${n}: in the order in which they were published`)
  }
  t.equal(app.sse.stats().gaps, 0)
})

t.test('the list of channels may change between two connections', async (t) => {
  const { app, a, b, c, read } = await start(t)
  const ids = { a: await publish(a, 1, 2), b: await publish(b, 3, 4), c: await publish(c, 5, 6) }
  const had = vector({ a: ids.a[0], b: ids.b[0] })
  const added = read('a,b,c', had)
  const position = vector({ a: ids.a[0], b: ids.b[0], c: ids.c[1] })
  const second = vector({ a: ids.a[1], b: ids.b[0], c: ids.c[1] })
  const third = vector({ a: ids.a[1], b: ids.b[1], c: ids.c[1] })
  await given(t, added, at(position) + event(second, 2) + event(third, 4), 'the added one begins with what comes')
  const [live] = await publish(c, 7)
  await given(t, added, at(position) + event(second, 2) + event(third, 4) +
    event(vector({ a: ids.a[1], b: ids.b[1], c: live }), 7))
  const removed = vector({ a: ids.a[0], c: ids.c[0] })
  await given(t, read('b,a', removed), at(vector({ b: ids.b[1], a: ids.a[0] })) +
    event(vector({ b: ids.b[1], a: ids.a[1] }), 2), 'the removed one is not missed, and the order of the list is no matter')
  t.equal(app.sse.stats().gaps, 0)
})

t.test('an ID that is none of several channels is a gap in each of them', async (t) => {
  const broker = memoryBroker()
  const origins = { a: await origin(broker, 'a'), b: await origin(broker, 'b') }
  const { app, a, b, read } = await start(t, {}, { broker })
  const [[one], [two]] = [await publish(a, 1), await publish(b, 2)]
  const good = vector({ a: one, b: two })
  const wrong = ['garbage', '-', '~', good.slice(1), `${good}.`, `~.${good.slice(1)}`, `${good}-1`, good.replace('.', ','), 'x'.repeat(1_024)]
  for (const id of wrong) {
    await given(t, read('a,b', id), at(id) + gap(id, one, 'a') + gap(id, two, 'b') + at(vector(origins)) +
      event(vector({ a: one, b: origins.b }), 1) + event(good, 2), id.slice(0, 50))
  }
  t.equal(app.sse.stats().gaps, wrong.length * 2)
})

t.test('a gap in one of them is told of that one', async (t) => {
  const { app, a, b, read } = await start(t, { a: { history: { events: 1 } } })
  const ids = { a: await publish(a, 1, 2, 3), b: await publish(b, 4, 5) }
  const had = vector({ a: ids.a[0], b: ids.b[0] })
  await given(t, read('a,b', had), at(had) + gap(ids.a[0], ids.a[2], 'a') + at(vector({ a: ids.a[1], b: ids.b[0] })) +
    event(vector({ a: ids.a[2], b: ids.b[0] }), 3) + event(vector({ a: ids.a[2], b: ids.b[1] }), 5))
  t.equal(app.sse.stats().gaps, 1)
})

t.test('numbers that no position can have, in the right form, are gaps, and nothing breaks', async (t) => {
  const { a, b, read } = await start(t)
  const [[one], [two]] = [await publish(a, 1), await publish(b, 2)]
  const tag = vector({ a: one }).slice(0, 6)
  for (const numbers of ['zzzzzzzzzz-zzzzzzzzzz', '0-zzzzzzzzzz', '1-1']) {
    const id = `${tag}${numbers}.${vector({ b: two }).slice(1)}`
    const client = read('a,b', id)
    await client.until('data: 1\n\n')
    t.match(client.body, `"channel":"a","requested":"${numbers.split('-').map((part) => parseInt(part, 36)).join('-')}"`)
    t.equal(client.body.includes('"channel":"b"'), false)
  }
})

t.test('what was missed is merged in the order of the IDs, however much it is', async (t) => {
  const { a, b, c, read, with: use } = await start(t, { a: { history: { events: 2_000 } } })
  const all: [string, number][] = []
  const channels = [a, b, c]
  for (let n = 0; n < 1_500; n++) all.push([(await publish(channels[(n * n + (n >> 3)) % 3]!, n))[0]!, n])
  use({ after: 'earliest' })
  const client = read('a,b,c')
  await client.until('data: 1499\n\n')
  const data = [...client.body.matchAll(/^data: (.*)$/mg)].map(([, n]) => Number(n))
  t.same(data, all.map(([, n]) => n))
  for (let n = 1; n < all.length; n++) if (compareEntryIds(all[n - 1]![0], all[n]![0]) >= 0) t.fail('IDs grow')
  const [, half] = /id: (.*)\ndata: 700\n/.exec(client.body)!
  use({})
  const again = read('a,b,c', half)
  await again.until('data: 1499\n\n')
  t.same([...again.body.matchAll(/^data: (.*)$/mg)].map(([, n]) => Number(n)), data.slice(701))
})

t.test('`after` of several channels', async (t) => {
  const broker = memoryBroker()
  const origins = { a: await origin(broker, 'a'), b: await origin(broker, 'b') }
  const { app, a, b, read, with: use } = await start(t, {}, { broker })
  const [[one, three], [two]] = [await publish(a, 1, 3), await publish(b, 2)]
  const rest = event(vector({ a: one, b: origins.b }), 1) + event(vector({ a: three, b: origins.b }), 3) +
    event(vector({ a: three, b: two }), 2)
  use({ after: 'earliest' })
  await given(t, read('a,b'), at(vector(origins)) + rest)
  use({ after: '0-0' })
  await given(t, read('a,b'), at(vector({ a: '0-0', b: '0-0' })) +
    rest.replaceAll(vector({ b: origins.b }).slice(1), vector({ b: '0-0' }).slice(1)))
  const had = vector({ a: one, b: origins.b })
  use({ after: had })
  await given(t, read('a,b'), at(had) + rest.slice(event(had, 1).length))
  await given(t, read('a,b', vector({ a: three, b: two })), at(vector({ a: three, b: two })), 'the client knows better')
  t.equal(app.sse.stats().gaps, 0)
})

t.test('a snapshot of one of several comes before the position of all', async (t) => {
  const { a, b, read } = await start(t, { a: { history: { events: 1 }, snapshot: () => [{ event: 'state', data: 0 }] } })
  const ids = { a: await publish(a, 1, 2, 3), b: await publish(b, 4, 5) }
  const client = read('a,b')
  await given(t, client, 'event: state\ndata: 0\n\n' + at(vector({ a: ids.a[2], b: ids.b[1] })))
  const had = vector({ a: ids.a[0], b: ids.b[0] })
  await given(t, read('a,b', had), at(had) + gap(ids.a[0], ids.a[2], 'a') + 'event: state\ndata: 0\n\n' +
    at(vector({ a: ids.a[2], b: ids.b[0] })) + event(vector({ a: ids.a[2], b: ids.b[1] }), 5))
  const only = vector({ b: ids.b[1] })
  await given(t, read('a,b', only), at(only) + 'event: state\ndata: 0\n\n' + at(vector({ a: ids.a[2], b: ids.b[1] })),
    'a channel that is new to the client begins with its snapshot')
})

t.test('one that is closed ends nothing as long as there is another', async (t) => {
  const { app, a, b, read } = await start(t)
  const [[one], [two]] = [await publish(a, 1), await publish(b, 2)]
  const client = read('a,b')
  let body = at(vector({ a: one, b: two }))
  await given(t, client, body)
  const [three] = await publish(a, 3)
  await a.close()
  await given(t, client, body += event(vector({ a: three, b: two }), 3))
  const [four] = await publish(b, 4)
  await given(t, client, body += event(vector({ a: three, b: four }), 4))
  const had = vector({ a: one, b: two })
  await given(t, read('a,b', had), at(had) + event(vector({ a: three, b: two }), 3) +
    event(vector({ a: three, b: four }), 4), 'who comes back gets the rest of both')
  const [five] = await publish(b, 5)
  await b.close()
  await given(t, client, body += event(vector({ a: three, b: five }), 5) + 'id: fastify-typed-sse:finished\n\n')
  await client.until('\r\n0\r\n\r\n')
  await given(t, read('a,b', had), at(had) + event(vector({ a: three, b: two }), 3) +
    event(vector({ a: three, b: four }), 4) + event(vector({ a: three, b: five }), 5) + 'id: fastify-typed-sse:finished\n\n')
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { gaps: 0, closed: { 'source-done': 3 } })
})

t.test('several channels of which one moves too fast: its policy, and its gap alone', async (t) => {
  for (const onLag of ['disconnect', 'gap', 'latest'] as const) {
    const hub = createHub()
    t.after(() => hub.close())
    const key = onLag === 'latest' ? () => 1 : undefined
    const a = hub.channel('a', { history: { events: 2 }, onLag, key })
    const b = hub.channel('b')
    const events = hub.subscribe([a, b])[Symbol.asyncIterator]()
    const first = events.next()
    await turns()
    const [one] = await publish(a, 1)
    const { id } = (await first).value as ReceivedEvent
    const ids = { a: [one], b: [] as string[] }
    for (let n = 2; n < 6; n++) {
      ids.a.push(...await publish(a, `a${n}`))
      ids.b.push(...await publish(b, `b${n}`))
      await turns()
    }
    const rest: ReceivedEvent[] = []
    const next = async () => { rest.push((await events.next()).value as ReceivedEvent) }
    const data = () => rest.map((each) => each.data)
    if (onLag === 'disconnect') {
      await t.rejects(next(), { code: 'FST_SSE_LAGGED', message: /'a'/ })
      const again = hub.subscribe([a, b], { after: id })[Symbol.asyncIterator]()
      for (let n = 0; n < 7; n++) rest.push((await again.next()).value as ReceivedEvent)
      t.same(rest[0]!.data, { channel: 'a', requested: one, earliest: ids.a[3] })
      t.same(data().slice(1), ['b2', 'b3', 'a4', 'b4', 'a5', 'b5'])
      await again.return!()
      continue
    }
    for (let n = 0; n < (onLag === 'gap' ? 7 : 5); n++) await next()
    if (onLag === 'gap') {
      t.same(data(), [{ channel: 'a', requested: one, earliest: ids.a[3] }, 'b2', 'b3', 'a4', 'b4', 'a5', 'b5'])
    } else {
      t.same(data(), ['b2', 'b3', 'b4', 'a5', 'b5'])
    }
    t.equal(rest.at(-1)!.id, vector({ a: ids.a.at(-1), b: ids.b.at(-1) }))
    await events.return!()
  }
})

t.test('as many channels as an ID of 1,024 bytes has room for, and not one more', async (t) => {
  const app = await createApp(t)
  const channels = Array.from({ length: 200 }, (_, n) => app.sse.channel(`channel ${n}`))
  let most = 0
  for (let n = 1; n <= channels.length; n++) {
    try {
      app.sse.subscribe(channels.slice(0, n))
      most = n
    } catch (error) {
      t.match(error, { code: 'FST_SSE_TOO_MANY_CHANNELS', message: new RegExp(`\\b${n - 1}\\b.*\\b${n}\\b`) })
      break
    }
  }
  t.ok(most >= 40, `${most} channels`)
  app.get('/', (_, reply) => reply.sse(app.sse.subscribe(channels.slice(0, most))))
  const port = await listen(app)
  const client = connect(t, port).get('/')
  await client.until('id: ')
  for (const channel of channels) await publish(channel, 1)
  await until(() => (client.body.match(/data: 1/g) ?? []).length === most)
  const ids = [...client.body.matchAll(/^id: (.*)$/mg)].map(([, id]) => id!)
  t.ok(Buffer.byteLength(ids.at(-1)!) <= 1_024, `${ids.at(-1)!.length} bytes`)
  t.equal(ids.at(-1)!.split('.').length, most)
  const again = connect(t, port).get('/', `Last-Event-ID: ${ids[1]}`)
  await until(() => (again.body.match(/data: 1/g) ?? []).length === most - 1)
  t.equal(app.sse.stats().gaps, 0)
})

t.test('the longest list has room for the longest positions: of a far future, and of a millisecond that was full', (t) => {
  const hub = createHub()
  const list = [hub.channel('0')]
  const isRefused = () => {
    try {
      hub.subscribe(list)
      return false
    } catch {
      return true
    }
  }
  while (!isRefused()) list.push(hub.channel(String(list.length)))
  const position = `${Date.UTC(5188, 0)}-${36 ** 6 - 1}`
  t.ok(vector(Object.fromEntries(list.slice(1).map(({ name }) => [name, position]))).length <= 1_024)
  t.end()
})

t.test('what cannot be subscribed to is refused at the call', (t) => {
  const hub = createHub()
  const [a, b] = [hub.channel('a'), hub.channel('b')]
  const lists: [unknown, RegExp][] = [
    [[], /array/],
    [undefined, /array/],
    [a, /array/],
    ['a', /array/],
    [[a, 'b'], /channel.*"b"/],
    [[a, undefined], /channel.*undefined/],
    [[a, a.subscribe()], /channel/],
    [[a, hub.run('job', [])], /channel/],
    [[a, b, a], /'a' twice/],
    // eslint-disable-next-line no-sparse-arrays
    [[, a], /channel/]
  ]
  for (const [list, message] of lists) {
    t.throws(() => hub.subscribe(list as Any[]), { code: 'FST_SSE_INVALID_OPTION', message })
  }
  const options: [unknown, RegExp][] = [
    [{ from: '0-0' }, /'from'.*after, filter, signal/],
    [{ after: 5 }, /'after'/],
    [{ filter: 'symbol' }, /'filter'/],
    [{ filter: null }, /'filter'/],
    [{ signal: {} }, /'signal'/],
    [null, /object/],
    ['earliest', /object/]
  ]
  for (const [each, message] of options) {
    for (const subscribe of [() => a.subscribe(each as object), () => hub.subscribe([a, b], each as object)]) {
      t.throws(subscribe, { code: 'FST_SSE_INVALID_OPTION', message })
    }
  }
  t.end()
})

t.test('a signal ends the stream after what was published', async (t) => {
  for (const names of ['a', 'a,b']) {
    const { app, a, read, with: use } = await start(t)
    const controller = new AbortController()
    const other = read(names)
    await other.until('id: ')
    use({ signal: controller.signal })
    const client = read(names)
    await client.until('id: ')
    await publish(a, 1)
    await client.until('data: 1\n\n')
    controller.abort()
    await client.until('\r\n0\r\n\r\n')
    t.equal(client.body.includes('finished'), false, 'an EventSource comes back')
    t.match(app.sse.stats(), { open: 1, closed: { ended: 1 } })
    await publish(a, 2)
    await other.until('data: 2\n\n')
    const late = read(names)
    await until(() => app.sse.stats().closed.ended === 2 && late.head !== '')
    await turns()
    t.match(late.head, /^HTTP\/1.1 200 [^]*text\/event-stream/)
    t.equal(late.body, '', 'of a signal that was aborted before: nothing')
    t.match(app.sse.stats(), { open: 1, closed: { ended: 2 } })
  }
})

t.test('a signal ends an iteration, also one that waits', async (t) => {
  const hub = createHub()
  t.after(() => hub.close())
  const [a, b] = [hub.channel('a'), hub.channel('b')]
  const one = (options: SubscribeOptions) => a.subscribe(options)
  const both = (options: SubscribeOptions) => hub.subscribe([a, b], options)
  for (const subscribe of [one, both]) {
    const controller = new AbortController()
    const { signal } = controller
    const received: unknown[] = []
    const reading = (async () => {
      for await (const { data } of subscribe({ signal })) received.push(data)
    })()
    await turns()
    await publish(a, 1)
    await until(() => received.length === 1)
    controller.abort()
    await reading
    t.same(received, [1])
    for await (const event of subscribe({ signal })) t.fail(`an aborted signal gives ${JSON.stringify(event)}`)
    const events = subscribe({ signal })[Symbol.asyncIterator]()
    t.same(await events.next(), { done: true, value: undefined })
  }
})

t.test('whose client leaves is let go of by the signal, which goes on with the others', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('a')
  const controller = new AbortController()
  const filters: WeakRef<object>[] = []
  app.get('/', (_, reply) => {
    const filter = () => true
    filters.push(new WeakRef(filter))
    return reply.sse(channel.subscribe({ signal: controller.signal, filter }))
  })
  const port = await listen(app)
  const left = () => {
    gc()
    return filters.filter((filter) => filter.deref() !== undefined).length
  }
  for (let n = 0; n < 20; n++) {
    const client = connect(t, port).get('/')
    await client.until('id: ')
    client.destroy()
  }
  await until(() => app.sse.stats().closed['client-gone'] === 20)
  const staying = connect(t, port).get('/')
  await staying.until('id: ')
  // Node may keep what belongs to the last request or two.
  await until(() => left() <= 3, () => `${left()} of ${filters.length} to be 3 at the most`)
  controller.abort()
  await staying.until('\r\n0\r\n\r\n')
  t.match(app.sse.stats(), { open: 0, closed: { 'client-gone': 20, ended: 1 } })
})
