/**
 * What clients and tests receive. Self-contained, as it is compiled in browser projects, too: it names no type of Fastify,
 * Node or TypeBox, and reads schemas by their shape.
 */

/** An event as a client has received it. */
export interface Received<Type extends string, Data> {
  /** The event type; 'message' where the server sent none. */
  readonly event: Type
  /** What the JSON says; the text itself where it is no JSON, as of an event that was sent `raw`. */
  readonly data: Data
  /** The data as they were on the wire. */
  readonly text: string
  /** The last event ID after this event, to resume from; undefined: none. */
  readonly id: string | undefined
}

/** A channel's own event: whatever was after `requested` and before `earliest` (null: there is nothing) is lost. */
export type ReceivedGap = Received<'gap', { channel?: string, requested: string, earliest: string | null }>

/** Of TypeBox the static type, without what transforms make of it; of other schemas nothing is known. */
type DataOf<Schema> = Schema extends { static: infer Data } ? Data : unknown

/** The events that a map of schemas declares (a route's `schema.events`, a channel's `events`); undefined: any. */
export type DeclaredEvent<Events> = Events extends object
  ? { [Type in keyof Events & string]: Received<Type, DataOf<Events[Type]>> }[keyof Events & string]
  : Received<string, unknown>

/** What can arrive where these events are declared. */
export type ClientEvent<Events> = DeclaredEvent<Events> | ReceivedGap

/** The same of one event type. */
export type ClientEventOfType<Events, Type extends string> =
  Type extends 'gap' ? ReceivedGap
    : Received<Type, Events extends object ? DataOf<Events[Type & keyof Events]> : unknown>

/** Looks at the data of an event, of any type but `gap`: it is taken for wrong where nothing true is returned. */
export type Check<Events> = (event: DeclaredEvent<Events>) => unknown

/** Events, read once: by `for await`, or one after the other. */
export interface EventIterator<Events> {
  /** Resolves with the next event, or with the end. */
  next (): Promise<IteratorResult<ClientEvent<Events>, undefined>>
  /** Ends the reading and its request at once, also while a `next()` waits. */
  return (): Promise<IteratorResult<ClientEvent<Events>, undefined>>
  /** Itself. */
  [Symbol.asyncIterator] (): EventIterator<Events>
}

/** An EventSource by its shape: that of browsers, that of npm `eventsource`, or another. */
export interface EventSourceLike {
  /** Has the listener called with each event of this type. */
  addEventListener (type: string, listener: (event: any) => void): void
  /** Takes the listener off. */
  removeEventListener (type: string, listener: (event: any) => void): void
  /** Ends the connection for good. */
  close (): void
}
