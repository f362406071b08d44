/**
 * The short way to a socket. To an HTTP/1.1 response each write becomes a chunk (RFC 9112, section 7.1) of four pieces,
 * around which it corks its socket and uncorks it in the next tick. Bytes that are a whole chunk already can go to the
 * socket themselves, in one piece that many connections share, where the response would do nothing else with them.
 */
import { OutgoingMessage, type ServerResponse } from 'node:http'
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

/** Some bytes, at least one, as an empty chunk ends a body. */
export class Chunk {
  readonly whole: Buffer
  /** Of the bytes that are in it. */
  readonly size: number

  constructor (whole: Buffer, size: number) {
    this.whole = whole
    this.size = size
  }

  static ofText (text: string): Chunk {
    const size = Buffer.byteLength(text)
    return new Chunk(Buffer.from(chunked(text, size)), size)
  }

  static ofPieces (pieces: readonly Buffer[]): Chunk {
    const size = pieces.reduce((sum, { length }) => sum + length, 0)
    return new Chunk(Buffer.concat([Buffer.from(head(size)), ...pieces, Buffer.from(CRLF)]), size)
  }

  /** In the same memory. */
  get bytes (): Buffer {
    const end = this.whole.length - CRLF.length
    return this.whole.subarray(end - this.size, end)
  }
}

// A response inherits it; whoever puts another before it, sooner or later, is seen by that.
const { write } = OutgoingMessage.prototype

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
