/**
 * A channel's log: entries in order, each at an index that it keeps for ever, of which the oldest are let go of.
 * Pure: it knows no clock, no broker and no reader. An index is a cheap name for a position: `first` is the oldest entry
 * retained, `next` the one that is still to come.
 */
import type { History } from './broker.ts'
import { compareEntryIds } from './entry-id.ts'

/** Slots that may lie idle before the array is shortened. */
const IDLE = 1_024

interface Slot<Event> {
  event: Event
  size: number
  at: number
}

export class EntryLog<Event extends { readonly id: string }> {
  first = 0
  next = 0
  bytes = 0
  /** The position right before `first`. */
  base: string
  #slots: (Slot<Event> | undefined)[] = []
  /** The index of the first slot. */
  #offset = 0

  constructor (base: string) {
    this.base = base
  }

  /** The position right after the newest entry. */
  get tail (): string {
    return this.before(this.next)
  }

  /** @param now when it was appended, in ms of any clock that does not step back */
  append (event: Event, size: number, now: number): void {
    this.#slots.push({ event, size, at: now })
    this.next++
    this.bytes += size
  }

  /** The position right before an index; of one that is before the log, the base. */
  before (index: number): string {
    return index <= this.first ? this.base : this.at(index - 1).id
  }

  /** The entry at an index from `first` to `next` - 1. */
  at (index: number): Event {
    return this.#slots[index - this.#offset]!.event
  }

  /** Up to which index the limits want the log trimmed; `first` where there is nothing to trim. */
  excess ({ events, bytes, age }: History, now: number): number {
    let to = this.first
    let rest = this.bytes
    // The newest entry stays whatever its size, but not beyond its age.
    while (to < this.next) {
      const { size, at } = this.#slots[to - this.#offset]!
      const old = age !== false && now - at >= age
      const tooMuch = to < this.next - 1 && (this.next - to > events || rest > bytes)
      if (!old && !tooMuch) break
      rest -= size
      to++
    }
    return to
  }

  /** Lets go of the entries before an index. */
  trim (to: number): void {
    while (this.first < to) {
      const slot = this.first - this.#offset
      const { event, size } = this.#slots[slot]!
      this.base = event.id
      this.bytes -= size
      this.#slots[slot] = undefined
      this.first++
    }
    const idle = this.first - this.#offset
    if (idle > IDLE && idle > this.#slots.length / 2) {
      this.#slots = this.#slots.slice(idle)
      this.#offset = this.first
    }
  }

  /** Lets go of all entries, and of the certainty that those to come follow them: every index so far is past. */
  reset (position: string): void {
    this.#slots = []
    this.bytes = 0
    this.first = this.#offset = this.next += 1
    this.base = position
  }

  /** The index right after a position that is a retained entry's or the base; undefined for any other. */
  indexAfter (position: string): number | undefined {
    const index = this.firstAfter(position)
    return this.before(index) === position ? index : undefined
  }

  /** The index of the first retained entry after a position, by order alone. */
  firstAfter (position: string): number {
    let low = this.first
    let high = this.next
    while (low < high) {
      const middle = Math.floor((low + high) / 2)
      if (compareEntryIds(this.at(middle).id, position) <= 0) low = middle + 1
      else high = middle
    }
    return low
  }
}
