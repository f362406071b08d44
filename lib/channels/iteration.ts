/** A reading as an async iterator: for workers, tests, and whatever else has no HTTP. */
import type { Failure } from '../log.ts'
import { onAbort } from '../on-abort.ts'
import { EVENTS_PER_TURN, PARTS_PER_TURN } from '../turns.ts'
import { GAP, toReceived, type ReceivedEvent } from './message.ts'
import { MOST_HELD, type Part, type Reading, type Taker } from './reading.ts'

interface Waiter {
  resolve (result: IteratorResult<ReceivedEvent>): void
  reject (error: unknown): void
}

/** All that are open. */
export class Iterations {
  readonly #open = new Set<Iteration>()
  /** Those that begin now end at once. */
  ended = false

  add (iteration: Iteration): void {
    this.#open.add(iteration)
  }

  delete (iteration: Iteration): void {
    this.#open.delete(iteration)
  }

  end (): void {
    this.ended = true
    for (const iteration of this.#open) iteration.end()
  }
}

export class Iteration implements AsyncIterableIterator<ReceivedEvent>, Taker {
  readonly #open: () => Reading
  readonly #signal: AbortSignal | undefined
  readonly #all: Iterations
  readonly #waiters: Waiter[] = []
  readonly #events: ReceivedEvent[] = []
  #held = 0
  #asked = 0
  #reading: Reading | undefined
  #failure: Failure | undefined
  #done = false
  #forgetSignal: () => void = noop

  /** @param all where it is to be found as long as it is open */
  constructor (open: () => Reading, signal: AbortSignal | undefined, all: Iterations) {
    this.#open = open
    this.#signal = signal
    this.#all = all
  }

  /** What is published after the first call is not missed. */
  next (): Promise<IteratorResult<ReceivedEvent>> {
    if (this.#reading === undefined && !this.#done) this.#begin()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject })
      if (++this.#asked % EVENTS_PER_TURN === 0) setImmediate(() => this.#serve())
      else this.#serve()
    })
  }

  /** Never waits, not even for a `next()` that is pending: that one is told that this is the end. */
  async return (): Promise<IteratorResult<ReceivedEvent>> {
    this.end()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator] (): this {
    return this
  }

  end (): void {
    this.#finish()
    this.#events.length = 0
    this.#serve()
  }

  #begin (): void {
    if (this.#all.ended) {
      this.#done = true
      return
    }
    this.#forgetSignal = onAbort(this.#signal, () => this.end())
    // It has aborted already.
    if (this.#done) return
    this.#all.add(this)
    this.#reading = this.#open()
    this.#reading.begin(this)
  }

  onReady (urgent: boolean): void {
    if (urgent) this.#hold()
    this.#serve()
  }

  #finish (): void {
    this.#done = true
    this.#all.delete(this)
    this.#forgetSignal()
    this.#reading?.stop()
  }

  #serve (): void {
    while (this.#waiters.length > 0) {
      if (!this.#takeSome()) return
      // A filter may have ended this very reading.
      if (this.#waiters.length === 0) return
      const event = this.#events.shift()
      if (event !== undefined) this.#waiters.shift()!.resolve({ done: false, value: event })
      else if (this.#failure !== undefined) this.#reject(this.#failure.error)
      else if (this.#done) this.#waiters.shift()!.resolve({ done: true, value: undefined })
      else return
    }
  }

  /** @returns false where it goes on in the next turn: a filter has left out all that was taken in this one */
  #takeSome (): boolean {
    let parts = 0
    while (this.#events.length === 0 && this.#take()) {
      if (++parts === PARTS_PER_TURN) {
        setImmediate(() => this.#serve())
        return false
      }
    }
    return true
  }

  #reject (error: unknown): void {
    this.#failure = undefined
    this.#waiters.shift()!.reject(error)
  }

  #hold (): void {
    if (this.#events.length === 0) this.#held = 0
    while (this.#held < MOST_HELD && this.#take());
  }

  /** @returns false if there is nothing to take now, or ever */
  #take (): boolean {
    if (this.#done) return false
    try {
      const part = this.#reading!.take()
      if (part === undefined || this.#done) return false
      this.#add(part)
      return true
    } catch (error) {
      this.#failure = { error }
      this.#finish()
      return false
    }
  }

  #add (part: Part): void {
    switch (part.is) {
      case 'events':
        for (const { message, id, size } of part.events) {
          this.#held += size
          this.#events.push(toReceived(message, id))
        }
        return
      case 'gap':
        this.#events.push({ event: GAP, data: part.gap })
        return
      case 'refusal':
        this.#failure = part
        this.#finish()
        return
      case 'end':
        this.#finish()
    }
  }
}

function noop () {}
