/**
 * The connection of an HTTP/2 client, with all that is on it. Whether a client still reads can only be asked by a PING, which it
 * answers when it has read what came before; what it does not read waits below Node's streams, which may long be gone.
 */
import type { ServerHttp2Session } from 'node:http2'
import { isHttp2, type RawResponse } from './response.ts'

export class Http2Connection {
  readonly #session: ServerHttp2Session
  readonly #socket: AsyncDisposable
  readonly #closed: Promise<void>
  #read: Promise<void> | undefined

  constructor (session: ServerHttp2Session) {
    this.#session = session
    this.#closed = new Promise((resolve) => { session.once('close', resolve) })
    const { socket } = session
    // Taken as long as the session has it. It stands for the socket, and of what destroys that gives this alone.
    this.#socket = { [Symbol.asyncDispose]: socket[Symbol.asyncDispose] }
  }

  /** Settles when the client has read what was sent to it until now, or is gone. */
  read (): Promise<void> {
    this.#read ??= Promise.race([this.#closed, this.#ping()]).then(() => { this.#read = undefined })
    return this.#read
  }

  /** Breaks it off where nothing that was sent is read for so many ms. */
  breakOffUnlessRead (ms: number): void {
    if (this.#read !== undefined) return
    const timer = setTimeout(() => this.breakOff(), ms).unref()
    this.read().then(() => clearTimeout(timer))
  }

  /** Breaks it off for good: `session.destroy()` waits for a client that has said GOAWAY, or has been told so. */
  breakOff (): void {
    this.#socket[Symbol.asyncDispose]().then(undefined, () => {})
  }

  #ping (): Promise<void> {
    return new Promise((resolve) => {
      if (this.#session.destroyed) return
      // One that is cancelled, as the session is closing, says nothing.
      this.#session.ping((error) => { if (error === null) resolve() })
    })
  }
}

const known = new WeakMap<ServerHttp2Session, Http2Connection>()

/** That of a response; undefined over HTTP/1, and where it is gone. */
export function http2ConnectionOf (response: RawResponse): Http2Connection | undefined {
  const session = isHttp2(response) ? response.stream?.session as ServerHttp2Session | undefined : undefined
  if (session === undefined || session.destroyed) return undefined
  let connection = known.get(session)
  if (connection === undefined) known.set(session, connection = new Http2Connection(session))
  return connection
}
