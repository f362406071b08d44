/** What channels, subscriptions and runs let be published, and what their readers receive. */
import { Type } from '@sinclair/typebox'
import fastify from 'fastify'
import { describe, expect, test } from 'tstyche'
import sse, {
  createHub, type Gap, type GapEvent, type ReceivedEvent, type RunEnd, type SseRun, type StandaloneHub
} from '../index.ts'

const Price = Type.Object({ symbol: Type.String(), price: Type.Number() })
const Time = Type.Transform(Type.String()).Decode((text) => new Date(text)).Encode((date) => date.toISOString())
const prices = { price: Price, note: Type.String() }
const trades = { trade: Type.Object({ size: Type.Integer(), at: Time }) }
const app = fastify()
app.register(sse)

const price = { event: 'price', data: { symbol: 'A', price: 1 } } as const
const trade = { event: 'trade', data: { size: 1, at: new Date() } } as const
const wrongData = { event: 'price', data: { symbol: 'A', price: '1' } } as const
const wrongType = { event: 'prize', data: { symbol: 'A', price: 1 } } as const

interface PriceEvent {
  readonly event: 'price'
  readonly data: { symbol: string, price: number }
  readonly raw?: undefined
  readonly id?: string
}

describe('a channel with events', () => {
  const channel = app.sse.channel('prices', { events: prices })

  test('publish takes its events and no others', () => {
    expect(channel.publish).type.toBeCallableWith(price)
    expect(channel.publish).type.toBeCallableWith({ event: 'price' as const, data: price.data, retry: 5, comment: 'c' })
    expect(channel.publish).type.toBeCallableWith({ event: 'note' as const, data: 'text' })
    expect(channel.publish).type.toBeCallableWith({ event: 'note' as const, raw: 'text' })
    expect(channel.publish).type.not.toBeCallableWith(wrongData)
    expect(channel.publish).type.not.toBeCallableWith(wrongType)
    expect(channel.publish).type.not.toBeCallableWith({ event: 'price' as const })
    expect(channel.publish).type.not.toBeCallableWith({ event: 'price' as const, raw: 'text' })
    expect(channel.publish).type.not.toBeCallableWith({ data: 1 })
    expect(channel.publish).type.not.toBeCallableWith('text')
    expect(channel.publish).type.not.toBeCallableWith({ event: 'gap' as const, data: 1 })
    expect(channel.publish(price)).type.toBe<Promise<string>>()
  })

  test('publish takes no ID: the channel gives it', () => {
    expect(channel.publish).type.not.toBeCallableWith({ ...price, id: '5' })
    expect(channel.publish).type.not.toBeCallableWith({ ...price, id: 5 })
  })

  test('what is received is narrowed by its type, and may be a gap', async () => {
    for await (const event of channel.subscribe()) {
      expect(event.event).type.toBe<'price' | 'note' | 'gap'>()
      expect(event.id).type.toBe<string | undefined>()
      if (event.event === 'price') {
        expect(event.data).type.toBe<{ symbol: string, price: number }>()
        expect(event.raw).type.toBe<undefined>()
      } else if (event.event === 'gap') {
        expect(event).type.toBe<GapEvent>()
        expect(event.data).type.toBe<Gap>()
        expect(event.data.earliest).type.toBe<string | null>()
      } else {
        expect(event.data ?? event.raw).type.toBe<string>()
      }
    }
  })

  test('filter and key get the events, but no gap', () => {
    channel.subscribe({
      after: 'earliest',
      signal: new AbortController().signal,
      filter (event) {
        expect(event.event).type.toBe<'price' | 'note'>()
        return event.event === 'price' && event.data.symbol === 'A'
      }
    })
    app.sse.channel('latest', {
      events: prices,
      onLag: 'latest',
      key (event) {
        expect(event.event).type.toBe<'price' | 'note'>()
        return event.event === 'price' ? event.data.symbol : undefined
      }
    })
    // @ts-expect-error Property 'symbols' does not exist
    channel.subscribe({ filter: (event) => event.event === 'price' && event.data.symbols })
    expect(channel.subscribe).type.not.toBeCallableWith({ before: '1' })
    expect(channel.subscribe).type.not.toBeCallableWith({ after: 5 })
  })

  test('its snapshot yields its events', () => {
    app.sse.channel('snapshot', {
      events: prices,
      * snapshot () { yield { event: 'price' as const, data: { symbol: 'A', price: 1 } } }
    })
    app.sse.channel('snapshot', { events: prices, snapshot: () => [price] })
    // @ts-expect-error is not assignable to type
    app.sse.channel('snapshot', { events: prices, snapshot: () => [wrongData] })
  })

  test('options are checked', () => {
    expect(app.sse.channel).type.toBeCallableWith('a', { history: { events: 5, bytes: 5, age: false as const }, onLag: 'gap' as const })
    expect(app.sse.channel).type.not.toBeCallableWith('a', { history: { event: 5 } })
    expect(app.sse.channel).type.not.toBeCallableWith('a', { onLag: 'drop' })
    expect(app.sse.channel).type.not.toBeCallableWith('a', { forgetAfter: 5 })
    expect(app.sse.channel).type.not.toBeCallableWith(5)
  })
})

test('of a transform the decoded value is published, and the encoded one received', async () => {
  const channel = app.sse.channel('trades', { events: trades })
  expect(channel.publish).type.toBeCallableWith(trade)
  expect(channel.publish).type.not.toBeCallableWith({ event: 'trade' as const, data: { size: 1, at: '1970' } })
  for await (const event of channel.subscribe()) {
    if (event.event === 'trade') expect(event.data.at).type.toBe<string>()
  }
})

test('a channel without events takes any event, and gives data of which nothing is known', async () => {
  const channel = app.sse.channel('any')
  expect(channel.publish).type.toBeCallableWith({ data: 1 })
  expect(channel.publish).type.toBeCallableWith({ event: 'a', raw: 'b', retry: 1 })
  expect(channel.publish).type.toBeCallableWith('text')
  expect(channel.publish).type.not.toBeCallableWith({ data: 1, id: '5' })
  expect(channel.publish).type.not.toBeCallableWith({ data: 1, raw: 'both' })
  expect(channel.publish).type.not.toBeCallableWith(5)
  channel.subscribe({ filter: (event) => expect(event).type.toBe<ReceivedEvent>() })
  for await (const event of channel.subscribe()) {
    expect(event).type.toBe<ReceivedEvent | GapEvent>()
    expect(event.event).type.toBe<string>()
    expect(event.data).type.toBe<unknown>()
  }
})

describe('reply.sse', () => {
  const channel = app.sse.channel('prices', { events: prices })
  const other = app.sse.channel('trades', { events: trades })
  const untyped = app.sse.channel('any')

  test('takes what its route declares', () => {
    app.get('/', { schema: { events: prices } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith(channel)
      expect(reply.sse).type.toBeCallableWith(channel.subscribe({ after: 'earliest' }))
      expect(reply.sse).type.toBeCallableWith(app.sse.subscribe([channel]))
      expect(reply.sse).type.toBeCallableWith(app.sse.run('key', [price], { events: prices }))
      expect(reply.sse).type.toBeCallableWith(app.sse.run.attach('key', { events: prices }))
      expect(reply.sse).type.toBeCallableWith(channel, { keepAlive: 5_000 })
      return reply.sse(channel)
    })
  })

  test('refuses what its route does not declare', () => {
    app.get('/', { schema: { events: prices } }, async (request, reply) => {
      expect(reply.sse).type.not.toBeCallableWith(other)
      expect(reply.sse).type.not.toBeCallableWith(other.subscribe())
      expect(reply.sse).type.not.toBeCallableWith(untyped)
      expect(reply.sse).type.not.toBeCallableWith(untyped.subscribe())
      expect(reply.sse).type.not.toBeCallableWith(app.sse.subscribe([channel, other]))
      expect(reply.sse).type.not.toBeCallableWith(app.sse.run('key', [trade], { events: trades }))
      expect(reply.sse).type.not.toBeCallableWith(app.sse.run.attach('key'))
      return reply.sse(channel)
    })
  })

  test('in a route that declares more, a channel may have less', () => {
    app.get('/', { schema: { events: { ...prices, ...trades } } }, async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith(channel)
      expect(reply.sse).type.toBeCallableWith(other)
      expect(reply.sse).type.toBeCallableWith(app.sse.subscribe([channel, other]))
      expect(reply.sse).type.not.toBeCallableWith(untyped)
      return reply.sse(channel)
    })
  })

  test('without schema.events takes any channel', () => {
    app.get('/', async (request, reply) => {
      expect(reply.sse).type.toBeCallableWith(channel)
      expect(reply.sse).type.toBeCallableWith(untyped)
      expect(reply.sse).type.toBeCallableWith(app.sse.subscribe([channel, untyped]))
      expect(reply.sse).type.toBeCallableWith(app.sse.run.attach('key'))
      return reply.sse(other)
    })
  })
})

test('several channels give the events of all of them', async () => {
  const merged = app.sse.subscribe([
    app.sse.channel('prices', { events: prices }), app.sse.channel('trades', { events: trades })
  ], {
    filter (event) {
      expect(event.event).type.toBe<'price' | 'note' | 'trade'>()
      return true
    }
  })
  for await (const event of merged) {
    expect(event.event).type.toBe<'price' | 'note' | 'trade' | 'gap'>()
    if (event.event === 'trade') expect(event.data).type.toBe<{ size: number, at: string }>()
    if (event.event === 'price') expect(event).type.toBeAssignableTo<PriceEvent>()
    if (event.event === 'gap') expect(event.data.channel).type.toBe<string | undefined>()
  }
  expect(app.sse.subscribe).type.not.toBeCallableWith(['prices'])
  expect(app.sse.subscribe).type.not.toBeCallableWith([merged])
})

describe('a run', () => {
  test('takes sources of its events', () => {
    app.sse.run('key', async function * ({ signal }) {
      expect(signal).type.toBe<AbortSignal>()
      yield { event: 'price' as const, data: { symbol: 'A', price: 1 } }
    }, { events: prices, history: { events: 5 }, forgetAfter: 5, onInvalidEvent: 'drop', onEnd: () => undefined })
    app.sse.run('key', [price], { events: prices })
    app.sse.run('key', [price], { events: prices, lease: 5_000, will: price })
    // @ts-expect-error is not assignable to type
    app.sse.run('key', [price], { events: prices, will: wrongData })
    // @ts-expect-error is not assignable to type
    app.sse.run('key', [wrongData], { events: prices })
    // @ts-expect-error is not assignable to type
    app.sse.run('key', async function * () { yield { event: 'prize', data: 1 } }, { events: prices })
    expect(app.sse.run).type.toBeCallableWith('key', [{ data: 1 }, 'text'])
    expect(app.sse.run).type.not.toBeCallableWith('key')
    expect(app.sse.run).type.not.toBeCallableWith('key', 5)
    expect(app.sse.run).type.not.toBeCallableWith('key', [], { forgetafter: 5 })
  })

  test('its generators need no "as const" where they stand, as those of reply.sse', () => {
    app.sse.run('key', async function * () { yield { event: 'price', data: { symbol: 'A', price: 1 } } }, { events: prices })
  })

  test('gives its events to its readers', async () => {
    const run = app.sse.run('key', [price], { events: prices })
    const attached = app.sse.run.attach('key', { events: prices })
    expect(run.ended).type.toBe<Promise<RunEnd>>()
    expect(run.stop()).type.toBe<Promise<void>>()
    expect(run.key).type.toBe<string>()
    expect(attached.stop()).type.toBe<Promise<void>>()
    expect(attached).type.not.toHaveProperty('ended')
    for await (const event of run.subscribe()) expect(event.event).type.toBe<'price' | 'note' | 'gap'>()
    for await (const event of attached.subscribe()) expect(event.event).type.toBe<'price' | 'note' | 'gap'>()
    for await (const event of app.sse.run.attach('key').subscribe()) expect(event).type.toBe<ReceivedEvent | GapEvent>()
    expect(app.sse.run('any', [{ data: 1 }])).type.toBeAssignableTo<SseRun<any>>()
  })
})

test('a hub without Fastify has the same', () => {
  const hub = createHub({ onError: (_, message) => { expect(message).type.toBe<string>() } })
  expect(hub).type.toBe<StandaloneHub>()
  expect(hub.close()).type.toBe<Promise<void>>()
  const channel = hub.channel('prices', { events: prices })
  expect(channel.publish).type.not.toBeCallableWith(wrongData)
  expect(hub.run).type.toBeCallableWith('key', [{ data: 1 }])
  expect(createHub).type.not.toBeCallableWith({ brokers: 1 })
})

test('first takes the events of the route', () => {
  app.get('/first', { schema: { events: { ...prices, hello: Type.Number() } } }, async (request, reply) => {
    const channel = app.sse.channel('prices', { events: prices })
    expect(reply.sse).type.toBeCallableWith(channel, { first: [{ event: 'hello' as const, data: 1 }] })
    expect(reply.sse).type.not.toBeCallableWith(channel, { first: [{ event: 'hello' as const, data: 'x' }] })
    return reply.sse(channel)
  })
})
