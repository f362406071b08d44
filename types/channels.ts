/** The types of channels, subscriptions and runs: what may be published, and what readers receive. */
import type { FastifyTypeProvider, FastifyTypeProviderDefault } from 'fastify'
import type { ChannelOptions, RunEnd, RunOptions } from '../lib/channels/options.ts'
import type { Gap } from '../lib/channels/reading.ts'
import type { ReceivedEvent } from '../lib/channels/message.ts'
import type { SubscribeOptions } from '../lib/channels/subscription.ts'
import type { EncodedDataOf, EventOf, EventSchemas, IsAny, SseSource } from './events.ts'

declare const kEvent: unique symbol

/** What `reply.sse` can read from a position: a channel, a subscription, a run. `Event` is what it may send. */
export interface Subscribable<Event> {
  /** For the compiler only. */
  readonly [kEvent]: () => Event
}

/** The event that tells a reader of a gap. It has no ID. */
export interface GapEvent {
  /** The channel's own event type. */
  readonly event: 'gap'
  /** What is lost. */
  readonly data: Gap
  /** Never there. */
  readonly raw?: undefined
  /** Never there, so that a client's last event ID stays what it is. */
  readonly id?: undefined
}

/** What is received of these event types, as `ReceivedEvent` has it, with `data` typed. An event of a snapshot has no `id`. */
export type ReceivedOf<Schemas, Provider extends FastifyTypeProvider = FastifyTypeProviderDefault> = {
  [Type in keyof Schemas & string]:
    { readonly event: Type, readonly id?: string } & Content<EncodedDataOf<Schemas[Type], Provider>>
}[keyof Schemas & string]

type Content<Data> =
  | { readonly data: Data, readonly raw?: undefined }
  | (IsAny<Data> extends true ? never : [Data] extends [string] ? { readonly raw: string, readonly data?: undefined } : never)

/** An event whose ID the channel gives. */
type WithoutId<Event> = Event extends string ? Event : Event & { id?: undefined }

/** A reading of a channel, of several, or of a run, for `reply.sse` or `for await`. Each use begins anew. */
export interface SseSubscription<Event, Received = ReceivedEvent>
  extends Subscribable<Event>, AsyncIterable<Received | GapEvent> {
  /**
   * The events, for `for await`, a `gap` among them. `break` and `return()` end the reading.
   * @throws (its `next`) FST_SSE_LAGGED, FST_SSE_UNKNOWN_RUN, and what the broker, a snapshot or the filter throws
   */
  [Symbol.asyncIterator] (): AsyncIterableIterator<Received | GapEvent>
}

/** `app.sse.channel(name)`: `Event` is what may be published, `Received` what its readers get. */
export interface SseChannel<Event, Received = ReceivedEvent> extends Subscribable<Event> {
  /** By which the channel is known wherever the broker reaches. */
  readonly name: string
  /**
   * Publishes an event to all readers, here and wherever the broker reaches.
   * @param event as a source yields it (a bare string is `{ raw }`), but without `id`, and with `data` or `raw`
   * @returns the event's ID, once the broker has stored it. Events published one after the other keep that order
   * @throws (rejects) FST_SSE_INVALID_EVENT, and then nobody is given anything of it; FST_SSE_CHANNEL_CLOSED; what the
   *   broker rejects with: FST_SSE_BROKER_UNAVAILABLE (it was not stored), FST_SSE_OUTCOME_UNKNOWN (it may be)
   */
  publish (event: WithoutId<Event>): Promise<string>
  /**
   * The channel, read with options: from a position, filtered, or until a signal aborts.
   * @throws FST_SSE_INVALID_OPTION, FST_SSE_INVALID_LAST_EVENT_ID (of `after`)
   */
  subscribe (options?: SubscribeOptions<Received>): SseSubscription<Event, Received>
  /**
   * Closes the channel for good, wherever the broker reaches: readers get the rest, then their streams end, and those who
   * come back are answered with 204. It can still be read for as long as its history has `age`, then its name is free. Again:
   * nothing.
   * @throws (rejects) what the broker rejects with
   */
  close (): Promise<void>
}

/** `app.sse.run.attach(key)`: a run as its readers see it, whoever has started it, and wherever. */
export interface SseAttachedRun<Event, Received = ReceivedEvent> extends Subscribable<Event> {
  /** By which the run is known wherever the broker reaches. */
  readonly key: string
  /**
   * The run, read with options. Default for `after`: the run's start.
   * @throws FST_SSE_INVALID_OPTION, FST_SSE_INVALID_LAST_EVENT_ID (of `after`)
   */
  subscribe (options?: SubscribeOptions<Received>): SseSubscription<Event, Received>
  /**
   * Ends the run: its source is let go of, readers get what was recorded, then the end. One that has ended is left alone.
   * @throws (rejects) FST_SSE_UNKNOWN_RUN, and what the broker rejects with
   */
  stop (): Promise<void>
}

/** `app.sse.run(key, source)`: a run as who has started it sees it. */
export interface SseRun<Event, Received = ReceivedEvent> extends SseAttachedRun<Event, Received> {
  /** Settles with how it has ended; never rejects. */
  readonly ended: Promise<RunEnd>
}

type EventOfChannel<Channel> = Channel extends Subscribable<infer Event> ? Event : never
type ReceivedOfChannel<Channel> = Channel extends SseChannel<any, infer Received> ? Received : never

/** The events of a channel or a run that has these schemas; undefined: any. */
type EventFor<Schemas, Provider extends FastifyTypeProvider> =
  Schemas extends EventSchemas ? EventOf<{ events: Schemas }, Provider> : EventOf<object>
type ReceivedFor<Schemas, Provider extends FastifyTypeProvider> =
  Schemas extends EventSchemas ? ReceivedOf<Schemas, Provider> : ReceivedEvent

/** `app.sse.run`. */
export interface StartRun<Provider extends FastifyTypeProvider> {
  /**
   * Starts a run, unless there is one of this key, which is returned then, and the source is let go of. A run does not
   * depend on any connection: it goes on until its source has ended, it is stopped, or the process ends.
   * @param key any text that is not empty
   * @param source an (async) iterable, a Node or web stream of events, or a function that is given `{ signal }` and returns one
   * @throws FST_SSE_INVALID_OPTION, also where the run was started with other `events`; FST_SSE_INVALID_SCHEMA;
   *   FST_SSE_SHUTTING_DOWN. What the source throws is for `ended`
   */
  <Schemas extends EventSchemas | undefined = undefined>(
    key: string,
    source: NoInfer<SseSource<EventFor<Schemas, Provider>>>,
    options?: NoInfer<Omit<RunOptions<EventFor<Schemas, Provider>>, 'events'>> & { events?: Schemas }
  ): SseRun<EventFor<NoInfer<Schemas>, Provider>, ReceivedFor<NoInfer<Schemas>, Provider>>
  /**
   * A run that was started before, here or wherever the broker reaches. Reading one that nobody has started, or that was
   * forgotten, fails with FST_SSE_UNKNOWN_RUN, to which `reply.sse` answers 404.
   * @param options the `events` that the run was started with, where the types are to be known
   */
  attach<Schemas extends EventSchemas | undefined = undefined>(
    key: string, options?: { events?: Schemas }
  ): SseAttachedRun<EventFor<NoInfer<Schemas>, Provider>, ReceivedFor<NoInfer<Schemas>, Provider>>
}

/** Channels, subscriptions and runs. */
export interface SseHub<Provider extends FastifyTypeProvider = FastifyTypeProviderDefault> {
  /**
   * The channel of this name: the same for everybody who asks, from the first time on. Later its options may be left out.
   * It is this channel as long as somebody holds it or reads it, and as long as what was published to it here may be
   * retained (one made before the app is ready: as long as the app); its history itself is the broker's.
   * @param name any text that is not empty
   * @throws FST_SSE_INVALID_OPTION, also where it is there already with other options; FST_SSE_INVALID_SCHEMA
   */
  channel<Schemas extends EventSchemas | undefined = undefined>(
    name: string,
    options?: NoInfer<Omit<ChannelOptions<ReceivedFor<Schemas, Provider>, EventFor<Schemas, Provider>>, 'events'>>
      & { events?: Schemas }
  ): SseChannel<EventFor<NoInfer<Schemas>, Provider>, ReceivedFor<NoInfer<Schemas>, Provider>>
  /**
   * Several channels as one stream, whose IDs resume all of them.
   * @param channels of this hub, from 1 to 42
   * @throws FST_SSE_INVALID_OPTION, FST_SSE_INVALID_LAST_EVENT_ID (of `after`), FST_SSE_TOO_MANY_CHANNELS
   */
  subscribe<Channel extends SseChannel<any, any>>(
    channels: readonly Channel[], options?: SubscribeOptions<ReceivedOfChannel<Channel>>
  ): SseSubscription<EventOfChannel<Channel>, ReceivedOfChannel<Channel>>
  /** Starts runs, and attaches to them. */
  readonly run: StartRun<Provider>
}

/** `createHub()`: a hub without Fastify. */
export interface StandaloneHub extends SseHub {
  /** Stops the runs and ends the iterations; what is retained stays with the broker. */
  close (): Promise<void>
}
