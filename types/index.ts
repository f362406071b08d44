/**
 * What the plugin adds to Fastify's types. Types of schemas are read by their shape (`static`, or the type provider), and
 * no type of TypeBox is named: its ESM and CommonJS builds declare different ones, and either may be the user's.
 */
import type {
  ContextConfigDefault, FastifyBaseLogger, FastifyTypeProvider, FastifyTypeProviderDefault, RawReplyDefaultExpression,
  RawRequestDefaultExpression, RawServerBase, RawServerDefault, RouteGenericInterface
} from 'fastify'
import type { FastifyReplyType, ResolveFastifyReplyType } from 'fastify/types/type-provider.js'
import type { SseConnection } from '../lib/diagnostics.ts'
import type { CallOptions, StreamOptions } from '../lib/options.ts'
import type { SseStats } from '../lib/stats.ts'
import type { SseHub, Subscribable } from './channels.ts'
import type { EventOf, EventSchemas, NoEvent, SseSource } from './events.ts'

/** What the plugin adds to an app. */
export interface SseApp<Provider extends FastifyTypeProvider = FastifyTypeProviderDefault> {
  /** Channels, runs, and what is open. */
  sse: Sse<Provider>
}

/** `app.sse`. */
export interface Sse<Provider extends FastifyTypeProvider = FastifyTypeProviderDefault> extends SseHub<Provider> {
  /** The streams that are open now. */
  readonly connections: Iterable<SseConnection> & { readonly size: number }
  /**
   * The counters of this process, as they are now.
   * @returns a copy, which does not change
   */
  stats (): SseStats
}

/** What the plugin adds to the options of a route. */
export interface SseRoute {
  /** Options of the event streams of this route, over those of the plugin. Default: those of the plugin. */
  sse?: StreamOptions
}

/** What the plugin adds to the schema of a route. */
export interface SseSchema {
  /**
   * Event type to the schema of its data: types, checks and serialises what `reply.sse` sends in this route. The key
   * `message` is the type of events without one. Default: any event may be sent. One that does not compile fails at start-up,
   * with FST_SSE_INVALID_SCHEMA.
   */
  events?: EventSchemas
}

/** What the plugin adds to a request. */
export interface SseRequest {
  /**
   * The client's last event ID, from the `Last-Event-ID` header (HTML spec, section 9.2.4), decoded as UTF-8, else from the
   * query parameter `lastEventId` (or that of the option `lastEventIdQuery`). Undefined where there is none, or none that a
   * server could have sent. It is input: a client may send any.
   */
  readonly lastEventId: string | undefined
}

/** What the plugin adds to a reply: `Schema` is that of the route. */
export interface SseReply<Schema = object, Provider extends FastifyTypeProvider = FastifyTypeProviderDefault> {
  /**
   * Answers with an event stream: the source is pulled as fast as the client reads, and let go of when either ends.
   * @param source an (async) iterable, a Node or web stream of events, or a function that is given
   *   `{ signal, lastEventId }` and returns one; or a channel, a subscription or a run, which is read from the client's
   *   last event ID on
   * @param options for this stream alone. Default: those of its route
   * @returns the reply, to be returned by the handler
   * @throws FST_SSE_INVALID_SOURCE, FST_SSE_INVALID_OPTION, FST_SSE_INVALID_EVENT (of `first`), FST_SSE_ALREADY_SENT,
   *   and what a source function throws. What comes later is answered, or ends the stream: see `SseErrorCode`
   */
  sse (
    source: SseSource<EventOf<Schema, Provider> | NoEvent> | Subscribable<EventOf<Schema, Provider>>,
    options?: CallOptions<EventOf<Schema, Provider>>
  ): this
}

/* eslint-disable @typescript-eslint/no-unused-vars -- an augmentation repeats every type parameter of what it augments */
declare module 'fastify' {
  interface FastifySchema extends SseSchema {}

  interface RouteShorthandOptions<
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
    ContextConfig = ContextConfigDefault,
    SchemaCompiler extends FastifySchema = FastifySchema,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
    Logger extends FastifyBaseLogger = FastifyBaseLogger
  > extends SseRoute {}

  interface FastifyInstance<
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    Logger extends FastifyBaseLogger = FastifyBaseLogger,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault
  > extends SseApp<TypeProvider> {}

  interface FastifyRequest extends SseRequest {}

  interface FastifyReply<
    RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    ContextConfig = ContextConfigDefault,
    SchemaCompiler extends FastifySchema = FastifySchema,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
    ReplyType extends FastifyReplyType = ResolveFastifyReplyType<TypeProvider, SchemaCompiler, RouteGeneric>
  > extends SseReply<SchemaCompiler, TypeProvider> {}
}
