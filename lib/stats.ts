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
  /** Its client may no longer have it: `revalidate` has not said otherwise, or the application has ended it as such. */
  | 'revoked'
  /** Another answer took its place before the response was handed over: an error, say, or a status without content. */
  | 'superseded'

/** Why a request got no stream, though it was for one. */
export type RefusalReason =
  /** The server is closing. */
  | 'shutdown'
  /** The broker was out of reach before the stream's first event; such a stream was opened, and is counted there too. */
  | 'broker-away'
  /** As many streams as the server may have were open. */
  | 'max-connections'
  /** As many as this client may have. */
  | 'max-connections-per-client'

/** Counters since the plugin was registered. */
export interface SseStats {
  /** Streams that are open now. */
  open: number
  /** Streams that were ever opened. */
  opened: number
  /** Streams that have ended, by reason. Their sum and `open` make `opened`. */
  closed: Record<EndReason, number>
  /** Requests that were sent away, by reason. */
  refused: Record<RefusalReason, number>
  /** What sources have yielded and was written, comments and IDs without data included. */
  events: number
  /** Bytes written, keep-alive comments and reconnection times included; compressed ones as they are sent. */
  bytes: number
  /** Invalid events that were left out (`onInvalidEvent: 'drop'`). */
  dropped: number
  /** How often a reader of channels went on from its client's last event ID, with everything that it had missed. */
  replays: number
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
      revoked: 0,
      superseded: 0
    },
    refused: { shutdown: 0, 'broker-away': 0, 'max-connections': 0, 'max-connections-per-client': 0 },
    events: 0,
    bytes: 0,
    dropped: 0,
    replays: 0,
    gaps: 0,
    lags: 0
  }
}
