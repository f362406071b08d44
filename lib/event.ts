/**
 * The event of the HTML spec (https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2), as a
 * handler yields it, and the rules that its fields must keep. Pure: nothing here knows schemas, bytes or sockets.
 *
 * The rules hold back what would change its meaning on the way: a line end inside a field would end that field and
 * begin another (CWE-93), a NUL in an ID makes a client ignore it, and UTF-8 cannot carry a lone surrogate.
 */
import { describe } from './describe.ts'
import { InvalidEvent } from './errors.ts'

/** What every event may have beside its data. */
export interface EventEnvelope {
  /**
   * The event ID: the client's last event ID from here on, sent back when it reconnects. No CR, LF or NUL.
   * `''` resets the client's last event ID.
   */
  id?: string | number | bigint | undefined
  /** The client's reconnection time from here on: milliseconds, an integer >= 0. Not there: as before. */
  retry?: number | undefined
  /** A comment, which clients ignore. Its lines (CR, LF, CRLF) become one comment each. */
  comment?: string | undefined
}

/**
 * An event that any route may yield, with the fields of the HTML spec (section 9.2.6). At least one must be there. `data` is
 * any JSON value, and sent as JSON; or else `raw` is text, and sent as it is. An event that breaks a rule is
 * FST_SSE_INVALID_EVENT, and nothing of it is sent.
 */
export type SseEvent = EventEnvelope & {
  /** The event type, for `addEventListener(type)`; absent, `''` and `'message'` all reach `onmessage`. No CR or LF. */
  event?: string | undefined
} & (
  | {
    /** Any JSON value; sent as JSON, so that a string arrives in quotes. */
    data?: unknown
    /** Instead of `data`. */
    raw?: undefined
  }
  | {
    /** Instead of `raw`. */
    data?: undefined
    /** Text sent as it is, one `data` line for each of its lines. */
    raw: string
  }
)

/** An event's fields, checked and in their wire form. `raw` and `data` are left to whoever knows the schemas. */
export interface Fields {
  event: string
  id: string | undefined
  retry: number | undefined
  comment: string | undefined
}

const FIELDS = ['event', 'data', 'raw', 'id', 'retry', 'comment']

/** The same for those who have looked for another. */
const THE_FIELDS = 'event (its type), data (sent as JSON), raw (sent as it is), id, retry, comment'

/**
 * Checks all that can be checked without a schema.
 * @param known event types that were checked before
 * @throws {InvalidEvent} naming the field and the reason
 */
export function checkEvent (event: SseEvent, known?: ReadonlyMap<string, unknown>): Fields {
  if (typeof event !== 'object' || event === null) {
    throw new InvalidEvent(`expected an object such as { data: … } or a string, got ${describe(event)}`)
  }
  if (ArrayBuffer.isView(event)) {
    throw new InvalidEvent('got bytes: yield { raw: text }, or set an encoding on the stream that they come from')
  }
  for (const field in event) if (!FIELDS.includes(field)) throw unknownField(event, field)
  const { event: type, data, raw, id, retry, comment } = event
  if (data === undefined && raw === undefined && isEmpty(event)) {
    throw new InvalidEvent(`it is empty: give it one of ${THE_FIELDS}, that is not undefined; got ${describe(event)}`)
  }
  if (data !== undefined && raw !== undefined) {
    throw new InvalidEvent("it has both 'data' and 'raw': data is sent as JSON, raw as it is, so choose one")
  }
  return {
    event: type === undefined ? '' : known?.has(type) === true ? type : checkEventType(type),
    id: id === undefined ? undefined : checkId(id),
    retry: retry === undefined ? undefined : checkRetry(retry),
    comment: comment === undefined ? undefined : checkComment(comment)
  }
}

function isEmpty ({ event, id, retry, comment }: SseEvent): boolean {
  return event === undefined && id === undefined && retry === undefined && comment === undefined
}

/**
 * As which event type the wire has it.
 * @throws {InvalidEvent}
 */
export function checkEventType (event: unknown): string {
  if (typeof event !== 'string') throw wrongField('event', 'a string', event)
  if (/[\r\n]/.test(event)) throw new InvalidEvent("'event' has a line end (CR or LF)")
  if (!event.isWellFormed()) throw loneSurrogate('event')
  return wireType(event)
}

/** As which event type the wire has it: none, where clients take it for 'message' anyway. */
export function wireType (event: string): string {
  return event === 'message' ? '' : event
}

function checkId (id: unknown): string {
  if (typeof id === 'bigint' || (typeof id === 'number' && Number.isFinite(id))) return String(id)
  if (typeof id !== 'string') throw wrongField('id', 'a string, a finite number or a bigint', id)
  // "If the field value does not contain U+0000 NULL, then set the last event ID buffer": else it is ignored.
  if (/[\r\n\0]/.test(id)) throw new InvalidEvent("'id' has a line end (CR or LF) or a NUL")
  if (!id.isWellFormed()) throw loneSurrogate('id')
  return id
}

function checkRetry (retry: unknown): number {
  // "If the field value consists of only ASCII digits": no sign, no point, no exponent.
  if (!Number.isSafeInteger(retry) || (retry as number) < 0) throw wrongField('retry', 'an integer >= 0 (ms)', retry)
  return retry as number
}

function checkComment (comment: unknown): string {
  if (typeof comment !== 'string') throw wrongField('comment', 'a string', comment)
  return comment
}

/** `raw` text, which must be a string that UTF-8 can carry. */
export function checkRaw (raw: unknown): string {
  if (typeof raw !== 'string') throw wrongField('raw', 'a string', raw)
  if (!raw.isWellFormed()) throw loneSurrogate('raw')
  return raw
}

function wrongField (field: string, expected: string, value: unknown) {
  return new InvalidEvent(`'${field}' must be ${expected}, got ${describe(value)}`)
}

function unknownField (event: object, field: string) {
  if (Array.isArray(event)) {
    return new InvalidEvent(`got ${describe(event)}: yield its events one by one (yield * array), or all of it as one, { data: array }`)
  }
  const name = JSON.stringify(field.slice(0, 40)).slice(1, -1)
  return new InvalidEvent(`it has an unknown field '${name}': its fields are ${THE_FIELDS}`)
}

function loneSurrogate (field: string) {
  return new InvalidEvent(`'${field}' has a lone surrogate, which UTF-8 cannot carry (see String.prototype.toWellFormed)`)
}
