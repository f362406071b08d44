/**
 * Content codings of event streams (RFC 9110, section 8.4). Events that many read are coded once: each piece of a stream is
 * coded so that it stands by itself, and follows whatever was before it. In gzip (RFC 1952) these are deflate blocks that
 * end with a full flush ("the compression state is reset"), in zstd (RFC 8878) they are frames.
 */
import negotiator from '@fastify/accept-negotiator'
import type { IncomingHttpHeaders } from 'node:http'
import zlib from 'node:zlib'

export type Coding = 'gzip' | 'zstd'

/** What a client that many share its stream with is sent: as it is, or coded once for all who accept that. */
export interface Codable {
  readonly bytes: Buffer
  coded (coding: Coding): Buffer
}

/** Node has zstd since 22.15; its types for Node 20 know nothing of it. */
const { zstdCompressSync, createZstdCompress } = zlib as typeof zlib & {
  zstdCompressSync?: (bytes: Buffer) => Buffer
  createZstdCompress?: (options: { flush: number }) => zlib.Gzip
}

/** Zstd costs less, and gives more. */
export const CODINGS: readonly Coding[] = zstdCompressSync === undefined ? ['gzip'] : ['zstd', 'gzip']

/**
 * The best coding that a client accepts; undefined: none.
 * @param pieces whether the stream is put together of pieces
 */
export function acceptedCoding (headers: IncomingHttpHeaders, pieces: boolean): Coding | undefined {
  const codings = pieces && !readsFrames(headers['user-agent'] ?? '') ? CODINGS.filter((coding) => coding !== 'zstd') : [...CODINGS]
  return negotiator.negotiate(headers['accept-encoding']?.toString().toLowerCase() ?? '', codings) as Coding | null ?? undefined
}

/**
 * By the standard a zstd stream has any number of frames (RFC 8878, section 3.1), but many decoders, Node's own too, stop
 * after the first and drop the rest in silence. Chromium reads all of them.
 */
function readsFrames (userAgent: string): boolean {
  return /Chrom(e|ium)\//.test(userAgent)
}

/** Fewer bytes than this are stored: to deflate them would cost more than it saves. */
const WORTHWHILE = 64

/** One piece that stands by itself. */
export function encode (coding: Coding, bytes: Buffer): Buffer {
  if (coding === 'zstd') return zstdCompressSync!(bytes)
  return bytes.length < WORTHWHILE ? stored(bytes) : zlib.deflateRawSync(bytes, { finishFlush: zlib.constants.Z_FULL_FLUSH })
}

/** RFC 1951, section 3.2.4: a block without compression, which is not the last: 0, LEN, its complement, the bytes. */
function stored (bytes: Buffer): Buffer {
  const block = Buffer.alloc(5 + bytes.length)
  block.writeUInt16LE(bytes.length, 1)
  block.writeUInt16LE(bytes.length ^ 0xffff, 3)
  bytes.copy(block, 5)
  return block
}

/** RFC 1952, section 2.3: deflate, no flags, no time, no system. */
const GZIP_HEADER = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])

/** RFC 1951: a last block without content. */
const LAST_BLOCK = Buffer.from([0x03, 0x00])

/** One client's stream, put together of pieces. */
export class Coder {
  readonly #coding: Coding
  /** Of what was coded so far: gzip ends with its checksum and its length. */
  #crc = 0
  #length = 0

  constructor (coding: Coding) {
    this.#coding = coding
  }

  /** What comes first. */
  begin (): Buffer {
    return this.#coding === 'gzip' ? GZIP_HEADER : Buffer.alloc(0)
  }

  text (text: string): Buffer {
    const bytes = Buffer.from(text)
    this.#count(bytes)
    return encode(this.#coding, bytes)
  }

  shared (codable: Codable): Buffer {
    this.#count(codable.bytes)
    return codable.coded(this.#coding)
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

/** What becomes of compressed bytes. */
interface Compressing {
  /** Told of each number of bytes that leaves. */
  count: (bytes: number) => void
  /** All that was written has left; the destination is not ended. */
  onEnd: () => void
  onError: () => void
}

/** A stream of one client's own: what it has had before helps to code what comes, and each write is flushed. */
export function compressTo (
  coding: Coding, destination: NodeJS.WritableStream, { count, onEnd, onError }: Compressing
): zlib.Gzip {
  const compressor = coding === 'gzip'
    ? zlib.createGzip({ flush: zlib.constants.Z_SYNC_FLUSH })
    : createZstdCompress!({ flush: (zlib.constants as Record<string, number>).ZSTD_e_flush! })
  compressor.on('data', ({ length }: Buffer) => count(length)).once('end', onEnd).once('error', onError)
  compressor.pipe(destination, { end: false })
  return compressor
}
