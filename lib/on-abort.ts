/** Many may wait for one AbortSignal: each signal has one listener, as Node warns of a leak where it has more than ten. */
const waiting = new WeakMap<AbortSignal, Set<() => void>>()

/**
 * Calls back when the signal aborts; at once, where it has.
 * @returns to wait no longer
 */
export function onAbort (signal: AbortSignal | undefined, callback: () => void): () => void {
  if (signal === undefined) return noop
  if (signal.aborted) {
    callback()
    return noop
  }
  const callbacks = waiting.get(signal) ?? listen(signal)
  callbacks.add(callback)
  return () => { callbacks.delete(callback) }
}

function listen (signal: AbortSignal): Set<() => void> {
  const callbacks = new Set<() => void>()
  waiting.set(signal, callbacks)
  signal.addEventListener('abort', () => {
    waiting.delete(signal)
    for (const callback of callbacks) callback()
  }, { once: true })
  return callbacks
}

function noop () {}
