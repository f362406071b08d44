/**
 * For browsers, and for Node where it is the client. Depends on nothing.
 * @module fastify-typed-sse/client
 */
export type {
  Check, ClientEvent, ClientEventOfType, DeclaredEvent, EventIterator, EventSourceLike, Received, ReceivedGap
} from './events.ts'
export { SseError } from './error.ts'
export { fetchEvents, type FetchEventsOptions } from './fetch-events.ts'
export { typedEventSource, type TypedEventSource, type TypedEventSourceOptions } from './typed-event-source.ts'
