/**
 * Compressed pieces of event streams: each stands by itself, and follows whatever was before it, so that an event which
 * many read is compressed once. In gzip (RFC 1952) they are deflate blocks that end with a full flush ("the compression
 * state is reset"), in zstd (RFC 8878) frames.
 */
import zlib from 'node:zlib'
import type { Chunk } from './chunk.ts'
import type { Coding } from './coding.ts'
import { zstd, zstdFrame } from './zstd.ts'

/** Bytes that go to many streams: as they are, or compressed, once for all who accept that. */
export interface Shareable {
  readonly chunk: Chunk
  compressed (coding: Coding): Buffer
}

/** Bytes from which on it saves more than it costs; as many are stored, or put into a zstd frame, as they are. */
const WORTHWHILE = 64

/** Compresses what is worth it. */
export function compressPiece (coding: Coding, bytes: Buffer): Buffer {
  if (bytes.length < WORTHWHILE) return storePiece(coding, bytes)
  const { constants } = zlib
  if (coding === 'zstd') return zstd!.zstdCompressSync(bytes)
  return zlib.deflateRawSync(bytes, { finishFlush: constants.Z_FULL_FLUSH })
}

/** Not compressed, but with what goes around it: for an ID, which differs for each stream, or a comment. */
export function storePiece (coding: Coding, bytes: Buffer): Buffer {
  if (coding === 'gzip') return storedBlocks(bytes)
  const frames: Buffer[] = []
  for (let at = 0; at < bytes.length; at += 255) frames.push(zstdFrame(bytes.subarray(at, at + 255)))
  return Buffer.concat(frames)
}

/** RFC 1951, section 3.2.4: a block without compression, which is not the last: 0, LEN, its complement, the bytes. */
function storedBlocks (bytes: Buffer): Buffer {
  const head = Buffer.alloc(5)
  head.writeUInt16LE(bytes.length, 1)
  head.writeUInt16LE(bytes.length ^ 0xffff, 3)
  return Buffer.concat([head, bytes])
}

/** RFC 1952, section 2.3: deflate, no flags, no time, no system. */
const GZIP_HEADER = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])

/** RFC 1951: a last block without content. */
const LAST_BLOCK = Buffer.from([0x03, 0x00])

/** One client's stream, put together of pieces. */
export class Pieces {
  readonly #coding: Coding
  /** Of what was put in so far: gzip ends with its checksum and its length. */
  #crc = 0
  #length = 0

  constructor (coding: Coding) {
    this.#coding = coding
  }

  /** What comes first: there may be nothing else. */
  begin (): Buffer {
    return this.#coding === 'gzip' ? GZIP_HEADER : zstdFrame(Buffer.alloc(0))
  }

  text (text: string): Buffer {
    const bytes = Buffer.from(text)
    this.#count(bytes)
    return compressPiece(this.#coding, bytes)
  }

  shared (shareable: Shareable): Buffer {
    this.#count(shareable.chunk.bytes)
    return shareable.compressed(this.#coding)
  }

  /** What comes last. */
  end (): Buffer {
    if (this.#coding === 'zstd') return Buffer.alloc(0)
    const trailer = Buffer.alloc(8)
    trailer.writeUInt32LE(this.#crc, 0)
    trailer.writeUInt32LE(this.#length, 4)
    return Buffer.concat([LAST_BLOCK, trailer])
  }

  #count (bytes: Buffer): void {
    if (this.#coding === 'zstd') return
    this.#crc = zlib.crc32(bytes, this.#crc)
    this.#length = (this.#length + bytes.length) >>> 0
  }
}
