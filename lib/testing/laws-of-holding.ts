/** Who holds a channel, and what becomes of it when the owner is gone. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert/strict'
import { setTimeout } from 'node:timers/promises'
import { append, eventually, HISTORY, hold, message, newName, Notes, readAll, textsOf, type BrokerLaw } from './law.ts'

/** Short enough for a law, and long enough for an engine to be renewed in time. */
const LEASE = 600

/** For a machine that has other things to do. */
const SLACK = 500

export const holdingLaws: BrokerLaw[] = [
  {
    name: 'of all who open a channel one holds it',
    async check ({ one, other }) {
      const channel = newName()
      const brokers = [one, other, one, other]
      const held = await Promise.all(brokers.map((broker, index) => broker.open(channel, hold(`owner ${index}`))))
      strictEqual(held.filter(Boolean).length, 1)
      for (const broker of brokers) strictEqual(await broker.open(channel, hold('late')), false)
      const owner = `owner ${held.indexOf(true)}`
      for (const broker of brokers) strictEqual(await broker.open(channel, hold(owner)), true, 'an owner may open it again')
    }
  },
  {
    name: 'a channel that has entries, and that nobody holds, can be held; one that is closed cannot',
    async check ({ one, other }) {
      const channel = newName()
      await append(one, channel, ['1'])
      strictEqual(await other.open(channel, hold('owner')), true)
      await append(one, channel, ['2'])
      await other.close(channel, 60_000)
      strictEqual(await one.open(channel, hold('owner')), false)
      strictEqual(await one.open(channel, hold('other')), false)
      deepStrictEqual(textsOf(await readAll(one, channel)), ['1', '2'])
    }
  },
  {
    name: 'who claims to be the owner of a channel, and is not, can neither append to it nor close it',
    async check ({ one, other }) {
      const channel = newName()
      const closed = { code: 'FST_SSE_CHANNEL_CLOSED' }
      await rejects(one.append(channel, message('0'), HISTORY, 'owner'), closed, 'nobody is')
      await one.open(channel, hold('owner'))
      await one.append(channel, message('1'), HISTORY, 'owner')
      await rejects(other.append(channel, message('2'), HISTORY, 'other'), closed)
      await other.close(channel, 60_000, 'other')
      await other.append(channel, message('3'), HISTORY)
      await other.close(channel, 60_000, 'owner')
      await rejects(one.append(channel, message('4'), HISTORY, 'owner'), closed)
      deepStrictEqual(textsOf(await readAll(one, channel)), ['1', '3'])
    }
  },
  {
    name: 'an owner who renews in time holds the channel for as long as that goes on',
    async check ({ one, other }) {
      const channel = newName()
      const notes = await Notes.take(other, channel)
      for (let turn = 0; turn < 8; turn++) {
        strictEqual(await one.open(channel, hold('owner', LEASE, message('will'))), true)
        await setTimeout(LEASE / 4)
      }
      deepStrictEqual(notes.texts, [])
      strictEqual(notes.timesClosed, 0)
      await one.close(channel, 60_000)
      await eventually(() => notes.timesClosed > 0, 'the end is told')
      await setTimeout(LEASE)
      deepStrictEqual(textsOf(await readAll(one, channel)), [], 'the will of an owner who has closed the channel is void')
      notes.listening.stop()
    }
  },
  {
    name: 'where a lease has run out all who listen are given the will, then told of the end, within two leases; not before',
    async check ({ one, other }) {
      for (const will of [message('will'), undefined]) {
        const channel = newName()
        const opened = performance.now()
        const early = await Notes.take(other, channel)
        await one.open(channel, hold('owner', LEASE, will))
        const all = [early, ...await Promise.all([one, other].map((broker) => Notes.take(broker, channel)))]
        await one.append(channel, message('1'), HISTORY)
        for (const notes of all) {
          await eventually(() => notes.timesClosed > 0, 'the end is told')
          deepStrictEqual(notes.texts, will === undefined ? ['1'] : ['1', 'will'])
          strictEqual(notes.timesClosed, 1)
          notes.listening.stop()
        }
        const took = performance.now() - opened
        ok(took >= LEASE - 10 && took < LEASE * 2 + SLACK, `the end after ${took} ms, of ${LEASE}`)
        await rejects(one.append(channel, message('2'), HISTORY), { code: 'FST_SSE_CHANNEL_CLOSED' })
        strictEqual(await one.open(channel, hold('owner', LEASE, will)), false, 'the owner learns of it')
      }
    }
  },
  {
    name: 'however soon a channel is forgotten after its lease, who listens is given the will, and told of the end',
    async check ({ one, other }) {
      const channel = newName()
      await one.open(channel, { ...hold('owner', LEASE, message('will')), forgetAfter: 1 })
      const all = await Promise.all([one, other].map((broker) => Notes.take(broker, channel)))
      for (const notes of all) {
        await eventually(() => notes.timesClosed > 0, 'the end is told')
        deepStrictEqual(notes.texts, ['will'])
        notes.listening.stop()
      }
    }
  },
  {
    name: 'who listens to a channel whose lease has run out before is told of the end, too',
    async check ({ one, other }) {
      const channel = newName()
      await one.open(channel, hold('owner', LEASE, message('will')))
      await setTimeout(LEASE * 1.5)
      const notes = await Notes.take(other, channel)
      await eventually(() => notes.listening.closed || notes.timesClosed > 0, 'the end is told')
      deepStrictEqual(textsOf(await readAll(other, channel)), ['will'])
      notes.listening.stop()
    }
  }
]
