/**
 * A place in a log: between what was taken and what comes next. The log may move past it, or not have come so far yet. Pure:
 * it looks things up in the log, and changes nothing there.
 */
import { compareEntryIds } from '../entry-id.ts'
import type { EntryLog } from '../entry-log.ts'

export class Place {
  /** Everything up to here was taken. */
  position = ''
  /** The same as an index of the log: of what comes next. -1: before the log. */
  index = -1
  /** It was read back what the log is still to be given, and must not be taken twice. */
  isAhead = false

  moveTo (position: string, log: EntryLog<{ readonly id: string }>): void {
    this.position = position
    this.index = compareEntryIds(position, log.base) < 0 ? -1 : log.firstAfter(position)
    this.isAhead = compareEntryIds(position, log.tail) > 0
  }

  /** Past what comes next in the log. */
  moveBy (events: readonly { readonly id: string }[]): void {
    this.index += events.length
    this.position = events.at(-1)!.id
  }
}
