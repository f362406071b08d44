/** What the server and its clients have to agree on. */

/**
 * How much the channels retain: of one many miss nothing, of the other hardly anybody who was away. All of it is replaced
 * within a minute, so that what is retained has been through everything early on.
 */
export const HISTORIES = { long: 200, short: 50 }

export type Name = keyof typeof HISTORIES

/** Events of the sources that end; the others go on for ever. */
export const TOTALS = { own: 100, answers: 40, run: 80 }

/** Streams that the five of a crowd may have at once. */
export const CROWD_LIMIT = 2

/** In ms. `writeTimeout` is shorter than some stalls, and a run is forgotten while some of its readers are away. */
export const TIMES = { keepAlive: 500, writeTimeout: 1_000, forgetAfter: 1_000 }

const TEXTS = Array.from({ length: 20 }, (_, length) => 'aé€😀'.repeat(length))

/** What an event carries beside its number: another length each time, so that a read may end inside a character. */
export function textOf (n: number): string {
  return TEXTS[n % TEXTS.length]!
}

/** What the server tells now and then. */
export interface Told {
  /** Milliseconds since 1970. */
  at: number
  /** Events that were published, by channel. */
  counts: Record<Name, number>
  /** The run that was started last. */
  run: string
}

/** Where channels end, while nothing is published. */
export interface Ends {
  told: Told
  /** The ID of the last event, by channel. */
  ids: Record<Name, string>
}
