/** Text from the wire becomes the event that an application is given, or an error in its place. */
import type { Check, Received } from './events.ts'
import { SseError } from './error.ts'

/**
 * @param id the last event ID; '': none
 * @param check is not asked about a `gap`, which is the channel's own
 * @throws SSE_INVALID_DATA, and what `check` throws
 */
export function receive (
  type: string, text: string, id: string | undefined, check: Check<undefined> | undefined
): Received<string, unknown> {
  const event = { event: type, data: parse(text), text, id: id || undefined }
  if (check === undefined || type === 'gap' || check(event)) return event
  throw new SseError('SSE_INVALID_DATA', `an event '${type}' has data that were found wrong`, { event })
}

/** Whether events of this type only carry an ID, for clients that forget one which comes alone (see id-alone.ts). */
export function isInternal (type: string): boolean {
  return type.startsWith('fastify-typed-sse:')
}

function parse (text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
