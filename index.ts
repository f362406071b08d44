/**
 * The plugin, in which options become parts, and parts become decorators and hooks; and what the package has beside it.
 *
 * What it adds to Fastify: `reply.sse` ({@link SseReply}), `request.lastEventId` ({@link SseRequest}), `schema.events`
 * ({@link SseSchema}) and `sse` ({@link SseRoute}) of a route, and `app.sse` ({@link SseApp}). Options: of the plugin
 * {@link SseOptions}, of streams {@link StreamOptions}, of channels {@link ChannelOptions}, of runs {@link RunOptions}.
 * Errors: {@link SseErrorCode}.
 * @module fastify-typed-sse
 */
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Admission } from './lib/admission.ts'
import { batch } from './lib/batch.ts'
import { memoryBroker } from './lib/brokers/memory.ts'
import { redisBroker } from './lib/brokers/redis.ts'
import { Hub, type HubOptions } from './lib/channels/hub.ts'
import { AlreadyRegistered, InvalidOption } from './lib/errors.ts'
import { lastEventIdOf } from './lib/last-event-id.ts'
import { logError } from './lib/log.ts'
import { createMetrics } from './lib/metrics.ts'
import { checkPluginOptions, streamOptions, type SseOptions } from './lib/options.ts'
import { createReplySse, type Plugin } from './lib/reply.ts'
import { StreamRoutes } from './lib/route.ts'
import { endAll, GRACE } from './lib/shutdown.ts'
import { kStream } from './lib/start.ts'
import { Reporter } from './lib/reporter.ts'
import { createStats } from './lib/stats.ts'
import { Lines } from './lib/timeouts.ts'
import type { Schema } from './lib/schema.ts'
import type { SseHub, StandaloneHub } from './types/channels.ts'
import type { Sse } from './types/index.ts'

const plugin: FastifyPluginAsync<SseOptions> = async function sse (app, options) {
  checkIsRegistered(app)
  checkPluginOptions(options)
  const { broker, drain = 0, lastEventIdQuery = 'lastEventId' } = options
  checkDrain(drain, app.initialConfig.pluginTimeout ?? 10_000)
  if (app.hasDecorator('sse')) throw new AlreadyRegistered('app.sse')
  if (app.hasReplyDecorator('sse')) throw new AlreadyRegistered('reply.sse')

  const connections: Plugin['connections'] = new Set()
  const stats = createStats()
  const metrics = options.metrics && await createMetrics(options.metrics, { stats, behind: () => countBehind(connections) })
  const parts: Plugin = {
    connections,
    reporter: new Reporter(stats, metrics?.observe),
    admission: new Admission(options),
    lines: new Lines(),
    routes: new StreamRoutes(streamOptions(options), lastEventIdQuery),
    lastEventIdOf: (request) => lastEventIdOf(request.raw, lastEventIdQuery),
    closing: false
  }
  const onError: HubOptions['onError'] = (error, message) => logError(app.log, 'error', error, message)
  const hub = new Hub({ broker, onError }, () => app.getSchemas() as Record<string, Schema>)
  hub.keepChannels(true)
  app.addHook('onReady', async () => hub.keepChannels(false))
  app.addHook('onClose', () => hub.close())
  if (metrics !== undefined) app.addHook('onClose', async () => metrics.remove())
  app.decorate('sse', createSse(parts, hub))
  app.decorateReply(kStream, null)
  app.decorateReply('sse', createReplySse(parts) as FastifyReply['sse'])
  app.decorateRequest('lastEventId', {
    getter (this: FastifyRequest) {
      const lastEventId = parts.lastEventIdOf(this)
      return lastEventId.is === 'id' ? lastEventId.id : undefined
    }
  })
  app.addHook('onRoute', function (route) {
    parts.routes.add(this, route)
  })
  app.addHook('preClose', async () => {
    parts.closing = true
    await endAll(parts.connections, drain)
  })
}

/** `app.register(sse())` calls it itself, without an app. */
function checkIsRegistered (app: unknown): void {
  if (typeof (app as Partial<FastifyInstance> | undefined)?.decorateReply === 'function') return
  throw new InvalidOption('the plugin was called: write app.register(sse, options), not app.register(sse(options))')
}

/** Fastify gives the hooks that close it no more time than a plugin has to start, and `app.close()` would reject. */
function checkDrain (drain: number, pluginTimeout: number): void {
  if (pluginTimeout > 0 && drain + GRACE >= pluginTimeout) {
    throw new InvalidOption(`'drain' and ${GRACE} ms more must be less than Fastify's own option pluginTimeout, which is ` +
      `${pluginTimeout} ms: fastify({ pluginTimeout: ${drain + 10_000} })`)
  }
}

function countBehind (connections: Plugin['connections']): number {
  let count = 0
  for (const { behind, reason } of connections) if (behind && reason === undefined) count++
  return count
}

function createSse ({ connections, reporter: { stats } }: Plugin, hub: Hub): Sse {
  const open: Sse['connections'] = {
    * [Symbol.iterator] () {
      for (const connection of connections) {
        if (connection.reason === undefined) yield connection
      }
    },
    get size () {
      return stats.open
    }
  }
  return Object.assign(createSseHub(hub), { connections: open, stats: () => structuredClone(stats) })
}

function createSseHub (hub: Hub): SseHub {
  const { runs } = hub
  const run = Object.assign(runs.start.bind(runs), { attach: runs.attach.bind(runs) })
  return { channel: hub.channel.bind(hub), subscribe: hub.subscribe.bind(hub), run } as unknown as SseHub
}

/**
 * Channels, subscriptions and runs without HTTP and without Fastify: for workers, cron jobs and tests. What they publish
 * reaches the streams of other processes where they share a broker.
 * @throws FST_SSE_INVALID_OPTION
 */
export function createHub (options: HubOptions = {}): StandaloneHub {
  const hub = new Hub(options)
  return Object.assign(createSseHub(hub), { close: () => hub.close() })
}

const fastifySse = fp(plugin, { fastify: '5.x', name: 'fastify-typed-sse' })

/**
 * The plugin: `await app.register(sse, options)`, before the routes. `import sse from`, `import { fastifySse } from` and
 * `require()` all give it, with what else the package has as its properties.
 * @throws (`register` rejects) FST_SSE_INVALID_OPTION, FST_SSE_ALREADY_REGISTERED; for a route FST_SSE_INVALID_SCHEMA
 */
const exported = Object.assign(fastifySse, { default: fastifySse, fastifySse, batch, createHub, memoryBroker, redisBroker })

export default exported
export { batch, exported as fastifySse, exported as 'module.exports', memoryBroker, redisBroker }
export type { BatchOptions } from './lib/batch.ts'
export type { Broker, Entry, History, Hold, Listener, Listening, Message, Most, Page } from './lib/broker.ts'
export type { RedisBroker, RedisBrokerOptions } from './lib/brokers/redis.ts'
export type { RedisClient } from './lib/brokers/redis/client.ts'
export type { HubOptions } from './lib/channels/hub.ts'
export type { ReceivedEvent } from './lib/channels/message.ts'
export type { ChannelOptions, RunEnd, RunOptions } from './lib/channels/options.ts'
export type { Gap } from './lib/channels/reading.ts'
export type { SubscribeOptions } from './lib/channels/subscription.ts'
export type { SseConnection, SseDiagnostics } from './lib/diagnostics.ts'
export type { SseErrorCode } from './lib/errors.ts'
export type { EventEnvelope, SseEvent } from './lib/event.ts'
export type { Duration } from './lib/durations.ts'
export type { MetricsRegistry } from './lib/metrics.ts'
export type { CallOptions, SseOptions, StreamOptions } from './lib/options.ts'
export type { SseContext } from './lib/source.ts'
export type { EndReason, RefusalReason, SseStats } from './lib/stats.ts'
export type {
  GapEvent, ReceivedOf, SseAttachedRun, SseChannel, SseHub, SseRun, SseSubscription, StandaloneHub, StartRun, Subscribable
} from './types/channels.ts'
export type { EventOf, EventSchemas, NoEvent, SseSource } from './types/events.ts'
export type { Sse, SseApp, SseReply, SseRequest, SseRoute, SseSchema } from './types/index.ts'
