/**
 * JSON Schemas, walked: copies of them for those who would read some keywords in a way of their own. Validation sees a
 * schema as it is, and has decided before they come to it.
 */

export type Schema = Record<string | symbol, unknown>

/** Keywords that hold a schema, or a list of schemas. */
const OF_SCHEMAS = new Set<string | symbol>([
  'additionalItems', 'additionalProperties', 'allOf', 'anyOf', 'contains', 'else', 'if', 'items', 'not', 'oneOf',
  'prefixItems', 'propertyNames', 'then', 'unevaluatedItems', 'unevaluatedProperties'
])

/** Keywords that hold schemas by name. */
const OF_NAMED_SCHEMAS = new Set<string | symbol>([
  '$defs', 'definitions', 'dependencies', 'dependentSchemas', 'patternProperties', 'properties'
])

/**
 * For fast-json-stringify, which writes
 * - strings of a `format` without escaping them: without it, all are escaped;
 * - a `const` without escaping it: an `enum` of one says the same;
 * - a `default` where the application has sent nothing;
 * - a union by the first member that fits, leaving out what another one declares: those that declare more come first.
 */
export function forSerializer (schema: Schema): Schema {
  return copy(schema, (each) => {
    delete each.format
    delete each.default
    if (Object.hasOwn(each, 'const')) {
      each.enum = [each.const]
      delete each.const
    }
    if (Array.isArray(each.anyOf)) each.anyOf.sort(byProperties)
    if (Array.isArray(each.oneOf)) each.oneOf.sort(byProperties)
  })
}

/** For TypeBox's transforms, which know no `format` but those that TypeBox itself was told of. */
export function forTransforms (schema: Schema): Schema {
  return copy(schema, (each) => { delete each.format })
}

/** A deep copy, TypeBox's symbols included; `change` is given each schema in it, the innermost first. */
function copy<T> (schema: T, change: (schema: Schema) => void): T {
  if (Array.isArray(schema)) return schema.map((each) => copy(each, change)) as T
  if (typeof schema !== 'object' || schema === null) return schema
  const copied: Schema = {}
  for (const keyword of Reflect.ownKeys(schema)) {
    const value = (schema as Schema)[keyword]
    if (OF_SCHEMAS.has(keyword)) copied[keyword] = copy(value, change)
    else if (OF_NAMED_SCHEMAS.has(keyword)) copied[keyword] = mapValues(value as Schema, (each) => copy(each, change))
    else copied[keyword] = value
  }
  change(copied)
  return copied as T
}

export function mapValues<T, U> (object: Record<string, T>, map: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, map(value)]))
}

function byProperties (one: Schema, other: Schema): number {
  return declared(other) - declared(one)
}

function declared ({ properties }: Schema): number {
  return typeof properties === 'object' && properties !== null ? Object.keys(properties).length : 0
}

/** Whether every value of a schema is a string; `shared` are the schemas that `$ref` may name, by `$id`. */
export function isStringSchema (schema: Schema, shared: Record<string, Schema>): boolean {
  const referred = typeof schema.$ref === 'string' ? shared[schema.$ref.replace(/#$/, '')] : undefined
  if (referred !== undefined) return isStringSchema(referred, shared)
  const isOfStrings = (member: Schema) => isStringSchema(member, shared)
  if (Array.isArray(schema.anyOf)) return schema.anyOf.every(isOfStrings)
  if (Array.isArray(schema.allOf) && schema.allOf.some(isOfStrings)) return true
  if (Array.isArray(schema.enum)) return schema.enum.every((value) => typeof value === 'string')
  return String(schema.type) === 'string' || typeof schema.const === 'string'
}
