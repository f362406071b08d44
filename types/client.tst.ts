/** What clients, and tests by `injectSse`, know of the events that they receive. */
import { Type } from '@sinclair/typebox'
import fastify from 'fastify'
import { describe, expect, test } from 'tstyche'
import type { Gap } from '../index.ts'
import { fetchEvents, typedEventSource, type ClientEvent, type EventSourceLike, type ReceivedGap } from '../lib/client/index.ts'
import { injectSse } from '../lib/testing/index.ts'

const Time = Type.Transform(Type.String()).Decode((text) => new Date(text)).Encode((date) => date.toISOString())
const events = {
  price: Type.Object({ eur: Type.Number(), at: Time }),
  message: Type.String(),
  plain: { type: 'object', properties: { a: { type: 'number' } } }
}
type Events = typeof events
declare const source: EventSourceLike

describe('a received event', () => {
  test('is narrowed by its type, and may be a gap', () => {
    const event = {} as ClientEvent<Events>
    expect(event.event).type.toBe<'price' | 'message' | 'plain' | 'gap'>()
    expect(event.text).type.toBe<string>()
    expect(event.id).type.toBe<string | undefined>()
    if (event.event === 'price') expect(event.data).type.toBe<{ eur: number, at: string }>()
    if (event.event === 'message') expect(event.data).type.toBe<string>()
    if (event.event === 'plain') expect(event.data).type.toBe<unknown>()
    if (event.event === 'gap') expect(event).type.toBe<ReceivedGap>()
  })

  test('has the data of a gap that the server sends', () => {
    expect<ReceivedGap['data']>().type.toBeAssignableTo<Gap>()
    expect<Gap>().type.toBeAssignableTo<ReceivedGap['data']>()
  })

  test('can be any where nothing is declared', () => {
    const event = {} as ClientEvent<undefined>
    expect(event.event).type.toBe<string>()
    expect(event.data).type.toBe<unknown>()
  })
})

describe('fetchEvents', () => {
  test('yields the declared events', async () => {
    expect(await fetchEvents<Events>('/').next()).type.toBe<IteratorResult<ClientEvent<Events>, undefined>>()
    for await (const event of fetchEvents<Events>(new URL('http://a/'))) expect(event).type.toBe<ClientEvent<Events>>()
    for await (const event of fetchEvents('/')) expect(event.data).type.toBe<unknown>()
  })

  test('takes what fetch takes, and its own options', () => {
    expect(fetchEvents).type.toBeCallableWith('/', {
      method: 'POST',
      headers: { a: 'b' },
      body: 'text',
      credentials: 'include' as const,
      signal: new AbortController().signal,
      lastEventId: '1',
      fetch,
      check: () => true
    })
    expect(fetchEvents).type.not.toBeCallableWith('/', { lastEventId: 1 })
    expect(fetchEvents).type.not.toBeCallableWith('/', { retry: 1 })
  })

  test('check is asked about every event but a gap', () => {
    fetchEvents<Events>('/', {
      check (event) {
        expect(event.event).type.toBe<'price' | 'message' | 'plain'>()
        return true
      }
    })
  })
})

describe('typedEventSource', () => {
  const view = typedEventSource<Events>(source)

  test('listens to the declared types, and to a gap', () => {
    view.on('price', (event) => expect(event.data).type.toBe<{ eur: number, at: string }>())
    view.on('message', ({ data, text, id }) => {
      expect(data).type.toBe<string>()
      expect(text).type.toBe<string>()
      expect(id).type.toBe<string | undefined>()
    })
    view.on('gap', ({ data }) => expect(data.earliest).type.toBe<string | null>())
    expect(view.on).type.not.toBeCallableWith('prize', () => {})
    expect(view.on('price', () => {})).type.toBe<() => void>()
  })

  test('listens to any where nothing is declared', () => {
    typedEventSource(source).on('any', ({ data }) => expect(data).type.toBe<unknown>())
    typedEventSource(source).on('gap', ({ data }) => expect(data.requested).type.toBe<string>())
  })
})

describe('injectSse', () => {
  const app = fastify()

  test('yields what the schemas declare, given as a value or as a type', async () => {
    for await (const event of injectSse(app, '/', { events })) expect(event).type.toBe<ClientEvent<Events>>()
    for await (const event of injectSse<Events>(app, '/')) expect(event).type.toBe<ClientEvent<Events>>()
    for await (const { data } of injectSse(app, { method: 'POST', url: '/', payload: {} })) expect(data).type.toBe<unknown>()
  })

  test('has the head of the response', async () => {
    expect((await injectSse(app, '/').response).statusCode).type.toBe<number>()
  })

  test('takes an app of any kind', () => {
    expect(injectSse).type.toBeCallableWith(fastify({ http2: true }), '/')
    expect(injectSse).type.not.toBeCallableWith({}, '/')
  })
})
