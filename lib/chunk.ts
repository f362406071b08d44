/**
 * The short way to a socket. To an HTTP/1.1 response each write becomes a chunk (RFC 9112, section 7.1) by three pieces,
 * around which it corks its socket and uncorks it in the next tick. Bytes that are a whole chunk already can go to the
 * socket themselves, in one piece that many connections share, where the response would do nothing else with them.
 */
import { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { RawResponse } from './response.ts'

const CRLF = '\r\n'

/** What goes before that many bytes. */
function head (size: number): string {
  return size.toString(16) + CRLF
}

/**
 * Text as a chunk.
 * @param size of the text, in bytes; at least 1
 */
export function chunked (text: string, size: number): string {
  return head(size) + text + CRLF
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
 * The socket of a response to which chunks can be written as they are from now on, as long as `isFree`; undefined: none.
 * The head must be out.
 *
 * The response must be Node's own, over HTTP/1.1, so that its body is chunked; and nothing may wait in it, before which a
 * chunk would arrive: it may not have its socket yet, where others are before it in a pipeline.
 */
export function socketOf (response: RawResponse): Socket | undefined {
  const { socket, chunkedEncoding, writableLength } = response as ServerResponse
  const isOwn = response.write === write && chunkedEncoding && socket !== null && writableLength === socket.writableLength
  return isOwn ? socket : undefined
}

/**
 * Whether the response would do nothing but write a chunk. Once it is ended, the next response has the socket; where
 * somebody has corked it, what it holds goes first; and whoever has put a `write` of their own in its place (instrumentation,
 * say) goes on seeing what is written.
 */
export function isFree (response: RawResponse, socket: Socket): boolean {
  return response.socket === socket && !response.writableEnded && (response as ServerResponse).writableCorked === 0 &&
    response.write === write && socket.writable
}
