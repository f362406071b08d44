/** The broker that an application has by itself: the channels of one process, in its memory. */
import type { Broker, Entry, History, Hold, Listener, Message, Most, Page } from '../broker.ts'
import { sizeOf } from '../broker.ts'
import { EntryLog } from '../entry-log.ts'
import { BEGINNING, compareEntryIds } from '../entry-id.ts'
import { ChannelClosed } from '../errors.ts'

/** Milliseconds between two looks for what has grown old in channels that are no longer used. */
const SWEEP = 15_000

/**
 * Within one millisecond sequence numbers differ by this much, and end in the same digits, which are this broker's own:
 * so an ID of an earlier process is known to be old, even if the clock was set back meanwhile.
 */
const STEP = 10_000

/** IDs that grow strictly. */
class EntryIds {
  readonly #own = Math.floor(Math.random() * STEP)
  #ms = 0
  #count = 0
  readonly origin: string
  last: string

  constructor () {
    this.origin = this.last = this.next()
  }

  next (): string {
    const now = Date.now()
    if (now > this.#ms) {
      this.#ms = now
      this.#count = 0
    } else {
      this.#count++
    }
    this.last = `${this.#ms}-${this.#count * STEP + this.#own}`
    return this.last
  }

  /** Whether this position was given by these IDs. */
  knows (position: string): boolean {
    return Number(position.slice(position.indexOf('-') + 1)) % STEP === this.#own &&
      compareEntryIds(position, this.origin) >= 0 && compareEntryIds(position, this.last) <= 0
  }
}

/** A listener, and the index of the first entry that is given to it; Infinity: it is told nothing. */
interface Recipient {
  listener: Listener
  from: number
}

/** One channel. */
interface Stream {
  log: EntryLog<Entry>
  history: History | undefined
  listeners: Set<Recipient>
  /** Who holds it. */
  owner: string | undefined
  lapse: NodeJS.Timeout | undefined
  closed: boolean
  /** When a closed stream is forgotten, in ms of performance.now(). */
  forgetAt: number
  /** Whatever is before this position may have been in a stream of this name that was forgotten. */
  floor: string
}

class MemoryBroker implements Broker {
  readonly #ids = new EntryIds()
  readonly #streams = new Map<string, Stream>()
  /** No forgotten stream has had an entry after this position. */
  #floor = this.#ids.origin
  /** What is still to be told to listeners: one of them may publish while others have not been told. */
  readonly #untold: (() => void)[] = []
  #telling = false
  #sweeper: NodeJS.Timeout | undefined

  async open (channel: string, { owner, lease, will, forgetAfter }: Hold): Promise<boolean> {
    const stream = this.#streamOf(channel)
    if (stream.closed || (stream.owner !== undefined && stream.owner !== owner)) return false
    stream.owner = owner
    clearTimeout(stream.lapse)
    stream.lapse = setTimeout(() => {
      if (will !== undefined) this.#append(stream, will)
      this.#close(stream, forgetAfter)
    }, lease).unref()
    return true
  }

  async append (channel: string, message: Message, history: History, owner?: string): Promise<string> {
    const stream = this.#streamOf(channel)
    if (stream.closed || isOthers(stream, owner)) throw new ChannelClosed(channel)
    stream.history = history
    return this.#append(stream, message)
  }

  async close (channel: string, forgetAfter: number | false, owner?: string): Promise<void> {
    const stream = this.#streamOf(channel)
    if (!stream.closed && !isOthers(stream, owner)) this.#close(stream, forgetAfter)
  }

  async read (channel: string, after: string | undefined, most: Most): Promise<Page> {
    const stream = this.#streams.get(channel)
    if (stream === undefined) {
      const complete = after === undefined || after === BEGINNING || this.#reaches(after, this.#floor)
      return { after: complete && after !== undefined ? after : this.#ids.last, entries: [], complete }
    }
    trim(stream)
    const { log } = stream
    const complete = after === undefined || this.#isComplete(stream, after)
    const from = complete && after !== undefined ? log.firstAfter(after) : log.first
    return { after: complete && after !== undefined ? after : log.base, entries: some(log, from, most), complete }
  }

  async listen (channel: string, listener: Listener): ReturnType<Broker['listen']> {
    const stream = this.#streamOf(channel)
    const { closed, log } = stream
    // What was appended before may still be untold, and so may the end: it is before the boundary.
    const recipient = { listener, from: closed ? Infinity : log.next }
    stream.listeners.add(recipient)
    return {
      position: log.tail,
      closed,
      known: isKnown(stream),
      stop: () => {
        stream.listeners.delete(recipient)
        const unused = !isKnown(stream) && stream.listeners.size === 0
        if (unused && this.#streams.get(channel) === stream) this.#streams.delete(channel)
      }
    }
  }

  /** A position is a retained entry's or the base; or it was given before the first entry of all, while there was none. */
  #isComplete ({ log, floor }: Stream, after: string): boolean {
    if (after === BEGINNING) return log.first === 0
    if (log.indexAfter(after) !== undefined) return true
    const isBeforeFirst = log.first === 0 && (log.next === 0 || compareEntryIds(after, log.at(0).id) < 0)
    return isBeforeFirst && this.#reaches(after, floor)
  }

  #reaches (position: string, floor: string): boolean {
    return this.#ids.knows(position) && compareEntryIds(position, floor) >= 0
  }

  #append (stream: Stream, message: Message): string {
    const entry: Entry = { id: this.#ids.next(), message }
    stream.log.append(entry, sizeOf(message), performance.now())
    trim(stream)
    const index = stream.log.next - 1
    this.#tell(stream, ({ listener, from }) => { if (from <= index) listener.entry(entry) })
    return entry.id
  }

  #close (stream: Stream, forgetAfter: number | false): void {
    clearTimeout(stream.lapse)
    stream.closed = true
    stream.forgetAt = forgetAfter === false ? Infinity : performance.now() + forgetAfter
    this.#tell(stream, ({ listener, from }) => { if (from < Infinity) listener.closed() })
  }

  #streamOf (channel: string): Stream {
    let stream = this.#streams.get(channel)
    if (stream !== undefined && isForgotten(stream, performance.now())) {
      this.#forget(channel, stream)
      stream = undefined
    }
    if (stream === undefined) {
      stream = {
        log: new EntryLog(this.#ids.last),
        history: undefined,
        listeners: new Set(),
        owner: undefined,
        lapse: undefined,
        closed: false,
        forgetAt: Infinity,
        floor: this.#floor
      }
      this.#streams.set(channel, stream)
      this.#sweepLater()
    }
    return stream
  }

  #tell (stream: Stream, tell: (recipient: Recipient) => void): void {
    this.#untold.push(() => stream.listeners.forEach(tell))
    this.#tellAll()
  }

  #tellAll (): void {
    if (this.#telling) return
    this.#telling = true
    try {
      for (let next = this.#untold.shift(); next !== undefined; next = this.#untold.shift()) next()
    } finally {
      this.#telling = false
    }
  }

  #sweepLater (): void {
    this.#sweeper ??= setTimeout(() => this.#sweep(), SWEEP).unref()
  }

  #sweep (): void {
    this.#sweeper = undefined
    const now = performance.now()
    for (const [channel, stream] of this.#streams) {
      trim(stream)
      if (isForgotten(stream, now)) this.#forget(channel, stream)
    }
    if (this.#streams.size > 0) this.#sweepLater()
  }

  #forget (channel: string, { log }: Stream): void {
    this.#streams.delete(channel)
    if (log.next > 0 && compareEntryIds(log.tail, this.#floor) > 0) this.#floor = log.tail
  }
}

function some (log: EntryLog<Entry>, from: number, most: Most): Entry[] {
  const entries: Entry[] = []
  let bytes = 0
  for (let index = from; index < log.next && entries.length < most.entries && bytes < most.bytes; index++) {
    const entry = log.at(index)
    entries.push(entry)
    bytes += sizeOf(entry.message)
  }
  return entries
}

function trim (stream: Stream): void {
  if (stream.history !== undefined && !stream.closed) stream.log.trim(stream.log.excess(stream.history, performance.now()))
}

/** Whether it is not held by whom it should be. */
function isOthers (stream: Stream, owner: string | undefined): boolean {
  return owner !== undefined && stream.owner !== owner
}

function isKnown ({ owner, closed, log }: Stream): boolean {
  return owner !== undefined || closed || log.next > 0
}

function isForgotten ({ log, listeners, owner, closed, forgetAt }: Stream, now: number): boolean {
  if (closed) return now >= forgetAt
  return owner === undefined && log.next === log.first && listeners.size === 0
}

/**
 * A broker in the memory of this process. It keeps no timer that holds the process, and needs no end.
 *
 * A channel that was closed is forgotten in time; one that is not, when its last entry has grown old and nobody listens.
 */
export function memoryBroker (): Broker {
  return new MemoryBroker()
}
