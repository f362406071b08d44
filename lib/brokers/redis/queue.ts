/**
 * What waits to be sent, in the order in which it was asked for, also where some of it was sent before and has come back. An
 * append that was refused for a moment is overtaken if what was sent behind it was stored: then its place is gone.
 */
import type { Pending } from './order.ts'
import type { Lost } from './recall.ts'

export class Queue {
  #waiting = new Set<Pending>()
  /** Something has come back, and is not in its place. */
  #unsorted = false
  /** By channel the latest append that was stored, since then. */
  readonly #stored = new Map<string, number>()

  add (pending: Pending): void {
    this.#waiting.add(pending)
  }

  [Symbol.iterator] (): Iterator<Pending> {
    return this.#waiting.values()
  }

  /** @returns whether it waited */
  delete (pending: Pending): boolean {
    return this.#waiting.delete(pending)
  }

  /** What was sent, and is to be sent again. */
  putBack (pending: Pending): void {
    this.#unsorted = true
    this.#waiting.add(pending)
  }

  /** Those of which it is not known whether they were carried out, and matters. */
  get lost (): (Pending & Lost)[] {
    return [...this.#waiting].filter((pending): pending is Pending & Lost => pending.tried && pending.trace !== undefined)
  }

  noteStored ({ trace, number }: Pending): void {
    if (!this.#unsorted || trace === undefined) return
    this.#stored.set(trace.channel, Math.max(number, this.#stored.get(trace.channel) ?? number))
  }

  /** Puts everything in its place. @returns what was overtaken, which waits no more */
  sort (): Pending[] {
    if (!this.#unsorted) return []
    const overtaken = [...this.#waiting].filter((pending) => this.#isOvertaken(pending))
    for (const pending of overtaken) this.#waiting.delete(pending)
    this.#waiting = new Set([...this.#waiting].sort((a, b) => a.number - b.number))
    this.#unsorted = false
    this.#stored.clear()
    return overtaken
  }

  #isOvertaken ({ trace, tried, number }: Pending): boolean {
    return trace !== undefined && !tried && number < (this.#stored.get(trace.channel) ?? number)
  }

  clear (): void {
    this.#waiting.clear()
  }
}
