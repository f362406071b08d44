/** Options: which values they can have, that a wrong one is told where it is given, and that the nearest wins. */
import fastify from 'fastify'
import { Registry } from 'prom-client'
import t, { type Test } from 'tap'
import sse, { memoryBroker, type SseOptions, type StreamOptions } from '../index.ts'
import { draw } from '../lib/durations.ts'
import { checkPluginOptions, DEFAULTS, resolveRouteOptions, streamOptions } from '../lib/options.ts'
import { createApp } from './helpers.ts'

const LONGEST = 2_147_483_647

/** Of each stream option: values that it can have, values that it cannot, and what is said of these. */
const STREAM: Record<keyof StreamOptions, { right: unknown[], wrong: unknown[], expected: RegExp }> = {
  keepAlive: {
    right: [1, 15_000, LONGEST, false],
    wrong: [0, -1, 1.5, NaN, Infinity, LONGEST + 1, '5', true, null, {}, 5n, { min: 1, max: 2 }],
    expected: /an integer of milliseconds from 1 to 2147483647, or false/
  },
  retry: {
    right: [0, 1, LONGEST, { min: 0, max: 0 }, { min: 1, max: LONGEST }],
    wrong: [false, true, -1, 1.5, NaN, LONGEST + 1, '5', null, {}, [], { min: 1 }, { max: 1 }, { min: 2, max: 1 }, { min: -1, max: 1 },
      { min: '1', max: '2' }, { min: 0.5, max: 2 }],
    expected: /an integer of milliseconds from 0 to 2147483647, or \{ min, max \} of such, min not above max/
  },
  finite: { right: [true, false], wrong: [0, 1, 'true', null, {}], expected: /true or false/ },
  writeTimeout: {
    right: [1, LONGEST, false],
    wrong: [0, -1, 1.5, Infinity, LONGEST + 1, '5', true, null, { min: 1, max: 2 }],
    expected: /an integer of milliseconds from 1 to 2147483647, or false/
  },
  maxDuration: {
    right: [1, LONGEST, false, { min: 1, max: 2 }],
    wrong: [0, -1, Infinity, LONGEST + 1, '5', true, null, { min: 0, max: 1 }, { min: 2, max: 1 }],
    expected: /an integer of milliseconds from 1 to 2147483647, or \{ min, max \} of such, min not above max, or false/
  },
  revalidate: { right: [() => true, async () => false, false], wrong: [true, null, 'x', {}], expected: /a function, or false/ },
  revalidateEvery: {
    right: [1, LONGEST],
    wrong: [0, -1, 1.5, NaN, Infinity, LONGEST + 1, '5', false, true, null, { min: 1, max: 2 }],
    expected: /an integer of milliseconds from 1 to 2147483647/
  },
  compress: { right: [true, false], wrong: [0, 1, 'gzip', null, {}], expected: /true or false/ },
  onError: { right: [() => undefined, async () => {}], wrong: [null, false, 'x', {}], expected: /a function/ },
  onInvalidEvent: { right: ['fail', 'drop'], wrong: ['ignore', '', null, true, () => 'drop'], expected: /'fail' or 'drop'/ }
}

const LIMIT = {
  right: [1, 10_000, false],
  wrong: [0, -1, 1.5, NaN, Infinity, '5', true, null, {}],
  expected: /an integer >= 1, or false/
}

/** The same of the options that the plugin alone has. */
const PLUGIN: Record<Exclude<keyof SseOptions, keyof StreamOptions>, { right: unknown[], wrong: unknown[], expected: RegExp }> = {
  lastEventIdQuery: { right: ['id', false], wrong: ['', true, null, 5, {}], expected: /the name of a parameter, or false/ },
  drain: { right: [0, 1, 8_999], wrong: [-1, 1.5, NaN, LONGEST + 1, '5', false, null, { min: 1, max: 2 }], expected: /an integer of milliseconds from 0 to 2147483647/ },
  maxConnections: LIMIT,
  maxConnectionsPerClient: LIMIT,
  clientKey: { right: [() => 'a'], wrong: [null, false, 'ip', {}], expected: /a function/ },
  metrics: { right: [new Registry()], wrong: [{}, null, true, 'register'], expected: /a registry of prom-client, such as new Registry\(\)/ },
  broker: { right: [memoryBroker()], wrong: [{}, null, 'memory', { append () {} }], expected: /a broker, such as memoryBroker\(\)/ }
}

const STREAM_NAMES = Object.keys(STREAM)

/** What one level does with options: `accept` throws what it says of a wrong one. */
type Level = [where: string, accept: (options: object) => Promise<unknown>]

async function register (options: object): Promise<void> {
  const app = fastify()
  try {
    await app.register(sse, options)
  } finally {
    await app.close()
  }
}

async function levels (t: Test): Promise<{ route: Level, call: Level }> {
  const app = await createApp(t)
  let routes = 0
  const addRoute = async (options: object) => app.get(`/${routes++}`, { sse: options as StreamOptions }, () => {})
  const caller = await createApp(t)
  let given: object
  caller.get('/', async (request, reply) => reply.sse([], given as StreamOptions))
  await caller.ready()
  return {
    route: ['route GET /', addRoute],
    call: ['reply.sse', async (options) => {
      given = options
      const response = await caller.inject('/')
      if (response.statusCode !== 200) throw Object.assign(new Error(), response.json())
    }]
  }
}

t.test('every stream option is checked where it is given: to the plugin, a route, a call', async (t) => {
  const { route, call } = await levels(t)
  for (const [where, accept] of [['the plugin', register], route, call] as Level[]) {
    for (const [name, { right, wrong, expected }] of Object.entries(STREAM)) {
      for (const value of [...right, undefined]) await t.resolves(accept({ [name]: value }), `${where} takes ${name}`)
      for (const value of wrong) {
        await t.rejects(accept({ [name]: value }), {
          code: 'FST_SSE_INVALID_OPTION',
          message: new RegExp(`^Invalid option: '${name}' of ${where}.* must be ${expected.source}, got `)
        })
      }
    }
  }
})

t.test('the options of the plugin alone are checked too, and known nowhere else', async (t) => {
  const { route, call } = await levels(t)
  for (const [name, { right, wrong, expected }] of Object.entries(PLUGIN)) {
    const needed = name === 'clientKey' && { maxConnectionsPerClient: 5 }
    for (const value of [...right, undefined]) await t.resolves(register({ ...needed, [name]: value }))
    for (const value of wrong) {
      await t.rejects(register({ [name]: value }), { code: 'FST_SSE_INVALID_OPTION', message: expected })
    }
    for (const [where, accept] of [route, call]) {
      await t.rejects(accept({ [name]: right[0] }), {
        code: 'FST_SSE_INVALID_OPTION', message: new RegExp(`^Invalid option: ${where}.* has no option '${name}': it has ${STREAM_NAMES.join(', ')}(, first)?$`)
      })
    }
  }
})

t.test('an unknown option is refused by its name', async (t) => {
  const { route, call } = await levels(t)
  for (const [where, accept] of [['the plugin', register], route, call] as Level[]) {
    for (const name of ['keepalive', 'heartbeat', 'toString', '__proto__']) {
      await t.rejects(accept(Object.defineProperty({}, name, { value: 1, enumerable: true })), {
        code: 'FST_SSE_INVALID_OPTION', message: new RegExp(`^Invalid option: ${where}.* has no option '${name}': it has keepAlive, retry`)
      })
    }
  }
})

t.test('options must be an object', async (t) => {
  const { route, call } = await levels(t)
  for (const [where, accept] of [route, call]) {
    for (const options of [null, 5, 'keepAlive', true, () => {}]) {
      await t.rejects(accept(options as never), {
        code: 'FST_SSE_INVALID_OPTION', message: new RegExp(`^Invalid option: the options of ${where}.* must be an object, got `)
      })
    }
  }
})

t.test('what Fastify adds for itself is no option of the plugin', async (t) => {
  t.doesNotThrow(() => checkPluginOptions({ prefix: '/x', logLevel: 'warn', logSerializers: {} } as SseOptions))
  await t.resolves(register({ prefix: '/x' }))
})

t.test('a wrong option is a TypeError, thrown at registration', async (t) => {
  const app = await createApp(t)
  const error = t.throws(() => app.get('/', { sse: { keepAlive: 0 } }, () => {}), { code: 'FST_SSE_INVALID_OPTION', statusCode: 500 })
  t.ok(error instanceof TypeError)
  t.notOk(app.hasRoute({ method: 'GET', url: '/' }))
})

t.test('a call with a wrong option starts nothing', async (t) => {
  const app = await createApp(t)
  let started = false
  app.get('/', async (request, reply) => reply.sse(function * () { started = true; yield 'x' }, { retry: -1 }))
  t.match((await app.inject('/')).json(), { statusCode: 500, code: 'FST_SSE_INVALID_OPTION' })
  t.equal(started, false)
  t.equal(app.sse.stats().opened, 0)
})

t.test('the nearest option wins, and one that is undefined is not there', async (t) => {
  t.same(streamOptions({}), DEFAULTS)
  t.same(DEFAULTS, {
    keepAlive: 15_000,
    retry: undefined,
    finite: false,
    writeTimeout: 30_000,
    maxDuration: false,
    revalidate: false,
    revalidateEvery: 60_000,
    compress: undefined,
    onError: undefined,
    onInvalidEvent: 'fail'
  })
  const outer = streamOptions({ keepAlive: 1, retry: 2, maxDuration: 3, lastEventIdQuery: 'x', drain: 4 })
  t.same(outer, { ...DEFAULTS, keepAlive: 1, retry: 2, maxDuration: 3 })
  const unset = Object.fromEntries(STREAM_NAMES.map((name) => [name, undefined]))
  t.same(resolveRouteOptions(outer, unset, 'here'), outer)
  t.same(resolveRouteOptions(outer, undefined, 'here'), outer)
  t.same(resolveRouteOptions(outer, { keepAlive: false, retry: 0, maxDuration: false, finite: true }, 'here'),
    { ...outer, keepAlive: false, retry: 0, maxDuration: false, finite: true }, 'also with a value that is falsy')
  t.same(outer.keepAlive, 1, 'the outer options stay as they are')
})

t.test('plugin, route and call: on the wire', async (t) => {
  const app = await createApp(t, { retry: 1 })
  app.get('/plugin', async (request, reply) => reply.sse(['x']))
  app.get('/route', { sse: { retry: 2 } }, async (request, reply) => reply.sse(['x']))
  app.get('/call', { sse: { retry: 2 } }, async (request, reply) => reply.sse(['x'], { retry: 3 }))
  app.get('/finite', { sse: { retry: 2 } }, async (request, reply) => reply.sse(['x'], { finite: true }))
  t.equal((await app.inject('/plugin')).payload, 'retry: 1\n\ndata: x\n\n')
  t.equal((await app.inject('/route')).payload, 'retry: 2\n\ndata: x\n\n')
  t.equal((await app.inject('/call')).payload, 'retry: 3\n\ndata: x\n\n')
  t.equal((await app.inject('/route')).payload, 'retry: 2\n\ndata: x\n\n', 'a call leaves its route alone')
  t.equal((await app.inject('/finite')).payload, 'retry: 2\n\ndata: x\n\nid: fastify-typed-sse:finished\n\n', 'the others stay')
})

t.test('a range is drawn from with both its ends, a number is itself', async (t) => {
  t.equal(draw(5), 5)
  t.equal(draw({ min: 7, max: 7 }), 7)
  const { random } = Math
  t.after(() => { Math.random = random })
  for (const [chance, drawn] of [[0, 10], [0.1, 10], [0.5, 12], [0.999_999, 13]] as const) {
    Math.random = () => chance
    t.equal(draw({ min: 10, max: 13 }), drawn)
  }
  Math.random = random
  const seen = new Set<number>()
  for (let i = 0; i < 1_000; i++) seen.add(draw({ min: -0, max: 3 }))
  t.same([...seen].sort(), [0, 1, 2, 3])
})

t.test('each connection draws a retry of its own', async (t) => {
  const app = await createApp(t, { retry: { min: 1_000, max: 1_000_000 } })
  app.get('/', async (request, reply) => reply.sse([]))
  const drawn = new Set<number>()
  for (let i = 0; i < 5; i++) {
    const ms = Number(/^retry: (\d+)\n\n$/.exec((await app.inject('/')).payload)?.[1])
    t.ok(ms >= 1_000 && ms <= 1_000_000)
    drawn.add(ms)
  }
  t.ok(drawn.size > 1)
})

t.test('the plugin is registered once, on one level', async (t) => {
  const code = 'FST_SSE_ALREADY_REGISTERED'
  const twice = await createApp(t)
  await t.rejects(async () => { await twice.register(sse) }, { code, statusCode: 500, message: /^'app\.sse' is decorated already/ })
  const nested = await createApp(t)
  await t.rejects(async () => { await nested.register(async (app) => { await app.register(sse) }) }, { code })
  const other = fastify()
  t.after(() => other.close())
  other.decorateReply('sse', null as never)
  await t.rejects(async () => { await other.register(sse) }, { code, message: /^'reply\.sse' is decorated already/ })

  const apart = fastify()
  t.after(() => apart.close())
  for (const prefix of ['/a', '/b']) {
    apart.register(async (app) => {
      await app.register(sse)
      app.get('/', async (request, reply) => reply.sse(['x']))
    }, { prefix })
  }
  t.equal((await apart.inject('/a')).payload, 'data: x\n\n', 'siblings have one each')
  t.equal((await apart.inject('/b')).payload, 'data: x\n\n')
  t.notOk(apart.hasDecorator('sse'))
})
