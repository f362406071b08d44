/** What a broker keeps, and how it is read back. */
import { deepStrictEqual, match, notStrictEqual, ok, rejects, strictEqual } from 'node:assert/strict'
import type { Message } from '../broker.ts'
import { BEGINNING, compareEntryIds, isEntryId } from '../entry-id.ts'
import { append, eventually, HISTORY, hold, message, newName, numbers, readAll, textsOf, type BrokerLaw } from './law.ts'

/** Room for ten entries. */
const TEN = { entries: 10, bytes: 1_000_000 }

const FUTURE = '18446744073709551615-18446744073709551615'

export const logLaws: BrokerLaw[] = [
  {
    name: 'IDs are <ms>-<seq>, and grow strictly in the order in which entries were appended',
    async check ({ one }) {
      const channel = newName()
      const ids = await Promise.all(numbers(1, 200).map((text) => one.append(channel, message(text), HISTORY)))
      for (const id of ids) ok(isEntryId(id), id)
      for (let at = 1; at < ids.length; at++) ok(compareEntryIds(ids[at - 1]!, ids[at]!) < 0, `${ids[at - 1]} < ${ids[at]}`)
      const entries = await readAll(one, channel)
      deepStrictEqual(entries.map(({ id }) => id), ids)
      deepStrictEqual(textsOf(entries), numbers(1, 200))
    }
  },
  {
    name: 'an entry is read back as it was appended',
    async check ({ one, other }) {
      const channel = newName()
      const messages: Message[] = [
        { event: '', data: 'null' },
        { event: 'price', data: '{"symbol":"Ä€😀","price":1e-7}' },
        { event: 'ü', raw: '' },
        { event: '', raw: 'two\r\nlines\0', retry: 0, comment: 'a\nb' },
        { event: 'large', raw: 'x'.repeat(1_000_000) }
      ]
      for (const each of messages) await one.append(channel, each, HISTORY)
      for (const broker of [one, other]) {
        deepStrictEqual((await readAll(broker, channel)).map(({ message }) => ({ ...message })), messages)
      }
    }
  },
  {
    name: 'channels have any names, and nothing in common',
    async check ({ one }) {
      const name = newName()
      const names = [name, `${name} `, `${name}:a`, `{${name}}`, `${name}*`, `${name}\n`, `${name}ß😀`, name.repeat(20)]
      for (const each of names) await one.append(each, message(each), HISTORY)
      for (const each of names) deepStrictEqual(textsOf(await readAll(one, each)), [each])
    }
  },
  {
    name: 'a page begins right after the position asked for, and has no more entries or bytes than asked for, but one',
    async check ({ one }) {
      const channel = newName()
      const ids = await append(one, channel, numbers(1, 10))
      for (let after = 0; after <= 10; after++) {
        const position = after === 0 ? BEGINNING : ids[after - 1]!
        for (const most of [{ entries: 4, bytes: 1_000 }, { entries: 1, bytes: 1 }, { entries: 1_000, bytes: 3 }]) {
          const page = await one.read(channel, position, most)
          strictEqual(page.complete, true)
          strictEqual(page.after, position)
          const { length } = page.entries
          ok(length <= Math.min(most.entries, most.bytes), `${length} entries of a byte or two`)
          ok(length > 0 || after === 10, 'at least one, if there is one')
          deepStrictEqual(textsOf(page.entries), numbers(after + 1, after + length))
        }
      }
      const first = await one.read(channel, undefined, TEN)
      strictEqual(first.complete, true)
      deepStrictEqual(textsOf(first.entries), numbers(1, first.entries.length))
      deepStrictEqual(textsOf(await readAll(one, channel, first.after)), numbers(1, 10), 'its `after` is the position before it')
    }
  },
  {
    name: 'a position that the broker has never given is not taken for one of its own',
    async check ({ one }) {
      const channel = newName()
      const [first] = await append(one, channel, numbers(1, 3))
      for (const foreign of ['1-1', '1-0', FUTURE]) {
        const { complete, after, entries } = await one.read(channel, foreign, TEN)
        strictEqual(complete, false, foreign)
        notStrictEqual(after, foreign)
        deepStrictEqual(textsOf(entries), numbers(1, entries.length), 'it begins with the earliest')
        ok(entries.length > 0)
        ok(compareEntryIds(after, first!) < 0)
      }
    }
  },
  {
    name: 'of a channel without entries nothing is read, from a position that counts',
    async check ({ one }) {
      const channel = newName()
      const empty = await one.read(channel, undefined, TEN)
      deepStrictEqual([empty.entries.length, empty.complete], [0, true])
      await append(one, channel, numbers(1, 3))
      deepStrictEqual(textsOf(await readAll(one, channel, empty.after)), numbers(1, 3))
    }
  },
  {
    name: 'what the history has room for is retained; beyond that the oldest go, and whoever was there is not complete',
    async check ({ one }) {
      for (const limits of [{ ...HISTORY, events: 10 }, { ...HISTORY, bytes: 100 }]) {
        const channel = newName()
        // More than an engine that trims by blocks may keep in addition.
        const ids = await append(one, channel, numbers(100_001, 102_000).map((text) => text.padEnd(10)), limits)
        const trimmed = await one.read(channel, BEGINNING, TEN)
        strictEqual(trimmed.complete, false)
        const entries = await readAll(one, channel, trimmed.after)
        ok(entries.length >= 10, `${entries.length} of the newest 10 are there`)
        ok(entries.length < 1_000, `${entries.length} are there, of which 10 are to be retained`)
        deepStrictEqual(entries.map(({ id }) => id), ids.slice(-entries.length), 'without holes, to the newest')
        strictEqual((await one.read(channel, ids[0], TEN)).complete, false)
        deepStrictEqual((await readAll(one, channel, ids.at(-5))).map(({ id }) => id), ids.slice(-4))
      }
    }
  },
  {
    name: 'the newest entry is retained whatever its size',
    async check ({ one }) {
      const channel = newName()
      const [id] = await append(one, channel, ['x'.repeat(1_000)], { ...HISTORY, bytes: 10 })
      const { entries } = await one.read(channel, undefined, TEN)
      deepStrictEqual(entries.map((entry) => entry.id), [id])
    }
  },
  {
    name: 'entries younger than `age` are retained',
    async check ({ one }) {
      const channel = newName()
      await append(one, channel, numbers(1, 50), { ...HISTORY, age: 60_000 })
      deepStrictEqual(textsOf(await readAll(one, channel)), numbers(1, 50))
    }
  },
  {
    name: 'a closed channel takes nothing more, and can still be read',
    async check ({ one, other }) {
      const channel = newName()
      await append(one, channel, numbers(1, 3))
      await one.close(channel, 60_000)
      await one.close(channel, 60_000)
      for (const broker of [one, other]) {
        await rejects(broker.append(channel, message('4'), HISTORY), { code: 'FST_SSE_CHANNEL_CLOSED' })
        deepStrictEqual(textsOf(await readAll(broker, channel)), numbers(1, 3))
      }
    }
  },
  {
    name: 'a closed channel is no longer trimmed by age',
    async check ({ one, other }) {
      const channel = newName()
      await append(one, channel, numbers(1, 3), { ...HISTORY, age: 500 })
      await one.close(channel, 60_000)
      await new Promise((resolve) => setTimeout(resolve, 600))
      for (const broker of [one, other]) deepStrictEqual(textsOf(await readAll(broker, channel)), numbers(1, 3))
    }
  },
  {
    name: 'an append at the same time as a close is stored before the end, or rejected',
    async check ({ one, other }) {
      for (let round = 0; round < 20; round++) {
        const channel = newName()
        const appended = Promise.allSettled(numbers(1, 20).map((text) => one.append(channel, message(text), HISTORY)))
        const [results] = await Promise.all([appended, other.close(channel, 60_000)])
        for (const result of results) if (result.status === 'rejected') match(result.reason.code, /^FST_SSE_CHANNEL_CLOSED$/)
        const stored = results.filter(({ status }) => status === 'fulfilled').length
        deepStrictEqual(textsOf(await readAll(one, channel)), numbers(1, stored))
      }
    }
  },
  {
    name: 'a closed channel is forgotten as a whole, and its name is free',
    async check ({ one }) {
      const channel = newName()
      const [id] = await append(one, channel, numbers(1, 3))
      await one.close(channel, 50)
      await eventually(() => one.open(channel, hold('owner')), 'the closed channel is forgotten')
      const { entries, complete } = await one.read(channel, id, TEN)
      deepStrictEqual([entries.length, complete], [0, false], 'the new channel does not know positions of the old one')
      await append(one, channel, ['a'])
      deepStrictEqual(textsOf((await one.read(channel, undefined, TEN)).entries), ['a'])
    }
  }
]
