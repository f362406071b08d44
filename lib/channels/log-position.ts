/**
 * A position in a log, as an ID and as an index: between what was taken and what comes next. The log may move past it, or not
 * have come so far yet. Pure: it looks things up in the log, and changes nothing there.
 */
import { compareEntryIds } from '../entry-id.ts'
import type { EntryLog } from '../entry-log.ts'

export class LogPosition {
  /** Everything up to here was taken. */
  id = ''
  /** Of what comes next. -1: before the log. */
  index = -1
  /** It was read back what the log is still to be given, and must not be taken twice. */
  isAhead = false

  moveTo (id: string, log: EntryLog<{ readonly id: string }>): void {
    this.id = id
    this.index = compareEntryIds(id, log.base) < 0 ? -1 : log.firstAfter(id)
    this.isAhead = compareEntryIds(id, log.tail) > 0
  }

  /** Past what comes next in the log. */
  moveBy (events: readonly { readonly id: string }[]): void {
    this.index += events.length
    this.id = events.at(-1)!.id
  }
}
