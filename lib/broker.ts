/** The contract between channels and the engine that keeps them: the law is that of `Broker`. */

/** An event as it is kept: checked, serialised, without ID. It has either `data` or `raw`. */
export interface Message {
  /** The event type; `''` is 'message'. */
  event: string
  /** JSON text. */
  data?: string | undefined
  /** Text that is no JSON. */
  raw?: string | undefined
  /** The reconnection time in ms. Not there: none. */
  retry?: number | undefined
  /** Text that clients ignore. Not there: none. */
  comment?: string | undefined
}

/** An event with its place in the log. */
export interface Entry {
  /** `<ms>-<seq>`, which is also the position right after the entry. */
  readonly id: string
  /** The event. */
  readonly message: Message
}

/** How much of a channel is retained: whichever limit is reached first. */
export interface History {
  /** Entries; at least 1. */
  events: number
  /** Bytes of their data (or `raw`), event types and comments; at least 1. */
  bytes: number
  /** Milliseconds; at least 1. `false`: entries do not grow old. */
  age: number | false
}

/** How much is read back at once. */
export interface Most {
  /** Entries; at least 1. */
  entries: number
  /** Bytes, about as a history counts them: no entry follows once there are as many. At least 1. */
  bytes: number
}

/** Some entries, read back. */
export interface Page {
  /** The position right before the first entry given; where none is given, a position after which there is none yet. */
  after: string
  /** In their order. */
  entries: readonly Entry[]
  /** Whether `after` is what was asked for, and no entry was ever between it and the first one given. */
  complete: boolean
}

/** Who is given what is appended. */
export interface Listener {
  /** An entry was appended. Each comes once, in order. */
  entry (entry: Entry): void
  /** No more entries will come. */
  closed (): void
  /** The broker was ended: nothing more is told, though there may be more. */
  failed (error: unknown): void
  /** Entries may have been missed: what comes next is after this position; what was before must be read back. */
  lost (position: string): void
}

/** What `listen` resolves with. */
export interface Listening {
  /** Whatever is after this position is given to the listener. */
  position: string
  /** Whether the channel was closed already: nothing will be given. */
  closed: boolean
  /** Whether anybody has held, closed or published to the channel, as far as the broker remembers. */
  known: boolean
  /** Nothing is given any more. */
  stop (): void
}

/** How a channel is held. */
export interface Hold {
  /** Whoever gives this text is the owner, however often it opens the channel, and by whichever broker object. */
  owner: string
  /** Milliseconds; at least 1. */
  lease: number
  /** The last entry of a channel whose owner has not renewed its lease. */
  will: Message | undefined
  /** As of `close`, where the lease has run out. */
  forgetAfter: number
}

/**
 * The contract between channels and the engine that keeps them. What is written here is the law; `brokerLaws` of
 * `fastify-typed-sse/testing` are its paragraphs as tests.
 *
 * **Channels.** A broker keeps any number of channels, each by its name, which is any well-formed string. A channel is a
 * log: entries in one order, which is the same for every reader. It comes to be by its first use, and may be dropped without
 * a trace once it holds no entry, nobody listens to it, and it is neither held nor closed.
 *
 * **IDs and positions.** The broker gives each entry its ID, `<ms>-<seq>`: milliseconds since 1970 and a number, each at
 * most 2^64 - 1. Within a channel IDs grow strictly in the order of the entries, whatever the clock does; entries that are
 * appended through one broker object, at the same time too, are in the order of the calls. The ID of an entry is also the
 * position right after it; a broker may name other positions, in the same form. `0-0` is the position before a channel's
 * first entry. No ID or position is ever given twice for different places of one channel: after the engine has lost its
 * memory, it does not take a position of before for one of its own.
 *
 * **History.** Each append says how much the channel is to retain: the oldest entries go as soon as there are more than
 * `events` of them, or more than `bytes` in them, or when they are older than `age`. The newest is retained
 * whatever its size. An engine may trim a little late (some hundreds of entries), never early. Only the oldest go: what is
 * retained has no holes.
 *
 * **Reading back.** `read` gives entries after a position. It is complete when the broker knows the position, as one that
 * it has given or `0-0`, and is sure that no entry has ever been between it and the first that it gives. Else what it
 * gives begins at the earliest entry retained, or later, where it is known that whoever asks has had what is before. A read
 * sees whatever the same broker object has already told of: each entry
 * that it has given to a listener, each append that it has settled, everything up to each position that it has named.
 *
 * **Listening.** `listen` draws a boundary at the moment of the call: whatever was appended before, through the same
 * broker object, can be read back up to the position that it resolves with, whatever comes after is given to the listener,
 * each entry once, in order, until `stop`. Nothing is in neither, nothing in both. Entries may be given before the promise
 * has settled. A listener must not throw; if it appends, that entry comes after those that are still being given. An
 * engine that has lost its way to the entries for a time, and cannot be sure to have given all of them, says `lost` with
 * the position from which it goes on, once everything up to there can be read back. If the channel was closed
 * meanwhile, it says so too. One that is ended, and will give nothing more, says `failed`.
 *
 * **Closing.** After `close` a channel takes no more entries, its history is no longer trimmed by age, and when
 * `forgetAfter` has passed, or some seconds later, the channel is forgotten as a whole. Each listener is told `closed` after
 * the last entry, or learns it when it begins to listen. To close twice does nothing.
 *
 * **Holding.** `open` holds a channel for an owner: it is kept, though it may be empty, until it is closed or the lease has
 * run out. The owner renews the lease by opening the channel again; nobody else can hold it meanwhile. Where a lease has
 * run out, the owner is taken to be dead: the engine appends its `will`, if it has one, and closes the channel. While
 * anybody listens this happens within two leases after the last renewal, or after the engine was out of reach, never
 * within the first. Who appends or closes as the owner, and is not, is refused as if the channel were closed.
 *
 * **Errors.** Each method returns a promise, never throws, and settles in a time that the broker bounds. A rejected `append`
 * says that the entry may not have been stored. After `close`, `append` rejects with an error whose `code` is
 * FST_SSE_CHANNEL_CLOSED. Nothing that was accepted is dropped silently.
 *
 * **End.** Who has made a broker ends it. Channels only stop what they have begun.
 */
export interface Broker {
  /**
   * Holds a channel for an owner, or renews its lease.
   * @returns whether the channel is held by this owner now: false where it is closed, or another one has not let it go
   */
  open (channel: string, hold: Hold): Promise<boolean>
  /**
   * Stores an entry, after which the channel retains what `history` says.
   * @param owner of the channel; undefined: whoever it is
   * @returns the ID of the entry, once it is stored
   * @throws (rejects) FST_SSE_CHANNEL_CLOSED after `close`, and where the owner is another; else the entry may not have been
   *   stored
   */
  append (channel: string, message: Message, history: History, owner?: string): Promise<string>
  /**
   * Closes a channel, which takes no more entries; again: nothing.
   * @param forgetAfter milliseconds after which a closed channel is forgotten; `false`: never
   * @param owner as of `append`; where it is another's nothing is done
   */
  close (channel: string, forgetAfter: number | false, owner?: string): Promise<void>
  /**
   * Reads entries back.
   * @param after a position, in the form of an entry ID; undefined: from the earliest entry retained, which is complete
   * @param most a broker may give less, but at least one entry if there is one
   */
  read (channel: string, after: string | undefined, most: Most): Promise<Page>
  /** Gives to the listener whatever is appended from the moment of the call on. */
  listen (channel: string, listener: Listener): Promise<Listening>
}

/** The bytes that a message counts in a channel's history. */
export function sizeOf ({ event, data, raw, comment }: Message): number {
  return Buffer.byteLength(data ?? raw ?? '') + Buffer.byteLength(event) + (comment === undefined ? 0 : Buffer.byteLength(comment))
}
