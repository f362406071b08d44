/** What `batch` makes of the types of sources. */
import { Type } from '@sinclair/typebox'
import fastify from 'fastify'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import { describe, expect, test } from 'tstyche'
import sse from '../index.ts'
import { batch } from '../lib/batch.ts'

interface Price { symbol: string, price: number }
const prices = null as unknown as AsyncIterable<Price>
const app = fastify()
app.register(sse)

describe('batch', () => {
  test('gives arrays of what the source yields', () => {
    expect(batch(prices, { count: 5 })).type.toBe<AsyncIterableIterator<Price[]>>()
    expect(batch([1, 2], { ms: 5 })).type.toBe<AsyncIterableIterator<number[]>>()
    expect(batch([Promise.resolve('a')], { count: 5, ms: 5 })).type.toBe<AsyncIterableIterator<string[]>>()
    expect(batch(new Set<'a' | 'b'>(), { count: undefined, ms: 5 })).type.toBe<AsyncIterableIterator<('a' | 'b')[]>>()
    expect(batch((async function * () { yield 1 })(), { count: 1 })).type.toBe<AsyncIterableIterator<number[]>>()
    expect(batch(null as unknown as ReadableStream<Price>, { count: 1 })).type.toBe<AsyncIterableIterator<Price[]>>()
    expect(batch(Readable.from([]), { count: 1 })).type.toBe<AsyncIterableIterator<any[]>>()
    expect(batch(app.sse.channel('prices').subscribe(), { count: 1 })).type.toBeAssignableTo<AsyncIterable<{ data?: unknown }[]>>()
  })

  test('takes nothing else', () => {
    expect(batch).type.not.toBeCallableWith(prices)
    expect(batch).type.not.toBeCallableWith(prices, { count: '5' })
    expect(batch).type.not.toBeCallableWith(prices, { size: 5 })
    expect(batch).type.not.toBeCallableWith(5, { count: 5 })
    expect(batch).type.not.toBeCallableWith(async function * () { yield 1 }, { count: 5 })
    expect(batch).type.not.toBeCallableWith(Promise.resolve([1]), { count: 5 })
  })

  test('a batch is the data of an event', () => {
    const events = { prices: Type.Array(Type.Object({ symbol: Type.String(), price: Type.Number() })) }
    app.get('/', { schema: { events } }, async (request, reply) => reply.sse(async function * () {
      for await (const all of batch(prices, { count: 50, ms: 100 })) yield { event: 'prices', data: all }
    }))
    app.get('/', { schema: { events } }, async (request, reply) => {
      // @ts-expect-error is not assignable
      return reply.sse(batch(prices, { count: 50 }))
    })
  })
})
