/**
 * The silence of one stream. On the server's side it is broken by a comment before `keepAlive` has passed; on the client's,
 * whose bytes are left unread, it is borne for `writeTimeout`. Both count from the same moment: from a write on, unless the
 * one before is still unread; then time goes on counting from there.
 */
import type { ResolvedOptions } from './options.ts'
import { TOLERANCE, type Line, type Lines, type Waiting } from './timeouts.ts'

/** Milliseconds by which a timer is late if the event loop was blocked. */
const BLOCKED = 100

/** The way to one client. */
export interface Watched {
  /** Whether the client's socket has taken all that was written. */
  readonly isTaken: boolean
  /** Nothing is to be written any more but what is held back. */
  readonly isLast: boolean
  breakSilence (): void
}

/** Who is told. */
export interface Patience {
  /** The client has left bytes unread for `writeTimeout`. */
  onStalled (): void
}

type Limits = Pick<ResolvedOptions, 'keepAlive' | 'writeTimeout'>

export class Silence implements Waiting {
  appointment: Waiting['appointment'] = undefined
  earlier: Waiting | undefined = undefined
  later: Waiting | undefined = undefined
  since = 0

  readonly #watched: Watched
  readonly #owner: Patience
  readonly #options: Limits
  readonly #lines: Lines
  /** Since when bytes are known to be unread. */
  #unreadSince: number | undefined
  #isExcused = false

  constructor (watched: Watched, owner: Patience, options: Limits, lines: Lines) {
    this.#watched = watched
    this.#owner = owner
    this.#options = options
    this.#lines = lines
  }

  /** Whether nobody counts. */
  get isOver (): boolean {
    return this.appointment === undefined
  }

  /**
   * Counts from now.
   * @param isHeldUp nothing else can be written before what was, so no comment is due
   */
  begin (isHeldUp: boolean): void {
    const { keepAlive, writeTimeout } = this.#options
    this.#unreadSince = undefined
    this.#isExcused = false
    // What is first due is waited for first, but a comment must not come late for the tolerance of the other.
    if (keepAlive !== false && !isHeldUp && (writeTimeout === false || keepAlive <= writeTimeout * (1 + TOLERANCE))) {
      this.#lines.within(keepAlive).wait(this)
    } else if (writeTimeout !== false) {
      this.#lines.after(writeTimeout).wait(this)
    } else {
      this.end()
    }
  }

  end (): void {
    this.appointment?.line.leave(this)
  }

  onDue (line: Line, late: number): void {
    const { keepAlive, writeTimeout } = this.#options
    if (this.#watched.isLast || !this.#watched.isTaken) {
      this.#onUnread(line, late)
    } else if (keepAlive !== false) {
      if (writeTimeout !== false && line === this.#lines.after(writeTimeout)) this.#lines.within(keepAlive).goOn(this)
      else this.#watched.breakSilence()
    }
  }

  #onUnread (line: Line, late: number): void {
    const { writeTimeout } = this.#options
    if (writeTimeout === false) {
      line.wait(this)
    } else if (late > BLOCKED && !this.#isExcused) {
      // While the event loop was blocked nobody could be served: that is no delay of the client's. But it is excused once.
      this.begin(line === this.#lines.after(writeTimeout))
      this.#isExcused = true
    } else if (line === this.#lines.after(writeTimeout)) {
      this.#owner.onStalled()
    } else {
      this.#lookAgain(writeTimeout)
    }
  }

  /** After another `keepAlive`, as a comment is overdue as soon as all was read; in the end when `writeTimeout` has passed. */
  #lookAgain (writeTimeout: number): void {
    const { keepAlive } = this.#options
    this.#unreadSince ??= this.since
    const rest = this.#unreadSince + writeTimeout - performance.now()
    if (rest <= 0) {
      this.#owner.onStalled()
    } else if (keepAlive !== false && rest > keepAlive) {
      this.#lines.within(keepAlive).wait(this)
    } else {
      this.since = this.#unreadSince
      this.#lines.after(writeTimeout).goOn(this)
    }
  }
}
