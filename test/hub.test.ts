/** Channels without Fastify: `createHub`, `for await`, and what a hub makes of a broker that is far away or fails. */
import t, { type Test } from 'tap'
import { createHub, memoryBroker, type Broker, type Listener, type Listening, type SubscribeOptions } from '../index.ts'
import { brokerWith, connect, createApp, dataOf, deferred, gc, idleSource, listen, readOn, turns, until } from './helpers.ts'

const noPage = { entries: [], complete: true }

/** A broker that counts what it is asked for, and can be told to fail. */
class CountingBroker implements Broker {
  readonly inner = memoryBroker()
  readonly calls = { open: 0, append: 0, close: 0, read: 0, listen: 0 }
  /** Those who listen now. */
  listeners = 0
  /** What the named methods reject with. */
  failing: Partial<Record<keyof Broker, Error>> = {}
  /** Entries that come from the broker go through this. */
  pass: (listener: Listener) => Listener = (listener) => listener

  async open (...args: Parameters<Broker['open']>) {
    return this.#do('open', () => this.inner.open(...args))
  }

  async append (...args: Parameters<Broker['append']>) {
    return this.#do('append', () => this.inner.append(...args))
  }

  async close (...args: Parameters<Broker['close']>) {
    return this.#do('close', () => this.inner.close(...args))
  }

  async read (...args: Parameters<Broker['read']>) {
    return this.#do('read', () => this.inner.read(...args))
  }

  async listen (channel: string, listener: Listener): Promise<Listening> {
    const listening = await this.#do('listen', () => this.inner.listen(channel, this.pass(listener)))
    this.listeners++
    let stopped = false
    const stop = () => {
      if (!stopped) this.listeners--
      stopped = true
      listening.stop()
    }
    return { ...listening, stop }
  }

  async #do<Result> (name: keyof Broker, call: () => Promise<Result>): Promise<Result> {
    this.calls[name]++
    const error = this.failing[name]
    if (error !== undefined) throw error
    return call()
  }
}

function createCountingHub (t: Test) {
  const broker = new CountingBroker()
  const hub = createHub({ broker })
  t.after(() => hub.close())
  return { broker, hub }
}

t.test('a channel is published to and read without any HTTP', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  const iterator = channel.subscribe()[Symbol.asyncIterator]()
  const next = iterator.next()
  const id = await channel.publish({ event: 'e', data: { n: 1 } })
  t.same(await next, { done: false, value: { event: 'e', data: { n: 1 }, id } })
  await channel.close()
  t.same(await iterator.next(), { done: true, value: undefined })
  t.same(await iterator.next(), { done: true, value: undefined })
})

t.test('what is published right after the first next() is read, by the first reader and by later ones', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  for (const reader of [1, 2, 3]) {
    const iterator = channel.subscribe()[Symbol.asyncIterator]()
    const next = iterator.next()
    const id = await channel.publish({ data: reader })
    t.same((await next).value, { event: 'message', data: reader, id }, `reader ${reader}`)
  }
})

t.test('a subscription reads nothing before it is iterated, and each iteration begins anew', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const channel = hub.channel('a')
  const subscription = channel.subscribe({ after: 'earliest' })
  const iterator = subscription[Symbol.asyncIterator]()
  await turns()
  t.equal(broker.calls.listen, 0)
  await channel.publish({ data: 1 })
  t.equal((await iterator.next()).value!.data, 1)
  t.equal((await subscription[Symbol.asyncIterator]().next()).value!.data, 1)
  t.equal(broker.calls.listen, 1, 'readers in one process share what comes from the broker')
})

t.test('after an ID, from the earliest, and from now on', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  const ids: string[] = []
  for (const data of [1, 2, 3]) ids.push(await channel.publish({ data }))
  const readers = [
    { after: ids[1]! }, { after: 'earliest' }, {}, { after: undefined }, { after: ids[2]! }, { after: '0-0' }, { after: 'nonsense' }
  ].map((options) => readOn(channel.subscribe(options)))
  await turns()
  await channel.publish({ data: 4 })
  await channel.close()
  await Promise.all(readers.map(({ ended }) => ended))
  const gap = { requested: 'nonsense', earliest: ids[0] }
  t.same(readers.map(({ seen }) => dataOf(seen)), [[3, 4], [1, 2, 3, 4], [4], [4], [4], [1, 2, 3, 4], [gap, 1, 2, 3, 4]])
})

t.test('a filter leaves out what was and what comes', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  await Promise.all([1, 2, 3].map((data) => channel.publish({ data })))
  const { seen, ended } = readOn(channel.subscribe({ after: 'earliest', filter: ({ data }) => (data as number) % 2 }))
  await turns()
  await Promise.all([4, 5].map((data) => channel.publish({ data })))
  await channel.close()
  await ended
  t.same(dataOf(seen), [1, 3, 5])
})

t.test('a filter that throws fails its own reader, and no other', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const channel = hub.channel('a')
  const error = new Error('in the filter')
  const failing = readOn(channel.subscribe({ filter () { throw error } }))
  const other = readOn(channel.subscribe())
  await turns()
  await channel.publish({ data: 1 })
  await t.rejects(failing.ended, error)
  await turns()
  t.same(dataOf(other.seen), [1])
  await channel.publish({ data: 2 })
  await until(() => other.seen.length === 2)
  t.equal(broker.listeners, 1)
})

t.test('a signal ends the reading, before it, while it waits, and from within its own filter', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const channel = hub.channel('a')
  const aborted = channel.subscribe({ signal: AbortSignal.abort() })[Symbol.asyncIterator]()
  t.same(await aborted.next(), { done: true, value: undefined })
  t.equal(broker.calls.listen, 0)

  const controller = new AbortController()
  const waiting = readOn(channel.subscribe({ signal: controller.signal }))
  await turns()
  t.equal(broker.listeners, 1)
  controller.abort()
  await waiting.ended
  t.equal(broker.listeners, 0)

  const own = new AbortController()
  const filtered = readOn(channel.subscribe({
    signal: own.signal,
    filter ({ data }) {
      if (data === 2) own.abort()
      return true
    }
  }))
  await turns()
  for (const data of [1, 2, 3]) await channel.publish({ data })
  await filtered.ended
  t.ok(filtered.seen.length <= 1, 'nothing after the end')
  t.equal(broker.listeners, 0)
})

t.test('a filter may publish to the channel that it reads', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  const { seen } = readOn(channel.subscribe({
    filter ({ data }) {
      if (data === 1) channel.publish({ data: 2 })
      return true
    }
  }))
  await turns()
  await channel.publish({ data: 1 })
  await until(() => seen.length === 2)
  t.same(dataOf(seen), [1, 2])
})

t.test('break lets go of everything: nobody is called any more, and the signal holds nothing of the reading', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const channels = ['a', 'b', 'c'].map((name) => hub.channel(name))
  const controller = new AbortController()
  const { signal } = controller
  const filters: WeakRef<object>[] = []
  let calls = 0
  const subscribeOne = (options: SubscribeOptions) => channels[0]!.subscribe(options)
  const subscribeAll = (options: SubscribeOptions) => hub.subscribe(channels, options)
  const readOne = async (subscribe: typeof subscribeOne | typeof subscribeAll) => {
    const filter = () => { calls++; return true }
    filters.push(new WeakRef(filter))
    const ids: unknown[] = []
    for await (const { id } of subscribe({ signal, filter })) {
      ids.push(id)
      if (ids.length > 0) break
    }
    return ids
  }
  for (const subscribe of [subscribeOne, subscribeAll]) {
    const reading = readOne(subscribe)
    await turns()
    t.ok(broker.listeners > 0)
    await channels[0]!.publish({ data: 1 })
    t.equal((await reading).length, 1)
    t.equal(broker.listeners, 0)
  }
  t.equal(calls, 2)
  await channels[0]!.publish({ data: 2 })
  await turns()
  t.equal(calls, 2, 'no filter is asked any more')
  await until(() => {
    gc()
    return filters.every((filter) => filter.deref() === undefined)
  }, () => 'the readings to be let go of, as long as the signal is there')
  const asked = { ...broker.calls }
  controller.abort()
  await turns()
  t.same([broker.calls, broker.listeners, calls], [asked, 0, 2], 'aborting later does nothing')
})

t.test('one signal can end any number of readings, and Node takes that for no leak', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const warnings: Error[] = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.after(() => process.off('warning', onWarning))
  const channels = ['a', 'b'].map((name) => hub.channel(name))
  const controller = new AbortController()
  const { signal } = controller
  const readers = Array.from({ length: 50 }, (_, n) => {
    return readOn(n % 2 === 0 ? channels[0]!.subscribe({ signal }) : hub.subscribe(channels, { signal }))
  })
  const other = readOn(channels[0]!.subscribe())
  await turns()
  await channels[0]!.publish({ data: 1 })
  await until(() => readers.every(({ seen }) => seen.length === 1))
  controller.abort()
  await Promise.all(readers.map(({ ended }) => ended))
  t.equal(broker.listeners, 1, 'that of the other')
  await channels[0]!.publish({ data: 2 })
  await until(() => other.seen.length === 2)
  t.ok(readers.every(({ seen }) => seen.length === 1))
  t.same(warnings, [])
})

t.test('break before the broker has answered lets go of it when it has', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const iterator = hub.channel('a').subscribe()[Symbol.asyncIterator]()
  const next = iterator.next()
  await iterator.return!()
  t.same(await next, { done: true, value: undefined })
  await turns()
  t.equal(broker.calls.listen, 1)
  t.equal(broker.listeners, 0)
})

t.test('return() never waits behind a next() that is pending, and settles it', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const iterator = hub.channel('a').subscribe()[Symbol.asyncIterator]()
  const pending = [iterator.next(), iterator.next()]
  await turns()
  t.same(await iterator.return!(), { done: true, value: undefined })
  t.same(await Promise.all(pending), [{ done: true, value: undefined }, { done: true, value: undefined }])
  t.same(await iterator.next(), { done: true, value: undefined })
  t.equal(broker.listeners, 0)
  const unused = hub.channel('a').subscribe()[Symbol.asyncIterator]()
  await unused.return!()
  t.same(await unused.next(), { done: true, value: undefined }, 'returned before it has begun')
  t.equal(broker.calls.listen, 1)
})

t.test('several next() at once are served in their order', async (t) => {
  const hub = createHub()
  const channel = hub.channel('a')
  const iterator = channel.subscribe()[Symbol.asyncIterator]()
  const steps = Array.from({ length: 5 }, () => iterator.next())
  await turns()
  for (const data of [1, 2, 3]) await channel.publish({ data })
  await channel.close()
  const results = await Promise.all(steps)
  t.same(results.map(({ value }) => value?.data), [1, 2, 3, undefined, undefined])
  t.same(results.map(({ done }) => done), [false, false, false, true, true])
})

t.test('a reading of several channels ends when the last of them is closed, also right after its last event', async (t) => {
  const app = await createApp(t)
  const names = ['a', 'b', 'c']
  const subscription = app.sse.subscribe(names.map((name) => app.sse.channel(name)))
  app.get('/', async (request, reply) => reply.sse(subscription))
  const client = connect(t, await listen(app)).get('/')
  await client.until('\r\n\r\n')
  const { seen, ended } = readOn(subscription)
  await turns()
  for (const name of names) {
    await app.sse.channel(name).publish({ data: name })
    await app.sse.channel(name).close()
  }
  await turns(50)
  t.same(dataOf(seen), names)
  t.equal(await Promise.race([ended.then(() => 'ended'), turns(50)]), 'ended')
  t.match(client.body, /data: "c"\n\nid: fastify-typed-sse:finished\n\n$/)
  t.equal(app.sse.stats().closed['source-done'], 1)
})

t.test('hub.close() ends iterations and runs, and leaves what is retained to the broker', async (t) => {
  const broker = new CountingBroker()
  const hub = createHub({ broker })
  const channel = hub.channel('a')
  const readers = [readOn(channel.subscribe()), readOn(hub.subscribe([channel, hub.channel('b')])), readOn(hub.channel('c').subscribe())]
  const { state, source } = idleSource({ data: 1 })
  const run = hub.run('key', source)
  await turns()
  await channel.publish({ data: 1 })
  await until(() => readers[1]!.seen.length === 1)
  await hub.close()
  await Promise.all(readers.map(({ ended }) => ended))
  t.same(await run.ended, { state: 'stopped' })
  t.equal(state.aborted, true)
  t.equal(broker.listeners, 0)
  t.equal(broker.calls.close, 1, 'no channel is closed but that of the run')
  const other = createHub({ broker })
  t.same((await other.channel('a').subscribe({ after: 'earliest' })[Symbol.asyncIterator]().next()).value!.data, 1)
  await hub.close()
})

t.test('two hubs on one broker see each other\'s events, in the same order', async (t) => {
  const broker = memoryBroker()
  const here = createHub({ broker })
  const there = createHub({ broker })
  const app = await createApp(t, { broker })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('a')))
  const client = connect(t, await listen(app)).get('/')
  await client.until('\r\n\r\n')
  const readers = [here, there].map((hub) => readOn(hub.channel('a').subscribe()))
  await turns()
  for (let n = 0; n < 10; n++) await (n % 2 === 0 ? here : there).channel('a').publish({ data: n })
  await there.channel('a').close()
  for (const { seen, ended } of readers) {
    await ended
    t.same(dataOf(seen), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  }
  t.same(readers[0]!.seen, readers[1]!.seen)
  await client.until('fastify-typed-sse:finished')
  t.same(client.body.match(/(?<=data: )\d/g), dataOf(readers[0]!.seen).map(String))
  await t.rejects(here.channel('a').publish({ data: 1 }), { code: 'FST_SSE_CHANNEL_CLOSED' })
})

t.test('what a broker rejects with reaches who has asked for it; who asks again gets a new try', async (t) => {
  const { broker, hub } = createCountingHub(t)
  const channel = hub.channel('a')
  await channel.publish({ data: 0 })
  const error = new Error('the broker is away')

  broker.failing = { append: error, close: error }
  await t.rejects(channel.publish({ data: 1 }), error)
  await t.rejects(channel.close(), error)

  broker.failing = { listen: error }
  const both = [channel, hub.subscribe([channel, hub.channel('b')])]
  for (const readable of both) {
    const iterator = ('subscribe' in readable ? readable.subscribe() : readable)[Symbol.asyncIterator]()
    await t.rejects(iterator.next(), error)
    t.same(await iterator.next(), { done: true, value: undefined })
  }

  broker.failing = { read: error }
  await t.rejects(channel.subscribe({ after: 'earliest' })[Symbol.asyncIterator]().next(), error)
  t.equal(broker.listeners, 0, 'nothing of a failed reading is left')

  broker.failing = {}
  await channel.publish({ data: 2 })
  const { seen, ended } = readOn(channel.subscribe({ after: 'earliest' }))
  await channel.close()
  await ended
  t.same(dataOf(seen), [0, 2])
})

t.test('over HTTP a broker that fails is answered by Fastify\'s error handler, then with a stream again', async (t) => {
  const broker = new CountingBroker()
  const app = await createApp(t, { broker })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('a')))
  broker.failing = { listen: Object.assign(new Error('away'), { statusCode: 503 }) }
  const response = await app.inject('/')
  t.equal(response.statusCode, 503)
  broker.failing = {}
  await app.sse.channel('a').publish({ data: 1 })
  await app.sse.channel('a').close()
  t.match((await app.inject({ url: '/', headers: { 'last-event-id': '0-0' } })).body, 'data: 1\n\n')
  t.equal(broker.listeners, 0)
})

t.test('a run whose broker fails has failed, and its source is let go of', async (t) => {
  const broker = new CountingBroker()
  const errors: unknown[] = []
  const hub = createHub({ broker, onError: (error) => errors.push(error) })
  const error = new Error('away')
  broker.failing = { append: error }
  const { state, source } = idleSource({ data: 1 })
  const run = hub.run('append', source)
  t.same(await run.ended, { state: 'failed', error })
  await until(() => state.finished)
  broker.failing = { open: error }
  let called = 0
  t.same(await hub.run('open', () => { called++; return [] }).ended, { state: 'failed', error })
  t.equal(called, 0)
  broker.failing = { close: error }
  t.same(await hub.run('close', [], { lease: 100 }).ended, { state: 'done' })
  t.equal(errors.length, 3)
})

t.test('a run that could not be opened closes nothing, as it may be another\'s', async (t) => {
  const broker = new CountingBroker()
  const here = createHub({ broker })
  const there = createHub({ broker, onError () {} })
  const { source } = idleSource({ data: 1 })
  const run = here.run('key', source)
  await turns()
  broker.failing = { open: new Error('timed out') }
  const other = there.run('key', [], { onEnd: () => ({ data: 'failed' }) })
  t.match(await other.ended, { state: 'failed' })
  t.equal(broker.calls.close, 0)
  t.equal(broker.calls.append, 1, 'nor records anything')
  await run.stop()
})

/** A broker of which a test can make readers miss entries: while it is away they are stored, but nobody is told. */
class LossyBroker extends CountingBroker {
  away = false
  readonly #listeners: Listener[] = []

  constructor () {
    super()
    this.pass = (listener) => {
      this.#listeners.push(listener)
      return {
        entry: (entry) => { if (!this.away) listener.entry(entry) },
        closed: () => listener.closed(),
        failed: (error) => listener.failed(error),
        lost: (position) => listener.lost(position)
      }
    }
  }

  back (position: string): void {
    this.away = false
    for (const listener of this.#listeners) listener.lost(position)
  }
}

t.test('a broker that had lost its way: readers read back what they miss, in order, each once', async (t) => {
  const broker = new LossyBroker()
  const hub = createHub({ broker })
  const channel = hub.channel('a')
  await channel.publish({ data: 0 })
  const readers = [readOn(channel.subscribe()), readOn(hub.subscribe([channel, hub.channel('b')])), readOn(channel.subscribe({ after: 'earliest' }))]
  await turns()
  await channel.publish({ data: 1 })
  await turns()
  broker.away = true
  let position = ''
  for (let data = 2; data < 600; data++) position = await channel.publish({ data })
  await turns()
  broker.back(position)
  await channel.publish({ data: 600 })
  await until(() => readers.every(({ seen }) => seen.at(-1)?.data === 600))
  const expected = Array.from({ length: 601 }, (_, index) => index)
  t.same(readers.map(({ seen }) => dataOf(seen)), [expected.slice(1), expected.slice(1), expected])
  await channel.publish({ data: 601 })
  await until(() => readers.every(({ seen }) => seen.at(-1)?.data === 601))
})

t.test('what was lost and is no longer retained is told as a gap, or ends the reading, as the channel wants it', async (t) => {
  const broker = new LossyBroker()
  const hub = createHub({ broker })
  const gap = hub.channel('gap', { history: { events: 3 }, onLag: 'gap' })
  const disconnect = hub.channel('disconnect', { history: { events: 3 } })
  const readers = [gap, disconnect].map((channel) => readOn(channel.subscribe()))
  await turns()
  for (const channel of [gap, disconnect]) await channel.publish({ data: 0 })
  await turns()
  broker.away = true
  let position = ''
  for (let data = 1; data < 10; data++) {
    for (const channel of [gap, disconnect]) position = await channel.publish({ data })
  }
  broker.back(position)
  await t.rejects(readers[1]!.ended, { code: 'FST_SSE_LAGGED' })
  await until(() => readers[0]!.seen.length === 5)
  t.same(readers[0]!.seen.map(({ event, data }) => event === 'gap' ? 'gap' : data), [0, 'gap', 7, 8, 9])
})

t.test('a broker that had lost its way, but nothing of it, is not asked again and again', async (t) => {
  const broker = new LossyBroker()
  const hub = createHub({ broker })
  const channel = hub.channel('a')
  const { seen } = readOn(channel.subscribe())
  await turns()
  const [ms, count] = (await channel.publish({ data: 1 })).split('-')
  await turns()
  // A position that is after the last entry, as a broker may name one.
  broker.back(`${ms}-${Number(count) + 1}`)
  await turns(50)
  t.ok(broker.calls.read <= 2, `${broker.calls.read} reads`)
  await channel.publish({ data: 2 })
  await until(() => seen.length === 2)
  t.same(dataOf(seen), [1, 2])
})

t.test('entries that come before listen has settled are not lost, and come once', async (t) => {
  const inner = memoryBroker()
  const settle = deferred()
  const broker = brokerWith(inner, {
    async listen (channel, listener) {
      const listening = await inner.listen(channel, listener)
      await settle.promise
      return listening
    }
  })
  const hub = createHub({ broker })
  const channel = hub.channel('a')
  await channel.publish({ data: 0 })
  const readers = [readOn(channel.subscribe()), readOn(channel.subscribe({ after: 'earliest' })), readOn(hub.subscribe([channel, hub.channel('b')]))]
  await turns()
  await channel.publish({ data: 1 })
  await channel.publish({ data: 2 })
  await turns()
  settle.resolve()
  await until(() => readers.every(({ seen }) => seen.at(-1)?.data === 2))
  await channel.publish({ data: 3 })
  await turns()
  await hub.channel('b').close()
  await channel.close()
  await Promise.all(readers.map(({ ended }) => ended))
  t.same(readers.map(({ seen }) => dataOf(seen)), [[1, 2, 3], [0, 1, 2, 3], [1, 2, 3]])
})

t.test('a channel that is closed before listen has settled ends its readers', async (t) => {
  const settle = deferred()
  let told!: Listener
  const broker = {
    ...memoryBroker(),
    read: async (_: string, after: string | undefined) => ({ after: after ?? '5-5', ...noPage }),
    async listen (_: string, listener: Listener) {
      told = listener
      await settle.promise
      return { position: '5-5', closed: false, known: true, stop () {} }
    },
    open: async () => true,
    append: async () => '5-6',
    close: async () => {}
  } satisfies Broker
  const { seen, ended } = readOn(createHub({ broker }).channel('a').subscribe())
  await turns()
  told.entry({ id: '5-6', message: { event: '', data: '1' } })
  told.closed()
  settle.resolve()
  await ended
  t.same(seen, [{ event: 'message', data: 1, id: '5-6' }])
})

t.test('a key function that throws is told to onError, and its events are delivered all the same', async (t) => {
  const errors: [unknown, string][] = []
  const hub = createHub({ onError: (error, message) => errors.push([error, message]) })
  const error = new Error('in the key')
  const channel = hub.channel('a', { onLag: 'latest', key () { throw error } })
  const { seen } = readOn(channel.subscribe())
  await turns()
  await channel.publish({ data: 1 })
  await until(() => seen.length === 1)
  t.same(errors, [[error, "the key function of channel 'a' has failed"]])
})

t.test('without onError what nobody waits for becomes a warning of the process', async (t) => {
  const warnings: Error[] = []
  const note = (warning: Error) => { warnings.push(warning) }
  process.on('warning', note)
  t.after(() => process.off('warning', note))
  const hub = createHub()
  await hub.run('key', () => { throw new Error('at once') }).ended
  await until(() => warnings.length > 0)
  t.match(warnings[0]!.message, /fastify-typed-sse: run 'key' has failed: Error: at once/)
})

t.test('an onError that throws harms nobody', async (t) => {
  const hub = createHub({ onError () { throw new Error('in onError') } })
  const run = hub.run('key', () => { throw new Error('at once') })
  t.match(await Promise.race([run.ended, turns(200)]), { state: 'failed', error: { message: 'at once' } })
  const channel = hub.channel('a', { onLag: 'latest', key () { throw new Error('in the key') } })
  const { seen } = readOn(channel.subscribe())
  await turns()
  await t.resolves(channel.publish({ data: 1 }))
  await turns()
  t.same(dataOf(seen), [1])
})

t.test('options of a hub, and lists of channels, that are wrong', async (t) => {
  const code = 'FST_SSE_INVALID_OPTION'
  for (const options of [null, 5, { broker: {} }, { broker: null }, { onError: true }, { brokers: memoryBroker() }]) {
    t.throws(() => createHub(options as never), { code }, JSON.stringify(options))
  }
  const { broker, hub } = createCountingHub(t)
  const a = hub.channel('a')
  for (const channels of [undefined, [], a, ['a'], [a, null], [a, a], [a.subscribe()], [hub.run.attach('key')]]) {
    t.throws(() => hub.subscribe(channels as never), { code }, String(channels))
  }
  const many = Array.from({ length: 100 }, (_, index) => hub.channel(`many ${index}`))
  t.throws(() => hub.subscribe(many), { code: 'FST_SSE_TOO_MANY_CHANNELS' })
  for (const options of [null, 5, { after: 5 }, { filter: 5 }, { signal: 5 }, { before: '' }]) {
    t.throws(() => hub.subscribe([a], options as never), { code }, JSON.stringify(options))
  }
  t.equal(broker.calls.listen, 0)
})
