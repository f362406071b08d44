/** Iteration that can be ended from outside, at once, also while its `next()` waits. */
import type { EventIterator } from './events.ts'

/**
 * @param outer aborts it, and then `next()` rejects with its reason
 * @param iterate is called now. Its generator gives up what it waits for when the controller aborts
 * @returns read once. `return()` aborts, and who waits is told of the end: a generator by itself would hear of its
 *   `return()` only when it has stopped waiting
 */
export function abortable<Events> (
  outer: AbortSignal | null | undefined, iterate: (controller: AbortController) => AsyncGenerator<any, undefined>
): EventIterator<Events> {
  const controller = new AbortController()
  const abort = () => controller.abort(outer?.reason)
  const forget = () => outer?.removeEventListener('abort', abort)
  if (outer?.aborted) abort()
  outer?.addEventListener('abort', abort)
  let returned = false
  const events = run(iterate(controller), outer, () => returned, forget)
  return {
    next: () => events.next(),
    return () {
      returned = true
      forget()
      controller.abort()
      return events.return(undefined)
    },
    [Symbol.asyncIterator] () {
      return this
    }
  }
}

async function * run (
  events: AsyncGenerator<any, undefined>, outer: AbortSignal | null | undefined, isReturned: () => boolean, onEnd: () => void
): AsyncGenerator<any, undefined> {
  try {
    yield * events
  } catch (error) {
    if (!isReturned()) throw outer?.aborted ? outer.reason : error
  } finally {
    onEnd()
  }
}
