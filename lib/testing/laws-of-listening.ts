/** What a broker gives to those who listen, and where that begins. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { BEGINNING, compareEntryIds } from '../entry-id.ts'
import { append, eventually, HISTORY, hold, message, newName, Notes, numbers, readAll, textsOf, type BrokerLaw } from './law.ts'

export const listeningLaws: BrokerLaw[] = [
  {
    name: 'each listener is given every entry, once, in the order of the log, whoever has appended it',
    async check ({ one, other }) {
      const channel = newName()
      const all = await Promise.all([one, other, one].map((broker) => Notes.take(broker, channel)))
      const brokers = [one, other]
      await Promise.all(numbers(1, 300).map((text, index) => brokers[index % 2]!.append(channel, message(text), HISTORY)))
      const log = (await readAll(one, channel)).map(({ id }) => id)
      strictEqual(log.length, 300)
      for (const notes of all) {
        await eventually(() => notes.entries.length >= 300, 'all entries are given')
        deepStrictEqual(notes.entries.map(({ id }) => id), log)
        notes.listening.stop()
      }
    }
  },
  {
    name: 'everything is before the boundary, to be read back, or after it, to be given: nothing in neither or both',
    async check ({ one, other }) {
      for (let round = 0; round < 20; round++) {
        const channel = newName()
        const before = numbers(1, round).map((text) => one.append(channel, message(text), HISTORY))
        const listening = Notes.take(other, channel)
        const after = numbers(round + 1, 30).map((text) => one.append(channel, message(text), HISTORY))
        const notes = await listening
        await Promise.all([...before, ...after])
        const { position } = notes.listening
        const all = await readAll(one, channel)
        const readBack = all.filter(({ id }) => compareEntryIds(id, position) <= 0)
        await eventually(() => readBack.length + notes.entries.length >= 30, 'what is after the boundary is given')
        deepStrictEqual([...textsOf(readBack), ...notes.texts], numbers(1, 30))
        deepStrictEqual(textsOf(await readAll(other, channel, position)), notes.texts, 'the position can be read from')
        notes.listening.stop()
      }
    }
  },
  {
    name: 'the boundary is drawn at the moment of the call',
    async check ({ one }) {
      const channel = newName()
      await append(one, channel, numbers(1, 3))
      const listening = Notes.take(one, channel)
      await append(one, channel, numbers(4, 6))
      const notes = await listening
      await eventually(() => notes.entries.length >= 3, 'what was appended after the call is given')
      deepStrictEqual(notes.texts, numbers(4, 6))
      notes.listening.stop()
    }
  },
  {
    name: 'who begins to listen to a channel without entries has a position that counts',
    async check ({ one }) {
      const channel = newName()
      const notes = await Notes.take(one, channel)
      await append(one, channel, numbers(1, 3))
      deepStrictEqual(textsOf(await readAll(one, channel, notes.listening.position)), numbers(1, 3))
      notes.listening.stop()
    }
  },
  {
    name: 'a read sees whatever the same broker object has told of: what it has given and accepted, and its positions',
    async check ({ one, other }) {
      const channel = newName()
      const reads: Promise<[told: string, last: string]>[] = []
      const readUpTo = async (id: string): Promise<[string, string]> => [id, (await readAll(one, channel)).at(-1)!.id]
      const listening = await one.listen(channel, {
        entry ({ id }) { reads.push(readUpTo(id)) },
        closed () {},
        failed () {},
        lost () {}
      })
      for (const text of numbers(1, 20)) {
        const id = await one.append(channel, message(text), HISTORY)
        reads.push(readUpTo(id))
        await other.append(channel, message(text), HISTORY)
        const { position, stop } = await one.listen(channel, new Notes())
        reads.push(readUpTo(position))
        stop()
      }
      await eventually(() => reads.length >= 80, 'all entries are given')
      for (const [told, last] of await Promise.all(reads)) {
        ok(compareEntryIds(last, told) >= 0, `a read sees ${told}, of which it was told before, and ends with ${last}`)
      }
      listening.stop()
    }
  },
  {
    name: 'who has stopped is given nothing more, others are',
    async check ({ one }) {
      const channel = newName()
      const [stopped, goesOn] = [await Notes.take(one, channel), await Notes.take(one, channel)]
      await append(one, channel, ['1'])
      await eventually(() => stopped.entries.length === 1, 'the first entry is given')
      stopped.listening.stop()
      stopped.listening.stop()
      await append(one, channel, ['2'])
      await eventually(() => goesOn.entries.length === 2, 'the second entry is given')
      deepStrictEqual(stopped.texts, ['1'])
      goesOn.listening.stop()
    }
  },
  {
    name: 'what a listener appends comes after what is being given',
    async check ({ one }) {
      const channel = newName()
      const answered: Promise<string>[] = []
      const echo = await one.listen(channel, {
        entry ({ message: { raw } }) {
          if (raw!.length < 3) answered.push(one.append(channel, message(`${raw}!`), HISTORY))
        },
        closed () {},
        failed () {},
        lost () {}
      })
      const notes = await Notes.take(one, channel)
      await Promise.all(['a', 'b', 'c'].map((text) => one.append(channel, message(text), HISTORY)))
      await eventually(() => notes.entries.length >= 9, 'entries and answers are given')
      await Promise.all(answered)
      const log = await readAll(one, channel, BEGINNING)
      deepStrictEqual(notes.entries.map(({ id }) => id), log.map(({ id }) => id), 'in the order of the log')
      deepStrictEqual(notes.texts.filter((text) => text!.length === 1), ['a', 'b', 'c'])
      echo.stop()
      notes.listening.stop()
    }
  },
  {
    name: 'listeners are told of the end once, after the last entry',
    async check ({ one, other }) {
      const channel = newName()
      const all = await Promise.all([one, other].map((broker) => Notes.take(broker, channel)))
      await append(one, channel, numbers(1, 3))
      await other.close(channel, 60_000)
      await one.close(channel, 60_000)
      for (const notes of all) {
        await eventually(() => notes.timesClosed > 0, 'the end is told')
        deepStrictEqual(notes.texts, numbers(1, 3))
        strictEqual(notes.timesClosed, 1)
        strictEqual(notes.listening.closed, false)
        notes.listening.stop()
      }
    }
  },
  {
    name: 'who begins to listen to a closed channel learns that it is, and can read all of it back',
    async check ({ one, other }) {
      const channel = newName()
      const ids = await append(one, channel, numbers(1, 3))
      await one.close(channel, 60_000)
      for (const broker of [one, other]) {
        const { listening } = await Notes.take(broker, channel)
        strictEqual(listening.closed, true)
        ok(compareEntryIds(listening.position, ids.at(-1)!) >= 0)
        listening.stop()
      }
    }
  },
  {
    name: 'a channel is known once somebody has opened it, closed it or appended to it, not by being read',
    async check ({ one, other }) {
      const uses: Record<string, (channel: string) => Promise<unknown>> = {
        open: (channel) => one.open(channel, hold('owner')),
        close: (channel) => one.close(channel, 60_000),
        append: (channel) => append(one, channel, ['a'])
      }
      for (const [use, make] of Object.entries(uses)) {
        const channel = newName()
        await one.read(channel, undefined, { entries: 1, bytes: 1 })
        const before = await Notes.take(other, channel)
        strictEqual(before.listening.known, false)
        before.listening.stop()
        await make(channel)
        const after = await Notes.take(other, channel)
        strictEqual(after.listening.known, true, use)
        after.listening.stop()
      }
    }
  }
]
