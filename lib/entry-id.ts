/**
 * Entry IDs and positions, `<ms>-<seq>` as in Redis Streams: two unsigned 64-bit integers in decimal digits. A position
 * is the place right after the entry with that ID; `0-0` is the place before any entry.
 */

/** Before any entry. */
export const BEGINNING = '0-0'

const ENTRY_ID = /^(0|[1-9]\d{0,19})-(0|[1-9]\d{0,19})$/

const MOST = 2n ** 64n - 1n

/** Whether the text has the form of an entry ID. */
export function isEntryId (text: string): boolean {
  return ENTRY_ID.test(text) && text.split('-').every((digits) => BigInt(digits) <= MOST)
}

/** Less than, equal to or greater than 0, as `a` comes before, is, or comes after `b`. */
export function compareEntryIds (a: string, b: string): number {
  if (a === b) return 0
  const dashOfA = a.indexOf('-')
  const dashOfB = b.indexOf('-')
  return compareDigits(a.slice(0, dashOfA), b.slice(0, dashOfB)) ||
    compareDigits(a.slice(dashOfA + 1), b.slice(dashOfB + 1))
}

/** Decimal digits without leading zeros: the longer number is the larger one. */
function compareDigits (a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length
  return a < b ? -1 : a === b ? 0 : 1
}
