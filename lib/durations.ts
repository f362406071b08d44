/** Lengths of time of which each connection can have its own, so that not all come at once. */
import { LONGEST_TIMER } from './timeouts.ts'

/** Milliseconds, or a range from which each connection draws its own, both ends included: integers up to 2,147,483,647. */
export type Duration = number | { min: number, max: number }

/** One length of time: of a range a random one, both ends included. */
export function draw (duration: Duration): number {
  if (typeof duration === 'number') return duration
  return duration.min + Math.floor(Math.random() * (duration.max - duration.min + 1))
}

/** When clients that are sent away come back, where no `retry` says otherwise. */
const RETURN: Duration = { min: 1_000, max: 5_000 }

/** Milliseconds over which they are spread at the least. */
const SPREAD = 1_000

/** When a client that is sent away comes back: by its stream's `retry`, but never together with all others. */
export function drawReturn (retry: Duration | undefined): number {
  if (typeof retry !== 'number') return draw(retry ?? RETURN)
  return draw({ min: retry, max: Math.min(retry + Math.max(retry, SPREAD), LONGEST_TIMER) })
}
