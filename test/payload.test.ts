/** What `schema.events` does to an event's data: it is checked as it is, and nothing but what is declared goes out. */
import { FormatRegistry, Type, type TSchema } from '@sinclair/typebox'
import fastify from 'fastify'
import t, { type Test } from 'tap'
import sse from '../index.ts'
import { encodeEvent } from '../lib/encoder.ts'
import { compilePayloads, type Payloads } from '../lib/payload.ts'
import { createApp } from './helpers.ts'

type Schema = Record<string, unknown> | TSchema
type Shared = Record<string, unknown>

const compile = (events: Record<string, Schema>, shared: Shared = {}): Payloads =>
  compilePayloads(events as Record<string, Record<string, unknown>>, shared as Record<string, Record<string, unknown>>)

/** Encodes data of a schema: what the client gets to parse, or the error. */
function encoder (schema: Schema, shared?: Shared): (data: unknown) => string {
  const payloads = compile({ e: schema }, shared)
  return (data) => {
    const block = encodeEvent({ event: 'e', data }, payloads)
    return block.replace(/^event: e\n/, '').replace(/\n\n$/, '').replace(/^data: /gm, '')
  }
}

/** What leaves is the JSON of this, whatever its white space: another text would not arrive as the same value. */
function carries (t: Test, schema: Schema, data: unknown, arrives: unknown = data, shared?: Shared): void {
  const text = encoder(schema, shared)(data)
  t.same(parse(text), arrives, `${name(schema)} carries it`)
}

const name = (schema: Schema) => JSON.stringify(schema).replace(/[^ -~]/g, '?')

function parse (text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return { notJson: text }
  }
}

function refused (t: Test, schema: Schema, data: unknown, message: RegExp | string, shared?: Shared): void {
  t.throws(() => encoder(schema, shared)(data), { code: 'FST_SSE_INVALID_EVENT', message })
}

const Price = Type.Object({ symbol: Type.String(), price: Type.Number() })
const Moment = Type.Transform(Type.String({ format: 'date-time' }))
  .Decode((text) => new Date(text))
  .Encode((date) => date.toISOString())

t.test('a mismatch is told with event type, path, what was expected and what came', async (t) => {
  const Deep = Type.Object({ list: Type.Array(Type.Object({ n: Type.Integer({ minimum: 1 }) })) })
  const cases: [Schema, unknown, string][] = [
    [Price, { symbol: 'A', price: '1' }, 'data/price: expected number, got a string of length 1'],
    [Price, { symbol: 'A' }, "data: expected a property 'price', got an object (Object)"],
    [Price, null, 'data: expected object, got null'],
    [Price, [], 'data: expected object, got an array of 0'],
    [Deep, { list: [{ n: 1 }, { n: 1.5 }] }, 'data/list/1/n: expected integer, got the number 1.5'],
    [Deep, { list: [{ n: 0 }] }, 'data/list/0/n: expected a value that must be >= 1, got the number 0'],
    [Type.Union([Type.String(), Type.Null()]), true, 'data: expected string or null, got the boolean true'],
    [Type.Union([Type.Literal('a'), Type.Literal('c')]), 'b', 'data: expected "a" or "c", got a string of length 1'],
    [{ enum: ['a', null] }, 'b', 'data: expected "a" or null, got a string of length 1'],
    [Type.String({ format: 'date-time' }), 'now', "data: expected a string of the format 'date-time', got a string of length 3"],
    [Type.Object({}, { additionalProperties: false }), { x: 'secret' }, "data: expected no property 'x', got an object (Object)"]
  ]
  for (const [schema, data, message] of cases) refused(t, schema, data, `Invalid event: event 'e', ${message}`)
  refused(t, Price, undefined, "Invalid event: event 'e' needs data")
  t.throws(() => encodeEvent({ data: 1 }, compile({ message: Price })), { message: "Invalid event: event 'message', data: expected object, got the number 1" })
})

t.test('nothing is coerced', async (t) => {
  const cases: [Schema, unknown][] = [
    [Type.Number(), '1'], [Type.Number(), null], [Type.Number(), true], [Type.Number(), NaN], [Type.Number(), Infinity],
    [Type.Number(), 1n], [Type.Integer(), 1.5], [Type.Integer(), -Infinity], [Type.String(), 1], [Type.String(), null],
    [Type.String(), new Date(0)], [Type.String(), /x/], [Type.String(), Object('x')], [Type.Boolean(), 0], [Type.Boolean(), 'true'],
    [Type.Null(), ''], [Type.Null(), 0], [Type.Array(Type.Number()), 1], [Type.Array(Type.Number()), ['1']],
    [Type.Object({}), 'x'], [Type.Tuple([Type.Number()]), []], [Type.Tuple([Type.Number()]), [1, 2]]
  ]
  for (const [schema, data] of cases) refused(t, schema, data, /^Invalid event: event 'e', data.*: expected .*, got /)
})

t.test('what is not declared is never sent', async (t) => {
  const data = { symbol: 'A', price: 1, secret: 2 }
  const price = { symbol: 'A', price: 1 }
  const Tree = Type.Recursive((Self) => Type.Object({ name: Type.String(), children: Type.Array(Self) }))
  carries(t, Price, data, price)
  carries(t, Type.Object({ a: Type.Object({ b: Price }) }), { a: { b: data, secret: 3 }, secret: 4 }, { a: { b: price } })
  carries(t, Type.Array(Price), [data, data], [price, price])
  carries(t, Type.Tuple([Price, Type.Number()]), [data, 5], [price, 5])
  carries(t, Type.Union([Type.Null(), Price]), data, price)
  carries(t, Type.Array(Type.Union([Price, Type.String()])), [data, 'x'], [price, 'x'])
  carries(t, Type.Union([Type.Object({ k: Type.Literal('a') }), Type.Object({ k: Type.Literal('b'), b: Price })]),
    { k: 'b', b: data, secret: 5 }, { k: 'b', b: price })
  carries(t, Type.Intersect([Price, Type.Object({ n: Type.Number() })]), { ...data, n: 1 }, { ...price, n: 1 })
  carries(t, Tree, { name: 'a', secret: 1, children: [{ name: 'b', secret: 2, children: [] }] },
    { name: 'a', children: [{ name: 'b', children: [] }] })
  carries(t, Type.Object({ at: Moment }), { at: new Date(0), secret: 1 }, { at: '1970-01-01T00:00:00.000Z' })
  carries(t, Type.Record(Type.String(), Price), { x: data }, { x: price })
  carries(t, { $ref: 'Price' }, data, price, { Price: { ...Price, $id: 'Price' } })
  carries(t, { properties: { a: {} } }, { a: 1, secret: 2 }, { a: 1 })
})

t.test('what is declared arrives as it was', async (t) => {
  const strings = ['', '"', '\\', "it's", '\n\r\t\0', '\u2028\ufeff', '😀', '\ud800', '/', '</script>', '%s %d', 'x'.repeat(6_000) + '"\n']
  for (const text of strings) {
    carries(t, Type.String(), text)
    carries(t, Type.Object({ a: Type.String() }), { a: text })
    if (text.isWellFormed()) carries(t, Type.Object({ [text]: Type.Number() }), { [text]: 1 })
  }
  carries(t, Type.Record(Type.String(), Type.Number()), { '"': 1, 'it\'s\\': -0.5, '': 1e21 })
  carries(t, Type.Any(), { a: [1, { b: null }] })
  carries(t, Type.Unknown(), 'text')
  carries(t, Type.Object({ a: Type.Optional(Type.Number()), b: Type.Union([Type.Number(), Type.Null()]) }), { b: null })
  carries(t, { type: 'string', nullable: true }, null)
  carries(t, { type: ['string', 'null'] }, null)
  carries(t, { type: ['number', 'string'] }, '1')
})

t.test('a literal arrives as it was, whatever it has in it', async (t) => {
  for (const text of ['"', '\\', "it's", 'a\nb', '\r', '\0', '\\u0022', '\u2028', '`$']) {
    carries(t, Type.Literal(text), text)
    carries(t, Type.Object({ kind: Type.Union([Type.Literal(text), Type.Literal('other')]) }), { kind: text })
    carries(t, { enum: [text, 1] }, text)
  }
  carries(t, { const: { type: 'string', format: 'x' } }, { type: 'string', format: 'x' })
})

t.test('what has no JSON is refused, where the schema takes anything too', async (t) => {
  const cycle: Record<string, unknown> = {}
  cycle.self = cycle
  for (const value of [() => {}, Symbol('s'), 1n, cycle, [1n]]) {
    refused(t, Type.Any(), value, /^Invalid event: event 'e'/)
    refused(t, Type.Object({ a: Type.Unknown() }), { a: value }, /^Invalid event: event 'e'/)
  }
  const Loop = Type.Recursive((Self) => Type.Object({ self: Type.Optional(Self) }))
  refused(t, Loop, cycle, /^Invalid event: event 'e'/)
})

t.test('a value that changes while it is read, or has a hole, is refused or valid JSON, never anything else', async (t) => {
  const changing = (first: unknown, then: unknown) => {
    let reads = 0
    return { get a () { return reads++ === 0 ? first : then } }
  }
  const toJSON = (a: unknown, then: unknown) => ({ a, toJSON: () => then })
  const cases: [Schema, unknown][] = [[Type.Array(Type.Any()), [undefined, 1]], [Type.Any(), new Array(2)]]
  for (const then of ['x"\n', Infinity, undefined, null, () => {}, Symbol('s'), { b: '"\n' }, 5]) {
    for (const [type, first] of [[Type.String(), 'x'], [Type.Number(), 1], [Type.Boolean(), true], [Type.Any(), 1]] as const) {
      cases.push([Type.Object({ a: type }), changing(first, then)], [Type.Object({ a: type }), toJSON(first, { a: then })])
      cases.push([Type.Object({ a: type }), toJSON(first, then)])
      cases.push([Type.Object({ a: Type.Union([type, Type.Null()]) }), changing(first, then)])
    }
  }
  for (const [schema, data] of cases) {
    let text = '"refused"'
    try {
      text = encoder(schema)(data)
    } catch (error) {
      t.match(error, { code: 'FST_SSE_INVALID_EVENT' })
    }
    t.notMatch(parse(text), { notJson: String }, name(schema))
  }
  refused(t, Type.Object({ a: Type.Number() }), { get a () { throw new Error('boom') } }, /^Invalid event: event 'e'.*boom/)
})

t.test('transforms are encoded, and what is encoded is checked', async (t) => {
  const at = new Date(0)
  const iso = '1970-01-01T00:00:00.000Z'
  const Cents = Type.Transform(Type.Integer()).Decode((n) => n / 100).Encode((n) => n * 100)
  const Day = Type.Transform(Type.String()).Decode((text) => new Date(text)).Encode((date) => date.toISOString())
  carries(t, Moment, at, iso)
  carries(t, Type.Object({ list: Type.Array(Type.Object({ at: Moment })) }), { list: [{ at }] }, { list: [{ at: iso }] })
  carries(t, Type.Object({ at: Type.Optional(Moment) }), {}, {})
  carries(t, Type.Union([Day, Type.Null()]), at, iso)
  carries(t, Type.Union([Day, Type.Null()]), null)
  carries(t, Cents, 1.25, 125)
  refused(t, Cents, 1.255, /data: expected integer, got the number 125\.\d+$/)
  refused(t, Moment, iso, /^Invalid event: event 'e', data: cannot encode a string of length 24 \(date\.toISOString is not a function\)$/)
  refused(t, Type.Object({ at: Moment }), { at: new Date(NaN) }, /event 'e', data\/at: cannot encode an object \(Date\) \(Invalid time value\)/)
  refused(t, Type.Object({ at: Moment }), 5, /data: expected object, got the number 5/)
  refused(t, Type.Object({ pair: Type.Tuple([Moment]) }), { pair: null }, /event 'e', data(\/pair)?: /)
  const data = Object.freeze({ at })
  carries(t, Type.Object({ at: Moment }), data, { at: iso })
  t.equal(data.at, at, 'what was yielded stays as it is')
})

t.test('a union of a transform with a format and null takes both', async (t) => {
  carries(t, Type.Union([Moment, Type.Null()]), null)
  carries(t, Type.Union([Moment, Type.Null()]), new Date(0), '1970-01-01T00:00:00.000Z')
})

t.test('a date-time with a line end where its T stands is valid JSON, however its format is declared', async (t) => {
  const text = '2020-01-01\n00:00:00Z'
  const shared = {
    When: { $id: 'When', type: ['string', 'null'], format: 'date-time' },
    Stamp: { $id: 'Stamp', type: 'string', format: 'date-time' }
  }
  for (const format of ['date-time', 'iso-date-time']) {
    const schemas: Schema[] = [
      Type.String({ format }), { format }, { format, minLength: 1 }, { type: ['string', 'null'], format },
      { allOf: [{ type: 'string' }, { format }] }, { type: 'string', anyOf: [{ format }, { format: 'date' }] },
      Type.Union([Type.String({ format }), Type.Null()]), { $ref: 'When' }, { $ref: 'Stamp' }
    ]
    for (const schema of schemas) {
      let json: unknown = text
      try {
        json = parse(encoder(schema, shared)(text))
      } catch (error) {
        t.match(error, { code: 'FST_SSE_INVALID_EVENT' })
      }
      t.equal(json, text, name(schema))
    }
  }
  refused(t, { type: 'object', properties: { d: { type: 'string', format: 'date' } } }, { d: '2020-13-01' }, /data\/d: expected a string of the format 'date'/)
})

t.test('raw needs a schema of strings, and keeps it', async (t) => {
  const raw = (schema: Schema, raw: string) => encodeEvent({ event: 'e', raw }, compile({ e: schema }))
  const strings: Schema[] = [
    Type.String(), Type.Literal('x\ny'), Type.Union([Type.Literal('x\ny'), Type.Literal('z')]), { enum: ['x\ny'] },
    Type.Transform(Type.String()).Decode(Number).Encode(String), Type.String({ pattern: '^x' })
  ]
  for (const schema of strings) t.equal(raw(schema, 'x\ny'), 'event: e\ndata: x\ndata: y\n\n')
  for (const schema of [Price, Type.Number(), Type.Any(), Type.Union([Type.String(), Type.Null()]), { enum: ['x', 1] }]) {
    t.throws(() => raw(schema, 'x'), { code: 'FST_SSE_INVALID_EVENT', message: "Invalid event: event 'e' has 'raw', but its schema is not one of strings: give it data" })
  }
  t.throws(() => raw(Type.String({ maxLength: 1 }), 'xy'), { message: /^Invalid event: event 'e', raw: expected .*, got a string of length 2$/ })
  t.equal(encodeEvent('text', compile({ message: Type.String() })), 'data: text\n\n', 'a bare string is raw')
})

t.test('the event type must be declared; a block that is no event needs no type', async (t) => {
  const payloads = compile({ price: Price, message: Type.Number() })
  const undeclared = "Invalid event: 'events' has no type 'prize': declare it there, or send one of 'price', 'message'"
  t.throws(() => encodeEvent({ event: 'prize', data: 1 }, payloads), { code: 'FST_SSE_INVALID_EVENT', message: undeclared })
  t.throws(() => encodeEvent({ event: 'prize' }, payloads), { message: undeclared })
  t.throws(() => encodeEvent({ event: 'toString', data: 1 }, payloads), { message: /has no type 'toString'/ })
  t.throws(() => encodeEvent({ data: 1 }, compile({ price: Price })), { message: /has no type 'message' \(an event without 'event'\): declare it there, or send one of 'price'$/ })
  for (const event of [undefined, '', 'message']) t.equal(encodeEvent({ event, data: 1 }, payloads), 'data: 1\n\n')
  t.equal(encodeEvent({ comment: 'hi' }, payloads), ': hi\n\n')
  t.equal(encodeEvent({ id: 1, retry: 2 }, payloads), 'id: 1\nretry: 2\n\n')
  t.throws(() => encodeEvent({ event: 'message' }, payloads), { message: /event 'message' needs data/ })
})

async function serve (t: Test, events: Record<string, Schema>, ...shared: Shared[]): Promise<(data: unknown) => Promise<string>> {
  const app = await createApp(t)
  let data: unknown
  app.get('/', { schema: { events } }, async (request, reply) => reply.sse([{ event: 'e', data }] as never))
  for (const schema of shared) app.addSchema(schema)
  return async (given) => {
    data = given
    return (await app.inject('/')).payload
  }
}

t.test('shared schemas, though they are added after the route', async (t) => {
  const Shared = Type.Object({ n: Type.Number() }, { $id: 'Shared' })
  const sent = 'event: e\ndata: {"n":1}\n\n'
  const plain = await serve(t, { e: { $ref: 'Shared#' } }, Shared)
  t.equal(await plain({ n: 1, secret: 2 }), sent)
  t.match(await plain({ n: '1' }), /data\/n: expected number/)
  const nested = await serve(t, { e: { type: 'array', items: { $ref: 'Shared' } } }, Shared)
  t.equal(await nested([{ n: 1, secret: 2 }]), 'event: e\ndata: [{"n":1}]\n\n')
  const chain = await serve(t, { e: { $ref: 'Chain' } }, { $id: 'Chain', type: 'object', properties: { s: { $ref: 'Shared' } } }, Shared)
  t.equal(await chain({ s: { n: 1 } }), 'event: e\ndata: {"s":{"n":1}}\n\n')
})

t.test('shared schemas by the $ref of TypeBox, and in their own place', async (t) => {
  const Shared = Type.Object({ n: Type.Number() }, { $id: 'Shared' })
  const shared = { Shared: structuredClone(Shared) }
  t.doesNotThrow(() => carries(t, Type.Ref('Shared'), { n: 1, secret: 2 }, { n: 1 }, shared))
  t.doesNotThrow(() => carries(t, Type.Object({ s: Type.Ref('Shared') }), { s: { n: 1, secret: 2 } }, { s: { n: 1 } }, shared))
  t.doesNotThrow(() => carries(t, Type.Object({ at: Moment, s: Type.Ref('Shared') }), { at: new Date(0), s: { n: 1 } },
    { at: '1970-01-01T00:00:00.000Z', s: { n: 1 } }, shared))
  t.doesNotThrow(() => carries(t, Shared, { n: 1, secret: 2 }, { n: 1 }, shared), 'a schema that is shared as well')
})

t.test('the same map of schemas means in each context what its own shared schemas say', async (t) => {
  const events = { message: { $ref: 'Shared' } }
  const app = await createApp(t)
  for (const type of ['number', 'string']) {
    await app.register(async (app) => {
      app.addSchema({ $id: 'Shared', type })
      app.get(`/${type}`, { schema: { events } }, async (request, reply) => reply.sse([{ data: type === 'number' ? 1 : 'x' }] as never))
    })
  }
  t.equal((await app.inject('/number')).payload, 'data: 1\n\n')
  t.equal((await app.inject('/string')).payload, 'data: "x"\n\n')
})

t.test('a bad schema fails at start-up', async (t) => {
  const bad: Schema[] = [
    { type: 'nope' }, { type: 'object', properties: { a: { minimum: 'x' } } }, Type.Date(), { $ref: '#/nowhere' },
    { type: 'string', format: 'nope' }, { type: 'string', pattern: '(' }, { type: 'object', propertees: {} }
  ]
  for (const schema of bad) {
    const app = await createApp(t)
    const start = async () => {
      app.get('/bad', { schema: { events: { e: schema } } }, () => {})
      await app.ready()
    }
    await t.rejects(start(), { code: 'FST_SSE_INVALID_SCHEMA', message: /^Invalid schema\.events of (GET|HEAD) \/bad: ./ })
  }
  const app = await createApp(t)
  app.get('/bad', { schema: { events: { e: { $ref: 'Nowhere' } } } }, () => {})
  await t.rejects(async () => { await app.ready() }, { code: 'FST_SSE_INVALID_SCHEMA', message: /Nowhere/ }, 'a $ref to nothing')
})

t.test('a map of schemas is compiled once: for the route, its HEAD twin and whoever shares it', async (t) => {
  let reads = 0
  const events = { get message () { reads++; return Type.Number() } }
  const app = fastify()
  t.after(() => app.close())
  await app.register(sse)
  for (const url of ['/a', '/b']) app.get(url, { schema: { events } }, async (request, reply) => reply.sse([{ data: 1 }]))
  await app.ready()
  t.ok(app.hasRoute({ method: 'HEAD', url: '/a' }))
  const compiled = reads
  t.equal((await app.inject('/a')).payload, 'data: 1\n\n')
  t.equal((await app.inject({ method: 'HEAD', url: '/b' })).statusCode, 200)
  t.equal(reads, compiled, 'no request compiles anything')
  t.equal(compiled, 1)
})

t.test('what other members of a union declare is not lost, and a default is not sent for what was left out', async (t) => {
  const A = Type.Object({ a: Type.Number() })
  const AB = Type.Object({ a: Type.Number(), b: Type.Optional(Type.Number()) })
  carries(t, Type.Union([A, AB]), { a: 1, b: 2, c: 3 }, { a: 1, b: 2 })
  carries(t, Type.Object({ in: Type.Union([A, AB]) }), { in: { a: 1 } })
  carries(t, Type.Object({ a: Type.Optional(Type.Number({ default: 1 })) }), {})
})

t.test('a transform in a member of a union is found by its literal', async (t) => {
  const At = Type.Transform(Type.String({ format: 'date-time' })).Decode((s) => new Date(s)).Encode((d) => d.toISOString())
  const schema = Type.Union([
    Type.Object({ kind: Type.Literal('at'), value: At }),
    Type.Object({ kind: Type.Literal('text'), value: Type.String() })
  ])
  carries(t, schema, { kind: 'at', value: new Date(0) }, { kind: 'at', value: '1970-01-01T00:00:00.000Z' })
  carries(t, schema, { kind: 'text', value: 'now' })
})

t.test('what schemas declare under a condition, and by reference', async (t) => {
  const conditional = {
    type: 'object',
    properties: { kind: { type: 'string' } },
    if: { properties: { kind: { const: 'a' } } },
    then: { properties: { a: { type: 'number' } } },
    else: { properties: { b: { type: 'number' } } }
  }
  carries(t, conditional, { kind: 'a', a: 1, b: 2 }, { kind: 'a', a: 1 })
  carries(t, conditional, { kind: 'b', a: 1, b: 2 }, { kind: 'b', b: 2 })
  const dependent = {
    type: 'object',
    properties: { card: { type: 'string' } },
    dependencies: { card: { properties: { address: { type: 'string' } } }, address: ['card'] }
  }
  carries(t, dependent, { card: '1', address: 'x', other: 1 }, { card: '1', address: 'x' })
  carries(t, dependent, { other: 1 }, {})
  const referring = {
    $defs: { 'a/b~c': { type: 'object', properties: { n: { type: 'number' } } } },
    type: 'object',
    properties: { one: { $ref: '#/$defs/a~1b~0c' }, self: { $ref: '#' } }
  }
  carries(t, referring, { one: { n: 1, x: 1 }, self: { one: { n: 2, x: 2 }, x: 3 } }, { one: { n: 1 }, self: { one: { n: 2 } } })
  const inside = {
    type: 'object',
    properties: {
      p: {
        $id: 'P',
        type: 'object',
        properties: { q: { $ref: '#/definitions/q' } },
        definitions: { q: { type: 'object', properties: { r: { type: 'number' } } } }
      }
    }
  }
  carries(t, inside, { p: { q: { r: 1, x: 1 } } }, { p: { q: { r: 1 } } })
})

t.test('what schemas declare of other properties and elements', async (t) => {
  const Named = Type.Object({ n: Type.Number() })
  carries(t, Type.Object({ a: Type.Number() }, { additionalProperties: Named }), { a: 1, b: { n: 1, x: 1 } },
    { a: 1, b: { n: 1 } })
  carries(t, Type.Record(Type.String({ pattern: '^x' }), Named), { xa: { n: 1, y: 1 }, b: 1 }, { xa: { n: 1 } })
  carries(t, Type.Tuple([Named, Type.Number()]), [{ n: 1, x: 1 }, 2], [{ n: 1 }, 2])
  carries(t, { type: 'array', items: [Named], additionalItems: Type.Object({}) }, [{ n: 1, x: 1 }, { y: 1 }], [{ n: 1 }, {}])
  carries(t, { type: 'object', properties: { ['__proto__']: Named } }, JSON.parse('{"__proto__":{"n":1,"x":1},"b":1}'),
    JSON.parse('{"__proto__":{"n":1}}'))
})

t.test('members of a union that overlap all have their say', async (t) => {
  const A = Type.Object({ a: Type.Number() })
  const schema = Type.Union([
    Type.Composite([A, Type.Object({ b: Type.Optional(Type.Number()) })]),
    Type.Composite([A, Type.Object({ c: Type.Optional(Type.Number()) })]),
    Type.Intersect([A, Type.Object({ d: Type.Number() })])
  ])
  carries(t, schema, { a: 1, c: 2, x: 3 }, { a: 1, c: 2 })
  carries(t, schema, { a: 1, d: 2, x: 3 }, { a: 1, d: 2 })
  carries(t, Type.Union([Type.Literal(1), Type.Array(schema)]), [{ a: 1, b: 2, c: 3, x: 4 }], [{ a: 1, b: 2, c: 3 }])
})

t.test("formats of TypeBox's registry are known, and annotations are no mistakes", async (t) => {
  FormatRegistry.Set('even', (value) => value.length % 2 === 0)
  t.after(() => FormatRegistry.Delete('even'))
  carries(t, Type.String({ format: 'even', example: 'ab', description: 'of even length' }), 'ab')
  refused(t, Type.String({ format: 'even' }), 'a', /expected a string of the format 'even'/)
})

t.test('a recursive schema may be part of one event and the whole of another, in any order', async (t) => {
  const Tree = Type.Recursive((Self) => Type.Object({ name: Type.String(), children: Type.Array(Self) }), { $id: 'Tree' })
  const tree = { name: 'a', children: [{ name: 'b', children: [], secret: 1 }], secret: 2 }
  const whole = '{"name":"a","children":[{"name":"b","children":[]}]}'
  for (const events of [{ part: Type.Object({ Tree }), whole: Tree }, { whole: Tree, part: Type.Object({ Tree }) }]) {
    const payloads = compile(events)
    t.equal(payloads.get('whole')!.serialize(tree), whole)
    t.equal(payloads.get('part')!.serialize({ Tree: tree }), `{"Tree":${whole}}`)
    t.throws(() => payloads.get('whole')!.serialize({ name: 'a', children: [{}] }), { code: 'FST_SSE_INVALID_EVENT' })
  }
})

t.test('properties go out in the order of the schema, whether an object has others or not', async (t) => {
  const inner = Type.Object({ p: Type.Number(), q: Type.Number() })
  const payload = compilePayloads({ a: { ...Type.Object({ x: Type.Number(), y: inner }) } }, {}).get('a')!
  const expected = '{"x":1,"y":{"p":1,"q":2}}'
  for (const data of [
    { x: 1, y: { p: 1, q: 2 } }, { y: { q: 2, p: 1 }, x: 1 },
    { z: 0, x: 1, y: { p: 1, q: 2 } }, { x: 1, y: { q: 2, r: 0, p: 1 } },
    { z: undefined, x: 1, y: { p: 1, q: 2 } }, Object.assign(Object.create(null), { x: 1, y: { p: 1, q: 2 } }),
    Object.create({ x: 1, y: { p: 1, q: 2 } })
  ]) t.equal(payload.serialize(data), expected)
  const hidden = Object.defineProperty({ z: 0, y: { p: 1, q: 2 } }, 'x', { value: 1, enumerable: false })
  t.equal(payload.serialize(hidden), expected, 'what is declared but not enumerable is sent, and not another property for it')
})
