/**
 * The short way to a socket. To an HTTP/1.1 response each write becomes a chunk (RFC 9112, section 7.1) by three pieces,
 * around which it corks its socket and uncorks it in the next tick. Bytes that are a whole chunk already can go to the
 * socket themselves, in one piece that many connections share, where the response would do nothing else with them.
 */
import { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { RawResponse } from './response.ts'

const CRLF = '\r\n'

/** Around bytes of this length: what goes before them, and what after. */
function head (length: number): string {
  return length.toString(16) + CRLF
}

/** Some bytes, and the chunk that has them: they lie in the same memory. */
export class Chunk {
  readonly whole: Buffer
  readonly bytes: Buffer

  /** @param pieces at least one byte in all, as an empty chunk ends a body */
  constructor (pieces: readonly Buffer[]) {
    let length = 0
    for (const piece of pieces) length += piece.length
    const before = head(length)
    this.whole = Buffer.allocUnsafe(before.length + length + CRLF.length)
    let at = this.whole.write(before, 'latin1')
    for (const piece of pieces) {
      piece.copy(this.whole, at)
      at += piece.length
    }
    this.whole.write(CRLF, at, 'latin1')
    this.bytes = this.whole.subarray(before.length, at)
  }
}

const { write } = ServerResponse.prototype

/**
 * The socket to which a chunk can be written as it is; undefined: the response is to write. Its head must be out.
 *
 * The response must be Node's own, over HTTP/1.1, unchanged: instrumentation, say, that looks at what is written to it
 * goes on seeing it. It must have its socket (others may be before it in a pipeline) and not be ended, as then the next
 * response has it; and nothing may wait in the response, before which the chunk would arrive.
 */
export function socketFor (response: RawResponse): Socket | undefined {
  if (response.write !== write) return undefined
  const { socket, chunkedEncoding, writableEnded, writableCorked, writableLength } = response as ServerResponse
  const isFree = chunkedEncoding && !writableEnded && writableCorked === 0 &&
    socket !== null && socket.writable && writableLength === socket.writableLength
  return isFree ? socket : undefined
}
