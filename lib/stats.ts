/** What the plugin counts. Knows neither sources nor sockets. */

/** Why a stream has ended; each stream has exactly one. */
export type EndReason =
  /** The source has completed. */
  | 'source-done'
  /** The client has closed the connection, or it broke. */
  | 'client-gone'
  /** The source threw or rejected. */
  | 'source-threw'
  /** The source yielded an event that breaks a rule. */
  | 'invalid-event'
  /** The client left bytes unread for longer than `writeTimeout`. */
  | 'write-timeout'
  /** The client fell so far behind that its channel no longer had what came next. */
  | 'lagged'
  /** `maxDuration` has passed. */
  | 'max-duration'
  /** The server is closing. */
  | 'shutdown'
  /** The application ended it. */
  | 'ended'
  /** Another answer took its place before the response was handed over: an error, say, or a status without content. */
  | 'superseded'

/** Counters since the plugin was registered. */
export interface SseStats {
  /** Streams that are open now. */
  open: number
  /** Streams that were ever opened. */
  opened: number
  /** Streams that have ended, by reason. Their sum and `open` make `opened`. */
  closed: Record<EndReason, number>
  /** Streams that were refused as the server was closing, or a broker was out of reach. */
  refused: number
  /** What sources have yielded and was written, comments and IDs without data included. */
  events: number
  /** Bytes written, keep-alive comments and reconnection times included. */
  bytes: number
  /** Invalid events that were left out (`onInvalidEvent: 'drop'`). */
  dropped: number
  /** Gaps that readers of channels were told of. */
  gaps: number
  /** How often readers of channels fell behind and went on, by `onLag: 'gap'` or `'latest'`. */
  lags: number
}

export function createStats (): SseStats {
  return {
    open: 0,
    opened: 0,
    closed: {
      'source-done': 0,
      'client-gone': 0,
      'source-threw': 0,
      'invalid-event': 0,
      'write-timeout': 0,
      lagged: 0,
      'max-duration': 0,
      shutdown: 0,
      ended: 0,
      superseded: 0
    },
    refused: 0,
    events: 0,
    bytes: 0,
    dropped: 0,
    gaps: 0,
    lags: 0
  }
}
