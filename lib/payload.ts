/**
 * `schema.events` becomes functions: an event's data is validated, then serialised to the text that goes out. Compiled
 * once, when a route is registered, by the two compilers that Fastify itself uses (Ajv and fast-json-stringify), but
 * strictly: nothing is coerced, filled in or removed before it is checked. Knows no frames, IDs or sockets.
 *
 * TypeBox schemas are JSON Schemas, so plain JSON Schemas (and shared ones, by `$ref`) are welcome too. Of TypeBox
 * itself only transforms need care: their encoded value is what is checked and sent.
 */
import { HasTransform, TransformEncode, TransformEncodeError } from '@sinclair/typebox/value'
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import formats from 'ajv-formats'
import fastJsonStringify from 'fast-json-stringify'
import { describe } from './event.ts'
import { InvalidEvent } from './errors.ts'

type Schema = Record<string, unknown>

/** The data of one event type. Both functions throw InvalidEvent. */
export interface Payload {
  /** The JSON text of `data`, with what the schema declares and nothing else. */
  serialize (data: unknown): string
  /** Checks text that is sent as it is, which only a schema of strings allows. */
  checkRaw (raw: string): void
}

/** Event type to its payload; '' is the type 'message'. */
export type Payloads = ReadonlyMap<string, Payload>

/**
 * @param shared the schemas that `$ref` may name, by `$id`
 * @throws what Ajv or fast-json-stringify throw of a bad schema
 */
export function compilePayloads (events: Record<string, Schema>, shared: Record<string, unknown>): Payloads {
  const ajv = new Ajv({ strictTypes: false, strictTuples: false, allowUnionTypes: true, verbose: true })
  // ajv-formats is CommonJS: TypeScript and Node see its default export at different depths.
  ;(formats as unknown as (ajv: Ajv) => void)(ajv)
  for (const schema of Object.values(shared)) ajv.addSchema(schema as Schema)
  const payloads = new Map<string, Payload>()
  for (const [type, schema] of Object.entries(events)) {
    payloads.set(type === 'message' ? '' : type, compilePayload(type, schema, ajv.compile(schema), shared))
  }
  return payloads
}

function compilePayload (
  type: string, schema: Schema, validate: ValidateFunction, shared: Record<string, unknown>
): Payload {
  const stringify = fastJsonStringify(withoutFormats(schema), { schema: withoutFormats(shared) as never })
  const encode = encoder(type, schema)
  const onlyStrings = isStringSchema(schema)
  return {
    serialize (data) {
      if (data === undefined) throw new InvalidEvent(`event '${type}' needs data`)
      const encoded = encode === undefined ? data : encode(data)
      if (!validate(encoded)) throw mismatch(type, 'data', validate.errors!)
      try {
        return stringify(encoded)
      } catch (error) {
        // Only a value that changes while it is read comes here: a getter, or a toJSON that the schema did not see.
        throw new InvalidEvent(`event '${type}': its data cannot be serialised (${(error as Error).message})`)
      }
    },
    checkRaw (raw) {
      if (!onlyStrings) throw new InvalidEvent(`event '${type}' has 'raw', but its schema is not one of strings: give it data`)
      if (!validate(raw)) throw mismatch(type, 'raw', validate.errors!)
    }
  }
}

/** TypeBox's transforms, such as a Date held as a string, towards the wire. */
function encoder (type: string, schema: Schema): ((data: unknown) => unknown) | undefined {
  if (!HasTransform(schema as never, [])) return undefined
  return function encode (data) {
    try {
      return TransformEncode(schema as never, [], data)
    } catch (error) {
      const { path, value, error: cause } = error as TransformEncodeError
      throw new InvalidEvent(`event '${type}', data${path}: cannot encode ${describe(value)} (${cause?.message})`)
    }
  }
}

/**
 * fast-json-stringify writes a string of a `format` without escaping it, and a 'date-time' may have a line end where
 * its T should be. The format is checked before; without it every string is escaped.
 */
function withoutFormats<T> (schema: T): T {
  return JSON.parse(JSON.stringify(schema, function (this: Schema, key: string, value: unknown) {
    return key === 'format' && this.type === 'string' ? undefined : value
  }))
}

function isStringSchema (schema: Schema): boolean {
  if (Array.isArray(schema.anyOf)) return schema.anyOf.every(isStringSchema)
  if (Array.isArray(schema.enum)) return schema.enum.every((value) => typeof value === 'string')
  return schema.type === 'string' || typeof schema.const === 'string'
}

/** Says where the value and the schema part ways: event type, path, what was expected, what came. */
function mismatch (type: string, field: string, errors: ErrorObject[]) {
  const last = errors[errors.length - 1]!
  // Of a union Ajv tells how each member failed, then the union itself.
  const path = last.instancePath
  const members = errors.filter((error) => error.instancePath === path && error !== last)
  const expected = [...new Set((members.length > 0 ? members : [last]).map(expectation))].join(' or ')
  return new InvalidEvent(`event '${type}', ${field}${path}: expected ${expected}, got ${describe(last.data)}`)
}

function expectation ({ keyword, params, message = 'another value' }: ErrorObject): string {
  switch (keyword) {
    case 'type': return String(params.type)
    case 'const': return JSON.stringify(params.allowedValue)
    case 'enum': return params.allowedValues.map((value: unknown) => JSON.stringify(value)).join(' or ')
    case 'required': return `a property '${params.missingProperty}'`
    case 'additionalProperties': return `no property '${params.additionalProperty}'`
    case 'format': return `a string of the format '${params.format}'`
    default: return message.replace(/^must /, 'a value that must ')
  }
}
