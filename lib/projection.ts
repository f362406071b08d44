/**
 * What a schema declares of a value, and nothing else: a copy without the properties that no part of the schema speaks of.
 * Of a union those members speak that the value fits. The value has been validated before.
 *
 * fast-json-stringify, with which Fastify does the like for responses, takes the first member of a union that fits and
 * leaves out what only another one declares; it writes constants, and strings of a format, without escaping them.
 */
import type { Place, References } from './references.ts'
import { isSchema, type Schema } from './schema.ts'

export type Fits = (value: unknown) => boolean

/** What one schema says of the parts of a value. */
class Declaration {
  /** Whether it speaks of properties at all. If no part of a schema does, all of an object is kept. */
  ofProperties = false
  readonly properties = new Map<string, Declaration>()
  readonly patterns: [RegExp, Declaration][] = []
  /** Of the properties that neither have a name here nor fit a pattern. */
  additional: Declaration | undefined
  /** Of the first elements of an array, one by one, and of those after them. */
  readonly elements: Declaration[] = []
  otherElements: Declaration | undefined
  /** What holds as well: `$ref`, `allOf`. */
  readonly also: Declaration[] = []
  /** What holds if the value fits: `anyOf`, `oneOf`, `if`, `dependencies`. */
  readonly perhaps: [Fits, Declaration][] = []
  /** Whether it is all that can hold of a value, and names all that it declares, as most schemas do. */
  isPlain = true

  /** The properties again, in two lists that are quicker to walk. */
  names: readonly string[] = []
  parts: readonly Declaration[] = []

  /** Called when all of the schema was read. */
  settle (): void {
    this.names = [...this.properties.keys()]
    this.parts = [...this.properties.values()]
    this.isPlain = this.also.length === 0 && this.perhaps.length === 0 && this.patterns.length === 0 &&
      this.elements.length === 0 && this.additional === undefined && !this.properties.has('__proto__')
  }
}

/** @param fitsAt gives the validator of the schema that Ajv knows by a reference */
export function createProjection (
  root: Place, references: References, fitsAt: (ref: string) => Fits
): (value: unknown) => unknown {
  const declaration = new Reader(references, fitsAt).read(root)
  return (value) => projectOne(declaration, value)
}

/** Reads schemas into declarations, each once: a recursive schema has a declaration that refers to itself. */
class Reader {
  readonly #references: References
  readonly #fitsAt: (ref: string) => Fits
  readonly #read = new Map<Schema, Declaration>()

  constructor (references: References, fitsAt: (ref: string) => Fits) {
    this.#references = references
    this.#fitsAt = fitsAt
  }

  read (place: Place): Declaration {
    const { schema } = place
    if (!isSchema(schema)) return new Declaration()
    let declaration = this.#read.get(schema)
    if (declaration === undefined) {
      this.#read.set(schema, declaration = new Declaration())
      this.#readObject(schema, place, declaration)
      this.#readArray(schema, place, declaration)
      this.#readOthers(schema, place, declaration)
      declaration.settle()
    }
    return declaration
  }

  #below (place: Place, ...path: (string | number)[]): Declaration {
    return this.read(this.#references.below(place, ...path))
  }

  #readObject (schema: Schema, place: Place, declaration: Declaration): void {
    for (const name of Object.keys(schema.properties ?? {})) {
      declaration.properties.set(name, this.#below(place, 'properties', name))
    }
    for (const pattern of Object.keys(schema.patternProperties ?? {})) {
      declaration.patterns.push([new RegExp(pattern, 'u'), this.#below(place, 'patternProperties', pattern)])
    }
    const { additionalProperties } = schema
    if (additionalProperties !== undefined && additionalProperties !== false) {
      declaration.additional = this.#below(place, 'additionalProperties')
    }
    declaration.ofProperties = ['properties', 'patternProperties', 'additionalProperties']
      .some((keyword) => schema[keyword] !== undefined)
  }

  #readArray (schema: Schema, place: Place, declaration: Declaration): void {
    const { items } = schema
    if (Array.isArray(items)) declaration.elements.push(...items.map((_, index) => this.#below(place, 'items', index)))
    else if (items !== undefined) declaration.otherElements = this.#below(place, 'items')
    if (isSchema(schema.additionalItems)) declaration.otherElements = this.#below(place, 'additionalItems')
  }

  #readOthers (schema: Schema, place: Place, { also, perhaps }: Declaration): void {
    if (typeof schema.$ref === 'string') {
      const target = this.#references.resolve(schema.$ref, place)
      if (target === undefined) throw new Error(`$ref '${schema.$ref}' is neither an $id nor a JSON Pointer that is known here`)
      also.push(this.read(target))
    }
    for (const [index] of asArray(schema.allOf).entries()) also.push(this.#below(place, 'allOf', index))
    for (const keyword of ['anyOf', 'oneOf']) {
      for (const [index] of asArray(schema[keyword]).entries()) {
        const member = this.#references.below(place, keyword, index)
        perhaps.push([this.#fitsAt(member.ref), this.read(member)])
      }
    }
    if (schema.if !== undefined) {
      const fits = this.#fitsAt(this.#references.below(place, 'if').ref)
      perhaps.push([fits, this.#below(place, 'if')], [fits, this.#below(place, 'then')])
      perhaps.push([(value) => !fits(value), this.#below(place, 'else')])
    }
    for (const name of Object.keys(schema.dependencies ?? {})) {
      perhaps.push([(value) => Object.hasOwn(value as object, name), this.#below(place, 'dependencies', name)])
    }
  }
}

function asArray (value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

/** The short way of `project`, for a plain declaration. What has nothing else, all through, is not copied. */
function projectOne (declaration: Declaration, value: unknown): unknown {
  if (!isStructured(value)) return value
  if (!declaration.isPlain) return project([declaration], value)
  if (Array.isArray(value)) return projectElements(declaration, value)
  return declaration.ofProperties ? projectProperties(declaration, value) : value
}

function projectProperties (declaration: Declaration, value: Record<string, unknown>): Record<string, unknown> {
  const { names, parts } = declaration
  let copy: Record<string, unknown> | undefined = isWhole(declaration, value) ? undefined : {}
  for (let at = 0; at < names.length; at++) {
    const name = names[at]!
    const part = value[name]
    if (part === undefined) continue
    const projected = projectOne(parts[at]!, part)
    if (copy === undefined && projected !== part) copy = firstOf(names, at, value)
    if (copy !== undefined) copy[name] = projected
  }
  return copy ?? value
}

function firstOf (names: readonly string[], count: number, value: Record<string, unknown>): Record<string, unknown> {
  const copy: Record<string, unknown> = {}
  for (const name of names.slice(0, count)) copy[name] = value[name]
  return copy
}

/**
 * Whether JSON has of an object just what is declared, in that order: it has nothing else, hides nothing of it, and inherits
 * nothing.
 */
function isWhole ({ names }: Declaration, value: Record<string, unknown>): boolean {
  const prototype = Object.getPrototypeOf(value)
  if ((prototype !== Object.prototype && prototype !== null) || typeof value.toJSON === 'function') return false
  let at = 0
  for (const name in value) {
    if (value[name] === undefined) continue
    while (at < names.length && names[at] !== name) if (value[names[at++]!] !== undefined) return false
    if (at++ === names.length) return false
  }
  while (at < names.length) if (value[names[at++]!] !== undefined) return false
  return true
}

function projectElements ({ otherElements }: Declaration, array: unknown[]): unknown[] {
  if (otherElements === undefined) return array
  const projected = array.map((element) => projectOne(otherElements, element))
  const isSame = typeof (array as { toJSON?: unknown }).toJSON !== 'function' && projected.every((element, at) => element === array[at])
  return isSame ? array : projected
}

function project (declarations: readonly Declaration[], value: unknown): unknown {
  if (!isStructured(value)) return value
  const holding: Declaration[] = []
  for (const declaration of declarations) collect(declaration, value, holding)
  if (Array.isArray(value)) return projectArray(holding, value)
  if (holding.every((declaration) => !declaration.ofProperties)) return value
  return projectObject(holding, value)
}

/** @throws TypeError of what JSON.stringify would leave out, or write as null, where the schema says that there is a value */
function isStructured (value: unknown): value is Record<string, unknown> {
  if (typeof value === 'function' || typeof value === 'symbol') throw new TypeError(`a ${typeof value} has no JSON`)
  return typeof value === 'object' && value !== null
}

/** All that holds of a value. */
function collect (declaration: Declaration, value: object, holding: Declaration[]): void {
  if (holding.includes(declaration)) return
  holding.push(declaration)
  for (const other of declaration.also) collect(other, value, holding)
  for (const [fits, other] of declaration.perhaps) if (fits(value)) collect(other, value, holding)
}

function projectArray (holding: Declaration[], array: unknown[]): unknown[] {
  return array.map((element, index) => {
    const ofElement = holding.map(({ elements, otherElements }) => elements[index] ?? otherElements)
    return project(ofElement.filter((declaration) => declaration !== undefined), element)
  })
}

function projectObject (holding: Declaration[], object: Record<string, unknown>): Record<string, unknown> {
  const copy: Record<string, unknown> = Object.create(null)
  const isOpen = holding.some(({ patterns, additional }) => patterns.length > 0 || additional !== undefined)
  const names = new Set(holding.flatMap(({ properties }) => [...properties.keys()]))
  if (isOpen) for (const name of Object.keys(object)) names.add(name)
  for (const name of names) {
    const value = object[name]
    if (value === undefined) continue
    const ofProperty = holding.flatMap((declaration) => declarationsOf(declaration, name))
    if (ofProperty.length > 0) copy[name] = project(ofProperty, value)
  }
  return copy
}

function declarationsOf ({ properties, patterns, additional }: Declaration, name: string): Declaration[] {
  const named = properties.get(name)
  const fitting = patterns.filter(([pattern]) => pattern.test(name)).map(([, declaration]) => declaration)
  if (named !== undefined) return [named, ...fitting]
  if (fitting.length > 0 || additional === undefined) return fitting
  return [additional]
}
