/** A published event becomes the message that a broker keeps, and a message the event that a reader is given. */
import type { Message } from '../broker.ts'
import { serializeEvent } from '../encoder.ts'
import { InvalidEvent } from '../errors.ts'
import type { Payloads } from '../payload.ts'

/** The type of the event that tells of a gap: a channel's own. */
export const GAP = 'gap'

/** An event as `for await` over a subscription yields it, and as `filter` and `key` see it: what a client would see. */
export interface ReceivedEvent {
  /** The event type; 'message' where it was published without one. */
  readonly event: string
  /** What the JSON says. */
  readonly data?: unknown
  /** Text that was published as it is. */
  readonly raw?: string
  /** The position after this event, to resume from. Events of a snapshot, and of a gap, have none. */
  readonly id?: string
}

/**
 * @param payloads of the channel's `events`; undefined where any event may be published
 * @throws {InvalidEvent}
 */
export function toMessage (value: unknown, payloads: Payloads | undefined): Message {
  const { fields, text, raw } = serializeEvent(value, payloads)
  if (fields.id !== undefined) throw new InvalidEvent("it has an 'id', which a channel gives by itself")
  if (fields.event === GAP) throw new InvalidEvent(`the event type '${GAP}' is the channel's own`)
  if (text === undefined) throw new InvalidEvent("it has neither 'data' nor 'raw', so no client would see it")
  const message: Message = raw ? { event: fields.event, raw: text } : { event: fields.event, data: text }
  if (fields.retry !== undefined) message.retry = fields.retry
  if (fields.comment !== undefined) message.comment = fields.comment
  return message
}

/** A new object each time: whoever gets it may change it. */
export function toReceived ({ event, data, raw }: Message, id: string): ReceivedEvent {
  return {
    event: event === '' ? 'message' : event,
    ...(raw === undefined ? { data: JSON.parse(data ?? 'null') } : { raw }),
    ...(id !== '' && { id })
  }
}
