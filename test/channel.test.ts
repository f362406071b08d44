/** Channels: what publish promises, how a channel ends, and which options it takes. */
import { Type } from '@sinclair/typebox'
import type { Clock } from '@sinonjs/fake-timers'
import t from 'tap'
import { createHub, type SseHub } from '../index.ts'
import { Compiled } from '../lib/channels/compiled.ts'
import type { Events } from '../lib/channels/options.ts'
import { collect, connect, createApp, dataOf, fetchBody, listen, ownClock, readAll, readOn, turns, until } from './helpers.ts'

const FINISHED = 'fastify-typed-sse:finished'
const END = `id: ${FINISHED}\n\n`

t.test('publish returns the ID that every reader sees, and readers see events in the order of the publishes', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('news')
  app.get('/', async (request, reply) => reply.sse(channel))
  const port = await listen(app)
  const client = connect(t, port).get('/')
  await client.until('\r\n\r\n')
  const reader = readOn(channel.subscribe())
  await turns()
  // Not awaited one by one: the order is that of the calls.
  const ids = await Promise.all(Array.from({ length: 100 }, (_, data) => channel.publish({ data })))
  await until(() => reader.seen.length === 100)
  await client.until('data: 99\n\n')
  t.equal(new Set(ids).size, 100)
  t.same(reader.seen.map(({ id }) => id), ids)
  t.same(dataOf(reader.seen), Array.from({ length: 100 }, (_, data) => data))
  t.match(client.body, ids.map((id, data) => `id: ${id}\ndata: ${data}\n\n`).join(''))
})

t.test('all kinds of events arrive as they were published', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('news')
  app.get('/', async (request, reply) => reply.sse(channel.subscribe({ after: 'earliest' })))
  const ids = [
    await channel.publish({ event: 'a', data: { b: [1] }, retry: 5, comment: 'c' }),
    await channel.publish({ raw: 'two\nlines' }),
    await channel.publish('text'),
    await channel.publish({ event: 'message', data: null }),
    await channel.publish({ data: '' })
  ]
  await channel.close()
  const blocks = (await fetchBody(t, await listen(app), '/')).split('\n\n')
  t.same(blocks.slice(-7, -2).map((block) => block.split('\n').sort()), [
    [': c', 'data: {"b":[1]}', 'event: a', `id: ${ids[0]}`, 'retry: 5'],
    ['data: lines', 'data: two', `id: ${ids[1]}`],
    ['data: text', `id: ${ids[2]}`],
    ['data: null', `id: ${ids[3]}`],
    ['data: ""', `id: ${ids[4]}`]
  ])
  t.same(await readAll(channel.subscribe({ after: 'earliest' })), [
    { event: 'a', data: { b: [1] }, id: ids[0] },
    { event: 'message', raw: 'two\nlines', id: ids[1] },
    { event: 'message', raw: 'text', id: ids[2] },
    { event: 'message', data: null, id: ids[3] },
    { event: 'message', data: '', id: ids[4] }
  ])
})

t.test('an invalid event rejects its publish, and nobody is given anything of it', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('news', { events: { n: Type.Number() } })
  const free = app.sse.channel('free')
  const reader = readOn(channel.subscribe())
  await turns()
  const code = 'FST_SSE_INVALID_EVENT'
  for (const event of [{ event: 'n', data: '1' }, { event: 'm', data: 1 }, { event: 'n' }, 'text', undefined, { event: 'n', raw: '1' }]) {
    await t.rejects(channel.publish(event as never), { code }, JSON.stringify(event))
  }
  const circle: unknown[] = []
  circle.push(circle)
  for (const event of [
    { data: 1, id: 1 }, { data: 1, id: '' }, { event: 'gap', data: 1 }, { comment: 'alone' }, { retry: 5 }, {}, { data: 1, raw: '' },
    { event: 'a\nb', data: 1 }, { data: circle }, { data: 1n }, 5
  ]) await t.rejects(free.publish(event as never), { code })
  await channel.publish({ event: 'n', data: 2 })
  await until(() => reader.seen.length === 1)
  t.same(dataOf(reader.seen), [2])
})

t.test('the data of an event is what it was when it was published', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('news')
  const readers = [readOn(channel.subscribe()), readOn(channel.subscribe())]
  await turns()
  const data = { n: 1 }
  const published = channel.publish({ data })
  data.n = 2
  await published
  await until(() => readers.every(({ seen }) => seen.length === 1))
  t.same(dataOf(readers[0]!.seen), [{ n: 1 }])
  ;(readers[0]!.seen[0]!.data as { n: number }).n = 3
  t.same(dataOf(readers[1]!.seen), [{ n: 1 }], 'what one reader does with it is its own')
})

t.test('a closed channel gives its readers the rest, then the end, and 204 to those who come back', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('job')
  app.get('/', async (request, reply) => reply.sse(channel))
  const port = await listen(app)
  const client = connect(t, port).get('/')
  await client.until('\r\n\r\n')
  const reader = readOn(channel.subscribe())
  await turns()
  const published = [channel.publish({ data: 1 }), channel.publish({ data: 2 })]
  await channel.close()
  await Promise.all(published)
  await client.until(END)
  t.match(client.body, /data: 1\n\nid: \S+\ndata: 2\n\nid: fastify-typed-sse:finished\n\n$/)
  await reader.ended
  t.same(dataOf(reader.seen), [1, 2])
  await until(() => app.sse.stats().open === 0)
  t.equal(app.sse.stats().closed['source-done'], 1)
  const back = connect(t, port).get('/', `Last-Event-ID: ${FINISHED}`)
  await back.until('\r\n\r\n')
  t.match(back.head, /^HTTP\/1.1 204 /)
})

t.test('a closed channel takes no more events; closing it twice does nothing', async (t) => {
  const hub = createHub()
  const channel = hub.channel('job')
  await channel.publish({ data: 1 })
  await channel.close()
  await t.rejects(channel.publish({ data: 2 }), { code: 'FST_SSE_CHANNEL_CLOSED' })
  await t.rejects(hub.channel('job').publish({ data: 2 }), { code: 'FST_SSE_CHANNEL_CLOSED' })
  await channel.close()
  t.same(dataOf(await readAll(channel.subscribe({ after: 'earliest' }))), [1])
  t.same(await readAll(channel.subscribe()), [], 'who reads from now on gets the end')
})

t.test('closed while nobody reads: who comes later gets what is retained, then the end', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('job', { history: { events: 2 } })
  app.get('/', async (request, reply) => reply.sse(channel.subscribe({ after: 'earliest' })))
  const ids = []
  for (const data of [1, 2, 3]) ids.push(await channel.publish({ data }))
  await channel.close()
  const port = await listen(app)
  t.match(await fetchBody(t, port, '/'), /^id: \S+\n\nid: \S+\ndata: 2\n\nid: \S+\ndata: 3\n\nid: fastify-typed-sse:finished\n\n$/)
  t.equal(await fetchBody(t, port, '/', `Last-Event-ID: ${ids[2]}`), `id: ${ids[2]}\n\n${END}`)
  t.match(await fetchBody(t, port, '/', `Last-Event-ID: ${ids[0]}`), /^id: \S+\n\nid: \S+\ndata: 2\n\n/)
  t.equal(app.sse.stats().gaps, 0)
})

t.test('a closed channel is forgotten when its history has grown old, then its name is free', async (t) => {
  const clock = ownClock(t)
  const hub = createHub()
  const channel = hub.channel('job', { history: { age: 10_000 } })
  const id = await channel.publish({ data: 0 })
  await channel.publish({ data: 1 })
  await clock.tickAsync(9_000)
  await channel.close()
  await clock.tickAsync(9_999)
  t.same(dataOf(await readAll(channel.subscribe({ after: 'earliest' }))), [0, 1], 'its age counts from the end')
  await t.rejects(channel.publish({ data: 2 }), { code: 'FST_SSE_CHANNEL_CLOSED' })
  await clock.tickAsync(1)
  const next = await channel.publish({ data: 2 })
  const reader = readOn(channel.subscribe({ after: 'earliest' }))
  await turns()
  t.same(reader.seen, [{ event: 'message', data: 2, id: next }])
  const late = readOn(channel.subscribe({ after: id }))
  await turns()
  t.same(late.seen.map(({ event }) => event), ['gap', 'message'], 'an ID of before is not taken for one of now')
  await channel.close()
})

t.test('names that no channel can have', async (t) => {
  const hub = createHub()
  for (const name of ['', undefined, null, 5, {}, '\uD800', 'run:', 'run:key']) {
    t.throws(() => hub.channel(name as string), { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(name))
  }
  for (const name of [' ', 'Run:key', 'run', 'ü', '__proto__', 'constructor', 'x'.repeat(10_000)]) {
    t.equal(hub.channel(name).name, name)
    await hub.channel(name).publish({ data: 1 })
  }
})

t.test('unknown options, and values that an option cannot have', async (t) => {
  const app = await createApp(t)
  const key = () => 1
  for (const options of [
    null, 5, 'events', { event: {} }, { events: 5 }, { events: { gap: Type.Number() } }, { history: 100 }, { history: { event: 1 } },
    { history: { events: 0 } }, { history: { events: Infinity } }, { history: { bytes: -1 } }, { history: { bytes: 1.5 } },
    { history: { age: 0 } }, { history: { age: true } }, { history: { age: '1h' } }, { snapshot: [] }, { onLag: 'drop' },
    { onLag: 'latest' }, { key }, { onLag: 'gap', key }, { onLag: 'latest', key: 'id' }, { forgetAfter: 1 }
  ]) t.throws(() => createHub().channel('a', options as never), { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(options))
  t.throws(() => app.sse.channel('a', { history: { age: 0 } }), { message: /history of channel 'a'/ })
  for (const options of [
    {}, { events: undefined, history: undefined, snapshot: undefined, onLag: undefined, key: undefined }, { history: {} },
    { history: { events: 1, bytes: 1, age: 1 } }, { history: { age: false as const } }, { onLag: 'latest' as const, key }
  ]) t.equal(createHub().channel('a', options).name, 'a')
  for (const options of [{ after: 5 }, { filter: 5 }, { signal: 5 }, { before: '' }, null, 5]) {
    t.throws(() => app.sse.channel('b').subscribe(options as never), { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(options))
  }
})

t.test('the same name gives the same channel, and later its options may be left out', async (t) => {
  const hub = createHub()
  const key = () => 1
  const schema = () => ({ a: Type.Object({ b: Type.Array(Type.String()) }) })
  const channel = hub.channel('a', { events: schema(), history: { events: 5, age: false }, onLag: 'latest', key })
  t.equal(hub.channel('a'), channel)
  t.equal(hub.channel('a', {}), channel)
  t.equal(hub.channel('a', { events: schema() }), channel, 'equal schemas, though other objects')
  t.equal(hub.channel('a', { history: { events: 5, age: false } }), channel)
  t.equal(hub.channel('a', { onLag: 'latest' }), channel)
  t.equal(hub.channel('a', { onLag: undefined, key: undefined, events: undefined }), channel, 'undefined is left out')
  t.equal(hub.channel('a', { onLag: undefined }), channel)
  t.equal(hub.channel('a', { key: undefined }), channel)
  t.equal(hub.channel('a', { key: () => 2 }), channel, 'functions are not compared')
  t.not(hub.channel('b'), channel)
  t.not(createHub().channel('a'), channel)
})

t.test('other options for a channel that is there already are refused', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a', { events: { a: Type.Number() }, history: { events: 5 }, onLag: 'gap' })
  for (const options of [
    { events: { a: Type.Integer() } }, { events: { b: Type.Number() } }, { events: { a: Type.Number(), b: Type.Number() } },
    { events: {} }, { history: { events: 6 } }, { history: { events: 5, bytes: 1 } }, { onLag: 'disconnect' as const },
    { onLag: 'latest' as const, key: () => 1 }
  ]) t.throws(() => hub.channel('a', options as never), { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(options))
  t.throws(() => hub.channel('a', { onLag: 'disconnect' }), { message: /channel 'a' is there already, with other 'onLag'/ })
  for (const options of [{ unknown: 1 }, null, 5, { history: { events: 0 } }]) {
    t.throws(() => hub.channel('a', options as never), { code: 'FST_SSE_INVALID_OPTION' }, JSON.stringify(options))
  }
  const untyped = hub.channel('untyped')
  t.throws(() => hub.channel('untyped', { events: { a: Type.Number() } }), { code: 'FST_SSE_INVALID_OPTION' })
  t.equal(hub.channel('a'), channel, 'and it stays as it was')
  t.equal(hub.channel('untyped'), untyped)
})

t.test('a schema that cannot be compiled is named with its channel, and leaves the name free', async (t) => {
  const app = await createApp(t)
  for (const events of [{ a: { type: 'nothing' } }, { a: { $ref: 'missing#' } }, { a: 5 }]) {
    t.throws(() => app.sse.channel('a', { events } as never), { code: 'FST_SSE_INVALID_SCHEMA', message: /channel 'a'.*'a'/ })
  }
  await app.sse.channel('a', { events: { a: Type.Number() } }).publish({ event: 'a', data: 1 })
})

t.test('schemas may refer to those of app.addSchema', async (t) => {
  const app = await createApp(t)
  app.addSchema({ $id: 'point', type: 'object', required: ['x'], properties: { x: { type: 'number' } } })
  const channel = app.sse.channel('a', { events: { at: { $ref: 'point#' } as object } })
  await channel.publish({ event: 'at', data: { x: 1, y: 2 } })
  await t.rejects(channel.publish({ event: 'at', data: { x: '1' } }), { code: 'FST_SSE_INVALID_EVENT' })
  await channel.close()
  t.same(dataOf(await readAll(channel.subscribe({ after: 'earliest' }))), [{ x: 1 }])
})

t.test("TypeBox's transforms are encoded, and readers get what the wire has", async (t) => {
  const app = await createApp(t)
  const Time = Type.Transform(Type.String({ format: 'date-time' }))
    .Decode((value) => new Date(value)).Encode((value) => value.toISOString())
  const channel = app.sse.channel('clock', { events: { time: Type.Object({ at: Time }) } })
  const at = new Date(0)
  await channel.publish({ event: 'time', data: { at } })
  await t.rejects(channel.publish({ event: 'time', data: { at: '1970' as never } }), { code: 'FST_SSE_INVALID_EVENT' })
  await channel.close()
  t.same(dataOf(await readAll(channel.subscribe({ after: 'earliest' }))), [{ at: at.toISOString() }])
})

/** Two looks at which channels are in use, then whatever nobody holds is collected. */
async function sweep (clock: Clock): Promise<void> {
  await clock.tickAsync(15_000)
  await clock.tickAsync(15_000)
  await collect()
}

/** Whether a name has the channel that was made with a schema; else this makes a new one, and uses it either way. */
async function isTyped ({ channel }: { channel: SseHub['channel'] }, name: string): Promise<boolean> {
  return channel(name).publish({ data: 'anything' }).then(() => false, ({ code }) => code === 'FST_SSE_INVALID_EVENT')
}

const typed = (age?: number | false) => ({ events: { n: Type.Number() }, history: age === undefined ? {} : { age } })

t.test('channels of start-up are kept with their options; later ones as long as somebody holds or reads them', async (t) => {
  const clock = ownClock(t)
  const app = await createApp(t)
  app.sse.channel('kept', typed(1_000))
  app.register(async (instance) => { instance.sse.channel('kept too', typed(1_000)) })
  await app.ready()
  app.sse.channel('dropped', typed(1_000))
  const held = app.sse.channel('held', typed(1_000))
  const reading = readOn(app.sse.channel('read', typed(1_000)).subscribe())
  await sweep(clock)
  for (const name of ['kept', 'kept too', 'held', 'read']) t.equal(await isTyped(app.sse, name), true, name)
  t.equal(await isTyped(app.sse, 'dropped'), false, 'its name gives a new channel')
  t.equal(app.sse.channel('held'), held)
  t.same(reading.seen, [])
})

t.test('a channel that nobody holds is kept as long as what was published to it may be retained', async (t) => {
  const clock = ownClock(t)
  const hub = createHub()
  const publish = (name: string, age: number | false) => hub.channel(name, typed(age)).publish({ event: 'n', data: 1 })
  hub.channel('only asked for', typed(false))
  await publish('short', 20_000)
  await publish('published to again', 60_000)
  await publish('for ever', false)
  await publish('closed', false)
  await hub.channel('closed').close()
  const isKept = async (...names: string[]) => {
    const kept = []
    for (const name of names) if (await isTyped(hub, name)) kept.push(name)
    return kept
  }
  await sweep(clock)
  await hub.channel('published to again').publish({ event: 'n', data: 1 })
  await sweep(clock)
  t.same(await isKept('only asked for', 'short', 'closed'), [], 'nothing was published, its age has passed, or it was closed')
  t.same(await isKept('published to again', 'for ever'), ['published to again', 'for ever'])
  await sweep(clock)
  await sweep(clock)
  t.same(await isKept('published to again'), [], 'its age has passed since then')
  await clock.tickAsync(86_400_000)
  await sweep(clock)
  t.same(await isKept('for ever'), ['for ever'], 'what does not grow old is kept')
  await hub.channel('for ever').close()
  await sweep(clock)
  t.same(await isKept('for ever'), [], 'until it is closed')
})

t.test('a channel that is published to again, once it was closed and forgotten, is kept as a new one is', async (t) => {
  const clock = ownClock(t)
  const hub = createHub()
  const reopen = async () => {
    const channel = hub.channel('again', typed(60_000))
    await channel.publish({ event: 'n', data: 1 })
    await channel.close()
    await clock.tickAsync(60_000)
    await channel.publish({ event: 'n', data: 2 })
  }
  await reopen()
  await sweep(clock)
  t.equal(await isTyped(hub, 'again'), true)
})

t.test("a 'snapshot' or 'key' that is given later, where the channel has none, is refused", async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  const code = 'FST_SSE_INVALID_OPTION'
  t.throws(() => hub.channel('a', { snapshot: () => [] }), { code, message: /channel 'a' is there already, with other 'snapshot'/ })
  t.throws(() => hub.channel('a', { key: () => 1 }), { code, message: /channel 'a' is there already, with other 'key'/ })
  t.equal(hub.channel('a'), channel)
  const latest = hub.channel('b', { snapshot: () => [], onLag: 'latest', key: () => 1 })
  t.equal(hub.channel('b', { snapshot: () => [{ data: 1 }], key: () => 2 }), latest, 'of functions only whether there is one')
})

t.test('a schema of one channel is let go of with it, though another schema beside it is shared by all', async (t) => {
  const compiled = new Compiled(() => ({}))
  const Shared = Type.Number()
  const references: WeakRef<object>[] = []
  const compile = () => {
    const own = Type.Object({ a: Type.String() })
    references.push(new WeakRef(own))
    const events = () => ({ shared: Shared, own }) as unknown as Events
    const payloads = compiled.for('c', events())
    t.equal(compiled.for('c', events()), payloads, 'compiled once while it is used')
  }
  for (let n = 0; n < 20; n++) compile()
  await collect()
  const left = references.filter((reference) => reference.deref() !== undefined).length
  t.ok(left <= 2, `${left} of 20 are left`)
})
