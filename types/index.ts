/**
 * What the plugin adds to Fastify's types. Types of schemas are read by their shape (`static`, or the type provider), and
 * no type of TypeBox is named: its ESM and CommonJS builds declare different ones, and either may be the user's.
 */
import type {
  ContextConfigDefault, FastifyBaseLogger, FastifyTypeProvider, FastifyTypeProviderDefault, RawReplyDefaultExpression,
  RawRequestDefaultExpression, RawServerBase, RawServerDefault, RouteGenericInterface
} from 'fastify'
import type { FastifyReplyType, ResolveFastifyReplyType } from 'fastify/types/type-provider.js'
import type { SseConnection } from '../lib/connection.ts'
import type { EventEnvelope, SseEvent } from '../lib/event.ts'
import type { StreamOptions } from '../lib/options.ts'
import type { SseContext } from '../lib/source.ts'
import type { SseStats } from '../lib/stats.ts'

/** Event type to the schema of its data; `message` is the type of events without one. */
export type EventSchemas = Record<string, object>

/** What data a schema describes: of TypeBox its static type, decoded; else what the type provider makes of it. */
type DataOf<Schema, Provider extends FastifyTypeProvider> =
  Schema extends { static: unknown } ? Decoded<Schema> : (Provider & { schema: Schema })['serializer']

/** The static type with the types that transforms decode to: a Date where the wire has a string. */
type Decoded<Schema> =
  [TransformOf<Schema>] extends [never]
    ? Schema extends { static: infer Data } ? DecodedParts<Schema, Data> : unknown
    : ReturnType<TransformOf<Schema>['Decode']>

/** The same of a schema that is no transform itself, but may have some in it. */
type DecodedParts<Schema, Data> =
  Schema extends { allOf: infer Members extends readonly unknown[] } ? DecodedAll<Members>
    : Schema extends { anyOf: infer Members extends readonly unknown[] } ? Decoded<Members[number]>
      : Schema extends { properties: infer Properties }
        ? { [Key in keyof Data]: Key extends keyof Properties ? Decoded<Properties[Key]> : Data[Key] }
        : Schema extends { patternProperties: Record<string, infer Value> } ? { [Key in keyof Data]: Decoded<Value> }
          : Schema extends { items: infer Items extends readonly unknown[] } ? { [Index in keyof Items]: Decoded<Items[Index]> }
            : Schema extends { items: infer Items extends object } ? Decoded<Items>[]
              : Data

type DecodedAll<Members extends readonly unknown[]> =
  Members extends readonly [infer First, ...infer Rest] ? Decoded<First> & DecodedAll<Rest> : unknown

/** TypeBox keeps a transform under a symbol that this file must not name. */
type TransformOf<Schema> = Extract<Schema[keyof Schema & symbol], { Decode: (value: any) => unknown }>

type IsAny<T> = 0 extends 1 & T ? true : false

/** Data as JSON, or text as it is where the schema is one of strings. */
type Content<Data> =
  | { data: Data, raw?: undefined }
  | (IsAny<Data> extends true ? never : [Data] extends [string] ? { raw: string, data?: undefined } : never)

type TypeField<Type extends string> = Type extends 'message' ? { event?: 'message' } : { event: Type }

/** A bare string is an event of the type 'message', if its data are strings. */
type BareString<Schemas, Provider extends FastifyTypeProvider> =
  Schemas extends { message: infer Schema }
    ? IsAny<DataOf<Schema, Provider>> extends true ? never : [DataOf<Schema, Provider>] extends [string] ? string : never
    : never

type EventOfSchemas<Schemas, Provider extends FastifyTypeProvider> =
  | {
    [Type in keyof Schemas & string]: EventEnvelope & TypeField<Type> & Content<DataOf<Schemas[Type], Provider>>
  }[keyof Schemas & string]
  | BareString<Schemas, Provider>

/**
 * The events that a route may send: `EventOf<typeof schema>`, or of what `reply.sse` takes in it. Without
 * `schema.events` any event.
 */
export type EventOf<Schema, Provider extends FastifyTypeProvider = FastifyTypeProviderDefault> =
  Schema extends { events: infer Schemas extends EventSchemas } ? EventOfSchemas<Schemas, Provider> : SseEvent | string

/** A web stream, by its shape: the DOM's and Node's are different types. */
interface WebStream<Event> {
  getReader (): { read (): Promise<{ done: false, value: Event } | { done: true, value?: unknown }> }
}

/** Where the events of a stream come from. */
export type SseSource<Event> =
  | AsyncIterable<Event>
  | Iterable<Event>
  | WebStream<Event>
  | ((context: SseContext) => AsyncIterable<Event> | Iterable<Event> | WebStream<Event>)

/** `app.sse`. */
export interface Sse {
  /** The streams that are open now. */
  readonly connections: Iterable<SseConnection> & { readonly size: number }
  /** The counters, as they are now. */
  stats (): SseStats
}

/* eslint-disable @typescript-eslint/no-unused-vars -- an augmentation repeats every type parameter of what it augments */
declare module 'fastify' {
  interface FastifySchema {
    /** Event type to the schema of its data: types, checks and serialises what `reply.sse` sends in this route. */
    events?: EventSchemas
  }

  interface RouteShorthandOptions<
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
    ContextConfig = ContextConfigDefault,
    SchemaCompiler extends FastifySchema = FastifySchema,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
    Logger extends FastifyBaseLogger = FastifyBaseLogger
  > {
    /** Options of the event streams of this route. */
    sse?: StreamOptions
  }

  interface FastifyInstance<
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    Logger extends FastifyBaseLogger = FastifyBaseLogger,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault
  > {
    sse: Sse
  }

  interface FastifyRequest {
    /**
     * The client's last event ID, from the `Last-Event-ID` header, else from the query parameter `lastEventId`.
     * Undefined where there is none, or none that a server could have sent. It is input: a client may send any.
     */
    readonly lastEventId: string | undefined
  }

  interface FastifyReply<
    RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    ContextConfig = ContextConfigDefault,
    SchemaCompiler extends FastifySchema = FastifySchema,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
    ReplyType extends FastifyReplyType = ResolveFastifyReplyType<TypeProvider, SchemaCompiler, RouteGeneric>
  > {
    /**
     * Answers with an event stream: the source is pulled as fast as the client reads, and let go of when either ends.
     * @param source an (async) iterable, a Node or web stream of events, or a function that is given
     *   `{ signal, lastEventId }` and returns one
     * @param options for this stream alone
     * @returns the reply, to be returned by the handler
     * @throws FST_SSE_INVALID_SOURCE, FST_SSE_INVALID_OPTION, FST_SSE_ALREADY_SENT, and what a source function throws
     */
    sse (source: SseSource<EventOf<SchemaCompiler, TypeProvider>>, options?: StreamOptions): this
  }
}
