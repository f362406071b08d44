/** What a route says of its event streams: `schema.events` and `sse`, read once, when the route is added. */
import type { FastifyContextConfig, FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import { InvalidSchema } from './errors.ts'
import { documentStreams } from './openapi.ts'
import { resolveRouteOptions, type ResolvedOptions, type StreamOptions } from './options.ts'
import { compilePayloads, type Payloads } from './payload.ts'
import { isSchema, type Schema } from './schema.ts'

export interface StreamRoute {
  options: ResolvedOptions
  /** Undefined where the route takes any event. */
  payloads: Payloads | undefined
}

type Events = Record<string, Schema>
type RouteSchema = { events?: Events, event?: unknown } | undefined

/** Where a route keeps it: Fastify copies a route's `config` and shows it to each request. */
const kStreamRoute = Symbol('fastify-typed-sse.route')

interface RouteConfig {
  [kStreamRoute]?: StreamRoute
}

export class StreamRoutes {
  readonly #options: ResolvedOptions
  readonly #lastEventIdQuery: string | false
  /** The same map is compiled once in each context, though Fastify adds a HEAD route for each GET. */
  readonly #compiled = new WeakMap<FastifyInstance, WeakMap<Events, Payloads>>()

  /** @param lastEventIdQuery the plugin's option, for documents */
  constructor (options: ResolvedOptions, lastEventIdQuery: string | false) {
    this.#options = options
    this.#lastEventIdQuery = lastEventIdQuery
  }

  /** The onRoute hook. @throws {InvalidOption | InvalidSchema} so that a mistake fails at start-up */
  add (instance: FastifyInstance, route: RouteOptions & { sse?: StreamOptions, events?: unknown }): void {
    const name = `${String(route.method)} ${route.url}`
    checkPlace(name, route.schema as RouteSchema, route.events)
    const streamRoute: StreamRoute = {
      options: resolveRouteOptions(this.#options, route.sse, `route ${name}`),
      payloads: undefined
    }
    route.config = { ...route.config, [kStreamRoute]: streamRoute } as FastifyContextConfig
    const events = (route.schema as RouteSchema)?.events
    if (events !== undefined) this.#compileSoon(name, events, instance, streamRoute)
    if (events !== undefined || route.sse !== undefined) this.#document(instance, route, events)
  }

  #compileSoon (name: string, events: Events, instance: FastifyInstance, streamRoute: StreamRoute): void {
    const compile = () => { streamRoute.payloads = this.#compile(name, events, instance) }
    try {
      compile()
    } catch (error) {
      if (!isMissingReference(error)) throw error
      // Its shared schema may be added after the route: the last moment to look is when the server is ready.
      instance.addHook('onReady', async () => compile())
    }
  }

  /**
   * For @fastify/swagger, which keeps these very route options and reads their schema when the document is asked for. By
   * then Fastify has compiled the schemas of the route, so that what is added changes no answer. Whether it is there cannot
   * be known, as its decorator may have any name: so nothing is done before somebody reads.
   */
  #document (instance: FastifyInstance, route: RouteOptions, events: Events | undefined): void {
    instance.addHook('onReady', async () => {
      const schema = route.schema as Schema | undefined
      const lastEventIdQuery = this.#lastEventIdQuery
      const get = () => documentStreams(schema, { events, shared: instance.getSchemas() as Events, lastEventIdQuery })
      Object.defineProperty(route, 'schema', { get, enumerable: true, configurable: true })
    })
  }

  /**
   * The route that a request has taken. One that was added before this plugin had loaded is read at its first request;
   * its `sse` options are lost, as only an onRoute hook can see them.
   */
  of (request: FastifyRequest): StreamRoute {
    const { config, schema, method, url } = request.routeOptions
    const known = (config as RouteConfig)[kStreamRoute]
    if (known !== undefined) return known
    if (!request.is404) {
      request.log.warn(`${method} ${url} was added before fastify-typed-sse had loaded, so options under 'sse' are not ` +
        'seen: `await app.register(sse)` before adding routes')
    }
    const events = (schema as RouteSchema)?.events
    const payloads = events && this.#compile(`${method} ${url}`, events, request.server)
    const route = { options: this.#options, payloads }
    ;(config as RouteConfig)[kStreamRoute] = route
    return route
  }

  #compile (name: string, events: Events, instance: FastifyInstance): Payloads {
    let ofInstance = this.#compiled.get(instance)
    if (ofInstance === undefined) this.#compiled.set(instance, ofInstance = new WeakMap())
    let payloads = ofInstance.get(events)
    if (payloads !== undefined) return payloads
    try {
      payloads = compilePayloads(events, instance.getSchemas() as Record<string, Schema>)
    } catch (error) {
      throw Object.assign(invalid(name, (error as Error).message), { cause: error })
    }
    ofInstance.set(events, payloads)
    return payloads
  }
}

/**
 * Where schemas of events are not seen, so that the route would send anything.
 * @throws {InvalidSchema}
 */
function checkPlace (name: string, schema: RouteSchema, beside: unknown): void {
  if (schema?.events !== undefined) return
  if (isMap(schema?.event)) throw invalid(name, "'event' is not seen in schema: write schema: { events: … }, with an s")
  if (isMap(beside)) throw invalid(name, "'events' is not seen beside schema: write schema: { events: … }")
}

/** Rather than something that another plugin wants. */
function isMap (value: unknown): boolean {
  return isSchema(value) && Object.values(value).every(isSchema)
}

function invalid (name: string, why: string): Error {
  return new InvalidSchema(`schema.events of ${name}`, why)
}

function isMissingReference (error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if ((cause as { missingRef?: unknown }).missingRef !== undefined) return true
  }
  return false
}
