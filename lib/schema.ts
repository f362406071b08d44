/**
 * JSON Schemas, walked. The serialiser and TypeBox's encoder get a copy of each schema without the keywords that they
 * would read in their own way; validation, which sees the schema as it is, has decided by then.
 */

export type Schema = Record<string | symbol, unknown>

/** Keywords that hold a schema, or a list of schemas. */
const OF_SCHEMAS = new Set([
  'additionalItems', 'additionalProperties', 'allOf', 'anyOf', 'contains', 'else', 'if', 'items', 'not', 'oneOf',
  'prefixItems', 'propertyNames', 'then', 'unevaluatedItems', 'unevaluatedProperties'
])

/** Keywords that hold schemas by name. */
const OF_NAMED_SCHEMAS = new Set([
  '$defs', 'definitions', 'dependencies', 'dependentSchemas', 'patternProperties', 'properties'
])

/**
 * A copy, TypeBox's symbols included, in which
 * - no string has a `format`: fast-json-stringify writes such strings without escaping them, and TypeBox knows none but
 *   its own formats;
 * - a `const` is an `enum` of one: fast-json-stringify writes constants without escaping them.
 */
export function withPlainStrings<T> (schema: T): T {
  if (Array.isArray(schema)) return schema.map(withPlainStrings) as T
  if (typeof schema !== 'object' || schema === null) return schema
  const copy: Schema = {}
  for (const keyword of Reflect.ownKeys(schema)) {
    const value = (schema as Schema)[keyword]
    if (keyword === 'format') continue
    else if (keyword === 'const') copy.enum = [value]
    else if (OF_SCHEMAS.has(keyword as string)) copy[keyword] = withPlainStrings(value)
    else if (OF_NAMED_SCHEMAS.has(keyword as string)) copy[keyword] = byName(value as Schema)
    else copy[keyword] = value
  }
  return copy as T
}

function byName (schemas: Schema): Schema {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, withPlainStrings(schema)]))
}
