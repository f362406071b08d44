/**
 * `schema.events` becomes functions: an event's data is validated, then serialised to the text that goes out. Compiled
 * once, when a route is registered, by Ajv, as all schemas of a Fastify app are, but strictly: nothing is coerced, filled
 * in or removed before it is checked. Knows no frames, IDs or sockets.
 *
 * TypeBox schemas are JSON Schemas, so plain JSON Schemas (and shared ones, by `$ref`) are welcome too. Of TypeBox itself
 * its transforms need care, as their encoded value is what is checked and sent, and its registry of formats.
 */
import { FormatRegistry } from '@sinclair/typebox'
import { HasTransform, TransformEncode, TransformEncodeError } from '@sinclair/typebox/value'
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import formats from 'ajv-formats'
import { describe, describeData, reasonOf } from './describe.ts'
import { checkEventType } from './event.ts'
import { InvalidEvent } from './errors.ts'
import { createProjection } from './projection.ts'
import { References } from './references.ts'
import { copySchema, isSchema, isStringSchema, type Schema } from './schema.ts'

/** Keywords that only say something to people and tools, which Ajv's strict mode would take for mistakes. */
const ANNOTATIONS = ['discriminator', 'example', 'externalDocs', 'xml']

const WANTED = 'where a TypeBox or JSON Schema (draft 7) object is wanted (of a zod schema: ' +
  "z.toJSONSchema(schema, { target: 'draft-7' }))"

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
 * @throws what Ajv throws of a bad schema
 */
export function compilePayloads (events: Record<string, Schema>, shared: Record<string, Schema>): Payloads {
  if (!isSchema(events)) throw new Error(`it must be a map of event types to schemas, such as { message: … }, got ${describe(events)}`)
  const ajv = createAjv()
  for (const schema of Object.values(shared)) ajv.addSchema(schema)
  const payloads = new Map<string, Payload>()
  const entries = Object.entries(events)
  for (const [type, schema] of entries) checkIsSchema(type, schema)
  for (const [type, schema] of entries) {
    try {
      payloads.set(checkEventType(type), compilePayload(type, schema, ajv, shared))
    } catch (error) {
      throw new Error(`event type '${type}': ${(error as Error).message}`, { cause: error })
    }
  }
  return payloads
}

function checkIsSchema (type: string, schema: unknown): void {
  if (isSchema(schema)) return
  // So begin TypeBox's schemas.
  const advice = type === 'type'
    ? '; is the map itself a schema? It is to be one of event types to schemas, such as { message: … }'
    : `, ${WANTED}, such as Type.String()${schema === undefined ? '; is it exported under this name?' : ''}`
  throw new Error(`event type '${type}' has ${describe(schema)} for its schema${advice}`)
}

function createAjv (): Ajv {
  const ajv = new Ajv({ strictTypes: false, strictTuples: false, allowUnionTypes: true, verbose: true })
  // ajv-formats is CommonJS: TypeScript and Node see its default export at different depths.
  ;(formats as unknown as (ajv: Ajv) => void)(ajv)
  for (const [name, check] of FormatRegistry.Entries()) ajv.addFormat(name, check)
  return ajv.addVocabulary(ANNOTATIONS)
}

function compilePayload (type: string, schema: Schema, ajv: Ajv, shared: Record<string, Schema>): Payload {
  const key = typeof schema.$id === 'string' ? schema.$id : `event_${encodeURIComponent(type)}`
  // A shared schema may stand here itself, or one that is part of another event's, and Ajv takes an $id once.
  if (ajv.schemas[key] === undefined && ajv.refs[key] === undefined) {
    checkSchema(ajv, schema)
    ajv.addSchema(schema, key)
  }
  const validate = validatorAt(ajv, key)
  const references = new References({ ...shared, [key]: schema })
  const project = createProjection(references.root(key), references, (ref) => validatorAt(ajv, ref))
  const encode = createEncode(type, schema, shared)
  const stringify = (encoded: unknown) => JSON.stringify(project(encoded)) as string | undefined
  const onlyStrings = isStringSchema(schema, shared)
  return {
    serialize (data) {
      if (data === undefined) throw new InvalidEvent(`event '${type}' needs data`)
      const encoded = encode === undefined ? data : encode(data)
      if (!guard(type, validate, encoded)) throw mismatch(type, 'data', validate.errors!)
      const text = guard(type, stringify, encoded)
      if (text === undefined) throw new InvalidEvent(`event '${type}': ${describeData(data)} has no JSON`)
      return text
    },
    checkRaw (raw) {
      if (!onlyStrings) throw new InvalidEvent(`event '${type}' has 'raw', but its schema is not one of strings: give it data`)
      if (!validate(raw)) throw mismatch(type, 'raw', validate.errors!)
    }
  }
}

/** Of a wrong schema Ajv has the rule that was broken, but neither where nor by what; of what is none, a mere word. */
function checkSchema (ajv: Ajv, schema: Schema): void {
  const keys = Object.keys(schema)
  if (isForeign(ajv, schema)) throw new Error(`got ${describe(schema)}, a schema of another library, ${WANTED}`)
  if (keys.length > 0 && keys.every((key) => ajv.getKeyword(key) === false)) {
    throw new Error(`got ${describe(schema)} with '${keys[0]}', which is no JSON Schema: write Type.Object({ ${keys[0]}: … })`)
  }
  const { $schema } = schema
  if (typeof $schema === 'string' && ajv.getSchema($schema) === undefined) {
    throw new Error(`schema/$schema: got ${describe($schema)}, ${WANTED}`)
  }
  if (ajv.validateSchema(schema) === true) return
  const { path, expected, data } = difference(ajv.errors!)
  throw new Error(`schema${path}: expected ${expected}, got ${describe(data)}`)
}

/** Of another library: JSON Schemas have no functions, and keywords of Ajv's where they are of a class. */
function isForeign (ajv: Ajv, schema: Schema): boolean {
  const keys = Object.keys(schema)
  const isUnknown = (key: string) => ajv.getKeyword(key) === false
  if (keys.every(isUnknown)) return false
  return keys.some((key) => typeof schema[key] === 'function') || (isOfClass(schema) && keys.some(isUnknown))
}

function isOfClass (value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype !== null && Object.getPrototypeOf(prototype) !== null
}

function validatorAt (ajv: Ajv, ref: string): ValidateFunction {
  const validate = ajv.getSchema(ref)
  if (validate === undefined) throw new Error(`cannot find the schema ${ref}`)
  return validate as ValidateFunction
}

/** Data is the application's: a getter or a toJSON may throw, and a cycle may have no end. */
function guard<T> (type: string, read: (data: unknown) => T, data: unknown): T {
  try {
    return read(data)
  } catch (error) {
    throw new InvalidEvent(`event '${type}': its data cannot be read as JSON (${reasonOf(error)})`)
  }
}

/** TypeBox's transforms, such as a Date held as a string, towards the wire. */
function createEncode (
  type: string, schema: Schema, shared: Record<string, Schema>
): ((data: unknown) => unknown) | undefined {
  if (!hasTransform(schema, Object.values(shared) as never[])) return undefined
  // TypeBox knows no formats but those that it was told of; they are checked later.
  const withoutFormat = (each: Schema) => { delete each.format }
  const encoded = copySchema(schema, withoutFormat)
  const references = Object.values(shared).map((each) => copySchema(each, withoutFormat)) as never[]
  return function encode (data) {
    try {
      return TransformEncode(encoded as never, references, data)
    } catch (error) {
      const { path = '', value, error: cause } = error as Partial<TransformEncodeError>
      throw new InvalidEvent(`event '${type}', data${path}: cannot encode ${describeData(value)} (${cause?.message ?? error})`)
    }
  }
}

/** TypeBox can only look into references that it can resolve; a schema of another maker has no transforms anyway. */
function hasTransform (schema: Schema, references: never[]): boolean {
  try {
    return HasTransform(schema as never, references)
  } catch {
    return false
  }
}

function mismatch (type: string, field: string, errors: ErrorObject[]) {
  const { path, expected, data } = difference(errors)
  const hint = data instanceof Date ? ': give it date.toISOString(), or a schema with a transform' : ''
  return new InvalidEvent(`event '${type}', ${field}${path}: expected ${expected}, got ${describeData(data)}${hint}`)
}

/** Where the value and the schema part ways: path, what was expected, what came. */
function difference (errors: ErrorObject[]) {
  const last = errors[errors.length - 1]!
  // Of a union Ajv tells how each member failed, then the union itself.
  const path = last.instancePath
  const members = errors.filter((error) => error.instancePath === path && error !== last)
  const expected = [...new Set((members.length > 0 ? members : [last]).map(expectation))].join(' or ')
  return { path, expected, data: last.data as unknown }
}

function expectation ({ keyword, params, parentSchema, message = 'another value' }: ErrorObject): string {
  // TypeBox's literals have a type as well, which fails first.
  if (parentSchema?.const !== undefined) return JSON.stringify(parentSchema.const)
  switch (keyword) {
    case 'type': return String(params.type)
    case 'enum': return params.allowedValues.map((value: unknown) => JSON.stringify(value)).join(' or ')
    case 'required': return `a property '${params.missingProperty}'`
    case 'additionalProperties': return `no property '${params.additionalProperty}'`
    case 'format': return `a string of the format '${params.format}'`
    default: return message.replace(/^must /, 'a value that must ')
  }
}
