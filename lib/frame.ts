/**
 * Checked fields become the text of one block of the event stream (HTML spec, section 9.2.5, "parsing an event
 * stream"), which is sent as UTF-8. Pure: whatever comes in here has been checked by `event.ts`.
 *
 * A block is `id`, `event`, `retry`, comments, `data`, in this order, each line ended by LF, and an empty line.
 */
import type { Fields } from './event.ts'

/** A comment without text: "comment lines can be used to prevent connections from timing out" (section 9.2.7). */
export const KEEP_ALIVE = ':\n\n'

/**
 * The block of an event.
 * @param text the data as it goes out; without it clients dispatch nothing
 * @param isOneLine the text is known to have no line end, as what JSON.stringify gives
 */
export function frame (fields: Fields, text: string | undefined, isOneLine = false): string {
  let block = ''
  if (fields.id !== undefined) block += `id: ${fields.id}\n`
  if (fields.event !== '') block += `event: ${fields.event}\n`
  if (fields.retry !== undefined) block += `retry: ${fields.retry}\n`
  if (fields.comment !== undefined) block += lines(': ', fields.comment)
  if (text === undefined) return block + '\n'
  return isOneLine ? `${block}data: ${text}\n\n` : block + lines('data: ', text) + '\n'
}

/** A block that carries an ID alone: remembered by a client as its last event ID, never dispatched. */
export function idFrame (id: string): string {
  return `id: ${id}\n\n`
}

/** A block that sets the client's reconnection time, in milliseconds. */
export function retryFrame (ms: number): string {
  return retryLine(ms) + '\n'
}

/** The same where no ID was sent yet: the empty line that ends a block would take the client's last event ID away. */
export function retryLine (ms: number): string {
  return `retry: ${ms}\n`
}

/** One line for each line of the text: lines end with CRLF, CR or LF, and a client joins `data` lines with LF. */
function lines (prefix: string, text: string): string {
  // Most data is JSON of one line; two searches cost less than one regular expression.
  if (text.indexOf('\n') === -1 && text.indexOf('\r') === -1) return prefix + text + '\n'
  return prefix + text.replace(/\r\n|\r|\n/g, '\n' + prefix) + '\n'
}
