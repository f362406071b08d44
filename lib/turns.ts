/**
 * Events after which whoever handles them makes way for the event loop. A source that is always ready, read by somebody
 * who is always ready, never waits for anything: every other request would starve.
 */
export const EVENTS_PER_TURN = 128

/** The same of parts of a reading, each of which has many events. */
export const PARTS_PER_TURN = 16

/** Settles in the next turn of the event loop. */
export function nextTurn (): Promise<void> {
  return new Promise((resolve) => { setImmediate(resolve) })
}
