/**
 * What a beginner writes, and what he is told: whole messages, so that they can be read in one place. Each is told at the
 * earliest moment that there is: at start-up, where the code alone is wrong; else by the first request, whose answer and log say
 * the same; or in the log alone, where the client has its answer all the same. What the compiler says is in
 * types/first-errors.tst.ts.
 */
import { Type } from '@sinclair/typebox'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { EventEmitter } from 'node:events'
import t, { type Test } from 'tap'
import sse from '../index.ts'
import { createApp, turns } from './helpers.ts'

/** Whatever a program without types may do. */
type Reply = FastifyReply & { sse: (...given: unknown[]) => FastifyReply, [name: string]: any }
type Handler = (request: FastifyRequest, reply: Reply) => unknown

const price = { event: 'price', data: { eur: 1 } }
const events = { price: Type.Object({ eur: Type.Number() }) }
const emitter = new EventEmitter()
const ok: Handler = (request, reply) => reply.sse([price])

const get = (options: object, handler = ok) => (app: FastifyInstance) => app.get('/', options, handler as never)
const schema = (given: unknown) => get({ schema: { events: given } })

const STREAM_OPTIONS = 'keepAlive, retry, finite, writeTimeout, maxDuration, revalidate, revalidateEvery, compress, onError, onInvalidEvent'
const KINDS = 'an async iterable, an iterable, a Node or web stream'
const HOW = `give it ${KINDS}, or a function such as async function* ({ signal, lastEventId }) { yield { data: … } }`
const FIELDS = 'event (its type), data (sent as JSON), raw (sent as it is), id, retry, comment'
const A_MAP = 'it must be a map of event types to schemas, such as { message: … }'
const ITSELF = 'is the map itself a schema? It is to be one of event types to schemas, such as { message: … }'
const WANTED = 'where a TypeBox or JSON Schema (draft 7) object is wanted (of a zod schema: ' +
  "z.toJSONSchema(schema, { target: 'draft-7' }))"
const TYPES = '"array" or "boolean" or "integer" or "null" or "number" or "object" or "string" or array'

/** What zod 4 makes: of a class, which has the methods. */
class ZodObject {
  def = {}
  type = 'object'
  required () {}
}

const AT_START_UP: [written: string, write: (app: any) => unknown, seen: string][] = [
  ['registered twice', (app) => app.register(sse),
    "'app.sse' is decorated already: register fastify-typed-sse once, and no other plugin that decorates reply.sse"],
  ['registered again inside another plugin', (app) => app.register(async (inner: any) => { await inner.register(sse) }),
    "'app.sse' is decorated already: register fastify-typed-sse once, and no other plugin that decorates reply.sse"],

  ['register(sse())', (app) => app.register((sse as any)()),
    'Invalid option: the plugin was called: write app.register(sse, options), not app.register(sse(options))'],
  ['register(sse(options))', (app) => app.register((sse as any)({ retry: 1_000 })),
    'Invalid option: the plugin was called: write app.register(sse, options), not app.register(sse(options))'],

  ['sse: { keepalive: 5_000 }', get({ sse: { keepalive: 5_000 } }),
    `Invalid option: route GET / has no option 'keepalive': it has ${STREAM_OPTIONS}`],
  ["sse: { keepAlive: '15s' }", get({ sse: { keepAlive: '15s' } }),
    "Invalid option: 'keepAlive' of route GET / must be an integer of milliseconds from 1 to 2147483647, or false, got the string \"15s\""],
  ["sse: { retry: '5' }", get({ sse: { retry: '5' } }),
    "Invalid option: 'retry' of route GET / must be an integer of milliseconds from 0 to 2147483647, or { min, max } of such, min not above max, " +
      'got the string "5"'],
  ['sse: { maxDuration: 0.5 }', get({ sse: { maxDuration: 0.5 } }),
    "Invalid option: 'maxDuration' of route GET / must be an integer of milliseconds from 1 to 2147483647, or { min, max } of such, min not above max, " +
      'or false, got the number 0.5'],
  ['sse: true, as @fastify/sse wants it', get({ sse: true }),
    "Invalid option: the options of route GET / must be an object, got the boolean true: leave 'sse' out, as any route has reply.sse"],
  ['sse: { events }', get({ sse: { events } }), `Invalid option: route GET / has no option 'events': it has ${STREAM_OPTIONS}`],

  ['events beside schema', get({ events }),
    "Invalid schema.events of GET /: 'events' is not seen beside schema: write schema: { events: … }"],
  ['schema: { event: … }', get({ schema: { event: events } }),
    "Invalid schema.events of GET /: 'event' is not seen in schema: write schema: { events: … }, with an s"],
  ['schema.events is a schema', schema(events.price),
    `Invalid schema.events of GET /: event type 'type' has the string "object" for its schema; ${ITSELF}`],
  ['schema.events is an array', schema([events.price]), `Invalid schema.events of GET /: ${A_MAP}, got an array of 1`],
  ['schema.events is a list of names', schema('price'), `Invalid schema.events of GET /: ${A_MAP}, got the string "price"`],
  ['schema.events is null', schema(null), `Invalid schema.events of GET /: ${A_MAP}, got null`],
  ["{ price: { type: 'strng' } }", schema({ price: { type: 'strng' } }),
    `Invalid schema.events of GET /: event type 'price': schema/type: expected ${TYPES}, got the string "strng"`],
  ['the same further down', schema({ price: Type.Object({ eur: { type: 'nmber' } as never }) }),
    `Invalid schema.events of GET /: event type 'price': schema/properties/eur/type: expected ${TYPES}, got the string "nmber"`],
  ["{ price: { type: 'object', propertees: … } }", schema({ price: { type: 'object', propertees: {} } }),
    "Invalid schema.events of GET /: event type 'price': strict mode: unknown keyword: \"propertees\""],
  ["{ price: { eur: { type: 'number' } } }", schema({ price: { eur: { type: 'number' } } }),
    "Invalid schema.events of GET /: event type 'price': got an object (Object) with 'eur', which is no JSON Schema: " +
      'write Type.Object({ eur: … })'],
  ["{ price: 'string' }", schema({ price: 'string' }),
    `Invalid schema.events of GET /: event type 'price' has the string "string" for its schema, ${WANTED}, such as Type.String()`],
  ['{ price: what is not exported }', schema({ price: undefined }),
    `Invalid schema.events of GET /: event type 'price' has undefined for its schema, ${WANTED}, such as Type.String(); ` +
      'is it exported under this name?'],
  ['{ price: Number }', schema({ price: Number }),
    `Invalid schema.events of GET /: event type 'price' has a function (Number) for its schema, ${WANTED}, such as Type.String()`],
  ['{ price: z.object(…) }', schema({ price: new ZodObject() }),
    `Invalid schema.events of GET /: event type 'price': got an object (ZodObject), a schema of another library, ${WANTED}`],
  ['{ price: v.object(…) }', schema({ price: { kind: 'schema', type: 'object', entries: {}, '~run' () {} } }),
    `Invalid schema.events of GET /: event type 'price': got an object (Object), a schema of another library, ${WANTED}`],
  ['{ price: z.toJSONSchema(…) }', schema({ price: { $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'object' } }),
    "Invalid schema.events of GET /: event type 'price': schema/$schema: got the string \"https://json-schema.org/draft/2020-12/s…\"" +
      `, ${WANTED}`],
  ['schema.events is a zod schema', schema(new ZodObject()),
    `Invalid schema.events of GET /: event type 'type' has the string "object" for its schema; ${ITSELF}`],
  ['a $ref that nobody has added', schema({ price: { $ref: 'Price' } }),
    "Invalid schema.events of GET /: event type 'price': can't resolve reference Price from id event_price"],

  ['a channel without a name', (app) => app.sse.channel(),
    'Invalid option: the name of a channel must be a string that is not empty, got undefined'],
  ['channel(name, events)', (app) => app.sse.channel('prices', events),
    "Invalid option: channel 'prices' has no option 'price': it has events, history, snapshot, onLag, key, compress"],
  ['channel(name, { history: 100 })', (app) => app.sse.channel('prices', { history: 100 }),
    "Invalid option: 'history' of channel 'prices' must be an object, got the number 100"],
  ['a channel of the same name with other options', (app) => {
    app.sse.channel('prices', { history: { events: 5 } })
    app.sse.channel('prices', { history: { events: 6 } })
  }, "Invalid option: channel 'prices' is there already, with other 'history': give them the first time, and leave them out where you ask for it again"],
  ['a wrong event to a channel', (app) => app.sse.channel('prices', { events }).publish({ event: 'price', data: { eur: '1' } }),
    "Invalid event: event 'price', data/eur: expected number, got a string of length 1"],
  ['a wrong event type to a channel', (app) => app.sse.channel('prices', { events }).publish({ event: 'prize', data: 1 }),
    "Invalid event: 'events' has no type 'prize': declare it there, or send one of 'price'"],
  ["publish('price', data)", (app) => app.sse.channel('prices', { events }).publish('price', { eur: 1 }),
    "Invalid event: 'events' has no type 'message' (an event without 'event'): declare it there, or send one of 'price'"],
  ['an event for a channel with an ID', (app) => app.sse.channel('prices').publish({ id: 1, data: 1 }),
    "Invalid event: it has an 'id', which a channel gives by itself"]
]

const source = (given: unknown): Handler => async (request, reply) => reply.sse(given)
const yields = (value: unknown): Handler => async (request, reply) => reply.sse(async function * () { yield value })
const typed = (value: unknown) => ({ schema: { events }, handler: yields(value) })

const BY_THE_FIRST_REQUEST: [written: string, route: Handler | { handler: Handler, schema: object }, seen: string][] = [
  ['reply.sse()', source(undefined), `Invalid source of events: got undefined; ${HOW}`],
  ["reply.sse('text')", source('text'), `Invalid source of events: got a string; for a channel give app.sse.channel(name), for one event put it into an array, or ${HOW}`],
  ['reply.sse({ data: 1 })', source({ data: 1 }), `Invalid source of events: got one event; put it into an array, or ${HOW}`],
  ['reply.sse({})', source({}), `Invalid source of events: got an object (Object); ${HOW}`],
  ['a snapshot that returns nothing', async (request, reply) => reply.sse(request.server.sse.channel('prices', { snapshot () {} } as object)),
    'Invalid source of events: the snapshot function has returned undefined: return its events'],
  ['reply.sse(promise)', source(Promise.resolve([])), `Invalid source of events: got a promise; await it first, or ${HOW}`],
  ['reply.sse(emitter)', source(emitter),
    `Invalid source of events: got an EventEmitter; iterate over on(emitter, name, { signal }) of node:events, or ${HOW}`],
  ['reply.sse(buffer)', source(Buffer.from('x')), `Invalid source of events: got an object (Buffer); ${HOW}`],
  ['reply.sse([channel, channel])', async (request, reply) => reply.sse(['a', 'b'].map((name) => request.server.sse.channel(name))),
    'Invalid source of events: got an array with a channel in it: give it one channel, or app.sse.subscribe([a, b]) for several'],
  ['an async function without a star', source(async () => [price]),
    'Invalid source of events: the source function returned a promise: make it a generator (async function *, with the star), or await ' +
      'before you call reply.sse'],
  ['a function that takes a callback', source(() => {}),
    'Invalid source of events: the source function returned undefined: make it a generator (async function *, with the star), or return ' +
      KINDS],
  ['const { sse } = reply', async (request, { sse }) => sse([price]),
    'reply.sse was called without its reply: write reply.sse(…), not sse(…)'],
  ['reply.sse(source, { keepalive: 1 })', async (request, reply) => reply.sse([price], { keepalive: 1 }),
    `Invalid option: reply.sse has no option 'keepalive': it has ${STREAM_OPTIONS}, first`],
  ['reply.sse twice', async (request, reply) => { reply.sse([price]); return reply.sse([price]) },
    'reply.sse: it was called already for this request, which gets one stream: make one source of all'],

  ['yield 5', yields(5), 'Invalid event: expected an object such as { data: … } or a string, got the number 5'],
  ['yield null', yields(null), 'Invalid event: expected an object such as { data: … } or a string, got null'],
  ['yield undefined', yields(undefined), 'Invalid event: expected an object such as { data: … } or a string, got undefined'],
  ['yield [event, event]', yields([price, price]),
    'Invalid event: got an array of 2: yield its events one by one (yield * array), or all of it as one, { data: array }'],
  ['yield buffer', yields(Buffer.from('x')),
    'Invalid event: got bytes: yield { raw: text }, or set an encoding on the stream that they come from'],
  ['yield new Date()', yields(new Date()),
    `Invalid event: it is empty: give it one of ${FIELDS}, that is not undefined; got an object (Date)`],
  ['yield { data: promise }', yields({ data: Promise.resolve(1) }), 'Invalid event: its data is a promise: await it first'],
  ['a Date for a Type.String()', { schema: { events: { price: Type.String() } }, handler: yields({ event: 'price', data: new Date() }) },
    "Invalid event: event 'price', data: expected string, got an object (Date): give it date.toISOString(), or a schema with a transform"],
  ['yield { eur: 1 }', yields({ eur: 1 }), `Invalid event: it has an unknown field 'eur': its fields are ${FIELDS}`],
  ["yield { type: 'price', data }", yields({ type: 'price', data: 1 }),
    `Invalid event: it has an unknown field 'type': its fields are ${FIELDS}`],
  ["{ retry: '5' }", yields({ retry: '5', data: 1 }), "Invalid event: 'retry' must be an integer >= 0 (ms), got the string \"5\""],

  ['a wrong event type', typed({ event: 'prize', data: { eur: 1 } }),
    "Invalid event: 'events' has no type 'prize': declare it there, or send one of 'price'"],
  ['no event type', typed({ data: { eur: 1 } }),
    "Invalid event: 'events' has no type 'message' (an event without 'event'): declare it there, or send one of 'price'"],
  ['no data', typed({ event: 'price' }), "Invalid event: event 'price' needs data"],
  ['data of the wrong type', typed({ event: 'price', data: { eur: '1' } }),
    "Invalid event: event 'price', data/eur: expected number, got a string of length 1"],
  ['data without a property', typed({ event: 'price', data: {} }),
    "Invalid event: event 'price', data: expected a property 'eur', got an object (Object)"],
  ['data: JSON.stringify(price)', typed({ event: 'price', data: '{"eur":1}' }),
    "Invalid event: event 'price', data: expected object, got a string of length 9"],

  ['a channel without events, in a route with', {
    schema: { events },
    handler: (request, reply) => reply.sse(request.server.sse.channel('untyped'))
  }, "Invalid source of events: the route has schema.events, so what it is given needs 'events' of its own: app.sse.channel(name, { events })"],
  ['return channel', async (request) => request.server.sse.channel('untyped'),
    'Invalid source of events: a channel is no JSON: return reply.sse(channel)']
]

const ANOTHER = 'reply.sse was called, but another answer was sent: return reply.sse(…) from the handler, or the hook'
const NOT_AFTER = 'reply.sse: another answer was sent before: call reply.sse instead of reply.send or reply.raw; or, where the handler ' +
  'had ended, return, or await, what calls reply.sse'
const HIJACKED = 'reply.sse: the reply was hijacked before: call reply.sse instead of reply.hijack'
const HAD_ENDED = 'reply.sse: an empty answer was sent before, as the handler had ended: return, or await, what calls reply.sse ' +
  '(or reply.send() was called: call reply.sse instead)'
const FASTIFY = 'Reply was already sent, did you forget to "return reply" in "/" (GET)?'
const hook = (name: string) => ({ [name]: async (request: FastifyRequest, reply: Reply) => { reply.sse([price]) } })

const IN_THE_LOG: [written: string, route: object, handler: Handler, answer: string, seen: string][] = [
  ['something else returned', {}, async (request, reply) => { reply.sse([price]); return { a: 1 } }, '{"a":1}', ANOTHER],
  ['reply.send after it', {}, (request, reply) => { reply.sse([price]); reply.send('x') }, 'x', ANOTHER],
  ['in a hook that does not return the reply', hook('preHandler'), async () => 'x', 'x', ANOTHER],
  ['after reply.send', {}, async (request, reply) => { reply.send('x'); return reply.sse([price]) }, 'x', NOT_AFTER],
  ['after reply.send, not async', {}, (request, reply) => { reply.send('x'); reply.sse([price]) }, 'x', FASTIFY],
  ['after reply.hijack and reply.raw', {}, async (request, reply) => { reply.hijack().raw.end('x'); reply.sse([price]) }, 'x', NOT_AFTER],
  ['after reply.raw', {}, async (request, reply) => { reply.raw.writeHead(200).end('x'); reply.sse([price]) }, 'x', NOT_AFTER],
  ['in an onResponse hook', hook('onResponse'), async () => 'x', 'x', NOT_AFTER],
  ['in an onSend hook', hook('onSend'), async () => 'x', 'x', ANOTHER]
]

/** Calls of reply.sse that nobody returns or awaits; `tell` is given what they throw, which would end the process. */
type Late = (reply: Reply, tell: (error: Error) => void) => unknown

const TOO_LATE: [written: string, handler: Late, seen: string][] = [
  ['a helper, not awaited', async (reply, tell) => {
    const help = async () => { await turns(); reply.sse([price]) }
    help().catch(tell)
  }, HAD_ENDED],
  ['.then, not returned', async (reply, tell) => { turns().then(() => reply.sse([price])).catch(tell) }, HAD_ENDED],
  ['a timer', async (reply, tell) => {
    setTimeout(() => { turns().then(() => reply.sse([price])).catch(tell) })
  }, HAD_ENDED],
  ['beside something that is returned', async (reply, tell) => { turns().then(() => reply.sse([price])).catch(tell); return 'x' }, NOT_AFTER],
  ['reply.send()', (reply, tell) => { reply.send(); turns().then(() => reply.sse([price])).catch(tell) }, HAD_ENDED],
  ['reply.hijack', (reply, tell) => {
    reply.hijack()
    try { reply.sse([price]) } catch (error) { tell(error as Error) }
    reply.raw.end()
  }, HIJACKED]
]

const PRICE = 'event: price\ndata: {"eur":1}\n\n'

const NO_MISTAKE: [written: string, route: object, handler: Handler][] = [
  ['a synchronous handler that returns nothing', {}, (request, reply) => { reply.sse([price]) }],
  ['an async one', {}, async (request, reply) => { reply.sse([price]) }],
  ['await reply.sse, then something else', {}, async (request, reply) => { await reply.sse([price]); return 'too late' }],
  ['a generator function, not called', {}, source(function * () { yield price })],
  ['a generator function, called', {}, source((function * () { yield price })())],
  ['a promise of an event', {}, source([Promise.resolve(price)])],
  ['a hook that returns the reply', { preHandler: async (request: FastifyRequest, reply: Reply) => reply.sse([price]) }, async () => 'x'],
  ['a response schema beside events', { schema: { events, response: { 200: Type.Object({ other: Type.String() }) } } }, ok]
]

t.test('at start-up, or by the call', async (t) => {
  for (const [written, write, seen] of AT_START_UP) {
    const app = await createApp(t)
    await t.rejects(async () => { await write(app); await app.ready() }, { message: seen }, written)
    await app.close()
  }
})

/** An app whose log, from `warn` on, can be read. */
async function createLogged (t: Test) {
  const logged: string[] = []
  const stream = { write: (line: string) => { const { msg, err } = JSON.parse(line); logged.push(err?.message ?? msg) } }
  return { app: await createApp(t, {}, { logger: { level: 'warn', stream } }), logged }
}

t.test('by the first request: its answer and the log say the same', async (t) => {
  for (const [written, route, seen] of BY_THE_FIRST_REQUEST) {
    const { app, logged } = await createLogged(t)
    const { handler, ...options } = typeof route === 'function' ? { handler: route } : route
    get(options, handler)(app)
    const { statusCode, payload } = await app.inject('/')
    t.strictSame([statusCode, JSON.parse(payload).message], [500, seen], written)
    t.strictSame([...new Set(logged)], [seen], `${written}: the log`)
    await app.close()
  }
})

t.test('in the log alone, where the client has another answer', async (t) => {
  for (const [written, route, handler, answer, seen] of IN_THE_LOG) {
    const { app, logged } = await createLogged(t)
    get(route, handler)(app)
    t.equal((await app.inject('/')).payload, answer, written)
    await turns()
    t.strictSame(logged, [seen], `${written}: the log`)
    await app.close()
  }
})

t.test('by the call alone, which comes too late', async (t) => {
  for (const [written, handler, seen] of TOO_LATE) {
    const { app } = await createLogged(t)
    const message = new Promise((resolve) => {
      app.get('/', (request, reply) => handler(reply as Reply, (error) => resolve(error.message)) as never)
    })
    t.equal((await app.inject('/')).statusCode, 200, written)
    t.equal(await message, seen, written)
    await app.close()
  }
})

t.test('what is no mistake', async (t) => {
  for (const [written, route, handler] of NO_MISTAKE) {
    const { app, logged } = await createLogged(t)
    get(route, handler)(app)
    t.equal((await app.inject('/')).payload, PRICE, written)
    await app.close()
    t.strictSame(logged, [], `${written}: nothing in the log`)
  }
})

t.test('what Fastify and JavaScript say where the plugin is not there to say anything', async (t) => {
  const route = (app: FastifyInstance) => app.get('/', async (request, reply) => reply.sse([price]))
  const message = async (app: FastifyInstance) => (await app.inject('/')).json().message
  const without = fastify()
  route(without)
  t.equal(await message(without), 'reply.sse is not a function', 'not registered')

  const inside = fastify()
  await inside.register(async (app) => { await app.register(sse) })
  route(inside)
  t.equal(await message(inside), 'reply.sse is not a function', 'registered inside another plugin: register it in the app, or where the route is')

  const unawaited = fastify()
  unawaited.register(sse)
  t.throws(() => unawaited.sse.channel('prices'), { message: "Cannot read properties of undefined (reading 'channel')" }, 'without await')
  await Promise.all([without.close(), inside.close(), unawaited.close()])
})

t.test('routes before register, or without await: they stream, and the log says what is not seen', async (t) => {
  const logged: string[] = []
  const stream = { write: (line: string) => { logged.push(JSON.parse(line).msg) } }
  const app = fastify({ logger: { level: 'warn', stream } })
  t.after(() => app.close())
  const route = get({ sse: { keepalive: 'nonsense' } })
  route(app)
  app.register(async (inner) => { route(inner) }, { prefix: '/inner' })
  app.register(sse)
  t.equal((await app.inject('/')).payload, PRICE)
  t.equal((await app.inject('/inner')).payload, PRICE, 'in a plugin that has loaded before')
  t.strictSame(logged, ['/', '/inner'].map((url) => `GET ${url} was added before fastify-typed-sse had loaded, so options under 'sse' ` +
    'are not seen: `await app.register(sse)` before adding routes'))
})

t.test('what a client does wrong is told to the client', async (t) => {
  const app = await createApp(t)
  app.post('/post', async (request, reply) => reply.sse([price]))
  app.get('/', async (request, reply) => reply.sse([price]))
  const headers = { accept: 'text/event-stream' }
  const answer = async (options: object) => {
    const { statusCode, payload } = await app.inject({ headers, url: '/', ...options })
    return [statusCode, payload === '' ? '' : JSON.parse(payload).message]
  }
  t.strictSame(await answer({ url: '/post' }), [404, 'Route GET:/post not found'], 'an EventSource for a POST route')
  t.strictSame(await answer({ method: 'OPTIONS' }), [404, 'Route OPTIONS:/ not found'], 'a preflight without @fastify/cors')
  t.strictSame(await answer({ method: 'HEAD' }), [200, ''])
  t.strictSame(await answer({ url: '/?lastEventId=%0A' }), [400, 'Invalid last event ID: it has a CR, LF or NUL'])
  t.strictSame(await answer({ url: `/?lastEventId=${'x'.repeat(1_025)}` }), [400, 'Invalid last event ID: it is longer than 1024 bytes'])
})
