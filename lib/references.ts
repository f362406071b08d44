/** Where the schemas of one event type are, by `$ref`, by `$id` and by JSON Pointer (RFC 6901). */
import { isSchema, type Schema } from './schema.ts'

/** A schema, and the reference by which Ajv knows it. */
export interface Place {
  schema: unknown
  ref: string
  /** The schema with an `$id` that it stands in: what `#` means there. */
  resource: Place | undefined
}

export class References {
  readonly #resources = new Map<string, Place>()

  /** @param schemas by the key, or `$id`, under which Ajv has them */
  constructor (schemas: Record<string, Schema>) {
    for (const [key, schema] of Object.entries(schemas)) {
      const root: Place = { schema, ref: `${key}#`, resource: undefined }
      this.#resources.set(key, root)
      this.#findIds(schema, root)
    }
  }

  root (key: string): Place {
    return this.#resources.get(key)!
  }

  /** The schema below another one. */
  below (place: Place, ...path: (string | number)[]): Place {
    let { schema, ref, resource } = place
    for (const name of path) {
      if (isSchema(schema) && typeof schema.$id === 'string') resource = { schema, ref, resource: undefined }
      schema = (schema as Record<string | number, unknown> | undefined)?.[name]
      ref += '/' + encodeURIComponent(String(name).replaceAll('~', '~0').replaceAll('/', '~1'))
    }
    return { schema, ref, resource: resource ?? place }
  }

  /** The schema that a `$ref` at a place names; undefined where it names none by ID and pointer. */
  resolve ($ref: string, from: Place): Place | undefined {
    const [id = '', pointer = ''] = $ref.split('#')
    const start = id === '' ? this.#resourceOf(from) : this.#resources.get(id)
    if (start === undefined || (pointer !== '' && !pointer.startsWith('/'))) return undefined
    const path = pointer.split('/').slice(1).map((name) => decodeURIComponent(name).replaceAll('~1', '/').replaceAll('~0', '~'))
    const place = this.below(start, ...path)
    return place.schema === undefined ? undefined : place
  }

  #resourceOf (place: Place): Place {
    if (isSchema(place.schema) && typeof place.schema.$id === 'string') return place
    return place.resource ?? place
  }

  #findIds (value: unknown, place: Place): void {
    if (typeof value !== 'object' || value === null) return
    if (isSchema(value) && typeof value.$id === 'string') this.#resources.set(value.$id, place)
    for (const name of Object.keys(value)) this.#findIds((value as Schema)[name], this.below(place, name))
  }
}
