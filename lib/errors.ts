/**
 * The closed list of what can go wrong, each with its code and its HTTP status. A code is part of the public contract;
 * a message is for people and may change.
 */
// By name, and with the type that its results have: the default import means different things to different resolvers.
import { createError, type FastifyErrorConstructor } from '@fastify/error'

/** The class of an error of this plugin. Its code is one of `SseErrorCode`. */
type SseError = FastifyErrorConstructor<{ code: string }, unknown[]>

/** An event breaks a rule of the HTML spec or of its schema. No byte of it was sent. */
export const InvalidEvent: SseError = createError('FST_SSE_INVALID_EVENT', 'Invalid event: %s', 500)

/** `reply.sse` was given something that is not a source of events. */
export const InvalidSource: SseError = createError('FST_SSE_INVALID_SOURCE', 'Invalid source of events: %s', 500, TypeError)

/** An option is unknown or has a value it cannot have. Thrown at registration, or by the call that was given it. */
export const InvalidOption: SseError = createError('FST_SSE_INVALID_OPTION', 'Invalid option: %s', 500, TypeError)

/** A schema of `schema.events` cannot be compiled. Thrown at start-up. */
export const InvalidSchema: SseError = createError('FST_SSE_INVALID_SCHEMA', 'Invalid schema.events of %s: %s', 500)

/** The last event ID is one that no server could have sent. Answered with 400. */
export const InvalidLastEventId: SseError = createError(
  'FST_SSE_INVALID_LAST_EVENT_ID', 'Invalid last event ID: %s', 400)

/** `reply.sse` was called on a reply that is already being answered. */
export const AlreadySent: SseError = createError('FST_SSE_ALREADY_SENT', 'reply.sse: %s', 500)

/** The plugin was registered where it is there already, or another plugin has taken its decorators. */
export const AlreadyRegistered: SseError = createError(
  'FST_SSE_ALREADY_REGISTERED',
  "'%s' is decorated already: register fastify-typed-sse once, and no other plugin that decorates reply.sse", 500)

/** The server is closing and takes no new event streams. Answered with 503, or softly to an EventSource. */
export const ShuttingDown: SseError = createError('FST_SSE_SHUTTING_DOWN', 'The server is closing', 503)

/** All streams that the server may have are open (`maxConnections`). Answered with 503, or softly to an EventSource. */
export const TooManyConnections: SseError = createError(
  'FST_SSE_TOO_MANY_CONNECTIONS', 'The server has no room for another event stream', 503)

/** All streams that one client may have are open (`maxConnectionsPerClient`). Answered with 429, or softly to an EventSource. */
export const TooManyConnectionsPerClient: SseError = createError(
  'FST_SSE_TOO_MANY_CONNECTIONS_PER_CLIENT', 'This client has too many event streams open', 429)

/** A channel was published to after it was closed. Nothing was stored. */
export const ChannelClosed: SseError = createError('FST_SSE_CHANNEL_CLOSED', "Channel '%s' is closed and takes no more events", 500)

/** A reader fell so far behind that the channel no longer has what comes next for it. */
export const Lagged: SseError = createError(
  'FST_SSE_LAGGED', "This reader of channel '%s' has fallen behind its history: it can resume from what it received last", 500)

/** Nobody has started a run of this key, or it was forgotten after its end. */
export const UnknownRun: SseError = createError('FST_SSE_UNKNOWN_RUN', 'There is no run of this key', 404)

/** A run's process was held up for longer than its lease, and others have ended the run meanwhile. */
export const RunLost: SseError = createError(
  'FST_SSE_RUN_LOST', "Run '%s' was ended by others, as this process has not renewed its lease of %d ms in time", 500)

/** The engine of a broker is out of reach, or refuses. Nothing was stored. Answered with 503, or softly to an EventSource. */
export const BrokerUnavailable: SseError = createError('FST_SSE_BROKER_UNAVAILABLE', 'The broker cannot do this now: %s', 503)

/** The connection to the engine broke before it had answered. What was to be stored may be, or not. */
export const OutcomeUnknown: SseError = createError('FST_SSE_OUTCOME_UNKNOWN', 'The broker has not answered: %s', 503)

/** The ID of a stream of so many channels could not be sent back by its client. */
export const TooManyChannels: SseError = createError(
  'FST_SSE_TOO_MANY_CHANNELS', 'A stream takes %d channels at the most, as its ID has to fit into 1,024 bytes; got %d', 500)

/** Every code that this plugin's errors can have. */
export type SseErrorCode =
  | 'FST_SSE_INVALID_EVENT'
  | 'FST_SSE_INVALID_SOURCE'
  | 'FST_SSE_INVALID_OPTION'
  | 'FST_SSE_INVALID_SCHEMA'
  | 'FST_SSE_INVALID_LAST_EVENT_ID'
  | 'FST_SSE_ALREADY_SENT'
  | 'FST_SSE_ALREADY_REGISTERED'
  | 'FST_SSE_SHUTTING_DOWN'
  | 'FST_SSE_TOO_MANY_CONNECTIONS'
  | 'FST_SSE_TOO_MANY_CONNECTIONS_PER_CLIENT'
  | 'FST_SSE_CHANNEL_CLOSED'
  | 'FST_SSE_LAGGED'
  | 'FST_SSE_UNKNOWN_RUN'
  | 'FST_SSE_RUN_LOST'
  | 'FST_SSE_BROKER_UNAVAILABLE'
  | 'FST_SSE_OUTCOME_UNKNOWN'
  | 'FST_SSE_TOO_MANY_CHANNELS'
