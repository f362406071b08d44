/** Readers that fall behind the history of a channel: each policy says what they get, and nothing is lost silently. */
import t, { type Test } from 'tap'
import { createHub } from '../index.ts'
import type { ChannelOptions, ReceivedEvent, SseChannel, SubscribeOptions } from '../index.ts'
import { untilBehind } from './behind.ts'
import { connect, createApp, listen, turns, until, type RawClient } from './helpers.ts'

/** So large that a socket takes a few dozens of them at the most. */
const LARGE = 'x'.repeat(262_144)

const HISTORY = { events: 4, bytes: 100_000_000 }

interface Block { id: string | undefined, event: string | undefined, data: string | undefined }

/** What a client was given, block by block; of large data only what stands before them. */
function blocks (client: RawClient): Block[] {
  return client.body.split('\n\n').slice(0, -1).map((block) => ({
    id: /^id: (.*)$/m.exec(block)?.[1],
    event: /^event: (.*)$/m.exec(block)?.[1],
    data: /^data: (.*?)( x*)?$/m.exec(block)?.[1]
  }))
}

const large = (text: unknown) => ({ raw: `${text} ${LARGE}` })

/** Publishes one event in a turn of its own, so that whoever can takes it. */
async function publish (channel: SseChannel<any>, event: object): Promise<string> {
  const id = await channel.publish(event)
  await turns(5)
  return id
}

/** A channel with one client that reads nothing, until the server holds back what is for it. */
async function start (t: Test, options: ChannelOptions, subscribe?: SubscribeOptions) {
  const app = await createApp(t, { writeTimeout: false, keepAlive: false })
  const channel: SseChannel<any> = app.sse.channel('prices', { history: HISTORY, ...options } as object)
  app.get('/', (_, reply) => reply.sse(channel.subscribe(subscribe)))
  const port = await listen(app)
  const client = connect(t, port).get('/')
  await client.until('id: ')
  await turns()
  return {
    app,
    channel,
    client,
    read: (id: string) => connect(t, port).get('/', `Last-Event-ID: ${id}`),
    /** @returns how many events it took until the client was behind */
    async stall (make: (n: number) => object = large): Promise<{ ids: string[] }> {
      client.socket.pause()
      const ids: string[] = []
      await untilBehind(app.sse, async () => { ids.push(await publish(channel, make(ids.length))) })
      return { ids }
    }
  }
}

/** The event at which a client has stopped, and all that came after it. */
function since (all: Block[], mark: (block: Block) => boolean): [Block, Block[]] {
  const index = all.findIndex(mark)
  return [all[index - 1]!, all.slice(index)]
}

const isGap = ({ event }: Block) => event === 'gap'

t.test("onLag 'disconnect': its stream ends, it comes back, and is told of the gap", async (t) => {
  for (const onLag of [undefined, 'disconnect'] as const) {
    const { app, channel, client, stall, read } = await start(t, { onLag })
    const { ids } = await stall()
    for (let n = 0; n < 6; n++) ids.push(await publish(channel, large(ids.length)))
    t.match(app.sse.stats(), { open: 1 }, 'a client that does not read is waited for')
    client.socket.resume()
    await client.until('\r\n0\r\n\r\n')
    t.match(app.sse.stats(), { open: 0, gaps: 0, lags: 0, closed: { lagged: 1 } })
    const had = blocks(client).slice(1).map(({ id }) => id)
    t.same(had, ids.slice(0, had.length), 'what it had until then is all there, in order')
    t.ok(had.length < ids.length - 4)
    const again = read(had.at(-1)!)
    await again.until(`data: ${ids.length - 1} `)
    await until(() => blocks(again).length === 3 + 4)
    t.same(blocks(again), [
      { id: had.at(-1), event: undefined, data: undefined },
      { id: undefined, event: 'gap', data: JSON.stringify({ requested: had.at(-1), earliest: ids.at(-4) }) },
      { id: ids.at(-5), event: undefined, data: undefined },
      ...ids.slice(-4).map((id, n) => ({ id, event: undefined, data: String(ids.length - 4 + n) }))
    ])
    t.match(app.sse.stats(), { gaps: 1, lags: 0 })
  }
})

t.test("onLag 'gap': it is told in its stream, and goes on from the earliest", async (t) => {
  const { app, channel, client, stall } = await start(t, { onLag: 'gap' })
  const { ids } = await stall()
  for (let n = 0; n < 6; n++) ids.push(await publish(channel, large(ids.length)))
  client.socket.resume()
  await client.until('event: gap\n')
  await client.until(`data: ${ids.length - 1} `)
  await turns()
  const live = await publish(channel, { raw: 'live' })
  await client.until('data: live\n\n')
  const [last, rest] = since(blocks(client), isGap)
  t.same(rest, [
    { id: undefined, event: 'gap', data: JSON.stringify({ requested: last.id, earliest: ids.at(-4) }) },
    { id: ids.at(-5), event: undefined, data: undefined },
    ...ids.slice(-4).map((id, n) => ({ id, event: undefined, data: String(ids.length - 4 + n) })),
    { id: live, event: undefined, data: 'live' }
  ])
  t.ok(ids.indexOf(last.id!) < ids.length - 5)
  t.match(app.sse.stats(), { open: 1, gaps: 1, lags: 1, closed: { lagged: 0 } })
})

t.test("onLag 'gap' with a snapshot: the state instead of what is retained", async (t) => {
  let state = 'old'
  const { app, channel, client, stall } = await start(t, { onLag: 'gap', snapshot: () => [{ event: 'state', raw: state }] })
  const { ids } = await stall()
  for (let n = 0; n < 6; n++) ids.push(await publish(channel, large(ids.length)))
  state = 'new'
  client.socket.resume()
  await until(() => blocks(client).at(-1)?.id === ids.at(-1))
  const live = await publish(channel, { raw: 'live' })
  await client.until('data: live\n\n')
  const [last, rest] = since(blocks(client), isGap)
  t.same(rest, [
    { id: undefined, event: 'gap', data: JSON.stringify({ requested: last.id, earliest: ids.at(-4) }) },
    { id: undefined, event: 'state', data: 'new' },
    { id: ids.at(-1), event: undefined, data: undefined },
    { id: live, event: undefined, data: 'live' }
  ])
  t.match(app.sse.stats(), { open: 1, gaps: 1, lags: 1 })
})

const byKey: ChannelOptions = { onLag: 'latest', key: ({ raw }: ReceivedEvent) => raw?.split(' ')[0] }

t.test("onLag 'latest': of each key the newest event, in order, none that it has; then what comes; no gap", async (t) => {
  // More than one part of a stream, too, and more than the events that are retained together with what is newest.
  for (const text of ['small', LARGE]) {
    const { app, channel, client, stall } = await start(t, byKey)
    const calm = await publish(channel, { raw: 'calm 0' })
    const { ids } = await stall((n) => ({ raw: `A ${n} ${LARGE}` }))
    const newest: Record<string, string> = {}
    for (const key of ['B', 'C', 'A', 'B', 'C', 'B', 'A', 'B']) newest[key] = await publish(channel, { raw: `${key} ${text}` })
    client.socket.resume()
    await until(() => blocks(client).at(-1)?.id === newest.B)
    await turns()
    const live = await publish(channel, { raw: 'live' })
    await client.until('data: live\n\n')
    const [position, first, ...all] = blocks(client).map(({ id }) => id!)
    t.equal(first, calm, 'once')
    t.ok(position)
    const had = all.slice(0, all.indexOf(newest.C!))
    t.same(had, ids.slice(0, had.length), 'what it had until then, in order')
    t.same(all.slice(had.length), [newest.C, newest.A, newest.B, live], `${text.slice(0, 5)}: of each the newest`)
    t.match(app.sse.stats(), { open: 1, gaps: 0, lags: 1, closed: { lagged: 0 } })
  }
})

t.test("onLag 'latest' with more keys than the history holds: the gap is told", async (t) => {
  const { app, channel, client, stall } = await start(t, byKey)
  const { ids } = await stall((n) => ({ raw: `A ${n} ${LARGE}` }))
  for (const key of ['B', 'C', 'D', 'E', 'F', 'G']) ids.push(await publish(channel, { raw: `${key} ${LARGE}` }))
  client.socket.resume()
  await until(() => blocks(client).at(-1)?.id === ids.at(-1))
  const [last, rest] = since(blocks(client), isGap)
  t.same(rest.map(({ id, event }) => id ?? event), ['gap', ids.at(-5), ...ids.slice(-4)])
  t.equal(rest[0]!.data, JSON.stringify({ requested: last.id, earliest: ids.at(-4) }))
  t.match(app.sse.stats(), { gaps: 1, lags: 1 })
})

t.test('events without a key stand for themselves: where they no longer fit, the gap is told', async (t) => {
  const { app, channel, client, stall } = await start(t, { onLag: 'latest', key: () => undefined })
  const { ids } = await stall()
  for (let n = 0; n < 6; n++) ids.push(await publish(channel, large(ids.length)))
  client.socket.resume()
  await until(() => blocks(client).at(-1)?.id === ids.at(-1))
  const [, rest] = since(blocks(client), isGap)
  t.same(rest.map(({ id, event }) => id ?? event), ['gap', ids.at(-5), ...ids.slice(-4)])
  t.match(app.sse.stats(), { gaps: 1, lags: 1 })
})

t.test("onLag 'latest' and a filter: it gets the newest of what it wants", async (t) => {
  const { app, channel, client, stall } = await start(t, byKey, { filter: ({ raw }) => !raw?.startsWith('B') })
  await stall((n) => ({ raw: `A ${n} ${LARGE}` }))
  let newest = ''
  for (const key of ['B', 'A', 'B', 'A', 'B', 'A']) newest = await publish(channel, { raw: `${key} ${LARGE}` })
  for (let n = 0; n < 5; n++) await publish(channel, { raw: `B ${LARGE}` })
  client.socket.resume()
  await until(() => blocks(client).at(-1)?.id === newest)
  await turns()
  const live = await publish(channel, { raw: 'live' })
  await client.until('data: live\n\n')
  t.equal(client.body.includes('data: B'), false)
  t.same(blocks(client).slice(-2).map(({ id }) => id), [newest, live])
  t.match(app.sse.stats(), { gaps: 0, lags: 1 })
})

t.test('a key that throws harms nobody: its event stands for itself, and the error is logged', async (t) => {
  const errors: unknown[] = []
  const hub = createHub({ onError: (error, message) => { errors.push([(error as Error).message, message]) } })
  t.after(() => hub.close())
  const channel = hub.channel('prices', {
    history: { events: 3 },
    onLag: 'latest',
    key ({ data }) {
      if (data === 'bad') throw new Error('no key')
      return 'A'
    }
  })
  const events = channel.subscribe()[Symbol.asyncIterator]()
  const first = events.next()
  await turns()
  await publish(channel, { data: 0 })
  t.match(await first, { value: { data: 0 } })
  await publish(channel, { data: 1 })
  await publish(channel, { data: 'bad' })
  for (let n = 2; n < 6; n++) await publish(channel, { data: n })
  t.match(await events.next(), { value: { data: 'bad' } })
  t.match(await events.next(), { value: { data: 5 } })
  t.same(errors, [['no key', "the key function of channel 'prices' has failed"]])
})

t.test('one that is behind holds up nobody else', async (t) => {
  const { app, channel, stall } = await start(t, { onLag: 'disconnect' })
  await stall()
  const port = (app.server.address() as { port: number }).port
  const other = connect(t, port).get('/')
  await other.until('id: ')
  const ids = []
  for (let n = 0; n < 8; n++) {
    ids.push(await publish(channel, { raw: `small ${n}` }))
    await other.until(`data: small ${n}\n\n`)
  }
  t.same(blocks(other).slice(1).map(({ id }) => id), ids)
})

t.test('a burst larger than the history cuts off none of those who keep up', async (t) => {
  const { app, channel, client } = await start(t, { onLag: 'disconnect' })
  const ids = await Promise.all(Array.from({ length: 50 }, (_, n) => channel.publish({ raw: `small ${n}` })))
  await client.until('data: small 49\n\n')
  t.same(blocks(client).slice(1).map(({ id }) => id), ids)
  t.match(app.sse.stats(), { open: 1, gaps: 0, lags: 0 })
})

/**
 * A reader without HTTP that has had the first of these events, and then does not ask for a while, in which the others come.
 * @param early the first one is published in the same turn in which the reader begins
 */
async function pause (t: Test, options: ChannelOptions, data: unknown[], early = false) {
  const hub = createHub()
  t.after(() => hub.close())
  const channel: SseChannel<any> = hub.channel('prices', { history: { events: 3 }, ...options } as object)
  const events = channel.subscribe()[Symbol.asyncIterator]()
  const first = events.next()
  if (!early) await turns()
  const ids = [await publish(channel, { data: data[0] })]
  t.match(await first, { done: false, value: { data: data[0], id: ids[0] } })
  for (const each of data.slice(1)) ids.push(await publish(channel, { data: each }))
  return { channel, events, ids, next: async () => (await events.next()).value as ReceivedEvent }
}

t.test("for await, onLag 'disconnect': next() rejects, then it is over, and it can go on from its last ID", async (t) => {
  const { channel, events, ids } = await pause(t, {}, [0, 1, 2, 3, 4, 5])
  await t.rejects(events.next(), { code: 'FST_SSE_LAGGED', message: /'prices'/ })
  t.same(await events.next(), { done: true, value: undefined })
  const again = channel.subscribe({ after: ids[0] })[Symbol.asyncIterator]()
  t.same((await again.next()).value, { event: 'gap', data: { requested: ids[0], earliest: ids[3] } })
  for (const n of [3, 4, 5]) t.same((await again.next()).value, { event: 'message', data: n, id: ids[n] })
  await again.return!()
})

t.test("for await, onLag 'gap': it is given the gap, and goes on", async (t) => {
  const { channel, ids, next } = await pause(t, { onLag: 'gap' }, [0, 1, 2, 3, 4, 5])
  t.same(await next(), { event: 'gap', data: { requested: ids[0], earliest: ids[3] } })
  for (const n of [3, 4, 5]) t.same(await next(), { event: 'message', data: n, id: ids[n] })
  const live = next()
  const id = await channel.publish({ data: 'live' })
  t.same(await live, { event: 'message', data: 'live', id })
})

t.test("for await, onLag 'gap' with a snapshot", async (t) => {
  const { channel, ids, next } = await pause(t, { onLag: 'gap', snapshot: () => [] }, [0, 1, 2, 3, 4, 5])
  t.same(await Promise.race([next(), turns(50)]), { event: 'gap', data: { requested: ids[0], earliest: ids[3] } })
  const live = next()
  const id = await channel.publish({ data: 'live' })
  t.same(await live, { event: 'message', data: 'live', id })
})

t.test("for await, onLag 'latest': the newest of each key", async (t) => {
  const key = ({ data }: ReceivedEvent) => (data as { key: string }).key
  const data = ['A', 'A', 'B', 'A', 'B', 'C', 'A', 'B'].map((key, n) => ({ key, n }))
  const { channel, ids, next } = await pause(t, { onLag: 'latest', key }, data)
  for (const n of [5, 6, 7]) t.same(await next(), { event: 'message', data: data[n], id: ids[n] })
  const live = next()
  const id = await channel.publish({ data: { key: 'live' } })
  t.same(await live, { event: 'message', data: { key: 'live' }, id })
})

t.test('for await: who begins with what comes can fall behind from the first event on', async (t) => {
  const { events } = await pause(t, {}, [0, 1, 2, 3, 4, 5], true)
  await t.rejects(events.next(), { code: 'FST_SSE_LAGGED' })
  const { ids, next } = await pause(t, { onLag: 'latest', key: ({ data }) => data }, [0, 1, 1, 1, 1, 1], true)
  t.same(await next(), { event: 'message', data: 1, id: ids[5] })
})

t.test('for await: who is still being given what was before is told of the gap, whatever the policy', async (t) => {
  for (const options of [{}, { onLag: 'gap' }, { onLag: 'latest', key: () => 1 }] as ChannelOptions[]) {
    const hub = createHub()
    t.after(() => hub.close())
    const channel: SseChannel<any> = hub.channel('prices', { history: { events: 1_000 }, ...options } as object)
    const ids: string[] = []
    const add = async (count: number) => {
      for (let n = 0; n < count; n++) ids.push(await channel.publish({ data: ids.length }))
    }
    await add(1_000)
    const events = channel.subscribe({ after: 'earliest' })[Symbol.asyncIterator]()
    t.match(await events.next(), { value: { data: 0 } })
    await add(1_500)
    await turns()
    const had = [ids[0]]
    let event = (await events.next()).value as ReceivedEvent
    for (; event.event !== 'gap'; event = (await events.next()).value as ReceivedEvent) had.push(event.id)
    t.same(had, ids.slice(0, had.length))
    t.ok(had.length < 1_500)
    t.same(event, { event: 'gap', data: { requested: had.at(-1), earliest: ids[1_500] } }, `${options.onLag}`)
    for (let n = 1_500; n < 2_500; n++) {
      event = (await events.next()).value as ReceivedEvent
      if (event.id !== ids[n]) t.fail(`${event.id} instead of ${ids[n]}`)
    }
    await events.return!()
  }
})

t.test('for await: one that pauses no longer than the history allows misses nothing', async (t) => {
  for (const options of [{}, { onLag: 'gap' }, { onLag: 'latest', key: () => 1 }] as ChannelOptions[]) {
    const { ids, next } = await pause(t, options, [0, 1, 2, 3])
    for (const n of [1, 2, 3]) t.same(await next(), { event: 'message', data: n, id: ids[n] }, `${options.onLag}`)
  }
})

t.test('options that do not fit each other are refused', (t) => {
  const hub = createHub()
  const wrong: [ChannelOptions, RegExp][] = [
    [{ onLag: 'latest' }, /'key'/],
    [{ key: () => 1 }, /'latest'/],
    [{ key: () => 1, onLag: 'gap' }, /'latest'/],
    [{ onLag: 'drop' as 'gap' }, /'disconnect', 'gap' or 'latest', got the string "drop"/],
    [{ onLag: 'latest', key: 'symbol' as unknown as () => unknown }, /'key' .* a function/]
  ]
  for (const [options, message] of wrong) {
    t.throws(() => hub.channel('prices', options as object), { code: 'FST_SSE_INVALID_OPTION', message })
  }
  t.doesNotThrow(() => hub.channel('prices', { onLag: 'latest', key: () => 1 }), 'a refused one is not there')
  t.end()
})
