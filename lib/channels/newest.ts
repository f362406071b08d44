/**
 * The newest event of every key, for readers that have fallen behind and want what holds now instead of the backlog
 * (`onLag: 'latest'`). Bounded as the channel's history is; what it had to let go of it knows. Pure.
 */
import type { History } from '../broker.ts'
import { compareEntryIds } from '../entry-id.ts'
import type { FramedEvent } from './framed-event.ts'

export class Newest {
  readonly #key: (event: FramedEvent) => unknown
  /** In the order of the events: who gets a newer event goes to the end. */
  readonly #events = new Map<unknown, { event: FramedEvent, at: number }>()
  #bytes = 0
  /** The newest event of some key may be before this position, and no longer here. */
  #floor: string
  /** The ID of the newest event of all. */
  #last: string

  constructor (key: (event: FramedEvent) => unknown, floor: string) {
    this.#key = key
    this.#floor = this.#last = floor
  }

  add (event: FramedEvent, now: number): void {
    const key = this.#key(event)
    this.#delete(key)
    this.#events.set(key, { event, at: now })
    this.#last = event.id
    this.#bytes += event.size
  }

  trim ({ events, bytes, age }: History, now: number): void {
    for (const [key, { event, at }] of this.#events) {
      const tooMuch = this.#events.size > 1 && (this.#events.size > events || this.#bytes > bytes)
      if (!tooMuch && (age === false || now - at < age)) return
      this.#delete(key)
      this.#floor = event.id
    }
  }

  reset (position: string): void {
    this.#events.clear()
    this.#bytes = 0
    this.#floor = this.#last = position
  }

  /** Whether there are events after this position, and of every key that has one the newest is here. */
  reaches (position: string): boolean {
    return compareEntryIds(position, this.#floor) >= 0 && compareEntryIds(this.#last, position) > 0
  }

  /** The newest events of every key that came after a position, in order. */
  * after (position: string): Generator<FramedEvent> {
    for (const { event } of this.#events.values()) {
      if (compareEntryIds(event.id, position) > 0) yield event
    }
  }

  #delete (key: unknown): void {
    const known = this.#events.get(key)
    if (known === undefined) return
    this.#events.delete(key)
    this.#bytes -= known.event.size
  }
}
