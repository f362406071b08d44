/** An event stream becomes blocks, by the letter of the HTML standard (sections 9.2.5 and 9.2.6). */

/** What an empty line has ended. */
export interface Block {
  /** The event type; 'message' where the block has none. */
  event: string
  /** The data; undefined where the block has none, and nothing is dispatched. */
  text: string | undefined
  /** The last event ID after this block; '': none. */
  id: string
}

/**
 * Parses one stream. By the standard a stream begins without an ID, so that a first block without one would take the last
 * event ID of the connection before away. Chromium keeps it, and so does this: no reader wants to lose its place.
 */
export class Parser {
  // It leaves out one byte order mark at the start, and holds back a character whose bytes are not all there.
  readonly #decoder = new TextDecoder()
  readonly #onRetry: (ms: number) => void
  #id: string
  #event = ''
  #data = ''
  /** A line whose end is not there yet. */
  #rest = ''
  #afterCr = false

  /**
   * @param id the last event ID so far; '': none
   * @param onRetry is given each reconnection time, in ms
   */
  constructor (id: string, onRetry: (ms: number) => void) {
    this.#id = id
    this.#onRetry = onRetry
  }

  /** The blocks that end in this chunk: it is parsed as far as they are asked for, and must be to its end before the next. */
  * parse (chunk: Uint8Array): Generator<Block> {
    let text = this.#decoder.decode(chunk, { stream: true })
    if (text === '') return
    // A CR ends its line at once; the LF that may follow it in the next chunk ends no other.
    if (this.#afterCr && text[0] === '\n') text = text.slice(1)
    this.#afterCr = text.endsWith('\r')
    const lines = text.split(/\r\n|\r|\n/)
    lines[0] = this.#rest + lines[0]
    this.#rest = lines.pop()!
    for (const line of lines) {
      if (line === '') yield this.#endBlock()
      else this.#takeField(line)
    }
  }

  #takeField (line: string): void {
    const [, field, value = ''] = /^([^:]*)(?:: ?([^]*))?$/.exec(line)!
    if (field === 'data') this.#data += value + '\n'
    if (field === 'event') this.#event = value
    if (field === 'id' && !value.includes('\0')) this.#id = value
    if (field === 'retry' && /^\d+$/.test(value)) this.#onRetry(+value)
  }

  #endBlock (): Block {
    const data = this.#data
    const block = { event: this.#event || 'message', text: data === '' ? undefined : data.slice(0, -1), id: this.#id }
    this.#event = this.#data = ''
    return block
  }
}
