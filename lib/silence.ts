/**
 * The silence of one stream. On the server's side it is broken by a comment before `keepAlive` has passed; on the client's,
 * whose bytes are left unread, it is borne for `writeTimeout`. Both count from the same moment: from a write on, unless the
 * one before is still unread; then time goes on counting from there.
 */
import type { ResolvedOptions } from './options.ts'
import type { Line, Lines, Waiting } from './timeouts.ts'

/** Milliseconds by which a timer is late if the event loop was blocked. */
const BLOCKED = 100

/** The way to one client. */
export interface Watched {
  /** Whether the client's socket has taken all that was written. */
  readonly isTaken: boolean
  /** Nothing is to be written any more but what is held back. */
  readonly isLast: boolean
  breakSilence (): void
  /** The client has left bytes unread for `writeTimeout`. */
  onStalled (): void
}

export class Silence implements Waiting {
  appointment: Waiting['appointment'] = undefined
  earlier: Waiting | undefined = undefined
  later: Waiting | undefined = undefined
  since = 0

  readonly #watched: Watched
  readonly #options: Pick<ResolvedOptions, 'keepAlive' | 'writeTimeout'>
  readonly #lines: Lines

  constructor (watched: Watched, options: Pick<ResolvedOptions, 'keepAlive' | 'writeTimeout'>, lines: Lines) {
    this.#watched = watched
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
    if (keepAlive !== false && !isHeldUp && (writeTimeout === false || keepAlive < writeTimeout)) {
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
    if (this.#watched.isLast || !this.#watched.isTaken) this.#onUnread(line, late)
    else if (keepAlive === false) this.end()
    else if (writeTimeout !== false && writeTimeout <= keepAlive && line === this.#lines.after(writeTimeout)) {
      this.#lines.within(keepAlive).goOn(this)
    } else {
      this.#watched.breakSilence()
    }
  }

  #onUnread (line: Line, late: number): void {
    const { writeTimeout } = this.#options
    // While the event loop was blocked nobody could be served: that is no delay of the client's.
    if (late > BLOCKED || writeTimeout === false) line.wait(this)
    else if (line === this.#lines.after(writeTimeout)) this.#watched.onStalled()
    else this.#lines.after(writeTimeout).goOn(this)
  }
}
