/** What @fastify/swagger makes of a route with event streams: the document says what is sent, and changes none of it. */
import swagger from '@fastify/swagger'
import { Validator } from '@seriousme/openapi-schema-validator'
import { Type } from '@sinclair/typebox'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import sse, { type SseOptions } from '../index.ts'
import { documentStreams } from '../lib/openapi.ts'
import { fetchBody, listen } from './helpers.ts'

type Json = any
type AddRoutes = (app: FastifyInstance) => unknown

const openapi = (version: string) => ({ openapi: version, info: { title: 'Test', version: '1' } })
const V32 = { openapi: openapi('3.2.0'), convertConstToEnum: false }

/** An app with the plugin and @fastify/swagger, ready. */
async function createDocumented (t: Test, addRoutes: AddRoutes, swaggerOptions: object = V32, options: SseOptions = {}) {
  const app = fastify()
  t.after(() => app.close())
  await app.register(swagger, swaggerOptions)
  await app.register(sse, options)
  await addRoutes(app)
  await app.ready()
  return app
}

/** One operation, or the whole document. */
async function document (t: Test, addRoutes: AddRoutes, swaggerOptions: object = V32): Promise<Json> {
  return (await createDocumented(t, addRoutes, swaggerOptions)).swagger()
}

async function operation (t: Test, schema: object, swaggerOptions?: object): Promise<Json> {
  return (await document(t, (app) => { app.get('/', { schema }, handler) }, swaggerOptions)).paths['/'].get
}

/** What the official schema says of a document: the properties that it does not know, else all of it; none where it is valid. */
async function complaints (document: object): Promise<unknown[]> {
  const validator = new Validator({ allErrors: true })
  const { valid, errors = [] } = await validator.validate(structuredClone(document) as Record<string, unknown>)
  if (valid) return []
  if (typeof errors === 'string') return [errors]
  const unknown = errors.map(({ params }) => params.unevaluatedProperty ?? params.additionalProperty).filter(Boolean)
  return unknown.length > 0 ? unknown : errors
}

const handler = async (request: unknown, reply: FastifyReply) => reply.sse([])
const Price = Type.Object({ symbol: Type.String(), price: Type.Number() })
const ID = { id: { type: 'string' }, retry: { type: 'integer', minimum: 0 } }
const PRICE = `JSON, as in ${JSON.stringify(Price)}`
const MESSAGE = 'JSON, as in {"type":"integer"}'
const STREAM = 'text/event-stream'

t.test('events are documented as an OpenAPI 3.2 itemSchema, and as the items of an array', async (t) => {
  const { parameters, responses } = await operation(t, { events: { price: Price, message: Type.Integer() } })
  t.strictSame(responses['200'].content, {
    [STREAM]: {
      schema: {
        type: 'array',
        items: {
          oneOf: [{
            type: 'object',
            required: ['event', 'data'],
            properties: { event: { type: 'string', const: 'price' }, data: { type: 'string', description: PRICE }, ...ID }
          }, {
            type: 'object',
            required: ['data'],
            properties: { event: { type: 'string', const: 'message' }, data: { type: 'string', description: MESSAGE }, ...ID }
          }]
        }
      },
      itemSchema: {
        oneOf: [{
          type: 'object',
          required: ['event', 'data'],
          properties: { event: { type: 'string', const: 'price' }, data: json(plain(Price)), ...ID }
        }, {
          type: 'object',
          required: ['data'],
          properties: { event: { type: 'string', const: 'message' }, data: json({ type: 'integer' }), ...ID }
        }]
      }
    }
  })
  t.strictSame(parameters.map(({ in: where, name, required, schema }: Json) => [where, name, required, schema]), [
    ['query', 'lastEventId', false, { type: 'string' }], ['header', 'Last-Event-ID', false, { type: 'string' }]
  ])
  t.same(Object.keys(responses), ['200', '204', '400', '429', '503'])
  t.notOk(responses['204'].content)
  t.match(responses['400'].content['application/json'].schema.required, ['statusCode', 'error', 'message'])
  for (const status of [429, 503]) t.match(responses[status].headers['retry-after'], { schema: { type: 'integer' } })
})

function json (contentSchema: object) {
  return { type: 'string', contentMediaType: 'application/json', contentSchema }
}

/** Without TypeBox's symbols. */
function plain (schema: object): object {
  return JSON.parse(JSON.stringify(schema))
}

t.test('strings may be sent as JSON or as they are; one event type is documented as many are', async (t) => {
  const word = { type: 'string', minLength: 1 }
  const { responses } = await operation(t, { events: { word } })
  const { oneOf } = responses['200'].content[STREAM].itemSchema
  t.equal(oneOf.length, 1)
  t.match(oneOf[0].properties.data, { description: /or the string itself/, anyOf: [json(word), word] })
})

t.test('a route with options alone has any events; one with neither is left alone', async (t) => {
  const { paths } = await document(t, (app) => {
    app.get('/any', { sse: { finite: true } }, handler)
    app.get('/none', { schema: { events: {} } }, handler)
    app.get('/other', { schema: { summary: 'mine' } }, async () => 'fine')
    app.get('/bare', async () => 'fine')
  })
  const items = { type: 'object', required: ['data'], properties: { event: { type: 'string' }, data: { type: 'string' }, ...ID } }
  for (const path of ['/any', '/none']) {
    t.strictSame(paths[path].get.responses['200'].content[STREAM], { schema: { type: 'array', items }, itemSchema: items })
  }
  t.same(paths['/other'].get, { summary: 'mine', responses: { 200: { description: 'Default Response' } } })
  t.same(paths['/bare'].get, { responses: { 200: { description: 'Default Response' } } })
})

t.test('the order of registration does not matter, nor does nesting', async (t) => {
  const routes = async (app: FastifyInstance) => { app.get('/prices', { schema: { events: { price: Price } } }, handler) }
  const orders: Record<string, (app: FastifyInstance) => unknown> = {
    'swagger first': async (app) => { await app.register(swagger, V32); await app.register(sse); await routes(app) },
    'swagger last': async (app) => { await app.register(sse); await app.register(swagger, V32); await routes(app) },
    'not awaited': (app) => { app.register(swagger, V32); app.register(sse); app.register(routes) },
    'not awaited, swagger last': (app) => { app.register(sse); app.register(swagger, V32); app.register(routes) },
    'in plugins': async (app) => {
      await app.register(swagger, V32)
      await app.register(async (app) => {
        await app.register(sse)
        await app.register(async (app) => { await app.register(routes) })
      })
    }
  }
  let first: Json
  for (const [order, build] of Object.entries(orders)) {
    const app = fastify()
    t.after(() => app.close())
    await build(app)
    await app.ready()
    const { paths } = app.swagger() as Json
    t.ok(paths['/prices'].get.responses['200'].content[STREAM].itemSchema, order)
    t.strictSame(paths, first ??= paths, order)
  }
})

t.test("parameters are merged with the user's", async (t) => {
  const theirs = { type: 'integer', description: 'theirs' }
  const names = async (schema: object) => {
    const { paths } = await document(t, (app) => {
      app.addSchema({ $id: 'page', type: 'object', properties: { page: theirs } })
      app.addSchema({ $id: 'own', type: 'object', properties: { lastEventId: theirs } })
      app.get('/', { schema: { events: { price: Price }, ...schema } }, handler)
    })
    return paths['/'].get.parameters
      .map(({ in: where, name, description }: Json) => `${where} ${name}${description === 'theirs' ? '!' : ''}`)
  }
  const own = { type: 'object', properties: { page: theirs }, required: ['page'] }
  t.same(await names({ querystring: own, headers: own }), ['query page!', 'query lastEventId', 'header page!', 'header Last-Event-ID'])
  t.same(await names({ query: Type.Object({ page: Type.Integer() }) }), ['query page', 'query lastEventId', 'header Last-Event-ID'])
  t.same(await names({ querystring: { type: 'object' } }), ['query lastEventId', 'header Last-Event-ID'])
  t.same(await names({ querystring: { $ref: 'page#' } }), ['query lastEventId', 'query page!', 'header Last-Event-ID'])
  t.same(await names({ querystring: { allOf: [{ $ref: 'page#' }, { type: 'object', properties: { n: {} } }] } }),
    ['query lastEventId', 'query page!', 'query n', 'header Last-Event-ID'])
  t.same(await names({ querystring: { $ref: 'own#' } }), ['query lastEventId!', 'header Last-Event-ID'])
  const declared = (name: string) => ({ type: 'object', properties: { [name]: theirs } })
  t.same(await names({ querystring: declared('lastEventId'), headers: declared('last-event-id') }),
    ['query lastEventId!', 'header last-event-id!'])
  class OfAnotherValidator { parse () {} }
  const foreign = new OfAnotherValidator()
  const schema = { querystring: foreign, headers: foreign, response: { 200: foreign } } as never
  const { querystring, headers, response } = documentStreams(schema, { events: undefined, shared: {}, lastEventIdQuery: 'id' })
  t.same([querystring, headers, (response as Json)[200]], [foreign, foreign, foreign], 'left alone')
})

t.test('the query parameter has the name that the plugin gives it', async (t) => {
  const documented = (lastEventIdQuery: string | false) =>
    documentStreams(undefined, { events: undefined, shared: {}, lastEventIdQuery }) as Json
  t.same(Object.keys(documented('since').querystring.properties), ['since'])
  t.equal(documented(false).querystring, undefined)
  t.same(Object.keys(documented(false).headers.properties), ['Last-Event-ID'])
})

t.test("what the user's own response says stays", async (t) => {
  const theirs = Type.Object({ own: Type.String() })
  const body = plain(theirs)
  const described = { ...theirs, description: 'the list, or a stream', headers: { 'x-own': { type: 'string' } } }
  const both = (await operation(t, { events: { price: Price }, response: { 200: described, 400: theirs } })).responses
  t.match(both['200'], { description: 'the list, or a stream', headers: { 'x-own': { schema: { type: 'string' } } } })
  t.same(both['200'].content['application/json'].schema, { ...body, description: 'the list, or a stream' })
  t.ok(both['200'].content[STREAM].itemSchema)
  t.same(both['400'].content['application/json'].schema, body)
  t.ok(both['503'])

  const content = { [STREAM]: { schema: theirs }, 'text/csv': { schema: { type: 'string' } } }
  const own = (await operation(t, { events: { price: Price }, response: { 200: { content }, '4xx': theirs, default: theirs } })).responses
  t.same(own['200'].content, plain(content))
  t.same(Object.keys(own).sort(), ['200', '204', '4XX', 'default'])

  const byHand = { produces: [STREAM], response: { 200: { type: 'string' }, '2xx': theirs } }
  const hand = (await operation(t, { events: { price: Price }, ...byHand })).responses
  t.same(hand['200'].content, { [STREAM]: { schema: { type: 'string' } } })
  t.notOk(hand['204'])

  const nothing = (await operation(t, { events: { price: Price }, response: { 200: { type: 'null', description: 'none' } } })).responses
  t.same(Object.keys(nothing['200'].content), [STREAM])
})

t.test('documenting changes nothing of what runs', async (t) => {
  const querystring = { type: 'object', additionalProperties: false, properties: { page: { type: 'integer' } } }
  const response = { 500: { type: 'object', properties: { own: { type: 'string' } } } }
  const schema = { querystring, response, events: { price: Price } }
  const before = structuredClone({ querystring, response })
  const answers: unknown[] = []
  for (const documented of [false, true]) {
    const app = fastify()
    t.after(() => app.close())
    if (documented) await app.register(swagger, V32)
    await app.register(sse)
    app.setErrorHandler(({ statusCode = 500, message }: Json, request, reply) => {
      reply.code(statusCode).send({ own: message, more: statusCode })
    })
    app.get('/', { schema }, async (request, reply) => {
      t.equal(request.routeOptions.schema, schema)
      const { throws, code } = request.headers
      if (throws !== undefined) throw Object.assign(new Error('mine'), { statusCode: Number(throws) })
      if (code !== undefined) return reply.code(Number(code) as 500).send({ own: 'thing' })
      return reply.sse([{ event: 'price', data: { symbol: JSON.stringify(request.query), price: 1 } }])
    })
    await app.ready()
    if (documented) t.ok((app.swagger() as Json).paths['/'].get.responses['429'])
    for (const code of ['200', '204', '400', '429', '503', '500']) {
      for (const name of ['throws', 'code']) answers.push((await app.inject({ url: '/', headers: { [name]: code } })).payload)
    }
    const hostile = '\u00e9'.repeat(600)
    for (const url of ['/', '/?page=2&other=x&lastEventId=1', '/?page=x', `/?lastEventId=${encodeURIComponent(hostile)}`]) {
      answers.push((await app.inject(url)).payload)
    }
    answers.push((await app.inject({ url: '/', headers: { 'last-event-id': '7' } })).payload)
  }
  const half = answers.length / 2
  t.same(answers.slice(half), answers.slice(0, half))
  t.match(answers.slice(half).join('\n'), /{"own":"mine","more":503}[^]*data: {"symbol":"{\\"page\\":2}"/)
  t.same({ querystring: schema.querystring, response: schema.response }, before)
  t.same(Object.keys(schema), ['querystring', 'response', 'events'])
})

t.test('nothing is read of it where nobody asks', async (t) => {
  let reads = 0
  const events = { get price () { reads++; return Price } }
  const app = await createDocumented(t, (app) => { app.get('/', { schema: { events } }, handler) })
  t.equal(reads, 1, 'to compile it')
  t.ok((app.swagger() as Json).paths['/'].get.responses['200'].content[STREAM])
  t.ok(reads > 1)
})

t.test('references, recursion and transforms', async (t) => {
  const Tree = Type.Recursive((This) => Type.Object({ name: Type.String(), branches: Type.Array(This) }))
  const Time = Type.Transform(Type.String({ format: 'date-time' }))
    .Decode((text) => new Date(text)).Encode((date) => date.toISOString())
  const List = Type.Recursive((This) => Type.Object({ next: Type.Optional(This) }))
  const part = { $ref: 'Price#/definitions/amount' }
  const events = { shared: { $ref: 'Price#' }, part, tree: Type.Object({ Tree }), time: Time }
  const api = await document(t, (app) => {
    app.get('/', { schema: { events, response: { 200: List } } }, handler)
    const amount = { type: 'number' }
    app.addSchema({ $id: 'Price', type: 'object', properties: { price: { $ref: '#/definitions/amount' } }, definitions: { amount } })
  })
  t.same(await complaints(api), [], 'every reference leads to a schema')
  const content = api.paths['/'].get.responses['200'].content
  const data = content[STREAM].itemSchema.oneOf.map(({ properties }: Json) => properties.data.contentSchema ?? properties.data)
  const at = ($ref: string) => $ref.split('/').slice(1).reduce((value, name) => value[name], api)
  t.match(at(data[0].$ref), { type: 'object', title: 'Price' })
  t.match(at(data[1].$ref), { type: 'number' })
  const { items } = data[2].properties.Tree.properties.branches
  t.match(at(items.$ref), { type: 'object', properties: { branches: { items } } })
  t.match(data[3].anyOf[1], { type: 'string', format: 'date-time' })
  const { next } = content['application/json'].schema.properties
  t.match(at(next.$ref), { properties: { next } }, "the user's own response, too")
})

const KINDS: Record<string, object> = {
  price: Price,
  message: Type.String(),
  maybe: Type.Union([Type.Number(), Type.Null()]),
  pair: Type.Object({ kind: Type.Literal('pair'), values: Type.Array(Type.Integer()), note: Type.Optional(Type.String()) }),
  shared: { $ref: 'Shared#' }
}

const addKinds: AddRoutes = (app) => {
  app.addSchema({ $id: 'Shared', type: 'object', properties: { a: { type: 'string' } }, required: ['a'] })
  app.get('/events', { schema: { events: KINDS } }, async (request, reply) => reply.sse([
    { event: 'price', data: { symbol: 'A', price: 1, undeclared: true } }, 'as it is', { data: 'in JSON', id: 4 },
    { event: 'maybe', data: null }, { event: 'pair', data: { kind: 'pair', values: [1, 2] }, id: 'x', retry: 5 },
    { event: 'shared', data: { a: 'b' } }, { comment: 'no event' }
  ] as never))
  app.get('/any', { sse: {} }, async (request, reply) => reply.sse([{ event: 'other', data: [1] }, 'x']))
}

t.test('documents are valid; of 3.0 and 3.1 strict validators only miss itemSchema', async (t) => {
  for (const convertConstToEnum of [true, false]) {
    t.same(await complaints(await document(t, addKinds, { openapi: openapi('3.2.0'), convertConstToEnum })), [])
  }
  for (const version of ['3.1.0', '3.0.3']) {
    const api = await document(t, addKinds, { openapi: openapi(version) })
    t.same([...new Set(await complaints(api))], ['itemSchema'], version)
    for (const { get } of Object.values<Json>(api.paths)) delete get.responses['200'].content[STREAM].itemSchema
    t.same(await complaints(api), [], version)
  }
})

/** Checks events against the documented schema of one, and their data, parsed, against its contentSchema. */
function createCheck (api: Json, path: string): (event: EventSourceMessage) => unknown {
  const ajv = new Ajv2020({ strict: false })
  ajv.addSchema(api, 'api')
  const at = `api#/paths/${path.replaceAll('/', '~1')}/get/responses/200/content/text~1event-stream/itemSchema`
  const { itemSchema } = api.paths[path].get.responses['200'].content[STREAM]
  return ({ event, data, id }) => {
    const fields = JSON.parse(JSON.stringify({ event, data, id }))
    if (!ajv.validate(at, fields)) return ajv.errors
    const index = itemSchema.oneOf?.findIndex(({ properties }: Json) => properties.event.const === (event ?? 'message'))
    if (itemSchema.oneOf?.[index].properties.data.contentSchema === undefined) return undefined
    return ajv.validate(`${at}/oneOf/${index}/properties/data/contentSchema`, JSON.parse(data)) ? undefined : ajv.errors
  }
}

t.test('what is on the wire is what is documented', async (t) => {
  const app = await createDocumented(t, addKinds)
  const port = await listen(app)
  const counts: Record<string, number> = { '/events': 6, '/any': 2 }
  for (const [path, count] of Object.entries(counts)) {
    const check = createCheck(app.swagger(), path)
    const events: EventSourceMessage[] = []
    createParser({ onEvent: (event) => { events.push(event) } }).feed(await fetchBody(t, port, path))
    t.equal(events.length, count)
    for (const event of events) t.equal(check(event), undefined, JSON.stringify(event))
  }
  const check = createCheck(app.swagger(), '/events')
  const wrong = [{ event: 'prize', data: '{}' }, { event: 'price', data: '{"symbol":1}' }, { event: 'shared', data: '{}' }]
  for (const event of wrong) t.ok(check({ id: undefined, ...event }), `${JSON.stringify(event)} is not`)
})

t.test('hidden routes, HEAD routes, arrays of methods, other names of the decorator', async (t) => {
  const schema = { events: { price: Price } }
  const app = await createDocumented(t, (app) => {
    app.get('/hidden', { schema: { ...schema, hide: true } }, handler)
    app.get('/head', { schema: { ...schema, response: { '2xx': Price } } }, handler)
    app.route({ method: ['GET', 'POST'], url: '/many', schema, handler })
  }, { ...V32, exposeHeadRoutes: true, decorator: 'docs' })
  const { paths } = (app as Json).docs()
  t.same(Object.keys(paths), ['/head', '/many'])
  t.ok(paths['/head'].head.responses['200'].content[STREAM])
  t.ok(paths['/many'].post.responses['200'].content[STREAM])
  t.equal((await app.inject({ method: 'HEAD', url: '/head' })).statusCode, 200)
})

t.test("a transform of the app's sees the documented schema", async (t) => {
  const seen: Json[] = []
  const transform = ({ schema, url }: Json) => { seen.push(schema); return { schema, url: `/v1${url}` } }
  const api = await document(t, addKinds, { ...V32, transform })
  t.ok(api.paths['/v1/events'].get.responses['200'].content[STREAM])
  t.ok(seen.every(({ response }) => response['204']))
})

t.test('a document of Swagger 2.0, which has no content types in responses, is written all the same', async (t) => {
  const api = await document(t, addKinds, { swagger: { info: { title: 'Test', version: '1' } } })
  const { parameters, responses } = api.paths['/events'].get
  t.same(parameters.map(({ name }: Json) => name), ['lastEventId', 'Last-Event-ID'])
  t.same(responses['204'], { description: responses['204'].description })
  t.ok(responses['200'].schema.content[STREAM])
})
