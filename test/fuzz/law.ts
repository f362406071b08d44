/**
 * The law of delivery, plainly: what was published to each channel, what one reader was told, and whether that may be. To a
 * reader each event is the next one, or it is told of a gap; and of a gap only where something was lost to it that the
 * history needs not have had any more.
 */
import { readVector, tagsOf } from '../../lib/channels/vector.ts'
import { FINISHED_ID } from '../../lib/client/finished-id.ts'
import { compareEntryIds } from '../../lib/entry-id.ts'
import type { History } from '../../index.ts'
import type { OnLag } from '../../lib/channels/cursor.ts'

/** How many events of each channel had been published, or were about to be, and when that was. */
export interface Moment {
  begun: readonly number[]
  now: number
}

/** One event that was published. */
interface Fact {
  id: string | undefined
  size: number
  at: number
}

/** All that was published to one channel. */
export class Truth {
  readonly facts: Fact[] = []
  closed = false
  readonly #history: History

  constructor (history: History) {
    this.#history = history
  }

  /** Whether the history needs not have this event at that moment. */
  mayBeGone (index: number, begun: number, now: number): boolean {
    const { events, bytes, age } = this.#history
    if (index >= begun) return false
    if (age !== false && now - this.facts[index]!.at >= age) return true
    const sizes = this.facts.slice(index, begun).map(({ size }) => size)
    return sizes.length > 1 && (sizes.length > events || sizes.reduce((sum, size) => sum + size) > bytes)
  }

  /** The first event that the history must have. */
  firstSafe (begun: number, now: number): number {
    let index = 0
    while (this.mayBeGone(index, begun, now)) index++
    return index
  }

  indexAfter (position: string): number {
    const index = this.facts.findIndex(({ id }) => compareEntryIds(id!, position) > 0)
    return index === -1 ? this.facts.length : index
  }

  indexOf (id: string): number {
    return this.facts.findIndex((fact) => fact.id === id)
  }
}

/** What a reader was told, and what had been published by then. */
export type Item = { moment: Moment } & (
  | { is: 'position', id: string }
  | { is: 'event', id: string, channel: number, n: number }
  | { is: 'gap', channel: string | undefined, requested: string, earliest: string | null }
)

/** One reading, from when it was asked for to when it ended. */
export interface Visit {
  /** From where; undefined: from now on. */
  after: string | undefined
  /** What had been published for certain when it was asked for. */
  settled: readonly number[]
  /** When it was asked for. */
  opened: Moment
  items: Item[]
  /** 'left': the reader has gone. 'end': its channels are closed. 'lagged': it has fallen behind. */
  ended: 'left' | 'end' | 'lagged' | undefined
  /** It has not stalled. */
  readsOn: boolean
  endedAt: Moment | undefined
}

export interface Reader {
  /** The channels that it reads. */
  channels: readonly number[]
  wants: (n: number) => boolean
  visits: readonly Visit[]
}

/** What the channels are like. */
export interface Rules {
  onLag: OnLag
  /** The key of an event, for `onLag: 'latest'`. */
  keyOf: (n: number) => unknown
  names: readonly string[]
  /**
   * Whether the broker may have forgotten a channel in which nothing was left. Then it does not know for certain that a
   * reader has had everything.
   */
  forgets: boolean
  /** Whether readers learn of what is published a little later than publishers, and the other way round. */
  isFar: boolean
}

/** What may come next of one channel: not before `lo`, and nothing from `hi` on is left out. */
interface Next {
  lo: number
  hi: number
}

/** What one reader was told that it should not have been, or was not told that it should have been. */
export function faultsOf (reader: Reader, truths: readonly Truth[], rules: Rules): string[] {
  return reader.channels.flatMap((channel) => new Judge(reader, channel, truths[channel]!, rules).judge())
}

/** Holds what one reader was told of one channel against the law. */
class Judge {
  readonly #reader: Reader
  readonly #channel: number
  readonly #truth: Truth
  readonly #rules: Rules
  readonly #faults: string[] = []
  #next: Next = { lo: 0, hi: 0 }
  #where = ''
  /** It has begun with what is published from now on, and has had everything so far. */
  #keepsUp = false
  /** Of what was before, it may be given no more than the newest of every key. */
  #compactedTo = 0

  constructor (reader: Reader, channel: number, truth: Truth, rules: Rules) {
    this.#reader = reader
    this.#channel = channel
    this.#truth = truth
    this.#rules = rules
  }

  judge (): string[] {
    this.#reader.visits.forEach((visit, number) => {
      this.#where = `channel ${this.#channel}, visit ${number} after '${visit.after}'`
      this.#begin(visit)
      this.#keepsUp = false
      visit.items.forEach((item, index) => {
        this.#where = `channel ${this.#channel}, visit ${number} after '${visit.after}', item ${index}`
        this.#take(item)
        this.#keepsUp = !this.#rules.isFar && visit.after === undefined && visit.readsOn && (this.#keepsUp || item.is === 'event')
      })
      this.#end(visit)
    })
    return this.#faults
  }

  #begin ({ after, settled, opened, items, endedAt }: Visit): void {
    const channel = this.#channel
    const { begun, now } = items[0]?.moment ?? endedAt ?? opened
    if (after === FINISHED_ID) {
      this.#goTo(this.#truth.facts.length)
    } else if (after === 'earliest') {
      this.#next = { lo: 0, hi: this.#truth.firstSafe(begun[channel]!, now) }
    } else if (after !== undefined) {
      this.#goTo(this.#truth.indexAfter(this.#positionIn(after)))
    } else if (this.#rules.isFar) {
      this.#next = { lo: 0, hi: begun[channel]! }
    } else {
      // An HTTP client is told from where it goes on.
      this.#next = { lo: settled[channel]!, hi: items[0]?.is === 'position' ? begun[channel]! : opened.begun[channel]! }
    }
  }

  #take (item: Item): void {
    if (item.is === 'gap') {
      if (item.channel === undefined || item.channel === this.#rules.names[this.#channel]) this.#takeGap(item)
    } else {
      if (item.is === 'event' && item.channel === this.#channel) this.#takeEvent(item)
      this.#reach(this.#truth.indexAfter(this.#positionIn(item.id)), item.moment, `position ${item.id}`)
    }
  }

  #takeEvent ({ n, id, moment }: Item & { is: 'event' }): void {
    if (this.#truth.facts[n]?.id !== this.#positionIn(id)) this.#fault(`event ${n} has ID ${id}`)
    if (!this.#reader.wants(n)) this.#fault(`event ${n}, which it does not want`)
    if (this.#reach(n, moment, `event ${n}`)) this.#goTo(n + 1)
  }

  /** It is told what is at this index, so what was before it must have been told, or needs not be. */
  #reach (index: number, moment: Moment, what: string): boolean {
    if (index < this.#next.lo) {
      this.#fault(`${what} once more, where ${this.#next.lo} should be next`)
      return false
    }
    this.#allowForLag(moment)
    for (const lost of this.#wanted(this.#next.hi, index)) {
      if (!this.#isSuperseded(lost, moment)) this.#fault(`${what}, but no event ${lost}`)
    }
    this.#goTo(index)
    return true
  }

  #takeGap ({ requested, earliest, moment }: Item & { is: 'gap' }): void {
    const truth = this.#truth
    const begun = moment.begun[this.#channel]!
    const from = truth.indexAfter(requested)
    const to = earliest === null ? truth.firstSafe(begun, moment.now) : truth.indexOf(earliest)
    const what = `a gap from event ${from} to ${to}`
    this.#reach(from, moment, what)
    if (this.#keepsUp) this.#fault(`${what} for a reader that keeps up`)
    // Then the newest before it was too old for the channel to be known by.
    const isForgotten = this.#rules.forgets && truth.firstSafe(begun, moment.now) >= from
    if (to < from || (to === from && !isForgotten)) this.#fault(`${what}, which is none`)
    for (let index = from; index < to; index++) {
      if (!truth.mayBeGone(index, begun, moment.now)) this.#fault(`${what}, though event ${index} is retained`)
    }
    this.#next = { lo: earliest === null ? from : to, hi: to }
  }

  #end ({ ended, endedAt }: Visit): void {
    const { facts, closed } = this.#truth
    if (ended === 'end') {
      if (!closed) this.#fault('it has ended, but the channel is open')
      this.#reach(facts.length, endedAt!, 'the end')
    } else if (ended === 'lagged') {
      if (this.#rules.onLag !== 'disconnect' || this.#keepsUp) this.#fault('it was cut off')
      // Of several channels it may have been the other one.
      const isLost = this.#truth.mayBeGone(this.#next.lo, endedAt!.begun[this.#channel]!, endedAt!.now)
      if (!isLost && this.#reader.channels.length === 1) this.#fault(`it was cut off, though event ${this.#next.lo} is retained`)
    }
  }

  /**
   * Once a reader has fallen behind, it may go on with the newest of every key of all that there is, whatever is retained: the
   * first that it is given then can well be the very next event.
   */
  #allowForLag ({ begun, now }: Moment): void {
    const count = begun[this.#channel]!
    if (this.#rules.onLag === 'latest' && !this.#keepsUp && this.#truth.mayBeGone(this.#next.hi, count, now)) this.#compactedTo = count
  }

  /** Whether it may be left out for a newer event with the same key. */
  #isSuperseded (lost: number, { begun }: Moment): boolean {
    const { keyOf } = this.#rules
    const newer = Array.from({ length: begun[this.#channel]! - lost - 1 }, (_, index) => lost + 1 + index)
    return lost < this.#compactedTo && newer.some((n) => keyOf(n) === keyOf(lost))
  }

  #wanted (from: number, to: number): number[] {
    const wanted = []
    for (let index = from; index < to; index++) if (this.#reader.wants(index)) wanted.push(index)
    return wanted
  }

  #goTo (index: number): void {
    this.#next = { lo: index, hi: index }
  }

  #positionIn (id: string): string {
    const { channels } = this.#reader
    if (channels.length === 1) return id
    const names = channels.map((channel) => this.#rules.names[channel]!)
    return readVector(id, tagsOf(names))?.[channels.indexOf(this.#channel)] ?? '0-0'
  }

  #fault (text: string): void {
    this.#faults.push(`${this.#where}: ${text}`)
  }
}
