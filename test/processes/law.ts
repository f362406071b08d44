/**
 * The delivery law across processes: what Redis has is the truth, and its order is the order. Whoever reads gets it once and
 * in order, unless he is told of a gap; and then what is missing is gone.
 */
import type { Redis } from 'ioredis'
import { readVector, tagsOf } from '../../lib/channels/vector.ts'
import { compareEntryIds, isEntryId } from '../../lib/entry-id.ts'
import { historyOf } from './channels.ts'
import type { Item, Visit } from './client.ts'
import type { Told } from './serve.ts'

/** The largest number of an ID. */
const LAST = '18446744073709551615'

export interface Fact {
  id: string
  by: string
  n: number
  data: string
  /** Redis had it, and has it no more, though its history would have had room. */
  lost: boolean
}

/** What Redis has of a channel. */
export async function xrange (redis: Redis, name: string): Promise<{ id: string, data: string }[]> {
  const entries = await redis.xrange(`sse:{0}:log:${name}`, '-', '+')
  return entries.flatMap(([id, fields]) => {
    const at = fields.findIndex((field, index) => index % 2 === 0 && field === 't')
    return at === -1 ? [] : [{ id, data: fields[at + 1]! }]
  })
}

/** By whom an event was published, and which of his it is: of those that count a state, by the key and the count. */
function sourceOf (data: string): { by: string, n: number } {
  const { by, n, key, count } = JSON.parse(data)
  return { by: by ?? key, n: n ?? count }
}

export class Truth {
  readonly name: string
  readonly facts: Fact[]
  /** What is not as it must be in Redis itself. */
  readonly faults: string[] = []
  readonly #indexes: Map<string, number>

  /**
   * @param stored what Redis has at the end
   * @param told by who has published it
   * @param seen by clients, of what Redis may have lost
   */
  constructor (name: string, stored: { id: string, data: string }[], told: readonly Told[], seen: ReadonlyMap<string, string>) {
    this.name = name
    const all = new Map(seen)
    const isStored = new Set<string>()
    const fault = (text: string) => this.faults.push(`${name}: ${text}`)
    for (const { id, data, by, n } of told) {
      if (id === undefined) continue
      if (all.has(id) && all.get(id) !== data) fault(`${id} is event ${n} of ${by}, and another one`)
      all.set(id, data)
    }
    for (const { id, data } of stored) {
      if (all.has(id) && all.get(id) !== data) fault(`${id} is another event in Redis`)
      all.set(id, data)
      isStored.add(id)
    }
    const ids = [...all.keys()].sort(compareEntryIds)
    const oldest = ids.length - historyOf(name)
    this.facts = ids.map((id, index) => {
      const data = all.get(id)!
      return { id, data, ...sourceOf(data), lost: index >= oldest && !isStored.has(id) }
    })
    this.#indexes = new Map(this.facts.map(({ by, n }, index) => [`${by} ${n}`, index]))
    if (this.#indexes.size < this.facts.length) fault(`${this.facts.length - this.#indexes.size} events were stored twice`)
    this.#checkOrder(told, fault)
  }

  /** Each publisher's events are in the order of his calls, and none is missing of which he was not told. */
  #checkOrder (told: readonly Told[], fault: (text: string) => void): void {
    const failed = new Set(told.filter(({ id }) => id === undefined).map(({ by, n }) => `${by} ${n}`))
    const lasts = new Map<string, number>()
    for (const { by, n } of this.facts) {
      const last = lasts.get(by)
      for (let missing = (last ?? n - 1) + 1; missing < n; missing++) {
        if (!failed.has(`${by} ${missing}`)) fault(`event ${missing} of ${by} is missing, or comes after event ${n}`)
      }
      if (last !== undefined && n <= last) fault(`event ${n} of ${by} comes after event ${last}`)
      lasts.set(by, Math.max(n, last ?? n))
    }
  }

  indexOf (data: string): number | undefined {
    const { by, n } = sourceOf(data)
    return this.#indexes.get(`${by} ${n}`)
  }

  indexOfId (id: string): number | undefined {
    const index = this.indexAfter(id) - 1
    return this.facts[index]?.id === id ? index : undefined
  }

  /** The index of what comes after a position. */
  indexAfter (position: string): number {
    let low = 0
    let high = this.facts.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (compareEntryIds(this.facts[middle]!.id, position) <= 0) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Of a channel that counts: what was published before an index, by key. */
  countsBefore (index: number): Map<string, number> {
    return new Map(this.facts.slice(0, index).map(({ by, n }) => [by, n]))
  }

  /** Whether Redis can have let go of it, at a time. */
  isGone (index: number, at: number): boolean {
    return this.facts[index]!.lost || index < this.indexAfter(`${at}-${LAST}`) - historyOf(this.name)
  }

  /** Of those that were not lost. */
  get earliest (): number {
    return this.facts.findIndex(({ lost }) => !lost)
  }

  /** Whether Redis, having lost what is between, does not know that there was anything: to who has had none of it. */
  isForgotten (from: number, to: number): boolean {
    if (from >= to || from === 0 || this.facts[from - 1]!.lost) return false
    return this.areLost(from, to)
  }

  /** Whether Redis has lost all that is between. */
  areLost (from: number, to: number): boolean {
    return this.facts.slice(from, to).every(({ lost }) => lost)
  }
}

/** The position in each channel that a last event ID stands for. */
export function positionsIn (names: readonly string[]): (id: string) => Record<string, string | undefined> {
  if (names.length === 1) return (id) => ({ [names[0]!]: id })
  const tags = tagsOf(names)
  return (id) => {
    const positions = readVector(id, tags) ?? []
    return Object.fromEntries(names.map((name, index) => [name, positions[index]]))
  }
}

/** The events that clients have seen of a channel, by their IDs there. */
export function seenOf (name: string, names: readonly string[], all: readonly Visit[][]): Map<string, string> {
  const positionsOf = positionsIn(names)
  const seen = new Map<string, string>()
  for (const { id, own, event } of all.flat().flatMap(({ items }) => items)) {
    if (own && event !== undefined && event.type !== 'gap' && JSON.parse(event.data).name === name) {
      seen.set(positionsOf(id)[name]!, event.data)
    }
  }
  return seen
}

export interface Verdict {
  faults: string[]
  events: number
  gaps: number
  /** Events that were missed, by gaps. */
  missed: number
  /** Visits that went on without a gap. */
  resumed: number
}

/**
 * Holds what a client was given against the law.
 * @param next what must come next of each channel, where that is known from the beginning
 */
export function judge (visits: readonly Visit[], truths: readonly Truth[], next: Record<string, number> = {}): Verdict {
  const verdict: Verdict = { faults: [], events: 0, gaps: 0, missed: 0, resumed: 0 }
  const names = truths.map(({ name }) => name)
  const truthOf = new Map(truths.map((truth) => [truth.name, truth]))
  const positionsOf = positionsIn(names)

  const hasForgotten = [...truthOf.values()].some(({ facts }) => facts.some(({ lost }) => lost))

  visits.forEach((visit, number) => {
    let lastEventId = visit.sent
    const gapsBefore = verdict.gaps
    /** Where channels go on of which a gap was told. */
    const skipped = new Map<string, number>()
    const fault = (text: string) => {
      verdict.faults.push(`visit ${number} of ${visits.length}, to ${visit.port}, sent '${visit.sent}': ${text}`)
    }
    if (visit.status !== undefined && visit.status !== 200) fault(`was answered ${visit.status}`)

    function takeGap (text: string, at: number): void {
      const { channel = names[0], requested, earliest } = JSON.parse(text)
      const truth = truthOf.get(channel)!
      verdict.gaps++
      // Its process may have known of an event that Redis then lost before anybody was given it.
      const had = positionsOf(lastEventId)[channel]
      const isAhead = hasForgotten && had !== undefined && isEntryId(had) && isEntryId(requested) &&
        compareEntryIds(requested, had) > 0
      if (requested !== had && !isAhead) fault(`a gap for ${requested} after ${lastEventId}`)
      const to = earliest === null ? truth.indexAfter(requested) : truth.indexOfId(earliest)
      const from = next[channel]
      if (to === undefined || from === undefined) return fault(`a gap from ${from} up to ${earliest}, which is ${to}`)
      // Where Redis has lost the event that the client has had last, it begins at the earliest that is retained.
      const isLost = isAhead || truth.facts[from - 1]?.lost === true
      if (to < from && !(isLost && to === truth.earliest)) fault(`a gap back to event ${to} of ${channel} from ${from}`)
      // A Redis that comes back empty does not know that a channel was empty before, too.
      const wasEmpty = from === 0 && hasForgotten
      if (to === from && !isLost && !wasEmpty) fault(`a gap of nothing for ${requested}, up to event ${to} of ${channel}, which is ${truth.facts[to]?.id} after ${truth.facts[to - 1]?.id}`)
      for (let index = from; index < to; index++) {
        if (!truth.isGone(index, at)) fault(`a gap over event ${index} of ${channel}, which was there`)
      }
      verdict.missed += to - from
      if (earliest !== null) skipped.set(channel, to)
      else skipped.set(channel, -1)
    }

    /** What comes next of a channel is at an index: is that right? Who has had no ID yet can be told of no gap. */
    function comesTo (channel: string, index: number, what: string, hadId: boolean): void {
      const truth = truthOf.get(channel)!
      const skip = skipped.get(channel)
      if (skip === index || (skip === -1 && index >= next[channel]!)) {
        next[channel] = index
        skipped.delete(channel)
      }
      next[channel] ??= index
      if (index === next[channel]) return
      const isUnknown = !hadId && index > next[channel] && truth.areLost(next[channel], index)
      if (isUnknown || truth.isForgotten(next[channel], index)) next[channel] = index
      else fault(`${what} of ${channel}, where ${next[channel]} should be next`)
    }

    function takeItem ({ id, event, at }: Item): void {
      if (event?.type === 'gap') return takeGap(event.data, at)
      const positions = positionsOf(id)
      const hadId = lastEventId !== ''
      if (event !== undefined) {
        verdict.events++
        const name = JSON.parse(event.data).name as string
        const truth = truthOf.get(name)!
        const index = truth.indexOf(event.data)
        if (index === undefined) return fault(`${event.data}, which was never stored`)
        comesTo(name, index, `event ${index}`, hadId)
        next[name] = index + 1
        const fact = truth.facts[index]!
        if (fact.data !== event.data) fault(`event ${index} of ${name} is spoiled`)
        if (event.type !== (fact.n % 2 === 0 ? 'message' : 'tick')) fault(`event ${index} of ${name} is of type ${event.type}`)
        if (positions[name] !== fact.id) fault(`event ${index} of ${name} has ID ${id}`)
      }
      lastEventId = id
      for (const [name, position] of Object.entries(positions)) {
        if (position === undefined) fault(`ID ${id} has no position in ${name}`)
        else comesTo(name, truthOf.get(name)!.indexAfter(position), `position ${id}`, hadId)
      }
    }

    visit.items.forEach(takeItem)
    const hasEvents = visit.items.some(({ event }) => event !== undefined)
    if (visit.sent !== '' && hasEvents && verdict.gaps === gapsBefore) verdict.resumed++
  })
  for (const { name, facts } of truths) {
    if (next[name] !== facts.length) verdict.faults.push(`the end is at event ${next[name]} of ${name}, not at ${facts.length}`)
  }
  return verdict
}
