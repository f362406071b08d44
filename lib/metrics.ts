/**
 * The counters as Prometheus has them, by the package prom-client, which the application brings. They are read when they
 * are asked for, so counting costs nothing more; only durations are observed, once for each stream.
 */
import type { Counter, Gauge, Registry } from 'prom-client'
import { InvalidOption } from './errors.ts'
import type { SseStats } from './stats.ts'

/** A registry of prom-client, as far as it is used here. */
export interface MetricsRegistry {
  /** Takes a metric of the plugin. */
  registerMetric (metric: any): void
  /** Tells whether a name is taken. */
  getSingleMetric (name: string): unknown
  /** Gives a metric up, when the app closes. */
  removeSingleMetric (name: string): void
}

type PromClient = typeof import('prom-client')

/** What is read when metrics are asked for. */
export interface Measured {
  readonly stats: SseStats
  /** How many open streams are behind. */
  behind (): number
}

/** A metric and the values that it has now: one, or one for each reason. */
type Values = number | Record<string, number>
type Row = [name: string, help: string, read: (measured: Measured) => Values]

const GAUGES: Row[] = [
  ['sse_streams_open', 'Event streams that are open now.', ({ stats }) => stats.open],
  ['sse_streams_behind', 'Open event streams whose client leaves so much unread that their source has been paused.',
    (measured) => measured.behind()]
]

const COUNTERS: Row[] = [
  ['sse_streams_opened_total', 'Event streams that were opened.', ({ stats }) => stats.opened],
  ['sse_streams_closed_total', 'Event streams that have ended, by reason.', ({ stats }) => stats.closed],
  ['sse_streams_refused_total', 'Requests for an event stream that were sent away, by reason.', ({ stats }) => stats.refused],
  ['sse_events_sent_total', 'Events written to event streams.', ({ stats }) => stats.events],
  ['sse_sent_bytes_total', 'Bytes written to event streams.', ({ stats }) => stats.bytes],
  ['sse_events_dropped_total', 'Invalid events that were left out.', ({ stats }) => stats.dropped],
  ['sse_replays_total', 'Readers of channels that went on from their last event ID and have missed nothing.', ({ stats }) => stats.replays],
  ['sse_gaps_total', 'Gaps that readers of channels were told of.', ({ stats }) => stats.gaps],
  ['sse_lags_total', 'Times that readers of channels fell behind and went on.', ({ stats }) => stats.lags]
]

const DURATION = 'sse_stream_duration_seconds'

/** From a second to a day. */
const BUCKETS = [1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400]

export interface Metrics {
  /** Takes the duration of a stream that has ended. */
  observe (ms: number): void
  /** Takes the metrics out of the registry. */
  remove (): void
}

/** @throws {InvalidOption} where prom-client is not there, or the registry has metrics of these names */
export async function createMetrics (registry: MetricsRegistry, measured: Measured): Promise<Metrics> {
  const { Counter, Gauge, Histogram } = await promClient()
  const names = [...GAUGES, ...COUNTERS].map(([name]) => name).concat(DURATION)
  const taken = names.find((name) => registry.getSingleMetric(name) !== undefined)
  if (taken !== undefined) {
    throw new InvalidOption(`'metrics' has a metric '${taken}' already: give each app a registry of its own, new Registry()`)
  }
  const registers = [registry as Registry]
  const remove = () => { for (const name of names) registry.removeSingleMetric(name) }
  try {
    for (const row of GAUGES) new Gauge({ ...configure(row, measured), registers }) // eslint-disable-line no-new
    for (const row of COUNTERS) new Counter({ ...configure(row, measured), registers }) // eslint-disable-line no-new
    const durations = new Histogram({ name: DURATION, help: 'How long event streams were open.', buckets: BUCKETS, registers })
    return { observe: (ms) => durations.observe(ms / 1_000), remove }
  } catch (error) {
    remove()
    throw error
  }
}

async function promClient (): Promise<PromClient> {
  try {
    return await import('prom-client')
  } catch (error) {
    throw Object.assign(new InvalidOption("'metrics' needs the package prom-client, which cannot be loaded: npm install prom-client"),
      { cause: error })
  }
}

/** A metric that is read from the counters at the moment at which it is asked for. */
function configure ([name, help, read]: Row, measured: Measured) {
  const byReason = typeof read(measured) === 'object'
  return {
    name,
    help,
    labelNames: byReason ? ['reason'] : [],
    collect (this: Counter | Gauge) {
      this.reset()
      const values = read(measured)
      if (typeof values === 'number') this.inc(values)
      else for (const [reason, value] of Object.entries(values)) this.inc({ reason }, value)
    }
  }
}
