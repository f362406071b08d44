/**
 * The way to one client: text is gathered, written, and held back while the client does not keep up; silence is broken
 * by comments, and a client that leaves bytes unread for too long is given up. Knows nothing of why a stream ends.
 *
 * What is written in one turn gathers and leaves in one write. Until Fastify has given the response over (its onSend
 * hooks may take their time) everything gathers. A client is *behind* from the moment that the socket asks for a pause
 * until it has drained; meanwhile nothing more is taken, and no comment is sent.
 *
 * A writer stands in a line of `timeouts.ts` from a write on, unless the one before is still unread: then time goes on
 * counting from there. When the shorter of `keepAlive` and `writeTimeout` has passed it takes a first look at whether
 * the client has read what was written; a second one, when the longer has passed.
 */
import { socketFor } from './chunk.ts'
import { KEEP_ALIVE } from './frame.ts'
import type { ResolvedOptions } from './options.ts'
import type { Pieces, Shareable } from './pieces.ts'
import { sendHead, type RawResponse } from './response.ts'
import type { SseStats } from './stats.ts'
import type { Line, Lines, Waiting } from './timeouts.ts'

/** Characters that gather at the most before they are written: what a Node stream holds before it asks for a pause. */
const GATHER = 16_384

/** Bytes that are written at once at the most, so that a slow client which reads on is seen to read. */
const SLICE = 65_536

/** Milliseconds by which a timer is late if the event loop was blocked. */
const BLOCKED = 100

/** Where the bytes go: the response itself, or a stream that an onSend hook has put before it. */
export interface Destination {
  readonly writableLength: number
  write (bytes: Buffer): boolean
  end (): unknown
  destroy (): unknown
  once (event: 'drain', callback: () => void): unknown
}

export interface WriterOwner {
  /** The client has left bytes unread for `writeTimeout`. */
  onStalled (): void
}

export class Writer implements Waiting {
  bytes = 0
  behind = false
  /** What breaks silence. */
  keepAlive = KEEP_ALIVE

  line: Line | undefined = undefined
  earlier: Waiting | undefined = undefined
  later: Waiting | undefined = undefined
  since = 0

  readonly #response: RawResponse
  readonly #options: Pick<ResolvedOptions, 'keepAlive' | 'writeTimeout'>
  readonly #lines: Lines
  readonly #stats: SseStats
  readonly #owner: WriterOwner
  /** Compresses what is written; undefined: it goes out as it is. */
  #pieces: Pieces | undefined
  #counts = true
  /** Something was written to the response itself, and its head went before it. */
  #headIsOut = false
  #destination: Destination | undefined
  #gathered = ''
  /** A flush is due at the end of this turn. */
  #flushing = false
  /** The first look was taken: the next one decides. */
  #looked = false
  /** What is to be sent before the gathered text: the rest of a large write, bytes that came while it was behind. */
  #queue: Buffer[] = []
  /** Set with the last text. */
  #done: (() => void) | undefined
  #closed = false
  #waiter: () => void = noop

  constructor (response: RawResponse, options: ResolvedOptions, lines: Lines, stats: SseStats, owner: WriterOwner) {
    this.#response = response
    this.#options = options
    this.#lines = lines
    this.#stats = stats
    this.#owner = owner
  }

  /** From here on, before anything is written, all is compressed. */
  compressWith (pieces: Pieces): void {
    this.#pieces = pieces
    this.#enqueue(pieces.begin())
  }

  /**
   * Sends what has gathered; from here on, what is written goes out.
   * @param head whether the head of the response can go out by itself: an idle source must not delay the client's `open`
   * @param counts false: something in between makes other bytes of it, and `count` is called with those
   */
  open (destination: Destination, { head, counts }: { head: boolean, counts: boolean }): void {
    if (this.#closed) return
    this.#destination = destination
    this.#counts = counts
    if (head && this.#done === undefined) sendHead(this.#response, () => this.#flush())
    else this.#flush()
  }

  /** Counts bytes that are sent. */
  count (bytes: number): void {
    this.bytes += bytes
    this.#stats.bytes += bytes
  }

  /** Takes text that must go out whole. False: make a pause, until `ready()` says to go on. */
  write (text: string): boolean {
    if (this.#closed) return false
    this.#gathered += text
    const full = this.#gathered.length >= GATHER
    if (this.behind || this.#destination === undefined) return !this.behind && !full
    if (full) {
      this.#flush()
    } else if (!this.#flushing) {
      this.#flushing = true
      process.nextTick(() => this.#flush())
    }
    return !this.behind
  }

  /** Takes bytes, which are not copied: many writers may share them. False: make a pause, as with `write`. */
  writeBytes (shareable: Shareable): boolean {
    if (this.#closed) return false
    if (this.#writeChunk(shareable)) return !this.behind
    this.#enqueueGathered()
    this.#queue.push(this.#pieces === undefined ? shareable.bytes : this.#pieces.shared(shareable))
    if (this.#destination === undefined) return this.unsent < GATHER
    this.#flush()
    return !this.behind
  }

  /** @returns false where something is in between, or before it, and the long way is to be taken */
  #writeChunk (shareable: Shareable): boolean {
    const isNext = this.#gathered === '' && this.#queue.length === 0 && this.#headIsOut && !this.behind && this.#pieces === undefined
    const socket = isNext ? socketFor(this.#response) : undefined
    if (socket === undefined || shareable.bytes.length > SLICE) return false
    const taken = socket.writableLength === 0
    this.count(shareable.bytes.length)
    if (!socket.write(shareable.chunk)) this.#onBehind(socket)
    if (taken || this.line === undefined) this.#wait()
    return true
  }

  /** Bytes (of text still to be encoded: characters) that were taken, but not by the socket. */
  get unsent (): number {
    let size = this.#gathered.length + (this.#destination?.writableLength ?? 0)
    for (const { length } of this.#queue) size += length
    return size
  }

  /** Settles when more can be taken, or when nothing more will be; never rejects. */
  ready (): Promise<void> {
    return new Promise((resolve) => { this.#waiter = resolve })
  }

  /**
   * The last text.
   * @param done called when all was written, now or later
   */
  writeLast (last: string, done: () => void): void {
    this.#gathered += last
    if (this.#pieces !== undefined && !this.#closed) {
      this.#enqueueGathered()
      this.#enqueue(this.#pieces.end())
    }
    this.#done = done
    this.#wake()
    this.#flush()
  }

  /** Nothing more can be sent, and nothing is waited for, for good. */
  close (): void {
    this.#closed = true
    this.#gathered = ''
    this.#queue = []
    this.line?.leave(this)
    this.#wake()
  }

  /** Breaks the connection off, whatever is still unsent. */
  destroy (): void {
    this.close()
    this.#destination?.destroy()
    this.#response.destroy()
  }

  onDue (line: Line, late: number): void {
    const { keepAlive, writeTimeout } = this.#options
    if (this.#done !== undefined || !this.#isTaken()) {
      // While the event loop was blocked nobody could be served: that is no delay of the client's.
      if (late > BLOCKED) line.wait(this)
      else this.#onUnread(line)
    } else if (keepAlive === false) {
      line.wait(this)
    } else if (writeTimeout !== false && writeTimeout < keepAlive && !this.#looked) {
      this.#lookAgain(keepAlive - writeTimeout)
    } else {
      this.write(this.keepAlive)
    }
  }

  #onUnread (line: Line): void {
    const { keepAlive, writeTimeout } = this.#options
    if (writeTimeout === false) line.wait(this)
    else if (this.#done !== undefined || this.#looked || line === this.#lines.of(writeTimeout)) this.#owner.onStalled()
    else this.#lookAgain(writeTimeout - (keepAlive || 0))
  }

  #lookAgain (ms: number): void {
    this.#looked = true
    this.#lines.of(ms).wait(this)
  }

  #flush (): void {
    this.#flushing = false
    if (this.#closed || this.#destination === undefined || this.behind) return
    const taken = this.#isTaken()
    if (this.#send(this.#destination)) this.#onSent()
    else this.#onBehind(this.#destination)
    if (taken || this.#done !== undefined || this.line === undefined) this.#wait()
  }

  #enqueue (bytes: Buffer): void {
    if (bytes.length > 0) this.#queue.push(bytes)
  }

  #enqueueGathered (): void {
    if (this.#gathered === '') return
    this.#queue.push(this.#pieces === undefined ? Buffer.from(this.#gathered) : this.#pieces.text(this.#gathered))
    this.#gathered = ''
  }

  /**
   * Sends what has gathered, in one write, or in slices where it is large: each that the client takes is progress.
   * @returns false if the socket asks for a pause
   */
  #send (destination: Destination): boolean {
    this.#enqueueGathered()
    let goOn = true
    while (goOn && this.#queue.length > 0) {
      const slice = this.#nextSlice(this.#queue[0]!)
      if (this.#counts) this.count(slice.length)
      goOn = destination.write(slice)
      this.#headIsOut = destination === this.#response
    }
    // An array that was filled once keeps room for many.
    if (this.#queue.length === 0) this.#queue = []
    return goOn
  }

  #nextSlice (first: Buffer): Buffer {
    if (first.length <= SLICE) this.#queue.shift()
    else this.#queue[0] = first.subarray(SLICE)
    return first.length <= SLICE ? first : first.subarray(0, SLICE)
  }

  #onSent (): void {
    this.#wake()
    this.#onAllWritten()
  }

  #onAllWritten (): void {
    const done = this.#done
    if (done === undefined) return
    this.#done = noop
    done()
  }

  #onBehind (socket: Pick<Destination, 'once'>): void {
    this.behind = true
    if (this.#queue.length === 0) this.#onAllWritten()
    socket.once('drain', () => {
      this.behind = false
      this.#flush()
    })
  }

  #wait (): void {
    const { keepAlive, writeTimeout } = this.#options
    this.#looked = false
    const longest = writeTimeout || Infinity
    const ms = this.behind || this.#done !== undefined ? longest : Math.min(keepAlive || Infinity, longest)
    if (ms === Infinity) this.line?.leave(this)
    else this.#lines.of(ms).wait(this)
  }

  #isTaken (): boolean {
    if (this.#destination === undefined) return true
    return this.#destination.writableLength === 0 &&
      (this.#destination === this.#response || this.#response.writableLength === 0)
  }

  #wake (): void {
    const waiter = this.#waiter
    this.#waiter = noop
    waiter()
  }
}

function noop () {}
