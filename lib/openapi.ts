/**
 * The event streams of a route, as part of the schema that @fastify/swagger makes an OpenAPI document of. Nothing here
 * answers a request, and no user's object is changed.
 *
 * OpenAPI 3.2 ("Sequential Media Types") describes each event by `itemSchema`, as the fields that a client has parsed, with
 * JSON as `contentSchema` of the string that `data` is. `schema` is there for tools that only know 3.0 or 3.1: by 3.2 it
 * describes the whole, as an array of such events. It does without the keywords that 3.0 does not have.
 */
import { wireType } from './event.ts'
import { isSchema, isStringSchema, type Schema } from './schema.ts'

type Schemas = Record<string, Schema>

/** What is to be told of the streams of a route. */
export interface StreamDocument {
  /** Event type to the schema of its data; undefined: any events. */
  events: Schemas | undefined
  /** The schemas that `$ref` may name, by `$id`. */
  shared: Schemas
  /** The query parameter for the last event ID; `false`: none. */
  lastEventIdQuery: string | false
}

const LAST_EVENT_ID: Schema = {
  type: 'string',
  description: 'The ID of the last event that the client has received.'
}

const LAST_EVENT_ID_QUERY: Schema = {
  type: 'string',
  description: 'The same as the header Last-Event-ID, for clients that cannot set it.'
}

const ERROR: Schema = {
  type: 'object',
  required: ['statusCode', 'error', 'message'],
  properties: {
    statusCode: { type: 'integer' },
    code: { type: 'string' },
    error: { type: 'string' },
    message: { type: 'string' }
  }
}

const TEXT = 'JSON of a string, or the string itself.'

const headers = { 'retry-after': { type: 'integer', minimum: 0, description: 'Seconds after which to come back.' } }

/** Answers without a stream, with the body that Fastify gives to errors. */
const OTHER_RESPONSES: Schemas = {
  204: { type: 'null', description: 'The client has had all of a stream that has come to its end, and need not come back.' },
  400: { ...ERROR, description: 'The last event ID is one that no server could have sent.' },
  429: { ...ERROR, headers, description: 'This client has too many event streams open.' },
  503: { ...ERROR, headers, description: 'There is no event stream to be had now.' }
}

/** The schema of a route for documents: what it has stays, and what it does not say of its streams is added. */
export function documentStreams (schema: Schema = {}, { events, shared, lastEventIdQuery }: StreamDocument): Schema {
  const { querystring } = schema
  return {
    ...schema,
    headers: addParameter(schema.headers, 'Last-Event-ID', LAST_EVENT_ID, (each) => each.toLowerCase() === 'last-event-id'),
    querystring: lastEventIdQuery === false ? querystring : addParameter(querystring, lastEventIdQuery, LAST_EVENT_ID_QUERY),
    response: addResponses(schema, events ?? {}, shared)
  }
}

/** @param isSame whether a name that the route has declared is this one */
function addParameter (theirs: unknown, name: string, parameter: Schema, isSame = (each: string) => each === name): unknown {
  const ours = { type: 'object', properties: { [name]: parameter } }
  if (theirs === undefined) return ours
  if (!isPlain(theirs)) return theirs
  const { properties } = theirs
  if (isSchema(properties)) {
    return Object.keys(properties).some(isSame) ? theirs : { ...theirs, properties: { ...properties, ...ours.properties } }
  }
  const isComposed = ['$ref', 'allOf', 'anyOf', 'oneOf'].some((keyword) => theirs[keyword] !== undefined)
  // Of two declarations of one parameter @fastify/swagger takes the last.
  return isComposed ? { allOf: [ours, theirs] } : { ...theirs, ...ours }
}

function addResponses ({ response, produces }: Schema, events: Schemas, shared: Schemas): Schema {
  const theirs = (response ?? {}) as Schemas
  const declared = Object.keys(theirs).map((status) => status.toLowerCase())
  const others = Object.entries(OTHER_RESPONSES).filter(([status]) =>
    ![status, `${status[0]}xx`, ...status < '400' ? [] : ['default']].some((each) => declared.includes(each)))
  return { ...theirs, 200: addStream(theirs[200] ?? theirs['2xx'] ?? theirs['2XX'], produces, events, shared), ...Object.fromEntries(others) }
}

function addStream (theirs: unknown, produces: unknown, events: Schemas, shared: Schemas): unknown {
  if (theirs !== undefined && !isPlain(theirs)) return theirs
  const { content, headers, 'x-response-description': description, ...body } = theirs ?? {}
  const hasBody = theirs !== undefined && content === undefined && body.type !== 'null'
  const types = Array.isArray(produces) && produces.length > 0 ? produces : ['application/json']
  const bodies = hasBody ? Object.fromEntries(types.map((type) => [type, { schema: body }])) : content as object | undefined
  return {
    description: description ?? body.description ?? 'An event stream.',
    headers,
    content: { 'text/event-stream': describeStream(Object.entries(events), shared), ...bodies },
    // @fastify/swagger looks for schemas with an `$id` (TypeBox's recursive ones), to which `$ref` is to lead, under the
    // keywords of JSON Schema, and not inside `content`. It shows nothing of what stands beside that.
    anyOf: [...Object.values(events), ...hasBody ? [body] : []]
  }
}

/** A Media Type Object. */
function describeStream (events: [type: string, schema: Schema][], shared: Schemas): Schema {
  if (events.length === 0) {
    const anyEvent = describeEvent({ event: { type: 'string' }, data: { type: 'string' } }, ['data'])
    return { schema: { type: 'array', items: anyEvent }, itemSchema: anyEvent }
  }
  const describeEach = (describeData: (schema: Schema, isText: boolean) => Schema) => ({
    oneOf: events.map(([type, schema]) => {
      const [event, required] = wireType(type) === '' ? ['message', ['data']] : [type, ['event', 'data']]
      const data = describeData(schema, isStringSchema(schema, shared))
      return describeEvent({ event: { type: 'string', const: event }, data }, required)
    })
  })
  return { schema: { type: 'array', items: describeEach(describeText) }, itemSchema: describeEach(describeJson) }
}

function describeEvent (properties: Schema, required: string[]): Schema {
  return {
    type: 'object',
    required,
    properties: { ...properties, id: { type: 'string' }, retry: { type: 'integer', minimum: 0 } }
  }
}

/** Tools that do not know `contentSchema` show the description. */
function describeText (schema: Schema, isText: boolean): Schema {
  return { type: 'string', description: isText ? TEXT : `JSON, as in ${JSON.stringify(schema)}` }
}

/** A string may be sent as `data`, in JSON, or `raw`. */
function describeJson (schema: Schema, isText: boolean): Schema {
  const json = { type: 'string', contentMediaType: 'application/json', contentSchema: schema }
  return isText ? { description: TEXT, anyOf: [json, schema] } : json
}

/** A schema of JSON, and not an object of another validator. */
function isPlain (value: unknown): value is Schema {
  return isSchema(value) && Object.getPrototypeOf(value) === Object.prototype
}
