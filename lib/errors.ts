/**
 * The closed list of what can go wrong, each with its code and its HTTP status. A code is part of the public contract;
 * a message is for people and may change. When each of them comes is said at its code, below.
 */
// By name, and with the type that its results have: the default import means different things to different resolvers.
import { createError, type FastifyErrorConstructor } from '@fastify/error'

/** The class of an error of this plugin. Its code is one of `SseErrorCode`. */
type SseError = FastifyErrorConstructor<{ code: string }, unknown[]>

export const InvalidEvent: SseError = createError('FST_SSE_INVALID_EVENT', 'Invalid event: %s', 500)

export const InvalidSource: SseError = createError('FST_SSE_INVALID_SOURCE', 'Invalid source of events: %s', 500, TypeError)

export const InvalidOption: SseError = createError('FST_SSE_INVALID_OPTION', 'Invalid option: %s', 500, TypeError)

export const InvalidSchema: SseError = createError('FST_SSE_INVALID_SCHEMA', 'Invalid %s: %s', 500)

export const InvalidLastEventId: SseError = createError(
  'FST_SSE_INVALID_LAST_EVENT_ID', 'Invalid last event ID: %s', 400)

export const AlreadySent: SseError = createError('FST_SSE_ALREADY_SENT', 'reply.sse: %s', 500)

export const AlreadyRegistered: SseError = createError(
  'FST_SSE_ALREADY_REGISTERED',
  "'%s' is decorated already: register fastify-typed-sse once, and no other plugin that decorates reply.sse", 500)

export const ShuttingDown: SseError = createError('FST_SSE_SHUTTING_DOWN', 'The server is closing', 503)

export const TooManyConnections: SseError = createError(
  'FST_SSE_TOO_MANY_CONNECTIONS', 'The server has no room for another event stream', 503)

export const TooManyConnectionsPerClient: SseError = createError(
  'FST_SSE_TOO_MANY_CONNECTIONS_PER_CLIENT', 'This client has too many event streams open', 429)

export const ChannelClosed: SseError = createError('FST_SSE_CHANNEL_CLOSED', "Channel '%s' is closed and takes no more events", 500)

export const Lagged: SseError = createError(
  'FST_SSE_LAGGED', "This reader of channel '%s' has fallen behind its history: it can resume from what it received last", 500)

export const UnknownRun: SseError = createError('FST_SSE_UNKNOWN_RUN', 'There is no run of this key', 404)

export const RunLost: SseError = createError(
  'FST_SSE_RUN_LOST', "Run '%s' is no longer this process's: it was ended, or begun anew, by others, or forgotten; its lease is %d ms", 500)

export const BrokerUnavailable: SseError = createError('FST_SSE_BROKER_UNAVAILABLE', 'The broker cannot do this now: %s', 503)

export const OutcomeUnknown: SseError = createError('FST_SSE_OUTCOME_UNKNOWN', 'The broker has not answered: %s', 503)

export const TooManyChannels: SseError = createError(
  'FST_SSE_TOO_MANY_CHANNELS', 'A stream takes %d channels at the most, as its ID has to fit into 1,024 bytes; got %d', 500)

/**
 * Every code that this plugin's errors can have, each with its HTTP status. "Softly to an EventSource": a GET request that
 * accepts text/event-stream explicitly is answered with 200, a reconnection time and the end, as an EventSource would give up
 * for good on anything else (HTML spec, section 9.2.3); others get the status, and `retry-after` (RFC 9110, section 10.2.3).
 */
export type SseErrorCode =
  /** 500. An event breaks a rule of the HTML spec (section 9.2) or of its schema. No byte of it was sent. */
  | 'FST_SSE_INVALID_EVENT'
  /** 500. `reply.sse` was given something that is not a source of events. */
  | 'FST_SSE_INVALID_SOURCE'
  /** 500. An option is unknown or has a value it cannot have. Thrown at registration, or by the call that was given it. */
  | 'FST_SSE_INVALID_OPTION'
  /** 500. A schema of `schema.events` cannot be compiled, or stands where it would not be seen. Thrown at start-up. */
  | 'FST_SSE_INVALID_SCHEMA'
  /** 400. The last event ID is one that no server could have sent: with a NUL, a line end, or more than 1,024 bytes. */
  | 'FST_SSE_INVALID_LAST_EVENT_ID'
  /** 500. `reply.sse` was called on a reply that is already being answered, or whose handler had ended. */
  | 'FST_SSE_ALREADY_SENT'
  /** 500. The plugin was registered where it is there already, or another plugin has taken its decorators. */
  | 'FST_SSE_ALREADY_REGISTERED'
  /** 503, or softly to an EventSource. The server is closing and takes no new event streams. */
  | 'FST_SSE_SHUTTING_DOWN'
  /** 503, or softly to an EventSource. All streams that the server may have are open (`maxConnections`). */
  | 'FST_SSE_TOO_MANY_CONNECTIONS'
  /** 429, or softly to an EventSource. This client has as many as it may (`maxConnectionsPerClient`). */
  | 'FST_SSE_TOO_MANY_CONNECTIONS_PER_CLIENT'
  /** 500. A channel was published to after it was closed. Nothing was stored. */
  | 'FST_SSE_CHANNEL_CLOSED'
  /** 500. A `for await` reader fell behind what its channel retains (`onLag: 'disconnect'`). It can resume. */
  | 'FST_SSE_LAGGED'
  /** 404. Nobody has started a run of this key, or it was forgotten after its end. */
  | 'FST_SSE_UNKNOWN_RUN'
  /** 500. A run's process was held up for longer than its lease, and others have ended the run meanwhile (in `run.ended`). */
  | 'FST_SSE_RUN_LOST'
  /** 503, or softly to an EventSource. The engine of a broker is out of reach, or refuses. Nothing was stored. */
  | 'FST_SSE_BROKER_UNAVAILABLE'
  /** 503, or softly. The connection to the engine broke before it had answered. What was to be stored may be, or not. */
  | 'FST_SSE_OUTCOME_UNKNOWN'
  /** 500. The ID of a stream of so many channels would be longer than 1,024 bytes, and could not be sent back by its client. */
  | 'FST_SSE_TOO_MANY_CHANNELS'
