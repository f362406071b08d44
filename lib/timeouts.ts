/**
 * Waits of one length for any number of connections, on one timer: those that wait stand in line in the order in
 * which they began, so the first is always the next that is due. To begin again costs a few assignments, whatever
 * the number of connections; a connection needs no timer of its own.
 */

/** Somebody that can stand in one line at a time. The fields belong to the line. */
export interface Waiting {
  line: Line | undefined
  earlier: Waiting | undefined
  later: Waiting | undefined
  /** When the wait began, in ms of performance.now(). */
  since: number
  /**
   * The wait in this line is over. Whoever wants to wait again says so.
   * @param late by how many ms: much, if the event loop was blocked, and nobody could be served
   */
  onDue (line: Line, late: number): void
}

export class Line {
  readonly #ms: number
  #first: Waiting | undefined
  #last: Waiting | undefined
  #timer: NodeJS.Timeout | undefined

  constructor (ms: number) {
    this.#ms = ms
  }

  /** Begins to wait from now, also where it stood in this line, or another, already. */
  wait (waiting: Waiting): void {
    if (waiting.line !== undefined) waiting.line.leave(waiting)
    waiting.since = performance.now()
    waiting.line = this
    waiting.earlier = this.#last
    if (this.#last === undefined) this.#first = waiting
    else this.#last.later = waiting
    this.#last = waiting
    // A timer that is set already is due no later than this wait.
    if (this.#timer === undefined) this.#set(this.#ms)
  }

  leave (waiting: Waiting): void {
    if (waiting.line !== this) return
    if (waiting.earlier === undefined) this.#first = waiting.later
    else waiting.earlier.later = waiting.later
    if (waiting.later === undefined) this.#last = waiting.earlier
    else waiting.later.earlier = waiting.earlier
    waiting.line = waiting.earlier = waiting.later = undefined
  }

  #set (ms: number): void {
    this.#timer = setTimeout(() => this.#due(), ms).unref()
  }

  /** Takes all that are due, then sets the timer for the first that is not. An empty line has no timer. */
  #due (): void {
    const now = performance.now()
    // The timer counts as set until the end: one who waits again here must not set it past those still in line.
    while (this.#first !== undefined && this.#first.since + this.#ms <= now) {
      const waiting = this.#first
      this.leave(waiting)
      waiting.onDue(this, now - waiting.since - this.#ms)
    }
    this.#timer = undefined
    if (this.#first !== undefined) this.#set(Math.max(1, Math.ceil(this.#first.since + this.#ms - now)))
  }
}

/** The lines of one plugin, one for each length of time that its connections wait. */
export class Lines {
  readonly #lines = new Map<number, Line>()

  of (ms: number): Line {
    let line = this.#lines.get(ms)
    if (line === undefined) this.#lines.set(ms, line = new Line(ms))
    return line
  }
}
