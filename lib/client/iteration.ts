/** Iteration that can be ended from outside, at once, also while its `next()` waits. */
import type { EventIterator } from './events.ts'

/**
 * @param outer aborts it, and then `next()` rejects with its reason
 * @param iterate is called now. Its generator gives up what it waits for when the signal aborts
 * @returns read once. `return()` aborts, and who waits is told of the end: a generator by itself would hear of its
 *   `return()` only when it has stopped waiting
 */
export function abortable<Events> (
  outer: AbortSignal | null | undefined, iterate: (signal: AbortSignal, abort: () => void) => AsyncGenerator<any, undefined>
): EventIterator<Events> {
  const controller = new AbortController()
  const abort = () => controller.abort()
  const signal = outer ? AbortSignal.any([outer, controller.signal]) : controller.signal
  let returned = false
  const events = run(iterate(signal, abort), outer, () => returned)
  return {
    next: () => events.next(),
    return () {
      returned = true
      abort()
      return events.return(undefined)
    },
    [Symbol.asyncIterator] () {
      return this
    }
  }
}

async function * run (
  events: AsyncGenerator<any, undefined>, outer: AbortSignal | null | undefined, isReturned: () => boolean
): AsyncGenerator<any, undefined> {
  try {
    yield * events
  } catch (error) {
    if (!isReturned()) throw outer?.aborted ? outer.reason : error
  }
}
