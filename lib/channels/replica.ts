/**
 * What one process has of a channel while somebody reads it there: the newest part of its log, as the broker gives it, in
 * the forms in which readers want it. Each reader is a cursor into it. Knows neither connections nor what readers do.
 *
 * What one turn of the event loop publishes is told to the readers once, when the turn is over; those who then take it
 * take the same bytes.
 */
import type { Broker, Entry, History, Listening, Page } from '../broker.ts'
import { EntryLog } from '../entry-log.ts'
import type { Failure } from '../log.ts'
import { framed, type FramedEvent } from './framed-event.ts'
import { Newest } from './newest.ts'
import { Batch, MOST_HELD, PART } from './reading.ts'

/** What is read back at once. */
const MOST = { entries: 256, bytes: PART }

/** Batches that are kept for readers who are at the same place. */
const BATCHES = 8

/** Readers that are told in one turn of the event loop (some 2 ms), so that a large audience does not hold up all else. */
const READERS_PER_TURN = 128

export interface Reader {
  /** There is more to take, or the channel has ended. */
  tell (): void
  /** Who has had everything before index `from` keeps up, and should take what comes after it before it goes. */
  urge (from: number): void
}

/** What was read back. Those who are given the same share its bytes. */
export interface Replay extends Omit<Page, 'entries'> {
  /** Without events, where there were no entries. */
  batch: Batch
}

export class Replica {
  /** Settles with the position from which it is given what comes; rejects with what the broker has rejected with. */
  readonly started: Promise<string>
  /** What is up to this position can only be read back. */
  boundary = ''
  /** Whether anybody had used the channel when it was listened to. */
  known = false
  /** The channel is closed, and everything is in the log, or before it. */
  closed = false
  /** Nothing more is given, and why. */
  failure: Failure | undefined
  log!: EntryLog<FramedEvent>
  newest: Newest | undefined

  readonly #broker: Broker
  readonly #name: string
  readonly #history: History
  /** The same, with room for what a reader that has just joined cannot take yet. */
  readonly #roomy: History
  readonly #onUseless: () => void
  readonly #readers = new Set<Reader>()
  /** What was given before the position was known from which it counts. */
  #early: Entry[] | undefined = []
  #lostEarly: string | undefined
  #listening: Listening | undefined
  #left = false
  /** Batches that readers have taken, by the index of their first event, until there is more to take. */
  readonly #batches = new Map<number, Batch>()
  /** Replays that are on their way, by the position that they follow. */
  readonly #replays = new Map<string | undefined, Promise<Replay>>()
  #telling = false
  /** There is news since the telling began. */
  #news = false
  /** Up to here everybody has been told. */
  #told = 0
  /** Up to here those who keep up have been urged to take it. */
  #urged = 0
  /** Somebody has joined in this turn of the event loop, and can take nothing before it is over. */
  #joining = false

  /**
   * @param key of the newest events to be kept; undefined: none are
   * @param onUseless nobody else is to join: the channel is closed, the broker has failed, or the last reader has left
   */
  constructor (
    broker: Broker, name: string, history: History, key: ((event: FramedEvent) => unknown) | undefined, onUseless: () => void
  ) {
    this.#broker = broker
    this.#name = name
    this.#history = history
    this.#roomy = { ...history, events: Infinity, bytes: history.bytes + MOST_HELD }
    this.#onUseless = onUseless
    this.started = this.#start(key)
    // Each reader learns it by itself.
    this.started.catch(onUseless)
  }

  /** @returns the position of what was given last; undefined: that with which `started` settles */
  join (reader: Reader): string | undefined {
    this.#readers.add(reader)
    this.#keepForJoining()
    return this.#early === undefined ? this.log.tail : this.#early.at(-1)?.id ?? this.#lostEarly
  }

  leave (reader: Reader): void {
    if (!this.#readers.delete(reader) || this.#readers.size > 0) return
    this.#left = true
    this.#listening?.stop()
    this.#onUseless()
  }

  /** The events from an index on, as many as one part takes; undefined if there is none yet. */
  batchFrom (index: number): Batch | undefined {
    if (index >= this.log.next) return undefined
    let batch = this.#batches.get(index)
    if (batch === undefined) {
      let at = index
      if (this.#batches.size === BATCHES) this.#batches.clear()
      batch = Batch.gather(() => at < this.log.next ? this.log.at(at++) : undefined)
      this.#batches.set(index, batch)
    }
    return batch
  }

  /** What the broker has after a position. Those who ask for the same at the same time are given the same. */
  readBack (after: string | undefined): Promise<Replay> {
    const known = this.#replays.get(after)
    if (known !== undefined) return known
    const replay = this.#broker.read(this.#name, after, MOST).then(replayOf)
    const forget = () => { if (this.#replays.get(after) === replay) this.#replays.delete(after) }
    // Those who were told of the same in this turn ask one after the other; but a failure is only for who has asked already.
    replay.then(() => setImmediate(forget), forget)
    this.#replays.set(after, replay)
    return replay
  }

  fail (error: unknown): void {
    this.failure = { error }
    this.#onUseless()
    if (this.#early === undefined) this.#tellLater()
  }

  /** Lets go of what has grown too old. */
  trim (): void {
    if (this.closed) return
    const now = performance.now()
    const to = this.log.excess(this.#joining ? this.#roomy : this.#history, now)
    this.newest?.trim(this.#history, now)
    if (to === this.log.first) return
    if (to > Math.max(this.#told, this.#urged)) this.#urge()
    this.log.trim(to)
    this.#batches.clear()
  }

  async #start (key: ((event: FramedEvent) => unknown) | undefined): Promise<string> {
    const listening = await this.#broker.listen(this.#name, {
      entry: (entry) => {
        if (this.#early === undefined) this.#append(entry)
        else this.#early.push(entry)
      },
      closed: () => this.#close(),
      failed: (error) => this.fail(error),
      lost: (position) => this.#lose(position)
    })
    const { position } = listening
    this.#listening = listening
    if (this.#left) listening.stop()
    this.known = listening.known
    this.boundary = position
    this.log = new EntryLog(position)
    if (key !== undefined) this.newest = new Newest(key, position)
    const early = this.#early!
    this.#early = undefined
    if (this.#lostEarly !== undefined) this.#lose(this.#lostEarly)
    this.#keepForJoining()
    for (const entry of early) this.#append(entry)
    if (listening.closed) this.#close()
    return position
  }

  #append (entry: Entry): void {
    const event = framed(entry)
    const now = performance.now()
    this.log.append(event, event.size, now)
    this.newest?.add(event, now)
    this.#batches.clear()
    this.trim()
    this.#tellLater()
  }

  /** A burst right after it has joined must not be lost to a reader, nor one that came while the broker was asked. */
  #keepForJoining (): void {
    if (this.#joining) return
    this.#joining = true
    setImmediate(() => {
      this.#joining = false
      if (this.#early === undefined) this.trim()
    })
  }

  #close (): void {
    this.closed = true
    this.#onUseless()
    if (this.#early === undefined) this.#tellLater()
  }

  /** Every cursor is now before the log, and has to read back from where it is. */
  #lose (position: string): void {
    if (this.#early !== undefined) {
      // What was given before can only be read back.
      this.#early.length = 0
      this.#lostEarly = position
      return
    }
    this.boundary = position
    this.log.reset(position)
    this.newest?.reset(position)
    this.#batches.clear()
    // What was asked for before does not tell what there is up to the new boundary.
    this.#replays.clear()
    this.#tellLater()
  }

  #tellLater (): void {
    this.#news = true
    if (this.#telling) return
    this.#telling = true
    setImmediate(() => this.#tellAll())
  }

  #tellAll (): void {
    this.#news = false
    this.#tell([...this.#readers], 0, this.log.next)
  }

  #tell (readers: Reader[], from: number, next: number): void {
    const to = Math.min(from + READERS_PER_TURN, readers.length)
    for (let at = from; at < to; at++) readers[at]!.tell()
    if (to < readers.length) {
      setImmediate(() => this.#tell(readers, to, next))
    } else {
      this.#told = next
      if (this.#news) setImmediate(() => this.#tellAll())
      else this.#telling = false
    }
  }

  /** A burst that is larger than the history must not cut off those who keep up: they take it before it goes. */
  #urge (): void {
    this.#urged = this.log.next
    for (const reader of this.#readers) reader.urge(this.#told)
  }
}

function replayOf ({ after, complete, entries }: Page): Replay {
  return { after, complete, batch: new Batch(entries.map(framed)) }
}
