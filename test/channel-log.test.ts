/** The pure parts of channels, each against a model that is plain and slow. */
import fc from 'fast-check'
import t from 'tap'
import { BEGINNING, compareEntryIds, isEntryId } from '../lib/entry-id.ts'
import { EntryLog } from '../lib/entry-log.ts'
import { readVector, tagsOf, Vector } from '../lib/channels/vector.ts'

const RUNS = 300

/** What a log does, by arrays. */
class Model {
  first = 0
  base: string
  /** Those retained, the oldest first. */
  slots: { id: string, size: number, at: number }[] = []

  constructor (base: string) {
    this.base = base
  }

  excess (events: number, bytes: number, age: number | false, now: number): number {
    const rest = [...this.slots]
    const isTooMuch = () => rest.length > 1 && (rest.length > events || sum(rest) > bytes)
    const isOld = () => age !== false && rest.length > 0 && now - rest[0]!.at >= age
    while (isTooMuch() || isOld()) rest.shift()
    return this.first + this.slots.length - rest.length
  }

  trim (to: number): void {
    while (this.first < to) {
      this.base = this.slots.shift()!.id
      this.first++
    }
  }

  reset (position: string): void {
    this.first += this.slots.length + 1
    this.slots = []
    this.base = position
  }
}

function sum (slots: readonly { size: number }[]): number {
  return slots.reduce((total, { size }) => total + size, 0)
}

type Step =
  | { does: 'append', sizes: number[] }
  | { does: 'trim', events: number, bytes: number, age: number | false }
  | { does: 'wait', ms: number }
  | { does: 'reset' }

const limit = fc.integer({ min: 1, max: 60 })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ does: fc.constant('append' as const), sizes: fc.array(fc.nat(30), { maxLength: 20 }) }) },
  {
    weight: 4,
    arbitrary: fc.record({ does: fc.constant('trim' as const), events: limit, bytes: limit, age: fc.oneof(limit, fc.constant(false as const)) })
  },
  { weight: 2, arbitrary: fc.record({ does: fc.constant('wait' as const), ms: fc.nat(40) }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('reset' as const) }) }
)

t.test('a log does what an array would, whatever is appended, trimmed and reset in whatever order', async () => {
  fc.assert(fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
    const log = new EntryLog<{ id: string }>('5-0')
    const model = new Model('5-0')
    let now = 0
    let count = 0
    for (const each of steps) {
      switch (each.does) {
        case 'append':
          for (const size of each.sizes) {
            // Positions between entries are odd, which no entry has.
            const id = `${5 + Math.floor(++count / 7)}-${count * 2}`
            log.append({ id }, size, now)
            model.slots.push({ id, size, at: now })
          }
          break
        case 'trim': {
          const { events, bytes, age } = each
          const to = log.excess(each, now)
          assertSame(to, model.excess(events, bytes, age, now), 'excess')
          log.trim(to)
          model.trim(to)
          break
        }
        case 'wait':
          now += each.ms
          break
        case 'reset': {
          const position = `${5 + Math.floor(count / 7)}-${count * 2 + 1}`
          log.reset(position)
          model.reset(position)
        }
      }
      assertAlike(log, model)
    }
  }), { numRuns: RUNS })
})

function assertAlike (log: EntryLog<{ id: string }>, { first, base, slots }: Model): void {
  const next = first + slots.length
  assertSame([log.first, log.next, log.bytes, log.base], [first, next, sum(slots), base], 'first, next, bytes, base')
  assertSame(log.tail, slots.at(-1)?.id ?? base, 'tail')
  for (let index = first; index < next; index++) assertSame(log.at(index).id, slots[index - first]!.id, 'at')
  for (const position of [BEGINNING, base, ...slots.map(({ id }) => id), '9999-0']) {
    for (const near of [position, `${position}1`]) {
      const after = slots.findIndex(({ id }) => compareEntryIds(id, near) > 0)
      assertSame(log.firstAfter(near), after === -1 ? next : first + after, `firstAfter ${near}`)
      const known = near === base ? first : slots.findIndex(({ id }) => id === near) + first + 1
      const expected = near === base || slots.some(({ id }) => id === near) ? known : undefined
      assertSame(log.indexAfter(near), expected, `indexAfter ${near}`)
    }
  }
}

function assertSame (actual: unknown, expected: unknown, what: string): void {
  if (JSON.stringify(actual) === JSON.stringify(expected)) return
  throw new Error(`${what}: ${JSON.stringify(actual)}, but the model has ${JSON.stringify(expected)}`)
}

t.test('a log keeps its newest entry whatever its size, but not beyond its age', async (t) => {
  const log = new EntryLog<{ id: string }>('0-0')
  log.append({ id: '1-0' }, 1_000, 0)
  t.equal(log.excess({ events: 1, bytes: 1, age: 10 }, 9), 0)
  t.equal(log.excess({ events: 1, bytes: 1, age: 10 }, 10), 1)
  t.equal(log.excess({ events: 1, bytes: 1, age: false }, 1e9), 0)
})

t.test('a log that is trimmed all the time keeps its indexes, for as many entries as there ever were', async (t) => {
  const log = new EntryLog<{ id: string }>('0-0')
  for (let n = 0; n < 20_000; n++) {
    log.append({ id: `1-${n}` }, 1, n)
    log.trim(log.excess({ events: 3_000, bytes: 1e9, age: false }, n))
  }
  t.same([log.first, log.next, log.bytes], [17_000, 20_000, 3_000])
  t.equal(log.base, '1-16999')
  t.equal(log.at(17_000).id, '1-17000')
  t.equal(log.at(19_999).id, '1-19999')
  t.equal(log.firstAfter('1-18000'), 18_001)
  log.trim(20_000)
  t.same([log.first, log.bytes, log.tail], [20_000, 0, '1-19999'])
})

const U64 = 2n ** 64n - 1n
const number = fc.oneof(fc.bigInt({ min: 0n, max: 20n }), fc.bigInt({ min: 0n, max: U64 }), fc.constant(U64))
const entryId = fc.tuple(number, number)

t.test('entry IDs compare as pairs of 64-bit integers do', async () => {
  fc.assert(fc.property(entryId, entryId, ([a, b], [c, d]) => {
    const expected = a < c ? -1 : a > c ? 1 : b < d ? -1 : b > d ? 1 : 0
    return Math.sign(compareEntryIds(`${a}-${b}`, `${c}-${d}`)) === expected
  }), { numRuns: 2_000 })
  fc.assert(fc.property(entryId, ([a, b]) => isEntryId(`${a}-${b}`) && compareEntryIds(`${a}-${b}`, BEGINNING) >= 0))
})

t.test('what is no entry ID is told from one', async (t) => {
  for (const id of ['0-0', '1-0', '18446744073709551615-18446744073709551615']) t.equal(isEntryId(id), true, id)
  for (const id of [
    '', '-', '1', '1-', '-1', '01-1', '1-01', '1-1-1', ' 1-1', '1-1\n', '1_1', '+1-1', '1-1e3', '0x1-1', '１-1', 'earliest',
    '184467440737095516150-0'
  ]) t.equal(isEntryId(id), false, JSON.stringify(id))
})

const names = fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 1, maxLength: 20 })
const small = fc.oneof(fc.nat(100), fc.nat(2 ** 31), fc.integer({ min: 0, max: 5e13 }))

t.test('a vector brings back the position in each of its channels', async () => {
  fc.assert(fc.property(names, fc.array(fc.tuple(small, small), { minLength: 20, maxLength: 20 }), (channels, numbers) => {
    const tags = tagsOf(channels)
    const positions = channels.map((_, index) => numbers[index]!.join('-'))
    const vector = new Vector(tags)
    positions.forEach((position, index) => vector.set(index, position))
    assertSame(readVector(vector.toString(), tags), positions, 'positions')
    assertSame(readVector(vector.toString(), [...tags].reverse()), [...positions].reverse(), 'in another order')
  }), { numRuns: RUNS })
})

t.test('a channel that a vector does not have has no position; one that it has in excess is passed over', async (t) => {
  const tags = tagsOf(['a', 'b', 'c'])
  const vector = new Vector(tags.slice(0, 2))
  vector.set(0, '1700000000000-7')
  vector.set(1, '1700000000001-0')
  t.same(readVector(vector.toString(), tags), ['1700000000000-7', '1700000000001-0', undefined])
  t.same(readVector(vector.toString(), tags.slice(1)), ['1700000000001-0', undefined])
  vector.set(0, '1700000000002-1')
  t.same(readVector(vector.toString(), tags.slice(0, 1)), ['1700000000002-1'])
})

t.test('what is no vector is told from one, and never taken for a position', async (t) => {
  const tags = tagsOf(['a'])
  const good = `~${tags[0]}5-5`
  t.same(readVector(good, tags), ['5-5'])
  t.equal(readVector('1700000000000-7', tags), undefined, 'the ID of a single channel: else a change of routes loses events unseen')
  for (const id of ['', 'earliest', `${good}.`, `.${good}`, `${good}..${good}`, `${good}\n`, `${good} `, `~${tags[0]}-5`,
    `~${tags[0]}5`, `~${tags[0]}5-5-5`, `~${tags[0]}A-5`, good.slice(1), 'fastify-typed-sse:finished', `~${tags[0]}${'z'.repeat(20)}-0`]) {
    t.equal(readVector(id, tags), undefined, JSON.stringify(id))
  }
  fc.assert(fc.property(fc.string(), (text) => {
    const positions = readVector(text, tags)
    return positions === undefined || positions.every((position) => position === undefined || isEntryId(position))
  }))
})

t.test('a vector carries any position that a broker may give', async (t) => {
  const tags = tagsOf(['a', 'b'])
  for (const position of ['0-0', '9007199254740993-9007199254740995', '18446744073709551615-18446744073709551615']) {
    const vector = new Vector(tags)
    vector.set(0, position)
    vector.set(1, '1-1')
    t.same(readVector(vector.toString(), tags), [position, '1-1'])
  }
})

t.test('so many channels as fit into the last event ID, each once', async (t) => {
  const many = (count: number) => Array.from({ length: count }, (_, index) => `channel ${index}`)
  let most = 1
  for (;;) {
    try {
      tagsOf(many(most + 1))
      most++
    } catch (error) {
      t.match(error, { code: 'FST_SSE_TOO_MANY_CHANNELS' })
      break
    }
  }
  const vector = new Vector(tagsOf(many(most)))
  // The year 5188, and a sequence number of a memory broker after 100,000 events in one millisecond.
  for (let index = 0; index < most; index++) vector.set(index, '101559956668415-1000009999')
  t.ok(Buffer.byteLength(vector.toString()) <= 1_024, `${most} channels`)
  t.throws(() => tagsOf(['a', 'b', 'a']), { code: 'FST_SSE_INVALID_OPTION', message: /'a' twice/ })
})
