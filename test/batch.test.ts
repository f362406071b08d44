/** `batch`: nothing lost, nothing doubled, nothing late; a source is read no further than it has to be, and let go of at once. */
import fc from 'fast-check'
import { EventEmitter, on } from 'node:events'
import { PassThrough, Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import t from 'tap'
import { batch, type BatchOptions } from '../lib/batch.ts'
import { connect, createApp, deferred, listen, ownClock, readAll, turns, until } from './helpers.ts'

type Result = IteratorResult<number>

/** A source that a test drives: it sees each `next()`, and answers when it likes. */
class Driven implements AsyncIterableIterator<number> {
  asked = 0
  returned = 0
  #pending: ReturnType<typeof deferred<Result>> | undefined

  next (): Promise<Result> {
    if (this.#pending !== undefined) throw new Error('next() while another is pending')
    this.asked++
    this.#pending = deferred<Result>()
    return this.#pending.promise
  }

  async return (): Promise<Result> {
    this.returned++
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator] () { return this }

  async give (...items: number[]): Promise<void> {
    for (const value of items) await this.#settle(({ resolve }) => resolve({ done: false, value }))
  }

  end = () => this.#settle(({ resolve }) => resolve({ done: true, value: undefined }))
  fail = (error: Error) => this.#settle(({ reject }) => reject(error))

  async #settle (how: (pending: ReturnType<typeof deferred<Result>>) => void): Promise<void> {
    const pending = this.#pending!
    this.#pending = undefined
    how(pending)
    await turns(1)
  }
}

/** What a promise has come to so far. */
function watch<T> (promise: Promise<T>) {
  const seen: { value?: T, error?: unknown } = {}
  promise.then((value) => { seen.value = value }, (error: unknown) => { seen.error = error })
  return seen
}

const given = (value: number[]) => ({ value: { done: false, value } })
const DONE = { value: { done: true, value: undefined } }

t.test('a batch is full at its count; what is left comes last; none is empty', async (t) => {
  t.same(await readAll(batch([1, 2, 3, 4, 5], { count: 2 })), [[1, 2], [3, 4], [5]])
  t.same(await readAll(batch([1, 2, 3, 4], { count: 2 })), [[1, 2], [3, 4]])
  t.same(await readAll(batch([1, 2], { count: 1 })), [[1], [2]])
  t.same(await readAll(batch([1, 2, 3], { count: 10, ms: 60_000 })), [[1, 2, 3]], 'the end does not wait for the time')
  t.same(await readAll(batch([1, 2, 3], { ms: 60_000 })), [[1, 2, 3]])
  t.same(await readAll(batch([], { count: 2 })), [])
  t.same(await readAll(batch([undefined, null], { count: 2, ms: undefined })), [[undefined, null]])
})

t.test('any iterable or stream will do', async (t) => {
  const through = new PassThrough({ objectMode: true })
  through.write(1)
  through.end(2)
  const web = () => new ReadableStream<number>({
    start (controller) { for (const n of [1, 2]) controller.enqueue(n); controller.close() }
  })
  const sources: Record<string, AsyncIterable<number> | Iterable<number | Promise<number>>> = {
    'a set': new Set([1, 2]),
    'a generator': (function * () { yield 1; yield 2 })(),
    'an async generator': (async function * () { yield 1; yield 2 })(),
    'an iterable of promises': [Promise.resolve(1), 2],
    'a Node stream': Readable.from([1, 2]),
    'a Node duplex': through,
    'a web stream': web(),
    'batches, flattened': (async function * () { for await (const all of batch([1, 2], { count: 1 })) yield * all })()
  }
  for (const [kind, source] of Object.entries(sources)) t.same(await readAll(batch(source, { count: 5 })), [[1, 2]], kind)
})

t.test('wrong options and sources are refused by the call', async (t) => {
  const code = 'FST_SSE_INVALID_OPTION'
  const wrong: [unknown, RegExp][] = [
    [{}, /batch needs 'count', 'ms' or both/], [{ count: undefined }, /needs/], [undefined, /must be an object/],
    [{ count: 0 }, /'count' of batch must be an integer >= 1, got the number 0/], [{ count: 1.5 }, /count/], [{ count: Infinity }, /count/],
    [{ ms: 0 }, /'ms' of batch/], [{ ms: 2 ** 31 }, /2147483647/], [{ ms: '5' }, /ms/], [{ count: 1, size: 2 }, /no option 'size'/]
  ]
  for (const [options, message] of wrong) t.throws(() => batch([1], options as BatchOptions), { code, message })
  const locked = new ReadableStream()
  locked.getReader()
  const sources = ['text', 5, null, undefined, {}, Promise.resolve([1]), async function * () {}, locked]
  for (const source of sources) t.throws(() => batch(source as [], { count: 1 }), { code: 'FST_SSE_INVALID_SOURCE' })
})

t.test('a batch is due so many milliseconds after its first item', async (t) => {
  const clock = ownClock(t)
  const source = new Driven()
  const batches = batch(source, { count: 3, ms: 100 })
  t.equal(source.asked, 0, 'nothing is asked for before the first next()')
  const first = watch(batches.next())
  clock.tick(1_000)
  await source.give(1)
  clock.tick(60)
  await source.give(2)
  clock.tick(39)
  await turns(1)
  t.same(first, {}, 'not yet')
  clock.tick(1)
  await turns(1)
  t.same(first, given([1, 2]))
  const second = watch(batches.next())
  clock.tick(1_000)
  await turns(1)
  t.same(second, {}, 'no empty batch')
  await source.give(3, 4, 5)
  t.same(second, given([3, 4, 5]), 'full before its time')
  t.equal(clock.countTimers(), 0)
  await source.give(6)
  const last = watch(batches.next())
  await source.end()
  t.same(last, given([6]))
  t.equal(clock.countTimers(), 0)
  t.same(await batches.next(), DONE.value)
})

t.test('no more is asked for than one batch while nobody wants it', async (t) => {
  const source = new Driven()
  const batches = batch(source, { count: 3 })
  const first = watch(batches.next())
  await source.give(1, 2, 3)
  t.same(first, given([1, 2, 3]))
  await source.give(4, 5, 6)
  await turns()
  t.equal(source.asked, 6, 'a full batch waits')
  const second = watch(batches.next())
  await turns(1)
  t.same(second, given([4, 5, 6]))
  t.equal(source.asked, 7)
})

t.test('without a count it reads on until the time is up; what comes late is in the same batch', async (t) => {
  const clock = ownClock(t)
  const source = new Driven()
  const batches = batch(source, { ms: 100 })
  const first = watch(batches.next())
  await source.give(1)
  clock.tick(100)
  await turns(1)
  t.same(first, given([1]))
  await source.give(2, 3)
  clock.tick(100)
  await source.give(4)
  await turns()
  t.equal(source.asked, 4, 'due, and nobody asks')
  t.same(await batches.next(), given([2, 3, 4]).value)
  t.equal(source.asked, 5)
  t.equal(clock.countTimers(), 0, 'no item, no timer')
})

t.test('a failure comes after what was gathered before it, and once', async (t) => {
  const failure = new Error('broken')
  for (const asksFirst of [true, false]) {
    const source = new Driven()
    const batches = batch(source, { count: 2, ms: 60_000 })
    const results = [watch(batches.next())]
    await source.give(1, 2, 3)
    if (asksFirst) results.push(watch(batches.next()), watch(batches.next()), watch(batches.next()))
    await source.fail(failure)
    if (!asksFirst) results.push(watch(batches.next()), watch(batches.next()), watch(batches.next()))
    await turns(1)
    t.strictSame(results, [given([1, 2]), given([3]), { error: failure }, DONE])
    t.equal(source.returned, 0, 'it has ended by itself')
  }
  const throwing = (function * () { yield 1; throw failure })()
  const batches = batch(throwing as Iterable<number>, { count: 5 })
  t.same(await batches.next(), given([1]).value)
  await t.rejects(batches.next(), failure)
  const odd = { [Symbol.asyncIterator]: () => ({ next: async () => undefined }) } as unknown as AsyncIterable<number>
  await t.rejects(batch(odd, { count: 1 }).next(), TypeError)
})

t.test('return() reaches the source at once, whatever it waits for', async (t) => {
  const clock = ownClock(t)
  const source = new Driven()
  const batches = batch(source, { count: 2, ms: 100 })
  const pending = [watch(batches.next()), watch(batches.next())]
  await source.give(1)
  t.equal(clock.countTimers(), 1)
  const returned = batches.return!()
  t.equal(source.returned, 1)
  t.equal(clock.countTimers(), 0)
  t.same(await returned, DONE.value)
  t.same(pending, [DONE, DONE], 'those that wait are told that this is the end')
  await source.give(2)
  t.same(await batches.next(), DONE.value)
  t.same(await batches.return!(), DONE.value)
  t.equal(source.returned, 1, 'it is told once')
  t.equal(source.asked, 2)
})

t.test('throw() does the same, and rejects; nothing runs of a source that was never asked', async (t) => {
  const source = new Driven()
  const batches = batch(source, { count: 2 })
  const pending = watch(batches.next())
  await t.rejects(batches.throw!(new Error('mine')), { message: 'mine' })
  t.equal(source.returned, 1)
  t.same(pending, DONE)

  let started = false
  const unread = batch((function * () { started = true; yield 1 })(), { count: 1 })
  await unread.return!()
  t.same(await unread.next(), DONE.value)
  t.notOk(started)
  const stream = new PassThrough({ objectMode: true })
  await batch(stream, { count: 1 }).return!()
  t.ok(stream.destroyed)
})

t.test('break lets go of it, and of what was gathered after a failure', async (t) => {
  let finished = 0
  const source = async function * () { try { for (let n = 0; ; n++) yield n } finally { finished++ } }
  const seen: number[][] = []
  for await (const all of batch(source(), { count: 3 })) if (seen.push(all) === 2) break
  t.same(seen, [[0, 1, 2], [3, 4, 5]])
  await until(() => finished === 1)
  const failing = batch((function * () { yield 1; yield 2; throw new Error('never seen') })(), { count: 1 })
  await failing.next()
  await turns(1)
  await failing.return!()
  t.same(await failing.next(), DONE.value)
})

t.test('a synchronous source that stops its own batches is ended', async (t) => {
  let finished = false
  const source = function * () { try { yield 1; batches.return!(); yield 2 } finally { finished = true } }
  const batches: AsyncIterableIterator<number[]> = batch(source(), { count: 5 })
  t.same(await batches.next(), DONE.value)
  t.ok(finished)
})

t.test('concurrent calls are answered in order', async (t) => {
  const batches = batch([1, 2, 3, 4, 5], { count: 2 })
  const results = await Promise.all(Array.from({ length: 5 }, () => batches.next()))
  t.same(results.map(({ value }) => value), [[1, 2], [3, 4], [5], undefined, undefined])
})

t.test('a source that is always ready does not starve the event loop', async (t) => {
  const endless: Record<string, () => AsyncIterable<number> | Iterable<number>> = {
    synchronous: function * () { for (let n = 0; ; n++) yield n },
    asynchronous: async function * () { for (let n = 0; ; n++) yield n }
  }
  const sizes: BatchOptions[] = [{ count: 1 }, { count: 1_000 }, { ms: 5 }]
  for (const [kind, source] of Object.entries(endless)) {
    for (const options of sizes) {
      let stopped = false
      setTimeout(() => { stopped = true }, 20)
      let next = 0
      for await (const all of batch(source(), options)) {
        for (const n of all) if (n !== next++) t.fail(`${n} is not the next`)
        if (stopped) break
      }
      t.ok(stopped, `${kind}, ${JSON.stringify(options)}`)
    }
  }
})

t.test('while a batch is being gathered the process is kept alive, and no longer', async (t) => {
  // Only those that keep it alive.
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const before = timers()
  const source = new Driven()
  const batches = batch(source, { ms: 60_000 })
  watch(batches.next())
  t.equal(timers(), before)
  await source.give(1)
  t.equal(timers(), before + 1)
  await batches.return!()
  t.equal(timers(), before)
})

/** Random items, and what a random reader does meanwhile. */
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ does: fc.constant('give' as const) }) },
  { weight: 3, arbitrary: fc.record({ does: fc.constant('ask' as const) }) },
  { weight: 2, arbitrary: fc.record({ does: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 15 }) }) }
)

t.test('the batches, joined, are the source, however it is pulled', async (t) => {
  const clock = ownClock(t)
  const count = fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined })
  const options = fc.record({ count, ms: fc.integer({ min: 1, max: 20 }) })
  await fc.assert(fc.asyncProperty(options, fc.array(step, { maxLength: 40 }), fc.boolean(), async (options, steps, fails) => {
    const source = new Driven()
    const batches = batch(source, options)
    const results: Promise<IteratorResult<number[]>>[] = []
    const ask = () => {
      const result = batches.next()
      watch(result)
      results.push(result)
    }
    ask()
    let given = 0
    let answered = 0
    const isAsking = () => source.asked > answered
    for (const each of steps) {
      if (each.does === 'ask') ask()
      else if (each.does === 'wait') clock.tick(each.ms)
      else if (isAsking()) { answered++; await source.give(given++) }
      await turns(1)
    }
    while (!isAsking()) { ask(); await turns(1) }
    await (fails ? source.fail(new Error('end')) : source.end())
    for (let more = 0; more < given + 2; more++) ask()
    const settled = await Promise.allSettled(results)
    const rejected = settled.findIndex(({ status }) => status === 'rejected')
    const values = settled.flatMap((each) => each.status === 'fulfilled' && each.value.done !== true ? [each.value.value] : [])
    t.same(values.flat(), Array.from({ length: given }, (_, n) => n), 'all, once, in order')
    t.ok(values.every(({ length }) => length > 0 && length <= (options.count ?? Infinity)), 'of the right size')
    t.equal(rejected, fails ? values.length : -1, 'the failure comes last')
    t.equal(clock.countTimers(), 0)
  }), { numRuns: 150 })
})

t.test('a batch is one event of a stream, and a client that leaves stops the source', async (t) => {
  const app = await createApp(t)
  const prices = new EventEmitter()
  async function * read (signal: AbortSignal) {
    for await (const [price] of on(prices, 'price', { signal })) yield price as number
  }
  app.get('/prices', async (request, reply) => reply.sse(async function * ({ signal }) {
    for await (const prices of batch(read(signal), { count: 3, ms: 20 })) yield { event: 'prices', data: prices }
  }))
  const port = await listen(app)
  for (const unsent of [false, true]) {
    const client = connect(t, port).get('/prices')
    await until(() => prices.listenerCount('price') === 1)
    for (const price of [1, 2, 3, 4]) prices.emit('price', price)
    await client.until('event: prices\ndata: [1,2,3]\n\n')
    await client.until('event: prices\ndata: [4]\n\n')
    if (unsent) prices.emit('price', 5)
    client.destroy()
    await until(() => prices.listenerCount('price') === 0)
    await until(() => app.sse.stats().open === 0)
  }
  t.match(app.sse.stats(), { opened: 2, events: 4, closed: { 'client-gone': 2 } })
})

t.test('a source that knows of no signal is stopped when its next batch is due', async (t) => {
  const app = await createApp(t)
  const source = new Driven()
  const prices = async function * () {
    for await (const prices of batch(source, { count: 3, ms: 20 })) yield { event: 'prices', data: prices }
  }
  app.get('/prices', async (request, reply) => reply.sse(prices()))
  const client = connect(t, await listen(app)).get('/prices')
  await until(() => source.asked === 1)
  await source.give(1)
  await client.until('event: prices\ndata: [1]\n\n')
  client.destroy()
  await until(() => app.sse.stats().open === 0)
  t.equal(source.returned, 0, 'the generator waits in `for await`, and its return() behind that')
  await source.give(2)
  await until(() => source.returned === 1)
})
