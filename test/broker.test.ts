/** The memory broker keeps the law of brokers, and the laws notice brokers that do not. */
import t from 'tap'
import { memoryBroker, type Broker } from '../index.ts'
import { brokerLaws, type Brokers } from '../lib/testing/index.ts'

t.test('the memory broker keeps every law', async (t) => {
  const broker = memoryBroker()
  for (const { name, check } of brokerLaws) {
    t.test(name, async (t) => {
      await t.resolves(check({ one: broker, other: broker }))
    })
  }
})

/** Brokers that break the law in one way. */
const OUTLAWS: Record<string, (broker: Broker) => Partial<Broker>> = {
  'gives an entry twice': (broker) => ({
    listen: (channel, listener) => broker.listen(channel, {
      entry: (entry) => { listener.entry(entry); listener.entry(entry) },
      closed: () => listener.closed(),
      lost: (position) => listener.lost(position)
    })
  }),
  'draws the boundary late': (broker) => ({
    listen: async (channel, listener) => {
      await new Promise(setImmediate)
      return broker.listen(channel, listener)
    }
  }),
  'takes unknown positions for its own': (broker) => ({
    read: async (channel, after, most) => ({ ...await broker.read(channel, after, most), after: after ?? '0-0', complete: true })
  }),
  'forgets its comments': (broker) => ({
    append: (channel, { comment, ...message }, history) => broker.append(channel, message, history)
  }),
  'retains less than it should': (broker) => ({
    append: (channel, message, history) => broker.append(channel, message, { ...history, events: 5 })
  }),
  'never trims': (broker) => ({
    append: (channel, message) => broker.append(channel, message, { events: 1e9, bytes: 1e12, age: false })
  }),
  'never forgets': (broker) => ({ close: (channel) => broker.close(channel, false) }),
  'lets everybody be the first': (broker) => ({
    open: async (channel) => {
      await broker.open(channel)
      return true
    }
  }),
  'tells nobody of the end': (broker) => ({
    listen: (channel, listener) => broker.listen(channel, {
      entry: (entry) => listener.entry(entry),
      closed: () => {},
      lost: (position) => listener.lost(position)
    })
  })
}

t.test('a broker that breaks the law is found out', async (t) => {
  await Promise.all(Object.entries(OUTLAWS).map(async ([crime, breaking]) => {
    const results = await Promise.allSettled(brokerLaws.map(({ check }) => check(twice(breaking))))
    t.ok(results.some(({ status }) => status === 'rejected'), `one that ${crime}`)
  }))
})

function twice (breaking: (broker: Broker) => Partial<Broker>): Brokers {
  const broker = memoryBroker()
  const whole: Broker = {
    open: (channel) => broker.open(channel),
    append: (channel, message, history) => broker.append(channel, message, history),
    close: (channel, forgetAfter) => broker.close(channel, forgetAfter),
    read: (channel, after, most) => broker.read(channel, after, most),
    listen: (channel, listener) => broker.listen(channel, listener),
    ...breaking(broker)
  }
  return { one: whole, other: whole }
}
