/**
 * One reader's place in one channel. Replay after a reconnect, live delivery and catching up after a stall are one and the
 * same: from where the reader is, what comes next, out of the replica's log where that reaches back, else read back from
 * the broker. A cursor holds a position and the part that comes next, whatever is published meanwhile.
 *
 * A reading begins with where it is: `position`, the one that was asked for if everything after it is still there. If
 * not: that position, `gap`, then where it goes on. A snapshot comes before the position that it belongs to, so that a
 * reader who is cut off in the middle of it does not come back as if it had had all of it.
 */
import { compareEntryIds, isEntryId } from '../entry-id.ts'
import { Lagged } from '../errors.ts'
import type { Failure } from '../log.ts'
import { nextTurn } from '../turns.ts'
import { wantedOf, type Filter } from './filter.ts'
import type { FramedEvent } from './framed-event.ts'
import { LogPosition } from './log-position.ts'
import { Batch, NOBODY, type Part, type Reading, type Taker } from './reading.ts'
import type { Reader, Replay, Replica } from './replica.ts'
import { Snapshot } from './snapshot.ts'

/** Where a reading begins, if not at an ID: 'earliest' is with all that is retained. */
export const EARLIEST = 'earliest'

/**
 * What happens to a reader that the log has moved past.
 * @inline
 */
export type OnLag = 'disconnect' | 'gap' | 'latest'

/** What a cursor needs to know of its channel. */
export interface Readable {
  readonly name: string
  readonly onLag: OnLag
  replica (): Replica
  /** The state as it is now, for one reader; undefined where the channel has no snapshot. */
  openSnapshot (): Snapshot | undefined
  /** Why a channel that the broker does not know cannot be read; undefined where it can. */
  unknown (): Error | undefined
}

export interface ReadOptions {
  /** An ID, or 'earliest'; undefined: with what is published from now on. */
  after: string | undefined
  filter: Filter | undefined
}

const NONE: readonly Part[] = []

export class Cursor implements Reading, Reader {
  /** It waits for the broker, or for the snapshot; nothing can be taken meanwhile. */
  pending = false
  readonly #channel: Readable
  readonly #options: ReadOptions
  #replica!: Replica
  #taker = NOBODY
  /** What comes next, before all else. */
  #parts: readonly Part[] = NONE
  /** The position from which events follow was told, or is about to be. */
  #opened = false
  /** It has been at the end of the log: from now on it can fall behind. */
  #live = false
  readonly #position = new LogPosition()
  /** It goes on with the newest event of every key, until it has had the newest of all. */
  #compacting = false
  #snapshot: Snapshot | undefined
  #failure: Failure | undefined
  #ended = false

  constructor (channel: Readable, options: ReadOptions) {
    this.#channel = channel
    this.#options = options
  }

  begin (taker: Taker): Promise<void> {
    this.#taker = taker
    this.#replica = this.#channel.replica()
    if (this.#ended) return Promise.resolve()
    // What is published after this line is not missed.
    const here = this.#replica.join(this)
    return this.#wait(() => this.#begin(here))
  }

  take (): Part | undefined {
    for (;;) {
      if (this.#parts.length > 0) return this.#takeFirst()
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.pending || this.#ended) return undefined
      if (this.#snapshot !== undefined) this.#takeSnapshot(this.#snapshot)
      else if (this.#compacting) this.#takeNewest()
      else if (this.#position.index < this.#replica.log.first) this.#takeFromBefore()
      else return this.#takeFromLog()
    }
  }

  stop (): void {
    this.#ended = true
    this.#taker = NOBODY
    this.#parts = NONE
    this.#snapshot?.stop()
    this.#snapshot = undefined
    this.#replica?.leave(this)
  }

  tell (): void {
    if (!this.pending) this.#taker.onReady(false)
  }

  urge (from: number): void {
    if (!this.pending && this.#position.index >= from) this.#taker.onReady(true)
  }

  /** @param here the position at which it has joined; undefined: that from which the replica is given what comes */
  async #begin (here: string | undefined): Promise<void> {
    const { after } = this.#options
    const replica = this.#replica
    const origin = await replica.started
    if (this.#ended) return
    const unknown = replica.known ? undefined : this.#channel.unknown()
    if (unknown !== undefined) return this.#add({ is: 'refusal', reason: 'superseded', error: unknown })
    replica.trim()
    if (after === undefined) this.#beginAt(here ?? origin)
    else if (replica.log.indexAfter(after) !== undefined) this.#resume(after)
    else await this.#readBack(isEntryId(after) ? after : undefined, (replay) => this.#beginWith(after, replay))
  }

  #beginWith (after: string, replay: Replay): boolean {
    if (!replay.complete || (after !== replay.after && after !== EARLIEST)) return this.#tellGap(after, replay)
    this.#resume(replay.after)
    return true
  }

  #resume (id: string): void {
    this.#add({ is: 'position', id, why: 'start' })
    this.#opened = true
    this.#moveTo(id)
  }

  /** Without anything that was before: with the snapshot, if there is one, as it is now or later. */
  #beginAt (id: string): void {
    this.#live = true
    this.#moveTo(id)
    this.#openSnapshot()
    if (this.#snapshot === undefined) this.#resume(id)
  }

  #openSnapshot (): void {
    const snapshot = this.#channel.openSnapshot()
    // The application's function may have ended this very reader.
    if (this.#ended) snapshot?.stop()
    else this.#snapshot = snapshot
  }

  /** @returns whether it goes on with what is retained, rather than with a snapshot */
  #tellGap (requested: string, { after, batch }: Replay): boolean {
    if (!this.#opened) this.#add({ is: 'position', id: requested, why: 'requested' })
    this.#add({ is: 'gap', gap: { requested, earliest: batch.events[0]?.id ?? null } })
    // What the snapshot's function publishes itself comes after it.
    const { tail } = this.#replica.log
    this.#openSnapshot()
    if (this.#snapshot === undefined) {
      this.#resume(after)
      return true
    }
    this.#live = true
    this.#moveTo(tail)
    return false
  }

  /**
   * Reads back what comes next, and takes it.
   * @param accept decides what it means, and whether its events are taken
   */
  async #readBack (after: string | undefined, accept: (replay: Replay) => boolean): Promise<void> {
    const { boundary } = this.#replica
    const replay = await this.#replica.readBack(after)
    if (this.#ended || !accept(replay)) return
    const last = replay.batch.events.at(-1)
    if (last !== undefined) {
      this.#give(replay.batch)
      this.#moveTo(last.id)
    } else {
      // Nothing to be read back: nothing is before what the replica was being given when it was asked for.
      this.#moveTo(compareEntryIds(this.#position.id, boundary) < 0 ? boundary : this.#position.id)
    }
  }

  #moveTo (id: string): void {
    this.#position.moveTo(id, this.#replica.log)
  }

  #takeFirst (): Part {
    const [first, ...rest] = this.#parts
    this.#parts = rest.length === 0 ? NONE : rest
    return first!
  }

  #add (...parts: Part[]): void {
    this.#parts = [...this.#parts, ...parts]
  }

  #give (batch: Batch): void {
    const { filter } = this.#options
    if (filter === undefined) return this.#add(batch)
    const wanted = wantedOf(batch.events, filter)
    const last = batch.events.at(-1)!
    this.#add(...wanted)
    if (wanted[0]?.events.at(-1) !== last) this.#add({ is: 'position', id: last.id, why: 'moved' })
  }

  #takeFromLog (): Part | undefined {
    const position = this.#position
    if (position.isAhead) this.#moveTo(position.id)
    const batch = position.isAhead ? undefined : this.#replica.batchFrom(position.index)
    if (batch === undefined) return this.#takeEnd()
    position.moveBy(batch.events)
    if (this.#options.filter === undefined) return batch
    this.#give(batch)
    return this.#takeFirst()
  }

  /** It has had all that there is: for now, or for good. */
  #takeEnd (): Part | undefined {
    this.#live = true
    const { closed, failure } = this.#replica
    if (failure !== undefined) throw failure.error
    if (!closed) return undefined
    this.stop()
    return { is: 'end' }
  }

  /** The log has moved past the cursor, or has never reached back to it. */
  #takeFromBefore (): void {
    const { log, newest } = this.#replica
    // The log has lost its way, but nothing that the cursor has not had.
    if (this.#position.id === log.base) return this.#moveTo(this.#position.id)
    // Where the log has lost its way further back, only the broker knows whether what follows the cursor is all there.
    const isBehind = compareEntryIds(this.#position.id, log.base) < 0
    if (isBehind && this.#live && this.#channel.onLag === 'latest' && newest?.reaches(this.#position.id)) {
      this.#add({ is: 'lag' })
      this.#compacting = true
    } else {
      this.#wait(async () => {
        // A long replay makes way for others after each page.
        await nextTurn()
        if (!this.#ended) await this.#readBack(this.#position.id, (replay) => replay.complete || this.#fallBehind(replay))
      })
    }
  }

  #fallBehind (replay: Replay): boolean {
    const { name, onLag } = this.#channel
    const isLetGo = this.#live && onLag === 'disconnect'
    if (isLetGo) this.#add({ is: 'refusal', reason: 'lagged', error: new Lagged(name) })
    else if (this.#live) this.#add({ is: 'lag' })
    return !isLetGo && this.#tellGap(this.#position.id, replay)
  }

  #takeNewest (): void {
    const { newest, log } = this.#replica
    // Since the last part it may have let go of what this reader still wants, or of everything.
    this.#compacting = newest!.reaches(this.#position.id)
    if (!this.#compacting) return
    const events = newest!.after(this.#position.id)
    const batch = Batch.gather(() => events.next().value as FramedEvent | undefined)
    const last = batch.events.at(-1)!
    this.#give(batch)
    this.#moveTo(last.id)
    this.#compacting = last.id !== log.tail && newest!.reaches(last.id)
  }

  #takeSnapshot (snapshot: Snapshot): void {
    this.#wait(async () => {
      const events = await snapshot.next()
      if (this.#ended) return
      if (events === undefined) {
        this.#snapshot = undefined
        this.#resume(this.#position.id)
      } else {
        // They have no place in the log that the reader could be moved to.
        this.#add(...wantedOf(events, this.#options.filter))
      }
    })
  }

  #wait (task: () => Promise<void>): Promise<void> {
    this.pending = true
    return task().catch((error: unknown) => { this.#failure = { error } }).finally(() => {
      this.pending = false
      this.#taker.onReady(false)
    })
  }
}
