/** Whatever can be a source of events is pulled, and let go of at once; whatever cannot is refused with the right call. */
import { once } from 'node:events'
import { PassThrough, Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import t, { type Test } from 'tap'
import { batch, createHub } from '../index.ts'
import { openSource, type SseContext, type Source } from '../lib/source.ts'
import { connect, createApp, deferred, listen, until } from './helpers.ts'

const open = (source: unknown, lastEventId?: string): Source => openSource(source, lastEventId)

async function values (source: Source): Promise<unknown[]> {
  const all: unknown[] = []
  for (let step = await source.next(); step.done !== true; step = await source.next()) all.push(step.value)
  return all
}

function webStream (...chunks: unknown[]): ReadableStream {
  return new ReadableStream({
    start (controller) {
      for (const chunk of chunks) controller.enqueue(chunk)
      controller.close()
    }
  })
}

const ONE = { data: 1 }
const TWO = { data: 2 }

/** Every kind of source, giving ONE and TWO. */
const KINDS: Record<string, () => unknown> = {
  'an array': () => [ONE, TWO],
  'a set': () => new Set([ONE, TWO]),
  'a generator': () => (function * () { yield ONE; yield TWO })(),
  'an async generator': () => (async function * () { yield ONE; yield TWO })(),
  'an iterable of promises': () => [Promise.resolve(ONE), TWO],
  'an async iterable': () => ({ [Symbol.asyncIterator]: () => [ONE, TWO].values() }),
  'an async iterable that is iterable too': () => Object.assign((async function * () { yield ONE; yield TWO })(), {
    [Symbol.iterator] () { throw new Error('the wrong one') }
  }),
  'a Node stream': () => Readable.from([ONE, TWO]),
  'a Node duplex': () => { const s = new PassThrough({ objectMode: true }); s.write(ONE); s.end(TWO); return s },
  'a web stream': () => webStream(ONE, TWO)
}

t.test('every kind of source gives its values, in order, then is done', async (t) => {
  for (const [kind, make] of Object.entries(KINDS)) {
    t.same(await values(open(make())), [ONE, TWO], kind)
    t.same(await values(open(make)), [ONE, TWO], `${kind}, from a function`)
    t.same(await values(open(async function * () { yield * make() as AsyncIterable<unknown> })), [ONE, TWO], `${kind}, by yield *`)
  }
  t.same(await values(open(async function * () { yield 1 })), [1], 'an async generator function')
  t.same(await values(open(function * () { yield 1 })), [1], 'a generator function')
  t.same(await values(open([])), [])
})

t.test('every kind of source becomes a stream', async (t) => {
  const app = await createApp(t)
  app.get<{ Querystring: { kind: string } }>('/', async (request, reply) => reply.sse(KINDS[request.query.kind]!() as []))
  for (const kind of Object.keys(KINDS)) {
    t.equal((await app.inject({ url: '/', query: { kind } })).payload, 'data: 1\n\ndata: 2\n\n', kind)
  }
})

t.test('a stream of strings is one of raw text, a stream of bytes is refused', async (t) => {
  const app = await createApp(t)
  app.get('/text', async (request, reply) => reply.sse(Readable.from(Buffer.from('é\nx'), { objectMode: false }).setEncoding('utf8')))
  app.get('/web', async (request, reply) => reply.sse(webStream('a', 'b\nc')))
  app.get('/bytes', async (request, reply) => reply.sse(Readable.from(Buffer.from('é'), { objectMode: false })))
  t.equal((await app.inject('/text')).payload, 'data: é\ndata: x\n\n')
  t.equal((await app.inject('/web')).payload, 'data: a\n\ndata: b\ndata: c\n\n')
  t.match((await app.inject('/bytes')).json(), { statusCode: 500, code: 'FST_SSE_INVALID_EVENT' })
})

t.test('a source function is given the signal and the last event ID, once', async (t) => {
  const given: SseContext[] = []
  const source = open((context: SseContext) => { given.push(context); return [ONE] }, '7')
  t.same(await values(source), [ONE])
  t.equal(given.length, 1)
  t.equal(given[0]!.lastEventId, '7')
  t.equal(given[0]!.signal.aborted, false)
  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse(function * ({ lastEventId }) { yield { data: lastEventId ?? 'none' } }))
  t.equal((await app.inject({ url: '/', headers: { 'last-event-id': 'x' } })).payload, 'data: "x"\n\n')
  t.equal((await app.inject('/')).payload, 'data: "none"\n\n')
})

t.test('nothing of a generator runs before the first value is asked for', async (t) => {
  let ran = false
  for (const make of [async function * () { ran = true; yield 1 }, function * () { ran = true; yield 1 }]) {
    open(make).stop(false)
    const source = open(make())
    source.stop(false)
    t.same(await source.next(), { done: true, value: undefined })
  }
  t.equal(ran, false)
})

t.test('what is no source is a TypeError that shows the right call', async (t) => {
  const locked = () => { const stream = webStream(ONE); stream.getReader(); return stream }
  const HOW = 'give it an async iterable, an iterable, a Node or web stream, or a function such as ' +
    'async function* ({ signal, lastEventId }) { yield { data: … } }'
  const wrong: [unknown, string][] = [
    [undefined, `got undefined; ${HOW}`], [null, `got null; ${HOW}`], [5, `got the number 5; ${HOW}`],
    [true, `got the boolean true; ${HOW}`], [Symbol('s'), `got the symbol Symbol(s); ${HOW}`],
    ['secret', `got a string; for a channel give app.sse.channel(name), for one event put it into an array, or ${HOW}`],
    [{ secret: 'secret' }, `got an object (Object); ${HOW}`], [{ [Symbol.asyncIterator]: 1 }, `got an object (Object); ${HOW}`],
    [Promise.resolve([]), `got a promise; await it first, or ${HOW}`],
    [locked(), 'the web stream is locked: somebody else reads it already']
  ]
  const returned = (value: unknown, message: string) => {
    if (value instanceof Promise) return /the source function returned a promise: .*the star/
    const what = /^got (.*?);/.exec(message)?.[1]
    if (what === undefined) return `Invalid source of events: ${message}`
    return `Invalid source of events: the source function returned ${value === 'secret' ? 'a string of length 6' : what}: make it a ` +
      'generator (async function *, with the star), or return an async iterable, an iterable, a Node or web stream'
  }
  const app = await createApp(t)
  let source: unknown
  app.get('/', async (request, reply) => reply.sse(source as []))
  for (const [value, message] of wrong) {
    const error = { code: 'FST_SSE_INVALID_SOURCE', message: `Invalid source of events: ${message}` }
    t.ok(t.throws(() => open(value), error) instanceof TypeError)
    let signal: AbortSignal | undefined
    const fromFunction = { ...error, message: returned(value, message) }
    t.throws(() => open((context: SseContext) => { signal = context.signal; return value }), fromFunction, 'from a function')
    t.equal(signal!.aborted, true, 'its signal is aborted')
    source = value
    t.match((await app.inject('/')).json(), { statusCode: 500, ...error })
  }
  const error = { code: 'FST_SSE_INVALID_SOURCE', message: /^Invalid source of events: the source function returned a function \(anonymous\): make/ }
  t.throws(() => open(() => () => [ONE]), error)
  t.throws(() => open(async () => [ONE]), { code: 'FST_SSE_INVALID_SOURCE', message: /returned a promise: make it a generator/ })
  t.same(app.sse.stats().opened, 0)
})

t.test('what a source function throws is the answer, and its signal is aborted', async (t) => {
  const app = await createApp(t)
  let signal: AbortSignal | undefined
  app.get('/', async (request, reply) => reply.sse((context) => {
    signal = context.signal
    throw Object.assign(new Error('no such room'), { statusCode: 404 })
  }))
  t.match((await app.inject('/')).json(), { statusCode: 404, message: 'no such room' })
  t.equal(signal?.aborted, true)
})

t.test('stop lets go of an idle stream at once, though a value is awaited', async (t) => {
  const node = new Readable({ objectMode: true, read () {} })
  let cancelled = false
  const web = new ReadableStream({ cancel () { cancelled = true } })
  const cases: [string, object, () => boolean][] = [
    ['Node', node, () => node.destroyed], ['web', web, () => cancelled]
  ]
  for (const [kind, stream, released] of cases) {
    const source = open(stream)
    const pending = Promise.resolve(source.next()).catch(() => ({ done: true }))
    source.stop(false)
    t.equal(released(), true, `${kind}: within the same tick`)
    t.match(await pending, { done: true }, `${kind}: the pending value is settled`)
  }
  const untouched = new Readable({ objectMode: true, read () {} })
  open(untouched).stop(false)
  t.equal(untouched.destroyed, true, 'also before the first value')
})

t.test('stop destroys a Node stream whose destroy fails, and nobody hears of it', async (t) => {
  const stream = new Readable({ read () {}, destroy (error, callback) { callback(error ?? new Error('destroy failed')) } })
  open(stream).stop(false)
  await until(() => stream.closed)
  const web = new ReadableStream({ cancel: () => Promise.reject(new Error('cancel failed')) })
  open(web).stop(false)
  const failed = new ReadableStream({ start (controller) { controller.error(new Error('failed before')) } })
  open(failed).stop(false)
  t.equal(stream.destroyed, true)
})

t.test('stop aborts the signal before it asks for return()', async (t) => {
  const order: string[] = []
  const source = open(({ signal }: SseContext) => {
    signal.addEventListener('abort', () => order.push('abort'))
    return { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return () { order.push('return') } }) }
  })
  source.next()
  source.stop(false)
  t.same(order, ['abort', 'return'])
})

t.test('stop takes whatever return() does', async (t) => {
  const returns: Record<string, undefined | (() => unknown)> = {
    'is not there': undefined,
    throws: () => { throw new Error('thrown') },
    rejects: () => Promise.reject(new Error('rejected')),
    'never settles': () => new Promise(() => {}),
    'returns no promise': () => 5,
    'returns a thenable that throws': () => ({ then () { throw new Error('thrown by then') } })
  }
  for (const symbol of [Symbol.asyncIterator, Symbol.iterator]) {
    for (const [how, end] of Object.entries(returns)) {
      let called = 0
      const iterator = { next: () => ({ done: false, value: 1 }), return: end && (() => { called++; return end() }) }
      const source = open({ [symbol]: () => iterator })
      await source.next()
      t.doesNotThrow(() => source.stop(false), `${String(symbol)}: return() ${how}`)
      t.equal(called, end === undefined ? 0 : 1)
    }
  }
})

t.test('a source that has settled by itself gets no return(), but its signal is aborted', async (t) => {
  const app = await createApp(t)
  let signal!: AbortSignal
  let next!: () => Promise<IteratorResult<object>>
  let returned = 0
  const iterator = { next: () => next(), return: async () => ({ done: true as const, value: ++returned }) }
  app.get('/', async (request, reply) => reply.sse((context) => {
    signal = context.signal
    return { [Symbol.asyncIterator]: () => iterator }
  }))
  const endings: [() => Promise<IteratorResult<object>>, number][] = [
    [async () => ({ done: true, value: undefined }), 200], [async () => { throw new Error('failed') }, 500]
  ]
  for (const [ending, status] of endings) {
    next = ending
    t.equal((await app.inject('/')).statusCode, status)
    t.equal(signal.aborted, true)
    t.equal(returned, 0)
  }
})

/** A client comes, reads one event and goes; what has become of the source then? */
async function leave (t: Test, source: unknown): Promise<void> {
  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse(source as []))
  const client = connect(t, await listen(app)).get('/')
  await client.until('data: 1')
  client.destroy()
  await until(() => app.sse.stats().closed['client-gone'] === 1)
}

t.test('a client that goes away lets go of an idle source of each kind', async (t) => {
  const node = new Readable({ objectMode: true, read () {} })
  node.push(ONE)
  await leave(t, node)
  t.equal(node.destroyed, true, 'a Node stream')

  let cancelled = false
  await leave(t, new ReadableStream({ start (controller) { controller.enqueue(ONE) }, cancel () { cancelled = true } }))
  t.equal(cancelled, true, 'a web stream')

  const finished = deferred()
  await leave(t, async function * ({ signal }: SseContext) {
    try {
      yield ONE
      await once(signal, 'abort')
    } finally {
      finished.resolve()
    }
  })
  await finished.promise

  let returned = 0
  const steps = [{ done: false, value: ONE }]
  const iterator = {
    next: async () => steps.pop() ?? new Promise(() => {}),
    return () { returned++; return Promise.reject(new Error('late')) }
  }
  await leave(t, { [Symbol.asyncIterator]: () => iterator })
  t.equal(returned, 1, 'an iterator is told once')
})

t.test('an iterator whose next() gives no object fails, as in a for loop', async (t) => {
  for (const symbol of [Symbol.asyncIterator, Symbol.iterator]) {
    for (const step of [undefined, null, 5, 'step']) {
      const app = await createApp(t)
      app.get('/', async (request, reply) => reply.sse({ [symbol]: () => ({ next: () => step }) } as never))
      const response = await app.inject('/')
      t.equal(response.statusCode, 500)
      t.equal(app.sse.stats().closed['source-threw'], 1, `${String(symbol)}: ${step}`)
    }
  }
})

t.test('the source of a run, a snapshot or a batch fails in the same way, and then gets no return()', async (t) => {
  const hub = createHub({ onError () {} })
  t.after(() => hub.close())
  const failure = new Error('failed')
  const wrong: [() => unknown, unknown][] = [[() => 5, TypeError], [() => null, TypeError], [() => { throw failure }, failure]]
  for (const symbol of [Symbol.asyncIterator, Symbol.iterator]) {
    for (const [index, [next, error]] of wrong.entries()) {
      let returned = 0
      const source = { [symbol]: () => ({ next, return: () => ({ done: true, value: ++returned }) }) } as never
      const name = `${String(symbol)} ${index}`
      await t.rejects(async () => { throw (await hub.run(name, source).ended as { error: unknown }).error }, error as Error, `a run: ${name}`)
      await t.rejects(batch(source, { count: 1 }).next(), error as Error, `a batch: ${name}`)
      const reading = hub.channel(name, { snapshot: () => source }).subscribe()[Symbol.asyncIterator]()
      await t.rejects(reading.next(), error as Error, `a snapshot: ${name}`)
      t.equal(returned, 0, name)
    }
  }
})
