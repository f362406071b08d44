/** An event of a channel in the forms in which readers want it, each made once, however many they are. */
import { sizeOf, type Entry, type Message } from '../broker.ts'
import { Chunk } from '../chunk.ts'
import type { Coding } from '../coding.ts'
import { frame } from '../frame.ts'
import { compressPiece, storePiece } from '../pieces.ts'
import { toReceived, type ReceivedEvent } from './message.ts'

export class FramedEvent {
  /** The position after it; `''`: none, as it is an event of a snapshot. */
  readonly id: string
  readonly message: Message
  readonly size: number
  /** The one from which it differs by its ID alone. */
  #original: FramedEvent | undefined
  #chunk: Chunk | undefined
  #seen: ReceivedEvent | undefined
  readonly #rests: Partial<Record<Coding, Buffer>> = {}

  constructor (id: string, message: Message, size = sizeOf(message)) {
    this.id = id
    this.message = message
    this.size = size
  }

  /** Its block. */
  get chunk (): Chunk {
    this.#chunk ??= this.#original === undefined ? this.#frame() : this.#reframe(this.#original)
    return this.#chunk
  }

  /** The ID as it is, then the rest, which is compressed once, whatever the ID. */
  compressed (coding: Coding): Buffer {
    const rest = (this.#original ?? this).#compressedRest(coding)
    return this.id === '' ? rest : Buffer.concat([storePiece(coding, Buffer.from(idLine(this.id))), rest])
  }

  /** What filters and keys look at. They share it, and must not change it. */
  get seen (): ReceivedEvent {
    this.#seen ??= toReceived(this.message, this.id)
    return this.#seen
  }

  /** The same event with another ID: on a stream of several channels, with the one that stands for all of them. */
  as (id: string): FramedEvent {
    const event = new FramedEvent(id, this.message, this.size)
    event.#original = this
    return event
  }

  #frame (): Chunk {
    const { event, data, raw, retry, comment } = this.message
    return Chunk.ofText(frame({ event, id: this.id || undefined, retry, comment }, raw ?? data))
  }

  /** The ID comes first in a block (frame.ts), so the rest is the same whatever the ID. */
  #reframe ({ id, chunk }: FramedEvent): Chunk {
    return Chunk.ofPieces([Buffer.from(idLine(this.id)), chunk.bytes.subarray(idLine(id).length)])
  }

  #compressedRest (coding: Coding): Buffer {
    this.#rests[coding] ??= alone(compressPiece(coding, this.chunk.bytes.subarray(this.id === '' ? 0 : idLine(this.id).length)))
    return this.#rests[coding]
  }
}

/** In memory of its own: as a part of a chunk of 16 KB or more it would hold all of that for as long as it is retained. */
function alone (bytes: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(copy)
  return copy
}

/** The first line of a block, which is all that the ID makes of it. */
function idLine (id: string): string {
  return `id: ${id}\n`
}

const known = new WeakMap<Entry, FramedEvent>()

/** The one framed event of an entry: readers who are given the same entry share it. */
export function framed (entry: Entry): FramedEvent {
  let event = known.get(entry)
  if (event === undefined) known.set(entry, event = new FramedEvent(entry.id, entry.message))
  return event
}
