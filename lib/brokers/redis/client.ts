/** Connections of ioredis, and how they are made: so that nothing is asked for a second time but by us. */
import type { Script } from './scripts.ts'

export type Argument = string | number

/** A client of ioredis 5 or 6: `new Redis(…)` or `new Cluster(…)`. */
export interface RedisClient {
  /** Whether it is a `Cluster`. */
  readonly isCluster: boolean
  /** Of these the prefix of all keys is read, and of a cluster the options of its nodes. */
  readonly options: { keyPrefix?: string | undefined, redisOptions?: object | undefined }
  /** Makes the connections of the broker. */
  duplicate (...options: any[]): any
}

/** What is needed of a connection, or of those to a cluster. */
export interface Connection {
  readonly status: string
  readonly isCluster: boolean
  on (event: string, listener: (error: Error) => void): unknown
  call (command: string, ...args: Argument[]): Promise<unknown>
  connect (): Promise<void>
  disconnect (reconnect?: boolean): void
  /** Of a cluster. */
  refreshSlotsCache? (): void
}

/** Milliseconds until the next try to connect, drawn so that not all processes come at once. */
function retryStrategy (times: number): number {
  return Math.random() * Math.min(50 * 2 ** Math.min(times, 6), 2_000)
}

/** A connection of its own, with the options of the client: what others ask for by that must not wait behind ours. */
export function duplicate (client: RedisClient): Connection {
  // RESP3 has other shapes. Times are limited by the link: a blocked read is none that takes too long.
  const noTimeouts = { commandTimeout: undefined, socketTimeout: undefined, blockingTimeout: undefined }
  const notAgain = { autoResendUnfulfilledCommands: false, maxRetriesPerRequest: 0, reconnectOnError: () => false }
  const node = { protocol: 2, stringNumbers: false, ...noTimeouts, ...notAgain }
  const all = { keyPrefix: '', lazyConnect: true }
  if (!client.isCluster) {
    return client.duplicate({
      ...all,
      ...node,
      enableOfflineQueue: false,
      retryStrategy
    })
  }
  return client.duplicate([], {
    ...all,
    // What is asked for first waits until its node is connected.
    enableOfflineQueue: true,
    // Any node would be asked, which may be one that does not answer.
    enableReadyCheck: false,
    maxRedirections: 0,
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    scaleReads: 'master',
    clusterRetryStrategy: retryStrategy,
    clusterNodeRetryStrategy: undefined,
    redisOptions: { ...client.options.redisOptions, ...node }
  })
}

/** What is to be known of a connection before it is used. */
export interface Session {
  /** The server process; of a cluster '', as there are several. */
  server: string
  /** What the server calls this connection. */
  id: number
  /** By how much the clock of Redis is ahead of `performance.now()`, or less. */
  ahead: number
}

/**
 * Scripts come first: two appends must not be carried out in another order because one has to wait for its script. On a cluster
 * appends are sent one by one, and a node is given a script when it asks for it: the others may not be there.
 */
export async function openSession (connection: Connection, scripts: readonly Script[]): Promise<Session> {
  if (connection.isCluster) return { server: '', id: 0, ahead: 0 }
  const [info, id, ahead] = await Promise.all([
    connection.call('INFO', 'server'),
    connection.call('CLIENT', 'ID'),
    readClock(connection),
    Promise.all(scripts.map(({ text }) => connection.call('SCRIPT', 'LOAD', text)))
  ])
  return { server: /^run_id:(\w+)/m.exec(info as string)?.[1] ?? '', id: id as number, ahead }
}

export async function readClock (connection: Connection): Promise<number> {
  const [seconds, microseconds] = await connection.call('TIME') as [string, string]
  return Number(seconds) * 1_000 + Number(microseconds) / 1_000 - performance.now()
}

/** What Redis says, or ioredis, where nothing was carried out, and should be before long. */
const LATER = /\b(NOSCRIPT|READONLY|LOADING|CLUSTERDOWN|TRYAGAIN|MOVED|ASK) |enableOfflineQueue/

/**
 * What an error of a connection means: 'later' and 'refused' that nothing was carried out, 'broken' that nobody knows; and
 * the error itself, as of a cluster ioredis says of whatever a node answers that there were too many redirections.
 */
export function readError (given: Error): { is: 'later' | 'refused' | 'broken', error: Error } {
  const [, name, message] = /^Too many Cluster redirections\. Last error: (\w+): (.*)$/s.exec(given.message) ?? []
  const error = message === undefined ? given : Object.assign(new Error(message, { cause: given }), { name: name! })
  if (LATER.test(error.message)) return { is: 'later', error }
  return { is: error.name === 'ReplyError' ? 'refused' : 'broken', error }
}
