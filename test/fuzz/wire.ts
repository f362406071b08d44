/**
 * A connection in memory: the server's end of it is a Duplex, which takes what is written at once, or not at all. So a test
 * says to the byte what its client has taken.
 */
import { Duplex } from 'node:stream'

export class Wire extends Duplex {
  /** Bytes that the client takes before it breaks the connection off. */
  left = Infinity
  readonly #onBytes: (bytes: Buffer) => void
  #isStalled = false
  #held: (() => void) | undefined

  constructor (onBytes: (bytes: Buffer) => void) {
    super({ highWaterMark: 512 })
    this.#onBytes = onBytes
    this.on('error', () => {})
  }

  send (text: string): void {
    this.push(text)
  }

  stall (): void {
    this.#isStalled = true
  }

  readOn (): void {
    this.#isStalled = false
    const held = this.#held
    this.#held = undefined
    held?.()
  }

  override _read (): void {}

  override _write (bytes: Buffer, _: string, done: () => void): void {
    const take = () => {
      this.#onBytes(bytes.subarray(0, this.left))
      this.left -= bytes.length
      if (this.left < 0) this.destroy()
      done()
    }
    if (this.#isStalled) this.#held = take
    else take()
  }
}
