/**
 * One after the other, for each channel: on a cluster what is sent together may be carried out in another order when a node
 * comes back, as each command finds its own way there.
 */
import { BrokerUnavailable } from '../../errors.ts'

export class Turns {
  readonly #timeout: number
  /** What was asked for last, by channel. */
  readonly #last = new Map<string, Promise<unknown>>()

  /** @param timeout milliseconds that a task may wait for its turn */
  constructor (timeout: number) {
    this.#timeout = timeout
  }

  /**
   * @param task is given for how many milliseconds it has waited
   * @throws (rejects) {BrokerUnavailable} and what the task rejects with
   */
  async take<Result> (channel: string, task: (waited: number) => Promise<Result>): Promise<Result> {
    const turn = this.#after(this.#last.get(channel), task)
    this.#last.set(channel, turn)
    try {
      return await turn
    } finally {
      if (this.#last.get(channel) === turn) this.#last.delete(channel)
    }
  }

  async #after<Result> (before: Promise<unknown> | undefined, task: (waited: number) => Promise<Result>): Promise<Result> {
    const since = performance.now()
    await before?.catch(() => {})
    const waited = performance.now() - since
    if (waited >= this.#timeout) throw new BrokerUnavailable('what was before it took too long')
    return task(waited)
  }
}
