/**
 * The way to one client: text is gathered, written, and held back while the client does not keep up. Knows nothing of why
 * a stream ends.
 *
 * What is written in one turn gathers and leaves in one write. Until Fastify has given the response over (its onSend
 * hooks may take their time) everything gathers. A client is *behind* from the moment that the socket asks for a pause
 * until it has drained; meanwhile nothing more is taken, and no comment is sent.
 */
import type { Socket } from 'node:net'
import { chunked, isFree, socketOf } from './chunk.ts'
import { KEEP_ALIVE } from './frame.ts'
import type { ResolvedOptions } from './options.ts'
import type { Pieces, Shareable } from './pieces.ts'
import { destroyResponse, sendHead, type RawResponse } from './response.ts'
import { Silence, type Patience, type Watched } from './silence.ts'
import type { SseStats } from './stats.ts'
import type { Lines } from './timeouts.ts'

/** Characters that gather at the most before they are written: about what a source yields in its share of a turn. */
const GATHER = 32_768

/** Bytes that are written at once at the most, so that a slow client which reads on is seen to read. */
const SLICE = 65_536

/** Where the bytes go: the response itself, or a stream that an onSend hook has put before it. */
export interface Destination {
  readonly writableLength: number
  write (bytes: Buffer): boolean
  end (): unknown
  destroy (): unknown
  once (event: 'drain', callback: () => void): unknown
}

/** Whose way it is. */
export interface Owner extends Patience {
  /** Nothing can be sent any more, as the destination throws. */
  onBroken (error: unknown): void
}

export class Writer implements Watched {
  bytes = 0
  behind = false
  /** What breaks silence. */
  keepAlive = KEEP_ALIVE

  readonly #response: RawResponse
  readonly #stats: SseStats
  readonly #owner: Owner
  readonly #silence: Silence
  /** Compresses what is written; undefined: it goes out as it is. */
  #pieces: Pieces | undefined
  #counts = true
  #destination: Destination | undefined
  /** To which chunks can be written, past the response. */
  #socket: Socket | undefined
  #gathered = ''
  /** A flush is due at the end of this turn. */
  #flushing = false
  /** What is to be sent before the gathered text: the rest of a large write, bytes that came while it was behind. */
  #queue: Buffer[] = []
  /** Set with the last text. */
  #done: (() => void) | undefined
  #closed = false
  #waiter: () => void = noop

  constructor (response: RawResponse, options: ResolvedOptions, lines: Lines, stats: SseStats, owner: Owner) {
    this.#response = response
    this.#stats = stats
    this.#owner = owner
    this.#silence = new Silence(this, owner, options, lines)
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
    if (head && this.#done === undefined) sendHead(this.#response, () => this.flush())
    else this.flush()
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
      this.flush()
    } else if (!this.#flushing) {
      this.#flushing = true
      process.nextTick(flush, this)
    }
    return !this.behind
  }

  /** Takes bytes, which are not copied: many writers may share them. False: make a pause, as with `write`. */
  writeBytes (shareable: Shareable): boolean {
    if (this.#closed) return false
    const { size } = shareable.chunk
    const socket = this.#gathered === '' ? this.#shortWay(size) : undefined
    if (socket !== undefined) {
      this.#writeChunk(socket, shareable.chunk.whole, size)
      return !this.behind
    }
    this.#enqueueGathered()
    this.#queue.push(this.#pieces === undefined ? shareable.chunk.bytes : this.#pieces.shared(shareable))
    if (this.#destination === undefined) return this.unsent < GATHER
    this.flush()
    return !this.behind
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
    this.flush()
  }

  /** Nothing more can be sent, and nothing is waited for, for good. */
  close (): void {
    this.#closed = true
    this.#gathered = ''
    this.#queue = []
    this.#silence.end()
    this.#wake()
  }

  /** Breaks the connection off, whatever is still unsent. */
  destroy (): void {
    this.close()
    if (this.#destination !== this.#response) this.#destination?.destroy()
    destroyResponse(this.#response)
  }

  get isTaken (): boolean {
    if (this.#destination === undefined) return true
    return this.#destination.writableLength === 0 &&
      (this.#destination === this.#response || this.#response.writableLength === 0)
  }

  get isLast (): boolean {
    return this.#done !== undefined
  }

  breakSilence (): void {
    this.write(this.keepAlive)
  }

  /** Writes what has gathered, the short way if that is free. */
  flush (): void {
    this.#flushing = false
    if (this.#closed || this.#destination === undefined || this.behind) return
    const text = this.#gathered
    const size = Buffer.byteLength(text)
    const socket = size === 0 ? undefined : this.#shortWay(size)
    if (socket !== undefined) {
      this.#gathered = ''
      // ASCII, as most text is, is the same in latin1, which is quicker written.
      this.#writeChunk(socket, chunked(text, size), size, size === text.length ? 'latin1' : 'utf8')
    } else {
      this.#writeTo(this.#destination)
    }
  }

  #writeTo (destination: Destination): void {
    const { isTaken } = this
    let goOn
    try {
      goOn = this.#send(destination)
    } catch (error) {
      // A stream that an onSend hook has put before the response.
      return this.#owner.onBroken(error)
    }
    this.#afterWrite(goOn, destination, isTaken)
  }

  /** @returns the socket, where bytes of this size can go to it at once, and nothing else is to go there first */
  #shortWay (size: number): Socket | undefined {
    const socket = this.#socket
    const isClear = socket !== undefined && !this.behind && this.#queue.length === 0 && size <= SLICE
    return isClear && isFree(this.#response, socket) ? socket : undefined
  }

  #writeChunk (socket: Socket, chunk: Buffer | string, size: number, encoding?: BufferEncoding): void {
    const isTaken = socket.writableLength === 0
    this.count(size)
    this.#afterWrite(socket.write(chunk, encoding), socket, isTaken)
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
   * The long way: in one write, or in slices where there is much: each that the client takes is progress.
   * @returns false if the socket asks for a pause
   */
  #send (destination: Destination): boolean {
    this.#enqueueGathered()
    let goOn = true
    while (goOn && this.#queue.length > 0) {
      const slice = this.#nextSlice(this.#queue[0]!)
      if (this.#counts) this.count(slice.length)
      goOn = destination.write(slice)
    }
    // From here on its head is out.
    if (destination === this.#response && this.#pieces === undefined) this.#socket = socketOf(this.#response)
    // An array that was filled once keeps room for many.
    if (this.#queue.length === 0) this.#queue = []
    return goOn
  }

  #nextSlice (first: Buffer): Buffer {
    if (first.length <= SLICE) this.#queue.shift()
    else this.#queue[0] = first.subarray(SLICE)
    return first.length <= SLICE ? first : first.subarray(0, SLICE)
  }

  /**
   * @param goOn false: the socket asks for a pause
   * @param wasTaken nothing was unread before
   */
  #afterWrite (goOn: boolean, socket: Pick<Destination, 'once'>, wasTaken: boolean): void {
    if (goOn) this.#wake()
    else this.#onBehind(socket)
    if (this.#queue.length === 0) this.#onAllWritten()
    if (wasTaken || this.isLast || this.#silence.isOver) this.#silence.begin(this.behind || this.isLast)
  }

  #onAllWritten (): void {
    const done = this.#done
    if (done === undefined) return
    this.#done = noop
    done()
  }

  #onBehind (socket: Pick<Destination, 'once'>): void {
    this.behind = true
    socket.once('drain', () => {
      this.behind = false
      this.flush()
    })
  }

  #wake (): void {
    const waiter = this.#waiter
    this.#waiter = noop
    waiter()
  }
}

function flush (writer: Writer): void {
  writer.flush()
}

function noop () {}
