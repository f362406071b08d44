/** JSON Schemas of draft 7, which is what Ajv and Fastify take by default, walked. */

export type Schema = Record<string | symbol, unknown>

/** Keywords that hold a schema, or a list of schemas. */
const OF_SCHEMAS = new Set<string | symbol>([
  'additionalItems', 'additionalProperties', 'allOf', 'anyOf', 'contains', 'else', 'if', 'items', 'not', 'oneOf',
  'propertyNames', 'then'
])

/** Keywords that hold schemas by name. */
const OF_NAMED_SCHEMAS = new Set<string | symbol>([
  '$defs', 'definitions', 'dependencies', 'patternProperties', 'properties'
])

export function isSchema (value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A deep copy, TypeBox's symbols included; `change` is given each schema in it, the innermost first. */
export function copySchema<T> (schema: T, change: (schema: Schema) => void): T {
  if (Array.isArray(schema)) return schema.map((each) => copySchema(each, change)) as T
  if (!isSchema(schema)) return schema
  const copy: Schema = {}
  for (const keyword of Reflect.ownKeys(schema)) {
    const value = schema[keyword]
    if (OF_SCHEMAS.has(keyword)) copy[keyword] = copySchema(value, change)
    else if (OF_NAMED_SCHEMAS.has(keyword)) copy[keyword] = copyNamed(value as Schema, change)
    else copy[keyword] = value
  }
  change(copy)
  return copy as T
}

function copyNamed (schemas: Schema, change: (schema: Schema) => void): Schema {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, copySchema(schema, change)]))
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
