/** Where a client of a channel begins, and goes on after it was away: byte by byte, with every gap told. */
import { Type } from '@sinclair/typebox'
import t, { type Test } from 'tap'
import type { ChannelOptions, SseChannel, SseOptions, SubscribeOptions } from '../index.ts'
import { memoryBroker } from '../lib/brokers/memory.ts'
import type { Broker } from '../lib/broker.ts'
import { compareEntryIds } from '../lib/entry-id.ts'
import { type RawClient, connect, createApp, deferred, given, listen, logInto, ownClock, turns, until } from './helpers.ts'

interface Line { level: number, msg: string, sse?: { reason: string }, err?: { message: string } }

const ERROR = 50

/** An app with a channel, and what was logged. */
async function start (t: Test, channelOptions?: ChannelOptions, options: SseOptions = {}) {
  const lines: Line[] = []
  const app = await createApp(t, options, logInto(lines))
  const channel: SseChannel<any> = app.sse.channel('news', channelOptions as object)
  app.get('/', (_, reply) => reply.sse(channel))
  app.get<{ Querystring: SubscribeOptions }>('/from', (request, reply) => {
    return reply.sse(channel.subscribe({ after: request.query.after }))
  })
  const port = await listen(app)
  return {
    app,
    channel,
    port,
    lines,
    read (id?: string, path = '/', ...headers: string[]): RawClient {
      return connect(t, port).get(path, ...(id === undefined ? [] : [`Last-Event-ID: ${id}`]), ...headers)
    },
    /** The position of a client that begins now. */
    async position (): Promise<string> {
      const client = connect(t, port).get('/from?after=earliest')
      const [, id] = /id: (.*)\n/.exec(await client.until(/id: .*\n\n/))!
      client.destroy()
      return id!
    }
  }
}

async function publish (channel: SseChannel<any>, ...data: unknown[]): Promise<string[]> {
  const ids = []
  for (const each of data) ids.push(await channel.publish({ data: each }))
  return ids
}

const at = (id: string | undefined) => `id: ${id}\n\n`
const event = (id: string | undefined, data: unknown) => `id: ${id}\ndata: ${data}\n\n`
const gap = (requested: string | undefined, earliest: string | null | undefined) =>
  `event: gap\ndata: ${JSON.stringify({ requested, earliest })}\n\n`

t.test('a client without an ID is told its position, then what is published from now on', async (t) => {
  const { channel, read } = await start(t)
  const [first] = await publish(channel, 1)
  const client = read()
  await given(t, client, at(first), 'nothing of before, but from where it can come back')
  const [second] = await publish(channel, 2)
  await given(t, client, at(first) + event(second, 2))
})

t.test('the position of a channel without any event is one to come back to', async (t) => {
  const { app, channel, read } = await start(t)
  const early = read()
  const [, position] = /id: (\d+-\d+)\n\n/.exec(await early.until(/id: \d+-\d+\n\n/))!
  await given(t, early, at(position))
  const [first] = await publish(channel, 1)
  await given(t, read(position), at(position) + event(first, 1))
  t.equal(app.sse.stats().gaps, 0)
})

t.test('a client that comes back gets what it missed, each event once, whether or not somebody else is reading', async (t) => {
  for (const others of [false, true]) {
    const { app, channel, read } = await start(t)
    const [first, second] = await publish(channel, 1, 2)
    if (others) await read().until('id: ')
    const [third, fourth] = await publish(channel, 3, 4)
    await given(t, read(first), at(first) + event(second, 2) + event(third, 3) + event(fourth, 4), `others: ${others}`)
    await given(t, read(third), at(third) + event(fourth, 4))
    const client = read(fourth)
    await given(t, client, at(fourth), 'up to date: nothing')
    const [fifth] = await publish(channel, 5)
    await given(t, client, at(fourth) + event(fifth, 5))
    t.equal(app.sse.stats().gaps, 0)
  }
})

t.test('all of a long absence is given in order, while publishing goes on', async (t) => {
  const { app, channel, read } = await start(t, { history: { events: 5_000 } })
  const [first] = await publish(channel, 0)
  let expected = at(first)
  const go = async (from: number, to: number) => {
    for (let n = from; n < to; n++) expected += event(await channel.publish({ data: n }), n)
  }
  await go(1, 1_500)
  const client = read(first)
  for (let n = 1_500; n < 2_000; n += 10) {
    await go(n, n + 10)
    await turns(1)
  }
  await given(t, client, expected)
  t.match(app.sse.stats(), { gaps: 0, lags: 0 })
})

t.test('an ID that the channel never gave is a gap: from where, then all that is retained', async (t) => {
  const { app, channel, read, position } = await start(t)
  const begin = await position()
  const ids = await publish(channel, 1, 2)
  const rest = at(begin) + event(ids[0], 1) + event(ids[1], 2)
  const unknown = {
    'no ID of ours': 'garbage',
    'almost one': `${ids[0]}x`,
    'another form': `${ids[0]}-1`,
    'leading zeros': `0${ids[0]}`,
    negative: '-1-1',
    fraction: '1.5-1',
    'a number alone': '12345',
    'a dash': '-',
    'older than all': '1-1',
    'right before the first': begin.replace(/\d+$/, (sequence) => String(Number(sequence) - 1)),
    'newer than all': '18446744073709551615-18446744073709551615',
    'larger than any number of 64 bits': '99999999999999999999-99999999999999999999',
    'more digits still': `${'9'.repeat(400)}-1`,
    'as long as it can be': 'x'.repeat(1_024),
    'text that JSON escapes': '"quotes"\\',
    vector: '~AAAAA1-0.BBBBB1-0'
  }
  for (const [name, id] of Object.entries(unknown)) {
    await given(t, read(id), at(id) + gap(id, ids[0]) + rest, name)
  }
  const utf8 = 'Ωμέγα ✓'
  await given(t, read(Buffer.from(utf8).toString('latin1')), at(utf8) + gap(utf8, ids[0]) + rest, 'text')
  t.equal(app.sse.stats().gaps, Object.keys(unknown).length + 1, 'each gap is counted')
})

t.test('an ID of another channel is a gap, unless it is from before the first event', async (t) => {
  const { app, channel, read, position } = await start(t, { history: { events: 2 } })
  const begin = await position()
  const other = app.sse.channel('other')
  const [before] = await publish(other, 'before')
  const [first] = await publish(channel, 1)
  const [between] = await publish(other, 'between')
  const [second] = await publish(channel, 2)
  const all = event(first, 1) + event(second, 2)
  await given(t, read(begin), at(begin) + all)
  await given(t, read(before), at(before) + all, 'nothing was there yet')
  await given(t, read(between), at(between) + gap(between, first) + at(begin) + all, 'it is nowhere in this log')
  t.equal(app.sse.stats().gaps, 1)
  const [third] = await publish(channel, 3)
  const rest = event(second, 2) + event(third, 3)
  await given(t, read(before), at(before) + gap(before, second) + at(first) + rest, 'the first is gone')
  await given(t, read(between), at(between) + gap(between, second) + at(first) + rest)
})

t.test('an ID longer than a server sends is refused, and no channel is read', async (t) => {
  const { app, read } = await start(t)
  const client = read('x'.repeat(1_025))
  await client.until('FST_SSE_INVALID_LAST_EVENT_ID')
  t.match(client.head, /^HTTP\/1.1 400 /)
  t.equal(app.sse.stats().opened, 0)
})

t.test('a broker is asked for nothing that has not the form of its positions, whatever clients send', async (t) => {
  const asked: (string | undefined)[] = []
  const broker: Broker = memoryBroker()
  const read = broker.read.bind(broker)
  broker.read = (channel, after, most) => {
    asked.push(after)
    return read(channel, after, most)
  }
  const { channel, read: request } = await start(t, undefined, { broker })
  await publish(channel, 1)
  for (const id of ['garbage', '1', '-', '1-1-1', '18446744073709551616-0', '1-18446744073709551616', '99999999999999999999-0']) {
    await request(id).until('data: 1\n\n')
  }
  const most = 2n ** 64n - 1n
  const fits = (position: string) => {
    return /^(0|[1-9]\d*)-(0|[1-9]\d*)$/.test(position) && position.split('-').every((part) => BigInt(part) <= most)
  }
  t.same(asked.filter((position) => position !== undefined && !fits(position)), [])
})

t.test('what is no longer retained is a gap: too many events, too many bytes, too old', async (t) => {
  const histories: [string, ChannelOptions['history']][] = [
    ['events', { events: 2 }], ['bytes', { bytes: 2 }], ['age', { age: 1_000 }]
  ]
  for (const [limit, history] of histories) {
    for (const others of [false, true]) {
      const { app, channel, read } = await start(t, { history: history! })
      const clock = ownClock(t)
      if (others) await read().until('id: ')
      const [first, second] = await publish(channel, 1, 2)
      await clock.tickAsync(999)
      const [third, fourth] = await publish(channel, 3, 4)
      await clock.tickAsync(1)
      const rest = event(third, 3) + event(fourth, 4)
      const name = `${limit}, others: ${others}`
      await given(t, read(first), at(first) + gap(first, third) + at(second) + rest, name)
      await given(t, read(second), at(second) + rest, `${name}: nothing is missing after the last one that is gone`)
      t.equal(app.sse.stats().gaps, 1)
      clock.uninstall()
    }
  }
})

t.test('an event as old as its history allows is still there a moment before', async (t) => {
  const { channel, read } = await start(t, { history: { age: 1_000 } })
  const clock = ownClock(t)
  const [first, second] = await publish(channel, 1, 2)
  await clock.tickAsync(999)
  await given(t, read(first), at(first) + event(second, 2))
  clock.uninstall()
})

t.test('where nothing is retained any more the gap says so, and events go on', async (t) => {
  const { channel, read } = await start(t, { history: { age: 1_000 } })
  const clock = ownClock(t)
  await read().until('id: ')
  const [first, second] = await publish(channel, 1, 2)
  await clock.tickAsync(1_000)
  const client = read(first)
  const begun = at(first) + gap(first, null) + at(second)
  await given(t, client, begun)
  const [third] = await publish(channel, 3)
  await given(t, client, begun + event(third, 3))
  await given(t, read(second), at(second) + event(third, 3), 'whoever had the last one has missed nothing')
  clock.uninstall()
})

t.test('an ID of an earlier process is a gap, even if the clock was set back meanwhile', async (t) => {
  for (const back of [0, 3_600_000]) {
    const clock = ownClock(t)
    clock.setSystemTime(10_000_000)
    // Of 10,000 brokers each has its own digits: the second is made until they differ, as it may draw the same.
    const [before, after] = differing(() => clock.setSystemTime(10_000_000), () => clock.setSystemTime(10_000_000 - back))
    clock.setSystemTime(10_000_000)
    const ids = [await append(before), await append(before)]
    clock.setSystemTime(10_000_000 - back)
    const first = await append(after)
    clock.uninstall()
    const { app, read, position } = await start(t, undefined, { broker: after })
    const begin = await position()
    for (const id of ids) await given(t, read(id), at(id) + gap(id, first) + at(begin) + event(first, 1), `back ${back}: ${id}`)
    t.equal(app.sse.stats().gaps, 2)
  }

  function append (broker: Broker): Promise<string> {
    return broker.append('news', { event: '', data: '1' }, { events: 10, bytes: 1_000, age: false })
  }

  function differing (first: () => void, second: () => void): [Broker, Broker] {
    const random = Math.random
    try {
      first()
      Math.random = () => 0.25
      const before = memoryBroker()
      second()
      Math.random = () => 0.75
      return [before, memoryBroker()]
    } finally {
      Math.random = random
    }
  }
})

t.test('IDs grow strictly while the clock stands still or steps back, and each is one to come back to', async (t) => {
  const { app, channel, read } = await start(t, { history: { age: false } })
  const clock = ownClock(t)
  const ids: string[] = []
  for (const time of [5_000_000_000_000, 5_000_000_000_000, 4_000_000_000_000, 1, 5_000_000_000_001, 5_000_000_000_000]) {
    clock.setSystemTime(time)
    ids.push(...await publish(channel, ids.length))
  }
  clock.uninstall()
  for (let n = 1; n < ids.length; n++) t.ok(compareEntryIds(ids[n - 1]!, ids[n]!) < 0, `${ids[n - 1]} < ${ids[n]}`)
  for (const [index, id] of ids.entries()) {
    const rest = ids.slice(index + 1).map((each, n) => event(each, index + 1 + n)).join('')
    await given(t, read(id), at(id) + rest)
  }
  t.equal(app.sse.stats().gaps, 0)
})

t.test('a subscription says where to begin, and the ID of a client goes before it', async (t) => {
  const { app, channel, read, position } = await start(t, { history: { events: 3 } })
  const begin = await position()
  const [first, second, third] = await publish(channel, 1, 2, 3)
  const all = event(first, 1) + event(second, 2) + event(third, 3)
  await given(t, read(undefined, '/from?after=earliest'), at(begin) + all)
  await given(t, read(undefined, '/from?after=0-0'), at('0-0') + all, 'before the first event, of which none is gone')
  await given(t, read(undefined, `/from?after=${second}`), at(second) + event(third, 3))
  await given(t, read(second, '/from?after=earliest'), at(second) + event(third, 3), 'the client knows better')
  await given(t, read(third, `/from?after=${first}`), at(third))
  await given(t, read(undefined, `/from?after=${first}&lastEventId=${third}`), at(third), 'in the query too')
  t.equal(app.sse.stats().gaps, 0)
  const [fourth] = await publish(channel, 4)
  const rest = at(first) + event(second, 2) + event(third, 3) + event(fourth, 4)
  await given(t, read(undefined, '/from?after=earliest'), rest, 'all that is retained: no gap')
  await given(t, read(undefined, '/from?after=0-0'), at('0-0') + gap('0-0', second) + rest, 'the first one is gone: a gap')
  t.equal(app.sse.stats().gaps, 1)
})

t.test('a snapshot comes first and without IDs, then the position that it belongs to, then events', async (t) => {
  let state = 0
  const { channel, read } = await start(t, { snapshot: () => [{ event: 'state', data: state }, 'text'] })
  const [first] = await publish(channel, 1)
  state = 1
  const client = read()
  const snapshot = 'event: state\ndata: 1\n\ndata: text\n\n'
  await given(t, client, snapshot + at(first))
  const [second] = await publish(channel, 2)
  state = 2
  await given(t, client, snapshot + at(first) + event(second, 2))
  await given(t, read(first), at(first) + event(second, 2), 'who comes back in time needs none')
  await given(t, read(undefined, `/from?after=${first}`), at(first) + event(second, 2), 'nor who says where to begin')
})

t.test('what is published while a snapshot is being made comes after it', async (t) => {
  const gate = deferred()
  let making = 0
  const { channel, read } = await start(t, {
    snapshot: async function * () {
      making++
      yield { data: 'one' }
      await gate.promise
      yield { data: 'two' }
    }
  })
  const [first] = await publish(channel, 1)
  const client = read()
  await client.until('one')
  const [second, third] = await publish(channel, 2, 3)
  await given(t, client, 'data: "one"\n\n', 'nothing goes before it')
  gate.resolve()
  await given(t, client, 'data: "one"\n\ndata: "two"\n\n' + at(first) + event(second, 2) + event(third, 3))
  t.equal(making, 1)
})

t.test('what the function of a snapshot publishes itself comes after it, after a gap, too', async (t) => {
  let joined = Promise.resolve('')
  const { channel, read } = await start(t, {
    history: { events: 2 },
    snapshot () {
      joined = channel.publish({ data: 'joined' })
      return [{ data: 'state' }]
    }
  })
  const [gone, , , last] = await publish(channel, 1, 2, 3, 4)
  const fresh = read()
  await fresh.until('joined')
  const before = await joined
  await given(t, fresh, 'data: "state"\n\n' + at(last) + event(before, '"joined"'), 'without a position')
  const back = read(gone)
  await back.until('joined')
  await given(t, back, at(gone) + gap(gone, last) + 'data: "state"\n\n' + at(before) + event(await joined, '"joined"'))
})

t.test('an empty snapshot is one', async (t) => {
  const { channel, read } = await start(t, { snapshot: () => [] })
  const [first] = await publish(channel, 1)
  await given(t, read(), at(first))
})

t.test('after a gap there is a snapshot instead of what is retained', async (t) => {
  const { app, channel, read } = await start(t, { history: { events: 2 }, snapshot: () => [{ data: 'state' }] })
  const [first, , third, fourth] = await publish(channel, 1, 2, 3, 4)
  const client = read(first)
  const begun = at(first) + gap(first, third) + 'data: "state"\n\n' + at(fourth)
  await given(t, client, begun)
  const [fifth] = await publish(channel, 5)
  await given(t, client, begun + event(fifth, 5))
  t.match(app.sse.stats(), { gaps: 1, lags: 0 })
})

t.test('a client that is cut off in the middle of a snapshot comes back to all of it', async (t) => {
  const gate = deferred()
  const { app, channel, read } = await start(t, {
    history: { events: 1 },
    snapshot: async function * () {
      yield { data: 'one' }
      await gate.promise
      yield { data: 'two' }
    }
  })
  const [first, second, third] = await publish(channel, 1, 2, 3)
  const fresh = read()
  await given(t, fresh, 'data: "one"\n\n', 'no ID yet: it will come back without one')
  const late = read(first)
  const told = at(first) + gap(first, third) + 'data: "one"\n\n'
  await given(t, late, told, 'no other ID than the one with which it came')
  for (const connection of app.sse.connections) connection.end()
  await Promise.all([fresh.until('\r\n0\r\n\r\n'), late.until('\r\n0\r\n\r\n')])
  gate.resolve()
  await given(t, read(), 'data: "one"\n\ndata: "two"\n\n' + at(third))
  await given(t, read(first), told + 'data: "two"\n\n' + at(third), 'told of the gap again')
  await given(t, read(second), at(second) + event(third, 3), 'who has missed nothing gets no snapshot')
})

t.test('a snapshot that fails at once is answered as any error', async (t) => {
  const fail = () => { throw Object.assign(new Error('no state'), { statusCode: 503 }) }
  const snapshots: Record<string, ChannelOptions['snapshot']> = {
    'at once': fail,
    'by its iterator': function * () { fail() },
    'by a rejection': async function * () { fail() }
  }
  for (const [name, snapshot] of Object.entries(snapshots)) {
    const { app, channel, read, lines } = await start(t, { snapshot })
    const client = read()
    await client.until('no state')
    t.match(client.head, /^HTTP\/1.1 503 /, name)
    t.match(client.head, /^content-type: application\/json/im)
    t.equal(app.sse.stats().open, 0)
    t.equal(lines.filter(({ level, err }) => level === ERROR && err?.message === 'no state').length, 1, 'logged once')
    const [first] = await publish(channel, 1)
    await given(t, read(first), at(first), 'who needs no snapshot can read')
  }
})

t.test('a snapshot that fails later ends its stream, is logged, and nobody else feels it', async (t) => {
  let failing = false
  const { app, channel, read, lines } = await start(t, {
    snapshot: async function * () {
      yield { data: 'one' }
      await turns()
      if (failing) throw new Error('no state')
    }
  })
  const [first] = await publish(channel, 1)
  const other = read()
  await given(t, other, 'data: "one"\n\n' + at(first))
  failing = true
  const client = read()
  await client.until('\r\n0\r\n\r\n')
  t.equal(client.body, 'data: "one"\n\n', 'no position: it has had no whole snapshot')
  t.match(app.sse.stats(), { open: 1, closed: { 'source-threw': 1 } })
  await until(() => lines.some(({ sse }) => sse !== undefined))
  t.match(lines.filter(({ sse }) => sse !== undefined), [{ level: ERROR, err: { message: 'no state' } }])
  const [second] = await publish(channel, 2)
  await given(t, other, 'data: "one"\n\n' + at(first) + event(second, 2))
})

t.test('the head does not wait for a snapshot, however long it takes: one that fails then has sent nothing else', async (t) => {
  const gate = deferred()
  const { app, read } = await start(t, {
    snapshot: async function * () {
      await gate.promise
      throw new Error('no state')
    }
  })
  const client = read()
  await client.until('\r\n\r\n')
  t.match(client.head, /^HTTP\/1.1 200 /)
  t.equal(client.body, '')
  gate.resolve()
  await client.until('\r\n0\r\n\r\n')
  t.equal(client.body, '')
  t.match(app.sse.stats(), { open: 0, closed: { 'source-threw': 1 } })
})

t.test('an invalid event of a snapshot: the same, and each stream that ends is counted for what it was', async (t) => {
  const invalid: Record<string, unknown> = {
    'against its schema': { event: 'state', data: 'x' },
    'with an ID': { event: 'state', data: 1, id: '1' },
    'a gap': { event: 'gap', data: 1 },
    nothing: undefined
  }
  for (const [name, bad] of Object.entries(invalid)) {
    let first: unknown[] = []
    const { app, channel, read } = await start(t, {
      events: { state: Type.Integer() },
      snapshot: function * () { yield * first; yield bad }
    })
    const refused = read()
    await refused.until('FST_SSE_INVALID_EVENT')
    t.match(refused.head, /^HTTP\/1.1 500 /, name)
    const id = await channel.publish({ event: 'state', data: 1 })
    first = [{ event: 'state', data: 1 }]
    const client = read('garbage')
    await client.until('\r\n0\r\n\r\n')
    t.equal(client.body, at('garbage') + gap('garbage', id) + 'event: state\ndata: 1\n\n')
    t.match(app.sse.stats(), { open: 0, closed: { 'invalid-event': 2 } })
  }
})

t.test('a snapshot is let go of when its client leaves', async (t) => {
  const state = { opened: 0, returned: 0, finished: 0 }
  const endless = () => {
    state.opened++
    return {
      [Symbol.asyncIterator]: () => ({
        sent: false,
        next () {
          if (this.sent) return new Promise<never>(() => {})
          this.sent = true
          return Promise.resolve({ done: false as const, value: { data: 'one' } })
        },
        async return () {
          state.returned++
          return { done: true as const, value: undefined }
        }
      })
    }
  }
  const { app, read } = await start(t, { snapshot: endless })
  const client = read()
  await client.until('one')
  t.same(state, { opened: 1, returned: 0, finished: 0 })
  client.destroy()
  await until(() => state.returned === 1)
  await until(() => app.sse.connections.size === 0)
  t.same(state, { opened: 1, returned: 1, finished: 0 })
})

t.test('browsers that forget an ID alone are given it with an event that nobody listens to', async (t) => {
  const { channel, read } = await start(t)
  const [first] = await publish(channel, 1)
  const agents = {
    firefox: 'Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0',
    safari: 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15'
  }
  const position = (id: string | undefined) => `id: ${id}\nevent: fastify-typed-sse:position\ndata: \n\n`
  for (const [name, agent] of Object.entries(agents)) {
    await given(t, read(undefined, '/', `User-Agent: ${agent}`), position(first), name)
    await given(t, read('x', '/', `User-Agent: ${agent}`), position('x') + gap('x', first) +
      position(await positionBefore(read())) + event(first, 1), `${name}, at a gap`)
  }

  async function positionBefore (client: RawClient): Promise<string> {
    await client.until('id: ')
    const earliest = read(undefined, '/from?after=earliest')
    return /id: (.*)\n\n/.exec(await earliest.until('data: 1\n\n'))![1]!
  }
})

t.test('HEAD is answered with the head alone: nothing is read, and no snapshot made', async (t) => {
  let made = 0
  const { app, port } = await start(t, { snapshot: function * () { made++ } })
  const client = connect(t, port).send('HEAD / HTTP/1.1\r\nHost: test\r\n\r\n')
  await client.until('\r\n\r\n')
  await turns()
  t.match(client.head, /^HTTP\/1.1 200 [^]*content-type: text\/event-stream/i)
  t.equal(client.body, '')
  t.equal(made, 0)
  t.match(app.sse.stats(), { opened: 0 })
})

t.test('a client that has had all of a finished stream gets 204, and nothing is read', async (t) => {
  let made = 0
  const { app, read } = await start(t, { snapshot: function * () { made++ } })
  const client = read('fastify-typed-sse:finished')
  await client.until('\r\n\r\n')
  t.match(client.head, /^HTTP\/1.1 204 /)
  t.equal(made, 0)
  t.match(app.sse.stats(), { opened: 0 })
})

t.test('a closed channel gives what is left, then the ID of the end', async (t) => {
  const { app, channel, read } = await start(t)
  const [first, second] = await publish(channel, 1, 2)
  const live = read()
  await given(t, live, at(second))
  await channel.close()
  const end = 'id: fastify-typed-sse:finished\n\n'
  await given(t, live, at(second) + end)
  await live.until('\r\n0\r\n\r\n')
  await given(t, read(first), at(first) + event(second, 2) + end, 'who comes back gets the rest')
  await until(() => app.sse.stats().open === 0)
  t.match(app.sse.stats(), { closed: { 'source-done': 2 }, gaps: 0 })
})

t.test('a typed route takes only what declares no more than it does', async (t) => {
  const app = await createApp(t)
  const route = { schema: { events: { price: Type.Number(), halt: Type.String() } } }
  const any = (channel: unknown) => channel as SseChannel<never>
  const channels = {
    same: app.sse.channel('same', { events: { price: Type.Number(), halt: Type.String() } }),
    fewer: app.sse.channel('fewer', { events: { price: Type.Number() } }),
    more: app.sse.channel('more', { events: { price: Type.Number(), news: Type.String() } }),
    untyped: app.sse.channel('untyped')
  }
  for (const [name, channel] of Object.entries(channels)) {
    app.get(`/${name}`, route, (_, reply) => reply.sse(any(channel)))
    app.get(`/${name}/filtered`, route, (_, reply) => reply.sse(any(channel).subscribe({ filter: () => true })))
  }
  app.get('/merged', route, (_, reply) => reply.sse(app.sse.subscribe([any(channels.same), any(channels.more)])))
  app.get('/merged/untyped', route, (_, reply) => reply.sse(app.sse.subscribe([any(channels.same), any(channels.untyped)])))
  const port = await listen(app)
  for (const path of ['/same', '/fewer', '/same/filtered']) {
    const client = connect(t, port).get(path)
    await client.until('id: ')
    t.match(client.head, /^HTTP\/1.1 200 /, path)
  }
  for (const path of ['/more', '/more/filtered', '/merged']) {
    const { code, message } = (await app.inject(path)).json()
    t.equal(code, 'FST_SSE_INVALID_SOURCE', path)
    t.match(message, "'news'", 'says which type')
  }
  for (const path of ['/untyped', '/untyped/filtered', '/merged/untyped']) {
    const { code, message } = (await app.inject(path)).json()
    t.equal(code, 'FST_SSE_INVALID_SOURCE', path)
    t.match(message, 'events', 'says what is missing')
  }
  t.equal(app.sse.stats().opened, 3, 'none was opened for the others')
})
