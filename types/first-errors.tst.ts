/**
 * What the compiler says of the mistakes of the first hour: of each message the line that says what to do. A string for a
 * source compiles, as strings are iterable; what is said of it then is in test/first-errors.test.ts.
 */
import { Type } from '@sinclair/typebox'
import fastify from 'fastify'
import { EventEmitter } from 'node:events'
import { describe, test } from 'tstyche'
import sse from '../index.ts'

const app = fastify()
const events = { price: Type.Object({ eur: Type.Number() }) }
const handler = async () => {}

describe('mistakes of the first hour', () => {
  test('options', () => {
    // @ts-expect-error 'keepalive' does not exist in type 'FastifyRegisterOptions<SseOptions>'
    app.register(sse, { keepalive: 5_000 })
    // @ts-expect-error Did you mean to write 'keepAlive'?
    app.get('/', { sse: { keepalive: 5_000 } }, handler)
    // @ts-expect-error Type 'string' is not assignable to type 'number | false | undefined'
    app.get('/', { sse: { keepAlive: '15s' } }, handler)
    // @ts-expect-error Type 'true' has no properties in common with type 'StreamOptions'
    app.get('/', { sse: true }, handler)
    // @ts-expect-error Type 'number' has no properties in common with type 'Partial<History>'
    app.sse.channel('prices', { history: 100 })
  })

  test('schemas in the wrong place', () => {
    // @ts-expect-error Did you mean to write 'events'?
    app.get('/', { schema: { event: events } }, handler)
    // @ts-expect-error 'events' does not exist in type 'RouteShorthandOptions<
    app.get('/', { events }, handler)
    // @ts-expect-error Type '{ price: TObject<{ eur: TNumber; }>; }' has no properties in common with type
    app.sse.channel('prices', events)
  })

  test('sources', () => {
    app.get('/', async (request, reply) => {
      // @ts-expect-error Expected 1-2 arguments, but got 0
      reply.sse()
      // @ts-expect-error Argument of type 'Promise<{ data: number; }[]>' is not assignable to parameter of type 'SseSource<
      reply.sse(Promise.resolve([{ data: 1 }]))
      // @ts-expect-error Argument of type 'EventEmitter<DefaultEventMap>' is not assignable to parameter of type 'SseSource<
      reply.sse(new EventEmitter())
      // @ts-expect-error Argument of type '() => Promise<{ data: number; }[]>' is not assignable to parameter of type 'SseSource<
      reply.sse(async () => [{ data: 1 }])
    })
  })

  test('events', () => {
    app.get('/', { schema: { events } }, async (request, reply) => {
      // @ts-expect-error Type '"prize"' is not assignable to type '"price"'
      reply.sse([{ event: 'prize', data: { eur: 1 } }])
      // @ts-expect-error The types of 'data.eur' are incompatible between these types
      reply.sse([{ event: 'price', data: { eur: '1' } }])
      // @ts-expect-error 'eur' does not exist in type
      reply.sse([{ eur: 1 }])
      // @ts-expect-error Type 'number' is not assignable to type
      reply.sse(async function * () { yield 5 })
    })
    app.get('/', async (request, reply) => {
      // @ts-expect-error Type 'Date' is not assignable to type 'string |
      reply.sse([new Date()])
      // @ts-expect-error Cannot assign to 'lastEventId' because it is a read-only property
      request.lastEventId = '5'
    })
  })

  test('publishing', () => {
    const prices = app.sse.channel('prices', { events })
    // @ts-expect-error Expected 1 arguments, but got 2
    prices.publish('price', { eur: 1 })
    // @ts-expect-error Type 'string' is not assignable to type 'number'
    prices.publish({ event: 'price', data: { eur: '1' } })
  })
})
