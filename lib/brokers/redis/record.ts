/** A message as Redis has it, and what Redis has as a message: checked as any other input is. */
import type { Entry, Message, Page } from '../../broker.ts'
import { BEGINNING, isEntryId } from '../../entry-id.ts'
import { checkEvent, checkRaw, type SseEvent } from '../../event.ts'

/** What is stored of a message: everything but its text in one field, and the text. */
export interface Record {
  header: string
  text: string
}

/** What the text is. */
const DATA = 'd'
const RAW = 'r'

/** What was read of a log. */
export interface Stored {
  readonly id: string
  /** The entry before it. */
  readonly previous: string
  /** `undefined`: it is the end, or damaged. */
  readonly entry: Entry | undefined
  readonly isEnd: boolean
}

/** @param token by which this one is known again, in case that its answer is lost */
export function toRecord ({ event, data, raw, retry, comment }: Message, token: string): Record {
  const header: unknown[] = [token, raw === undefined ? DATA : RAW, event]
  if (retry !== undefined || comment !== undefined) header.push(retry, comment)
  return { header: JSON.stringify(header), text: raw ?? data ?? '' }
}

/** @returns undefined where it is none of ours */
export function parseStored (value: unknown): Stored | undefined {
  if (!Array.isArray(value) || typeof value[0] !== 'string' || !Array.isArray(value[1])) return undefined
  const id = value[0]
  const { length } = value[1]
  const [p, previous, kind, , h, header, t, text] = value[1]
  const isEnd = kind === 'end' && length === 4
  if (p !== 'p' || !(isEnd || length === 8) || typeof previous !== 'string' || !isEntryId(previous)) return undefined
  const message = h === 'h' && t === 't' ? toMessage(header, text) : undefined
  return { id, previous, entry: message && { id, message }, isEnd }
}

/** Entries that are whole and in a chain, from the first on; what is damaged at the start is as good as gone. */
export function toPage (after: string, complete: boolean, page: readonly unknown[]): Page {
  const entries: Entry[] = []
  let position = after
  for (const value of page) {
    const stored = parseStored(value)
    const isNext = stored?.previous === position || position === BEGINNING
    if (entries.length > 0 && (!isNext || stored?.entry === undefined)) break
    complete &&= isNext && stored?.entry !== undefined
    if (stored === undefined) continue
    if (!isNext) after = stored.previous
    position = stored.id
    if (stored.entry === undefined) after = stored.id
    else entries.push(stored.entry)
  }
  return { after, entries, complete }
}

/** @returns undefined where it is damaged */
function toMessage (header: unknown, text: unknown): Message | undefined {
  try {
    const [, kind, event, ...rest]: unknown[] = JSON.parse(header as string)
    const [retry, comment] = rest.map((value) => value ?? undefined)
    const fields = checkEvent({ event, raw: checkRaw(text), retry, comment } as SseEvent)
    if (kind !== RAW && kind !== DATA) return undefined
    if (kind === DATA) JSON.parse(text as string)
    const message: Message = { event: fields.event, [kind === RAW ? 'raw' : 'data']: text }
    if (fields.retry !== undefined) message.retry = fields.retry
    if (fields.comment !== undefined) message.comment = fields.comment
    return message
  } catch {
    return undefined
  }
}
