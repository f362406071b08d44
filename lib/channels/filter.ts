/** What a reader wants of what there is. */
import { atOnce } from '../source.ts'
import type { FramedEvent } from './framed-event.ts'
import type { ReceivedEvent } from './message.ts'
import { Batch } from './reading.ts'

export type Filter = (event: ReceivedEvent) => unknown

/** @throws {TypeError} where the filter gives a promise, which would be true whatever it settles with; and what it throws */
export function passes (filter: Filter | undefined, event: FramedEvent): boolean {
  return filter === undefined || Boolean(answerOf(filter, event, 'filter'))
}

/** Those of some events that a reader wants, if any. */
export function wantedOf (events: readonly FramedEvent[], filter: Filter | undefined): Batch[] {
  const wanted = events.filter((event) => passes(filter, event))
  return wanted.length > 0 ? [new Batch(wanted)] : []
}

/** What a function of the application says of an event, at once. */
export function answerOf (ask: Filter, event: FramedEvent, name: string): unknown {
  return atOnce(ask(event.seen), `${name} must answer at once: it has given a promise`)
}
