/** The memory broker keeps the law of brokers, and the laws notice brokers that do not. */
import t from 'tap'
import { memoryBroker, type Broker, type Listener } from '../index.ts'
import { sizeOf } from '../lib/broker.ts'
import { brokerLaws, type Brokers } from '../lib/testing/index.ts'
import { nextTurn } from '../lib/turns.ts'
import { brokerWith } from './helpers.ts'

t.test('the memory broker keeps every law', async (t) => {
  const broker = memoryBroker()
  for (const { name, check } of brokerLaws) {
    t.test(name, async (t) => {
      await t.resolves(check({ one: broker, other: broker }))
    })
  }
})

/** What a broker does, the law that finds it out (a part of its name), and how it does it. */
const CRIMES: [crime: string, law: string, breaking: (broker: Broker) => Partial<Broker>][] = [
  ['gives an entry twice', 'each listener is given every entry, once', (broker) => ({
    listen: (channel, listener) => broker.listen(channel, {
      ...telling(listener),
      entry: (entry) => { listener.entry(entry); listener.entry(entry) }
    })
  })],
  ['draws the boundary late', 'the boundary is drawn at the moment of the call', (broker) => ({
    listen: async (channel, listener) => {
      await nextTurn()
      return broker.listen(channel, listener)
    }
  })],
  ['gives what is before the boundary, too', 'nothing in neither or both', (broker) => ({
    listen: async (channel, listener) => {
      const listening = broker.listen(channel, listener)
      const { entries } = await broker.read(channel, undefined, { entries: 1, bytes: 1 })
      entries.forEach((entry) => listener.entry(entry))
      return listening
    }
  })],
  ['names a position of no channel', 'a channel without entries has a position that counts', (broker) => ({
    listen: async (channel, listener) => ({ ...await broker.listen(channel, listener), position: '1-1' })
  })],
  ['names a position of no channel where it has nothing', 'of a channel without entries nothing is read', (broker) => ({
    read: async (channel, after, most) => {
      const page = await broker.read(channel, after, most)
      return page.entries.length > 0 ? page : { ...page, after: '1-1' }
    }
  })],
  ['does not let listeners stop', 'who has stopped is given nothing more', (broker) => ({
    listen: async (channel, listener) => ({ ...await broker.listen(channel, listener), stop () {} })
  })],
  ['gives the answer before the question', 'what a listener appends comes after what is being given', (broker) => ({
    listen: (channel, listener) => broker.listen(channel, {
      ...telling(listener),
      entry: (entry) => { entry.message.raw?.endsWith('!') ? listener.entry(entry) : setImmediate(() => listener.entry(entry)) }
    })
  })],
  ['tells nobody of the end', 'listeners are told of the end once', (broker) => ({
    listen: (channel, listener) => broker.listen(channel, { ...telling(listener), closed () {} })
  })],
  ['does not say that a channel was closed', 'who begins to listen to a closed channel learns that it is', (broker) => ({
    listen: async (channel, listener) => ({ ...await broker.listen(channel, listener), closed: false })
  })],
  ['knows every channel', 'a channel is known once somebody has opened it', (broker) => ({
    listen: async (channel, listener) => ({ ...await broker.listen(channel, listener), known: true })
  })],
  ['appends in an order of its own', 'in the order in which entries were appended', (broker) => ({
    append: async (channel, message, history) => {
      if (Number(message.raw) % 2 === 0) await nextTurn()
      return broker.append(channel, message, history)
    }
  })],
  ['forgets its comments', 'an entry is read back as it was appended', (broker) => ({
    append: (channel, { comment, ...message }, history) => broker.append(channel, message, history)
  })],
  ['takes a name for another', 'channels have any names', (broker) => ({
    append: (channel, message, history) => broker.append(channel.trim(), message, history)
  })],
  ['gives more than it is asked for', 'no more entries or bytes than asked for', (broker) => ({
    read: (channel, after, most) => broker.read(channel, after, { ...most, entries: most.entries * 2 })
  })],
  ['gives more bytes than it is asked for', 'no more entries or bytes than asked for', (broker) => ({
    read: (channel, after, most) => broker.read(channel, after, { ...most, bytes: Infinity })
  })],
  ['takes unknown positions for its own', 'a position that the broker has never given', (broker) => ({
    read: async (channel, after, most) => ({ ...await broker.read(channel, after, most), after: after ?? '0-0', complete: true })
  })],
  ['retains less than it should', 'what the history has room for is retained', (broker) => ({
    append: (channel, message, history) => broker.append(channel, message, { ...history, events: 5 })
  })],
  ['never trims', 'beyond that the oldest go', (broker) => ({
    append: (channel, message) => broker.append(channel, message, { events: 1e9, bytes: 1e12, age: false })
  })],
  ['does not take what is too large', 'the newest entry is retained whatever its size', (broker) => ({
    append: async (channel, message, history) => sizeOf(message) > history.bytes ? '1-1' : broker.append(channel, message, history)
  })],
  ['lets entries grow old too early', 'entries younger than `age` are retained', (broker) => ({
    append: async (channel, message, history) => {
      const id = await broker.append(channel, message, history.age === false ? history : { ...history, age: 1 })
      await new Promise((resolve) => setTimeout(resolve, history.age === false ? 0 : 2))
      return id
    }
  })],
  ['trims by age after the end', 'a closed channel is no longer trimmed by age', (broker) => {
    const old = new Set<string>()
    return {
      append: async (channel, message, history) => {
        if (history.age !== false) setTimeout(() => old.add(channel), history.age)
        return broker.append(channel, message, history)
      },
      read: async (channel, after, most) => {
        return old.has(channel) ? { after: '1-1', entries: [], complete: false } : broker.read(channel, after, most)
      }
    }
  }],
  ['drops what comes after the end', 'a closed channel takes nothing more', (broker) => ({
    append: (channel, message, history) => broker.append(channel, message, history).catch(() => '1-1')
  })],
  ['drops what comes with the end', 'an append at the same time as a close is stored before the end, or rejected', (broker) => ({
    append: async (channel, message, history) => {
      await nextTurn()
      return broker.append(channel, message, history).catch(() => '1-1')
    }
  })],
  ['never forgets', 'a closed channel is forgotten as a whole', (broker) => ({ close: (channel) => broker.close(channel, false) })],
  ['lets everybody hold it', 'of all who open a channel one holds it', (broker) => ({
    open: async (channel, hold) => {
      await broker.open(channel, hold)
      return true
    }
  })],
  ['lets nobody hold what has entries', 'a channel that has entries', (broker) => {
    const used = new Set<string>()
    return {
      append: (channel, ...args) => {
        used.add(channel)
        return broker.append(channel, ...args)
      },
      open: async (channel, hold) => !used.has(channel) && broker.open(channel, hold)
    }
  }],
  ['does not renew a lease', 'an owner who renews in time', (broker) => {
    const held = new Set<string>()
    return {
      open: async (channel, hold) => {
        if (held.has(channel)) return true
        held.add(channel)
        return broker.open(channel, hold)
      }
    }
  }],
  ['forgets the will', 'where a lease has run out', (broker) => ({
    open: (channel, hold) => broker.open(channel, { ...hold, will: undefined })
  })],
  ['lets anybody write', 'who claims to be the owner', (broker) => ({
    append: (channel, message, history) => broker.append(channel, message, history)
  })],
  ['forgets before it tells', 'however soon a channel is forgotten', (broker) => ({
    open: (channel, hold) => broker.open(channel, hold.forgetAfter === 1 ? { ...hold, lease: 60_000 } : hold)
  })],
  ['lets a lease run on for ever', 'whose lease has run out before', (broker) => ({
    open: (channel, hold) => broker.open(channel, { ...hold, lease: 60_000 })
  })],
  ['reads without what it has just accepted', 'a read sees whatever', (broker) => {
    const fresh = new Set<string>()
    return {
      append: async (channel, message, history) => {
        const id = await broker.append(channel, message, history)
        fresh.add(id)
        setImmediate(() => fresh.delete(id))
        return id
      },
      read: (channel, after, most) => readWithout(fresh, broker, channel, after, most)
    }
  }],
  ['reads without what it is just giving to listeners', 'a read sees whatever', (broker) => {
    const fresh = new Set<string>()
    return {
      listen: (channel, listener) => broker.listen(channel, {
        ...telling(listener),
        entry: (entry) => {
          fresh.add(entry.id)
          listener.entry(entry)
          fresh.delete(entry.id)
        }
      }),
      read: (channel, after, most) => readWithout(fresh, broker, channel, after, most)
    }
  }]
]

t.test('a broker that breaks the law is found out, by the law that it breaks', async (t) => {
  await Promise.all(CRIMES.map(async ([crime, part, breaking]) => {
    const laws = brokerLaws.filter(({ name }) => name.includes(part))
    const results = await Promise.allSettled(laws.map(({ check }) => check(twice(breaking))))
    t.same(results.map(({ status }) => status), ['rejected'], `one that ${crime}: '${part}'`)
  }))
})

t.test('every law is there for a crime', async (t) => {
  const idle = brokerLaws.filter(({ name }) => !CRIMES.some(([, part]) => name.includes(part)))
  t.same(idle.map(({ name }) => name), [])
})

/** What is read when it is called, but for some entries. */
async function readWithout (fresh: Set<string>, broker: Broker, ...args: Parameters<Broker['read']>): ReturnType<Broker['read']> {
  const hidden = new Set(fresh)
  const page = await broker.read(...args)
  return { ...page, entries: page.entries.filter(({ id }) => !hidden.has(id)) }
}

/** A listener whose methods can be replaced one by one. */
function telling (listener: Listener): Listener {
  return {
    entry: (entry) => listener.entry(entry),
    closed: () => listener.closed(),
    failed: (error) => listener.failed(error),
    lost: (position) => listener.lost(position)
  }
}

function twice (breaking: (broker: Broker) => Partial<Broker>): Brokers {
  const broker = memoryBroker()
  const whole = brokerWith(broker, breaking(broker))
  return { one: whole, other: whole }
}

t.test('a history counts the bytes of an event type, data or raw, and comment', (t) => {
  t.equal(sizeOf({ event: 'é', data: '"ü"', comment: '€' }), 2 + 4 + 3)
  t.equal(sizeOf({ event: '', raw: '😀' }), 4)
  t.end()
})
