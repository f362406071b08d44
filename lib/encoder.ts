/** A value that a source has yielded becomes the text of its block: checked, serialised, framed; or refused whole. */
import { FINISHED_ID } from './client/finished-id.ts'
import { describeData, reasonOf } from './describe.ts'
import { checkEvent, checkRaw, wireType, type Fields, type SseEvent } from './event.ts'
import { InvalidEvent } from './errors.ts'
import { frame } from './frame.ts'
import type { Payload, Payloads } from './payload.ts'
import { isThenable } from './source.ts'

/**
 * @param payloads of the route's `schema.events`; undefined where any event may be sent
 * @throws {InvalidEvent} and then nothing of the event is sent
 */
export function encodeEvent (value: unknown, payloads: Payloads | undefined): string {
  const { fields, text, raw } = serializeEvent(value, payloads)
  return frame(fields, text, !raw)
}

/** An event before it is framed. */
export interface Serialized {
  fields: Fields
  /** Its data as it goes out; undefined where it has none. */
  text: string | undefined
  /** Whether the text is sent as it was given, rather than JSON. */
  raw: boolean
}

/** @throws {InvalidEvent} */
export function serializeEvent (value: unknown, payloads: Payloads | undefined): Serialized {
  const event = asEvent(value)
  const fields = checkEvent(event, payloads)
  // Its clients would be turned away for good when they come back.
  if (fields.id === FINISHED_ID) throw new InvalidEvent(`'id' is '${FINISHED_ID}', by which a finite stream ends: choose another`)
  // Read once: a getter may give something else each time, and how the text is framed depends on which of them it is.
  const { event: type, data, raw } = event
  const isRaw = raw !== undefined
  // Without type and data it is no event, only an ID, a reconnection time or a comment.
  if (type === undefined && data === undefined && !isRaw) return { fields, text: undefined, raw: isRaw }
  const payload = payloads === undefined ? undefined : declared(payloads, fields.event)
  return { fields, text: isRaw ? rawText(raw, payload) : jsonOf(data, payload), raw: isRaw }
}

/**
 * An event that goes before those of a stream's source.
 * @throws {InvalidEvent}
 */
export function encodeFirstEvent (value: unknown, payloads: Payloads | undefined): string {
  const { fields, text, raw } = serializeEvent(value, payloads)
  if (fields.id !== undefined) throw new InvalidEvent("an event that is sent 'first' cannot have an 'id'")
  return frame(fields, text, !raw)
}

/**
 * The last event of a stream, after a failure. It is the application's farewell rather than its source's event, and one
 * `onError` may serve many routes: its data is checked where the route declares its event type, else sent as it is.
 */
export function encodeLastEvent (value: unknown, payloads: Payloads | undefined): string {
  const { event = '' } = asEvent(value)
  return encodeEvent(value, payloads?.has(wireType(event)) ? payloads : undefined)
}

/** A bare string is text that is sent as it is. */
function asEvent (value: unknown): SseEvent {
  return typeof value === 'string' ? { raw: value } : value as SseEvent
}

function declared (payloads: Payloads, type: string): Payload {
  const payload = payloads.get(type)
  if (payload === undefined) {
    const names = [...payloads.keys()].map((name) => `'${name || 'message'}'`).join(', ')
    const wanted = type === '' ? "'message' (an event without 'event')" : `'${type.slice(0, 40)}'`
    throw new InvalidEvent(`'events' has no type ${wanted}: declare it there${names && `, or send one of ${names}`}`)
  }
  return payload
}

function rawText (value: unknown, payload: Payload | undefined): string {
  const raw = checkRaw(value)
  payload?.checkRaw(raw)
  return raw
}

function jsonOf (data: unknown, payload: Payload | undefined): string | undefined {
  if (payload !== undefined) return payload.serialize(data)
  return data === undefined ? undefined : stringify(data)
}

function stringify (data: unknown): string {
  let text: string | undefined
  try {
    text = JSON.stringify(data)
  } catch (error) {
    throw new InvalidEvent(`its data cannot be serialised as JSON (${reasonOf(error)})`)
  }
  if (text === undefined) throw new InvalidEvent(`${describeData(data)} has no JSON to be sent as data`)
  if (text === '{}' && isThenable(data)) throw new InvalidEvent('its data is a promise: await it first')
  return text
}
