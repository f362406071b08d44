/**
 * One reader's place in one channel. Replay after a reconnect, live delivery and catching up after a stall are one and the
 * same: from where the reader is, what comes next, out of the replica's log where that reaches back, else read back from
 * the broker. A cursor holds a position and the part that comes next, whatever is published meanwhile.
 *
 * A reading begins with where it is: `position`, the one that was asked for if everything after it is still there. If
 * not: that position, `gap`, then where it goes on. A snapshot comes before the position that it belongs to, so that a
 * reader who is cut off in the middle of it does not come back as if it had had all of it.
 */
import type { Page } from '../broker.ts'
import { compareEntryIds, isEntryId } from '../entry-id.ts'
import { Lagged } from '../errors.ts'
import { isThenable, openSource, type Source } from '../source.ts'
import { FramedEvent, framed } from './framed-event.ts'
import type { ReceivedEvent } from './message.ts'
import { Batch, type Part, type Reading } from './reading.ts'
import type { Reader, Replica } from './replica.ts'

/** Where a reading begins, if not at an ID: 'earliest' is with all that is retained. */
export const EARLIEST = 'earliest'

/** Entries that are read back at once. */
const PAGE = 256

/** What happens to a reader that the log has moved past. */
export type OnLag = 'disconnect' | 'gap' | 'latest'

/** What a cursor needs to know of its channel. */
export interface Readable {
  replica (): Replica
  readonly onLag: OnLag
  /** An event of a snapshot in its wire form. @throws {InvalidEvent} */
  snapshotEvent (value: unknown): FramedEvent
  /** Undefined where the channel has none. */
  readonly snapshot: ((context: { signal: AbortSignal }) => unknown) | undefined
  /** Why a channel that nobody has made known cannot be read; undefined where it can. */
  readonly unknown: (() => Error) | undefined
}

export interface Start {
  /** An ID, or 'earliest'; undefined: with what is published from now on. */
  after: string | undefined
  filter: ((event: ReceivedEvent) => unknown) | undefined
}

export class Cursor implements Reading, Reader {
  onReady: (urgent: boolean) => void = noop
  /** It waits for the broker, or for the snapshot; nothing can be taken meanwhile. */
  pending = false

  readonly #channel: Readable
  readonly #replica: Replica
  readonly #start: Start
  /** Settles when it is known from where it reads, or that it cannot. */
  readonly begun: Promise<void>
  readonly #parts: Part[] = []
  /** The position from which events follow was told, or is about to be. */
  #opened = false
  /** It has been at the end of the log: from now on it can fall behind. */
  #live = false
  /** Everything up to here was taken. */
  #position = ''
  /** The same as an index of the log; -1: before the log. */
  #index = -1
  /** It has read back what the log is still to be given, and must not take it twice. */
  #ahead = false
  /** It goes on with the newest event of every key, until it has had the newest of all. */
  #compacting = false
  #snapshot: Source | undefined
  #failure: { error: unknown } | undefined
  #ended = false

  constructor (channel: Readable, start: Start) {
    this.#channel = channel
    this.#start = start
    this.#replica = channel.replica()
    // What is published after this line is not missed.
    const here = this.#replica.join(this)
    this.begun = this.#wait(() => this.#begin(here))
  }

  take (): Part | undefined {
    for (;;) {
      const part = this.#parts.shift()
      if (part !== undefined) return part
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.pending || this.#ended) return undefined
      if (this.#snapshot !== undefined) this.#takeSnapshot(this.#snapshot)
      else if (this.#compacting) this.#takeNewest()
      else if (this.#index < this.#replica.log.first) this.#fallBehind()
      else if (!this.#takeFromLog()) return undefined
    }
  }

  stop (): void {
    this.#ended = true
    this.onReady = noop
    this.#parts.length = 0
    this.#snapshot?.stop(false)
    this.#snapshot = undefined
    this.#replica.leave(this)
  }

  tell (): void {
    if (!this.pending) this.onReady(false)
  }

  urge (from: number, to: number): void {
    if (!this.pending && this.#index >= from && this.#index < to) this.onReady(true)
  }

  async #begin (here: number): Promise<void> {
    const { after } = this.#start
    await this.#replica.started
    if (this.#ended) return
    if (!this.#replica.known && this.#channel.unknown !== undefined) throw this.#channel.unknown()
    this.#replica.trim()
    if (after === undefined) return this.#beginAt(here)
    const index = this.#replica.log.indexAfter(after)
    if (index !== undefined) return this.#resume(after, index)
    const { start } = this.#replica
    const page = await this.#read(isEntryId(after) ? after : undefined)
    if (this.#ended) return
    if (page.complete && after === page.after) this.#resume(after, -1)
    else if (after === EARLIEST) this.#resume(page.after, -1)
    else return this.#tellGap(after, page, start)
    this.#accept(page, start)
  }

  #resume (position: string, index: number): void {
    this.#open(position)
    this.#position = position
    this.#index = index
  }

  /** Without anything that was before: with the snapshot, if there is one, as it is at that index or later. */
  #beginAt (index: number): void {
    const { log, origin } = this.#replica
    // If the log has let go of that place meanwhile, it has to be read back to.
    this.#position = index < log.first ? origin : log.before(index)
    this.#index = index
    this.#live = true
    if (this.#channel.snapshot === undefined) this.#open(this.#position)
    else this.#snapshot = openSource(this.#channel.snapshot, undefined)
  }

  #open (id: string): void {
    this.#parts.push({ is: 'position', id, why: 'start' })
    this.#opened = true
  }

  /** @param page what is retained */
  #tellGap (requested: string, page: Page, start: string): void {
    if (!this.#opened) this.#parts.push({ is: 'position', id: requested, why: 'requested' })
    this.#parts.push({ is: 'gap', gap: { requested, earliest: page.entries[0]?.id ?? null } })
    if (this.#channel.snapshot !== undefined) return this.#beginAt(this.#replica.log.next)
    this.#resume(page.after, -1)
    this.#accept(page, start)
  }

  #read (after: string | undefined): Promise<Page> {
    return this.#replica.broker.read(this.#replica.name, after, PAGE)
  }

  /**
   * Takes a page that follows the position.
   * @param start where the replica began when the page was asked for: if it is empty, nothing is before that
   */
  #accept ({ entries }: Page, start: string): void {
    const position = entries.at(-1)?.id ?? (compareEntryIds(this.#position, start) < 0 ? start : this.#position)
    let at = 0
    for (let batch = next(); batch.events.length > 0; batch = next()) this.#give(batch)
    this.#moveTo(position)

    function next (): Batch {
      return Batch.gather(() => at < entries.length ? framed(entries[at++]!) : undefined)
    }
  }

  #moveTo (position: string): void {
    const { log } = this.#replica
    this.#position = position
    this.#index = compareEntryIds(position, log.base) < 0 ? -1 : log.firstAfter(position)
    this.#ahead = compareEntryIds(position, log.tail) > 0
  }

  /** @returns false if there is nothing now */
  #takeFromLog (): boolean {
    if (this.#ahead) this.#moveTo(this.#position)
    const batch = this.#ahead ? undefined : this.#replica.batchFrom(this.#index)
    if (batch !== undefined) {
      this.#index += batch.events.length
      this.#position = batch.events.at(-1)!.id
      this.#give(batch)
      return true
    }
    this.#live = true
    if (!this.#replica.closed) return false
    this.stop()
    this.#parts.push({ is: 'end' })
    return true
  }

  #give (batch: Batch): void {
    const { filter } = this.#start
    if (filter === undefined) {
      this.#parts.push({ is: 'events', batch })
      return
    }
    const { events } = batch
    const wanted = events.filter((event) => filter(event.seen))
    if (wanted.length > 0) this.#parts.push({ is: 'events', batch: new Batch(wanted) })
    const last = events.at(-1)!
    if (wanted.at(-1) !== last) this.#parts.push({ is: 'position', id: last.id, why: 'moved' })
  }

  /** The log has moved past the cursor, or has never reached back to it. */
  #fallBehind (): void {
    const { newest, name } = this.#replica
    const { onLag } = this.#channel
    if (this.#live && onLag === 'latest' && newest?.reaches(this.#position)) {
      this.#parts.push({ is: 'lag' })
      this.#compacting = true
      return
    }
    this.#wait(async () => {
      const { start } = this.#replica
      const page = await this.#read(this.#position)
      if (this.#ended) return
      if (page.complete) return this.#accept(page, start)
      if (this.#live && onLag === 'disconnect') throw new Lagged(name)
      if (this.#live) this.#parts.push({ is: 'lag' })
      this.#tellGap(this.#position, page, start)
    })
  }

  #takeNewest (): void {
    const { newest, log } = this.#replica
    const events = newest!.after(this.#position)
    const batch = Batch.gather(() => events.next().value as FramedEvent | undefined)
    this.#compacting = newest!.reaches(this.#position) && batch.events.length > 0
    if (!this.#compacting) return
    this.#give(batch)
    this.#moveTo(batch.events.at(-1)!.id)
    this.#compacting = this.#position !== log.tail
  }

  #takeSnapshot (snapshot: Source): void {
    const step = snapshot.next()
    if (isThenable(step)) this.#wait(async () => this.#giveSnapshot(await step))
    else this.#giveSnapshot(step)
  }

  #giveSnapshot ({ done, value }: IteratorResult<unknown>): void {
    if (this.#snapshot === undefined) return
    if (done === true) {
      this.#snapshot.stop(true)
      this.#snapshot = undefined
      return this.#open(this.#position)
    }
    const event = this.#channel.snapshotEvent(value)
    const { filter } = this.#start
    if (filter === undefined || filter(event.seen)) this.#parts.push({ is: 'events', batch: new Batch([event]) })
  }

  #wait (task: () => Promise<void>): Promise<void> {
    this.pending = true
    return task().catch((error: unknown) => { this.#failure = { error } }).finally(() => {
      this.pending = false
      this.onReady(false)
    })
  }
}

function noop () {}
