/**
 * Several channels read as one. What is there is given in the order of the entry IDs; between channels that is the order
 * in which a broker's clock saw them, and what is not there yet is not waited for. The ID of each event is a vector: it
 * resumes all the channels from where the reader was with this event.
 */
import { compareEntryIds } from '../entry-id.ts'
import { EARLIEST, type Cursor } from './cursor.ts'
import type { FramedEvent } from './framed-event.ts'
import { Batch, NOBODY, type Part, type Reading, type Taker } from './reading.ts'
import type { Vector } from './vector.ts'

interface Member {
  readonly index: number
  readonly name: string
  readonly cursor: Cursor
  /** What was taken from the cursor and not yet given, and from where in it. */
  events: readonly FramedEvent[]
  at: number
  /** Its gap and its snapshot were given, and the vector has its position. */
  started: boolean
  ended: boolean
}

export class MergedReading implements Reading, Taker {
  #taker = NOBODY
  readonly #members: Member[]
  readonly #vector: Vector
  /** The client's last event ID, which it has to keep while it is told what comes before the position. */
  #requested: string | undefined
  #parts: Part[] = []
  #opened = false

  /**
   * @param cursors by the names of their channels, in the order of the vector
   * @param requested the ID that the client has sent, if any
   */
  constructor (cursors: readonly { name: string, cursor: Cursor }[], vector: Vector, requested: string | undefined) {
    this.#members = cursors.map(({ name, cursor }, index) => ({
      index, name, cursor, events: [], at: 0, started: false, ended: false
    }))
    this.#vector = vector
    this.#requested = requested === EARLIEST ? undefined : requested
  }

  begin (taker: Taker): Promise<unknown> {
    this.#taker = taker
    return Promise.all(this.#members.map(({ cursor }) => cursor.begin(this)))
  }

  onReady (urgent: boolean): void {
    this.#taker.onReady(urgent)
  }

  take (): Part | undefined {
    for (;;) {
      const part = this.#parts.shift()
      if (part !== undefined) return part
      if (!this.#opened) {
        if (!this.#open()) return undefined
      } else if (!this.#merge()) {
        return undefined
      }
    }
  }

  stop (): void {
    this.#taker = NOBODY
    for (const { cursor } of this.#members) cursor.stop()
  }

  /** Gaps and snapshots of all the channels come first, then the position from which all of them go on. */
  #open (): boolean {
    for (const member of this.#members) {
      while (!member.started) {
        const part = member.cursor.take()
        if (part === undefined) return false
        this.#pass(member, part)
        if (this.#parts.length > 0) return true
      }
    }
    this.#opened = true
    this.#tellPosition('start')
    return true
  }

  /** @returns false if there is nothing now */
  #merge (): boolean {
    if (this.#members.every(({ ended }) => ended)) return false
    const batch = Batch.gather(() => this.#next())
    if (batch.events.length > 0) this.#parts.unshift(batch)
    if (this.#members.every(({ ended }) => ended)) this.#parts.push({ is: 'end' })
    return this.#parts.length > 0
  }

  /** The earliest event of those that come next in each channel; undefined if there is none, or another part comes first. */
  #next (): FramedEvent | undefined {
    let earliest: Member | undefined
    for (const member of this.#members) {
      if (!this.#fill(member)) return undefined
      const event = member.events[member.at]
      if (event !== undefined && (earliest === undefined || isBefore(event, earliest.events[earliest.at]!))) earliest = member
    }
    if (earliest === undefined) return undefined
    const event = earliest.events[earliest.at++]!
    this.#vector.set(earliest.index, event.id)
    return event.as(this.#vector.toString())
  }

  /** @returns false where it is not known what comes next in this channel, or something else than an event does */
  #fill (member: Member): boolean {
    while (member.at === member.events.length && !member.ended) {
      const part = member.cursor.take()
      if (part === undefined) return !member.cursor.pending
      this.#pass(member, part)
      if (this.#parts.length > 0) return false
    }
    return true
  }

  #pass (member: Member, part: Part): void {
    switch (part.is) {
      case 'events':
        // Events of a snapshot have no place in an order.
        if (part.events[0]!.id === '') {
          this.#tellRequested()
          this.#parts.push(part)
        } else {
          member.events = part.events
          member.at = 0
        }
        break
      case 'position':
        // Whose position is gone has none in the vector until its gap was told; the client keeps the ID that it has.
        if (part.why === 'requested') break
        member.started = true
        this.#vector.set(member.index, part.id)
        if (this.#opened) this.#tellPosition(part.why)
        break
      case 'gap':
        this.#tellRequested()
        this.#parts.push({ is: 'gap', gap: { channel: member.name, ...part.gap } })
        break
      case 'lag':
      case 'refusal':
        this.#parts.push(part)
        break
      case 'end':
        member.ended = true
    }
  }

  #tellRequested (): void {
    if (!this.#opened && this.#requested !== undefined) {
      this.#parts.push({ is: 'position', id: this.#requested, why: 'requested' })
      this.#requested = undefined
    }
  }

  #tellPosition (why: 'start' | 'moved'): void {
    this.#parts.push({ is: 'position', id: this.#vector.toString(), why })
  }
}

function isBefore (a: FramedEvent, b: FramedEvent): boolean {
  return compareEntryIds(a.id, b.id) < 0
}
