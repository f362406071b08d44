/** What `schema.events` means for the compiler: the events that a route, or a channel, may send. */
import type { FastifyTypeProvider, FastifyTypeProviderDefault } from 'fastify'
import type { EventEnvelope, SseEvent } from '../lib/event.ts'
import type { SseContext } from '../lib/source.ts'

/** Event type to the schema of its data; `message` is the type of events without one. */
export type EventSchemas = Record<string, object>

/** What data a schema describes: of TypeBox its static type, decoded; else what the type provider makes of it. */
type DataOf<Schema, Provider extends FastifyTypeProvider> =
  Schema extends { static: unknown } ? Decoded<Schema> : (Provider & { schema: Schema })['serializer']

/** What a reader gets of it: the JSON, without what transforms make of it. */
export type EncodedDataOf<Schema, Provider extends FastifyTypeProvider> =
  Schema extends { static: infer Data } ? Data : (Provider & { schema: Schema })['serializer']

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

export type IsAny<T> = 0 extends 1 & T ? true : false

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

/**
 * A block that is no event: an ID, a reconnection time or a comment, which a stream may have between its events. Channels
 * and runs have events alone.
 */
export type NoEvent =
  & EventEnvelope
  & { event?: undefined, data?: undefined, raw?: undefined }
  & ({ id: string | number | bigint } | { retry: number } | { comment: string })

/** A web stream, by its shape: the DOM's and Node's are different types. */
interface WebStream<Event> {
  getReader (): { read (): Promise<{ done: false, value: Event } | { done: true, value?: unknown }> }
}

/** Where the events of a stream come from. A Node stream is an async iterable. */
export type SseSource<Event> =
  | AsyncIterable<Event>
  | Iterable<Event>
  | WebStream<Event>
  | ((context: SseContext) => AsyncIterable<Event> | Iterable<Event> | WebStream<Event>)
