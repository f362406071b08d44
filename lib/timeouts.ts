/**
 * Waits of one length for any number of connections, on one timer. To begin again costs a connection that waits already no
 * more than to write down when. It has an appointment: when that comes it is looked at, and gets another one if it has
 * begun again meanwhile. Waits that are over at about the same time share an appointment, so however many connections
 * there are, the process is woken some 64 times within one length.
 */

/** Of Node's timers, in ms. */
export const LONGEST_TIMER = 2_147_483_647

/** Somebody that can wait in one line at a time. The fields belong to the line. */
export interface Waiting {
  appointment: Appointment | undefined
  earlier: Waiting | undefined
  later: Waiting | undefined
  /** When the wait began, in whole ms of performance.now(). */
  since: number
  /**
   * The wait in this line is over. Whoever wants to wait again says so.
   * @param late by how many ms it is told after its appointment: much, if the event loop was blocked, and nobody could be served
   */
  onDue (line: Line, late: number): void
}

/** When those who are in it are looked at. */
interface Appointment {
  readonly line: Line
  /** When the first of them is due, and when the last. */
  from: number
  to: number
  first: Waiting | undefined
  last: Waiting | undefined
}

/** A wait may be this part of its length shorter, or longer, than was said, where others are over at that time. */
export const TOLERANCE = 1 / 64

export class Line {
  readonly #ms: number
  readonly #isEarly: boolean
  /** In the order of their times; some dozens, as they are apart by the tolerance. */
  readonly #appointments: Appointment[] = []
  #timer: NodeJS.Timeout | undefined
  #timerAt = Infinity

  /** @param isEarly whether a wait may be shorter than `ms`; else it may be longer */
  constructor (ms: number, isEarly: boolean) {
    this.#ms = ms
    this.#isEarly = isEarly
  }

  /** Begins to wait from now, also where it waited here, or in another line, already. */
  wait (waiting: Waiting): void {
    waiting.since = Math.ceil(performance.now())
    if (waiting.appointment?.line !== this) this.goOn(waiting)
  }

  /** Waits here as if it had waited here since it began. */
  goOn (waiting: Waiting): void {
    waiting.appointment?.line.leave(waiting)
    const appointment = this.#appointmentAt(waiting.since + this.#ms)
    waiting.appointment = appointment
    waiting.earlier = appointment.last
    if (appointment.last === undefined) appointment.first = waiting
    else appointment.last.later = waiting
    appointment.last = waiting
  }

  leave (waiting: Waiting): void {
    const { appointment } = waiting
    if (appointment?.line !== this) return
    if (waiting.earlier === undefined) appointment.first = waiting.later
    else waiting.earlier.later = waiting.later
    if (waiting.later === undefined) appointment.last = waiting.earlier
    else waiting.later.earlier = waiting.earlier
    waiting.appointment = waiting.earlier = waiting.later = undefined
  }

  #appointmentAt (due: number): Appointment {
    let index = this.#appointments.length
    while (index > 0 && this.#appointments[index - 1]!.from > due) index--
    const near = [this.#appointments[index - 1], this.#appointments[index]].find((each) => this.#canTake(due, each))
    return near === undefined ? this.#insert(due, index) : this.#widen(near, due)
  }

  #insert (due: number, index: number): Appointment {
    const appointment = { line: this, from: due, to: due, first: undefined, last: undefined }
    this.#appointments.splice(index, 0, appointment)
    if (index === 0) this.#setTimer()
    return appointment
  }

  #widen (appointment: Appointment, due: number): Appointment {
    const before = this.#timeOf(appointment)
    appointment.from = Math.min(appointment.from, due)
    appointment.to = Math.max(appointment.to, due)
    // A timer that is early is set again when it is due.
    if (appointment === this.#appointments[0] && this.#timeOf(appointment) < before) this.#setTimer()
    return appointment
  }

  #canTake (due: number, appointment: Appointment | undefined): boolean {
    if (appointment === undefined) return false
    return Math.max(appointment.to, due) - Math.min(appointment.from, due) <= this.#ms * TOLERANCE
  }

  #timeOf ({ from, to }: Appointment): number {
    return this.#isEarly ? from : to
  }

  #setTimer (): void {
    const now = performance.now()
    const next = this.#appointments[0]
    const at = next === undefined ? Infinity : Math.max(now + 1, this.#timeOf(next))
    // One that is due now would be put off by a millisecond for whoever joins whose time is over.
    if (at >= this.#timerAt) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#due(), Math.min(Math.ceil(at - now), LONGEST_TIMER)).unref()
    this.#timerAt = at
  }

  /** Takes all whose time has come, then sets the timer for the next appointment; there is none where nobody waits. */
  #due (): void {
    const now = performance.now()
    while (this.#appointments.length > 0 && this.#timeOf(this.#appointments[0]!) <= now) {
      const appointment = this.#appointments.shift()!
      const late = now - this.#timeOf(appointment)
      while (appointment.first !== undefined) this.#look(appointment.first, now, late)
    }
    this.#timerAt = Infinity
    this.#setTimer()
  }

  #look (waiting: Waiting, now: number, late: number): void {
    this.leave(waiting)
    const rest = waiting.since + this.#ms - now
    if (rest <= (this.#isEarly ? this.#ms * TOLERANCE : 0)) waiting.onDue(this, late)
    else this.goOn(waiting)
  }
}

/** The lines of one plugin, by the length of time that its connections wait. */
export class Lines {
  readonly #within = new Map<number, Line>()
  readonly #after = new Map<number, Line>()

  /** Where a wait is over after `ms` at the latest. */
  within (ms: number): Line {
    return lineOf(this.#within, ms, true)
  }

  /** Where a wait is over after `ms` at the earliest. */
  after (ms: number): Line {
    return lineOf(this.#after, ms, false)
  }
}

function lineOf (lines: Map<number, Line>, ms: number, isEarly: boolean): Line {
  let line = lines.get(ms)
  if (line === undefined) lines.set(ms, line = new Line(ms, isEarly))
  return line
}
