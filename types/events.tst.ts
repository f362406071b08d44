/** What `schema.events` lets a handler send, and what must not compile. */
import type { TypeBoxTypeProvider, FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import fastify, {
  type ContextConfigDefault, type FastifyPluginAsync, type FastifyReply, type FastifyRequest, type RawReplyDefaultExpression,
  type RawRequestDefaultExpression, type RawServerDefault, type RouteGenericInterface, type RouteHandlerMethod
} from 'fastify'
import { Readable } from 'node:stream'
import { describe, expect, test } from 'tstyche'
import sse, { type EventOf, type SseEvent } from '../index.ts'

const Price = Type.Object({ symbol: Type.String(), price: Type.Number() })
const Trade = Type.Object({ size: Type.Integer() })
const events = { price: Price, trade: Trade }
const app = fastify()
app.register(sse, { keepAlive: 15_000 })

const price = { event: 'price', data: { symbol: 'A', price: 1 } } as const
const wrongData = { event: 'price', data: { symbol: 'A', price: '1' } } as const
const wrongType = { event: 'prize', data: { symbol: 'A', price: 1 } } as const
const noData = { event: 'price' } as const

describe('a route with schema.events', () => {
  test('app.get takes its events and no others', () => {
    app.get('/', { schema: { events } }, async (request, reply) => {
      expect(request.lastEventId).type.toBe<string | undefined>()
      expect(reply.sse).type.toBeCallableWith([price])
      expect(reply.sse).type.toBeCallableWith([price, { event: 'trade' as const, data: { size: 1 }, id: 5n, retry: 1, comment: '' }])
      expect(reply.sse).type.not.toBeCallableWith([wrongData])
      expect(reply.sse).type.not.toBeCallableWith([wrongType])
      expect(reply.sse).type.not.toBeCallableWith([noData])
      expect(reply.sse).type.not.toBeCallableWith([{ data: 1 }])
      expect(reply.sse).type.not.toBeCallableWith(['text'])
      expect(reply.sse).type.not.toBeCallableWith([{ event: 'price' as const, raw: 'text' }])
      return reply.sse([price])
    })
  })

  test('generators need no "as const" where they stand', () => {
    app.get('/', { schema: { events } }, async (request, reply) => reply.sse((async function * () {
      yield { event: 'price', data: { symbol: 'A', price: 1 } }
    })()))
    app.get('/', { schema: { events } }, async (request, reply) => reply.sse(async function * ({ signal, lastEventId }) {
      expect(signal).type.toBe<AbortSignal>()
      expect(lastEventId).type.toBe<string | undefined>()
      yield { event: 'price', data: { symbol: 'A', price: 1 } }
      yield { event: 'trade', data: { size: 1 } }
    }))
    app.get('/', { schema: { events } }, async (request, reply) => reply.sse(function * () {
      yield { event: 'trade', data: { size: 1 } }
    }))
  })

  test('a comment, an ID and a reconnection time may come without an event', () => {
    app.get('/', { schema: { events } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([price, { comment: 'c' }, { id: 1 }, { retry: 2, comment: 'c' }])
      expect(reply.sse).type.not.toBeCallableWith([{}])
      expect(reply.sse).type.not.toBeCallableWith([{ event: 'price' as const, comment: 'c' }])
      expect(reply.sse).type.not.toBeCallableWith([{ data: 1, comment: 'c' }])
      expect(reply.sse).type.not.toBeCallableWith([{ raw: 'text', comment: 'c' }])
      return reply.sse(async function * () {
        yield { comment: 'c' }
        yield { event: 'price', data: { symbol: 'A', price: 1 } }
      })
    })
    expect(app.sse.channel('prices', { events }).publish).type.not.toBeCallableWith({ comment: 'c' })
  })

  test('a wrong event inside a generator does not compile', () => {
    app.get('/', { schema: { events } }, async (request, reply) => {
      // @ts-expect-error is not assignable
      return reply.sse(async function * () { yield { event: 'price', data: { symbol: 'A', price: '1' } } })
    })
    app.get('/', { schema: { events } }, async (request, reply) => {
      // @ts-expect-error is not assignable
      return reply.sse((async function * () { yield { event: 'prize', data: { symbol: 'A', price: 1 } } })())
    })
  })

  test('app.route, with a method as handler', () => {
    app.route({
      method: 'POST',
      url: '/',
      schema: { body: Type.Object({ a: Type.String() }), events },
      sse: { finite: true, retry: { min: 1, max: 2 } },
      async handler (request, reply) {
        expect(reply.sse).type.toBeCallableWith([price])
        expect(reply.sse).type.not.toBeCallableWith([wrongData])
        return reply.sse([price])
      }
    })
  })

  test('chained after code, header and type', () => {
    app.get('/', { schema: { events } }, (request, reply) => {
      expect(reply.code(200).sse).type.toBeCallableWith([price])
      expect(reply.code(200).sse).type.not.toBeCallableWith([wrongData])
      expect(reply.header('a', 'b').sse).type.not.toBeCallableWith([wrongData])
      expect(reply.type('text/event-stream').sse).type.not.toBeCallableWith([wrongType])
      reply.code(200).sse([price])
    })
  })

  test('encapsulated plugins', () => {
    const plugin: FastifyPluginAsync = async (instance) => {
      instance.get('/', { schema: { events } }, async (request, reply) => {
        expect(reply.sse).type.not.toBeCallableWith([wrongData])
        return reply.sse([price])
      })
    }
    const typed: FastifyPluginAsyncTypebox = async (instance) => {
      instance.get('/', { schema: { querystring: Type.Object({ n: Type.Number() }), events } }, async (request, reply) => {
        expect(request.query.n).type.toBe<number>()
        expect(reply.sse).type.not.toBeCallableWith([wrongData])
        return reply.sse([price])
      })
    }
    app.register(plugin)
    app.register(typed)
    app.register(async (instance) => {
      instance.get('/', { schema: { events } }, async (request, reply) => {
        expect(reply.sse).type.not.toBeCallableWith([wrongType])
        return reply.sse([price])
      })
    })
  })

  test('with the TypeBox type provider, beside other schemas', () => {
    app.withTypeProvider<TypeBoxTypeProvider>().get('/', {
      schema: { querystring: Type.Object({ n: Type.Number() }), response: { 200: Type.String() }, events }
    }, async (request, reply) => {
      expect(request.query.n).type.toBe<number>()
      expect(reply.sse).type.toBeCallableWith([price])
      expect(reply.sse).type.not.toBeCallableWith([wrongData])
      return reply.sse([price])
    })
  })

  test('over HTTP/2, with and without TLS', () => {
    fastify({ http2: true }).get('/', { schema: { events } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([price])
      expect(reply.sse).type.not.toBeCallableWith([wrongData])
      return reply.sse([price])
    })
    fastify({ http2: true, https: { allowHTTP1: true } }).withTypeProvider<TypeBoxTypeProvider>()
      .get('/', { schema: { events } }, async (request, reply) => {
        expect(reply.sse).type.not.toBeCallableWith([wrongType])
        return reply.sse([price])
      })
  })

  test('with options and hooks that stand apart', () => {
    const options = { schema: { events }, preHandler: async () => {} }
    app.get('/', options, async (request, reply) => {
      expect(reply.sse).type.not.toBeCallableWith([wrongData])
      return reply.sse([price])
    })
  })
})

describe('what data a schema describes', () => {
  test('message is the type of events without one', () => {
    app.get('/', { schema: { events: { message: Trade } } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([{ data: { size: 1 } }, { event: 'message' as const, data: { size: 1 } }])
      expect(reply.sse).type.not.toBeCallableWith([{ data: { size: '1' } }])
      expect(reply.sse).type.not.toBeCallableWith(['text'])
      return reply.sse([])
    })
  })

  test('raw text, and bare strings, where the schema is one of strings', () => {
    app.get('/', { schema: { events: { message: Type.String(), line: Type.String() } } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith(['text', { raw: 'text' }, { event: 'line' as const, raw: 'text' }])
      expect(reply.sse).type.not.toBeCallableWith([{ event: 'line' as const, raw: 'text', data: 'text' }])
      return reply.sse(['text'])
    })
  })

  test('a transform takes its decoded type', () => {
    const At = Type.Transform(Type.String()).Decode((text) => new Date(text)).Encode((date) => date.toISOString())
    app.get('/', { schema: { events: { at: Type.Object({ at: At }) } } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([{ event: 'at' as const, data: { at: new Date() } }])
      expect(reply.sse).type.not.toBeCallableWith([{ event: 'at' as const, data: { at: 'now' } }])
      return reply.sse([])
    })
    const Deep = Type.Object({
      list: Type.Array(At), pair: Type.Tuple([At, Type.Number()]), either: Type.Union([At, Type.Null()]), not: Type.Optional(At)
    })
    const Both = Type.Intersect([Type.Object({ at: At }), Type.Object({ n: Type.Number() })])
    const schema = { events: { both: Both, days: Type.Record(Type.String(), At) } }
    expect<EventOf<typeof schema>>().type.toBeAssignableFrom({ event: 'both' as const, data: { at: new Date(), n: 1 } })
    expect<EventOf<typeof schema>>().type.not.toBeAssignableFrom({ event: 'both' as const, data: { at: new Date() } })
    expect<EventOf<typeof schema>>().type.not.toBeAssignableFrom({ event: 'both' as const, data: { at: 'now', n: 1 } })
    expect<EventOf<typeof schema>>().type.toBeAssignableFrom({ event: 'days' as const, data: { today: new Date() } })
    expect<EventOf<typeof schema>>().type.not.toBeAssignableFrom({ event: 'days' as const, data: { today: 'now' } })
    expect<EventOf<{ events: { message: typeof Deep } }>>().type.toBeAssignableFrom(
      { data: { list: [new Date()], pair: [new Date(), 1] as [Date, number], either: null } })
    expect<EventOf<{ events: { message: typeof Deep } }>>().type.not.toBeAssignableFrom(
      { data: { list: ['now'], pair: [new Date(), 1] as [Date, number], either: null } })
  })

  test('optional, nullable and recursive data keep their types', () => {
    const Node = Type.Recursive((This) => Type.Object({ name: Type.Optional(Type.String()), children: Type.Array(This) }))
    const schema = { events: { node: Node, some: Type.Object({ a: Type.Optional(Type.Number()), b: Type.Any() }) } }
    expect<EventOf<typeof schema>>().type.toBeAssignableFrom({ event: 'node' as const, data: { children: [{ children: [] }] } })
    expect<EventOf<typeof schema>>().type.not.toBeAssignableFrom({ event: 'node' as const, data: { children: [{}] } })
    expect<EventOf<typeof schema>>().type.toBeAssignableFrom({ event: 'some' as const, data: { b: 1 } })
    expect<EventOf<typeof schema>>().type.not.toBeAssignableFrom({ event: 'some' as const, data: { a: 'b', b: 1 } })
  })

  test('a plain JSON Schema names the event types, and leaves their data open', () => {
    app.get('/', { schema: { events: { price: { type: 'object' } } } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([{ event: 'price' as const, data: { any: 'thing' } }])
      expect(reply.sse).type.not.toBeCallableWith([{ event: 'prize' as const, data: 1 }])
      return reply.sse([])
    })
  })

  test('EventOf gives the events to a generator that stands apart', () => {
    const schema = { events }
    async function * prices (): AsyncGenerator<EventOf<typeof schema>> {
      yield { event: 'price', data: { symbol: 'A', price: 1 } }
      // @ts-expect-error is not assignable
      yield { event: 'price', data: { symbol: 'A', price: '1' } }
    }
    app.get('/', { schema }, async (request, reply) => reply.sse(prices()))
    expect<EventOf<typeof schema>>().type.toBeAssignableFrom(price)
    expect<EventOf<typeof schema>>().type.not.toBeAssignableFrom(wrongType)
  })
})

describe('a route without schema.events', () => {
  test('takes any event, from any kind of source', () => {
    app.get('/', async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([{ data: 1 }, { event: 'a', raw: 'b' }, 'text', { comment: 'c' }])
      expect(reply.sse).type.toBeCallableWith(Readable.from([{ data: 1 }]))
      expect(reply.sse).type.toBeCallableWith(new ReadableStream<SseEvent>())
      expect(reply.sse).type.toBeCallableWith(new Set([{ data: 1 }]))
      expect(reply.sse).type.not.toBeCallableWith(5)
      expect(reply.sse).type.not.toBeCallableWith(Promise.resolve([]))
      expect(reply.sse).type.not.toBeCallableWith([5])
      expect(reply.sse).type.not.toBeCallableWith([{ data: 1, raw: 'both' }])
      expect(reply.sse).type.not.toBeCallableWith([{ id: null }])
      return reply.sse([])
    })
  })

  test('options are checked', () => {
    app.get('/', { sse: { keepAlive: false, writeTimeout: 1_000, maxDuration: { min: 1, max: 2 } } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([], { finite: true, onInvalidEvent: 'drop' as const })
      expect(reply.sse).type.not.toBeCallableWith([], { keepalive: 1 })
      expect(reply.sse).type.not.toBeCallableWith([], { retry: '1' })
      return reply.sse([])
    })
  })
})

describe("where types are lost by Fastify's own design", () => {
  const schema = { events }

  test('a handler that takes a bare FastifyReply may send any event', () => {
    async function handler (request: FastifyRequest, reply: FastifyReply) {
      expect(reply.sse).type.toBeCallableWith([wrongData])
      return reply.sse([wrongData])
    }
    app.get('/', { schema }, handler)
  })

  test('the way out: name the schema in the type of the handler', () => {
    const handler: RouteHandlerMethod<
      RawServerDefault, RawRequestDefaultExpression, RawReplyDefaultExpression, RouteGenericInterface, ContextConfigDefault,
      typeof schema
    > = async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith([price])
      expect(reply.sse).type.not.toBeCallableWith([wrongData])
      return reply.sse([price])
    }
    app.get('/', { schema }, handler)
  })
})

test('app.sse', () => {
  expect(app.sse.stats().closed['client-gone']).type.toBe<number>()
  for (const connection of app.sse.connections) expect(connection.end()).type.toBe<void>()
})
